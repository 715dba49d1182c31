"""Losses: mutual information as a term of a training objective."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from .errors import InputError
from .inputs import check_pair
from .model import FlashMI, Gradient

__all__ = ["MutualInformationLoss"]


class MutualInformationLoss(nn.Module):
    r"""I(x; y) of a batch as a loss, to be minimised by the optimizer whatever the direction.

    It has no parameters and an empty `state_dict`; the frozen estimator behind it is shared.

    Args:
        direction: "minimize" returns +I(x; y), "maximize" returns −I(x; y).
        gradient: "critic" holds the emitted critic fixed, "full" differentiates through the
            hypernetwork, see :meth:`FlashMI.mutual_information`.
        reduction: over data sets where inputs have a batch dimension: "mean", "sum" or "none".
        weights: name or path of the weights.

    Raises:
        InputError: an argument is not one of its choices.

    Example:
        >>> import torch
        >>> from flashmi_reg import MutualInformationLoss
        >>> generator = torch.Generator().manual_seed(0)
        >>> encoder = torch.nn.Linear(20, 4)
        >>> penalty = MutualInformationLoss("minimize")
        >>> x, nuisance = (torch.randn(256, d, generator=generator) for d in (20, 1))
        >>> loss = penalty(encoder(x), nuisance)  # + the task's loss
        >>> loss.backward()
        >>> bool(encoder.weight.grad.isfinite().all())
        True
    """

    def __init__(
        self,
        direction: Literal["minimize", "maximize"],
        *,
        gradient: Gradient = "critic",
        reduction: Literal["mean", "sum", "none"] = "mean",
        weights: str | Path = "base",
    ) -> None:
        super().__init__()
        _choose("direction", direction, ("minimize", "maximize"))
        _choose("gradient", gradient, ("critic", "full"))
        _choose("reduction", reduction, ("mean", "sum", "none"))
        self.direction = direction
        self.gradient: Gradient = gradient
        self.reduction = reduction
        self.weights = weights
        self._model = FlashMI.from_pretrained(weights)

    def forward(self, x: Tensor, y: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """The loss of paired samples.

        Args:
            x: shape (n, dx) or (b, n, dx).
            y: shape (n, dy) or (b, n, dy).
            generator: draws the shuffled pairs; by default one of a fixed seed.

        Returns:
            Shape (), or (b,) with `reduction="none"` on batches; ± nats.

        Raises:
            InputError: the samples cannot be used, or in training mode neither of them carries
                a gradient, so that the term would do nothing.
        """
        tracked = any(getattr(side, "requires_grad", False) for side in (x, y))
        if self.training and torch.is_grad_enabled() and not tracked:
            check_pair(x, y, self._model.header)  # what is no tensor at all has another remedy
            raise InputError(
                "neither `x` nor `y` requires a gradient, so this loss cannot train anything: "
                "remove a `detach()`, or call the loss in `eval()` mode or under `torch.no_grad()`."
            )
        value = self._model.mutual_information(x, y, generator=generator, gradient=self.gradient)
        if self.direction == "maximize":
            value = -value
        if self.reduction == "none":
            return value
        return value.mean() if self.reduction == "mean" else value.sum()

    def extra_repr(self) -> str:
        """The arguments, for `repr`."""
        return (
            f"{self.direction!r}, gradient={self.gradient!r}, reduction={self.reduction!r}, "
            f"weights={str(self.weights)!r}"
        )


def _choose(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"`{name}` must be one of {choices}, received {value!r}.")
