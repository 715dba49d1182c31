"""Run estimators over the benchmark's tasks and sum up their errors.

No task of the benchmark has zero information, so an estimator that overfits its samples gains by
its bias: an untrained network can look good. Two guards stand beside the error. `nulls` are
estimates on the same data with the pairing broken, where the truth is zero; `fresh` is the
Donsker–Varadhan bound of our critic at pairs that it has not seen.
"""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from experiments.baselines import Baseline
from experiments.baselines.protocol import clock
from experiments.bmi.tasks import Task, generator_for
from flashmi_reg import FlashMI
from flashmi_reg.errors import InputError, SupportWarning

__all__ = ["Cell", "Summary", "broken", "draw", "run_baseline", "run_ours", "summarise"]

FRESH_PAIRS = 2_000


@dataclass(frozen=True)
class Cell:
    """The estimates of one method on one task at one n.

    Attributes:
        method: the name of the method.
        task: the name of the task.
        n: the number of pairs in each data set.
        truth: the true mutual information in nats.
        narrow: whether the task is a narrow one.
        values: one estimate a seed; empty if the method does not take data so wide.
        seconds: the mean time of one estimate, by `baselines.protocol.clock`.
        steps: the mean number of training steps, where there is training.
        nulls: one estimate a seed with the pairing broken; the truth is zero.
        fresh: one bound a seed of the critic at new pairs, where there is a critic to ask.
    """

    method: str
    task: str
    n: int
    truth: float
    narrow: bool
    values: tuple[float, ...]
    seconds: float
    steps: float | None = None
    nulls: tuple[float, ...] = ()
    fresh: tuple[float, ...] = ()

    @property
    def mean(self) -> float | None:
        """The mean estimate over seeds."""
        return statistics.fmean(self.values) if self.values else None

    @property
    def error(self) -> float | None:
        """The mean absolute error over seeds."""
        if not self.values:
            return None
        return statistics.fmean(abs(value - self.truth) for value in self.values)

    @property
    def bias(self) -> float | None:
        """The mean signed error over seeds."""
        return None if self.mean is None else self.mean - self.truth

    @property
    def spread(self) -> float | None:
        """The standard deviation over seeds."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


class Summary(NamedTuple):
    """The errors of one method at one n over a group of tasks, and its time for one estimate.

    `seeds` is the least number of data sets behind a task, `null` the mean estimate where the truth
    is zero, `fresh` the mean signed error of the critic's bound at new pairs, which is at most zero
    but for sampling error.
    """

    method: str
    n: int
    group: str
    tasks: int
    seeds: int
    mae: float
    bias: float
    spread: float | None
    null: float
    fresh: float | None
    seconds: float


def draw(task: Task, n: int, seeds: int) -> tuple[Tensor, Tensor]:
    """Draw one data set a seed: x of shape `(seeds, n, dx)`, y of shape `(seeds, n, dy)`."""
    pairs = [task.sample(n, generator=generator_for(task, n, seed)) for seed in range(seeds)]
    x, y = zip(*pairs, strict=True)
    return torch.stack(x), torch.stack(y)


def broken(y: Tensor) -> Tensor:
    """Pair each x with the y of another sample: y of shape `(*, n, d)`, moved on by n/2 places."""
    return y.roll(y.shape[-2] // 2, dims=-2)


@torch.no_grad()
def run_ours(model: FlashMI, task: Task, n: int, seeds: int) -> Cell:
    """Estimate all seeds in one call; a cell without values if the task is too wide."""
    x, y = draw(task, n, seeds)
    values, nulls, fresh = [], [], []
    start = clock()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SupportWarning)
        try:
            values = _ours(model, x, y)
            seconds = (clock() - start) / seeds
            nulls = _ours(model, x, broken(y))
            # There is a critic to ask where the network reads all coordinates.
            fresh = _fresh_bound(model, task, x, y) if task.narrow else []
        except InputError:  # too few samples for so wide a task
            if task.narrow:
                raise
            seconds = 0.0
    return Cell(
        "ours",
        task.name,
        n,
        task.mi,
        task.narrow,
        tuple(values),
        seconds,
        nulls=tuple(nulls),
        fresh=tuple(fresh),
    )


def _ours(model: FlashMI, x: Tensor, y: Tensor) -> list[float]:
    generator = torch.Generator().manual_seed(0)
    values: list[float] = model.mutual_information(x, y, generator=generator).tolist()
    return values


def _fresh_bound(model: FlashMI, task: Task, x: Tensor, y: Tensor) -> list[float]:
    """Donsker–Varadhan bound, for each seed, of the critic read from x and y at new pairs."""
    generator = generator_for(task, x.shape[1], -1)
    new_x, new_y = task.sample(FRESH_PAIRS, generator=generator, batch=len(x))
    critic = model.critic(x, y, generator=torch.Generator().manual_seed(0))
    joint = critic(new_x, new_y)
    product = torch.cat([critic(new_x, new_y.roll(shift, dims=1)) for shift in (1, 7, 50)], 1)
    log_mean = product.logsumexp(1) - math.log(product.shape[1])
    bounds: list[float] = (joint.mean(1) - log_mean).tolist()
    return bounds


def run_baseline(name: str, baseline: Baseline, task: Task, n: int, seeds: int) -> Cell:
    """Estimate one seed after another, on the same data sets as ours."""
    x, y = draw(task, n, seeds)
    found = [baseline(x[seed], y[seed], seed) for seed in range(seeds)]
    nulls = [baseline(x[seed], broken(y[seed]), seed).value for seed in range(seeds)]
    steps = [estimate.steps for estimate in found if estimate.steps is not None]
    return Cell(
        name,
        task.name,
        n,
        task.mi,
        task.narrow,
        tuple(estimate.value for estimate in found),
        statistics.fmean(estimate.seconds for estimate in found),
        statistics.fmean(steps) if steps else None,
        nulls=tuple(nulls),
    )


def summarise(cells: Sequence[Cell]) -> list[Summary]:
    """Sum up each method at each n, over narrow, wide and all tasks that it has values for."""
    groups: dict[str, Callable[[Cell], bool]] = {
        "narrow": lambda cell: cell.narrow,
        "wide": lambda cell: not cell.narrow,
        "all": lambda cell: True,
    }
    summaries = []
    for n, method in sorted({(cell.n, cell.method): None for cell in cells}, key=lambda k: k[0]):
        mine = [c for c in cells if (c.n, c.method) == (n, method) and c.values]
        for group, member in groups.items():
            chosen = [cell for cell in mine if member(cell)]
            # "all" says something only where both kinds of task were run.
            if not chosen or (group == "all" and len({cell.narrow for cell in chosen}) < 2):
                continue
            spreads = [cell.spread for cell in chosen if cell.spread is not None]
            gaps = [value - cell.truth for cell in chosen for value in cell.fresh]
            summaries.append(
                Summary(
                    method=method,
                    n=n,
                    group=group,
                    tasks=len(chosen),
                    seeds=min(len(cell.values) for cell in chosen),
                    mae=statistics.fmean(cell.error or 0.0 for cell in chosen),
                    bias=statistics.fmean(cell.bias or 0.0 for cell in chosen),
                    spread=statistics.fmean(spreads) if spreads else None,
                    null=statistics.fmean(value for cell in chosen for value in cell.nulls),
                    fresh=statistics.fmean(gaps) if gaps else None,
                    seconds=statistics.median(cell.seconds for cell in chosen),
                )
            )
    return summaries
