"""A picture of a training run: loss and validation errors against steps."""

from __future__ import annotations

import json
import math
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

__all__ = ["draw_curves"]


def draw_curves(log: Path, figure: Path) -> None:
    """Draws the run recorded in `log` (JSON lines) into `figure`."""
    records = [json.loads(line) for line in log.read_text().splitlines()]
    steps = [max(1, record["step"]) for record in records]  # the axis is logarithmic
    canvas, axes = plt.subplots(1, 3, figsize=(15, 4.2), layout="constrained")
    axes[0].plot(steps, [record["loss"] or math.nan for record in records], color="black")
    axes[0].set_ylabel("training loss")
    for family in records[-1]["error"]:
        axes[1].plot(steps, [r["error"][family] for r in records], label=family)
    axes[1].plot(steps, [r["mean_error"] for r in records], color="black", lw=2, label="mean")
    axes[1].set_ylabel("validation: mean absolute error [nats]")
    for family in records[-1]["nce"]:
        axes[2].plot(steps, [r["nce"][family] for r in records], label=family)
    axes[2].set_ylabel("validation: KL at the pairs read [nats]")
    for axis in axes:
        axis.set_xlabel("step")
        axis.set_xscale("log")
        if math.isfinite(axis.dataLim.minposy):  # there is something positive to show
            axis.set_yscale("log")
        axis.grid(alpha=0.3)
    axes[1].legend(fontsize=7)
    canvas.savefig(figure, dpi=110)
    plt.close(canvas)
