r"""How far an estimate can be trusted: interval, null level and resemblance to the training data.

The interval is calibrated in the manner of conformal prediction with a normalised score
(Papadopoulos et al., 2002; Romano et al., 2019): the error is reached by a sum of few observable
quantities with weights that are quantile-regressed on data sets of known information. Errors are
lopsided, as what the critic has not recognised it does not count, so each end has its own.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .calibration import Calibration
from .canonical import Canonical
from .support import in_support, look_around, statistics

__all__ = [
    "ATYPICAL",
    "Observation",
    "Uncertainty",
    "above_terms",
    "below_terms",
    "null_level",
    "null_terms",
    "observe",
    "uncertainty",
]

# Data sets less typical than all but this share of those of training are warned of.
ATYPICAL = 0.02
# Canonical correlations are taken as at most this, or their information would be infinite.
MAX_CORRELATION = 0.9999


class Observation(NamedTuple):
    """What is observed of an estimate beside its value.

    Attributes:
        value: the estimate in nats, shape (b,), as is all that follows unless said otherwise.
        optimism: what was subtracted from it for reading the critic off the same pairs.
        nonlinear: the part of it that canonical correlations do not account for.
        surplus: by how much nearest neighbours find more.
        widths: true widths of the sides in canonical order, shape (b, 2).
        n: number of samples read.
        statistics: see :func:`flashmi_reg.support.statistics`, shape (b, 11).
    """

    value: Tensor
    optimism: Tensor
    nonlinear: Tensor
    surplus: Tensor
    widths: Tensor
    n: int
    statistics: Tensor


class Uncertainty(NamedTuple):
    """What goes with an estimate, each of shape (b,).

    Attributes:
        lower: end of the interval, in nats.
        upper: the other end.
        null_level: 95 % of estimates of independent sides of this n and these widths stay below.
        support: share of training data sets that are as untypical as this one or more so.
    """

    lower: Tensor
    upper: Tensor
    null_level: Tensor
    support: Tensor


@torch.no_grad()
def observe(value: Tensor, optimism: Tensor, data: Canonical) -> Observation:
    """Observes what the interval and the support score are made of.

    Args:
        value: estimates, shape (b,).
        optimism: what was subtracted from them, shape (b,).
        data: canonical form of the samples that were read.
    """
    value, optimism = value.detach().double(), optimism.detach().double()
    n = data.u.shape[1]
    around = look_around(data)
    rho = data.rho.detach().double().clamp(0, MAX_CORRELATION)
    chance = data.widths.double().prod(-1) / (2 * n)
    linear = (-0.5 * torch.log1p(-rho.square()).sum(-1) - chance).clamp_min(0)
    return Observation(
        value=value,
        optimism=optimism.clamp_min(0),
        nonlinear=(value - linear).clamp_min(0),
        surplus=(around.mi.double() - value).clamp_min(0),
        widths=data.widths,
        n=n,
        statistics=statistics(data, value, optimism, around),
    )


def null_terms(widths: Tensor, n: int) -> Tensor:
    """What the null level is a sum of: 1/n, √(dx dy)/n and 1/√n, shape (b, 3)."""
    breadth = widths.double().prod(-1).sqrt()
    one = torch.ones_like(breadth)
    return torch.stack([one / n, breadth / n, one / math.sqrt(n)], -1)


def null_level(widths: Tensor, n: int, calibration: Calibration) -> Tensor:
    """Level below which 95 % of estimates of independent sides stay, shape (b,), in nats."""
    return _weighted(null_terms(widths, n), calibration.null)


def below_terms(seen: Observation, null: Tensor) -> Tensor:
    """What the interval's reach below the estimate is a sum of, shape (b, 4).

    √(value/n), the size of the sampling error, 1/√n, the null level and the value.
    """
    value = seen.value.clamp_min(0)
    sampling = (value / seen.n).sqrt()
    size = torch.full_like(sampling, 1 / math.sqrt(seen.n))
    return torch.stack([sampling, size, null, value], -1)


def above_terms(seen: Observation) -> Tensor:
    """What the interval's reach above the estimate is a sum of, shape (b, 5).

    √(value/n), 1/√n, and three signs of what the critic may have missed: the optimism, the
    nonlinear part and the surplus.
    """
    sampling = (seen.value.clamp_min(0) / seen.n).sqrt()
    size = torch.full_like(sampling, 1 / math.sqrt(seen.n))
    return torch.stack([sampling, size, seen.optimism, seen.nonlinear, seen.surplus], -1)


def uncertainty(seen: Observation, calibration: Calibration) -> Uncertainty:
    """Interval, null level and support of estimates.

    Mutual information is never negative, so neither end of the interval is.
    """
    null = null_level(seen.widths, seen.n, calibration)
    lower = seen.value - _weighted(below_terms(seen, null), calibration.below)
    upper = seen.value + _weighted(above_terms(seen), calibration.above)
    support = in_support(seen.statistics, seen.widths, seen.n, calibration.calm)
    return Uncertainty(lower.clamp_min(0), upper.clamp_min(0), null, support)


def _weighted(terms: Tensor, weights: tuple[float, ...]) -> Tensor:
    return terms @ torch.tensor(weights, dtype=terms.dtype, device=terms.device)
