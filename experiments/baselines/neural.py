"""The training loop that MINE and InfoNCE share: a critic fitted to one data set."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from experiments.baselines.gaussian_copula import normal_scores
from experiments.baselines.protocol import Array, Estimate, as_pair

__all__ = ["Critic", "Objective", "Schedule", "fit", "log_mean_exp"]


class Critic(nn.Module):
    r"""Perceptron T(x, y) on the concatenated pair.

    Its first layer is a sum of a part of x and a part of y, so that the table of all pairs in a
    batch costs no more than it must.

    Args:
        dx: The width of x.
        dy: The width of y.
        hidden: The widths of the hidden layers.
        generator: The source of the initial weights.
    """

    def __init__(
        self, dx: int, dy: int, hidden: Sequence[int], *, generator: torch.Generator
    ) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):  # layers first fill themselves from the global one
            self.of_x = nn.Linear(dx, hidden[0])
            self.of_y = nn.Linear(dy, hidden[0], bias=False)
            layers: list[nn.Module] = []
            for width_in, width_out in zip(hidden, [*hidden[1:], 1], strict=True):
                layers += [nn.ReLU(), nn.Linear(width_in, width_out)]
            self.head = nn.Sequential(*layers)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                fan_in = dx + dy if name.startswith("of_") else parameter.shape[-1]
                if parameter.ndim == 2:
                    parameter.uniform_(-1, 1, generator=generator).mul_(math.sqrt(3 / fan_in))
                else:
                    parameter.zero_()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """T(x_i, y_i) of shape `(n,)` for x of shape `(n, dx)` and y of shape `(n, dy)`."""
        out: Tensor = self.head(self.of_x(x) + self.of_y(y)).squeeze(-1)
        return out

    def table(self, x: Tensor, y: Tensor) -> Tensor:
        """T(x_i, y_j) of shape `(n, m)` for x of shape `(n, dx)` and y of shape `(m, dy)`."""
        out: Tensor = self.head(self.of_x(x).unsqueeze(1) + self.of_y(y)).squeeze(-1)
        return out


class Objective:
    """A lower bound on mutual information; one instance lives through one fit."""

    def loss(self, critic: Critic, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        """What a step of gradient descent minimises on a batch."""
        raise NotImplementedError

    def value(self, critic: Critic, x: Tensor, y: Tensor) -> float:
        """The bound in nats on held-out pairs, without randomness."""
        raise NotImplementedError


@dataclass(frozen=True)
class Schedule:
    r"""How a critic is trained.

    As in the BMI benchmark: half of the pairs are held out, training stops when the bound there
    no longer grows, and the best held-out value is the estimate. The networks are wider and the
    learning rate is smaller than there (16–8 and 0.1), which is better on most tasks.

    Args:
        hidden: The widths of the critic's hidden layers.
        learning_rate: The learning rate of Adam.
        batch: The number of pairs in a step.
        max_steps: The limit of steps.
        every: The number of steps between two looks at the held-out half.
        patience: How many looks without a new best value end training.
        held_out: The share of pairs that is held out.
        scores: Whether coordinates become normal scores of their ranks, which FlashMI sees too,
            instead of being standardised as in the BMI benchmark. Mutual information is the
            same; but with raw Cauchy data a single pair can drive the bound to 12 nats.
    """

    hidden: tuple[int, ...] = (64, 64, 64)
    learning_rate: float = 1e-3
    batch: int = 256
    max_steps: int = 10_000
    every: int = 50
    patience: int = 10
    held_out: float = 0.5
    scores: bool = True


def log_mean_exp(x: Tensor) -> Tensor:
    """Logarithm of the mean of exp(x), over all elements."""
    return x.flatten().logsumexp(0) - math.log(x.numel())


def _prepare(x: Array, scores: bool) -> Tensor:
    if scores:
        x = normal_scores(x)
    spread = np.maximum(x.std(axis=0), 1e-12)
    return torch.from_numpy((x - x.mean(axis=0)) / spread).float()


def fit(
    make_objective: Callable[[], Objective], x: Tensor, y: Tensor, seed: int, schedule: Schedule
) -> Estimate:
    r"""Train a critic on one data set and return its best held-out bound.

    Args:
        make_objective: Makes the bound to maximise.
        x: Samples of shape `(n, dx)`.
        y: Samples of shape `(n, dy)`.
        seed: Governs the split, the initial weights and the batches.
        schedule: How the critic is trained.
    """
    start = time.perf_counter()
    x, y = (_prepare(z, schedule.scores) for z in as_pair(x, y))
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(x), generator=generator)
    cut = round(len(x) * schedule.held_out)
    (x_test, x_train), (y_test, y_train) = (z[order].split([cut, len(z) - cut]) for z in (x, y))
    critic = Critic(x.shape[1], y.shape[1], schedule.hidden, generator=generator)
    optimizer = torch.optim.Adam(critic.parameters(), lr=schedule.learning_rate)
    objective, best, stale, steps = make_objective(), -math.inf, 0, 0
    while steps < schedule.max_steps and stale < schedule.patience:
        for _ in range(schedule.every):
            rows = torch.randperm(len(x_train), generator=generator)[: schedule.batch]
            loss = objective.loss(critic, x_train[rows], y_train[rows], generator)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        steps += schedule.every
        with torch.no_grad():
            value = objective.value(critic, x_test, y_test)
        best, stale = (value, 0) if value > best else (best, stale + 1)
    seconds = time.perf_counter() - start
    return Estimate(best, seconds, steps=steps, converged=stale >= schedule.patience)
