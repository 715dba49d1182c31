"""The experiment's figure: index errors of the extractors, task by task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["draw"]

TONES = {"ours": "#1b6ca8", "uniform": "#8c8c8c", "Gaussian": "#d0a146", "MINE": "#b5543c"}


def draw(rows: Sequence[dict[str, Any]], path: Path) -> Path:
    """Writes bars of the median error of the searched key states and returns the path."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    tasks = list(dict.fromkeys(r["task"] for r in rows))
    names = list(dict.fromkeys(r["extractor"] for r in rows))
    figure = Figure(figsize=(11, 1.2 + 0.36 * len(names)), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        for i, name in enumerate(names):
            tone = next(tone for start, tone in TONES.items() if name.startswith(start))
            for pace, offset in (("recorded", -0.2), ("warped", 0.2)):
                found = [
                    r["searched"]
                    for r in rows
                    if (r["task"], r["extractor"], r["pace"]) == (task, name, pace)
                ]
                if not found:
                    continue
                value = sum(found) / len(found)
                pale = 1.0 if pace == "recorded" else 0.45
                axes.barh(i + offset, value, 0.38, color=tone, alpha=pale)
                axes.text(value, i + offset, f" {value:.3f}", va="center", fontsize=7)
        axes.set_yticks(range(len(names)), names if task == tasks[0] else [""] * len(names))
        axes.invert_yaxis()
        axes.margins(x=0.15)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title(task, fontsize=10)
        axes.set_xlabel("error, share of the length", fontsize=9)
    figure.suptitle("key state to event, median over demonstrations (pale: time-warped)")
    figure.savefig(path, dpi=130)
    return path
