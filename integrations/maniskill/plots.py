"""Pictures: mutual information over the course of demonstrations, with their key states marked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from flashmi_reg import FlashMI
from flashmi_reg.errors import InputError, MissingExtraError

from .demonstrations import Demonstration
from .key_states import KeyStateExtractor
from .readers import WEIGHTS, slices_of

__all__ = ["Timeline", "draw_timeline", "timeline"]

SLICES, WIDTH = 4, 5


@dataclass(frozen=True)
class Timeline:
    """What a picture shows.

    Attributes:
        places: times as shares of the length, shape (points,).
        information: 5-sliced I(s_t; s_{t − Δ}) across demonstrations in nats, shape (points,).
        key_places: of the key states of each demonstration, shape (demonstrations, K).
        lag: Δ as a share of the median length.
    """

    places: Tensor
    information: Tensor
    key_places: Tensor
    lag: float


@torch.no_grad()
def timeline(
    extractor: KeyStateExtractor,
    demonstrations: Sequence[Demonstration],
    *,
    points: int = 24,
    model: FlashMI | None = None,
) -> Timeline:
    """Mutual information between present and past at equal shares of the length.

    Both sides of a slice are projected by the same random orthonormal matrix.

    Args:
        extractor: fitted; gives the lag, the scale of the states and the key states.
        demonstrations: at least 50.
        points: number of times.
        model: the estimator, by default that of the packaged `small` weights.

    Raises:
        InputError: too few demonstrations, or the extractor is not fitted.
    """
    model = FlashMI.from_pretrained(WEIGHTS) if model is None else model
    if len(demonstrations) < model.header.trained_n[0]:
        raise InputError(
            f"`demonstrations` holds {len(demonstrations)}; mutual information across "
            f"demonstrations needs at least {model.header.trained_n[0]}."
        )
    lag = extractor.settings.lag_steps
    keys = torch.stack([extractor.transform(d) / (len(d) - 1) for d in demonstrations])
    states = [extractor.standardise(d) for d in demonstrations]
    start = max(lag / (len(s) - 1) for s in states)
    places = torch.linspace(start, 1, points)
    times = torch.stack([(places * (len(s) - 1)).round().long() for s in states])
    now = torch.stack([s[t] for s, t in zip(states, times, strict=True)], 1)
    then = torch.stack([s[t - lag] for s, t in zip(states, times, strict=True)], 1)
    generator = torch.Generator().manual_seed(extractor.settings.seed)
    projections = slices_of(now.shape[-1], SLICES, WIDTH, generator)
    x, y = (torch.einsum("tnq,sqk->tsnk", z, projections).flatten(0, 1) for z in (now, then))
    # What the warnings tell is known: neighbouring states are almost determined by each other.
    value = model.estimate(x, y, generator=generator).value
    information = value.unflatten(0, (points, len(projections))).mean(1)
    return Timeline(places, information, keys, extractor.settings.lag)


def draw_timeline(
    found: Timeline, path: str | Path, *, events: dict[str, Tensor] | None = None
) -> Path:
    """Writes the picture of a timeline and returns its path.

    Args:
        found: from :func:`timeline`.
        path: the file to write.
        events: places of known events in each demonstration as shares of the length, by name, each
            of shape (demonstrations,), for comparison.

    Raises:
        MissingExtraError: matplotlib is missing.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError(
            'drawing needs matplotlib: pip install "flashmi_reg[maniskill]", or matplotlib alone.'
        ) from error
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    top.plot(found.places, found.information, color="#1b6ca8")
    top.set_ylabel("nats")
    top.set_title(f"I(s_t; s_(t−Δ)) across demonstrations, 5-sliced, Δ = {found.lag:.0%}")
    bins = torch.linspace(0, 1.0001, 61)
    for k, places in enumerate(found.key_places.T):
        tone = ("#b5543c", "#d0a146", "#4b8b5a", "#7a5c99")[k % 4]
        name = "end" if k == found.key_places.shape[1] - 1 else f"key state {k + 1}"
        top.axvline(float(places.median()), color=tone, linestyle="--", linewidth=1)
        bottom.hist(places.numpy(), bins=bins.tolist(), color=tone, alpha=0.8, label=name)
    for name, places in (events or {}).items():
        bottom.hist(
            places.numpy(), bins=bins.tolist(), histtype="step", color="black", linewidth=0.8
        )
        bottom.text(
            float(places.median()), bottom.get_ylim()[1], name, ha="center", va="bottom", fontsize=7
        )
    bottom.set_xlabel("time as a share of the demonstration's length")
    bottom.set_ylabel("demos")
    bottom.legend(fontsize=8, frameon=False)
    for axes in (top, bottom):
        axes.spines[["top", "right"]].set_visible(False)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    return path
