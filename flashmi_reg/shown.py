r"""Which few coordinates of wide sides the network is shown: those above chance, and norms.

Any functions of x alone and of y alone have no more information than x and y have, so that the
choice is free; what counts is that few coordinates are shown, for a critic read among many that are
noise misses most. Shown are

- *canonical pairs* whose correlation is above chance;
- a *turned direction*: what is left of the other side's variates lies along it in proportion to the
  norm, as in a spiral; each fifth of the samples is seen in the direction found in the others;
- *bent axes*, coordinates that correlate with a magnitude, or whose magnitude does, both freed of
  the sample's norm;
- the *norm* of all coordinates, which tells scales; but not those of pairs that are not shown, of
  which the closed form tells alone.

Chance is what random flips of the samples' signs leave: they undo odd dependences and keep the
scales that heavy tails are made of, as in Jackknife, Bootstrap and Other Resampling Methods in
Regression Analysis (Wu, 1986).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from .copula import normal_scores

__all__ = ["Canonicals", "Shown", "choose", "edge_of_chance"]

# Parts of the samples of which each has turned directions found in the others.
FOLDS = 5
# Standard deviations above the mean of what flips leave.
MARGIN = 3.0
# The chance that any of a data set's axes seems bent.
LEVEL = 0.01


class Canonicals(NamedTuple):
    """One data set in the canonical coordinates of its full widths, strongest pair first.

    Attributes:
        u: coordinates of x, shape (n, dx).
        v: coordinates of y, shape (n, dy).
        x_turn: rotation of x's whitened columns to them, shape (dx, dx).
        y_turn: the same of y, shape (dy, dy).
        rho: canonical correlations, shape (min(dx, dy),).
        pairs: how many of them are above chance, shape ().
    """

    u: Tensor
    v: Tensor
    x_turn: Tensor
    y_turn: Tensor
    rho: Tensor
    pairs: Tensor


class Shown(NamedTuple):
    """Of one side: how to get from its canonical coordinates to what is shown.

    Attributes:
        fixed: directions, shape (d, p).
        crossed: directions of each fold of the samples, shape (folds, d, q).
        norm: ones for the coordinates whose norm is shown, shape (d, 1), or none.
    """

    fixed: Tensor
    crossed: Tensor
    norm: Tensor | None

    def linear(self, side: Tensor) -> Tensor:
        """Shown linear functions of canonical coordinates, shape (n, d) → (n, p)."""
        found = [side @ self.fixed]
        if self.crossed.shape[-1]:
            by_fold = torch.stack([side @ direction for direction in self.crossed], 1)
            found.append(by_fold[torch.arange(len(side), device=side.device), _folds(side)])
        return torch.cat(found, -1)

    def coordinates(self, side: Tensor) -> Tensor:
        """All that is shown, as normal scores, shape (n, d) → (n, p) or (n, p + 1)."""
        found = self.linear(side)
        if self.norm is not None:
            found = torch.cat([found, side.square() @ self.norm], -1)
        return normal_scores(found)


def edge_of_chance(largest: Tensor) -> Tensor:
    """Above it is no chance; from what each flip leaves, shape (flips, *) → (*)."""
    return largest.mean(0) + MARGIN * largest.std(0)


@torch.no_grad()
def choose(data: Canonicals, signs: Tensor, width: int) -> tuple[Shown, Shown]:
    """The coordinates of x and of y to be shown.

    Args:
        data: whose samples are in random order.
        signs: random flips, shape (flips, n).
        width: how many coordinates of a side the network takes.
    """
    u, v = data.u.detach(), data.v.detach()
    pairs = int(data.pairs)
    k = min(pairs, width - 1)
    rho = data.rho.detach()[:k]
    axes = [_axes(side, turn, pairs) for side, turn in ((u, data.x_turn), (v, data.y_turn))]
    features = [_features(side, k, part) for side, part in zip((u, v), axes, strict=True)]
    sides = []
    for place, (side, other) in enumerate(((u, v), (v, u))):
        d = side.shape[-1]
        eye = torch.eye(d, dtype=side.dtype, device=side.device)
        if d <= width:
            sides.append(Shown(eye, eye.new_zeros(FOLDS, d, 0), None))
            continue
        turned = eye.new_zeros(FOLDS, d, 0)
        if 0 < k < width - 1 and pairs < d - 1:
            turned = _turned(other[:, :k] - rho * side[:, :k], side, pairs, signs)
        bent = _bent(features[place], features[1 - place])[: width - 1 - k - turned.shape[-1]]
        fixed = torch.cat([eye[:, :k], axes[place].directions[:, bent]], -1)
        norm = torch.ones_like(eye[:, :1])
        norm[k:pairs] = 0.0
        beyond = norm if pairs < d else None
        sides.append(Shown(fixed, turned, beyond))
    return sides[0], sides[1]


def _turned(missed: Tensor, side: Tensor, pairs: int, signs: Tensor) -> Tensor:
    """The direction that, times the norm, goes with what was missed, shape (folds, d, 1 or 0).

    Args:
        missed: of the other side's variates what the side's own do not explain, shape (n, k).
        side: canonical coordinates, shape (n, d).
        pairs: the direction is sought among the coordinates beyond.
        signs: random flips, shape (flips, n).
    """
    (n, d), rest = side.shape, side[:, pairs:]
    factors = _standard(missed) * normal_scores(side.square().sum(-1, keepdim=True))
    _, found, mix = torch.linalg.svd(rest.mT @ factors / n, full_matrices=False)
    flipped = (signs.mT[:, :, None] * factors[:, None]).flatten(1)
    left = (rest.mT @ flipped / n).unflatten(1, (len(signs), -1)).movedim(1, 0)
    if found[0] <= edge_of_chance(torch.linalg.matrix_norm(left, 2)):
        return side.new_zeros(FOLDS, d, 0)
    products = rest * (factors @ mix[0])[:, None]
    part = products.new_zeros(FOLDS, d - pairs).index_add_(0, _folds(side), products)
    direction = part.sum(0) - part
    direction = direction / direction.norm(dim=-1, keepdim=True).clamp_min(1e-9)
    return pad(direction, (pairs, 0))[..., None]


def _folds(side: Tensor) -> Tensor:
    return torch.arange(len(side), device=side.device) % FOLDS


class _Axes(NamedTuple):
    """Whitened columns less the pairs, over the norm of all: samples and directions (d, d)."""

    samples: Tensor
    directions: Tensor


def _axes(side: Tensor, turn: Tensor, pairs: int) -> _Axes:
    rest = side[:, pairs:]
    directions = torch.cat([torch.zeros_like(turn[:, :pairs]), turn.detach()[:, pairs:]], -1).mT
    norm = rest.square().sum(-1, keepdim=True).sqrt().clamp_min(1e-9)
    return _Axes(side @ directions / norm, directions)


class _Features(NamedTuple):
    """Standardised functions of one side, shape (n, ·): odd and even, those of its axes last."""

    odd: Tensor
    even: Tensor
    axes: int


def _features(side: Tensor, k: int, axes: _Axes) -> _Features:
    odd = torch.cat([side[:, :k], axes.samples], -1)
    return _Features(_standard(odd), _standard(odd.abs()), axes.samples.shape[-1])


def _standard(z: Tensor) -> Tensor:
    z = z - z.mean(0)
    return z / z.square().mean(0).sqrt().clamp_min(1e-9)


def _bent(own: _Features, other: _Features) -> Tensor:
    """Axes of a side that a magnitude goes with, the strongest first."""
    n = len(own.odd)
    odd, even = own.odd[:, -own.axes :], own.even[:, -own.axes :]
    across = torch.cat([other.odd, other.even], -1)
    found = torch.maximum(
        (odd.mT @ other.even / n).abs().amax(-1), (even.mT @ across / n).abs().amax(-1)
    )
    entries = own.axes * (other.even.shape[-1] + across.shape[-1])
    edge = math.sqrt(2 * math.log(2 * entries / LEVEL) / n)
    order = found.argsort(descending=True)
    return order[found[order] > edge]
