"""Sides that share clusters: Gaussian mixtures, whose information is a Monte-Carlo mean."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

__all__ = ["ClusterPair", "draw_clusters"]

TRUTH_SAMPLES = 200_000
CHUNK = 20_000


@dataclass(frozen=True, eq=False)
class ClusterPair:
    r"""A Gaussian mixture of (x, y): exact pointwise information, and its mean.

    Args:
        dx: The width of x.
        weights: The shares of the K clusters, of shape `(K,)`.
        means: Their joint means, of shape `(K, dx + dy)`.
        covariances: Their joint covariances, of shape `(K, dx + dy, dx + dy)`.
    """

    dx: int
    weights: Tensor
    means: Tensor
    covariances: Tensor

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw x of shape `(n, dx)` and y of shape `(n, dy)`, in float64."""
        cluster = torch.multinomial(self.weights, n, True, generator=generator)
        noise = torch.randn(n, self.means.shape[1], generator=generator, dtype=torch.float64)
        roots = torch.linalg.cholesky(self.covariances)
        z = self.means[cluster] + (roots[cluster] @ noise[..., None])[..., 0]
        return z[:, : self.dx], z[:, self.dx :]

    def pointwise(self, x: Tensor, y: Tensor) -> Tensor:
        """log p(x, y)/(p(x) p(y)) in nats, shape `(n,)`, of x `(n, dx)` and y `(n, dy)`."""
        whole, first, second = slice(None), slice(None, self.dx), slice(self.dx, None)
        joint = self._log_density(torch.cat([x, y], -1), whole)
        return joint - self._log_density(x, first) - self._log_density(y, second)

    def truth(self, generator: torch.Generator) -> float:
        """I(x; y) in nats by Monte Carlo; its standard error is near 0.002."""
        x, y = self.sample(TRUTH_SAMPLES, generator)
        parts = zip(x.split(CHUNK), y.split(CHUNK), strict=True)
        return float(torch.cat([self.pointwise(a, b) for a, b in parts]).mean())

    def _log_density(self, z: Tensor, part: slice) -> Tensor:
        laws = MultivariateNormal(self.means[:, part], self.covariances[:, part, part])
        return (laws.log_prob(z[:, None]) + self.weights.log()).logsumexp(-1)


def draw_clusters(clusters: int, d: int, generator: torch.Generator) -> ClusterPair:
    """Clusters of both sides, d coordinates each, well apart and with correlations of their own."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    shares = (0.5 * normal(clusters)).softmax(0)
    spread = 3 + 3 * float(torch.rand((), generator=generator))
    # The typical distance of two centres of a side is then the spread, whatever its width.
    means = spread / (2 * d) ** 0.5 * normal(clusters, 2 * d)
    root = normal(clusters, 2 * d, 2 * d) / (2 * d) ** 0.5
    covariances = 0.5 * root @ root.mT + 0.5 * torch.eye(2 * d, dtype=torch.float64)
    return ClusterPair(d, shares, means, covariances)
