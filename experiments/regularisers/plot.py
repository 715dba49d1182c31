"""The picture: one panel a task, a point with error bars for each method at its setting."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from experiments.regularisers.methods import METHODS
from experiments.regularisers.selection import of
from experiments.regularisers.summary import Row, spread, summarise
from experiments.regularisers.tasks import TASKS, Cell

__all__ = ["draw"]

TONES = ("#6b7280", "#d1495b", "#2a9d8f", "#e9a23b", "#8f5fbf", "#2f6fb0", "#7a8b3c")
MARKS = ("s", "o", "^", "v", "P", "D", "X")
# What stands on the horizontal axis: the judge of the term; its figure is better low or high.
ACROSS = {"removal": "leak", "views": "information", "bottleneck": "information"}


def draw(path: Path, cells: Sequence[Cell], tuning: Sequence[int], note: str) -> Path:
    """Writes the figure and returns its path.

    Args:
        path: of the picture.
        cells: of all tasks.
        tuning: seeds of which all settings are there; they are drawn small.
        note: under the title.
    """
    rows = summarise(cells, tuning)
    tasks = list(dict.fromkeys(row.task for row in rows))
    columns = 2 if len(tasks) > 1 else 1
    lines = -(-len(tasks) // columns)
    figure, grid = plt.subplots(
        lines, columns, figsize=(6 * columns, 4.4 * lines), layout="constrained", squeeze=False
    )
    for panel, task in zip(grid.flat, tasks, strict=False):
        _panel(panel, task, [row for row in rows if row.task == task], cells, tuning)
    for panel in list(grid.flat)[len(tasks) :]:
        panel.set_visible(False)
    present = [method for method in METHODS if any(row.method == method for row in rows)]
    handles = [
        plt.Line2D([], [], color=tone, marker=mark, linestyle="", label=method)
        for method, tone, mark in zip(METHODS, TONES, MARKS, strict=True)
        if method in present
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(present), frameon=False)
    figure.suptitle(f"Terms for a loss at equal time of the processor\n{note}", fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def _panel(
    axes: Axes, task: str, rows: Sequence[Row], cells: Sequence[Cell], tuning: Sequence[int]
) -> None:
    settings = TASKS[task]
    across = ACROSS[settings.kind]
    for row in rows:
        at = METHODS.index(row.method)
        tone, mark = TONES[at], MARKS[at]
        curve = []
        for setting in settings.grids[row.method]:
            tuned = [c for c in of(cells, task, row.method, setting) if c.seed in tuning]
            if tuned:
                curve.append((spread(tuned, across)[0], spread(tuned, "score")[0]))
        axes.plot(
            *zip(*curve, strict=True),
            color=tone,
            marker=mark,
            markersize=3,
            alpha=0.3,
            linestyle="",
        )
        (x, dx), (y, dy) = row.figures[across], row.figures["score"]
        axes.errorbar(
            x, y, xerr=dx, yerr=dy, color=tone, marker=mark, markersize=9, capsize=3, zorder=3
        )
    axes.set_title(settings.title, loc="left", fontsize=10)
    axes.set_ylabel(settings.names["score"] + " ↑")
    sign = " →" if settings.kind == "views" else (" ↓" if settings.kind == "removal" else "")
    axes.set_xlabel(settings.names[across] + sign)
    axes.spines[["top", "right"]].set_visible(False)
