"""More known truths than the BMI benchmark has: high information, clusters, labels, wide data.

`python -m experiments.truths` writes results/truths.json and .png (bias against the truth and
against n) and prints a table. None of these families takes part in choosing weights.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import torch
from torch import Tensor
from tqdm import tqdm

from experiments import labels
from experiments.bmi.distributions import AdditiveUniform, Distribution, Gaussian, Student
from experiments.bmi.transforms import normal_cdf, spiral, swiss_roll
from experiments.clusters import draw_clusters
from experiments.independence import mean_estimate
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
from flashmi_reg.errors import InputError, SupportWarning

__all__ = ["Known", "closed_forms", "draw_bias", "main", "markdown"]

OUT = RESULTS / "truths.json"
HIGH = (2.0, 3.0, 4.0, 5.0)
CLUSTERS = ((3, 1), (8, 1), (3, 2), (5, 2), (8, 2), (3, 3), (5, 3), (8, 3), (3, 5), (5, 5), (8, 5))
WIDTHS = (1, 2, 3, 5, 7, 10, 16, 32, 64)
LABEL_TASKS = 3

Pair = tuple[Tensor, Tensor]


class Known(NamedTuple):
    """A distribution of known information.

    Attributes:
        family: the row of the table that it counts in.
        name: of its own.
        mi: the truth in nats.
        sample: from n and a generator to x, (n, dx), and y, (n, dy).
    """

    family: str
    name: str
    mi: float
    sample: Callable[[int, torch.Generator], Pair]


def _gaussian(d: int, mi: float) -> Gaussian:
    """d equally correlated pairs."""
    rho = math.sqrt(-math.expm1(-2 * mi / d))
    eye = torch.eye(d, dtype=torch.float64)
    covariance = torch.cat([torch.cat([eye, rho * eye], 1), torch.cat([rho * eye, eye], 1)])
    return Gaussian(d, d, covariance)


def _additive(mi: float) -> AdditiveUniform:
    """Noise of the width that leaves so much information: ε − log 2ε falls up to ε = ½."""
    low, high = 1e-6, 0.5
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if AdditiveUniform(middle).mi > mi else (low, middle)
    return AdditiveUniform(low)


def _of(family: str, name: str, law: Distribution) -> Known:
    return Known(family, name, law.mi, lambda n, generator: law.draw((n,), generator))


def _student(d: int, df: int, mi: float) -> Known:
    """Correlated Student sides: I of the Gaussian with its correlations, and of its scale."""
    shape, scale = _gaussian(d, mi - Student(d, d, df).mi), Student(d, d, df)

    def sample(n: int, generator: torch.Generator) -> Pair:
        root = torch.linalg.cholesky(shape.covariance)
        z = torch.cat(scale.draw((n,), generator), -1) @ root.mT
        return z[:, :d], z[:, d:]

    return Known("Student, 2–5 nats", f"{d} + {d}, {mi:.0f} nats", shape.mi + scale.mi, sample)


def _bent(family: str, law: Gaussian, bend: Callable[[Tensor, Tensor], Pair]) -> Known:
    return Known(
        family, f"{law.mi:.0f} nats", law.mi, lambda n, generator: bend(*law.draw((n,), generator))
    )


def _rolled(x: Tensor, y: Tensor) -> Pair:
    return swiss_roll(normal_cdf(x)), y


def _turned(x: Tensor, y: Tensor) -> Pair:
    return spiral(0, 1, 3)(x), spiral(1, 2, 3)(y)


def _clusters(count: int, d: int) -> Known:
    name = f"{count} clusters, {d} + {d}"
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    law = draw_clusters(count, d, generator)
    return Known("3–8 clusters", name, law.truth(generator), law.sample)


def closed_forms() -> Iterator[Known]:
    """Distributions of continuous sides whose information has a formula."""
    for mi in HIGH:
        for d in (1, 3, 5):
            yield _of("Gaussian, 2–5 nats", f"{d} + {d}, {mi:.0f} nats", _gaussian(d, mi))
        yield _student(3, 3, mi)
        yield _of("additive uniform, 2–5 nats", f"{mi:.0f} nats", _additive(mi))
        yield _bent("swiss roll, 2–5 nats", _gaussian(1, mi), _rolled)
        yield _bent("spiral 3 + 3, 2–5 nats", _gaussian(3, mi), _turned)
        for d in (16, 32):
            yield _of("wide Gaussian, 2–5 nats", f"{d} + {d}, {mi:.0f} nats", _gaussian(d, mi))
    for d in (10, 25, 50):
        for df in (2, 3, 5):
            yield _of("wide Student", f"{d} + {d}, {df} d.o.f.", Student(d, d, df))


@torch.no_grad()
def _estimates(model: FlashMI, task: Known, n: int, seeds: int) -> list[float]:
    """One estimate a seed; none where the model does not take so wide or so few samples."""
    pairs = []
    for seed in range(seeds):
        key = f"{task.family}|{task.name}|{n}|{seed}"
        generator = torch.Generator().manual_seed(zlib.crc32(key.encode()))
        pairs.append(task.sample(n, generator))
    x, y = (torch.stack(sides) for sides in zip(*pairs, strict=True))
    try:
        values: list[float] = model.mutual_information(x, y).tolist()
    except InputError:
        return []
    return values


def _label_cells(n: int) -> Iterator[dict[str, Any]]:
    """Class labels, in the families of :mod:`experiments.labels`; no weights take part."""
    for family in labels.FAMILIES:
        for seed in range(LABEL_TASKS):
            task, truth, generator = labels.draw(family, seed)
            value = labels.ours(*task.sample(n, generator))
            name = "independent labels" if family == "independent" else "class labels"
            yield _cell(name, f"{family}, {seed}", n, truth, [value])


def _independent_cells(model: FlashMI, n: int, sets: int) -> Iterator[dict[str, Any]]:
    """Independent sides; the value is a mean over data sets."""
    for width in WIDTHS:
        try:
            value = [mean_estimate(model, width, n, sets)]
        except InputError:
            value = []
        family = "independent sides, 1–10" if width <= 10 else "independent sides, 16–64"
        yield _cell(family, f"{width} + {width}", n, 0.0, value)


def _cell(family: str, name: str, n: int, mi: float, values: list[float]) -> dict[str, Any]:
    return {"family": family, "task": name, "n": n, "truth": mi, "values": values}


def _biases(cells: Sequence[dict[str, Any]]) -> list[float]:
    """The signed error of each cell that has values."""
    return [statistics.fmean(c["values"]) - c["truth"] for c in cells if c["values"]]


def _rows(content: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """One line a family: mean absolute error (and bias) at each n."""
    sizes, cells = content["settings"]["n"], content["cells"]
    lines = []
    for family in dict.fromkeys(cell["family"] for cell in cells):
        mine = [cell for cell in cells if cell["family"] == family]
        truths = [cell["truth"] for cell in mine]
        low, high = number(min(truths), 2), number(max(truths), 2)
        tasks = len({cell["task"] for cell in mine})
        line = [family, str(tasks), low if low == high else f"{low} to {high}"]
        for n in sizes:
            here = [cell for cell in mine if cell["n"] == n and cell["values"]]
            errors = [abs(v - cell["truth"]) for cell in here for v in cell["values"]]
            if not here:
                line.append("–")
                continue
            some = "" if len(here) == tasks else f", {len(here)} tasks"
            bias = number(statistics.fmean(_biases(here)), sign=True)
            line.append(f"{number(statistics.fmean(errors))} ({bias}{some})")
        lines.append(line)
    return ["family", "tasks", "truth", *(f"n = {n:,}" for n in sizes)], lines


def draw_bias(path: Path, content: dict[str, Any]) -> Path:
    """Draw bias against the truth, at the largest n, and against n, and save them at `path`."""
    sizes, cells = content["settings"]["n"], content["cells"]
    figure, axes = plt.subplots(1, 3, figsize=(15, 4.6), layout="constrained", sharey=True)
    colours = plt.get_cmap("tab20")
    families = list(dict.fromkeys(cell["family"] for cell in cells))
    shown = [sizes[len(sizes) // 2], sizes[-1]]
    for place, family in enumerate(families):
        mine = [cell for cell in cells if cell["family"] == family and cell["values"]]
        for n, axis in zip(shown, axes, strict=False):
            here = [cell for cell in mine if cell["n"] == n]
            truths = [cell["truth"] for cell in here]
            axis.plot(truths, _biases(here), "o", ms=4, color=colours(place), label=family)
        means = [(n, _biases([cell for cell in mine if cell["n"] == n])) for n in sizes]
        points = [(n, statistics.fmean(biases)) for n, biases in means if biases]
        if points:
            axes[2].plot(*zip(*points, strict=True), "-o", ms=4, color=colours(place))
    for n, axis in zip(shown, axes, strict=False):
        axis.set_xlabel("true mutual information (nats)")
        axis.set_title(f"n = {n:,}: bias of each task against the truth", loc="left", fontsize=10)
    axes[2].set_xscale("log")
    axes[2].set_xticks(sizes, [f"{n:,}" for n in sizes])
    axes[2].minorticks_off()
    axes[2].set_xlabel("n")
    axes[2].set_title("mean bias of each family against n", loc="left", fontsize=10)
    axes[0].set_ylabel("bias (nats)")
    for axis in axes:
        axis.axhline(0, color="0.7", linewidth=0.8, zorder=0)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, fontsize=7, loc="lower left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def markdown(path: Path = OUT) -> str:
    """What the documents show of it."""
    content = json.loads(path.read_text())
    settings = content["settings"]
    head, lines = _rows(content)
    return (
        "**More known truths** (`results/truths.png`: bias against the truth and n): `python -m"
        f" experiments.truths --n {' '.join(map(str, settings['n']))} --seeds {settings['seeds']}"
        f" --weights {settings['weights']}`, {origin(content['hardware'], content['weights'])}."
        " Mean absolute error and, in brackets, bias in nats; the truth of clusters and labels is a"
        " Monte-Carlo mean. Labels are estimated without the weights; the error of independent"
        f" sides is that of a mean over {settings['sets']} data sets.\n\n"
        f"{markdown_table(head, lines)}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Estimate all tasks, print the table, write JSON and picture."""
    parser = argparse.ArgumentParser(prog="python -m experiments.truths")
    parser.add_argument("--n", type=int, nargs="+", default=[250, 1000, 5000])
    parser.add_argument("--seeds", type=int, default=3, help="data sets of each task and n")
    parser.add_argument("--sets", type=int, default=10, help="of independent sides, each width")
    parser.add_argument("--weights", default="base", help="packaged name or .safetensors file")
    parser.add_argument("--out", type=Path, default=OUT, help="the JSON file")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore", SupportWarning)

    model = FlashMI.from_pretrained(options.weights)
    tasks = [*closed_forms(), *(_clusters(count, d) for count, d in CLUSTERS)]
    cells = []
    for n in options.n:
        for task in tqdm(tasks, desc=f"n = {n:,}", unit="task", disable=None):
            values = _estimates(model, task, n, options.seeds)
            cells.append(_cell(task.family, task.name, n, task.mi, values))
        cells += _label_cells(n)
        cells += _independent_cells(model, n, options.sets)
    content = {
        "settings": {
            "n": options.n,
            "seeds": options.seeds,
            "sets": options.sets,
            "weights": Path(options.weights).name,
        },
        "weights": describe_weights(model, options.weights),
        **circumstances("scipy", "matplotlib"),
        "cells": cells,
    }
    print(table(*_rows(content)))
    picture = draw_bias(options.out.with_suffix(".png"), content)
    print(f"wrote {write_json(options.out, content).name} and {picture.name}")


if __name__ == "__main__":
    main()
