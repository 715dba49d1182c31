r"""The copula transform: each coordinate's ranks become normal scores.

Mutual information does not change under a strictly monotone map of a coordinate, so only the
ranks carry information about it (Sklar, 1959). The forward pass is exact ranks; the backward
pass is that of a smoothed rank (Blondel et al., 2020, give another): see :func:`normal_scores`.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

__all__ = ["Marginals", "ascending", "normal_scores", "scores_and_order"]

# A coordinate's local density, as used by the backward pass, is held below this multiple of its
# average density: samples that coincide to the last bits would otherwise get infinite gradients.
MAX_RELATIVE_DENSITY = 1e3
# From so many numbers on, sorting by digits is faster than by comparisons.
RADIX_FROM = 2048


def normal_scores(x: Tensor) -> Tensor:
    r"""Replaces every coordinate by the normal scores of its ranks, z = Φ⁻¹((rank − ½)/n).

    Tied values share their mean rank, so that a constant column becomes zero.

    The gradient is that of a smoothed rank, u_i = (1/n) Σ_j S((x_i − x_j)/h), whose bandwidth is
    the distance to the m-th neighbour in order, m = √n/2: moving x_i raises its own score by the
    local density and lowers the scores of the neighbours it passes by as much in all, hence

        ∂/∂x_i = (dz/dx)_i · (g_i − mean of g over the neighbours of i in order).

    A gradient that only moves a coordinate monotonically is thus removed: it cannot change ranks.

    Args:
        x: samples, shape (*, n, d), floating point.

    Returns:
        Scores of the same shape, in the dtype of `x` and at least float32.
    """
    return scores_and_order(x)[0]


@torch.compiler.disable  # a cache and a branch on values, neither of which can be traced
def scores_and_order(x: Tensor) -> tuple[Tensor, Tensor]:
    """Normal scores as :func:`normal_scores` gives them, and the ascending columns, (*, d, n)."""
    return _NormalScores.apply(x)


class _NormalScores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        if x.dtype in (torch.float16, torch.bfloat16):
            x = x.float()
        columns = x.transpose(-1, -2).contiguous()
        ordered, order = ascending(columns)
        scores = _scores_of_ordered(ordered)
        ctx.save_for_backward(ordered, order, scores)
        ctx.mark_non_differentiable(ordered)
        return torch.empty_like(scores).scatter_(-1, order, scores).transpose(-1, -2), ordered

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> Tensor:
        ordered, order, scores = ctx.saved_tensors
        n = ordered.shape[-1]
        g = grad.transpose(-1, -2).to(ordered.dtype).gather(-1, order)
        half = _half_bandwidth(n)
        position = torch.arange(n, device=g.device)
        low, high = (position - half).clamp_min(0), (position + half).clamp_max(n - 1)

        total = pad(g.double().cumsum(-1), (1, 0))
        mean = (total[..., high + 1] - total[..., low]) / (high + 1 - low)
        slope = _slope(ordered, scores, *(place.expand_as(ordered) for place in (low, high)))
        result = (slope * (g - mean)).to(grad.dtype)
        return torch.empty_like(result).scatter_(-1, order, result).transpose(-1, -2)


def ascending(values: Tensor) -> tuple[Tensor, Tensor]:
    """Finite or infinite values in ascending order of the last dimension, and their places."""
    by_digits = (
        values.device.type == "cpu"
        and values.dtype in (torch.float32, torch.float64)
        and values.numel() >= RADIX_FROM
        # What is being traced holds no values, which NumPy would need.
        and type(values) is Tensor
        and not (torch.compiler.is_compiling() or torch.jit.is_tracing())
    )
    if not by_digits:
        found = values.sort(dim=-1)
        return found.values, found.indices
    order = _order_by_digits(values)
    return values.gather(-1, order), order


def _order_by_digits(values: Tensor) -> Tensor:
    """A stable radix sort with digits of 16 bits, for which NumPy has one: 3 to 6 times as fast."""
    bits = 8 * values.element_size()
    # Zeros of either sign become one and the same.
    image = (values.contiguous() + 0.0).view(torch.int32 if bits == 32 else torch.int64)
    # As unsigned numbers these are in the order of the values.
    image = image ^ ((image >> (bits - 1)) | (-1 << (bits - 1)))
    lowest, *higher = ((image >> shift).to(torch.int16) for shift in range(0, bits, 16))
    order = _order_of_digits(lowest)
    for digits in higher:
        order = order.gather(-1, _order_of_digits(digits.gather(-1, order)))
    return order


def _order_of_digits(digits: Tensor) -> Tensor:
    return torch.from_numpy(digits.numpy().view(np.uint16).argsort(-1, kind="stable"))


@torch.compiler.disable
def _scores_of_ordered(ordered: Tensor) -> Tensor:
    """Normal scores, tied values sharing their mean rank, of ascending columns (*, d, n)."""
    n = ordered.shape[-1]
    scores = _scores_of_half_ranks(n, ordered.dtype, ordered.device)
    rises = ordered[..., 1:] != ordered[..., :-1]
    if rises.all():
        return scores[1::2].expand(ordered.shape)
    place = torch.arange(n, device=ordered.device, dtype=torch.int32)[1:]
    # Of each run of equal values, the place of its first and that behind its last.
    below = pad(torch.where(rises, place, 0), (1, 0)).cummax(-1).values
    ends = pad(torch.where(rises, place, n), (0, 1), value=n)
    not_above = ends.flip(-1).cummin(-1).values.flip(-1)
    return scores.index_select(0, (below + not_above).flatten()).view(ordered.shape)


# What is first made in inference mode must serve training later.
@lru_cache(maxsize=16)
@torch.inference_mode(False)
def _scores_of_half_ranks(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Normal scores of (rank − ½)/n where twice that rank less one is 0, 1, …, 2n."""
    return torch.special.ndtri(torch.arange(2 * n + 1, device=device).to(dtype) / (2 * n))


def _half_bandwidth(n: int) -> int:
    return max(1, round(math.sqrt(n) / 2))


def _slope(ordered: Tensor, scores: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """dz/dx, the local density, between places `low` and `high` in order; bounded, see above."""
    n = ordered.shape[-1]
    width = ordered.gather(-1, high) - ordered.gather(-1, low)
    spread = ordered[..., [-1 - n // 10]] - ordered[..., [n // 10]]
    spread = torch.where(spread > 0, spread, ordered[..., [-1]] - ordered[..., [0]])
    width = torch.maximum(width, spread * (high - low) / (n * MAX_RELATIVE_DENSITY))
    rise = scores.gather(-1, high) - scores.gather(-1, low)
    slope = torch.where(width > 0, rise / torch.where(width > 0, width, 1.0), 0.0)
    return slope.clamp_max(torch.finfo(slope.dtype).max)


class Marginals:
    """The fitted copula transform of one side, to be evaluated at new points.

    Between the samples, scores are interpolated linearly; beyond the outermost samples they
    stay at the outermost scores, since ranks say nothing about what lies outside. The gradient
    is the local density over the bandwidth that :func:`normal_scores` uses: the slope between
    two samples alone, the inverse of one gap, is mostly noise.

    Args:
        x: the samples that define the ranks, shape (*, n, d).
    """

    def __init__(self, x: Tensor) -> None:
        x = x.detach()
        if x.dtype in (torch.float16, torch.bfloat16):
            x = x.float()
        self.ordered = ascending(x.transpose(-1, -2).contiguous())[0]
        self.scores = _scores_of_ordered(self.ordered)

    def __call__(self, x: Tensor) -> Tensor:
        """Scores of new points, shape (*, m, d) → (*, m, d)."""
        tracked = x.to(self.ordered.dtype).transpose(-1, -2).contiguous()
        columns = tracked.detach()
        n = self.ordered.shape[-1]
        high = torch.searchsorted(self.ordered, columns).clamp(1, n - 1)
        x0, x1 = self.ordered.gather(-1, high - 1), self.ordered.gather(-1, high)
        z0, z1 = self.scores.gather(-1, high - 1), self.scores.gather(-1, high)
        # Halved, as the gap between two values of opposite sign can be beyond the dtype.
        gap = x1 / 2 - x0 / 2
        share = (columns / 2 - x0 / 2) / torch.where(gap > 0, gap, 1.0)
        share = torch.where(gap > 0, share, 0.5)
        scores = z0 + share.clamp(0, 1) * (z1 - z0)
        if tracked.requires_grad:
            half = _half_bandwidth(n)
            around = (high - half).clamp_min(0), (high - 1 + half).clamp_max(n - 1)
            inside = (columns >= self.ordered[..., :1]) & (columns <= self.ordered[..., -1:])
            slope = torch.where(inside, _slope(self.ordered, self.scores, *around), 0.0)
            scores = scores + slope * (tracked - columns)  # zero in value
        return scores.transpose(-1, -2)
