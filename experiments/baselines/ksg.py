"""The nearest-neighbour estimator of Kraskov, Stögbauer and Grassberger, first form (KSG-1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import KDTree
from scipy.special import digamma
from torch import Tensor

from experiments.baselines.protocol import Array, Estimate, as_pair, clock

__all__ = ["KSG"]


def _standardise(x: Array) -> Array:
    scale = x.std(axis=0)
    centred: Array = (x - x.mean(axis=0)) / np.where(scale > 0, scale, 1.0)
    return centred


def _within(x: Array, radius: Array) -> npt.NDArray[np.int64]:
    """Count the points of x, shape `(n, d)`, closer than `radius` to each, itself included.

    One marginal distance always equals the radius, so the comparison must be exact: distances
    are compared as the tree computes them. Searching sorted values for x ± radius is not the
    same, as the sum is rounded.
    """
    counts = KDTree(x).query_ball_point(x, np.nextafter(radius, 0.0), p=np.inf, return_length=True)
    return np.maximum(counts, 1).astype(np.int64)


@dataclass(frozen=True)
class KSG:
    r"""ψ(k) + ψ(n) − ⟨ψ(n_x + 1) + ψ(n_y + 1)⟩ with k-th neighbours in the maximum norm.

    Coordinates are standardised first. Negative values are kept: cutting them off would hide the
    bias.

    Args:
        k: The number of neighbours.
        noise: Relative size of the noise that breaks ties, 0 for none.

    References:
        | Estimating mutual information (Kraskov et al., 2004)
        | https://arxiv.org/abs/cond-mat/0305641
    """

    k: int = 3
    noise: float = 1e-10

    def __call__(self, x: Tensor, y: Tensor, seed: int = 0) -> Estimate:
        """Estimate I(x; y) from x of shape `(n, dx)` and y of shape `(n, dy)`."""
        start = clock()
        a, b = as_pair(x, y)
        n = len(a)
        if not 1 <= self.k < n:
            raise ValueError(f"`k` must lie in [1, n), got k = {self.k} and n = {n}.")
        rng = np.random.default_rng(seed)
        a, b = (_standardise(z) + self.noise * rng.standard_normal(z.shape) for z in (a, b))
        joint = np.hstack([a, b])
        distances, _ = KDTree(joint).query(joint, k=[self.k + 1], p=np.inf)
        radius = distances[:, 0]
        # A count includes the point itself, so it already is n_x + 1.
        counts = digamma(_within(a, radius)) + digamma(_within(b, radius))
        value = float(digamma(self.k) + digamma(n) - counts.mean())
        return Estimate(value, clock() - start)
