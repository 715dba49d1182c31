"""The picture of the experiment: curves with bands over repeats, and information with accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from experiments.ib_dynamics.summary import curve
from experiments.ib_dynamics.training import Run

__all__ = ["draw"]

TONES = ("#e9a23b", "#2a9d8f", "#5f6caf", "#d1495b", "#8d99ae")
NAMES = {"accuracy": "accuracy", "I_zy": "I(z; y), nats", "I_xz": "I(x; z), nats"}


def draw(path: Path, runs: Sequence[Run], summary: dict[str, Any], source: str) -> Path:
    """Writes the figure of one layer and returns its path."""
    figure, axes = plt.subplots(2, 2, figsize=(11, 8), layout="constrained")
    layer = summary["layer"]
    sizes = sorted({run.words for run in runs})
    tones = dict(zip(sizes, TONES, strict=False))
    for panel, name in zip(axes.flat, NAMES, strict=False):
        for words in sizes:
            same = [run for run in runs if run.words == words]
            for split, style in (("val", "-"), ("train", ":")):
                _band(panel, same, name, layer, split, style, tones[words])
        paths = {p["path"] for run in runs for p in run.points if p["quantity"] == name}
        panel.set_ylabel(NAMES[name] + (f" ({', '.join(sorted(paths))})" if paths else ""))
        panel.set_xlabel("epoch")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    if summary["label_entropy"] is not None:
        axes[0, 1].axhline(summary["label_entropy"], color="0.4", linestyle="--", linewidth=1)
        place = (0.99, summary["label_entropy"])
        axes[0, 1].annotate(
            "H(y)", place, xycoords=("axes fraction", "data"), va="bottom", ha="right", fontsize=9
        )
        axes[0, 1].margins(y=0.08)
    _scatter(axes[1, 1], runs, layer, tones, summary)
    for words in sizes:
        axes[0, 0].plot([], [], color=tones[words], label=f"{words:,} words")
    axes[0, 0].plot([], [], color="0.3", label="validation")
    axes[0, 0].plot([], [], color="0.3", linestyle=":", label="training")
    axes[0, 0].legend(frameon=False, fontsize=9)
    for panel in axes.flat:
        panel.spines[["top", "right"]].set_visible(False)
    repeats = max(row["repeats"] for row in summary["ends"])
    figure.suptitle(
        f"Four-layer perceptron, layer {layer}; mean and range of {repeats} repeat(s)\n{source}",
        fontsize=10,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path


def _band(
    axes: Axes, runs: Sequence[Run], name: str, layer: str, split: str, style: str, tone: str
) -> None:
    curves = [curve(run, name, layer, split) for run in runs]
    epochs, _ = curves[0]
    if not len(epochs):
        return
    values = np.stack([values for _, values in curves])
    marker = "." if name != "accuracy" else None
    axes.plot(epochs + 1, values.mean(0), style, color=tone, marker=marker)
    axes.fill_between(epochs + 1, values.min(0), values.max(0), color=tone, alpha=0.18, linewidth=0)


def _scatter(
    axes: Axes, runs: Sequence[Run], layer: str, tones: dict[int, str], summary: dict[str, Any]
) -> None:
    for run in runs:
        epochs, information = curve(run, "I_zy", layer)
        accuracy = {row["epoch"]: row["val_accuracy"] for row in run.epochs}
        across = [accuracy[epoch] for epoch in epochs]
        axes.plot(across, information, "o", markersize=4, alpha=0.7, color=tones[run.words])
    axes.set_xlabel("validation accuracy")
    axes.set_ylabel("I(z; y) on validation data, nats")
    found = summary["correlation"]
    axes.set_title(
        f"all runs and epochs: Pearson {found['pearson']:.2f}, Spearman {found['spearman']:.2f}",
        loc="left",
        fontsize=10,
    )
