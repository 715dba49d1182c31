"""The picture of an information plane: I(x; z) against I(z; y), coloured by epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flashmi_reg.errors import MissingExtraError

from .information_plane import Point

__all__ = ["draw_plane", "require_matplotlib"]

MARKERS = "os^DvPX*<>hp"
HINT = (
    "the figure needs matplotlib; install it with pip install matplotlib, or pass `figure=False`."
)


def require_matplotlib() -> None:
    """Raises :class:`MissingExtraError` where no figure can be drawn."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(HINT) from error


def draw_plane(points: Sequence[Point], path: str | Path, *, title: str | None = None) -> Path:
    """Writes the figure, one panel a split, and returns its path.

    A layer is a marker and a line through its points in time; the dashed line is the entropy of
    the labels, which I(z; y) cannot exceed. Without targets, I(x; z) is drawn against the epoch.

    Args:
        points: what a callback found; both quantities of one layer, split and step belong together.
        path: the file to write.
        title: above the panels.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    points = [point for point in points if math.isfinite(point.value)]
    splits = list(dict.fromkeys(point.split for point in points)) or ["no points"]
    figure = Figure(figsize=(1.2 + 5.2 * len(splits), 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(splits), squeeze=False)[0]
    last = max((point.epoch for point in points), default=0)
    marks = None
    for axes, split in zip(panels, splits, strict=True):
        marks = _panel(axes, [point for point in points if point.split == split], last) or marks
        axes.set_title(split, loc="left")
    if marks is not None:
        figure.colorbar(marks, ax=panels, label="epoch", pad=0.02)
    if title:
        figure.suptitle(title)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    return path


def _panel(axes: Any, points: Sequence[Point], last: float) -> Any:
    """Draws one split; returns what a colour bar can be made of."""
    marks = None
    layers = list(dict.fromkeys(point.layer for point in points))
    has_target = any(point.quantity == "I_zy" for point in points)
    for i, layer in enumerate(layers):
        found = _series([p for p in points if p.layer == layer], has_target)
        if not found:
            continue
        epochs, across, up = zip(*found, strict=True)
        axes.plot(across, up, color="0.8", linewidth=1, zorder=1)
        marks = axes.scatter(
            across,
            up,
            c=epochs,
            cmap="viridis",
            vmin=0,
            vmax=max(last, 1),
            marker=MARKERS[i % len(MARKERS)],
            s=34,
            zorder=2,
        )
        axes.plot([], [], MARKERS[i % len(MARKERS)], color="0.35", label=layer, linestyle="none")
    ceilings = [point.ceiling for point in points if point.ceiling is not None]
    if ceilings:
        axes.axhline(max(ceilings), color="0.4", linestyle="--", linewidth=1, label="H(y)")
    if has_target:
        axes.set_xlabel(f"I(x; z), nats ({_paths(points, 'I_xz')})")
        axes.set_ylabel(f"I(z; y), nats ({_paths(points, 'I_zy')})")
    else:
        axes.set_xlabel("epoch")
        axes.set_ylabel(f"I(x; z), nats ({_paths(points, 'I_xz')})")
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(0.08)
    if layers:
        axes.legend(frameon=False, fontsize=8)
    return marks


def _series(points: Sequence[Point], has_target: bool) -> list[tuple[float, float, float]]:
    """Epoch, abscissa and ordinate of a layer's points, in the order of time."""
    if not has_target:
        return [(p.epoch, p.epoch, p.value) for p in points if p.quantity == "I_xz"]
    by_time: dict[tuple[int, float], dict[str, float]] = {}
    for p in points:
        by_time.setdefault((p.step, p.epoch), {})[p.quantity] = p.value
    return [
        (epoch, pair["I_xz"], pair["I_zy"])
        for (_, epoch), pair in sorted(by_time.items())
        if len(pair) == 2
    ]


def _paths(points: Sequence[Point], quantity: str) -> str:
    return ", ".join(dict.fromkeys(p.path for p in points if p.quantity == quantity)) or "none"
