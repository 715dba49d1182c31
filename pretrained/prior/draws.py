"""Random draws that all come from one generator, on its device."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor

__all__ = [
    "bucketed_integer",
    "categorical",
    "coin",
    "exponential",
    "gamma",
    "integer",
    "log_uniform",
    "normal",
    "orthogonal",
    "shares",
    "uniform",
]

Shape = Sequence[int]


def uniform(
    shape: Shape,
    low: float = 0.0,
    high: float = 1.0,
    *,
    generator: Generator,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Uniform draws in [low, high), of shape `shape`."""
    u = torch.rand(*shape, generator=generator, device=generator.device, dtype=dtype)
    return low + (high - low) * u


def log_uniform(
    shape: Shape,
    low: float,
    high: float,
    *,
    generator: Generator,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Draws in [low, high) whose logarithm is uniform, of shape `shape`."""
    return uniform(shape, math.log(low), math.log(high), generator=generator, dtype=dtype).exp()


def normal(shape: Shape, *, generator: Generator, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal draws, of shape `shape`."""
    return torch.randn(*shape, generator=generator, device=generator.device, dtype=dtype)


def exponential(
    shape: Shape, *, generator: Generator, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Exponential draws of rate 1, of shape `shape`; never infinite, as `rand` is below 1."""
    return -torch.log1p(-uniform(shape, generator=generator, dtype=dtype))


def gamma(concentration: Tensor, *, generator: Generator) -> Tensor:
    """Gamma draws of rate 1, one for each entry of `concentration`, and of its shape."""
    # torch.distributions.Gamma takes no generator; the operator under it does
    return torch._standard_gamma(concentration, generator=generator)


def integer(low: int, high: int, *, generator: Generator) -> int:
    """One integer from {low, ..., high}, both ends included."""
    return int(torch.randint(low, high + 1, (), generator=generator, device=generator.device))


def bucketed_integer(buckets: Sequence[tuple[float, int, int]], *, generator: Generator) -> int:
    """One integer: a bucket (weight, low, high) by its weight, then uniform in {low, ..., high}."""
    _, low, high = buckets[categorical([b[0] for b in buckets], generator=generator)]
    return integer(low, high, generator=generator)


def categorical(weights: Sequence[float], *, generator: Generator) -> int:
    """One index, drawn in proportion to `weights`."""
    w = torch.tensor(list(weights), device=generator.device, dtype=torch.float64)
    return int(torch.multinomial(w, 1, generator=generator))


def coin(probability: float, *, generator: Generator) -> bool:
    """True with the given probability."""
    return bool(torch.rand((), generator=generator, device=generator.device) < probability)


def shares(mask: Tensor, *, generator: Generator) -> Tensor:
    """Uniform (flat Dirichlet) shares over the last dimension where `mask` holds, 0 elsewhere.

    `mask` is boolean of shape (*, k) with at least one True in each row; so is the result's shape.
    """
    e = exponential(mask.shape, generator=generator, dtype=torch.float64).clamp(min=1e-6) * mask
    return e / e.sum(-1, keepdim=True)


def orthogonal(
    batch: int, width: int, *, generator: Generator, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Orthogonal matrices from the Haar measure, of shape (batch, width, width)."""
    g = normal((batch, width, width), generator=generator, dtype=torch.float64)
    q, r = torch.linalg.qr(g)
    # the signs of R's diagonal make the draw uniform (Mezzadri, 2007)
    sign = torch.where(r.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0)
    return (q * sign.unsqueeze(-2)).to(dtype)
