"""Pretraining: `python -m flashmi_reg.pretrained.train --out runs/base`, resumable to the step."""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from flashmi_reg.checkpoint import PREPROCESSING, Header, load_weights, save_weights
from flashmi_reg.errors import FlashMIError, MissingExtraError
from flashmi_reg.estimator import shuffle_copies
from flashmi_reg.hypernet import Architecture, HyperNetwork

from .objective import Batch, Objective, Precision, prepare
from .prior import Prior
from .state import TrainingState, load_state, save_state
from .validate import Validation, ValidationSet

__all__ = ["Settings", "main", "train"]

TRAINED_N = (50, 8192)
TRAINED_MI = 4.0
MAX_SKIPPED = 20
# Samples of each data set that the network does not read.
FRESH_PAIRS = 128


@dataclass(frozen=True)
class Settings:
    """Settings of a training run.

    Attributes:
        steps: steps in all; the learning rate falls to zero over the last `decay` of them.
        pairs: pairs, joint and shuffled, that a step reads on each device.
        rate: greatest learning rate.
        warmup: steps over which the learning rate rises.
        decay: share of the steps over which the learning rate falls.
        averaging: decay of the exponential moving average of the weights.
        clip: greatest norm of the gradient.
        seed: seed of the weights and of all data.
        validate_every: steps between validations.
        checkpoint_minutes: minutes between checkpoints.
        precision: of the network's matrix products; solves and preprocessing keep theirs.
    """

    steps: int = 16_000
    pairs: int = 8_192
    rate: float = 3e-4
    warmup: int = 300
    decay: float = 0.3
    averaging: float = 0.999
    clip: float = 1.0
    seed: int = 0
    validate_every: int = 500
    checkpoint_minutes: float = 4.0
    precision: Precision = "bf16-mixed"


def train(
    out: Path,
    architecture: Architecture,
    settings: Settings,
    *,
    devices: int = 1,
    initial: str | None = None,
) -> None:
    """Trains until `settings.steps`, continuing from the state found in `out`.

    Without one, it starts from random weights, or from those that `initial` names: packaged ones
    or a file, of the same architecture.

    Writes `state.safetensors` (all that resuming needs), `weights.safetensors` (the averaged
    weights, ready for `FlashMI.from_pretrained`), `log.jsonl` and `curves.png`.
    """
    try:
        from lightning.fabric import Fabric
    except ImportError as error:
        raise MissingExtraError(
            "Pretraining needs Lightning Fabric: pip install 'flashmi_reg[lightning]'."
        ) from error
    strategy = "ddp" if devices > 1 else "auto"
    fabric = Fabric(devices=devices, strategy=strategy)
    fabric.launch()
    if fabric.device.type == "cpu" and devices > 1:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // devices))
    out.mkdir(parents=True, exist_ok=True)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        raw = HyperNetwork(architecture)
    if initial is not None:
        raw.load_state_dict(load_weights(initial)[0])
    state = TrainingState.start(raw)
    if (out / "state.safetensors").exists():
        load_state(out / "state.safetensors", state)
    optimizer = torch.optim.Adam(raw.parameters(), lr=settings.rate, fused=True)
    objective, optimizer = fabric.setup(Objective(raw, settings.precision), optimizer)
    state.restore(raw, optimizer)
    prior = Prior()
    validation = ValidationSet(prior, architecture.width) if fabric.is_global_zero else None
    bar = tqdm(
        total=settings.steps, initial=state.step, unit="step", disable=not fabric.is_global_zero
    )
    clock = saved = time.monotonic()
    shown = ""
    losses_seen: list[float] = []
    skipped_in_a_row = 0

    def checkpoint() -> None:
        state.capture(raw, optimizer)
        save_state(out / "state.safetensors", state)
        header = _header(raw, state, settings, initial)
        save_weights(out / "weights.safetensors", state.average, header)

    # What is there before any training: without it, a curve does not tell what was learned.
    if validation is not None and state.step == 0:
        _log(out, state, settings, losses_seen, _validate(raw, state, validation))
    while state.step < settings.steps:
        batch = draw(prior, architecture.width, settings, state.step, fabric.global_rank)
        for group in optimizer.param_groups:
            group["lr"] = settings.rate * schedule(state.step, settings)
        loss = objective(batch.to(fabric.device)).total.mean()
        fabric.backward(loss)
        norm = torch.nn.utils.clip_grad_norm_(raw.parameters(), settings.clip)
        finite = bool(norm.isfinite())
        if finite:
            optimizer.step()
        optimizer.zero_grad()
        state.step += 1
        state.skipped += int(not finite)
        skipped_in_a_row = 0 if finite else skipped_in_a_row + 1
        if skipped_in_a_row == MAX_SKIPPED:
            raise FlashMIError(
                f"{MAX_SKIPPED} steps in a row had no finite gradient: training has diverged; "
                "restart from an older state with a lower `--rate`."
            )
        state.update_average(raw, settings.averaging)
        if finite:
            losses_seen.append(float(loss.detach()))
        state.seconds += time.monotonic() - clock
        clock = time.monotonic()
        bar.update()
        if validation is None:  # only the first process reports
            continue
        if state.step % 20 == 0:
            bar.set_postfix_str(f"loss {_mean(losses_seen[-200:]):.3f} {shown}")
        if state.step % settings.validate_every == 0 or state.step == settings.steps:
            figures = _validate(raw, state, validation)
            shown = f"error {figures.mean_error:.3f}"
            _log(out, state, settings, losses_seen, figures)
            losses_seen = losses_seen[-200:]
        if time.monotonic() - saved > 60 * settings.checkpoint_minutes:
            checkpoint()
            saved = time.monotonic()
    bar.close()
    if fabric.is_global_zero:
        checkpoint()


def draw(prior: Prior, width: int, settings: Settings, step: int, rank: int) -> Batch:
    """The batch of a step: a function of seed, step and rank alone, so that runs can resume."""
    seed = (settings.seed * 1_000_003 + step) * 1_009
    generator = torch.Generator().manual_seed(seed)
    low, high = (math.log(n) for n in TRAINED_N)
    # Of one size on all devices, so that none waits for another.
    n = round(math.exp(low + (high - low) * torch.rand((), generator=generator).item()))
    generator.manual_seed(seed + 1 + rank)
    sets = max(1, min(32, round(settings.pairs / (n * (1 + shuffle_copies(n)) + 2 * FRESH_PAIRS))))
    return prepare(prior.sample(sets, n + FRESH_PAIRS, generator=generator), n, width, generator)


def schedule(step: int, settings: Settings) -> float:
    """Share of the greatest learning rate: a rise, a plateau, a linear fall."""
    rise = min(1.0, (step + 1) / settings.warmup)
    fall = (settings.steps - step) / max(1.0, settings.decay * settings.steps)
    return min(rise, fall, 1.0)


def _validate(network: HyperNetwork, state: TrainingState, validation: ValidationSet) -> Validation:
    own = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.load_state_dict(state.average)
    figures = validation(network)
    network.load_state_dict(own)
    return figures


def _mean(values: list[float]) -> float:
    """The mean, or NaN where all steps were left out."""
    return sum(values) / len(values) if values else math.nan


def _header(
    network: HyperNetwork, state: TrainingState, settings: Settings, initial: str | None
) -> Header:
    return Header(
        architecture=network.architecture,
        preprocessing=PREPROCESSING,
        trained_n=TRAINED_N,
        trained_width=(1, network.architecture.width),
        trained_mi=TRAINED_MI,
        steps=state.step,
        seed=settings.seed,
        training=asdict(settings) | {"seconds": round(state.seconds), "initial": initial},
    )


def _log(
    out: Path, state: TrainingState, settings: Settings, seen: list[float], figures: Validation
) -> None:
    record: dict[str, Any] = {
        "step": state.step,
        "seconds": round(state.seconds),
        "skipped": state.skipped,
    }
    loss = _mean(seen) if seen else None
    record |= {"loss": loss, "rate": settings.rate * schedule(state.step, settings)}
    with (out / "log.jsonl").open("a") as file:
        file.write(json.dumps(record | {"mean_error": figures.mean_error} | asdict(figures)) + "\n")
    try:
        from .curves import draw_curves
    except ImportError:  # matplotlib is not needed for training
        return
    draw_curves(out / "log.jsonl", out / "curves.png")


def main(argv: list[str] | None = None) -> None:
    """Command line of pretraining."""
    parser = argparse.ArgumentParser(
        prog="flashmi pretrain",
        description="Pretrain the hypernetwork; an interrupted run continues where it stopped.",
        epilog="example: flashmi pretrain --out runs/base --steps 16000",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--initial", metavar="NAME", help="packaged weights or file to start from")
    parser.add_argument("--devices", type=int, default=1, help="processes on a CPU, or GPUs")
    for field, value in (asdict(Settings()) | asdict(Architecture())).items():
        parser.add_argument(f"--{field.replace('_', '-')}", type=type(value), default=value)
    chosen = vars(parser.parse_args(argv))
    pick = lambda kind: replace(kind, **{k: chosen[k] for k in asdict(kind)})  # noqa: E731
    # Denormal numbers slow steps down; the setting is the whole process's, so it is put back.
    torch.set_flush_denormal(True)
    try:
        train(
            chosen["out"],
            pick(Architecture()),
            pick(Settings()),
            devices=chosen["devices"],
            initial=chosen["initial"],
        )
    finally:
        torch.set_flush_denormal(False)


if __name__ == "__main__":
    main()
