"""Independent x and y, each with a clustered law of its own: the null that must read as zero."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from .base import DataSets, Family
from .draws import bucketed_integer, coin
from .mixture import random_mixture

__all__ = ["Independence"]


class Independence(Family):
    """x and y from two independent mixtures; PMI is 0 everywhere.

    Args:
        components: Buckets (probability, low, high) of each side's number of components.
        student: Probability that a side's components are Student's t.
        nu: Bounds of their degrees of freedom, uniform.
        mean_range, mean_scale, variance: As for `GaussianMixture`.
    """

    name = "independence"

    def __init__(
        self,
        components: Sequence[tuple[float, int, int]] = ((0.4, 1, 1), (0.6, 2, 20)),
        *,
        student: float = 0.4,
        nu: tuple[float, float] = (2.0, 30.0),
        mean_range: float = 5.0,
        mean_scale: tuple[float, float] = (1.0, 1.0),
        variance: tuple[float, float] = (0.01, 10.0),
    ) -> None:
        self.components = tuple(components)
        self.student = student
        self.nu = nu
        self.mean_range = mean_range
        self.mean_scale = mean_scale
        self.variance = variance

    def sample(
        self,
        batch: int,
        n: int,
        dx: int,
        dy: int,
        *,
        generator: Generator,
        dtype: torch.dtype = torch.float32,
    ) -> DataSets:
        """Draw data sets; see `Family.sample`. Their `mi` is 0."""
        x = self._side(batch, n, dx, generator=generator, dtype=dtype)
        y = self._side(batch, n, dy, generator=generator, dtype=dtype)

        def log_ratio(x: Tensor, y: Tensor) -> Tensor:
            return x.new_zeros(x.shape[:-1])

        return DataSets(x, y, x, y, log_ratio, x.new_zeros(batch), self.name)

    def _side(
        self, batch: int, n: int, d: int, *, generator: Generator, dtype: torch.dtype
    ) -> Tensor:
        k = bucketed_integer(self.components, generator=generator)
        student = coin(self.student, generator=generator)
        mixture, _ = random_mixture(
            batch,
            k,
            d,
            mean_range=self.mean_range,
            mean_scale=self.mean_scale,
            variance=self.variance,
            nu=self.nu if student else None,
            generator=generator,
            dtype=dtype,
        )
        return mixture.sample(n, generator=generator)[0]
