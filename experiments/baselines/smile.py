"""SMILE: a density ratio trained by the Jensen–Shannon bound, read by a clipped DV bound."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import softplus

from experiments.baselines.neural import (
    ACCURATE,
    Critic,
    Objective,
    Schedule,
    fit,
    log_mean_exp,
    shifted,
)
from experiments.baselines.protocol import Estimate

__all__ = ["SMILE", "Smoothed"]


class Smoothed(Objective):
    r"""E_joint[T] − log E_product[clip(exp T, e^−τ, e^τ)] of a critic that classifies pairs.

    As in the authors' code, gradients are those of the Jensen–Shannon bound, whose best critic is
    the logarithm of the density ratio. The clipped value is no lower bound and grows when the
    critic overfits: training stops by the Jensen–Shannon bound on held-out pairs.

    Args:
        clip: τ, beyond which density ratios of the product are clipped; infinite for none.
        copies: The number of derangements in a step.
        shifts: The number of derangements over which a held-out value is averaged.
    """

    def __init__(self, clip: float, copies: int = 4, shifts: int = 8) -> None:
        self.clip = clip
        self.copies = copies
        self.shifts = shifts

    def loss(self, critic: Critic, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        """Minus the Jensen–Shannon bound on a batch."""
        product = critic(x, torch.stack(shifted(y, self.copies)))
        return softplus(-critic(x, y)).mean() + softplus(product).mean()

    def value(self, critic: Critic, x: Tensor, y: Tensor) -> float:
        """The clipped Donsker–Varadhan value on held-out pairs."""
        product = self._product(critic, x, y).clamp(-self.clip, self.clip)
        return (critic(x, y).mean() - log_mean_exp(product)).item()

    def score(self, critic: Critic, x: Tensor, y: Tensor, value: float) -> float:
        """The Jensen–Shannon bound on held-out pairs."""
        product = softplus(self._product(critic, x, y)).mean()
        return -(softplus(-critic(x, y)).mean() + product).item()

    def _product(self, critic: Critic, x: Tensor, y: Tensor) -> Tensor:
        return critic(x, torch.stack(shifted(y, self.shifts)))


@dataclass(frozen=True)
class SMILE:
    r"""Smoothed mutual information lower-bound estimator.

    The settings are those of MINE: on five tasks of the BMI benchmark with data that no table has,
    they take the mean error from 0.340 to 0.158 nats at n = 1,000.

    Args:
        clip: τ, beyond which density ratios of the product are clipped.
        schedule: How the critic is trained.

    References:
        | Understanding the Limitations of Variational Mutual Information Estimators
        | (Song & Ermon, 2020) https://arxiv.org/abs/1910.06222
    """

    clip: float = 5.0
    schedule: Schedule = ACCURATE

    def __call__(self, x: Tensor, y: Tensor, seed: int = 0) -> Estimate:
        """Estimate I(x; y) from x of shape `(n, dx)` and y of shape `(n, dy)`."""
        return fit(partial(Smoothed, self.clip), x, y, seed, self.schedule)
