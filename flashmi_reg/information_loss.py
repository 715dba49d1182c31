"""What all losses share: a frozen estimator that leaves no trace in the user's model, and terms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from .errors import InputError
from .model import FlashMI, Gradient
from .ranks import gather_ranks

__all__ = ["Direction", "InformationLoss", "Reduction", "Terms", "choose"]

Direction = Literal["minimize", "maximize"]
Reduction = Literal["mean", "sum", "none"]


class Terms(NamedTuple):
    """What a loss of one term is made of.

    Attributes:
        information: the estimate in nats, shape () or (b,).
    """

    information: Tensor


class InformationLoss(nn.Module):
    r"""Base of the losses: no parameters, an empty `state_dict`, a shared frozen estimator.

    Args:
        direction: "minimize" returns +information, "maximize" −information; None where the loss
            has its own signs.
        gradient: "critic" or "full", see :meth:`FlashMI.mutual_information`.
        reduction: over data sets where inputs have a batch dimension: "mean", "sum" or "none".
        weights: name or path of the weights.
        gather: estimate from the samples of all processes of `torch.distributed`, which may hold
            unlike numbers of them, see :func:`flashmi_reg.ranks.gather_ranks`: after DDP's
            averaging, gradients are those of one process with all samples. Every process must call
            the loss; a `generator`, if given, must be in the same state on all.

    Attributes:
        terms: the estimates of the last call in nats, detached, before sign and reduction, for
            logging; None before the first call.
    """

    def __init__(
        self,
        direction: Direction | None,
        *,
        gradient: Gradient = "critic",
        reduction: Reduction = "mean",
        weights: str | Path = "base",
        gather: bool = False,
    ) -> None:
        super().__init__()
        if direction is not None:
            choose("direction", direction, ("minimize", "maximize"))
        choose("gradient", gradient, ("critic", "full"))
        choose("reduction", reduction, ("mean", "sum", "none"))
        self.direction = direction
        self.gradient: Gradient = gradient
        self.reduction = reduction
        self.weights = weights
        self.gather = gather
        self.terms: tuple[Tensor, ...] | None = None
        self._model = FlashMI.from_pretrained(weights)

    def extra_repr(self) -> str:
        """The arguments, for `repr`."""
        settings = [*self._settings(), f"gradient={self.gradient!r}"]
        settings += [f"reduction={self.reduction!r}", f"weights={str(self.weights)!r}"]
        settings += ["gather=True"] if self.gather else []
        return ", ".join(settings)

    def _settings(self) -> list[str]:
        return [] if self.direction is None else [repr(self.direction)]

    def _of_all_ranks(self, *sides: Tensor) -> Sequence[Tensor]:
        """The sides with the samples of all processes, where these are asked for."""
        return gather_ranks(sides) if self.gather else sides

    def _loss(self, value: Tensor, terms: tuple[Tensor, ...], *sides: str) -> Tensor:
        """Signed and reduced value, whose terms are kept; raises where it cannot train anything.

        Args:
            value: shape () or (b,).
            terms: a NamedTuple of what it is made of.
            sides: names of the arguments of `forward` that may carry the gradient.
        """
        if self.training and torch.is_grad_enabled() and not value.requires_grad:
            *most, last = (f"`{side}`" for side in sides)
            none = f"neither {' nor '.join([*most, last])} requires" if most else f"{last} lacks"
            raise InputError(
                f"{none} a gradient, so this loss cannot train anything: remove a `detach()`, or "
                "call the loss in `eval()` mode or under `torch.no_grad()`."
            )
        self.terms = type(terms)(*(term.detach() for term in terms))
        if self.direction == "maximize":
            value = -value
        if self.reduction == "none":
            return value
        return value.mean() if self.reduction == "mean" else value.sum()


def choose(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises :class:`InputError` unless the value is one of the choices."""
    if value not in choices:
        raise InputError(f"`{name}` must be one of {choices}, received {value!r}.")
