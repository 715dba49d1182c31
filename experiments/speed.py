"""How long things take: one estimate beside the baselines, and the loss beside encoders' steps.

`python -m experiments.speed` writes results/speed.json. Run it on a machine that does nothing
else; OMP_NUM_THREADS sets the number of threads. All networks and all baselines are timed in one
run and by one clock, so that their ratios are those of one machine in one hour.
"""

from __future__ import annotations

import argparse
import json
import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from experiments.baselines import KSG, MINE, GaussianCopula
from experiments.baselines.protocol import clock
from experiments.bmi.tasks import TASKS, generator_for
from experiments.encoders import ENCODERS, IMAGE
from experiments.report import (
    RESULTS,
    circumstances,
    describe_weights,
    markdown_table,
    number,
    origin,
    table,
    write_json,
)
from flashmi_reg import FlashMI, MutualInformationLoss
from flashmi_reg.errors import SupportWarning
from flashmi_reg.model import Gradient

OUT = RESULTS / "speed.json"
TASK = "multinormal-sparse-5-5-2-2.0"
BATCH = 256
WIDTHS = (5, 8, 10, 16)
GRADIENTS: tuple[Gradient, ...] = ("critic", "full")
CNN = "CNN, three convolutions"
STEP = f"images {IMAGE}, batch {BATCH}, Adam"


def seconds(action: Callable[[], object], repeats: int) -> list[float]:
    """The times of an action, after one run that is not counted."""
    action()
    times = []
    for _ in range(repeats):
        start = clock()
        action()
        times.append(clock() - start)
    return times


def median_seconds(action: Callable[[], object], repeats: int) -> float:
    """The median time of an action, after one run that is not counted."""
    return statistics.median(seconds(action, repeats))


def time_estimates(
    models: Mapping[str, FlashMI], n: int, repeats: int, mine_repeats: int
) -> dict[str, Any]:
    """Time one estimate of n pairs of width 5 + 5 by each method, and note its value.

    The quick ones are timed after every training of MINE, so that no method has the machine's
    better minutes. `times` of a method are its seconds as multiples of each network's.
    """
    task = TASKS[TASK]
    x, y = (z.float() for z in task.sample(n, generator=generator_for(task, n, 0)))

    def by(model: FlashMI) -> Callable[[], float]:
        return torch.no_grad()(lambda: model.mutual_information(x, y).item())

    control, ksg, mine = GaussianCopula(), KSG(), MINE()
    actions: dict[str, Callable[[], float]] = {
        **{name: by(model) for name, model in models.items()},
        "control": lambda: control(x, y).value,
        "ksg": lambda: ksg(x, y).value,
    }
    runs, times = [], {name: list[float]() for name in actions}
    for seed in range(mine_repeats):
        runs.append(mine(x, y, seed))
        for name, action in actions.items():
            times[name] += seconds(action, repeats)
    found: dict[str, dict[str, Any]] = {
        name: {"seconds": statistics.median(times[name]), "value": action()}
        for name, action in actions.items()
    }
    found["mine"] = {
        "seconds": statistics.median(run.seconds for run in runs),
        "value": statistics.median(run.value for run in runs),
        "steps": statistics.median(run.steps or 0 for run in runs),
        "converged": all(run.converged for run in runs),
    }
    for row in found.values():
        row["times"] = {name: row["seconds"] / found[name]["seconds"] for name in models}
    return {"task": TASK, "n": n, "truth": task.mi, "methods": found}


def time_encoder(make: Callable[[], nn.Module], repeats: int) -> dict[str, Any]:
    """Time one training step of an encoder at the batch size of the loss."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(BATCH, *IMAGE, generator=generator)
    labels = torch.randint(10, (BATCH,), generator=generator)
    with torch.random.fork_rng(devices=[]):
        encoder = make()
    optimizer = torch.optim.Adam(encoder.parameters())

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(encoder(images), labels).backward()
        optimizer.step()

    parameters = sum(p.numel() for p in encoder.parameters())
    return {"parameters": parameters, "seconds": median_seconds(step, repeats)}


def time_loss(weights: str, width: int, gradient: Gradient, repeats: int) -> float:
    """Time forward and backward of the loss at width + width."""
    generator = torch.Generator().manual_seed(width)
    base = torch.randn(BATCH, width, generator=generator)
    x = (base + torch.randn(BATCH, width, generator=generator)).requires_grad_()
    y = (base + torch.randn(BATCH, width, generator=generator)).requires_grad_()
    loss = MutualInformationLoss("minimize", gradient=gradient, weights=weights)

    def step() -> None:
        x.grad = y.grad = None
        loss(x, y).backward()

    return median_seconds(step, repeats)


def time_losses(weights: Sequence[str], repeats: int) -> dict[str, Any]:
    """Time the loss of each network at several widths, and as a share of encoders' steps."""
    encoders = {
        # The seconds of a step are far apart: the longest, of seconds, are timed less often.
        name: time_encoder(make, repeats if name != "ResNet-18" else max(1, repeats // 5))
        for name, make in tqdm(ENCODERS.items(), desc="encoders", unit="encoder", disable=None)
    }
    rows = []
    work = list(product(weights, WIDTHS, GRADIENTS))
    for name, width, gradient in tqdm(work, desc="losses", unit="loss", disable=None):
        seconds = time_loss(name, width, gradient, repeats)
        shares = {encoder: seconds / step["seconds"] for encoder, step in encoders.items()}
        rows.append(
            {"weights": Path(name).name, "width": width, "gradient": gradient}
            | {"seconds": seconds, "share": shares[CNN], "shares": shares}
        )
    return {
        "n": BATCH,
        "encoder": {"what": f"three convolutions, {STEP}", **encoders[CNN]},
        "encoders": encoders,
        "loss": rows,
    }


def markdown(path: Path = OUT) -> str:
    """What the documents show of it."""
    content = json.loads(path.read_text())
    settings, training = content["settings"], content["training"]
    names, weights = list(content["weights"]), content["weights"].values()
    estimates = content["estimates"]
    head, losses = _loss_rows(training)
    return (
        f"**Speed**: `python -m experiments.speed --n {' '.join(map(str, settings['n']))} --weights"
        f" {' '.join(names)} --repeats {settings['repeats']} --mine-repeats"
        f" {settings['mine_repeats']}`, {origin(content['hardware'], *weights)}. One estimate of"
        f" 5 + 5 coordinates, truth {number(estimates[0]['truth'])}, medians. MINE is trained until"
        " its bound on held-out pairs no longer grows, with the settings that were most accurate on"
        " tasks of the benchmark (`experiments/baselines/mine.py`), however long they take.\n\n"
        f"{markdown_table(_estimate_head(names), _estimate_rows(estimates))}\n\n"
        f"The loss, forward and backward, at n = {training['n']}, and as a share of the training"
        " step of an encoder on images of 3 × 32 × 32:\n\n"
        f"{markdown_table(head, losses)}"
    )


def _estimate_head(names: Sequence[str]) -> list[str]:
    return ["method", "n", "ms", *(f"of {name}" for name in names), "value", "steps"]


def _estimate_rows(estimates: Sequence[dict[str, Any]]) -> list[list[str]]:
    rows = []
    for found in estimates:
        for name, row in found["methods"].items():
            steps = f"{row['steps']:,.0f}" if "steps" in row else "–"
            rows.append(
                [
                    name,
                    f"{found['n']:,}",
                    number(row["seconds"] * 1e3, 1),
                    *(f"{times:.3g}×" for times in row["times"].values()),
                    number(row["value"]),
                    steps if row.get("converged", True) else f"{steps}, not converged",
                ]
            )
    return rows


def _loss_rows(training: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    steps = [
        f"{name}, {step['seconds'] * 1e3:,.0f} ms" for name, step in training["encoders"].items()
    ]
    rows = [
        [
            row["weights"],
            f"{row['width']} + {row['width']}",
            row["gradient"],
            number(row["seconds"] * 1e3, 1),
            *(f"{share:.0%}" for share in row["shares"].values()),
        ]
        for row in training["loss"]
    ]
    return ["weights", "widths", "gradient", "ms", *steps], rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Time everything, print the tables, write the JSON file."""
    parser = argparse.ArgumentParser(prog="python -m experiments.speed", description=__doc__)
    parser.add_argument(
        "--n", type=int, nargs="+", default=[1000, 5000], help="pairs in an estimate"
    )
    parser.add_argument("--repeats", type=int, default=15, help="runs behind each median")
    parser.add_argument("--mine-repeats", type=int, default=3, help="trainings of MINE")
    parser.add_argument(
        "--weights", nargs="+", default=["base", "small"], help="packaged names or files"
    )
    parser.add_argument("--out", type=Path, default=OUT, help="the JSON file")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore", SupportWarning)

    models = {Path(name).name: FlashMI.from_pretrained(name) for name in options.weights}
    estimates = [
        time_estimates(models, n, options.repeats, options.mine_repeats)
        for n in tqdm(options.n, desc="estimates", unit="n", disable=None)
    ]
    training = time_losses(options.weights, options.repeats)

    print(f"\none estimate, 5 + 5 dimensions, truth {estimates[0]['truth']:.3f}")
    print(table(_estimate_head(list(models)), _estimate_rows(estimates)))
    print(f"\nloss, forward and backward, n = {BATCH}, as a share of training steps: {STEP}")
    print(table(*_loss_rows(training)))
    content = {
        "settings": {name: getattr(options, name) for name in ("n", "repeats", "mine_repeats")},
        "weights": {name: describe_weights(model, name) for name, model in models.items()},
        **circumstances("scipy"),
        "mine": repr(MINE()),
        "estimates": estimates,
        "training": training,
    }
    print(f"\nwrote {write_json(options.out, content).name}")


if __name__ == "__main__":
    main()
