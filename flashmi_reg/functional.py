"""Functions over the packaged weights: one call, one estimate."""

from __future__ import annotations

import torch
from torch import Tensor

from .model import FlashMI, Gradient
from .result import MIEstimate

__all__ = ["estimate", "mutual_information"]


def mutual_information(
    x: Tensor,
    y: Tensor,
    *,
    generator: torch.Generator | None = None,
    gradient: Gradient = "critic",
) -> Tensor:
    """Estimates I(x; y) in nats with the packaged `base` weights, differentiable in both arguments.

    See :meth:`FlashMI.mutual_information` for shapes, errors and warnings.

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
    model = FlashMI.from_pretrained("base")
    return model.mutual_information(x, y, generator=generator, gradient=gradient)


def estimate(x: Tensor, y: Tensor, *, generator: torch.Generator | None = None) -> MIEstimate:
    """Estimates I(x; y) without gradients, with what may be wrong with the value.

    See :meth:`FlashMI.estimate`.

    Example:
        >>> import torch
        >>> from flashmi_reg import estimate
        >>> x = torch.linspace(0, 1, 300)[:, None]
        >>> result = estimate(x, torch.zeros(300, 1))
        >>> result.warnings[0]
        '`y` is constant in column(s) [0], which carry no information'
    """
    return FlashMI.from_pretrained("base").estimate(x, y, generator=generator)
