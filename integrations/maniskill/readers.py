"""How an extractor reads pairs: the frozen estimator's critic on random slices of wide states."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from flashmi_reg import FlashMI
from flashmi_reg.slicing import orthonormal

__all__ = ["POOL", "WEIGHTS", "PairScore", "Reader", "SlicedCritic", "read_pairs"]

WEIGHTS = "small"  # several times faster than `base`; the errors of the two were not compared
POOL = 100  # pairs that are read at once, one a demonstration
CAP = 0.95  # quantile of what was read: beyond it the critic extrapolates
FLOOR = -10.0  # nats

PairScore = Callable[[Tensor, Tensor], Tensor]
"""Pointwise MI in nats, shape (b, m), of pairs of shapes (b, m, Q)."""


class Reader(Protocol):
    """Reads b data sets of pairs and returns the pointwise MI at any pairs.

    Attributes:
        together: how many readings an extractor asks for at once.
    """

    @property
    def together(self) -> int:
        """See above."""

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
        slices: number of projections, drawn anew for each data set.
        width: coordinates of a slice.
        together: how many readings an extractor asks for at once.
    """

    model: FlashMI
    slices: int = 1
    width: int = 5
    together: int = 16

    @torch.no_grad()
    def __call__(self, x: Tensor, y: Tensor, generator: torch.Generator) -> PairScore:
        """Reads x and y, each of shape (b, n, Q), and returns their critic."""
        b, _, q = x.shape
        drawn = slices_of(q, b * self.slices, self.width, generator)
        count = max(len(drawn) // b, 1)  # one where nothing is to be cut
        projections = drawn.expand(b * count, -1, -1).unflatten(0, (b, count))

        def project(z: Tensor) -> Tensor:
            return torch.einsum("bnq,bsqk->bsnk", z, projections).flatten(0, 1)

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


def read_pairs(
    read: Reader, now: Tensor, then: Tensor, weights: Tensor, generator: torch.Generator
) -> PairScore:
    """Reads one pair of each demonstration, its time drawn by the weights.

    Args:
        read: the reader.
        now: states of r readings of m demonstrations at L times, shape (r, m, L, Q).
        then: the states before them, of the same shape.
        weights: of the times, shape (r, m, L, S); each of the S columns makes a data set.
        generator: the source of the draws.

    Returns:
        The pointwise MI of all pairs of shape (r, m', L, Q), as each data set tells it, of shape
        (r, m', L, S).
    """
    r, m, length, sets = weights.shape
    picks = torch.multinomial(weights.mT.reshape(-1, length), 1, generator=generator)
    picks = picks.reshape(r, m, sets).mT[..., None, None]  # (r, S, m, 1, 1)

    def drawn(z: Tensor) -> Tensor:
        index = picks.expand(-1, -1, -1, 1, z.shape[-1])
        return z[:, None].expand(-1, sets, -1, -1, -1).gather(3, index)[..., 0, :].flatten(0, 1)

    x, y = drawn(now), drawn(then)
    score = read(x, y, generator)
    cap = score(x, y).quantile(CAP, dim=1)[:, None]

    def every(x: Tensor, y: Tensor) -> Tensor:
        flat = (z.flatten(1, 2).repeat_interleave(sets, 0) for z in (x, y))
        value = torch.minimum(score(*flat), cap).clamp_min(FLOOR)
        return value.unflatten(1, x.shape[1:3]).unflatten(0, (r, sets)).permute(0, 2, 3, 1)

    return every
