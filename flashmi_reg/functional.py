"""Functions over the packaged weights: one call, one estimate."""

from __future__ import annotations

import torch
from torch import Tensor

from .chain import conditional_mutual_information, total_correlation
from .independence import independence_test
from .matrix import mutual_information_matrix
from .mixed import mixed_estimate, mixed_mutual_information
from .model import FlashMI, Gradient
from .result import MIEstimate
from .slicing import sliced_estimate, sliced_mutual_information

__all__ = [
    "conditional_mutual_information",
    "estimate",
    "independence_test",
    "mutual_information",
    "mutual_information_matrix",
    "pointwise_mutual_information",
    "sliced_estimate",
    "sliced_mutual_information",
    "total_correlation",
]


def mutual_information(
    x: Tensor,
    y: Tensor,
    *,
    discrete_x: bool | None = None,
    discrete_y: bool | None = None,
    generator: torch.Generator | None = None,
    gradient: Gradient = "critic",
    model: FlashMI | None = None,
) -> Tensor:
    """Estimates I(x; y) in nats, differentiable in continuous arguments.

    Two continuous sides are estimated by `model`, by default that of the packaged `base` weights:
    see :meth:`FlashMI.mutual_information` for shapes, errors and warnings. A side of an integer
    type holds classes, which `discrete_x` and `discrete_y` override: one such side is estimated by
    :func:`label_mutual_information`, two by :func:`class_information`.

    Example:
        >>> import torch
        >>> from flashmi_reg import mutual_information
        >>> generator = torch.Generator().manual_seed(0)
        >>> x = torch.randn(500, 2, generator=generator, requires_grad=True)
        >>> mi = mutual_information(x, torch.randn(500, 3, generator=generator))
        >>> mi.backward()
        >>> x.grad.shape
        torch.Size([500, 2])
    """
    return mixed_mutual_information(
        x,
        y,
        discrete_x=discrete_x,
        discrete_y=discrete_y,
        generator=generator,
        gradient=gradient,
        model=model,
    )


def estimate(
    x: Tensor,
    y: Tensor,
    *,
    discrete_x: bool | None = None,
    discrete_y: bool | None = None,
    generator: torch.Generator | None = None,
    model: FlashMI | None = None,
) -> MIEstimate:
    """Estimates I(x; y) without gradients, with what may be wrong with the value.

    Arguments, and what they call for, are those of :func:`mutual_information`; warnings are part
    of the result and are not raised. Two continuous sides have an interval, a null level and a
    support score (see :meth:`FlashMI.estimate`); where a side holds classes there is none of these,
    which a warning says, but their entropy, above which information cannot be.

    Example:
        >>> import torch
        >>> from flashmi_reg import estimate
        >>> x = torch.linspace(0, 1, 300)[:, None]
        >>> result = estimate(x, torch.zeros(300, 1))
        >>> result.warnings[0]
        '`y` is constant in column(s) [0], which carry no information'
        >>> estimate(x, torch.arange(300) // 150).ceiling  # classes: log 2
        tensor(0.6931)
    """
    return mixed_estimate(
        x, y, discrete_x=discrete_x, discrete_y=discrete_y, generator=generator, model=model
    )


def pointwise_mutual_information(
    x: Tensor,
    y: Tensor,
    *,
    generator: torch.Generator | None = None,
    model: FlashMI | None = None,
) -> Tensor:
    """Estimates log p(x, y)/(p(x) p(y)) in nats at each of the paired samples.

    The critic is read off the same samples and held fixed; the values are differentiable in the
    points. At other points, use :meth:`FlashMI.critic`, and :func:`label_critic` for classes;
    errors are those of :meth:`FlashMI.mutual_information`.

    Args:
        x: samples, shape (n, dx) or (b, n, dx).
        y: samples paired with them, shape (n, dy) or (b, n, dy).
        generator: draws the shuffled pairs; by default one of a fixed seed.
        model: the estimator, by default that of the packaged `base` weights.

    Returns:
        Shape (n,) or (b, n).

    Example:
        >>> import torch
        >>> from flashmi_reg import pointwise_mutual_information
        >>> x, noise = torch.randn(2, 500, 1, generator=torch.Generator().manual_seed(0))
        >>> pointwise_mutual_information(x, x + noise).shape
        torch.Size([500])
    """
    model = FlashMI.from_pretrained("base") if model is None else model
    return model.critic(x, y, generator=generator)(x, y)
