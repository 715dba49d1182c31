"""Which estimate a pair of sides calls for: both continuous, one of classes, or both."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from .contingency import class_information
from .errors import InputError
from .labels import label_mutual_information
from .model import FlashMI, Gradient
from .result import MIEstimate

__all__ = [
    "ClassEstimator",
    "LabelEstimator",
    "as_classes",
    "is_discrete",
    "mixed_mutual_information",
]


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
    for name, side in (("x", x), ("y", y)):
        if not isinstance(side, Tensor):
            raise InputError(f"`{name}` must be a torch.Tensor, received {type(side).__name__}.")
    x_classes, y_classes = is_discrete(x, discrete_x), is_discrete(y, discrete_y)
    x, y = (
        side if classes or side.is_floating_point() or side.is_complex() else side.double()
        for side, classes in ((x, x_classes), (y, y_classes))
    )
    if not x_classes and not y_classes:
        model = FlashMI.from_pretrained("base") if model is None else model
        return model.mutual_information(x, y, generator=generator, gradient=gradient)
    if x_classes and y_classes:
        least = min(x.ndim, y.ndim)
        x, y = (as_classes(side, least) for side in (x, y))
        return class_information(x, y).value.float()
    if x_classes:
        x, y = y, x
    return label_mutual_information(
        x, as_classes(y, x.ndim - 1), generator=generator, gradient=gradient
    )


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
