"""The registry of the 40 BMI tasks, under the names that the `benchmark-mi` package gives them."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import torch
from torch import Tensor

from experiments.bmi.distributions import (
    AdditiveUniform,
    Distribution,
    Gaussian,
    Student,
    dense,
    two_pair,
)
from experiments.bmi.transforms import (
    Map,
    half_cube,
    mixture_quantile,
    normal_cdf,
    spiral,
    swiss_roll,
    wiggly_x,
    wiggly_y,
)

__all__ = ["NARROW_WIDTH", "TASKS", "Task", "generator_for"]

NARROW_WIDTH = 10
"""A task of at most this many joint dimensions (dx + dy) is narrow."""


@dataclass(frozen=True)
class Task:
    r"""One benchmark distribution of (x, y) with known mutual information.

    Args:
        name: The identifier in the `benchmark-mi` package.
        title: The name to show.
        dx: The width of x.
        dy: The width of y.
        mi: The true mutual information in nats.
        truth: Where the value of `mi` comes from. Every one of the 40 has a closed form.
        base: The distribution that is drawn first.
        maps: What is then applied to x and to y, in order.

    Example:
        >>> task = TASKS["student-identity-3-3-2"]
        >>> x, y = task.sample(100, generator=torch.Generator().manual_seed(0))
        >>> x.shape, y.shape, round(task.mi, 4)
        (torch.Size([100, 3]), torch.Size([100, 3]), 0.2909)
    """

    name: str
    title: str
    dx: int
    dy: int
    mi: float
    truth: str
    base: Distribution
    maps: tuple[tuple[Map, Map], ...] = ()

    @property
    def narrow(self) -> bool:
        """Whether x and y together have at most ten dimensions."""
        return self.dx + self.dy <= NARROW_WIDTH

    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator,
        batch: int | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> tuple[Tensor, Tensor]:
        r"""Draw paired samples on the generator's device.

        Args:
            n: The number of pairs.
            generator: The source of randomness; the global one is never used.
            batch: The number b of data sets, or `None` for one without a batch dimension.
            dtype: The type of the result. The draw itself is always made in float64.

        Returns:
            x of shape `(n, dx)` and y of shape `(n, dy)`, or `(b, n, dx)` and `(b, n, dy)`.
        """
        if n < 1:
            raise ValueError(f"`n` must be at least 1, got {n}.")
        shape = (n,) if batch is None else (batch, n)
        x, y = self.base.draw(shape, generator)
        for map_x, map_y in self.maps:
            x, y = map_x(x), map_y(y)
        return x.to(dtype), y.to(dtype)

    def mapped(self, name: str, title: str, map_x: Map, map_y: Map, *, dx: int = 0) -> Task:
        """Apply one more map to x and to y; `dx` is the new width of x where that changes."""
        return Task(
            name=name,
            title=title,
            dx=dx or self.dx,
            dy=self.dy,
            mi=self.mi,
            truth=self.truth,
            base=self.base,
            maps=(*self.maps, (map_x, map_y)),
        )


def generator_for(task: Task, n: int, seed: int) -> torch.Generator:
    """Make the CPU generator of one cell of the benchmark, unlike that of any other task or n."""
    return torch.Generator().manual_seed(zlib.crc32(f"{task.name}|{n}|{seed}".encode()))


def _task(name: str, title: str, base: Distribution) -> Task:
    return Task(name, title, base.dx, base.dy, base.mi, base.formula, base)


def _identity(x: Tensor) -> Tensor:
    return x


def _cdf(task: Task) -> Task:
    name, title = f"normal_cdf-{task.name}", f"Normal CDF @ {task.title}"
    return task.mapped(name, title, normal_cdf, normal_cdf)


def _half_cube(task: Task) -> Task:
    name, title = f"half_cube-{task.name}", f"Half-cube @ {task.title}"
    return task.mapped(name, title, half_cube, half_cube)


def _asinh(task: Task) -> Task:
    return task.mapped(f"asinh-{task.name}", f"Asinh @ {task.title}", torch.asinh, torch.asinh)


def _spiral(task: Task) -> Task:
    turn_x, turn_y = spiral(0, 1, task.dx), spiral(1, 2, task.dy)
    return task.mapped(f"spiral-{task.name}", f"Spiral @ {task.title}", turn_x, turn_y)


def _student(d: int, df: int) -> Task:
    title = f"Student-t {d} × {d} (dof={df})"
    return _task(f"student-identity-{d}-{d}-{df}", title, Student(d, d, df))


def _dense(d: int) -> Task:
    return _task(f"multinormal-dense-{d}-{d}-0.5", f"Multinormal {d} × {d} (dense)", dense(d, d))


def _two_pair(d: int) -> Task:
    title = f"Multinormal {d} × {d} (2-pair)"
    return _task(f"multinormal-sparse-{d}-{d}-2-2.0", title, two_pair(d, d))


def _one_dimensional() -> list[Task]:
    name = "1v1-normal-0.75"
    correlation = torch.tensor([[1.0, 0.75], [0.75, 1.0]], dtype=torch.float64)
    normal = _task(name, "Bivariate normal 1 × 1", Gaussian(1, 1, correlation))
    uniform = _cdf(normal)
    student = _student(1, 1)
    return [
        normal,
        uniform,
        *(
            _task(f"1v1-additive-{e}", f"Uniform 1 × 1 (additive noise={e})", AdditiveUniform(e))
            for e in (0.1, 0.75)
        ),
        uniform.mapped(
            "1v1-bimodal-0.75",
            "Bimodal 1 × 1",
            mixture_quantile((0.3, 0.7), (0.0, 5.0)),
            mixture_quantile((0.5, 0.5), (-1.0, 3.0)),
        ),
        normal.mapped(f"wiggly-{name}", f"Wiggly @ {normal.title}", wiggly_x, wiggly_y),
        _half_cube(normal),
        student,
        _asinh(student),
        uniform.mapped(
            f"swissroll_x-{uniform.name}", "Swiss roll 2 × 1", swiss_roll, _identity, dx=2
        ),
    ]


def _registry() -> dict[str, Task]:
    pairs = [_two_pair(d) for d in (3, 5, 25)]
    students = [_student(d, df) for d, df in ((2, 1), (2, 2), (3, 2), (3, 3), (5, 2), (5, 3))]
    tasks = [
        *_one_dimensional(),
        *(_dense(d) for d in (2, 3, 5, 25, 50)),
        _two_pair(2),
        *pairs,
        *students,
        *map(_cdf, pairs),
        *map(_half_cube, pairs),
        *map(_spiral, pairs),
        *(_spiral(_cdf(pair)) for pair in pairs),
        *(_asinh(students[k]) for k in (0, 2, 4)),
    ]
    return {task.name: task for task in tasks}


TASKS: dict[str, Task] = _registry()
"""All 40 tasks by name, in the order of the package."""
