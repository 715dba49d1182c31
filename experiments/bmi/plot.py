"""The picture of a benchmark run: estimate against truth, and mean absolute errors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from experiments.bmi.evaluate import Cell, Summary

__all__ = ["COLOURS", "LABELS", "draw_results"]

COLOURS = {
    "ours": "#d1495b",
    "control": "#8d99ae",
    "ksg": "#2a9d8f",
    "mine": "#e9a23b",
    "infonce": "#5f6caf",
    "nwj": "#a05195",
    "smile": "#6d4c41",
    "knife": "#4a90c2",
    "small": "#f095a0",
}
LABELS = {
    "ours": "FlashMI",
    "control": "Gaussian copula",
    "ksg": "KSG",
    "mine": "MINE",
    "infonce": "InfoNCE",
    "nwj": "NWJ",
    "smile": "SMILE",
    "knife": "KNIFE",
    "small": "FlashMI, small",
}
MOST_ROWS = 3


def draw_results(path: Path, cells: Sequence[Cell], summaries: Sequence[Summary]) -> Path:
    """Draw a row of panels for each n, or for three of many, and save them at `path`."""
    sizes = sorted({cell.n for cell in cells})
    if len(sizes) > MOST_ROWS:
        sizes = [sizes[0], sizes[len(sizes) // 2], sizes[-1]]
    methods = list(dict.fromkeys(cell.method for cell in cells))
    figure, axes = plt.subplots(
        len(sizes), 2, figsize=(11, 4.6 * len(sizes)), squeeze=False, layout="constrained"
    )
    for n, (left, right) in zip(sizes, axes, strict=True):
        _scatter(left, [cell for cell in cells if cell.n == n], methods)
        _bars(right, [summary for summary in summaries if summary.n == n], methods)
        left.set_title(f"n = {n:,}: estimates of each task", loc="left")
        right.set_title(f"n = {n:,}: mean absolute error", loc="left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def _scatter(axis: Axes, cells: Sequence[Cell], methods: Sequence[str]) -> None:
    top = 1.1 * max(cell.truth for cell in cells)
    axis.plot([0, top], [0, top], color="0.7", linewidth=1, zorder=0)
    for offset, method in enumerate(methods):
        # Many tasks share one truth: methods stand side by side so that none hides another.
        shift = 0.012 * top * (offset - (len(methods) - 1) / 2)
        for narrow, marker in ((True, "o"), (False, "s")):
            chosen = [c for c in cells if c.method == method and c.narrow == narrow and c.values]
            if not chosen:
                continue
            axis.errorbar(
                [cell.truth + shift for cell in chosen],
                [cell.mean or 0.0 for cell in chosen],
                yerr=[cell.spread or 0.0 for cell in chosen],
                fmt=marker,
                markersize=5,
                linewidth=1,
                alpha=0.75,
                color=COLOURS.get(method, "0.3"),
                label=f"{LABELS.get(method, method)}, {'narrow' if narrow else 'wide'}",
            )
    axis.set_xlabel("true mutual information (nats)")
    axis.set_ylabel("estimate (nats), mean ± s.d. over seeds")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8)


def _bars(axis: Axes, summaries: Sequence[Summary], methods: Sequence[str]) -> None:
    groups = [g for g in ("narrow", "wide") if any(s.group == g for s in summaries)]
    width = 0.8 / len(methods)
    for offset, method in enumerate(methods):
        for place, group in enumerate(groups):
            found = [s for s in summaries if (s.method, s.group) == (method, group)]
            at = place + (offset - (len(methods) - 1) / 2) * width
            if not found:
                axis.text(at, 0, "–", ha="center", va="bottom", color=COLOURS.get(method, "0.3"))
                continue
            label = LABELS.get(method, method) if place == 0 else None
            axis.bar(at, found[0].mae, 0.92 * width, color=COLOURS.get(method, "0.3"), label=label)
            axis.text(at, found[0].mae, f"{found[0].mae:.3f}", ha="center", va="bottom", fontsize=8)
    counts = {s.group: s.tasks for s in summaries}
    axis.set_xticks(range(len(groups)), [f"{group} ({counts[group]} tasks)" for group in groups])
    axis.set_ylabel("mean absolute error (nats)")
    axis.margins(y=0.15)
    axis.legend(frameon=False, fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
