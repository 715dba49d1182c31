"""Data sets built to lie outside what training has seen, to learn which of them are noticed."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

__all__ = ["OUTSIDE"]

Pair = tuple[Tensor, Tensor]


def _normal(*shape: int, generator: Generator) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _uniform(*shape: int, generator: Generator) -> Tensor:
    return torch.rand(*shape, generator=generator, dtype=torch.float64)


def _correlated(n: int, g: Generator) -> Pair:
    x, noise = _normal(2, n, 2, generator=g)
    return x, 0.6 * x + 0.8 * noise


def _rows_repeated(n: int, g: Generator) -> Pair:
    x, y = _correlated(-(-n // 3), g)
    return x.repeat(3, 1)[:n], y.repeat(3, 1)[:n]


def _rows_nearly_repeated(n: int, g: Generator) -> Pair:
    x, y = (side.repeat(4, 1)[:n] for side in _correlated(-(-n // 4), g))
    return x + 1e-3 * _normal(n, 2, generator=g), y + 1e-3 * _normal(n, 2, generator=g)


def _rounded(n: int, g: Generator) -> Pair:
    x, y = _correlated(n, g)
    return x.round(), y.round()


def _many_zeros(n: int, g: Generator) -> Pair:
    x, y = _correlated(n, g)
    return x.clamp_min(0), y.clamp_min(0)


def _jittered_lattice(n: int, g: Generator) -> Pair:
    cell = torch.randint(36, (n,), generator=g)
    other = torch.where(
        _uniform(n, generator=g) < 0.2,
        torch.randint(36, (n,), generator=g),
        torch.randperm(36, generator=g)[cell],
    )
    sides = (torch.stack([place // 6, place % 6], -1) for place in (cell, other))
    x, y = (side + 1e-3 * _normal(n, 2, generator=g) for side in sides)
    return x, y


def _nearly_equal(n: int, g: Generator) -> Pair:
    x, noise = _normal(2, n, 1, generator=g)
    return x, x + 1e-4 * noise


def _fast_wave(n: int, g: Generator) -> Pair:
    x = _uniform(n, 1, generator=g)
    return x, (60 * x).sin() + 0.05 * _normal(n, 1, generator=g)


def _chaos(n: int, g: Generator) -> Pair:
    x = y = _uniform(n, 1, generator=g)
    for _ in range(6):
        y = 4 * y * (1 - y)
    return x, y


def _shared_digits(n: int, g: Generator) -> Pair:
    """Every third binary digit is shared: the same at every scale."""
    place = torch.arange(24)
    own, other = torch.randint(2, (2, n, 24), generator=g).double()
    value = torch.where(place % 3 == 2, own, other)
    weight = 2.0 ** -(place + 1).double()
    return (own @ weight)[:, None], (value @ weight)[:, None]


def _chequerboard(n: int, g: Generator) -> Pair:
    x = _uniform(n, 1, generator=g)
    row = 2 * torch.randint(5, (n, 1), generator=g) + (10 * x).floor() % 2
    return x, (row + _uniform(n, 1, generator=g)) / 10


def _parity(n: int, g: Generator) -> Pair:
    x = _normal(n, 4, generator=g)
    return x, x.sign().prod(1, keepdim=True) * _normal(n, 1, generator=g).abs()


def _many_tight_clusters(n: int, g: Generator) -> Pair:
    cluster = torch.randint(300, (n,), generator=g)
    centres = _normal(2, 300, 3, generator=g)
    x, y = (c[cluster] + 0.02 * _normal(n, 3, generator=g) for c in centres)
    return x, y


def _rings(n: int, g: Generator) -> Pair:
    radius = torch.randint(1, 6, (n, 1), generator=g)
    sides = []
    for turn in 2 * math.pi * _uniform(2, n, 1, generator=g):
        ring = radius * torch.cat([turn.cos(), turn.sin()], 1)
        sides.append(ring + 0.02 * _normal(n, 2, generator=g))
    return sides[0], sides[1]


def _curve(n: int, g: Generator) -> Pair:
    y = _uniform(n, 1, generator=g)
    rate = torch.arange(1, 4)
    x = torch.cat([(6 * rate * y).sin(), (5 * rate * y).cos()], 1)
    return x, y + 0.02 * _normal(n, 1, generator=g)


def _some_copied(n: int, g: Generator) -> Pair:
    x, y = _normal(2, n, 3, generator=g)
    return x, torch.where(_uniform(n, 1, generator=g) < 0.15, x, y)


def _outlying_clump(n: int, g: Generator) -> Pair:
    x, noise = _normal(2, n, 3, generator=g)
    far = _uniform(n, 1, generator=g) < 0.05
    clump = 100 + 0.01 * _normal(n, 3, generator=g)
    return torch.where(far, clump, x), torch.where(far, -clump, 0.5 * x + noise)


def _product(n: int, g: Generator) -> Pair:
    x = _normal(n, 6, generator=g)
    return x, x.prod(1, keepdim=True) + 0.1 * _normal(n, 1, generator=g)


def _random_walks(n: int, g: Generator) -> Pair:
    x, y = _normal(2, n, 2, generator=g).cumsum(1)
    return x, y


def _shared_trend(n: int, g: Generator) -> Pair:
    trend = torch.linspace(0, 4, n, dtype=torch.float64)[:, None]
    x, y = trend + _normal(2, n, 1, generator=g)
    return x, y


OUTSIDE: dict[str, Callable[[int, Generator], Pair]] = {
    "rows repeated": _rows_repeated,
    "rows nearly repeated": _rows_nearly_repeated,
    "rounded": _rounded,
    "many zeros": _many_zeros,
    "jittered lattice": _jittered_lattice,
    "nearly equal": _nearly_equal,
    "random walks": _random_walks,
    "shared trend": _shared_trend,
    "many tight clusters": _many_tight_clusters,
    "curve": _curve,
    "rings": _rings,
    "fast wave": _fast_wave,
    "chequerboard": _chequerboard,
    "shared digits": _shared_digits,
    "outlying clump": _outlying_clump,
    "some copied": _some_copied,
    "chaos": _chaos,
    "parity": _parity,
    "product": _product,
}
"""From a sample size and a generator to x, (n, dx), and y, (n, dy)."""
