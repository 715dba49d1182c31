"""The demo's figure: the data, the scores, and what the representations look like."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .demo_data import CLASSES, ColouredDigits, Split, channels

if TYPE_CHECKING:
    from .demo import Arm

__all__ = ["draw"]

TONES = ("#8c8c8c", "#1b6ca8")
SHOWN = 350


def draw(arms: Sequence[Arm], data: ColouredDigits, path: Path) -> Path:
    """Writes the figure and returns its path.

    Args:
        arms: the ways of training that are compared.
        data: the data of the last repeat, to which the latents of the arms belong.
        path: the file to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 8.2), layout="constrained")
    FigureCanvasAgg(figure)
    top, bottom = _parts(figure, 2, 1, height_ratios=(1, 1.35))
    left, middle, right = _parts(top, 1, 3, width_ratios=(1.25, 1, 0.9))
    _strips(left, data)
    _accuracies(middle.subplots(), arms)
    _leaks(right.subplots(), arms)
    for axes, arm in zip(bottom.subplots(1, len(arms)), arms, strict=True):
        _scatter(axes, arm, data.test_out)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    return path


def _parts(figure: Any, rows: int, columns: int, **ratios: Any) -> Any:
    return figure.subfigures(rows, columns, **ratios)


def _strips(figure: Any, data: ColouredDigits) -> None:
    parts = (
        ("training: colour goes with the digit", data.train),
        ("test: any colour", data.test_out),
    )
    for axes, (title, split) in zip(figure.subplots(2, 1), parts, strict=True):
        rows = torch.stack([r[:4] for r in split.rows_of_class()], dim=1)  # (4, classes)
        tiles = torch.nn.functional.pad(split.images[rows], (0, 1, 0, 1), value=1.0)
        sheet = tiles.permute(0, 3, 1, 4, 2).reshape(4 * 9, CLASSES * 9, 3)
        axes.imshow(sheet.numpy(), interpolation="nearest")
        axes.set_title(title, fontsize=10)
        axes.set_axis_off()


def _bars(axes: Any, arms: Sequence[Arm], fields: Sequence[str], form: str) -> None:
    for i, (arm, tone) in enumerate(zip(arms, TONES, strict=False)):
        stats = [arm.mean_std(field) for field in fields]
        places = [k + 0.4 * (i - 0.5) for k in range(len(fields))]
        heights = [mean for mean, _ in stats]
        axes.bar(places, heights, 0.36, yerr=[std for _, std in stats], color=tone, label=arm.name)
        for place, (mean, std) in zip(places, stats, strict=True):
            text = form.format(mean)
            axes.text(place, max(mean, 0) + std, text, ha="center", va="bottom", fontsize=9)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)


def _accuracies(axes: Any, arms: Sequence[Arm]) -> None:
    _bars(axes, arms, ("accuracy_in", "accuracy_out"), "{:.0%}")
    axes.set_xticks([0, 1], ["colour as\nin training", "colour\nat random"])
    axes.set_ylim(0, 1.3)
    axes.set_yticks([0, 0.5, 1.0], ["0", "50 %", "100 %"])
    axes.set_title("accuracy, held-out digits", fontsize=10)
    axes.legend(loc="upper center", ncols=2, frameon=False, fontsize=9)


def _leaks(axes: Any, arms: Sequence[Arm]) -> None:
    _bars(axes, arms, ("colour_r2", "colour_mi"), "{:.2f}")
    axes.set_xticks([0, 1], ["R² of\na probe", "I(z; colour)\nin nats"])
    axes.margins(y=0.15)
    axes.set_title("colour left in z", fontsize=10)


def _scatter(axes: Any, arm: Arm, split: Split) -> None:
    """Shows the two main directions of z; each image is its digit in the colour of its ground."""
    flat = _two_directions(arm.latent)[:SHOWN]
    tones = channels(split.colour[:SHOWN]).pow(0.8).mul(0.9).tolist()
    for (x, y), digit, tone in zip(
        flat.tolist(), split.labels[:SHOWN].tolist(), tones, strict=True
    ):
        axes.text(x, y, str(digit), color=tone, fontsize=9, ha="center", va="center")
    low, high = flat.amin(0) - 0.2, flat.amax(0) + 0.2
    axes.set_xlim(float(low[0]), float(high[0]))
    axes.set_ylim(float(low[1]), float(high[1]))
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(f"{arm.name}: z of held-out digits, each in its ground's colour", fontsize=10)


def _two_directions(latent: Tensor) -> Tensor:
    centred = latent - latent.mean(0)
    _, _, directions = torch.linalg.svd(centred / centred.std(), full_matrices=False)
    return (centred / centred.std()) @ directions[:2].T
