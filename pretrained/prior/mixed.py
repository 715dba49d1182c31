"""The training prior: a weighted table of families, with and without flows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Generator

from .additive import AdditiveNoise
from .base import DataSets, Family
from .dependence import DenseDependence, SparseDependence
from .draws import bucketed_integer, categorical, coin, integer
from .flows import RandomFlow
from .independence import Independence
from .labels import ClassLabels
from .mixture import GaussianMixture, StudentMixture

__all__ = ["COMPONENTS", "DEFAULT", "OVERLAP", "WIDTHS", "Entry", "Prior"]


@dataclass(frozen=True)
class Entry:
    """One row of the prior: a family, and how often it is drawn."""

    weight: float
    family: Family

    @property
    def name(self) -> str:
        """The family's name."""
        return self.family.name


# (probability, from, to)
COMPONENTS = ((0.45, 1, 1), (0.40, 2, 6), (0.15, 7, 60))
WIDTHS = ((0.62, 1, 3), (0.27, 4, 6), (0.11, 7, 10))

OVERLAP = (0.2, 1.5)  # how far apart clusters lie: from one blob to well separated
# fmt: off
DEFAULT: tuple[Entry, ...] = (
    Entry(0.25, GaussianMixture(COMPONENTS, mean_scale=OVERLAP, inner_ceiling=3.0)),
    Entry(0.20, StudentMixture(COMPONENTS, mean_scale=OVERLAP, inner_ceiling=3.0)),
    Entry(0.15, SparseDependence(ceiling=4.0, power=2.0)),
    Entry(0.15, DenseDependence(ceiling=4.0, power=2.0)),
    Entry(0.12, AdditiveNoise(ceiling=4.0, power=2.0)),
    Entry(0.05, ClassLabels(mean_scale=(0.1, 1.5))),
    Entry(0.08, Independence(mean_scale=OVERLAP)),
)
# fmt: on


class Prior:
    """Draws groups of data sets, each group of one family, one pair of widths, one kind of flow.

    Args:
        entries: The table of families and weights.
        flow: The flow put on x, on y, or on both.
        flow_probability: Of a group to have any flow.
        lift_probability: Of a group to have a side that is lifted to a greater width.
        swap_probability: Of a group to have x and y exchanged.
        widths: Buckets (probability, low, high) of dx and of dy.
        equal_widths: Probability that dy = dx.
        dtype: Of the samples.
    """

    def __init__(
        self,
        entries: Sequence[Entry] = DEFAULT,
        *,
        flow: RandomFlow | None = None,
        flow_probability: float = 0.55,
        lift_probability: float = 0.15,
        swap_probability: float = 0.5,
        widths: Sequence[tuple[float, int, int]] = WIDTHS,
        equal_widths: float = 0.5,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.entries = tuple(entries)
        self.flow = RandomFlow() if flow is None else flow
        self.flow_probability = flow_probability
        self.lift_probability = lift_probability
        self.swap_probability = swap_probability
        self.widths = tuple(widths)
        self.equal_widths = equal_widths
        self.dtype = dtype

    @property
    def family_names(self) -> tuple[str, ...]:
        """Names of the entries, in the order of the table."""
        return tuple(entry.name for entry in self.entries)

    def sample(
        self, batch: int, n: int, *, groups: int = 4, generator: Generator
    ) -> list[DataSets]:
        """Draw `batch` data sets of n pairs, in groups of as equal a size as possible.

        Args:
            batch: Data sets in all.
            n: Pairs in each.
            groups: Number of groups; fewer where `batch` is less.
            generator: Source of all randomness; its device is the device of the result.
        """
        groups = min(groups, batch)
        sizes = [batch // groups + (i < batch % groups) for i in range(groups)]
        weights = [entry.weight for entry in self.entries]
        drawn = []
        for size in sizes:
            entry = self.entries[categorical(weights, generator=generator)]
            drawn.append(self._group(entry.family, size, n, generator=generator))
        return drawn

    def sample_family(
        self,
        name: str,
        batch: int,
        n: int,
        *,
        generator: Generator,
        widths: tuple[int, int] | None = None,
        flow: bool | None = None,
    ) -> DataSets:
        """Draw one group of the named family.

        Args:
            name: One of `family_names`.
            batch: Data sets in the group.
            n: Pairs in each.
            generator: Source of all randomness.
            widths: (dx, dy), before x and y may be exchanged; None draws them.
            flow: Whether there is a flow (and perhaps a lift); None draws it.
        """
        for entry in self.entries:
            if entry.name == name:
                return self._group(
                    entry.family, batch, n, generator=generator, widths=widths, flow=flow
                )
        raise ValueError(f"`name` must be one of {self.family_names}, received {name!r}")

    def _draw_widths(self, *, generator: Generator) -> tuple[int, int]:
        dx = bucketed_integer(self.widths, generator=generator)
        if coin(self.equal_widths, generator=generator):
            return dx, dx
        return dx, bucketed_integer(self.widths, generator=generator)

    def _group(
        self,
        family: Family,
        batch: int,
        n: int,
        *,
        generator: Generator,
        widths: tuple[int, int] | None = None,
        flow: bool | None = None,
    ) -> DataSets:
        g = generator
        dx, dy = self._draw_widths(generator=g) if widths is None else widths
        if flow is None:
            flow = coin(self.flow_probability, generator=g)
        flow_x = flow_y = False
        if flow:
            sides = categorical((0.4, 0.3, 0.3), generator=g)  # both, x alone, y alone
            flow_x, flow_y = sides != 2, sides != 1
        flow_y = flow_y and family.continuous_y
        # lifts come with flows only, so their share is taken among those
        lift = flow and coin(self.lift_probability / self.flow_probability, generator=g)
        source_dx = integer(1, dx - 1, generator=g) if lift and flow_x and dx > 1 else dx
        source_dy = integer(1, dy - 1, generator=g) if lift and flow_y and dy > 1 else dy

        sets = family.sample(batch, n, source_dx, source_dy, generator=g, dtype=self.dtype)
        sets = sets.through(
            partial(self.flow, generator=g, width=dx) if flow_x else None,
            partial(self.flow, generator=g, width=dy) if flow_y else None,
        )
        return sets.swapped() if coin(self.swap_probability, generator=g) else sets
