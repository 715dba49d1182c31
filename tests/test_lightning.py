"""The information plane in Lightning: the contract of a callback."""

from __future__ import annotations

import copy
import csv
import importlib
import json
import math
import pickle
import runpy
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

pytest.importorskip("lightning")

from lightning.pytorch import LightningModule, Trainer

from flashmi_reg import FlashMI
from flashmi_reg.errors import CheckpointError, InputError, MissingExtraError, SupportWarning
from flashmi_reg.integrations import lightning as lightning_module
from flashmi_reg.integrations import recorder as recorder_module
from flashmi_reg.integrations.information_plane import Measurement, Point
from flashmi_reg.integrations.lightning import InformationPlaneCallback
from flashmi_reg.integrations.plane_plot import draw_plane
from flashmi_reg.integrations.recorder import BUDGET, Recorder

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning", "ignore::FutureWarning")


def make_module(base: type = LightningModule, fail_at: int | None = None) -> Any:
    class Module(base):  # type: ignore[misc,valid-type]
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(4, 12), nn.Tanh(), nn.Linear(12, 2), nn.Tanh())
            self.head = nn.Linear(2, 2)
            self.unused = nn.Linear(2, 2)

        def training_step(self, batch: Any, index: int) -> Tensor:
            if fail_at is not None and index == fail_at:
                self.net(batch[0])
                raise RuntimeError("on purpose")
            return F.cross_entropy(self.head(self.net(batch[0])), batch[1])

        def validation_step(self, batch: Any, index: int) -> None:
            self.head(self.net(batch[0]))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), 1e-2)

    return Module()


def loader(n: int = 256, batch: int = 32) -> DataLoader:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (n,), generator=generator)
    x = torch.randn(n, 4, generator=generator) + 2 * labels[:, None]
    return DataLoader(TensorDataset(x, labels), batch)


def make_trainer(folder: Path, *callbacks: Any, **options: Any) -> Trainer:
    usual: dict[str, Any] = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": folder,
    }
    return Trainer(callbacks=list(callbacks), **(usual | options))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor]]:
    """Puts a cheap function of all rows in the place of the estimates, and keeps what it saw."""
    seen: list[tuple[Tensor, Tensor]] = []

    def stand_in(x: Tensor, y: Tensor, **_: Any) -> Measurement:
        seen.append((x, y))
        weight = torch.arange(1.0, len(x) + 1)
        value = weight @ x.mean(1) / len(x) + y.float().mean()
        return Measurement(float(0.1 * value.sin()), "quick")

    monkeypatch.setattr(recorder_module, "measure", stand_in)
    return seen


def plane(*layers: str, **options: Any) -> InformationPlaneCallback:
    usual: dict[str, Any] = {"every_n_epochs": 1, "n_samples": 128, "figure": False}
    return InformationPlaneCallback(layers or ["net.1"], **(usual | options))


def names(found: InformationPlaneCallback) -> list[str]:
    return [point.name for point in found.points]


def hooks_of(module: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


@pytest.mark.parametrize("framework", ["lightning.pytorch", "pytorch_lightning"])
def test_both_packages_in_one_process(framework: str, tmp_path: Path) -> None:
    """The real estimates, of a layer of two coordinates and of one that is truncated."""
    package = pytest.importorskip(framework)
    watcher = plane("net.1", "net.3", every_n_epochs=2, n_slices=1, figure=True)
    trainer = package.Trainer(
        max_epochs=2,
        callbacks=[watcher],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(make_module(package.LightningModule), loader(), loader(128))
    assert isinstance(watcher, package.Callback)
    paths = ["net.1/I_xz_truncated", "net.1/I_zy_labels"]
    paths += ["net.3/I_xz_native", "net.3/I_zy_labels"]
    assert names(watcher) == [f"{split}/{path}" for split in ("val", "train") for path in paths]
    logged = trainer.callback_metrics
    for point in watcher.points:
        assert float(logged[f"information_plane/{point.name}"]) == pytest.approx(point.value)
        assert point.n == 128
        assert point.value > 0
        # Without noise, what a layer tells of its input is infinite.
        assert point.value < 6 or point.path == "truncated"
        if point.quantity == "I_zy":
            assert point.value <= point.ceiling == pytest.approx(math.log(2), abs=0.05)
    assert float(logged["information_plane/overhead"]) > 0
    assert float(logged["information_plane/val/H_y"]) == pytest.approx(watcher.points[1].ceiling)
    assert (tmp_path / "information_plane.png").read_bytes().startswith(b"\x89PNG")


def test_rows_are_those_of_the_loaders_and_pair_up(quick: list, tmp_path: Path) -> None:
    module, watcher = make_module(), plane("net.3", n_samples=64)
    rows = loader()
    make_trainer(tmp_path, watcher, max_epochs=1).fit(module, rows, rows)
    x, z = quick[0]  # on validation data, whose weights are those at the end
    data, labels = rows.dataset.tensors
    place = [(data == row).all(1).nonzero()[0, 0] for row in x]
    assert len({int(i) for i in place}) == 64
    with torch.no_grad():
        torch.testing.assert_close(z, module.net(x))
    assert torch.equal(quick[1][1], labels[place])


def test_values_are_the_same_rows_at_every_epoch(quick: list, tmp_path: Path) -> None:
    make_trainer(tmp_path, plane(), max_epochs=3).fit(make_module(), loader(), loader())
    assert torch.equal(quick[0][0], quick[4][0])
    assert not torch.equal(quick[0][1], quick[4][1])  # the weights have changed


def test_training_is_not_disturbed(quick: list, tmp_path: Path) -> None:
    """Same weights, same global generator, with and without the callback."""
    ends = []
    for callbacks in ([], [plane("net.*")]):
        module = make_module()
        torch.manual_seed(7)
        make_trainer(tmp_path, *callbacks).fit(module, loader(), loader())
        ends.append([*module.parameters(), torch.random.get_rng_state()])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_two_instances_side_by_side(quick: list, tmp_path: Path) -> None:
    one, two = plane("net.1"), plane("net.3", prefix="other", every_n_epochs=2)
    assert one.state_key != two.state_key
    assert one.state_key != plane("net.3").state_key
    trainer = make_trainer(tmp_path, one, two)
    trainer.fit(make_module(), loader(), loader())
    assert len(one.points) == 8
    assert len(two.points) == 4
    logged = trainer.callback_metrics
    assert {"information_plane/train/net.1/I_xz_quick", "other/val/net.3/I_zy_quick"} <= {*logged}

    with pytest.raises(InputError, match="`prefix`"):
        make_trainer(tmp_path, plane("net.1"), plane("net.3")).fit(make_module(), loader())


def test_resumes_from_a_checkpoint(quick: list, tmp_path: Path) -> None:
    whole = plane()
    make_trainer(tmp_path, whole, max_epochs=3).fit(make_module(), loader(), loader())

    first = make_trainer(tmp_path, plane(), max_epochs=2)
    first.fit(make_module(), loader(), loader())
    first.save_checkpoint(tmp_path / "at2.ckpt")
    again = plane()
    second = make_trainer(tmp_path, again, max_epochs=3)
    second.fit(make_module(), loader(), loader(), ckpt_path=tmp_path / "at2.ckpt")
    assert [point.name for point in again.points] == names(whole)
    for found, expected in zip(again.points, whole.points, strict=True):
        assert found.value == pytest.approx(expected.value, abs=1e-6)
        assert (found.epoch, found.step) == (expected.epoch, expected.step)
    assert again.overhead > 0


def test_copies_are_whole(quick: list, tmp_path: Path) -> None:
    """Spawned processes get the callback pickled, before it is used."""
    watcher = plane("net.1")
    make_trainer(tmp_path, watcher, max_epochs=1).fit(make_module(), loader())
    fresh = plane("net.1")
    fresh.load_state_dict(watcher.state_dict())
    for other in (pickle.loads(pickle.dumps(fresh)), copy.deepcopy(fresh)):
        assert other.points == watcher.points
        assert other.state_key == watcher.state_key


def test_weights_are_those_named(
    other_weights: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = []

    def stand_in(x: Tensor, y: Tensor, *, model: FlashMI, **_: Any) -> Measurement:
        asked.append(model.header.steps)
        return Measurement(0.0, "quick")

    monkeypatch.setattr(recorder_module, "measure", stand_in)
    watcher = plane(weights=other_weights)
    copies = [pickle.loads(pickle.dumps(watcher)), copy.deepcopy(watcher)]
    make_trainer(tmp_path, watcher, max_epochs=1).fit(make_module(), loader())
    for other in copies:
        make_trainer(tmp_path, other, max_epochs=1).fit(make_module(), loader())
    assert asked == [123] * 6
    with pytest.raises(CheckpointError, match="'none of ours' is neither a packaged name"):
        plane(weights="none of ours")


def test_cadence_in_steps_reaches_the_logger(quick: list, tmp_path: Path) -> None:
    from lightning.pytorch.loggers import CSVLogger

    watcher = plane(every_n_epochs=None, every_n_steps=4)
    trainer = make_trainer(
        tmp_path, watcher, logger=CSVLogger(tmp_path), log_every_n_steps=2, max_epochs=2
    )
    trainer.fit(make_module(), loader(), loader())  # 8 steps an epoch
    steps = [p.step for p in watcher.points if p.split == "train" and p.quantity == "I_xz"]
    assert steps == [4, 8, 12, 16]
    name = "information_plane/train/net.1/I_xz_quick"
    with Path(trainer.log_dir, "metrics.csv").open() as file:
        rows = [(int(r["step"]), float(r[name])) for r in csv.DictReader(file) if r[name]]
    for point in watcher.points:
        if f"information_plane/{point.name}" == name:
            assert (point.step - 1, pytest.approx(point.value)) in rows

    with pytest.raises(InputError, match="`every_n_steps`=3"):
        make_trainer(
            tmp_path,
            plane(every_n_epochs=None, every_n_steps=3),
            logger=CSVLogger(tmp_path),
            log_every_n_steps=2,
        ).fit(make_module(), loader())


def test_accumulated_gradients_count_as_one_step(quick: list, tmp_path: Path) -> None:
    watcher = plane(every_n_epochs=None, every_n_steps=2)
    make_trainer(tmp_path, watcher, accumulate_grad_batches=2, max_epochs=1).fit(
        make_module(), loader()
    )
    assert [p.step for p in watcher.points if p.quantity == "I_xz"] == [2, 4]


def test_several_validation_loaders_are_kept_apart(quick: list, tmp_path: Path) -> None:
    watcher = plane()

    module = make_module()
    step = type(module).validation_step
    type(module).validation_step = lambda self, batch, index, dataloader_idx=0: step(
        self, batch, index
    )
    make_trainer(tmp_path, watcher, max_epochs=1).fit(module, loader(), [loader(64), loader(96)])
    found = {p.split: p.n for p in watcher.points}
    assert found == {"val0": 64, "val1": 96, "train": 128}


def test_hooks_are_gone_after_errors(quick: list, tmp_path: Path) -> None:
    module = make_module(fail_at=3)
    with pytest.raises(RuntimeError, match="on purpose"):
        make_trainer(tmp_path, plane("net.*")).fit(module, loader(), loader())
    assert hooks_of(module) == 0
    module = make_module()
    make_trainer(tmp_path, plane("net.*")).fit(module, loader(), loader())
    assert hooks_of(module) == 0


def test_a_function_of_the_batch(quick: list, tmp_path: Path) -> None:
    def layers(module: Any, batch: Any) -> dict[str, Tensor]:
        return {"twice": 2 * module.net(batch[0])}

    module = make_module()
    watcher = InformationPlaneCallback(
        layers, every_n_epochs=1, n_samples=64, figure=False, pool=lambda z: z[:, :1]
    )
    make_trainer(tmp_path, watcher, max_epochs=1).fit(module, loader(), loader())
    x, z = quick[0]
    with torch.no_grad():
        torch.testing.assert_close(z, 2 * module.net(x)[:, :1])


def test_batches_of_another_form(quick: list, tmp_path: Path) -> None:
    batches = [{"image": x, "label": y} for x, y in loader()]
    rows = DataLoader(batches, batch_size=None)

    class Module(type(make_module())):  # type: ignore[misc]
        def training_step(self, batch: Any, index: int) -> Tensor:
            return self.net(batch["image"]).mean()

    watcher = plane(inputs=lambda batch: (batch["image"], None))
    make_trainer(tmp_path, watcher, max_epochs=1).fit(Module(), rows)
    assert names(watcher) == ["train/net.1/I_xz_quick"]
    with pytest.raises(InputError, match="`inputs=`"):
        make_trainer(tmp_path, plane(), max_epochs=1).fit(Module(), rows)


def test_layers_are_checked_before_training(tmp_path: Path) -> None:
    class Untouched(type(make_module())):  # type: ignore[misc]
        def configure_optimizers(self) -> None:
            raise AssertionError("too late")

    with pytest.raises(InputError, match=r"'net\.9'"):
        make_trainer(tmp_path, plane("net.9")).fit(Untouched(), loader())


def test_layers_may_be_built_late(quick: list, tmp_path: Path) -> None:
    class Late(type(make_module())):  # type: ignore[misc]
        def configure_model(self) -> None:
            self.net.add_module("late", nn.Identity())

    watcher = plane("net.late")
    make_trainer(tmp_path, watcher, max_epochs=1).fit(Late(), loader())
    assert len(watcher.points) == 2


def test_layers_that_are_never_called_are_named(quick: list, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'unused'.*did not call"):
        make_trainer(tmp_path, plane("net.1", "unused")).fit(make_module(), loader())


def test_absent_frameworks_name_their_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(lightning_module, "import_module", absent)
    with pytest.raises(MissingExtraError, match=r"flashmi_reg\[lightning\]"):
        lightning_module._callback_base()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match="`figure=False`"):
        plane(figure=True)
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(sys.modules, "flashmi_reg.integrations.transformers", raising=False)
    with pytest.raises(MissingExtraError, match=r"flashmi_reg\[transformers\]"):
        importlib.import_module("flashmi_reg.integrations.transformers")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("layers", {"layers": []}),
        ("layers", {"layers": [3]}),
        ("every_n_epochs", {"every_n_epochs": 0}),
        ("every_n_steps", {"every_n_epochs": 1, "every_n_steps": 1}),
        ("n_samples", {"n_samples": 3}),
        ("n_slices", {"n_slices": 0}),
        ("prefix", {"prefix": ""}),
    ],
)
def test_arguments_are_checked(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"`{name}`"):
        InformationPlaneCallback(**({"layers": "net"} | options))


# --- cadence by budget ----------------------------------------------------------------------


def test_default_cadence_keeps_to_the_budget(
    quick: list, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With a clock of our own: an epoch takes 10 s, a value 1 s."""
    now = [0.0]
    monkeypatch.setattr(recorder_module.time, "perf_counter", lambda: now[0])
    cheap = recorder_module.measure

    def slow(*args: Any, **options: Any) -> Measurement:
        now[0] += 1
        return cheap(*args, **options)

    monkeypatch.setattr(recorder_module, "measure", slow)

    class Module(type(make_module())):  # type: ignore[misc]
        def on_train_epoch_start(self) -> None:
            now[0] += 10

    watcher = plane(every_n_epochs=None, n_slices=1)
    make_trainer(tmp_path, watcher, max_epochs=60).fit(Module(), loader(64), loader(64))
    epochs = sorted({p.epoch for p in watcher.points})
    assert 5 <= len(epochs) <= 8  # 600 s of training pay for 30 values, a point has four
    assert 0.6 * BUDGET < watcher.overhead <= BUDGET


def test_run_too_short_to_pay_for_a_point_says_so(quick: list, tmp_path: Path) -> None:
    watcher = plane(every_n_epochs=None, figure=True)
    with pytest.warns(UserWarning, match="set `every_n_epochs`"):
        make_trainer(tmp_path, watcher).fit(make_module(), loader())
    assert watcher.points == ()
    assert not quick
    assert not list(tmp_path.glob("*.png"))


# --- values that cannot be or mislead -------------------------------------------------------


def offered(recorder: Recorder, x: Tensor, y: Tensor | None, z: Tensor) -> list[Point]:
    rows = recorder.offer("train", len(x))
    recorder.put("train", rows, x, y, {"z": z[rows]})
    return recorder.take("train", epoch=0, step=0)


def test_what_cannot_be_estimated_is_nan_and_said_once() -> None:
    recorder = Recorder(n_samples=100)
    x, z = torch.randn(100, 2), torch.full((100, 2), math.nan)
    with pytest.warns(SupportWarning, match=r"I\(x; z\) of 'z' could not be estimated.*NaN"):
        (point,) = offered(recorder, x, None, z)
    assert math.isnan(point.value)
    assert point.path == "none"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        offered(recorder, x, None, z)


def test_values_above_the_entropy_of_labels_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "measure", lambda *_, **__: Measurement(2.0, "labels"))
    y = torch.arange(100) % 2
    with pytest.warns(SupportWarning, match="above the entropy of the labels, 0.693"):
        points = offered(Recorder(n_samples=100), torch.randn(100, 2), y, torch.randn(100, 2))
    assert points[1].value == 2.0  # not clamped


def test_doubts_of_estimates_are_passed_on() -> None:
    z = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
    z[:, 1] = 0
    with pytest.warns(SupportWarning, match=r"'z': `y` is constant in column"):
        offered(Recorder(n_samples=100), torch.randn(100, 2), None, z)


# --- the figure -----------------------------------------------------------------------------


@pytest.mark.parametrize("targets", [True, False])
def test_figure_of_any_points(targets: bool, tmp_path: Path) -> None:
    points = [
        Point(split, layer, quantity, "native", 0.1 * epoch, epoch, epoch, 9, ceiling)
        for epoch in range(4)
        for split in ("train", "val")
        for layer in ("a", "b")
        for quantity, ceiling in (("I_xz", None), ("I_zy", 1.0))
        if targets or quantity == "I_xz"
    ]
    assert draw_plane(points, tmp_path / "new" / "a.png").stat().st_size > 10_000
    assert draw_plane(points[:1], tmp_path / "one.png").is_file()
    nothing = Point("val", "a", "I_xz", "none", math.nan, 0, 0, 9)
    assert draw_plane([nothing], tmp_path / "none.png").is_file()


# --- several processes, and the example -----------------------------------------------------

DDP = """
    import json, sys, torch
    from lightning.pytorch import LightningModule, Trainer
    from torch import nn
    from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
    from flashmi_reg.integrations.lightning import InformationPlaneCallback

    class Module(LightningModule):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(3, 12), nn.Tanh(), nn.Linear(12, 2), nn.Tanh())
            self.head = nn.Linear(2, 2)
        def training_step(self, batch, index):
            return nn.functional.cross_entropy(self.head(self.net(batch[0])), batch[1])
        validation_step = training_step
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)
        def val_dataloader(self):
            world = self.trainer.world_size
            order = DistributedSampler(data, world, self.global_rank, shuffle=False)
            return DataLoader(data, 48 // world, sampler=order)
        train_dataloader = val_dataloader  # Lightning would shuffle it on two ranks, not on one

    g = torch.Generator().manual_seed(0)
    y = torch.randint(2, (240,), generator=g)
    data = TensorDataset(torch.randn(240, 3, generator=g) + y[:, None], y)

    def fit(devices):
        plane = InformationPlaneCallback(
            ["net.1", "net.3"], every_n_epochs=2, n_samples=160, n_slices=1, figure=False)
        trainer = Trainer(
            max_epochs=2, accelerator="cpu", devices=devices, callbacks=[plane], logger=False,
            strategy="ddp_fork" if devices > 1 else "auto", default_root_dir=sys.argv[1],
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
        trainer.fit(Module())
        return {k: float(v) for k, v in trainer.callback_metrics.items() if "I_" in k}

    if __name__ == "__main__":
        torch.set_num_threads(1)
        print(json.dumps([fit(2), fit(1)]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="processes are forked")
def test_two_processes_log_the_same_as_one(tmp_path: Path) -> None:
    script = tmp_path / "ddp.py"
    script.write_text(textwrap.dedent(DDP))
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    two, one = json.loads(done.stdout.splitlines()[-1])
    assert len(one) == 8
    assert two == pytest.approx(one, abs=2e-3)


@pytest.mark.slow
def test_example_of_thirty_lines_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sklearn")
    module = importlib.import_module("flashmi_reg.integrations.lightning_example")
    assert module.__file__ is not None
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    found: Callable[..., Any] = runpy.run_path
    result = found(module.__file__, run_name="__main__")
    assert result["plane"].points[-1].value > 0.5
    assert "figure: " in capsys.readouterr().out
    assert (tmp_path / "digits.png").is_file()
    code = Path(module.__file__).read_text().splitlines()[2:]
    assert sum(bool(line.strip()) for line in code) <= 30
