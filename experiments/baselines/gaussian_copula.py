"""The control: mutual information of a Gaussian copula with the sample's correlations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri
from scipy.stats import rankdata
from torch import Tensor

from experiments.baselines.protocol import Array, Estimate, as_pair, clock

__all__ = ["GaussianCopula", "canonical_correlations", "normal_scores"]


def normal_scores(x: Array) -> Array:
    """Map each coordinate of x, shape `(n, d)`, to Φ⁻¹((rank − ½) / n); ties share a mean rank."""
    scores: Array = ndtri((rankdata(x, axis=0) - 0.5) / len(x))
    return scores


def _basis(x: Array) -> Array:
    """Orthonormal basis of the centred columns of x; constant and repeated columns fall away."""
    u, s, _ = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    basis: Array = u[:, s > 1e-8 * max(1.0, s[0])]
    return basis


def canonical_correlations(x: Array, y: Array) -> Array:
    """Sample canonical correlations of x, shape `(n, dx)`, and y, shape `(n, dy)`, in [0, 1)."""
    correlations = np.linalg.svd(_basis(x).T @ _basis(y), compute_uv=False)
    clipped: Array = correlations.clip(0.0, 1.0 - 1e-12)
    return clipped


@dataclass(frozen=True)
class GaussianCopula:
    r"""Rank → normal score → −½ Σ log(1 − ρ²) over canonical correlations − dx·dy/(2n).

    The last term is the leading bias of the plug-in estimate at independence. Exact for Gaussian
    copulas of any width, blind to every other kind of dependence: what a learned estimator has
    to beat.

    Args:
        corrected: Whether the bias is subtracted.
    """

    corrected: bool = True

    def __call__(self, x: Tensor, y: Tensor, seed: int = 0) -> Estimate:
        """Estimate I(x; y) from x of shape `(n, dx)` and y of shape `(n, dy)`; `seed` is unused."""
        start = clock()
        a, b = as_pair(x, y)
        n, dx, dy = len(a), a.shape[1], b.shape[1]
        if n <= dx + dy:
            raise ValueError(f"The copula needs more pairs than dimensions, got {n} ≤ {dx + dy}.")
        rho = canonical_correlations(normal_scores(a), normal_scores(b))
        value = -0.5 * float(np.log1p(-(rho**2)).sum())
        if self.corrected:
            value -= dx * dy / (2 * n)
        return Estimate(value, clock() - start)
