"""A prior over data sets whose pointwise mutual information is known exactly.

    >>> import torch
    >>> generator = torch.Generator().manual_seed(0)
    >>> for sets in Prior().sample(8, 256, generator=generator):
    ...     truth = sets.pmi()  # at the pairs (x_i, y_i) of sets.x, sets.y, in nats

How near it comes to the benchmark of "Beyond Normal" (Czyz et al., 2023) is told in `PROXIMITY`.
"""

from __future__ import annotations

from .additive import AdditiveNoise
from .base import DataSets, Family
from .dependence import DenseDependence, SparseDependence
from .flows import Flow, RandomFlow
from .independence import Independence
from .labels import ClassLabels
from .mixed import DEFAULT, Entry, Prior
from .mixture import GaussianMixture, StudentMixture
from .proximity import PROXIMITY

__all__ = [
    "DEFAULT",
    "PROXIMITY",
    "AdditiveNoise",
    "ClassLabels",
    "DataSets",
    "DenseDependence",
    "Entry",
    "Family",
    "Flow",
    "GaussianMixture",
    "Independence",
    "Prior",
    "RandomFlow",
    "SparseDependence",
    "StudentMixture",
]
