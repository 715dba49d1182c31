"""What the chain rule makes of mutual informations: conditional ones, and total correlation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .batches import model_or_base, seed_of, seeded
from .errors import InputError
from .inputs import check_pair
from .matrix import Columns, columns_of, estimate_pairs
from .model import FlashMI, Gradient

__all__ = [
    "ConditionalTerms",
    "TotalCorrelationTerms",
    "conditional_mutual_information",
    "conditional_terms",
    "total_correlation",
    "total_correlation_terms",
]


class ConditionalTerms(NamedTuple):
    """What a conditional mutual information is made of, in nats, each of shape () or (b,).

    Attributes:
        information: I(x; y | z).
        joint: I(x; y, z); NaN if z holds classes.
        given: I(x; z); NaN if z holds classes.
    """

    information: Tensor
    joint: Tensor
    given: Tensor


class TotalCorrelationTerms(NamedTuple):
    """What a total correlation is made of, in nats.

    Attributes:
        information: the total correlation, shape () or (b,).
        splits: mutual informations of the halves, the first split first, shape (m − 1,) or
            (b, m − 1) for m variables.
    """

    information: Tensor
    splits: Tensor


def conditional_mutual_information(
    x: Tensor,
    y: Tensor,
    z: Tensor,
    *,
    generator: torch.Generator | None = None,
    gradient: Gradient = "critic",
    model: FlashMI | None = None,
) -> Tensor:
    r"""Estimates I(x; y | z) in nats, differentiable in all that is continuous.

    For continuous z, by the chain rule, I(x; y | z) = I(x; y, z) − I(x; z), both with the same
    shuffled pairs. The errors of the two do not cancel: where the two are large, the difference
    can be off by more than a small I(x; y | z), and be negative. For z of classes it is the mean
    of I(x; y) within the classes, weighted by their size.

    Args:
        x: samples, shape (n, dx) or (b, n, dx).
        y: shape (n, dy) or (b, n, dy).
        z: the condition: floating point, shape (n, dz) or (b, n, dz), where y and z together must
            be as narrow as one side may be; or classes as integers or booleans, shape (n,) or
            (b, n), or several columns of them, (n, dz) or (b, n, dz), whose combinations count.
        generator: draws the shuffled pairs; by default one of a fixed seed.
        gradient: see :meth:`FlashMI.mutual_information`.
        model: the estimator, by default that of the packaged `base` weights.

    Returns:
        Shape (), or (b,).

    Raises:
        InputError: the samples cannot be used, or a class has too few; the message says why.

    Warns:
        SupportWarning: the value may be off, and why.

    Example:
        >>> import torch
        >>> from flashmi_reg import conditional_mutual_information
        >>> z, a, b = torch.randn(3, 500, 1, generator=torch.Generator().manual_seed(0))
        >>> abs(conditional_mutual_information(z + a, z + b, z).item()) < 0.1
        True
    """
    return conditional_terms(x, y, z, generator, gradient, model_or_base(model)).information


@torch.compiler.disable
def conditional_terms(
    x: Tensor,
    y: Tensor,
    z: Tensor,
    generator: torch.Generator | None,
    gradient: Gradient,
    model: FlashMI,
) -> ConditionalTerms:
    """The terms of :func:`conditional_mutual_information`."""
    check_pair(x, y, model.header)
    seed = seed_of(generator)
    if isinstance(z, Tensor) and not z.is_floating_point() and not z.is_complex():
        value = _within_classes(x, y, z, seed, gradient, model)
        none = torch.full_like(value.detach(), torch.nan)
        return ConditionalTerms(value, none, none)
    try:
        check_pair(x, z, model.header)
    except InputError as error:
        raise InputError(f"of `x` and, as `y`, `z`: {error}") from error
    both = torch.cat([y, z], -1)
    try:
        check_pair(x, both, model.header)
    except InputError as error:
        raise InputError(f"of `x` and, as `y`, `y` and `z` side by side: {error}") from error
    joint, given = (
        model.mutual_information(x, side, generator=seeded(seed), gradient=gradient)
        for side in (both, z)
    )
    return ConditionalTerms(joint - given, joint, given)


def _within_classes(
    x: Tensor, y: Tensor, z: Tensor, seed: int, gradient: Gradient, model: FlashMI
) -> Tensor:
    if z.shape[: x.ndim - 1] != x.shape[:-1] or z.ndim > x.ndim or z.device != x.device:
        raise InputError(
            f"`z` must hold one class a sample, shape {tuple(x.shape[:-1])} on {x.device}, "
            f"received {tuple(z.shape)} on {z.device}."
        )
    if x.ndim == 3:
        sets = zip(x, y, z, strict=True)
        return torch.stack([_within_classes(*s, seed, gradient, model) for s in sets])
    rows = z if z.ndim == 2 else z[:, None]
    _, place, counts = rows.unique(dim=0, return_inverse=True, return_counts=True)
    least = model.header.trained_n[0]
    if int(counts.min()) < least:
        small = int((counts < least).sum())
        raise InputError(
            f"`z` has {small} of {len(counts)} class(es) with fewer than {least} samples, the "
            f"least with {int(counts.min())}: merge or drop small classes, or collect more samples."
        )
    values = [
        model.mutual_information(
            x[place == c], y[place == c], generator=seeded(seed), gradient=gradient
        )
        for c in range(len(counts))
    ]
    weights = (counts / counts.sum()).to(values[0].dtype)
    return (torch.stack(values) * weights).sum()


def total_correlation(
    x: Tensor | Sequence[Tensor],
    groups: Sequence[Sequence[int]] | None = None,
    *,
    generator: torch.Generator | None = None,
    gradient: Gradient = "critic",
    model: FlashMI | None = None,
) -> Tensor:
    r"""Estimates the total correlation of variables in nats, differentiable in them.

    TC(x) = KL(p(x) ‖ Π p(x_i)) (Watanabe, 1960) is zero if and only if the variables are
    independent of each other. By the chain rule it is the mutual information of two halves plus
    the total correlation of each; halving goes on to single variables. Against adding one
    variable at a time, the sides are half as wide, and splits of like widths share a batch.

    Args:
        x: samples, shape (n, d) or (b, n, d), each column a variable; or a sequence of variables,
            each of shape (n, d_i) or (b, n, d_i). Half of all columns must be as narrow as a side
            may be.
        groups: columns of each variable, if these are several columns of one tensor.
        generator: draws the shuffled pairs; by default one of a fixed seed.
        gradient: see :meth:`FlashMI.mutual_information`.
        model: the estimator, by default that of the packaged `base` weights.

    Returns:
        Shape (), or (b,).

    Raises:
        InputError: the samples or groups cannot be used; the message says why.

    Warns:
        SupportWarning: the value may be off, and why; it names the columns of a split.

    Example:
        >>> import torch
        >>> from flashmi_reg import total_correlation
        >>> x = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
        >>> abs(total_correlation(x).item()) < 0.1
        True
    """
    terms = total_correlation_terms(x, groups, generator, gradient, model_or_base(model))
    return terms.information


@torch.compiler.disable
def total_correlation_terms(
    x: Tensor | Sequence[Tensor],
    groups: Sequence[Sequence[int]] | None,
    generator: torch.Generator | None,
    gradient: Gradient,
    model: FlashMI,
) -> TotalCorrelationTerms:
    """The terms of :func:`total_correlation`."""
    if gradient not in ("critic", "full"):
        raise InputError(f"`gradient` must be 'critic' or 'full', received {gradient!r}.")
    samples, columns = columns_of(x, groups, model)
    pairs = halves(columns)
    values, _ = estimate_pairs(model, samples, pairs, seed=seed_of(generator), gradient=gradient)
    return TotalCorrelationTerms(values.sum(-1), values)


def halves(variables: Sequence[Columns]) -> list[tuple[Columns, Columns]]:
    """Splits whose mutual informations add up to the total correlation, the first split first.

    Variables are cut where the two sides are most equal in width.
    """
    found = []
    level = [list(variables)]
    while level:
        following = []
        for part in level:
            cut = min(range(1, len(part)), key=lambda i: abs(_width(part[:i]) - _width(part[i:])))
            first, second = part[:cut], part[cut:]
            found.append((sum(first, ()), sum(second, ())))
            following += [half for half in (first, second) if len(half) > 1]
        level = following
    return found


def _width(variables: Sequence[Columns]) -> int:
    return sum(map(len, variables))
