"""Accuracy against time and against n, from the benchmark's results, without running anything.

`python -m experiments.bmi.curves` reads results/bmi.json and results/bmi_small.json, prints a table
and draws results/bmi_curves.png, the counterpart of Fig. 6a of the paper.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from experiments.bmi.plot import COLOURS, LABELS
from experiments.report import RESULTS, markdown_table, number, table

__all__ = ["PUBLISHED", "draw_curves", "main", "markdown", "rows_of"]

Row = dict[str, Any]

SOURCES = {"bmi.json": {}, "bmi_small.json": {"ours": "small"}}
"""Files of results, and the names that methods of each go by here; others are left out."""

PUBLISHED: dict[str, dict[str, dict[int, float]]] = {
    "ALICE Base": {
        "narrow": {1_000: 0.079, 5_000: 0.057, 10_000: 0.054},
        "wide": {1_000: 0.153, 5_000: 0.090, 10_000: 0.086},
        "all": {1_000: 0.092, 5_000: 0.063, 10_000: 0.060},
    },
    "InfoAtlas": {
        "narrow": {1_000: 0.100, 5_000: 0.117, 10_000: 0.123},
        "wide": {1_000: 0.978, 5_000: 0.998, 10_000: 1.000},
        "all": {1_000: 0.253, 5_000: 0.271, 10_000: 0.276},
    },
}
"""Mean absolute errors that others report, by tasks and n."""


def rows_of(folder: Path = RESULTS) -> list[Row]:
    """The summaries of all results that are there: method, n, group, errors, seconds."""
    rows: list[Row] = []
    for name, renamed in SOURCES.items():
        path = folder / name
        if not path.is_file():
            continue
        for row in json.loads(path.read_text())["summary"]:
            if not renamed or row["method"] in renamed:
                rows.append(row | {"method": renamed.get(row["method"], row["method"])})
    return sorted(rows, key=lambda row: row["n"])


def draw_curves(path: Path, rows: Sequence[Row], group: str) -> Path:
    """Draw mean absolute errors of a group of tasks against seconds and against n."""
    chosen = [row for row in rows if row["group"] == group]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.8), layout="constrained")
    for method in dict.fromkeys(row["method"] for row in chosen):
        mine = [row for row in chosen if row["method"] == method]
        style = {"color": COLOURS.get(method, "0.3"), "label": LABELS.get(method, method)}
        errors = [row["mae"] for row in mine]
        left.plot([row["seconds"] for row in mine], errors, "-o", markersize=4, **style)
        last = mine[-1]
        at = (last["seconds"], last["mae"])
        left.annotate(f"{last['n']:,}", at, xytext=(4, 3), textcoords="offset points", fontsize=7)
        right.plot([row["n"] for row in mine], errors, "-o", markersize=4, **style)
    for name, marker in zip(PUBLISHED, "sD", strict=True):
        found = PUBLISHED[name][group]
        style = {"color": "0.35", "fillstyle": "none", "label": f"{name}, as published"}
        right.plot([*found], [*found.values()], marker, markersize=5, **style)
    left.set_xlabel("seconds for one estimate (median over tasks)")
    left.set_title("accuracy against time; the number is the largest n", loc="left", fontsize=10)
    right.set_xlabel("n")
    right.set_title("accuracy against n", loc="left", fontsize=10)
    for axis in (left, right):
        _finish(axis, f"mean absolute error (nats), {group} tasks")
    handles, labels = right.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def _finish(axis: Axes, label: str) -> None:
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.set_ylabel(label)
    axis.grid(visible=True, which="major", alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def _cells(rows: Sequence[Row], group: str) -> tuple[list[str], list[list[str]]]:
    """One line a method: MAE (bias; s.d. over seeds; seconds) at each n."""
    sizes = sorted({row["n"] for row in rows if row["group"] == group})
    found = {(row["method"], row["n"]): row for row in rows if row["group"] == group}
    lines = []
    for method in dict.fromkeys(method for method, _ in found):
        line = [LABELS.get(method, method)]
        for n in sizes:
            row = found.get((method, n))
            line.append("–" if row is None else _cell(row))
        lines.append(line)
    return ["method", *(f"n = {n:,}" for n in sizes)], lines


def _cell(row: Row) -> str:
    seconds = f"{row['seconds']:.2g} s"
    bias, spread = number(row["bias"], sign=True), number(row["spread"])
    return f"{number(row['mae'])} ({bias}; {spread}; {seconds})"


def markdown(folder: Path = RESULTS, groups: Sequence[str] = ("narrow", "wide", "all")) -> str:
    """What the documents show of it."""
    rows = rows_of(folder)
    parts = [
        "**Accuracy against time** on the BMI benchmark (`results/bmi_curves.png`, from the same"
        " results: `python -m experiments.bmi.curves`): mean absolute error in nats (signed bias;"
        " s.d. over seeds; median seconds for one estimate)."
    ]
    for group in groups:
        head, lines = _cells(rows, group)
        if lines:
            tasks = max(row["tasks"] for row in rows if row["group"] == group)
            head[0] = f"{group}, {tasks} tasks"
            parts.append(markdown_table(head, lines))
    return "\n\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables and draw the figure."""
    parser = argparse.ArgumentParser(prog="python -m experiments.bmi.curves", description=__doc__)
    parser.add_argument("--group", choices=["narrow", "wide", "all"], default="narrow")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder of the results")
    options = parser.parse_args(arguments)
    rows = rows_of(options.results)
    head, lines = _cells(rows, options.group)
    print(f"{options.group} tasks: MAE (bias; s.d. over seeds; seconds), nats")
    print(table(head, lines))
    picture = draw_curves(options.results / "bmi_curves.png", rows, options.group)
    print(f"wrote {picture.name}")


if __name__ == "__main__":
    main()
