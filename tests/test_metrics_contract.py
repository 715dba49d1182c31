"""What the tester of torchmetrics checks of its own metrics, beside what `test_metrics` does."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchmetrics import Metric, MetricTracker
from torchmetrics.utilities.checks import check_forward_full_state_property
from torchmetrics.utilities.exceptions import TorchMetricsUserError

from flashmi_reg.metrics import InformationPlane, MutualInformation, SlicedMutualInformation


def draw(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x, noise = torch.randn(n, 2, generator=generator), torch.randn(n, 1, generator=generator)
    return x, 0.8 * x[:, :1] + 0.6 * noise


def draw_layers(n: int, seed: int = 0) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    x, y = draw(n, seed)
    return x, y, {"hidden": x + y}


MAKERS: dict[str, tuple[Callable[..., Any], Callable[..., tuple[Any, ...]]]] = {
    "mi": (MutualInformation, draw),
    "sliced": (lambda **kwargs: SlicedMutualInformation(k=1, n_slices=2, **kwargs), draw),
    "plane": (lambda **kwargs: InformationPlane(["hidden"], **kwargs), draw_layers),
}
every = pytest.mark.parametrize(("make", "draw"), list(MAKERS.values()), ids=list(MAKERS))


def values(result: Any) -> list[Tensor]:
    return list(result.values()) if isinstance(result, dict) else [result]


@every
def test_flags_of_the_class_are_constant(make: Callable[..., Metric], draw: Any) -> None:
    metric = make()
    for flag in ("is_differentiable", "higher_is_better", "full_state_update", "plot_lower_bound"):
        with pytest.raises(RuntimeError, match="Can't change const"):
            setattr(metric, flag, True)


@every
def test_flag_of_differentiability_is_kept(make: Callable[..., Metric], draw: Any) -> None:
    """No result and no state carries a gradient, and the inputs keep theirs."""
    metric = make()
    x, *rest = draw(120)
    x.requires_grad_()
    found = [*values(metric(x, *rest)), *values(metric.compute())]
    assert not any(value.requires_grad for value in found)
    assert not any(state.requires_grad for state in metric.metric_state.values())
    assert x.requires_grad
    assert x.grad is None


@every
def test_state_of_a_batch_is_enough_for_forward(
    make: Callable[..., Metric], draw: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """The library's own check of `full_state_update=False`: both ways give one value."""
    names = ("x", "y", "z")
    given = dict(zip(names, draw(120), strict=False))
    if "z" in given:

        class Plane(InformationPlane):
            def update(self, x: Tensor, y: Tensor, z: Tensor) -> None:  # it feeds tensors only
                super().update(x, y, {"hidden": z})

        given["z"] = given["z"]["hidden"]
        check_forward_full_state_property(
            Plane, {"layers": ["hidden"]}, given, num_update_to_compare=[2], reps=1
        )
    else:
        arguments = {} if make is MutualInformation else {"k": 1, "n_slices": 2}
        kind = MutualInformation if make is MutualInformation else SlicedMutualInformation
        check_forward_full_state_property(kind, arguments, given, num_update_to_compare=[2], reps=1)
    assert "Recommended setting `full_state_update=" in capsys.readouterr().out


@every
def test_arithmetic_tracking_and_caching(make: Callable[..., Metric], draw: Any) -> None:
    metric = make()
    metric.update(*draw(120))
    assert metric.compute() is metric.compute()  # kept until the next update
    assert metric.update_count == 1
    assert metric.update(*draw(80, 1)) is None
    if not isinstance(metric, InformationPlane):
        doubled = 2 * metric
        torch.testing.assert_close(doubled.compute(), 2 * metric.compute())
    tracker = MetricTracker(make(), maximize=True)
    for epoch in range(2):
        tracker.increment()
        tracker.update(*draw(120, epoch))
    assert tracker.n_steps == 2
    with pytest.raises(TorchMetricsUserError, match="already been un-synced"):
        metric.unsync()


COUNTS = (70, 90)


def _rank(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=len(COUNTS)
    )
    found = {}
    for name, (make, sample) in MAKERS.items():
        together, apart = make(dist_sync_on_step=True), make()
        steps = [[*values(metric(*sample(COUNTS[rank], rank)))] for metric in (together, apart)]
        found[name] = torch.tensor([[float(v) for v in step] for step in steps])
    torch.save(found, Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_values_of_a_step_are_of_all_ranks_where_asked_for(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = "fork" if "fork" in torch.multiprocessing.get_all_start_methods() else "spawn"
    torch.multiprocessing.start_processes(
        _rank, (port, str(tmp_path)), nprocs=len(COUNTS), start_method=start
    )
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(len(COUNTS))]
    for name, (make, sample) in MAKERS.items():
        whole = make()
        for rank, n in enumerate(COUNTS):
            whole.update(*sample(n, rank))
            alone = torch.tensor([float(v) for v in values(make()(*sample(n, rank)))])
            torch.testing.assert_close(ranks[rank][name][1], alone, atol=1e-5, rtol=0)
        expected = torch.tensor([float(v) for v in values(whole.compute())])
        for found in ranks:
            torch.testing.assert_close(found[name][0], expected, atol=1e-5, rtol=0)
