r"""Mutual information of two class labels, counted in their table: no network is needed."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from .errors import InputError, SupportWarning

__all__ = ["ClassInformation", "class_information"]

# Samples a cell of the table, on average, from which hardly any bias remains.
PER_CELL = 5


class ClassInformation(NamedTuple):
    """What a table of two classes tells.

    Attributes:
        value: I(a; b) in nats by the counts, corrected for their bias, shape () or (b,), float64;
            at times a little below zero where the classes are independent.
        plug_in: the same without correction, never negative; where the classes are independent all
            of it is bias, about (A − 1)(B − 1)/2n for A and B classes.
        p_value: probability of so unlikely a table, or a more unlikely one, if the classes are
            independent; one where either is constant.
    """

    value: Tensor
    plug_in: Tensor
    p_value: Tensor

    def __str__(self) -> str:
        rows = torch.stack([self.value, self.p_value], -1).reshape(-1, 2)[:6].tolist()
        found = ", ".join(f"{value:.3f} (p = {p:.3g})" for value, p in rows)
        return f"I(a;b) = {found}{', …' if self.value.numel() > 6 else ''} nats"


@torch.no_grad()
def class_information(a: Tensor, b: Tensor) -> ClassInformation:
    r"""Estimates I(a; b) in nats of two class labels, with a test of independence.

    I = H(a) + H(b) − H(a, b), each entropy by Grassberger's estimator, which corrects the plug-in's
    bias to first order where samples are many ("Entropy Estimates from Insufficient Samplings",
    2003, equation 35) and, where pairs are seen once or twice, takes two to four times more of it
    than the correction of Miller and Madow. The p-value is that of Pearson's χ² test of
    (A − 1)(B − 1) degrees of freedom for A and B classes.

    Args:
        a: classes, any integers or booleans, shape (n,), or (b, n) for b data sets.
        b: classes paired with them, of the same shape.

    Raises:
        InputError: the labels cannot be used; the message says why.

    Warns:
        SupportWarning: the table has fewer than five samples a cell, so that some bias remains, or
            the labels are of one class.

    Example:
        >>> import torch
        >>> from flashmi_reg.contingency import class_information
        >>> a = torch.arange(400) % 4
        >>> print(class_information(a, a // 2))
        I(a;b) = 0.693 (p = 2.21e-86) nats
    """
    _check(a, b)
    pairs = zip(a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1]), strict=True)
    tables = [_of_table(*pair) for pair in pairs]
    rows = torch.tensor(tables, dtype=torch.float64, device=a.device)
    value, plug_in, statistic, degrees, cells = (row.reshape(a.shape[:-1]) for row in rows.T)
    constant = degrees == 0
    p_value = torch.special.gammaincc(degrees.clamp_min(1) / 2, statistic / 2)
    for message in _doubts(a.shape[-1], cells, constant):
        warnings.warn(message, SupportWarning, stacklevel=3)
    return ClassInformation(
        value.masked_fill(constant, 0), plug_in, p_value.masked_fill(constant, 1)
    )


def _of_table(a: Tensor, b: Tensor) -> tuple[float, float, float, int, int]:
    """Corrected and plug-in value, Pearson's statistic, its degrees of freedom, and cells."""
    n = len(a)
    (_, first, of_a), (_, second, of_b) = (
        side.unique(return_inverse=True, return_counts=True) for side in (a, b)
    )
    # Only pairs that occur are counted: a table of all would not fit where classes are many.
    pairs, both = (first * len(of_b) + second).unique(return_counts=True)
    expected = of_a[pairs // len(of_b)].double() * of_b[pairs % len(of_b)].double() / n
    plug_in = float((both * (both / expected).log()).sum() / n)
    # The pairs that do not occur add what is expected of them; all expectations add up to n.
    statistic = float(((both - expected).square() / expected).sum() + n - expected.sum())
    value = float(_entropy(of_a) + _entropy(of_b) - _entropy(both))
    degrees = (len(of_a) - 1) * (len(of_b) - 1)
    return value, plug_in, statistic, degrees, len(of_a) * len(of_b)


def _entropy(counts: Tensor) -> Tensor:
    """Grassberger's entropy of counts, in nats."""
    counts = counts.double()
    n = counts.sum()
    sign = 1 - 2 * (counts % 2)
    gap = torch.digamma((counts + 1) / 2) - torch.digamma(counts / 2)
    return n.log() - (counts * (torch.digamma(counts) + sign * gap / 2)).sum() / n


def _check(a: Tensor, b: Tensor) -> None:
    for name, side in (("a", a), ("b", b)):
        if not isinstance(side, Tensor):
            raise InputError(f"`{name}` must be a torch.Tensor, received {type(side).__name__}.")
        if side.is_floating_point() or side.is_complex():
            raise InputError(
                f"`{name}` must hold classes as integers, received {side.dtype}: cast class "
                "indices with `.long()`; continuous values belong into `mutual_information`."
            )
        if side.ndim not in (1, 2) or side.numel() == 0:
            raise InputError(
                f"`{name}` must hold classes, shape (n,) or (b, n), received {tuple(side.shape)}."
            )
    if a.shape != b.shape or a.device != b.device:
        raise InputError(
            f"`a` and `b` must pair up on one device: received shapes {tuple(a.shape)} on "
            f"{a.device} and {tuple(b.shape)} on {b.device}."
        )
    for name, side in (("a", a), ("b", b)):
        classes = max(len(row.unique()) for row in side.reshape(-1, side.shape[-1]))
        if 2 * classes > side.shape[-1]:
            raise InputError(
                f"`{name}` holds {classes} classes in n = {side.shape[-1]} samples, less than two "
                "samples a class: merge classes or collect more samples; amounts and counts "
                "belong into `mutual_information`, as floats."
            )


def _doubts(n: int, cells: Tensor, constant: Tensor) -> list[str]:
    found = []
    if constant.any():
        found.append("labels hold one class only: mutual information is zero")
    if (cells * PER_CELL > n).any():
        found.append(
            f"the labels' table has {int(cells.max())} cells for n = {n} samples, fewer than "
            f"{PER_CELL} a cell: the value may be too large by tenths of a nat"
        )
    return found
