"""The information bottleneck as a loss, for continuous targets and for classes."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .batches import seed_of, seeded
from .errors import InputError
from .information_loss import InformationLoss, Reduction
from .mixed import mixed_mutual_information
from .model import FlashMI, Gradient

__all__ = ["BottleneckTerms", "InformationBottleneckLoss"]


class BottleneckTerms(NamedTuple):
    """What the information bottleneck is made of, in nats, each of shape () or (b,).

    Attributes:
        compression: I(x; z).
        relevance: I(z; y).
    """

    compression: Tensor
    relevance: Tensor


class InformationBottleneckLoss(InformationLoss):
    r"""β I(x; z) − I(z; y) of a batch as a loss: forget x but for what tells of y.

    After "The information bottleneck method" (Tishby, Pereira & Bialek, 1999). If z is a
    deterministic function of continuous x, I(x; z) is infinite, and its estimate says only how
    finely n samples tell z apart: add noise to z. Where x or z have more than 64 columns,
    add two :class:`SlicedMutualInformationLoss` instead.

    Args:
        beta: weight of the compression, at least 0.
        gradient: "critic" or "full", see :class:`MutualInformationLoss`.
        reduction: over data sets where inputs have a batch dimension: "mean", "sum" or "none".
        weights: name or path of the weights.
        gather: whether to estimate from the samples of all processes, see :class:`InformationLoss`.

    Raises:
        InputError: an argument is not one of its choices.

    Example:
        >>> import torch
        >>> from flashmi_reg import InformationBottleneckLoss
        >>> generator = torch.Generator().manual_seed(0)
        >>> bottleneck = InformationBottleneckLoss(beta=0.1)
        >>> x = torch.randn(256, 6, generator=generator)
        >>> noise = torch.randn(256, 2, generator=generator)
        >>> z = torch.nn.Linear(6, 2)(x) + 0.1 * noise
        >>> bottleneck(x, z, (x[:, 0] > 0).long()).backward()
        >>> bottleneck.terms._fields
        ('compression', 'relevance')
    """

    terms: BottleneckTerms | None

    def __init__(
        self,
        beta: float,
        *,
        gradient: Gradient = "critic",
        reduction: Reduction = "mean",
        weights: str | Path = "base",
        gather: bool = False,
    ) -> None:
        super().__init__(
            None, gradient=gradient, reduction=reduction, weights=weights, gather=gather
        )
        if not 0 <= beta < float("inf"):
            raise InputError(f"`beta` must be at least 0 and finite, received {beta!r}.")
        self.beta = beta

    def forward(
        self, x: Tensor, z: Tensor, y: Tensor, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """The loss of inputs, their codes and the targets.

        Args:
            x: inputs, shape (n, dx) or (b, n, dx).
            z: codes, shape (n, dz) or (b, n, dz).
            y: targets, shape (n, dy) or (b, n, dy); or integer classes, (n,) or (b, n).
            generator: draws the shuffled pairs; by default one of a fixed seed.

        Returns:
            Shape (), or (b,) with `reduction="none"` on batches; nats.

        Raises:
            InputError: the samples cannot be used, or in training mode none of them carries a
                gradient.
        """
        x, z, y = self._of_all_ranks(x, z, y)
        terms = _terms(x, z, y, generator, self.gradient, self._model)
        return self._loss(self.beta * terms.compression - terms.relevance, terms, "x", "z", "y")

    def _settings(self) -> list[str]:
        return [f"beta={self.beta}"]


@torch.compiler.disable
def _terms(
    x: Tensor,
    z: Tensor,
    y: Tensor,
    generator: torch.Generator | None,
    gradient: Gradient,
    model: FlashMI,
) -> BottleneckTerms:
    seed = seed_of(generator)
    found = []
    for names, first, second in (("`x` and `z`", x, z), ("`z` and `y`", z, y)):
        try:
            value = mixed_mutual_information(
                first, second, generator=seeded(seed), gradient=gradient, model=model
            )
        except InputError as error:
            raise InputError(f"between {names}, called `x` and `y`: {error}") from error
        found.append(value)
    return BottleneckTerms(*found)
