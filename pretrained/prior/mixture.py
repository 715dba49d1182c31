"""Mixtures of correlated Gaussians and Student's t laws over (x, y), the paper's main family."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from .base import DataSets, Family
from .draws import bucketed_integer, log_uniform, normal, uniform
from .elliptical import EllipticalMixture, block_information, damp_cross, student_excess

__all__ = ["GaussianMixture", "StudentMixture", "random_mixture", "random_weights"]

# the least diagonal added to W Wᵀ: correlations within what float32 densities resolve
_MIN_DIAGONAL = 1e-3


def random_weights(batch: int, k: int, *, generator: Generator) -> Tensor:
    """Log of weights U[0, 1], normalised, of shape (batch, k), in float64."""
    weight = uniform((batch, k), generator=generator, dtype=torch.float64).clamp(min=1e-3)
    return (weight / weight.sum(-1, keepdim=True)).log()


def random_covariance(
    batch: int, k: int, d: int, variance: tuple[float, float], *, generator: Generator
) -> Tensor:
    """Covariances of shape (batch, k, d, d): W Wᵀ + diag(U(0, 1)) made a correlation, then scaled.

    W has d rows and m ~ U{1..d} columns of standard normals; m is drawn for each component.
    """
    w = normal((batch, k, d, d), generator=generator, dtype=torch.float64)
    rank = torch.randint(1, d + 1, (batch, k, 1, 1), generator=generator, device=w.device)
    w = w * (torch.arange(d, device=w.device) < rank)
    diagonal = uniform((batch, k, d), generator=generator, dtype=torch.float64)
    scatter = w @ w.mT + torch.diag_embed(diagonal.clamp(min=_MIN_DIAGONAL))
    low, high = variance
    sigma = uniform((batch, k, d), low, high, generator=generator, dtype=torch.float64).sqrt()
    scale = sigma / scatter.diagonal(dim1=-2, dim2=-1).sqrt()
    return scatter * scale.unsqueeze(-1) * scale.unsqueeze(-2)


def random_mixture(
    batch: int,
    k: int,
    d: int,
    *,
    mean_range: float,
    mean_scale: tuple[float, float],
    variance: tuple[float, float],
    nu: tuple[float, float] | None,
    generator: Generator,
    dtype: torch.dtype,
    damp: tuple[int, float] | None = None,
) -> tuple[EllipticalMixture, Tensor]:
    """A batch of mixtures in R^d and their covariances (batch, k, d, d) in float64.

    Args:
        batch: Number of mixtures.
        k: Components in each.
        d: Width.
        mean_range: Means are U[-mean_range, mean_range] in each coordinate ...
        mean_scale: ... times one log-uniform factor for each mixture.
        variance: Bounds of the uniform variances.
        nu: Bounds of the uniform degrees of freedom; None for Gaussians.
        generator: Source of all randomness.
        dtype: Precision of samples and densities.
        damp: (dx, ceiling): hold the Gaussian information between the first dx coordinates and
            the rest, within each component, under U[0, ceiling] nats drawn for each mixture.
    """
    log_weight = random_weights(batch, k, generator=generator)
    mean = uniform((batch, k, d), -mean_range, mean_range, generator=generator, dtype=torch.float64)
    mean = mean * log_uniform((batch, 1, 1), *mean_scale, generator=generator, dtype=torch.float64)
    covariance = random_covariance(batch, k, d, variance, generator=generator)
    if damp is not None:
        dx, ceiling = damp
        bound = uniform((batch, 1), 0.0, ceiling, generator=generator, dtype=torch.float64)
        covariance = damp_cross(covariance, dx, bound)
    freedom = None
    if nu is not None:
        freedom = uniform((batch, k), *nu, generator=generator, dtype=torch.float64)
    return EllipticalMixture(log_weight, mean, covariance, freedom, dtype=dtype), covariance


class _Mixture(Family):
    """What Gaussian and Student mixtures share.

    Args:
        components: Buckets (probability, low, high) of the number of components, drawn once a call.
        mean_range: Means are U[-mean_range, mean_range] ...
        mean_scale: ... times a log-uniform factor for each data set, which sets the overlap.
        variance: Bounds of the uniform variances.
        inner_ceiling: Each component's own (Gaussian) information is held under U[0, inner_ceiling]
            nats, drawn for each data set; None leaves it as it falls, as in the paper.
    """

    _nu: tuple[float, float] | None = None

    def __init__(
        self,
        components: Sequence[tuple[float, int, int]] = ((1.0, 1, 60),),
        *,
        mean_range: float = 5.0,
        mean_scale: tuple[float, float] = (1.0, 1.0),
        variance: tuple[float, float] = (0.01, 10.0),
        inner_ceiling: float | None = None,
    ) -> None:
        self.components = tuple(components)
        self.mean_range = mean_range
        self.mean_scale = mean_scale
        self.variance = variance
        self.inner_ceiling = inner_ceiling

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
        """Draw data sets; see `Family.sample`. Their `mi` is known where there is one component."""
        k = bucketed_integer(self.components, generator=generator)
        joint, covariance = random_mixture(
            batch,
            k,
            dx + dy,
            mean_range=self.mean_range,
            mean_scale=self.mean_scale,
            variance=self.variance,
            nu=self._nu,
            generator=generator,
            dtype=dtype,
            damp=None if self.inner_ceiling is None else (dx, self.inner_ceiling),
        )
        mi = None
        if k == 1:
            mi = block_information(covariance[:, 0], dx)
            if joint.nu is not None:
                mi = mi + student_excess(joint.nu[:, 0].double(), dx, dy)
            mi = mi.to(dtype)
        return from_joint(joint, covariance, n, dx, mi, self.name, generator=generator)


def from_joint(
    joint: EllipticalMixture,
    covariance: Tensor,
    n: int,
    dx: int,
    mi: Tensor | None,
    name: str,
    *,
    generator: Generator,
) -> DataSets:
    """Data sets of n pairs from a mixture over (x, y), whose first dx coordinates are x."""
    dtype = joint.mean.dtype
    # a marginal of a multivariate t keeps its degrees of freedom
    marginal = EllipticalMixture(
        joint.log_weight, joint.mean[..., dx:], covariance[..., dx:, dx:], joint.nu, dtype=dtype
    )

    def log_ratio(x: Tensor, y: Tensor) -> Tensor:
        both, only_x = joint.component_log_prob(torch.cat((x, y), dim=-1), leading=dx)
        return joint.mix(both) - joint.mix(only_x) - marginal.log_prob(y)

    v, _ = joint.sample(n, generator=generator)
    x, y = v[..., :dx], v[..., dx:]
    return DataSets(x, y, x, y, log_ratio, mi, name)


class GaussianMixture(_Mixture):
    """Mixtures of K correlated Gaussians over (x, y); arguments as in the paper by default."""

    name = "gaussian_mixture"


class StudentMixture(_Mixture):
    """Mixtures of K correlated multivariate t laws over (x, y).

    Args:
        components, mean_range, mean_scale, variance, inner_ceiling: As for `GaussianMixture`.
        nu: Bounds of the degrees of freedom, uniform, drawn for each component.
    """

    name = "student_mixture"

    def __init__(
        self,
        components: Sequence[tuple[float, int, int]] = ((1.0, 1, 60),),
        *,
        nu: tuple[float, float] = (2.0, 30.0),
        mean_range: float = 5.0,
        mean_scale: tuple[float, float] = (1.0, 1.0),
        variance: tuple[float, float] = (0.01, 10.0),
        inner_ceiling: float | None = None,
    ) -> None:
        super().__init__(
            components,
            mean_range=mean_range,
            mean_scale=mean_scale,
            variance=variance,
            inner_ceiling=inner_ceiling,
        )
        self.nu = self._nu = nu
