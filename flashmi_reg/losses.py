"""Losses: mutual information, and what is made of it, as a term of a training objective."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .chain import (
    ConditionalTerms,
    TotalCorrelationTerms,
    conditional_terms,
    total_correlation_terms,
)
from .information_loss import Direction, InformationLoss, Reduction, Terms
from .mixed import mixed_mutual_information
from .model import Gradient
from .slicing import monte_carlo_error, sliced_values

__all__ = [
    "ConditionalMutualInformationLoss",
    "MutualInformationLoss",
    "SlicedMutualInformationLoss",
    "SlicedTerms",
    "TotalCorrelationLoss",
]


class MutualInformationLoss(InformationLoss):
    r"""I(x; y) of a batch as a loss, to be minimised by the optimizer whatever the direction.

    It has no parameters and an empty `state_dict`; the frozen estimator behind it is shared. The
    attribute `terms` holds the last estimate, before sign and reduction, for logging.

    Args:
        direction: "minimize" returns +I(x; y), "maximize" returns −I(x; y).
        gradient: "critic" holds the emitted critic fixed, "full" differentiates through the
            hypernetwork, see :meth:`FlashMI.mutual_information`.
        discrete_x: whether x holds classes; by default integers and booleans do, floats do not.
        discrete_y: whether y does.
        reduction: over data sets where inputs have a batch dimension: "mean", "sum" or "none".
        weights: name or path of the weights.
        gather: whether to estimate from the samples of all processes, see :class:`InformationLoss`.

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

    terms: Terms | None

    def __init__(
        self,
        direction: Direction,
        *,
        discrete_x: bool | None = None,
        discrete_y: bool | None = None,
        gradient: Gradient = "critic",
        reduction: Reduction = "mean",
        weights: str | Path = "base",
        gather: bool = False,
    ) -> None:
        super().__init__(
            direction, gradient=gradient, reduction=reduction, weights=weights, gather=gather
        )
        self.discrete_x = discrete_x
        self.discrete_y = discrete_y

    def forward(self, x: Tensor, y: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """The loss of paired samples.

        Args:
            x: shape (n, dx) or (b, n, dx); or integer classes, (n,) or (b, n).
            y: shape (n, dy) or (b, n, dy); or integer classes, (n,) or (b, n).
            generator: draws the shuffled pairs; by default one of a fixed seed.

        Returns:
            Shape (), or (b,) with `reduction="none"` on batches; ± nats.

        Raises:
            InputError: the samples cannot be used, or in training mode neither of them carries
                a gradient, so that the term would do nothing.
        """
        x, y = self._of_all_ranks(x, y)
        value = mixed_mutual_information(
            x,
            y,
            discrete_x=self.discrete_x,
            discrete_y=self.discrete_y,
            generator=generator,
            gradient=self.gradient,
            model=self._model,
        )
        return self._loss(value, Terms(value), "x", "y")

    def _settings(self) -> list[str]:
        stated = {"discrete_x": self.discrete_x, "discrete_y": self.discrete_y}
        stated = {name: value for name, value in stated.items() if value is not None}
        return [*super()._settings(), *(f"{name}={value}" for name, value in stated.items())]


class SlicedTerms(NamedTuple):
    """What a sliced loss is made of, in nats, each of shape () or (b,).

    Attributes:
        information: the sliced mutual information.
        standard_error: for the choice of the projections; NaN of one slice.
    """

    information: Tensor
    standard_error: Tensor


class SlicedMutualInformationLoss(InformationLoss):
    r"""k-sliced mutual information of wide x and y as a loss: another quantity than I(x; y).

    See :func:`sliced_mutual_information`. The cost is that of `n_slices` estimates. By default the
    projections are the same in every step, and an encoder might learn to hide from them: a
    generator that is kept between the steps draws new ones in each, so that fewer do.

    Args:
        direction: "minimize" or "maximize".
        k: coordinates of a slice, or one number for x and one for y; what is not wider is taken
            whole.
        n_slices: number of pairs of projections.
        gradient: "critic" or "full", see :class:`MutualInformationLoss`.
        reduction: over data sets where inputs have a batch dimension: "mean", "sum" or "none".
        weights: name or path of the weights.
        gather: whether to estimate from the samples of all processes, see :class:`InformationLoss`.

    Raises:
        InputError: an argument is not one of its choices.

    Example:
        >>> import torch
        >>> from flashmi_reg import SlicedMutualInformationLoss
        >>> generator = torch.Generator().manual_seed(0)
        >>> penalty = SlicedMutualInformationLoss("minimize", k=2, n_slices=4)
        >>> z = torch.randn(128, 40, generator=generator, requires_grad=True)
        >>> nuisance = torch.randn(128, 1, generator=generator)
        >>> penalty(z, nuisance, generator=generator).backward()  # new slices in every step
        >>> z.grad.shape
        torch.Size([128, 40])
    """

    terms: SlicedTerms | None

    def __init__(
        self,
        direction: Direction,
        *,
        k: int | tuple[int, int] = 5,
        n_slices: int = 32,
        gradient: Gradient = "critic",
        reduction: Reduction = "mean",
        weights: str | Path = "base",
        gather: bool = False,
    ) -> None:
        super().__init__(
            direction, gradient=gradient, reduction=reduction, weights=weights, gather=gather
        )
        self.k = k
        self.n_slices = n_slices

    def forward(self, x: Tensor, y: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """The loss of paired samples.

        Args:
            x: shape (n, dx) or (b, n, dx); or, beside a continuous y, integer classes, (n,) or
                (b, n).
            y: shape (n, dy) or (b, n, dy); or, beside a continuous x, integer classes.
            generator: draws the projections and the shuffled pairs; by default one of a fixed seed.

        Returns:
            Shape (), or (b,) with `reduction="none"` on batches; ± nats.

        Raises:
            InputError: `k`, `n_slices` or the samples cannot be used, or in training mode neither
                side carries a gradient.
        """
        x, y = self._of_all_ranks(x, y)
        slices = sliced_values(
            x, y, self.k, self.n_slices, generator, self.gradient, self._model
        ).values
        value = slices.mean(-1)
        terms = SlicedTerms(value, monte_carlo_error(slices.detach()))
        return self._loss(value, terms, "x", "y")

    def _settings(self) -> list[str]:
        return [*super()._settings(), f"k={self.k}", f"n_slices={self.n_slices}"]


class ConditionalMutualInformationLoss(InformationLoss):
    r"""I(x; y | z) of a batch as a loss, by the chain rule or within classes.

    See :func:`conditional_mutual_information`: the difference of two estimates has the errors of
    both, and its gradient the noise of both.

    Args:
        direction: "minimize" or "maximize".
        gradient: "critic" or "full", see :class:`MutualInformationLoss`.
        reduction: over data sets where inputs have a batch dimension: "mean", "sum" or "none".
        weights: name or path of the weights.
        gather: whether to estimate from the samples of all processes, see :class:`InformationLoss`.

    Raises:
        InputError: an argument is not one of its choices.

    Example:
        >>> import torch
        >>> from flashmi_reg import ConditionalMutualInformationLoss
        >>> generator = torch.Generator().manual_seed(0)
        >>> fair = ConditionalMutualInformationLoss("minimize")
        >>> features = torch.randn(256, 3, generator=generator, requires_grad=True)
        >>> sensitive = torch.randn(256, 1, generator=generator)
        >>> label = torch.randint(2, (256,), generator=generator)
        >>> fair(features, sensitive, label).backward()  # equalised odds
        >>> features.grad.shape
        torch.Size([256, 3])
    """

    terms: ConditionalTerms | None

    def forward(
        self, x: Tensor, y: Tensor, z: Tensor, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """The loss of samples in triples.

        Args:
            x: shape (n, dx) or (b, n, dx); or integer classes, (n,) or (b, n).
            y: samples paired with them, likewise.
            z: the condition, likewise.
            generator: draws the shuffled pairs; by default one of a fixed seed.

        Returns:
            Shape (), or (b,) with `reduction="none"` on batches; ± nats.

        Raises:
            InputError: the samples cannot be used, or in training mode none of them carries a
                gradient.
        """
        x, y, z = self._of_all_ranks(x, y, z)
        terms = conditional_terms(x, y, z, generator, self.gradient, self._model)
        return self._loss(terms.information, terms, "x", "y", "z")


class TotalCorrelationLoss(InformationLoss):
    r"""Total correlation of the components of z as a loss; minimised, it makes them independent.

    See :func:`total_correlation`; of d components, its cost is that of d − 1 estimates.

    Args:
        direction: "minimize" or "maximize".
        groups: columns of each component, if these are several columns each.
        gradient: "critic" or "full", see :class:`MutualInformationLoss`.
        reduction: over data sets where inputs have a batch dimension: "mean", "sum" or "none".
        weights: name or path of the weights.
        gather: whether to estimate from the samples of all processes, see :class:`InformationLoss`.

    Raises:
        InputError: an argument is not one of its choices.

    Example:
        >>> import torch
        >>> from flashmi_reg import TotalCorrelationLoss
        >>> generator = torch.Generator().manual_seed(0)
        >>> disentangle = TotalCorrelationLoss("minimize")
        >>> z = torch.randn(256, 4, generator=generator, requires_grad=True)
        >>> disentangle(z).backward()
        >>> z.grad.shape
        torch.Size([256, 4])
    """

    terms: TotalCorrelationTerms | None

    def __init__(
        self,
        direction: Direction,
        *,
        groups: Sequence[Sequence[int]] | None = None,
        gradient: Gradient = "critic",
        reduction: Reduction = "mean",
        weights: str | Path = "base",
        gather: bool = False,
    ) -> None:
        super().__init__(
            direction, gradient=gradient, reduction=reduction, weights=weights, gather=gather
        )
        self.groups = groups

    def forward(
        self, z: Tensor | Sequence[Tensor], *, generator: torch.Generator | None = None
    ) -> Tensor:
        """The loss of samples.

        Args:
            z: shape (n, d) or (b, n, d); or a sequence of components, each of such a shape.
            generator: draws the shuffled pairs; by default one of a fixed seed.

        Returns:
            Shape (), or (b,) with `reduction="none"` on batches; ± nats.

        Raises:
            InputError: the samples or `groups` cannot be used, or in training mode `z` carries no
                gradient.
        """
        if isinstance(z, Tensor):
            (z,) = self._of_all_ranks(z)
        elif isinstance(z, (list, tuple)):
            z = self._of_all_ranks(*z)
        terms = total_correlation_terms(z, self.groups, generator, self.gradient, self._model)
        return self._loss(terms.information, terms, "z")

    def _settings(self) -> list[str]:
        groups = [] if self.groups is None else [f"groups={self.groups}"]
        return [*super()._settings(), *groups]
