"""How far one random invertible linear map of a side moves an estimate of Gaussian data.

`python -m experiments.invariance` writes results/invariance.json and prints a table. Mutual
information is unchanged by such a map, ranks are not quite, and neither are their correlations:
beside each estimate stands that of a Gaussian copula with the same data. With fewer than 4,096
samples the estimator adds noise of its own, as samples, which are put in an order of their ranks,
are then shuffled otherwise.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from experiments.baselines.gaussian_copula import GaussianCopula
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
from flashmi_reg import FlashMI

__all__ = ["changes", "main", "markdown"]

OUT = RESULTS / "invariance.json"
CONDITION = 4.0

Estimator = Callable[[Tensor, Tensor], Tensor | float]


def random_map(d: int, generator: torch.Generator) -> Tensor:
    """An invertible matrix (d, d) of condition 4 with random axes."""
    turn, other = torch.linalg.qr(torch.randn(2, d, d, generator=generator)).Q
    return turn * torch.linspace(1, CONDITION, d) @ other


@torch.no_grad()
def changes(estimate: Estimator, mi: float, d: int, n: int, sets: int) -> list[float]:
    """Change of the estimate by a map of x and by one of y, for each of several data sets.

    Args:
        estimate: the estimator.
        mi: true information of d + d coordinates, equally correlated in pairs, in nats.
        d: coordinates of a side.
        n: samples.
        sets: data sets.
    """
    found = []
    rho = math.sqrt(-math.expm1(-2 * mi / d))
    for seed in range(sets):
        generator = torch.Generator().manual_seed(seed)
        x, noise = torch.randn(2, n, d, generator=generator)
        y = rho * x + math.sqrt(1 - rho**2) * noise
        before = float(estimate(x, y))
        mapped = ((x @ random_map(d, generator), y), (x, y @ random_map(d, generator)))
        found += [float(estimate(*pair)) - before for pair in mapped]
    return found


def _rows(content: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """One line for each estimator and kind of data: root mean square, and greatest, at each n."""
    cells = content["cells"]
    rows = []
    for name, mi, d in dict.fromkeys((c["estimator"], c["mi"], c["d"]) for c in cells):
        row = [name, f"{d} + {d}", number(mi, 1)]
        for n in content["settings"]["n"]:
            (moved,) = (
                c["changes"]
                for c in cells
                if (c["estimator"], c["mi"], c["d"], c["n"]) == (name, mi, d, n)
            )
            size = math.sqrt(sum(v**2 for v in moved) / len(moved))
            row.append(f"{number(size, 4)}, {number(max(map(abs, moved)), 4)}")
        rows.append(row)
    return ["estimator", "widths", "nats", *(f"n = {n:,}" for n in content["settings"]["n"])], rows


def markdown(path: Path = OUT) -> str:
    """What the documents show of it."""
    content = json.loads(path.read_text())
    settings, weights = content["settings"], content["weights"]
    return (
        "**Linear maps of Gaussian data**: change of the estimate by one random invertible map of"
        f" one side, of condition {CONDITION:.0f}, root mean square and greatest of"
        f" {2 * settings['sets']}, in nats: `python -m experiments.invariance --n"
        f" {' '.join(map(str, settings['n']))} --sets {settings['sets']}`, seeds from 0,"
        f" {origin(content['hardware'], *weights.values())}."
        f"\n\n{markdown_table(*_rows(content))}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of the experiment."""
    parser = argparse.ArgumentParser(prog="python -m experiments.invariance")
    parser.add_argument("--n", type=int, nargs="+", default=[1000, 8000, 32_000, 128_000])
    parser.add_argument("--widths", type=int, nargs="+", default=[2, 3, 5])
    parser.add_argument("--mi", type=float, nargs="+", default=[0.5, 1.5], help="in nats")
    parser.add_argument("--sets", type=int, default=6, help="data sets of each kind")
    parser.add_argument("--weights", nargs="+", default=["base", "small"])
    parser.add_argument("--out", type=Path, default=OUT, help="the JSON file")
    chosen = parser.parse_args(arguments)
    models = {Path(name).name: FlashMI.from_pretrained(name) for name in chosen.weights}
    estimators: dict[str, Estimator] = {m: model.mutual_information for m, model in models.items()}
    estimators["Gaussian copula"] = lambda x, y: GaussianCopula()(x, y).value
    cells = []
    for name, mi, d, n in tqdm(
        list(product(estimators, chosen.mi, chosen.widths, chosen.n)), unit="cell", disable=None
    ):
        cell = {"estimator": name, "mi": mi, "d": d, "n": n}
        cells.append(cell | {"changes": changes(estimators[name], mi, d, n, chosen.sets)})
    content = {
        "settings": {"n": chosen.n, "sets": chosen.sets},
        "weights": {name: describe_weights(model, name) for name, model in models.items()},
        **circumstances(),
        "cells": cells,
    }
    print(table(*_rows(content)))
    print(f"wrote {write_json(chosen.out, content).name}")


if __name__ == "__main__":
    main()
