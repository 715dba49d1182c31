"""The training loop that the neural baselines share: a critic fitted to one data set."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from experiments.baselines.gaussian_copula import normal_scores
from experiments.baselines.protocol import Array, Estimate, as_pair, clock

__all__ = ["Critic", "Objective", "Schedule", "fit", "log_mean_exp", "shifted"]


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
    """An estimate of mutual information that is trained; one instance lives through one fit."""

    def critic(
        self, dx: int, dy: int, hidden: Sequence[int], generator: torch.Generator
    ) -> nn.Module:
        """What is trained for x of width `dx` and y of width `dy`, by default a :class:`Critic`."""
        return Critic(dx, dy, hidden, generator=generator)

    def loss(self, critic: Any, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        """What a step of gradient descent minimises on a batch."""
        raise NotImplementedError

    def value(self, critic: Any, x: Tensor, y: Tensor) -> float:
        """The estimate in nats on held-out pairs, without randomness."""
        raise NotImplementedError

    def score(self, critic: Any, x: Tensor, y: Tensor, value: float) -> float:
        """What decides on held-out pairs when to stop; for lower bounds it is the value itself."""
        return value


@dataclass(frozen=True)
class Schedule:
    r"""How a critic is trained.

    As in the BMI benchmark: half of the pairs are held out, training stops when the score there
    no longer grows, and the held-out value of the best score is the estimate. The networks are
    wider and the learning rate is smaller than there (16–8 and 0.1), which is better on most tasks.

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


def shifted(y: Tensor, shifts: int) -> list[Tensor]:
    """Copies of y, shape `(n, dy)`, in which each x meets the y of another, never its own."""
    n = len(y)
    steps = sorted({1 + s * (n - 1) // shifts for s in range(shifts)})
    return [y.roll(step, 0) for step in steps]


def _prepare(x: Array, scores: bool) -> Tensor:
    if scores:
        x = normal_scores(x)
    spread = np.maximum(x.std(axis=0), 1e-12)
    return torch.from_numpy((x - x.mean(axis=0)) / spread).float()


def fit(
    make_objective: Callable[[], Objective], x: Tensor, y: Tensor, seed: int, schedule: Schedule
) -> Estimate:
    r"""Train a critic on one data set and return its best held-out value.

    Args:
        make_objective: Makes what is trained.
        x: Samples of shape `(n, dx)`.
        y: Samples of shape `(n, dy)`.
        seed: Governs the split, the initial weights and the batches.
        schedule: How the critic is trained.
    """
    start = clock()
    x, y = (_prepare(z, schedule.scores) for z in as_pair(x, y))
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(x), generator=generator)
    cut = round(len(x) * schedule.held_out)
    (x_test, x_train), (y_test, y_train) = (z[order].split([cut, len(z) - cut]) for z in (x, y))
    objective = make_objective()
    critic = objective.critic(x.shape[1], y.shape[1], schedule.hidden, generator)
    optimizer = torch.optim.Adam(critic.parameters(), lr=schedule.learning_rate)
    best, found, stale, steps = -math.inf, math.nan, 0, 0
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
            score = objective.score(critic, x_test, y_test, value)
        best, found, stale = (score, value, 0) if score > best else (best, found, stale + 1)
    seconds = clock() - start
    return Estimate(found, seconds, steps=steps, converged=stale >= schedule.patience)
