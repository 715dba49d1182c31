"""Which estimate a pair of sides calls for: both continuous, one of classes, or both."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from .contingency import class_information
from .errors import InputError
from .labels import label_mutual_information
from .model import FlashMI, Gradient
from .result import CLASSES_UNCALIBRATED, TRUNCATED, UNCALIBRATED, MIEstimate

__all__ = [
    "ClassEstimator",
    "LabelEstimator",
    "as_classes",
    "class_entropy",
    "is_discrete",
    "mixed_estimate",
    "mixed_mutual_information",
]

# Values above their ceiling by no more than this are so by rounding.
ROUNDING = 1e-4


def mixed_mutual_information(
    x: Tensor,
    y: Tensor,
    *,
    discrete_x: bool | None = None,
    discrete_y: bool | None = None,
    generator: torch.Generator | None = None,
    gradient: Gradient = "critic",
    model: FlashMI | None = None,
) -> Tensor:
    r"""Estimates I(x; y) in nats, each side of which is continuous or holds classes.

    A side of an integer type or of booleans is one of classes, and a floating-point side is
    continuous, however many of its values are equal (these share their mean rank, and a warning
    tells of many): a type is a statement, a tie may be chance. `discrete_x` and `discrete_y`
    override it. Two continuous sides are estimated by the network, one of classes by
    :func:`label_mutual_information`, two by :func:`class_information`, without a gradient.

    Args:
        x: continuous samples, shape (n, dx) or (b, n, dx), or classes, (n,) or (b, n); classes
            beside a continuous side may also be columns, (n, dx) or (b, n, dx), whose combinations
            count.
        y: samples paired with them, likewise.
        discrete_x: whether x holds classes; by default its type tells.
        discrete_y: whether y does.
        generator: draws what is random; by default one of a fixed seed.
        gradient: see :meth:`FlashMI.mutual_information`.
        model: the estimator for two continuous sides, by default that of the `base` weights.

    Returns:
        Shape (), or (b,).

    Raises:
        InputError: the samples cannot be used; the message says why.

    Warns:
        SupportWarning: the value may be off, and why.

    Example:
        >>> import torch
        >>> from flashmi_reg.mixed import mixed_mutual_information
        >>> generator = torch.Generator().manual_seed(0)
        >>> pips = torch.randint(1, 7, (1200, 1), generator=generator).double()
        >>> even = pips[:, 0].long() % 2
        >>> value = mixed_mutual_information(pips, even, discrete_x=True)  # log 2 = 0.693
        >>> abs(value.item() - 0.693) < 0.01
        True
    """
    sides = _sides(x, y, discrete_x, discrete_y)
    if sides.kind == 0:
        model = FlashMI.from_pretrained("base") if model is None else model
        return model.mutual_information(sides.x, sides.y, generator=generator, gradient=gradient)
    if sides.kind == 2:
        return class_information(sides.x, sides.y).value.float()
    return label_mutual_information(sides.x, sides.y, generator=generator, gradient=gradient)


@torch.no_grad()
def mixed_estimate(
    x: Tensor,
    y: Tensor,
    *,
    discrete_x: bool | None = None,
    discrete_y: bool | None = None,
    generator: torch.Generator | None = None,
    model: FlashMI | None = None,
) -> MIEstimate:
    """Estimates I(x; y) without gradients and tells how far to trust the value.

    Arguments and errors are those of :func:`mixed_mutual_information`; warnings are part of the
    result and are not raised. A side of classes has an entropy, the ceiling, but no interval.

    Example:
        >>> import torch
        >>> from flashmi_reg.mixed import mixed_estimate
        >>> x = torch.linspace(-1, 1, 400)[:, None]
        >>> found = mixed_estimate(x, (x[:, 0] > 0).long())
        >>> bool(0.65 < found.value <= found.ceiling)  # log 2
        True
    """
    sides = _sides(x, y, discrete_x, discrete_y)
    if sides.kind == 0:
        model = FlashMI.from_pretrained("base") if model is None else model
        found = model.estimate(sides.x, sides.y, generator=generator)
        untold = found.interval is None and not {UNCALIBRATED, TRUNCATED} & {*found.warnings}
        return replace(found, warnings=(*found.warnings, UNCALIBRATED)) if untold else found
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if sides.kind == 2:
            value = class_information(sides.x, sides.y).value.float()
        else:
            value = label_mutual_information(sides.x, sides.y, generator=generator)
    notes = list(dict.fromkeys(str(warning.message) for warning in caught))
    classes = (sides.x, sides.y) if sides.kind == 2 else (sides.y,)
    ceiling = torch.stack([class_entropy(side) for side in classes]).amin(0).to(value)
    if (value > ceiling + ROUNDING).any():  # the correction for bias may overshoot
        over = (value - ceiling).max()
        notes.append(
            f"the estimate is {float(over):.3f} above the entropy of the classes, which mutual "
            "information cannot exceed: read it as that entropy"
        )
    return MIEstimate(
        value,
        sides.y.shape[-1],
        *sides.widths,
        warnings=(*notes, CLASSES_UNCALIBRATED),
        ceiling=ceiling,
    )


class _Sides(NamedTuple):
    """A pair of sides and what they call for.

    Attributes:
        x: continuous samples, (n, d) or (b, n, d); or classes, if both sides hold them.
        y: continuous samples or classes, (n,) or (b, n).
        kind: number of sides that hold classes; of one such, it is y, whichever side it was.
        widths: of the two sides as they were given.
    """

    x: Tensor
    y: Tensor
    kind: int
    widths: tuple[int, int]


def _sides(x: Tensor, y: Tensor, discrete_x: bool | None, discrete_y: bool | None) -> _Sides:
    """Sides in the form that their estimate asks for."""
    for name, side in (("x", x), ("y", y)):
        if not isinstance(side, Tensor):
            raise InputError(f"`{name}` must be a torch.Tensor, received {type(side).__name__}.")
    x_classes, y_classes = is_discrete(x, discrete_x), is_discrete(y, discrete_y)
    x, y = (
        side if classes or side.is_floating_point() or side.is_complex() else side.double()
        for side, classes in ((x, x_classes), (y, y_classes))
    )
    kind = int(x_classes) + int(y_classes)
    if kind == 2:
        least = min(x.ndim, y.ndim)
        if x.ndim == y.ndim > 1 and x.shape[-1] == y.shape[-1] == 1:
            least -= 1  # columns: a data set of one sample is not meant
        widths = tuple(side.shape[-1] if side.ndim > least else 1 for side in (x, y))
        x, y = (as_classes(side, least) for side in (x, y))
        return _Sides(x, y, kind, (widths[0], widths[1]))
    first, second = (y, x) if x_classes else (x, y)
    dx = first.shape[-1] if first.ndim else 1
    dy = second.shape[-1] if second.ndim == first.ndim else 1
    if kind == 1:
        second = as_classes(second, first.ndim - 1)
    return _Sides(first, second, kind, (dy, dx) if x_classes else (dx, dy))


def class_entropy(classes: Tensor) -> Tensor:
    """Entropy in nats of classes (n,) or (b, n) by their counts, shape () or (b,), float64."""
    rows = classes.reshape(-1, classes.shape[-1])
    found = []
    for row in rows:
        share = row.unique(return_counts=True)[1].double() / rows.shape[-1]
        found.append(-(share * share.log()).sum())
    return torch.stack(found).reshape(classes.shape[:-1])


def is_discrete(side: Tensor, stated: bool | None = None) -> bool:
    """Whether a side holds classes: as stated, or where its type is one of integers or booleans."""
    if stated is not None:
        return stated
    return not side.is_floating_point() and not side.is_complex()


def as_classes(side: Tensor, ndim: int) -> Tensor:
    """Classes as integers of so many dimensions, (n,) or (b, n); columns count as combinations.

    NaN and infinite values are refused: they are no class that was meant.
    """
    if side.is_floating_point():
        finite = side.isfinite()
        if not finite.all():
            raise InputError(
                f"a side of classes holds {int((~finite).sum())} NaN or infinite value(s) among "
                f"{side.numel()}: remove those samples, or give the missing a class of their own."
            )
    if side.ndim == ndim + 1:
        rows = side.reshape(-1, side.shape[-1])
        return rows.unique(dim=0, return_inverse=True)[1].reshape(side.shape[:-1])
    if side.is_floating_point():
        return side.unique(return_inverse=True)[1].reshape(side.shape)
    return side


class LabelEstimator:
    """:func:`label_mutual_information` in the manner of :class:`FlashMI`, for batches."""

    def mutual_information(
        self, x: Tensor, y: Tensor, *, generator: torch.Generator | None, gradient: Gradient
    ) -> Tensor:
        """Values of samples (b, n, d) and labels (b, n), shape (b,)."""
        return label_mutual_information(x, y, generator=generator, gradient=gradient)

    @torch.no_grad()
    def estimate(self, x: Tensor, y: Tensor, *, generator: torch.Generator | None) -> MIEstimate:
        """Values without gradients, and doubts as part of the result."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            value = self.mutual_information(x, y, generator=generator, gradient="critic")
        notes = dict.fromkeys(str(warning.message) for warning in caught)
        return MIEstimate(value, x.shape[1], x.shape[2], 1, tuple(notes))


class ClassEstimator(LabelEstimator):
    """:func:`class_information` in the manner of :class:`FlashMI`, for batches."""

    def mutual_information(
        self, x: Tensor, y: Tensor, *, generator: torch.Generator | None, gradient: Gradient
    ) -> Tensor:
        """Values of classes (b, n, 1) and classes (b, n), shape (b,)."""
        return class_information(x[..., 0], y).value.float()
