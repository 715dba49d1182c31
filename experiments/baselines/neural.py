"""The training loop that the neural baselines share: a critic fitted to one data set."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from experiments.baselines.gaussian_copula import normal_scores
from experiments.baselines.protocol import Array, Estimate, as_pair, clock

__all__ = [
    "ACCURATE",
    "Activation",
    "Critic",
    "Objective",
    "Schedule",
    "fit",
    "log_mean_exp",
    "shifted",
]

Activation = Literal["ReLU", "SiLU"]
ACTIVATIONS: dict[Activation, type[nn.Module]] = {"ReLU": nn.ReLU, "SiLU": nn.SiLU}


class Dropout(nn.Module):
    """Leaves out hidden units at random, from a generator of its own.

    Random numbers are what dropout costs on a processor: one draw of 64 bits serves eight units.

    Args:
        share: The share that is left out, to the nearest of 256 parts.
        generator: The source of randomness.
    """

    def __init__(self, share: float, generator: torch.Generator) -> None:
        super().__init__()
        self.left_out = round(256 * share)
        self.generator = generator

    def forward(self, x: Tensor) -> Tensor:
        """What is left of x, scaled so that its mean is that of x."""
        if not self.training:
            return x
        draws = torch.empty(-(-x.numel() // 8), dtype=torch.int64)
        draws.random_(torch.iinfo(torch.int64).min, None, generator=self.generator)
        kept = draws.view(torch.uint8)[: x.numel()].view(x.shape) >= self.left_out
        return x * (kept * (256 / (256 - self.left_out)))


class Critic(nn.Module):
    r"""Perceptron T(x, y) on the concatenated pair.

    Its first layer is a sum of a part of x and a part of y, so that the table of all pairs in a
    batch costs no more than it must.

    Args:
        dx: The width of x.
        dy: The width of y.
        hidden: The widths of the hidden layers.
        activation: What stands between the layers.
        dropout: The share of hidden units that are left out at random in training.
        generator: The source of the initial weights.
    """

    def __init__(
        self,
        dx: int,
        dy: int,
        hidden: Sequence[int],
        *,
        activation: Activation = "ReLU",
        dropout: float = 0.0,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):  # layers first fill themselves from the global one
            self.of_x = nn.Linear(dx, hidden[0])
            self.of_y = nn.Linear(dy, hidden[0], bias=False)
            layers: list[nn.Module] = []
            for width_in, width_out in zip(hidden, [*hidden[1:], 1], strict=True):
                layers.append(ACTIVATIONS[activation]())
                layers += [Dropout(dropout, generator)] if dropout else []
                layers.append(nn.Linear(width_in, width_out))
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

    def critic(self, dx: int, dy: int, schedule: Schedule, generator: torch.Generator) -> nn.Module:
        """What is trained for x of width `dx` and y of width `dy`, by default a :class:`Critic`."""
        return Critic(
            dx,
            dy,
            schedule.hidden,
            activation=schedule.activation,
            dropout=schedule.dropout,
            generator=generator,
        )

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
        activation: What stands between the layers of the critic.
        dropout: The share of its hidden units that are left out at random in training.
        learning_rate: The learning rate of Adam.
        batch: The number of pairs in a step.
        max_steps: The limit of steps.
        every: The number of steps between two looks at the held-out half.
        patience: How many looks without a new best value end training.
        held_out: The share of pairs that is held out.
        averaging: The weight of the past in the moving average of the critic's weights, which is
            what the held-out pairs see; zero for the weights as they are.
        scores: Whether coordinates become normal scores of their ranks, which FlashMI sees too,
            instead of being standardised as in the BMI benchmark. Mutual information is the
            same; but with raw Cauchy data a single pair can drive the bound to 12 nats.
    """

    hidden: tuple[int, ...] = (64, 64, 64)
    activation: Activation = "ReLU"
    dropout: float = 0.0
    learning_rate: float = 1e-3
    batch: int = 256
    max_steps: int = 10_000
    every: int = 50
    patience: int = 10
    held_out: float = 0.5
    averaging: float = 0.0
    scores: bool = True


ACCURATE = Schedule(
    activation="SiLU",
    dropout=0.2,
    max_steps=20_000,
    patience=20,
    held_out=0.2,
    averaging=0.995,
)
"""What is most accurate for MINE, see there, and better for other bounds than the defaults."""


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


@torch.no_grad()
def _average(means: Sequence[Tensor], weights: Sequence[Tensor], decay: float, steps: int) -> None:
    """Move the averages on; they forget the first steps, of which they would be full, sooner."""
    past = min(decay, (1 + steps) / (10 + steps))
    for mean, now in zip(means, weights, strict=True):
        mean.lerp_(now, 1 - past)


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
    value, steps, converged = _train(make_objective(), x, y, seed, schedule)
    return Estimate(value, clock() - start, steps=steps, converged=converged)


def _train(
    objective: Objective, x: Tensor, y: Tensor, seed: int, schedule: Schedule
) -> tuple[float, int, bool]:
    """The best held-out value, the steps, and whether training stopped by itself."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(x), generator=generator)
    cut = round(len(x) * schedule.held_out)
    (x_test, x_train), (y_test, y_train) = (z[order].split([cut, len(z) - cut]) for z in (x, y))
    critic = objective.critic(x.shape[1], y.shape[1], schedule, generator)
    averaged = copy.deepcopy(critic).requires_grad_(False).eval()
    weights, means = list(critic.parameters()), list(averaged.parameters())
    optimizer = torch.optim.Adam(weights, lr=schedule.learning_rate, fused=True)
    best, found, stale, steps = -math.inf, math.nan, 0, 0
    while steps < schedule.max_steps and stale < schedule.patience:
        for _ in range(schedule.every):
            rows = torch.randperm(len(x_train), generator=generator)[: schedule.batch]
            loss = objective.loss(critic, x_train[rows], y_train[rows], generator)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            steps += 1
            _average(means, weights, schedule.averaging, steps)
        with torch.no_grad():
            value = objective.value(averaged, x_test, y_test)
            score = objective.score(averaged, x_test, y_test, value)
        best, found, stale = (score, value, 0) if score > best else (best, found, stale + 1)
    return found, steps, stale >= schedule.patience
