"""The maps of the BMI benchmark: each acts on x alone or y alone and leaves their MI unchanged."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = [
    "Map",
    "half_cube",
    "mixture_quantile",
    "normal_cdf",
    "spiral",
    "swiss_roll",
    "wiggly_x",
    "wiggly_y",
]

Map = Callable[[Tensor], Tensor]


def normal_cdf(x: Tensor) -> Tensor:
    """Φ(x) of each coordinate: normal to uniform."""
    return torch.special.ndtr(x)


def half_cube(x: Tensor) -> Tensor:
    """x √|x| of each coordinate: longer tails."""
    return x * x.abs().sqrt()


def wiggly_x(x: Tensor) -> Tensor:
    """Monotone map with ripples, used on x."""
    return x + 0.4 * x.sin() + 0.2 * (1.7 * x + 1).sin() + 0.03 * (3.3 * x - 2.5).sin()


def wiggly_y(y: Tensor) -> Tensor:
    """Monotone map with ripples, used on y."""
    ripples = 0.17 * (1.3 * y + 3.5).sin() + 0.02 * (4.3 * y - 2.5).sin()
    return y - 0.4 * (0.4 * y).sin() + ripples


def swiss_roll(u: Tensor) -> Tensor:
    """Roll u in [0, 1], of shape `(*, 1)`, up in the plane, shape `(*, 2)`."""
    t = 1.5 * math.pi * (1 + 2 * u)
    # 21 brings the roll near the unit square.
    return torch.cat([t * t.cos(), t * t.sin()], dim=-1) / 21


def spiral(i: int, j: int, d: int) -> Map:
    r"""The map x ↦ exp(A ‖x‖² / d) x, with A the generator of rotations in the plane (i, j).

    It turns each sphere rigidly, more the farther out, so it is volume-preserving and invertible.

    Args:
        i: The first axis of the plane.
        j: The second axis of the plane.
        d: The width of x, which divides the speed.
    """

    def turn(x: Tensor) -> Tensor:
        angle = x.square().sum(dim=-1) / d
        cos, sin = angle.cos(), angle.sin()
        out = x.clone()
        out[..., i] = cos * x[..., i] - sin * x[..., j]
        out[..., j] = sin * x[..., i] + cos * x[..., j]
        return out

    return turn


def mixture_quantile(
    weights: tuple[float, ...], means: tuple[float, ...], *, reach: float = 10.0
) -> Map:
    r"""The quantile function of a mixture of unit-variance normals, by bisection in float64.

    Args:
        weights: The mixture weights.
        means: The means of the components.
        reach: How far beyond the outermost means quantiles are sought.
    """

    def quantile(u: Tensor) -> Tensor:
        low = torch.full_like(u, min(means) - reach)
        high = torch.full_like(u, max(means) + reach)
        for _ in range(60):
            middle = (low + high) / 2
            cdf = sum(
                (w * torch.special.ndtr(middle - m) for w, m in zip(weights, means, strict=True)),
                start=torch.zeros_like(u),
            )
            below = cdf < u
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2

    return quantile
