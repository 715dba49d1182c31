"""What the chain rule makes of mutual informations: conditional ones, and total correlation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .batches import model_or_base, seed_of, seeded
from .contingency import class_information
from .errors import InputError
from .inputs import check_pair
from .label_inputs import MIN_SAMPLES
from .labels import label_mutual_information
from .matrix import Columns, columns_of, estimate_pairs
from .mixed import as_classes, is_discrete, mixed_mutual_information
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
    discrete_x: bool | None = None,
    discrete_y: bool | None = None,
    discrete_z: bool | None = None,
    generator: torch.Generator | None = None,
    gradient: Gradient = "critic",
    model: FlashMI | None = None,
) -> Tensor:
    r"""Estimates I(x; y | z) in nats, differentiable in all that is continuous.

    For continuous z, by the chain rule, I(x; y | z) = I(x; y, z) − I(x; z), both with the same
    shuffled pairs. The errors of the two do not cancel: where the two are large, the difference
    can be off by more than a small I(x; y | z), and be negative. For z of classes it is the mean
    of I(x; y) within the classes, weighted by their size.

    Each of the three is continuous or holds classes, as in :func:`mutual_information`. Where x or y
    holds classes and z does not, the one that does takes the place of x in the rule above; where
    both do, I(x; y, z) is I(x; y) + I(x, y; z) − I(y; z), x and y together being classes too.

    Args:
        x: samples, shape (n, dx) or (b, n, dx); or classes as integers or booleans, shape (n,) or
            (b, n), or several columns of them, whose combinations count.
        y: samples paired with them, likewise.
        z: the condition, likewise. Where all three are continuous, y and z together must be as
            narrow as one side may be.
        discrete_x: whether x holds classes; by default its type tells.
        discrete_y: whether y does.
        discrete_z: whether z does.
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
    sides = conditional_sides(x, y, z, discrete_x, discrete_y, discrete_z)
    return conditional_terms(*sides, generator, gradient, model_or_base(model)).information


def conditional_sides(
    x: Tensor,
    y: Tensor,
    z: Tensor,
    discrete_x: bool | None,
    discrete_y: bool | None,
    discrete_z: bool | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Sides whose types tell what they hold: classes are integers of shape (n,) or (b, n)."""
    stated = {"x": (x, discrete_x), "y": (y, discrete_y), "z": (z, discrete_z)}
    for name, (side, _) in stated.items():
        if not isinstance(side, Tensor):
            raise InputError(f"`{name}` must be a torch.Tensor, received {type(side).__name__}.")
    held = {name: is_discrete(side, classes) for name, (side, classes) in stated.items()}
    continuous = [side.ndim - 1 for name, (side, _) in stated.items() if not held[name]]
    ndim = min(continuous or [side.ndim for side, _ in stated.values()])
    if not continuous and all(side.ndim > 1 == side.shape[-1] for side, _ in stated.values()):
        ndim -= 1  # columns: data sets of one sample are not meant
    found = [
        as_classes(side, ndim)
        if held[name]
        else (side if side.is_floating_point() or side.is_complex() else side.double())
        for name, (side, _) in stated.items()
    ]
    return found[0], found[1], found[2]


@torch.compiler.disable
def conditional_terms(
    x: Tensor,
    y: Tensor,
    z: Tensor,
    generator: torch.Generator | None,
    gradient: Gradient,
    model: FlashMI,
) -> ConditionalTerms:
    """The terms of :func:`conditional_mutual_information`; the sides' types tell what they hold."""
    x, y, z = conditional_sides(x, y, z, None, None, None)
    seed = seed_of(generator)
    if is_discrete(z):
        value = _within_classes(x, y, z, seed, gradient, model)
        none = torch.full_like(value.detach(), torch.nan)
        return ConditionalTerms(value, none, none)
    if not is_discrete(x) and not is_discrete(y):
        _check_triple(x, y, z, model)
        sides = (torch.cat([y, z], -1), z)
    elif is_discrete(x) and is_discrete(y):
        return _of_two_classes(x, y, z, seed, gradient)
    else:
        x, y = (x, y) if is_discrete(x) else (y, x)
        _check_samples(y, z)
        sides = (torch.cat([y, z], -1), z)
    joint, given = (
        mixed_mutual_information(x, side, generator=seeded(seed), gradient=gradient, model=model)
        for side in sides
    )
    return ConditionalTerms(joint - given, joint, given)


def _check_triple(x: Tensor, y: Tensor, z: Tensor, model: FlashMI) -> None:
    """Raises :class:`InputError` unless the rule can be followed for continuous sides."""
    check_pair(x, y, model.header)
    both = torch.cat([y, z], -1) if y.shape[:-1] == z.shape[:-1] else z
    for names, side in (("`z`", z), ("`y` and `z` side by side", both)):
        try:
            check_pair(x, side, model.header)
        except InputError as error:
            raise InputError(f"of `x` and, as `y`, {names}: {error}") from error


def _check_samples(side: Tensor, z: Tensor) -> None:
    """Raises :class:`InputError` unless two continuous sides can stand side by side."""
    if side.shape[:-1] != z.shape[:-1] or side.device != z.device:
        raise InputError(
            f"`z` must have the samples of the other sides: received shape {tuple(z.shape)} on "
            f"{z.device} beside {tuple(side.shape)} on {side.device}."
        )


def _of_two_classes(
    x: Tensor, y: Tensor, z: Tensor, seed: int, gradient: Gradient
) -> ConditionalTerms:
    if x.shape != y.shape or x.shape != z.shape[:-1]:
        raise InputError(
            f"`x`, `y` and `z` must pair up sample by sample: received shapes {tuple(x.shape)}, "
            f"{tuple(y.shape)} and {tuple(z.shape)}."
        )
    together = as_classes(torch.stack([x.long(), y.long()], -1), x.ndim)
    of_both, given, of_y = (
        label_mutual_information(z, side, generator=seeded(seed), gradient=gradient)
        for side in (together, x, y)
    )
    joint = class_information(x, y).value.to(given) + of_both - of_y
    return ConditionalTerms(joint - given, joint, given)


def _within_classes(
    x: Tensor, y: Tensor, z: Tensor, seed: int, gradient: Gradient, model: FlashMI
) -> Tensor:
    continuous = [side for side in (x, y) if not is_discrete(side)]
    samples = continuous[0].shape[:-1] if continuous else x.shape
    if len(continuous) == 2:
        check_pair(x, y, model.header)
    for name, side in (("x", x), ("y", y), ("z", z)):
        classes = is_discrete(side)
        shape = side.shape if classes else side.shape[:-1]
        if shape != samples or side.device != z.device:
            kind = "class" if classes else "row"
            raise InputError(
                f"`{name}` must hold one {kind} a sample, shape {tuple(samples)} on {x.device}, "
                f"received {tuple(side.shape)} on {side.device}."
            )
    if z.ndim == 2:
        sets = zip(x, y, z, strict=True)
        return torch.stack([_within_classes(*s, seed, gradient, model) for s in sets])
    _, place, counts = z.unique(return_inverse=True, return_counts=True)
    least = {2: model.header.trained_n[0], 1: MIN_SAMPLES, 0: 2}[len(continuous)]
    if int(counts.min()) < least:
        small = int((counts < least).sum())
        raise InputError(
            f"`z` has {small} of {len(counts)} class(es) with fewer than {least} samples, the "
            f"least with {int(counts.min())}: merge or drop small classes, or collect more samples."
        )
    values = []
    for c in range(len(counts)):
        try:
            value = mixed_mutual_information(
                x[place == c],
                y[place == c],
                generator=seeded(seed),
                gradient=gradient,
                model=model,
            )
        except InputError as error:
            raise InputError(f"within a class of `z`: {error}") from error
        values.append(value)
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
