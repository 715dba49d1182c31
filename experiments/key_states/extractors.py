"""The extractors that are compared: criterion and reader by name, and what they find."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from experiments.key_states.readers import GaussianReader, MineReader
from flashmi_reg import FlashMI
from flashmi_reg.integrations.maniskill import Demonstration, KeyStateExtractor, SlicedCritic
from flashmi_reg.integrations.maniskill.readers import Reader

__all__ = ["EXTRACTORS", "key_times"]

EXTRACTORS: dict[str, tuple[str, Callable[[], Reader] | None] | None] = {
    "uniform": None,
    "ours, least": ("least", None),
    "ours with base, least": ("least", lambda: SlicedCritic(FlashMI.from_pretrained("base"))),
    "ours, most (MaxMI)": ("most", None),
    "Gaussian, least": ("least", GaussianReader),
    "Gaussian, most": ("most", GaussianReader),
    "MINE-100, least": ("least", MineReader),
    "MINE-100, most": ("most", MineReader),
    "MINE-1000, least": ("least", lambda: MineReader(steps=1000)),
}
"""Criterion and reader by name; the uniform times k/K need neither."""


def key_times(name: str, demos: Sequence[Demonstration], count: int, seed: int) -> list[Tensor]:
    """Times of the key states in each demonstration, each of shape (count,)."""
    kind = EXTRACTORS[name]
    if kind is None:
        shares = torch.arange(1, count + 1) / count
        return [(shares * (len(d) - 1)).round().long() for d in demos]
    criterion, make = kind
    reader = None if make is None else make()
    extractor = KeyStateExtractor(count, criterion=criterion, seed=seed, reader=reader).fit(demos)
    return [extractor.transform(d) for d in demos]
