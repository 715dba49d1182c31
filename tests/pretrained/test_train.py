"""Pretraining: resumable to the bit, averaged, scheduled, recorded, stopped if it diverges."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from flashmi_reg import FlashMI
from flashmi_reg.checkpoint import PREPROCESSING
from flashmi_reg.critic import Values
from flashmi_reg.errors import FlashMIError
from flashmi_reg.hypernet import Architecture, HyperNetwork
from flashmi_reg.pretrained import objective, validate
from flashmi_reg.pretrained import train as module
from flashmi_reg.pretrained.objective import losses
from flashmi_reg.pretrained.prior import Prior
from flashmi_reg.pretrained.state import TrainingState, load_state, save_state
from flashmi_reg.pretrained.train import MAX_SKIPPED, Settings, draw, schedule, train
from flashmi_reg.pretrained.validate import ValidationSet

TINY = Architecture(hidden=24, layers=2, features=12, context=24, rounds=2)
SETTINGS = Settings(
    steps=8, pairs=512, warmup=3, validate_every=4, checkpoint_minutes=0.0, precision="32-true"
)


def shrink(patch: pytest.MonkeyPatch) -> None:
    """Few samples in training, and two small validation sets a family."""
    patch.setattr(module, "TRAINED_N", (50, 150))
    patch.setattr(validate, "SIZES", (60, 100))
    patch.setattr(validate, "PER_GROUP", {60: 1, 100: 1})
    patch.setattr(validate, "GROUPS", 1)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch)


def interrupt(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """A run stops, as by Ctrl-C, before step `at`."""

    def stopping(prior: Prior, width: int, settings: Settings, step: int, rank: int) -> object:
        if step == at:
            raise KeyboardInterrupt
        return draw(prior, width, settings, step, rank)

    monkeypatch.setattr(module, "draw", stopping)


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def records(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without interruption."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        train(out, TINY, SETTINGS)
    return out


# --- resuming ---------------------------------------------------------------------------------


@pytest.mark.parametrize("stops", [[1], [5], [3, 6]])
def test_interrupted_run_ends_with_the_same_bits(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stops: list[int]
) -> None:
    out = tmp_path / "resumed"
    for stop in stops:
        with monkeypatch.context() as patch:
            interrupt(patch, stop)
            with pytest.raises(KeyboardInterrupt):
                train(out, TINY, SETTINGS)
    train(out, TINY, SETTINGS)
    assert_equal(load_file(out / "state.safetensors"), load_file(run / "state.safetensors"))
    assert_equal(load_file(out / "weights.safetensors"), load_file(run / "weights.safetensors"))
    assert records(out)[-1]["error"] == records(run)[-1]["error"]


def test_run_with_a_step_left_out_resumes_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adam's own count of steps is then behind the run's."""

    def spoilt(network: nn.Module, batch: object) -> object:
        found = losses(network, batch)
        spoil = torch.nan if len(calls) == 1 else 1.0
        calls.append(1)
        return found._replace(total=found.total * spoil)

    ends = []
    for name, stop in (("whole", None), ("resumed", 4)):
        calls: list[int] = []
        out = tmp_path / name
        with monkeypatch.context() as patch:
            patch.setattr(objective, "losses", spoilt)
            if stop is not None:
                with patch.context() as inner:
                    interrupt(inner, stop)
                    with pytest.raises(KeyboardInterrupt):
                        train(out, TINY, SETTINGS)
            train(out, TINY, SETTINGS)
        assert records(out)[-1]["skipped"] == 1
        ends.append(load_file(out / "state.safetensors"))
    assert_equal(*ends)


def test_finished_run_is_left_as_it_is(run: Path) -> None:
    before = (run / "weights.safetensors").read_bytes()
    state = load_file(run / "state.safetensors")
    train(run, TINY, SETTINGS)
    assert_equal(load_file(run / "state.safetensors"), state)
    assert len((run / "weights.safetensors").read_bytes()) == len(before)
    assert [record["step"] for record in records(run)] == [0, 4, 8]


def test_seed_settles_the_run(run: Path, tmp_path: Path) -> None:
    train(tmp_path / "other", TINY, replace(SETTINGS, seed=1))
    one, other = (load_file(r / "weights.safetensors") for r in (run, tmp_path / "other"))
    assert not torch.equal(one["body.first.weight"], other["body.first.weight"])


def test_run_starts_from_given_weights(run: Path, tmp_path: Path) -> None:
    weights = run / "weights.safetensors"
    settings = replace(SETTINGS, steps=1, rate=0.0, validate_every=100)
    train(tmp_path / "on", TINY, settings, initial=str(weights))
    assert_equal(load_file(tmp_path / "on" / "weights.safetensors"), load_file(weights))
    header = FlashMI.from_pretrained(tmp_path / "on" / "weights.safetensors").header
    assert header.training["initial"] == str(weights)


# --- what a run leaves ------------------------------------------------------------------------


def test_checkpoint_holds_all_that_resuming_needs(run: Path) -> None:
    state = TrainingState()
    load_state(run / "state.safetensors", state)
    assert state.step == 8
    assert state.seconds > 0
    assert state.skipped == 0
    names = HyperNetwork(TINY).state_dict().keys()
    assert state.model.keys() == state.average.keys() == names
    for name, moments in state.moments.items():
        assert moments.keys() == {"exp_avg", "exp_avg_sq"}
        assert all(m.shape == state.model[name].shape for m in moments.values())
        assert (moments["exp_avg_sq"] >= 0).all()
    assert state.moments.keys() == names


def test_weights_are_the_average_with_a_header(run: Path) -> None:
    state = load_file(run / "state.safetensors")
    weights = load_file(run / "weights.safetensors")
    assert_equal(
        weights,
        {k.removeprefix("average."): v for k, v in state.items() if k.startswith("average.")},
    )
    model = FlashMI.from_pretrained(run / "weights.safetensors")
    header = model.header
    assert header.architecture == TINY
    assert header.preprocessing == PREPROCESSING
    assert (header.steps, header.seed) == (8, 0)
    assert header.trained_n == (50, 150)
    assert header.trained_width == (1, 10)
    assert header.training.items() >= asdict(SETTINGS).items()
    x, y = torch.randn(2, 60, 2, generator=torch.Generator().manual_seed(0))
    assert model.mutual_information(x, y).isfinite()


def test_log_holds_the_figures_of_each_validation(run: Path) -> None:
    families = set(Prior().family_names)
    assert [record["step"] for record in records(run)] == [0, 4, 8]
    assert records(run)[0]["loss"] is None
    for record in records(run)[1:]:
        for figure in ("error", "bias", "nce", "fresh"):
            assert record[figure].keys() == families
        assert record["error_at"].keys() == {"60", "100"}
        mean = sum(record["error"].values()) / len(families)
        assert record["mean_error"] == pytest.approx(mean)
        assert math.isfinite(record["loss"])
        assert record["rate"] == SETTINGS.rate * schedule(record["step"], SETTINGS)
        assert record["skipped"] == 0
        for family in families:
            assert record["error"][family] >= abs(record["bias"][family]) - 1e-6
            assert record["nce"][family] >= 0


def test_figures_are_those_of_the_averaged_weights(run: Path) -> None:
    network = HyperNetwork(TINY)
    network.load_state_dict(load_file(run / "weights.safetensors"))
    figures = ValidationSet(Prior(), 10)(network)
    assert records(run)[-1]["error"] == pytest.approx(figures.error)
    assert records(run)[-1]["nce"] == pytest.approx(figures.nce)


def test_validating_does_not_disturb_training(run: Path, tmp_path: Path) -> None:
    train(tmp_path / "run", TINY, replace(SETTINGS, validate_every=1000))
    other = load_file(tmp_path / "run" / "state.safetensors")
    assert_equal(other, load_file(run / "state.safetensors"))


def test_curves_are_drawn(run: Path) -> None:
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_else_is_left_behind(run: Path) -> None:
    assert {path.name for path in run.iterdir()} == {
        "curves.png",
        "log.jsonl",
        "state.safetensors",
        "weights.safetensors",
    }


def test_global_random_state_is_left_alone(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    train(tmp_path / "run", TINY, replace(SETTINGS, steps=1, validate_every=100))
    assert torch.equal(torch.get_rng_state(), before)


# --- diverging --------------------------------------------------------------------------------


def test_diverging_run_stops_with_an_error(tmp_path: Path) -> None:
    settings = replace(
        SETTINGS, steps=100, rate=1e30, warmup=1, validate_every=1000, checkpoint_minutes=1e9
    )
    with pytest.raises(FlashMIError, match=rf"{MAX_SKIPPED} steps.*diverged.*`--rate`"):
        train(tmp_path / "run", TINY, settings)
    assert not (tmp_path / "run" / "weights.safetensors").exists()


def test_run_resumed_into_divergence_says_so_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no loss yet to show, and validations due in between."""
    out = tmp_path / "run"
    settings = replace(SETTINGS, steps=100, validate_every=8)
    with monkeypatch.context() as patch:
        interrupt(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            train(out, TINY, settings)

    def lost(network: nn.Module, batch: object) -> object:
        found = losses(network, batch)
        return found._replace(total=found.total * torch.nan)

    monkeypatch.setattr(objective, "losses", lost)
    with pytest.raises(FlashMIError, match="diverged"):
        train(out, TINY, settings)


def test_steps_without_finite_gradient_change_no_weight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(network: nn.Module, batch: object) -> object:
        found = losses(network, batch)
        return found._replace(total=found.total * torch.inf)

    monkeypatch.setattr(objective, "losses", lost)
    train(tmp_path / "run", TINY, replace(SETTINGS, steps=3, validate_every=100))
    state = TrainingState()
    load_state(tmp_path / "run" / "state.safetensors", state)
    assert (state.step, state.skipped) == (3, 3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        assert_equal(state.model, dict(HyperNetwork(TINY).state_dict()))


# --- more devices -----------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_train_one_network(tmp_path: Path) -> None:
    script = tmp_path / "both.py"
    script.write_text(
        f"""
from dataclasses import asdict
from pathlib import Path
from flashmi_reg.hypernet import Architecture
from flashmi_reg.pretrained import train as module, validate
from flashmi_reg.pretrained.train import Settings

module.TRAINED_N = (50, 100)
validate.SIZES, validate.PER_GROUP, validate.GROUPS = (60,), {{60: 1}}, 1
if __name__ == "__main__":
    architecture = Architecture(**{asdict(TINY)})
    settings = Settings(**{asdict(replace(SETTINGS, steps=3))})
    module.train(Path({str(tmp_path / "run")!r}), architecture, settings, devices=2)
"""
    )
    subprocess.run([sys.executable, script], check=True, capture_output=True, timeout=300)
    state = TrainingState()
    load_state(tmp_path / "run" / "state.safetensors", state)
    assert (state.step, state.skipped) == (3, 0)
    assert all(weight.isfinite().all() for weight in state.average.values())
    assert [record["step"] for record in records(tmp_path / "run")] == [0, 3]


# --- the parts --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 1 / 100), (49, 0.5), (99, 1.0), (400, 1.0), (700, 1.0), (850, 0.5), (1000, 0.0)],
)
def test_rate_rises_stays_and_falls(step: int, expected: float) -> None:
    settings = Settings(steps=1000, warmup=100, decay=0.3)
    assert schedule(step, settings) == pytest.approx(expected)


def test_average_follows_the_weights_with_its_decay() -> None:
    network = nn.Linear(1, 1, bias=False)
    state = TrainingState.start(network)
    start = network.weight.item()
    nn.init.constant_(network.weight, start + 1)
    state.step = 10**6
    state.update_average(network, 0.9)
    assert state.average["weight"].item() == pytest.approx(start + 0.1, abs=1e-6)
    state.update_average(network, 0.9)
    assert state.average["weight"].item() == pytest.approx(start + 0.19, abs=1e-6)
    assert network.weight.item() == pytest.approx(start + 1)


def test_average_is_shorter_early_on() -> None:
    network = nn.Linear(1, 1, bias=False)
    state = TrainingState.start(network)
    start = network.weight.item()
    nn.init.constant_(network.weight, start + 1)
    state.step = 1
    state.update_average(network, 0.999)
    assert state.average["weight"].item() == pytest.approx(start + 1 - 2 / 11, abs=1e-6)


def test_state_is_read_as_it_was_written(tmp_path: Path) -> None:
    network = HyperNetwork(TINY)
    optimizer = torch.optim.Adam(network.parameters())
    for parameter in network.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    state = TrainingState.start(network)
    state.step, state.seconds, state.skipped = 7, 12.5, 2
    state.capture(network, optimizer)
    state.update_average(network, 0.9)
    save_state(tmp_path / "state.safetensors", state)

    loaded = TrainingState.start(HyperNetwork(TINY))
    load_state(tmp_path / "state.safetensors", loaded)
    assert (loaded.step, loaded.seconds, loaded.skipped) == (7, 12.5, 2)
    assert_equal(loaded.model, state.model)
    assert_equal(loaded.average, state.average)
    for name, moments in state.moments.items():
        assert_equal(loaded.moments[name], moments)
    other = HyperNetwork(TINY)
    fresh = torch.optim.Adam(other.parameters())
    loaded.restore(other, fresh)
    assert_equal(dict(other.state_dict()), dict(network.state_dict()))
    assert all(fresh.state[p]["step"] == 5 for p in other.parameters())
    with safe_open(tmp_path / "state.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["counters"])["step"] == 7


def test_batch_of_a_step_depends_on_seed_step_and_rank_alone() -> None:
    def batch(**changes: int) -> Tensor:
        chosen = {"step": 3, "rank": 0, "seed": 0} | changes
        settings = replace(SETTINGS, seed=chosen["seed"])
        torch.rand(5)
        return draw(Prior(), 10, settings, chosen["step"], chosen["rank"]).joint.u

    reference = batch()
    assert torch.equal(batch(), reference)
    for change in ({"step": 4}, {"rank": 1}, {"seed": 1}):
        other = batch(**change)
        assert other.shape != reference.shape or not torch.equal(other, reference)


def test_steps_read_about_the_pairs_they_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TRAINED_N", (50, 2000))
    settings = replace(SETTINGS, pairs=4096)
    for step in range(12):
        batch = draw(Prior(), 10, settings, step, 0)
        sets, n = batch.joint_pmi.shape
        assert 50 <= n <= 2000
        pairs = sets * (n + batch.shuffled_pmi.shape[1])
        assert pairs <= 1.5 * 4096
        assert pairs >= 0.5 * 4096 or sets == 32


class Constant(nn.Module):
    """A critic that is zero everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, data: object, joint: tuple, shuffle: tuple) -> tuple:
        zero = self.weight.sum() * joint[0][..., 0]
        values = Values(zero, zero[:, shuffle[0]])
        return None, values, values, values.joint[:, 0]

    def evaluate(self, parameters: None, pairs: tuple) -> tuple[Tensor, None]:
        return pairs[0][..., 0] * self.weight.sum(), None


def test_validation_of_a_critic_of_zero_shows_the_information_itself() -> None:
    found = ValidationSet(Prior(), 10)
    figures = found(Constant())
    for family in Prior().family_names:
        own = [batch.mi for (name, _), batch in found.batches.items() if name == family]
        assert figures.bias[family] == pytest.approx(-torch.stack(own).mean().item(), abs=1e-5)
        assert figures.error[family] == pytest.approx(
            torch.stack(own).abs().mean().item(), abs=1e-5
        )
    assert figures.error["independence"] == pytest.approx(0, abs=1e-6)
    assert figures.mean_error > 0.1


def test_validation_sets_are_the_same_every_time() -> None:
    one, other = ValidationSet(Prior(), 10), ValidationSet(Prior(), 10)
    assert one.batches.keys() == other.batches.keys()
    for key, batch in one.batches.items():
        assert torch.equal(batch.joint.u, other.batches[key].joint.u)


@pytest.mark.parametrize("flag", ["--steps", "--rate", "--hidden", "--precision"])
def test_command_line_hands_settings_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, flag: str
) -> None:
    seen: list[tuple] = []
    record: Callable[..., None] = lambda *given, **named: seen.append((*given, named))  # noqa: E731
    monkeypatch.setattr(module, "train", record)
    value = {"--steps": 3, "--rate": 0.5, "--hidden": 8, "--precision": "32-true"}[flag]
    module.main(["--out", str(tmp_path), flag, str(value)])
    out, architecture, settings, named = seen[0]
    assert out == tmp_path
    assert named == {"devices": 1, "initial": None}
    name = flag.removeprefix("--")
    chosen = asdict(architecture) | asdict(settings)
    assert chosen == asdict(Architecture()) | asdict(Settings()) | {name: value}
