r"""Experts on log p(c|x) − log p(c), each in closed form.

Each expert says two things of every sample: what it makes of it (`fit`), and what it would have
made of it had the sample not been among those it was built from (`left_out`). How loudly it is
heard, see :func:`flashmi_reg.multinomial.listen`, depends on the latter, so that one that merely
remembers is not.

- linear: multinomial ridge regression, its ridge chosen by leave-one-out.
- quadratic: Gaussian classes whose covariances are shrunk to their mean; the predictive density of
  the conjugate prior, a multivariate Student t (Geisser, 1964), left out in closed form.
- neighbours: the classes of the nearest samples, by a Gaussian kernel as wide as the k-th of them.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .multinomial import cross_entropy, leave_one_out, solve_classes

__all__ = [
    "Linear",
    "Neighbours",
    "Prior",
    "Quadratic",
    "Said",
    "fit_linear",
    "fit_quadratic",
    "normalised",
]

# Logs of the factors on the coordinates among which leave-one-out chooses the ridge.
LEVELS = (-4.0, -2.5, -1.0, 0.5)
ITERATIONS = 2
# The intercept is all but free.
INTERCEPT = 10.0
# Least share of a covariance that is left when a sample is taken out.
MIN_KEPT = 0.02
# Votes for p(c) that are cast before any neighbour's.
PRIOR_VOTES = 0.5
# The kernel falls to exp(−SHARPNESS) at the k-th neighbour, whose squared distance is held above
# MIN_REACH, in units of the variance within the classes: samples may coincide.
SHARPNESS = 2.0
MIN_REACH = 1e-4
# Points that are asked about at once: their distances stay in the cache.
BLOCK = 256


class Said(NamedTuple):
    """What an expert says of the samples, log p(c|x) − log p(c), each of shape (b, n, C)."""

    fit: Tensor
    left_out: Tensor


class Prior(NamedTuple):
    """log p(c), with all samples and without the one in question; −inf for an absent class.

    Attributes:
        fit: shape (b, 1, C).
        left_out: shape (b, n, C).
    """

    fit: Tensor
    left_out: Tensor

    @classmethod
    def of(cls, target: Tensor) -> Prior:
        """From one-hot classes, shape (b, n, C)."""
        n, count = target.shape[1], target.sum(1, keepdim=True)
        # Half a sample stands for a class that has no other.
        rest = torch.where(count > 0, (count - target).clamp_min(0.5), 0.0)
        return cls((count / n).log(), (rest / rest.sum(-1, keepdim=True)).log())


def normalised(ratio: Tensor, prior: Tensor) -> Tensor:
    """Log ratios, shape (b, n, C), shifted such that p(c|x) sums to one; absent classes get zero.

    Args:
        ratio: log p(c|x) − log p(c) up to a constant of each sample.
        prior: log p(c), shape (b, 1 or n, C), −inf for an absent class.
    """
    total = (ratio + prior).logsumexp(-1, keepdim=True)
    return torch.where(prior.isfinite(), ratio - total, 0.0)


# --- linear -----------------------------------------------------------------------------------


class Linear(NamedTuple):
    """Weights of a constant and of the coordinates, shape (b, d + 1, C)."""

    weights: Tensor

    def __call__(self, points: Tensor) -> Tensor:
        """Log ratios up to a constant of each point, shape (b, m, d) → (b, m, C)."""
        return points @ self.weights[:, 1:] + self.weights[:, :1]


def fit_linear(points: Tensor, target: Tensor, prior: Prior) -> tuple[Linear, Said]:
    """Multinomial ridge regression, averaged over ridges by exp(−n · leave-one-out loss).

    Args:
        points: coordinates, shape (b, n, d).
        target: one-hot classes, shape (b, n, C).
        prior: of the classes.
    """
    b, n, d = points.shape
    offset = prior.fit.clamp_min(-1e4).expand(b, n, -1)
    constant = torch.full_like(points[..., :1], INTERCEPT)
    start, before = None, 0.0
    losses, weights, fits, left_out = [], [], [], []
    for level in LEVELS:
        # From quiet to loud, each solved from where the last one ended.
        features = torch.cat([constant, points * math.exp(level)], -1)
        scale = torch.full((d + 1, 1), math.exp(level), device=points.device, dtype=points.dtype)
        scale[0] = INTERCEPT
        if start is not None:
            start = start.detach() * torch.where(scale == INTERCEPT, 1.0, math.exp(before - level))
        solution = solve_classes(features, offset, target, ITERATIONS, start)
        start, before = solution.weights, level
        without = leave_one_out(features, solution.logits, target)
        losses.append(cross_entropy(without, target))
        weights.append(solution.weights * scale)
        fits.append(solution.logits - offset)
        left_out.append(without - prior.left_out.clamp_min(-1e4))
    share = (-n * torch.stack(losses, -1)).softmax(-1)

    def average(parts: list[Tensor]) -> Tensor:
        return torch.einsum("bl,lbij->bij", share, torch.stack(parts))

    said = Said(normalised(average(fits), prior.fit), normalised(average(left_out), prior.left_out))
    return Linear(average(weights)), said


# --- quadratic --------------------------------------------------------------------------------


class Quadratic(NamedTuple):
    """Student-t predictive densities of the classes.

    Attributes:
        mean: of each class, shape (b, C, d).
        whitener: inverse Cholesky factor of its scale, shape (b, C, d, d).
        log_scale: log determinant of the scale, shape (b, C).
        size: samples of each class, shape (b, C).
        strength: how many samples the mean covariance counts for, besides d.
    """

    mean: Tensor
    whitener: Tensor
    log_scale: Tensor
    size: Tensor
    strength: float

    def __call__(self, points: Tensor) -> Tensor:
        """log p(x|c) up to a constant, shape (b, m, d) → (b, m, C)."""
        distance = self._white(points, self.mean[:, :, None]).square().sum(-1)
        count, log_scale = self.size[..., None], self.log_scale[..., None]
        return self._log_density(distance, log_scale, count).mT

    def left_out(self, points: Tensor, target: Tensor) -> Tensor:
        """The same at the samples, each without its part in means and covariances."""
        n = points.shape[1]
        nu = self.strength + points.shape[-1]
        here = self._white(points, self.mean[:, :, None])
        # Of the sample from the mean of its own class, in the coordinates of every class.
        centres = self.mean[:, None] @ self.whitener.mT
        own = self._white(points, 0.0) - target[:, None] @ centres
        count = self.size[..., None]
        taken = (target @ (count / (count - 1).clamp_min(0.5))).mT  # n_c/(n_c − 1), (b, 1, n)
        mine = target.mT > 0

        # The class's own scatter loses taken · δδᵀ, the mean covariance an n-th of that.
        share = taken * (nu / n + mine)
        kept = (1 - share * own.square().sum(-1)).clamp_min(MIN_KEPT)
        distance = here.square().sum(-1) + share * (here * own).sum(-1).square() / kept
        distance = torch.where(mine, taken.square() * distance, distance)
        log_scale = self.log_scale[..., None] + kept.log()
        density = self._log_density(distance, log_scale, (count - mine.to(count)).clamp_min(0.5))
        return density.mT

    def _white(self, points: Tensor, origin: Tensor | float) -> Tensor:
        """Points from an origin in the coordinates of each class, shape (b, C, m, d)."""
        return (points[:, None] - origin) @ self.whitener.mT

    def _log_density(self, distance: Tensor, log_scale: Tensor, count: Tensor) -> Tensor:
        d = self.mean.shape[-1]
        freedom = count + self.strength + 1
        spread = 1 + 1 / count.clamp_min(0.5)
        gamma = torch.lgamma((freedom + d) / 2) - torch.lgamma(freedom / 2)
        tail = (freedom + d) / 2 * torch.log1p(distance / spread)
        return gamma - (log_scale + d * spread.log()) / 2 - tail


def fit_quadratic(
    points: Tensor, target: Tensor, prior: Prior, strength: float
) -> tuple[Quadratic, Said]:
    """Gaussian classes; arguments as of :func:`fit_linear`, `strength` as of :class:`Quadratic`."""
    n, d = points.shape[1:]
    count = target.sum(1)
    mean = target.mT @ points / count[..., None].clamp_min(1)
    rest = points - target @ mean
    scatter = torch.einsum("bnc,bni,bnj->bcij", target, rest, rest)
    eye = torch.eye(d, device=points.device, dtype=points.dtype)
    scale = scatter + (strength + d) * (scatter.sum(1, keepdim=True) / n + 1e-4 * eye)
    factor = torch.linalg.cholesky(scale)
    whitener = torch.linalg.solve_triangular(factor, eye.expand_as(scale), upper=False)
    log_scale = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    quadratic = Quadratic(mean, whitener, log_scale, count, strength)
    without = normalised(quadratic.left_out(points, target), prior.left_out)
    # A class of one sample is not known at all without it.
    lone = (target > 0) & (count == 1)[:, None]
    said = Said(normalised(quadratic(points), prior.fit), torch.where(lone, 0.0, without))
    return quadratic, said


# --- neighbours -------------------------------------------------------------------------------


class Neighbours(NamedTuple):
    """Votes of the nearest samples.

    Attributes:
        anchors: samples that vote, shape (b, m, d).
        votes: their classes, one-hot, shape (b, m, C).
        prior: of the classes.
    """

    anchors: Tensor
    votes: Tensor
    prior: Prior

    def __call__(self, points: Tensor, reach: tuple[int, ...], own: Tensor | None) -> list[Said]:
        """Log ratios by the kernels of several reaches.

        Args:
            points: where to ask, shape (b, n, d).
            reach: the ranks k of the neighbours that set the widths.
            own: which point each anchor is, shape (b, m); None where points are new.
        """
        mine = None
        if own is not None:
            empty = self.votes.new_zeros(*points.shape[:2], self.votes.shape[-1])
            mine = empty.scatter(1, own[..., None].expand_as(self.votes), self.votes)
        counted = [self._count(block, reach) for block in points.split(BLOCK, 1)]
        said = []
        for votes in (torch.cat(parts, 1) for parts in zip(*counted, strict=True)):
            fit = _ratio(votes, self.prior.fit)
            left_out = fit
            if mine is not None:
                left_out = _ratio((votes - mine).clamp_min(0), self.prior.left_out)
            said.append(Said(fit, left_out))
        return said

    def _count(self, points: Tensor, reach: tuple[int, ...]) -> list[Tensor]:
        """Votes for each class, by reach."""
        distance = (
            points.square().sum(-1, keepdim=True)
            + self.anchors.square().sum(-1)[:, None]
            - 2 * points @ self.anchors.mT
        ).clamp_min(0)
        # Where the anchors are held fixed, so are the widths: their gradient is mostly noise.
        measured = distance if self.anchors.requires_grad else distance.detach()
        near = measured.topk(max(reach) + 1, largest=False).values
        # An anchor is its own nearest: the k-th of the others comes one later.
        scales = (-SHARPNESS / near[..., k : k + 1].clamp_min(MIN_REACH) for k in reach)
        return [torch.exp(distance * scale) @ self.votes for scale in scales]


def _ratio(votes: Tensor, prior: Tensor) -> Tensor:
    chance = votes + PRIOR_VOTES * prior.exp()
    chance = chance / chance.sum(-1, keepdim=True)
    known = prior.isfinite()
    # The inner choice keeps the gradient of log 0 away.
    return torch.where(known, torch.where(known, chance, 1.0).log() - prior, 0.0)
