"""Digits on coloured ground: real images with a nuisance, the colour, that betrays the label."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["CLASSES", "ColouredDigits", "Split", "channels", "coloured_digits"]

CLASSES = 10
# Colours of one class spread this far around its centre. The centres are 0.1 apart, so that every
# class shares its colours with others; digit and colour have a correlation of 0.92.
SPREAD = 0.12
# How strongly the ground is coloured; the digit itself is white.
STRENGTH = 0.8


@dataclass(frozen=True)
class Split:
    """Images, labels and the nuisance of one part of the data.

    Args:
        images: white digits on coloured ground, shape (n, 3, 8, 8), in [0, 1].
        labels: digits, shape (n,).
        colour: the nuisance, shape (n, 1), from red (0) over purple to blue (1).
    """

    images: Tensor
    labels: Tensor
    colour: Tensor

    def rows_of_class(self) -> list[Tensor]:
        """Row numbers of each digit's images, ten tensors."""
        return [torch.nonzero(self.labels == k).flatten() for k in range(CLASSES)]


@dataclass(frozen=True)
class ColouredDigits:
    """One training set, and the same held-out images coloured in two ways.

    Args:
        train: the colour goes with the digit.
        test_in: held-out images, coloured by the rule of `train`.
        test_out: the same held-out images, colour independent of the digit.
    """

    train: Split
    test_in: Split
    test_out: Split


def channels(colour: Tensor) -> Tensor:
    """Gives red, green and blue, shape (n, 3), of colours of shape (n, 1) in [0, 1]."""
    return torch.cat([1 - colour, torch.zeros_like(colour), colour], dim=1)


def _paint(grey: Tensor, colour: Tensor) -> Tensor:
    ground = STRENGTH * channels(colour)[:, :, None, None]
    white = grey[:, None]
    return white + (1 - white) * ground


def _tied_colour(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Draws from a normal around the digit's own colour, reflected into [0, 1]."""
    centre = (labels.to(torch.float32) + 0.5) / CLASSES
    colour = (centre + SPREAD * torch.randn(len(labels), generator=generator)).abs()
    return (1 - (1 - colour).abs())[:, None]


def coloured_digits(seed: int, *, train_share: float = 0.6) -> ColouredDigits:
    """Splits scikit-learn's handwritten digits (1,797 images of 8 by 8) and colours their ground.

    Args:
        seed: seed of the split and of the colours.
        train_share: share of each class to train on.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    grey = torch.from_numpy((digits.images / 16.0).astype(np.float32))
    labels = torch.from_numpy(digits.target.astype(np.int64))
    kept, held = train_test_split(
        np.arange(len(labels)),
        train_size=train_share,
        stratify=digits.target,
        random_state=seed,
    )
    generator = torch.Generator().manual_seed(seed)

    def split(rows: NDArray[np.int64], *, tied: bool) -> Split:
        y = labels[rows]
        if tied:
            colour = _tied_colour(y, generator)
        else:
            colour = torch.rand(len(y), 1, generator=generator)
        return Split(_paint(grey[rows], colour), y, colour)

    return ColouredDigits(split(kept, tied=True), split(held, tied=True), split(held, tied=False))
