"""How long things take: one estimate beside the baselines, and the loss beside encoders' steps.

`python -m experiments.speed` writes results/speed.json. Run it on a machine that does nothing
else; OMP_NUM_THREADS sets the number of threads.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from experiments.baselines import KSG, MINE, GaussianCopula
from experiments.bmi.tasks import TASKS, generator_for
from experiments.encoders import ENCODERS, IMAGE
from experiments.report import (
    RESULTS,
    circumstances,
    describe_weights,
    number,
    table,
    write_json,
)
from flashmi_reg import FlashMI, MutualInformationLoss
from flashmi_reg.errors import SupportWarning
from flashmi_reg.model import Gradient

TASK = "multinormal-sparse-5-5-2-2.0"
BATCH = 256
WIDTHS = (5, 8, 10, 16)
GRADIENTS: tuple[Gradient, ...] = ("critic", "full")
CNN = "CNN, three convolutions"
STEP = f"images {IMAGE}, batch {BATCH}, Adam"


def median_seconds(action: Callable[[], object], repeats: int) -> float:
    """The median time of an action, after one run that is not counted."""
    action()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def time_estimates(model: FlashMI, n: int, repeats: int, mine_repeats: int) -> dict[str, Any]:
    """Time one estimate of n pairs of width 5 + 5 by each method, and note its value."""
    task = TASKS[TASK]
    x, y = (z.float() for z in task.sample(n, generator=generator_for(task, n, 0)))

    def ours() -> float:
        with torch.no_grad():
            return model.mutual_information(x, y).item()

    control, ksg, mine = GaussianCopula(), KSG(), MINE()
    found: dict[str, Any] = {
        "ours": {"seconds": median_seconds(ours, repeats), "value": ours()},
        "control": {
            "seconds": median_seconds(lambda: control(x, y), repeats),
            "value": control(x, y).value,
        },
        "ksg": {"seconds": median_seconds(lambda: ksg(x, y), repeats), "value": ksg(x, y).value},
    }
    runs = [mine(x, y, seed) for seed in range(mine_repeats)]
    found["mine"] = {
        "seconds": statistics.median(run.seconds for run in runs),
        "value": statistics.median(run.value for run in runs),
        "steps": statistics.median(run.steps or 0 for run in runs),
        "converged": all(run.converged for run in runs),
    }
    for row in found.values():
        row["times_ours"] = row["seconds"] / found["ours"]["seconds"]
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


def time_losses(weights: str, repeats: int) -> dict[str, Any]:
    """Time the loss at several widths, and as a share of encoders' training steps."""
    encoders = {
        # The seconds of a step are far apart: the longest, of seconds, are timed less often.
        name: time_encoder(make, repeats if name != "ResNet-18" else max(1, repeats // 5))
        for name, make in tqdm(ENCODERS.items(), desc="encoders", unit="encoder", disable=None)
    }
    rows = []
    for width in tqdm(WIDTHS, desc="loss", unit="width", disable=None):
        for gradient in GRADIENTS:
            seconds = time_loss(weights, width, gradient, repeats)
            shares = {name: seconds / step["seconds"] for name, step in encoders.items()}
            rows.append(
                {"width": width, "gradient": gradient}
                | {"seconds": seconds, "share": shares[CNN], "shares": shares}
            )
    return {
        "n": BATCH,
        "encoder": {"what": f"three convolutions, {STEP}", **encoders[CNN]},
        "encoders": encoders,
        "loss": rows,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Time everything, print the tables, write the JSON file."""
    parser = argparse.ArgumentParser(prog="python -m experiments.speed", description=__doc__)
    parser.add_argument("--n", type=int, default=1000, help="pairs in the estimate")
    parser.add_argument("--repeats", type=int, default=15, help="runs behind each median")
    parser.add_argument("--mine-repeats", type=int, default=3, help="trainings of MINE")
    parser.add_argument("--weights", default="base", help="packaged name or .safetensors file")
    parser.add_argument("--out", type=Path, default=RESULTS / "speed.json", help="the JSON file")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore", SupportWarning)

    model = FlashMI.from_pretrained(options.weights)
    estimates = time_estimates(model, options.n, options.repeats, options.mine_repeats)
    losses = time_losses(options.weights, options.repeats)

    print(f"\none estimate, n = {options.n:,}, 5 + 5 dimensions, truth {estimates['truth']:.3f}")
    rows = [
        [name, number(row["seconds"] * 1e3, 2), f"{row['times_ours']:.2g}×", number(row["value"])]
        for name, row in estimates["methods"].items()
    ]
    print(table(["method", "ms", "of ours", "value"], rows))
    steps = [
        [name, f"{found['parameters'] / 1e6:.1f} M", number(found["seconds"] * 1e3, 1)]
        for name, found in losses["encoders"].items()
    ]
    print(f"\ntraining steps without the loss: {STEP}")
    print(table(["encoder", "parameters", "ms"], steps))
    print(f"\nloss, forward and backward, n = {BATCH}, as a share of the steps")
    rows = [
        [
            f"{row['width']} + {row['width']}",
            row["gradient"],
            number(row["seconds"] * 1e3, 2),
            *(f"{share:.0%}" for share in row["shares"].values()),
        ]
        for row in losses["loss"]
    ]
    print(table(["widths", "gradient", "ms", *losses["encoders"]], rows))
    content = {
        "settings": {"repeats": options.repeats, "mine_repeats": options.mine_repeats},
        "weights": describe_weights(model, options.weights),
        **circumstances("scipy"),
        "estimate": estimates,
        "training": losses,
    }
    print(f"\nwrote {write_json(options.out, content).name}")


if __name__ == "__main__":
    main()
