"""The metrics, held to what torchmetrics asks of its own, and to known answers."""

from __future__ import annotations

import copy
import math
import pickle
import socket
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

import flashmi_reg
from flashmi_reg import FlashMI, mutual_information
from flashmi_reg.errors import InputError, SupportWarning
from flashmi_reg.metrics import InformationPlane, MutualInformation, SlicedMutualInformation

mpl.use("Agg")


def gaussian(squared_correlation: float) -> float:
    return -0.5 * math.log(1 - squared_correlation)


TRUTH = gaussian(0.64)  # of x and y below


def batch(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """x (n, 2), y (n, 1) with I(x; y) = 0.51 nats."""
    generator = torch.Generator().manual_seed(seed)
    x, noise = torch.randn(n, 2, generator=generator), torch.randn(n, 1, generator=generator)
    return x, 0.8 * x[:, :1] + 0.6 * noise


def plane_batch(n: int, seed: int = 0) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    x, y = batch(n, seed)
    generator = torch.Generator().manual_seed(seed + 1000)
    noise = torch.randn(n, 2, generator=generator)
    return x, y, {"hidden": x + 0.5 * noise, "last": x[:, :1] + 0.3 * noise[:, :1]}


MAKERS: dict[str, tuple[Callable[..., Any], Callable[..., tuple[Any, ...]]]] = {
    "mi": (MutualInformation, batch),
    "sliced": (lambda **kwargs: SlicedMutualInformation(k=1, n_slices=2, **kwargs), batch),
    "plane": (lambda **kwargs: InformationPlane(["hidden", "last"], **kwargs), plane_batch),
}
every = pytest.mark.parametrize(("make", "draw"), list(MAKERS.values()), ids=list(MAKERS))


def numbers(result: Any) -> list[float]:
    values = result.values() if isinstance(result, dict) else [result]
    return [float(value) for value in values]


def assert_same(first: Any, second: Any, tolerance: float = 1e-5) -> None:
    assert numbers(first) == pytest.approx(numbers(second), abs=tolerance)


@every
def test_contract(make: Callable[..., Metric], draw: Callable[..., Any]) -> None:
    """Flags, hash, empty state_dict, no parameters, pickle, clone, reset, repeated compute."""
    metric = make()
    assert metric.is_differentiable is False
    assert metric.higher_is_better is None
    assert metric.full_state_update is False
    assert metric.plot_lower_bound == 0
    assert not metric.state_dict()
    assert not list(metric.parameters())
    assert not list(metric.modules())[1:]
    before = hash(metric)
    metric.update(*draw(120))
    assert hash(metric) != before
    assert hash(metric) != hash(make())
    result = metric.compute()
    states = {name: state.clone() for name, state in metric.metric_state.items()}
    metric._computed = None
    assert_same(metric.compute(), result, 0)  # pure: equal again, and nothing was touched
    assert all(torch.equal(state, states[name]) for name, state in metric.metric_state.items())
    for other in (metric.clone(), copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))):
        assert_same(other.compute(), result, 0)
        assert other._model is metric._model
        other.update(*draw(80, seed=1))
        assert int(other.seen) == 200
        assert int(metric.seen) == 120
    metric.reset()
    assert not metric.update_called
    assert metric.rows.numel() == 0
    metric.update(*draw(120))
    assert_same(metric.compute(), result)


@every
def test_batches_give_the_estimate_of_their_total(
    make: Callable[..., Metric], draw: Callable[..., Any]
) -> None:
    """`forward` returns that of each batch, `compute` that of all, as if they came at once."""
    metric, whole = make(), make()
    values = [metric(*draw(n, seed=n)) for n in (60, 90, 70)]
    parts = [draw(n, seed=n) for n in (60, 90, 70)]
    for value, part in zip(values, parts, strict=True):
        alone = make()
        alone.update(*part)
        assert_same(value, alone.compute())
    assert int(metric.seen) == 220
    whole.update(*_joined(parts))
    assert_same(metric.compute(), whole.compute())


def _joined(parts: list[Any]) -> list[Any]:
    joined = [torch.cat(side) for side in zip(*(part[:2] for part in parts), strict=True)]
    if len(parts[0]) == 3:
        joined.append({z: torch.cat([part[2][z] for part in parts]) for z in parts[0][2]})
    return joined


def test_agrees_with_the_function_and_with_the_truth() -> None:
    metric = MutualInformation()
    x, y = batch(1000)
    for rows in torch.arange(1000).split(64):
        metric.update(x[rows], y[rows])
    assert_same(metric.compute(), mutual_information(x, y))
    assert float(metric.compute()) == pytest.approx(TRUTH, abs=0.08)
    assert metric.compute().dtype == torch.float32


def test_memory_is_bounded_and_the_estimate_stays_right() -> None:
    metric = MutualInformation(capacity=500)
    for seed in range(20):
        metric.update(*batch(250, seed))
    assert metric.rows.shape == (500, 4)
    assert int(metric.seen) == 5000
    assert float(metric.compute()) == pytest.approx(TRUTH, abs=0.12)


def test_plane_tells_layers_apart() -> None:
    plane = InformationPlane(["hidden", "last"])
    plane.update(*plane_batch(600))
    found = plane.compute()
    assert list(found) == ["hidden/mi_xz", "hidden/mi_zy", "last/mi_xz", "last/mi_zy"]
    truths = [
        2 * gaussian(1 / 1.25),
        gaussian(0.64 / 1.25),
        gaussian(1 / 1.09),
        gaussian(0.64 / 1.09),
    ]
    assert numbers(found) == pytest.approx(truths, abs=0.15)
    assert found["hidden/mi_zy"] < found["last/mi_zy"]  # more noise was added


def test_labels_take_their_own_path() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (600,), generator=generator)
    z = 2 * torch.nn.functional.one_hot(labels, 3) + torch.randn(600, 3, generator=generator)
    from flashmi_reg.labels import label_mutual_information

    truth = label_mutual_information(z, labels)
    for sides in ((z, labels), (labels, z), (z, labels[:, None])):
        metric = MutualInformation()
        metric.update(*sides)
        assert_same(metric.compute(), truth, 1e-3)
    assert 0.3 < float(truth) < math.log(3) + 1e-6


@pytest.mark.parametrize("make", [MutualInformation, SlicedMutualInformation])
def test_two_labels_are_counted(make: Callable[[], Metric]) -> None:
    labels = torch.arange(600) % 3
    metric = make()
    metric.update(labels, labels)
    assert metric.compute().item() == pytest.approx(math.log(3), abs=5e-3)


def test_wide_layers_are_sliced_and_named_so() -> None:
    plane = InformationPlane(["wide"], k=2, n_slices=2)
    x, y = batch(100)
    plane.update(x, y, {"wide": torch.cat([x, torch.randn(100, 70)], 1)})
    assert list(plane.compute()) == ["wide/sliced_mi_xz", "wide/sliced_mi_zy"]
    with pytest.warns(SupportWarning):  # names do not change on a batch too small
        short = plane(x[:5], y[:5], {"wide": torch.zeros(5, 72)})
    assert list(short) == ["wide/sliced_mi_xz", "wide/sliced_mi_zy"]
    wide = MutualInformation()
    wide.update(torch.randn(100, 72), y)
    with pytest.raises(InputError, match="72 coordinates"):
        wide.compute()


def test_layers_of_middling_width_are_truncated_from_enough_samples() -> None:
    plane = InformationPlane(["wide"])
    x, y = batch(200)
    needed = 3 * (32 + max(x.shape[1], y.shape[-1] if y.ndim > 1 else 1))
    with pytest.warns(SupportWarning, match=f"needs {needed}"):
        few = plane(x[:60], y[:60], {"wide": torch.randn(60, 32)})
    assert few["wide/mi_xz"].isnan()
    noise = torch.randn(140, 32 - x.shape[1], generator=torch.Generator().manual_seed(0))
    plane.update(x[60:], y[60:], {"wide": torch.cat([x[60:], noise], 1)})
    assert plane.compute()["wide/mi_xz"].isfinite()


def test_wide_layers_with_labels() -> None:
    labels = torch.arange(150) % 3
    z = torch.randn(150, 100) + 3 * labels[:, None]
    plane = InformationPlane(["wide"], k=2, n_slices=2)
    plane.update(z[:, :2], labels, {"wide": z})
    found = plane.compute()
    assert list(found) == ["wide/sliced_mi_xz", "wide/sliced_mi_zy"]
    assert 0.1 < float(found["wide/sliced_mi_zy"]) < math.log(3) + 1e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_precision(dtype: torch.dtype) -> None:
    x, y = batch(300)
    metric = MutualInformation()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # rounding makes ties
        metric.update(x.to(dtype), y.to(dtype))
        assert_same(metric.compute(), mutual_information(x, y), 0.05)


def test_casting_a_model_leaves_the_rows() -> None:
    metric = MutualInformation()
    metric.update(*batch(60))
    rows = metric.rows.clone()
    module = torch.nn.ModuleList([metric])
    module.half()
    metric.set_dtype(torch.float16)
    assert metric.rows.dtype == torch.float64
    assert torch.equal(metric.rows, rows)


def test_collection_shares_one_sample() -> None:
    metrics = MetricCollection(
        {
            "mi": MutualInformation(),
            "sliced": SlicedMutualInformation(k=1, n_slices=2),
            "small": MutualInformation(capacity=60),
        }
    )
    for seed in range(3):
        metrics.update(*batch(80, seed))
    assert [sorted(group) for group in metrics.compute_groups.values()] == [
        ["mi", "sliced"],
        ["small"],
    ]
    found = metrics.compute()
    assert set(found) == {"mi", "sliced", "small"}
    alone = MutualInformation()
    for seed in range(3):
        alone.update(*batch(80, seed))
    assert_same(found["mi"], alone.compute())
    assert len(metrics["small"].rows) == 60
    metrics.reset()
    assert_same(metrics(*batch(80))["mi"], mutual_information(*batch(80)))


def test_metrics_merge() -> None:
    first, second, whole = MutualInformation(), MutualInformation(), MutualInformation()
    first.update(*batch(150, 0))
    second.update(*batch(50, 1))
    whole.update(*_joined([batch(150, 0), batch(50, 1)]))
    first.merge_state(second)
    assert int(first.seen) == 200
    assert_same(first.compute(), whole.compute())
    other = MutualInformation()
    other.update(batch(50)[1], batch(50)[0])
    with pytest.raises(InputError, match="different variables"):
        first.merge_state(other)


def test_states_can_be_saved() -> None:
    metric = MutualInformation()
    metric.update(*batch(100))
    metric.persistent(True)
    restored = MutualInformation()
    restored.persistent(True)
    restored.load_state_dict(metric.state_dict())
    restored.update(*batch(10, 1))
    assert int(restored.seen) == 110
    restored.compute()


@every
def test_plots(make: Callable[..., Metric], draw: Callable[..., Any]) -> None:
    from matplotlib import pyplot

    metric = make()
    values = [metric(*draw(100, seed)) for seed in range(2)]
    figure, axes = metric.plot()
    assert figure is not None
    assert axes.lines
    figure, axes = metric.plot(values, ax=axes)
    assert figure is None
    pyplot.close("all")


def test_negative_estimates_are_in_the_plot() -> None:
    from matplotlib import pyplot

    _, axes = MutualInformation().plot([torch.tensor(-0.02), torch.tensor(-0.03)])
    bottom, top = axes.get_ylim()
    assert bottom < -0.03
    assert top > 0
    pyplot.close("all")


def test_few_samples() -> None:
    """A clear error on all of them, and no error on a last, short batch of an epoch."""
    metric = MutualInformation()
    with pytest.warns(SupportWarning, match="too small"):
        value = metric(*batch(20))
    assert value.isnan()
    with pytest.raises(InputError, match=r"n = 20 samples.*update"):
        metric.compute()
    for seed in range(1, 4):
        with pytest.warns(SupportWarning):
            metric(*batch(20, seed))
    assert metric.compute().isfinite()
    with pytest.warns(UserWarning, match="before"), pytest.raises(InputError, match="n = 0"):
        MutualInformation().compute()
    small = MutualInformation(capacity=10)
    small.update(*batch(100))
    with pytest.raises(InputError, match="raise `capacity`"):
        small.compute()


def test_bad_input_is_named() -> None:
    x, y = batch(60)
    metric = MutualInformation()
    metric.update(x, y)
    spoilt = x.clone()
    spoilt[3, 1] = torch.nan
    with pytest.raises(InputError, match="`x` holds 1 NaN"):
        metric.update(spoilt, y)
    with pytest.raises(InputError, match="earlier batches"):
        metric.update(y, y)
    with pytest.raises(InputError, match="`y` must pair up"):
        metric.update(x, y[:10])
    with pytest.raises(InputError, match="`x` must be a torch"):
        metric.update([1.0], y)
    with pytest.raises(InputError, match=r"`x` is on meta.*metric.to"):
        metric.update(x.to("meta"), y)
    assert int(metric.seen) == 60
    with pytest.raises(InputError, match="lacks"):
        InformationPlane(["hidden", "head"]).update(x, y, {"hidden": x})
    for layers in ([], "hidden", ["a", "a"]):
        with pytest.raises(InputError, match="`layers`"):
            InformationPlane(layers)
    with pytest.raises(InputError, match="`capacity`"):
        MutualInformation(capacity=0)
    with pytest.raises(InputError, match="`n_slices`"):
        SlicedMutualInformation(n_slices=0)
    with pytest.raises(InputError, match="`k`"):
        InformationPlane(["hidden"], k=11)


def test_the_network_is_shared_and_the_global_generator_untouched() -> None:
    before = torch.get_rng_state()
    first, second = MutualInformation(), SlicedMutualInformation()
    assert first._model is second._model is FlashMI.from_pretrained("base")
    first.update(*batch(60))
    first.compute()
    assert torch.equal(torch.get_rng_state(), before)


COUNTS = ([90, 40], [50], [])  # batches of each rank: uneven, and one rank without any


def _rank(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    torch.distributed.init_process_group("gloo", address, rank=rank, world_size=len(COUNTS))
    result = {}
    for name, capacity in (("all", 2048), ("some", 100)):
        metric, plane = MutualInformation(capacity), InformationPlane(["hidden", "last"])
        for n in COUNTS[rank]:
            metric.update(*batch(n, seed=n))
            plane.update(*plane_batch(n, seed=n))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torchmetrics on the rank without rows
            result[name] = [*numbers(metric.compute()), *numbers(plane.compute())]
        metric.sync()
        result[f"{name} rows"] = metric.rows
        metric.unsync()
        assert int(metric.seen) == sum(COUNTS[rank])  # local again
    torch.save(result, Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_uneven_ranks_equal_one_process(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Forked, a rank has everything imported; it must stay on one thread.
    start = "fork" if "fork" in torch.multiprocessing.get_all_start_methods() else "spawn"
    arguments = (port, str(tmp_path))
    torch.multiprocessing.start_processes(_rank, arguments, nprocs=len(COUNTS), start_method=start)
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(len(COUNTS))]
    metric, plane = MutualInformation(), InformationPlane(["hidden", "last"])
    for n in (n for counts in COUNTS for n in counts):
        metric.update(*batch(n, seed=n))
        plane.update(*plane_batch(n, seed=n))
    whole = [*numbers(metric.compute()), *numbers(plane.compute())]
    given = {tuple(row.tolist()) for row in metric.rows[:, 1:]}
    for found in ranks:
        assert found["all"] == pytest.approx(whole, abs=1e-5)
        assert found["some"] == ranks[0]["some"]
        assert torch.equal(found["some rows"], ranks[0]["some rows"])
        assert len(found["some rows"]) == 100
        kept = {tuple(row.tolist()) for row in found["some rows"][:, 1:]}
        assert len(kept) == 100
        assert kept <= given


@pytest.mark.parametrize("kind", ["MutualInformation", "SlicedMutualInformation"])
def test_weights_are_those_asked_for(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 7, generator=generator)
    y = x + torch.randn(300, 7, generator=generator)
    found = {}
    for weights in ("base", "small"):
        metric = getattr(flashmi_reg, kind)(weights=weights)
        metric.update(x, y)
        found[weights] = metric.compute()
    assert found["base"] != found["small"]
