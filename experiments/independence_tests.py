r"""Independence tests in high dimensions, Fig. 3 and 12 of the paper: AUC of sliced MI.

`python -m experiments.independence_tests` writes results/independence_tests.json and .png, and goes
on where it was interrupted. For each structure, width and n, a statistic is computed on dependent
and on independent data sets; its AUC is the chance that a dependent one has the larger value.

The structures are those of Goldfeld and Greenewald, with X, Z ~ N(0, 1_d) and 1 the vector of ones:

- one feature: Y = (1 (1ᵀX)/√d + Z)/√2
- two features: Y_i = (1_Aᵀ X/d + Z_i)/√2 for i in the first half A of the coordinates, and the
  same with the second half for the others
- independent coordinates: Y = (X + Z)/√2

References:
    | Sliced Mutual Information: A Scalable Measure of Statistical Dependence (Goldfeld &
    | Greenewald, 2021) https://arxiv.org/abs/2110.05279
    | k-Sliced Mutual Information: A Quantitative Study of Scalability with Dimension (Goldfeld et
    | al., 2022) https://arxiv.org/abs/2206.08526
"""

from __future__ import annotations

import argparse
import json
import math
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import torch
from torch import Tensor
from tqdm import tqdm

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
from flashmi_reg import FlashMI, sliced_mutual_information
from flashmi_reg.errors import InputError, SupportWarning

__all__ = ["STRUCTURES", "auc", "correlation_mass", "draw", "draw_curves", "main", "markdown"]

OUT = RESULTS / "independence_tests.json"
K, SLICES = 5, 32
FEW = 200
# After such an AUC, more samples have nothing to add.
SETTLED = 0.995
SEED = 0
PLAIN = ("distance correlation", "squared correlations")
# An AUC that is lower by so little, over 50 sets of either kind, is no loss.
LOSS = 0.005
# Estimates of so many samples at once: bounds memory.
SAMPLES_AT_ONCE = 20_000

Statistic = Callable[[Tensor, Tensor], Tensor]


def one_feature(x: Tensor, z: Tensor) -> Tensor:
    """Y of shape `(*, n, d)`: every coordinate carries the sum of all of x."""
    return (x.sum(-1, keepdim=True) / math.sqrt(x.shape[-1]) + z) / math.sqrt(2)


def two_features(x: Tensor, z: Tensor) -> Tensor:
    """Y of shape `(*, n, d)`: each half carries, faintly, the sum of one half of x."""
    d = x.shape[-1]
    halves = [part.sum(-1, keepdim=True).expand_as(part) / d for part in x.tensor_split(2, dim=-1)]
    return (torch.cat(halves, -1) + z) / math.sqrt(2)


def independent_coordinates(x: Tensor, z: Tensor) -> Tensor:
    """Y of shape `(*, n, d)`: each coordinate carries its own."""
    return (x + z) / math.sqrt(2)


FAINT = "two features"
STRUCTURES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "one feature": one_feature,
    FAINT: two_features,
    "independent coordinates": independent_coordinates,
}
"""From x and noise to y, by name."""


def draw(structure: str, d: int, n: int, sets: int) -> tuple[Tensor, Tensor, Tensor]:
    """x of shape `(2 · sets, n, d)`, y that depends on its first half alone, and which do.

    An independent y is one of the structure, made from an x that is not shown.
    """
    seed = 1_000_003 * n + 1_009 * d + list(STRUCTURES).index(structure) + 7 * SEED
    generator = torch.Generator().manual_seed(seed)
    x, hidden, z = torch.randn(3, 2 * sets, n, d, generator=generator)
    dependent = torch.arange(2 * sets) < sets
    source = torch.where(dependent[:, None, None], x, hidden)
    return x, STRUCTURES[structure](source, z), dependent


def auc(values: Tensor, dependent: Tensor) -> float:
    """Share of pairs in which the dependent data set has the larger value; a tie counts half."""
    apart = values[dependent][:, None] - values[~dependent]
    return float(((apart > 0).double() + (apart == 0).double() / 2).mean())


def sliced(model: FlashMI, x: Tensor, y: Tensor) -> Tensor:
    """k-sliced MI of each data set, all by the same projections (k = 10 sees no better)."""
    return sliced_mutual_information(x, y, K, SLICES, model=model)


def correlation_mass(x: Tensor, y: Tensor) -> Tensor:
    """Sum of all squared cross-correlations: a test of linear dependence without any estimator."""
    x, y = ((side - side.mean(-2, keepdim=True)) / side.std(-2, keepdim=True) for side in (x, y))
    return (x.mT @ y / x.shape[-2]).square().sum((-2, -1))


def distance_correlation(x: Tensor, y: Tensor) -> Tensor:
    """Distance correlation (Székely et al., 2007), the biased form, of each data set."""
    a, b = (_centred(torch.cdist(side, side)) for side in (x, y))
    return (a * b).mean((-2, -1)) / ((a * a).mean((-2, -1)) * (b * b).mean((-2, -1))).sqrt()


def _centred(a: Tensor) -> Tensor:
    row, column = a.mean(-1, keepdim=True), a.mean(-2, keepdim=True)
    return a - row - column + row.mean(-2, keepdim=True)


def statistics_of(weights: Sequence[str], models: dict[str, FlashMI]) -> dict[str, Statistic]:
    """The statistics by name; those of an estimator carry the name of the weights."""
    found: dict[str, Statistic] = {}
    for name in weights:
        model = models[name]
        found[f"sliced, {name}"] = partial(sliced, model)
        found[f"joint, {name}"] = model.mutual_information
    return found | dict(zip(PLAIN, (distance_correlation, correlation_mass), strict=True))


@torch.no_grad()
def evaluate(statistic: Statistic, x: Tensor, y: Tensor) -> Tensor | None:
    """A statistic of each data set, or None where it does not take data so wide or so few."""
    size = max(1, SAMPLES_AT_ONCE // x.shape[1])
    try:
        return torch.cat(
            [statistic(a, b) for a, b in zip(x.split(size), y.split(size), strict=True)]
        )
    except InputError:
        return None


def is_settled(name: str, before: Sequence[dict[str, Any]]) -> bool:
    """Whether a costly statistic told all there is at a smaller n."""
    aucs = [cell["auc"] for cell in before if cell["statistic"] == name]
    return name.startswith("sliced") and any(auc is not None and auc >= SETTLED for auc in aucs)


def _rows(content: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """One line a structure, width and statistic, with the AUC at each n."""
    settings = content["settings"]
    cells = {(c["structure"], c["d"], c["statistic"], c["n"]): c["auc"] for c in content["cells"]}
    lines = []
    for structure in settings["structures"]:
        for d in settings["d"]:
            for statistic in settings["statistics"]:
                values = [cells.get((structure, d, statistic, n)) for n in settings["n"]]
                if any(value is not None for value in values):
                    told = [number(value, 2) for value in values]
                    lines.append([f"{structure}, d = {d}", statistic, *told])
    return ["structure", "statistic", *(f"n = {n:,}" for n in settings["n"])], lines


def draw_curves(path: Path, content: dict[str, Any]) -> Path:
    """Draw AUC against n, one panel a structure and width, and save them at `path`."""
    settings, cells = content["settings"], content["cells"]
    widths, names = settings["d"], settings["structures"]
    figure, axes = plt.subplots(
        len(names),
        len(widths),
        figsize=(3.6 * len(widths), 2.9 * len(names)),
        squeeze=False,
        sharey=True,
        layout="constrained",
    )
    colours = plt.get_cmap("tab10")
    for structure, line in zip(names, axes, strict=True):
        for d, axis in zip(widths, line, strict=True):
            for place, statistic in enumerate(settings["statistics"]):
                wanted = (structure, d, statistic)
                mine = [
                    (c["n"], c["auc"])
                    for c in cells
                    if (c["structure"], c["d"], c["statistic"]) == wanted and c["auc"] is not None
                ]
                if mine:
                    axis.plot(*zip(*mine, strict=True), "-o", ms=3, color=colours(place))
                axis.plot([], [], "-o", ms=3, color=colours(place), label=statistic)
            axis.axhline(0.9, color="0.8", linewidth=0.8, zorder=0)
            axis.set_xscale("log")
            axis.set_xticks(settings["n"], [f"{n:,}" for n in settings["n"]], fontsize=7)
            axis.minorticks_off()
            axis.set_title(f"{structure}, d = {d}", fontsize=9, loc="left")
            axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[:, 0]:
        axis.set_ylabel("AUC")
    for axis in axes[-1]:
        axis.set_xlabel("n")
    axes[0, 0].legend(frameon=False, fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def markdown(path: Path = OUT) -> str:
    """What the documents show of it."""
    content = json.loads(path.read_text())
    settings = content["settings"]
    told = " ".join(
        f"--{flag} {' '.join(map(str, settings[flag]))}" for flag in ("d", "n", "weights")
    )
    head, lines = _rows(content)
    return (
        "**Independence tests in high dimensions**: `python -m experiments.independence_tests"
        f" {told} --sets {settings['sets']}`, seed {settings['seed']},"
        f" {origin(content['hardware'], *content['weights'].values())}. AUC over"
        f" {settings['sets']} dependent and {settings['sets']} independent Gaussian data sets."
        f" *Sliced* is k-sliced MI, k = {settings['k']}, {settings['slices']} slices; *joint* the"
        " MI of the full width by canonical truncation, where there are samples enough. The last"
        " two are no estimators and see best the linear dependence that is all there is in these"
        f" structures. A dash was not run: too wide, too few samples, or an AUC of {SETTLED} or"
        f" more at a smaller n{'' if _is_whole(content) else '; or the run was stopped before it'}."
        f" {_losses(content)}\n\n{markdown_table(head, lines)}"
    )


def _is_whole(content: dict[str, Any]) -> bool:
    """Whether no statistic was left out by stopping."""
    settings = content["settings"]
    planned = (len(settings[key]) for key in ("structures", "d", "n", "statistics"))
    return len(content["cells"]) == math.prod(planned)


def _losses(content: dict[str, Any]) -> str:
    """Where an estimator's AUC is below that of the better plain statistic, as sentences."""
    found: dict[tuple[str, str, int, int], float] = {
        (c["statistic"], c["structure"], c["d"], c["n"]): c["auc"]
        for c in content["cells"]
        if c["auc"] is not None
    }
    told = []
    for statistic in content["settings"]["statistics"]:
        if statistic in PLAIN:
            continue
        cases: dict[str, list[str]] = {}
        for (name, structure, d, n), ours in sorted(found.items()):
            best = max(found.get((plain, structure, d, n), 0.0) for plain in PLAIN)
            if name == statistic and best - ours > LOSS:
                case = f"{number(ours, 2)} of {number(best, 2)} at n = {n:,}"
                cases.setdefault(f"{structure}, d = {d}", []).append(case)
        lost = "; ".join(f"{place}: {', '.join(few)}" for place, few in cases.items())
        told.append(f"*{statistic}* loses to the better of them in {lost or 'no case'}.")
    return " ".join(told)


def _run(
    structure: str,
    d: int,
    n: int,
    sets: int,
    statistics: dict[str, Statistic],
    cells: Sequence[dict[str, Any]],
) -> list[dict[str, Any]]:
    """One cell a statistic: its AUC, its means where there is dependence and not, and its time."""
    if not statistics:
        return []
    x, y, dependent = draw(structure, d, n, sets)
    before = [c for c in cells if (c["structure"], c["d"]) == (structure, d) and c["n"] < n]
    found = []
    for name, statistic in statistics.items():
        start = time.perf_counter()
        values = None if is_settled(name, before) else evaluate(statistic, x, y)
        seconds = (time.perf_counter() - start) / len(x)
        cell: dict[str, Any] = {"structure": structure, "d": d, "n": n, "statistic": name}
        if values is None:
            found.append(cell | {"auc": None, "means": None, "seconds": None})
            continue
        means = [float(values[part].mean()) for part in (dependent, ~dependent)]
        found.append(cell | {"auc": auc(values, dependent), "means": means, "seconds": seconds})
    return found


def _known(path: Path, content: dict[str, Any]) -> list[dict[str, Any]]:
    """Cells of an interrupted run of the same settings and weights."""
    if not path.is_file():
        return []
    last = json.loads(path.read_text())
    weights = {name: found["sha256"] for name, found in content["weights"].items()}
    same = last["settings"] == content["settings"] and weights == {
        name: found["sha256"] for name, found in last["weights"].items()
    }
    cells: list[dict[str, Any]] = last["cells"] if same else []
    return cells


def main(arguments: Sequence[str] | None = None) -> None:
    """Compute all statistics, print the table, write JSON and picture."""
    parser = argparse.ArgumentParser(prog="python -m experiments.independence_tests")
    parser.add_argument("--d", type=int, nargs="+", default=[16, 64, 128], help="widths of a side")
    parser.add_argument("--n", type=int, nargs="+", default=[50, 100, 200, 500, 1000])
    parser.add_argument("--sets", type=int, default=50, help="data sets of either kind")
    parser.add_argument("--structures", nargs="+", default=list(STRUCTURES), choices=STRUCTURES)
    parser.add_argument("--weights", nargs="+", default=["small"], help="packaged names or files")
    parser.add_argument("--out", type=Path, default=OUT, help="the JSON file")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore", SupportWarning)

    models = {name: FlashMI.from_pretrained(name) for name in options.weights}
    statistics = statistics_of(options.weights, models)
    content: dict[str, Any] = {
        "settings": {
            "d": options.d,
            "n": options.n,
            "sets": options.sets,
            "structures": options.structures,
            "statistics": list(statistics),
            "weights": options.weights,
            "k": K,
            "slices": SLICES,
            "seed": SEED,
        },
        "weights": {name: describe_weights(model, name) for name, model in models.items()},
        **circumstances("matplotlib"),
        "cells": [],
    }
    cells = content["cells"] = _known(options.out, content)
    done = {(c["structure"], c["d"], c["n"], c["statistic"]) for c in cells}
    work = [(s, d, n) for s in options.structures for d in options.d for n in options.n]
    # Few samples first: they are quick, and often settle the rest.
    work.sort(key=lambda cell: (cell[2] > FEW, cell[1], cell[0] == FAINT))
    with tqdm(work, unit="cell", dynamic_ncols=True, disable=None) as bar:
        for structure, d, n in bar:
            bar.set_description(f"{structure}, d={d}, n={n}")
            left = {k: v for k, v in statistics.items() if (structure, d, n, k) not in done}
            cells += _run(structure, d, n, options.sets, left, cells)
            write_json(options.out, content)
    print(table(*_rows(content)))
    picture = draw_curves(options.out.with_suffix(".png"), content)
    print(f"wrote {write_json(options.out, content).name} and {picture.name}")


if __name__ == "__main__":
    main()
