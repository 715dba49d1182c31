"""How an extractor reads pairs: the frozen estimator's critic on random slices of wide states."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from flashmi_reg import FlashMI
from flashmi_reg.slicing import orthonormal

__all__ = ["PairScore", "Reader", "SlicedCritic"]

PairScore = Callable[[Tensor, Tensor], Tensor]
"""Pointwise MI in nats, shape (b, m), of pairs of shapes (b, m, Q)."""


class Reader(Protocol):
    """Reads b data sets of pairs and returns the pointwise MI at any pairs."""

    def __call__(self, x: Tensor, y: Tensor, generator: torch.Generator) -> PairScore:
        """Reads x and y, each of shape (b, n, Q); `generator` governs all randomness."""


@dataclass(frozen=True)
class SlicedCritic:
    r"""Pointwise MI as the frozen estimator sees it, averaged over random slices of the state.

    Both sides are projected by the *same* orthonormal matrix, so that what is read is
    I(Pᵀs; Pᵀs'), the information that a part of the state keeps; its mean is at most I(s; s').
    States no wider than a slice are read whole.

    Args:
        model: the estimator.
        slices: number of projections, drawn anew at each reading.
        width: coordinates of a slice.
    """

    model: FlashMI
    slices: int = 4
    width: int = 5

    @torch.no_grad()
    def __call__(self, x: Tensor, y: Tensor, generator: torch.Generator) -> PairScore:
        """Reads x and y, each of shape (b, n, Q), and returns their critic."""
        b, _, q = x.shape
        projections = slices_of(q, self.slices, self.width, generator)
        count = len(projections)

        def project(z: Tensor) -> Tensor:
            return torch.einsum("bnq,sqk->bsnk", z, projections).flatten(0, 1)

        critic = self.model.critic(project(x), project(y), generator=generator)

        @torch.no_grad()
        def score(x: Tensor, y: Tensor) -> Tensor:
            return critic(project(x), project(y)).unflatten(0, (b, count)).mean(1)

        return score


def slices_of(width: int, count: int, k: int, generator: torch.Generator) -> Tensor:
    """Projections of shape (count, width, k); the identity alone where nothing is to be cut."""
    if width <= k:
        return torch.eye(width)[None]
    return orthonormal(width, k, count, generator).float()
