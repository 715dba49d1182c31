"""Mixtures of Gaussians or of Student's t: sampling, densities and closed-form information."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from .draws import gamma, normal

__all__ = ["EllipticalMixture", "block_information", "damp_cross", "student_excess"]


def _block_elements(device: torch.device) -> int:
    """How many whitened coordinates to hold at a time: what stays in a CPU's cache, or in a GPU."""
    return 2**18 if device.type == "cpu" else 2**28


class EllipticalMixture:
    """A batch of mixtures of K Gaussians or multivariate t laws in R^d.

    Args:
        log_weight: Log mixture weights, of shape (b, K).
        mean: Locations, of shape (b, K, d).
        covariance: Scale matrices (covariances in the Gaussian case), of shape (b, K, d, d), best
            in float64: factors are taken in its precision.
        nu: Degrees of freedom, of shape (b, K); None for Gaussians.
        dtype: Precision of samples and densities.
    """

    def __init__(
        self,
        log_weight: Tensor,
        mean: Tensor,
        covariance: Tensor,
        nu: Tensor | None = None,
        *,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        b, k, d = mean.shape
        factor = torch.linalg.cholesky(covariance)
        eye = torch.eye(d, dtype=factor.dtype, device=factor.device)
        whiten = torch.linalg.solve_triangular(factor, eye.expand_as(factor), upper=False)
        offset = -(whiten @ mean.to(whiten.dtype).unsqueeze(-1)).squeeze(-1)
        half_logdet = factor.diagonal(dim1=-2, dim2=-1).log()

        self.shape = (b, k, d)
        self.log_weight = log_weight.to(dtype)
        self.mean = mean.to(dtype)
        self.factor = factor.to(dtype)
        self.nu = None if nu is None else nu.to(dtype)
        # rows ordered (d, K), so that sums over d and over K run over whole rows of n samples
        self._whiten = whiten.transpose(1, 2).reshape(b, d * k, d).to(dtype)
        self._offset = offset.transpose(1, 2).reshape(b, d * k, 1).to(dtype)
        self._log_scale = half_logdet.cumsum(-1).to(dtype)  # (b, K, d), of leading blocks

    def sample(self, n: int, *, generator: Generator) -> tuple[Tensor, Tensor]:
        """Samples of shape (b, n, d) and the components they came from, of shape (b, n)."""
        b, _, d = self.shape
        dtype = self.mean.dtype
        component = torch.multinomial(
            self.log_weight.exp(), n, replacement=True, generator=generator
        )
        z = normal((b, n, d), generator=generator, dtype=dtype)
        if self.nu is not None:
            half_nu = self.nu.gather(1, component) / 2
            # the floor is below what n = 1e5 draws at nu = 2 reach, and keeps the ratio finite
            mixing = gamma(half_nu, generator=generator).clamp(min=1e-6) / half_nu
            z = z / mixing.sqrt().unsqueeze(-1)
        flat = component + self.shape[1] * torch.arange(b, device=component.device).unsqueeze(-1)
        mean, factor = self.mean.flatten(0, 1)[flat], self.factor.flatten(0, 1)[flat]
        return mean + (factor @ z.unsqueeze(-1)).squeeze(-1), component

    def component_log_prob(self, v: Tensor, *, leading: int | None = None) -> tuple[Tensor, ...]:
        """Log densities of each component, weights left out, of shape (b, K, n).

        Args:
            v: Points, of shape (b, n, d).
            leading: Also give the log densities of the first `leading` coordinates.

        Returns:
            One tensor, or two where `leading` is given: all coordinates, the leading ones.
        """
        b, k, d = self.shape
        heads, totals = [], []
        points = v.transpose(1, 2)
        step = max(16, _block_elements(v.device) // (b * d * k))
        for start in range(0, points.shape[-1], step):
            z = torch.baddbmm(self._offset, self._whiten, points[..., start : start + step])
            squares = z.square_().view(b, d, k, -1)
            # the factor is triangular: its leading rows whiten the leading coordinates alone
            head = squares[:, : leading or d].sum(1)
            heads.append(head)
            totals.append(head + squares[:, leading:].sum(1) if leading else head)
        total = self._radial(torch.cat(totals, dim=-1), d)
        if leading is None:
            return (total,)
        return total, self._radial(torch.cat(heads, dim=-1), leading)

    def log_prob(self, v: Tensor) -> Tensor:
        """Log density of the mixture at v of shape (b, n, d), of shape (b, n)."""
        return self.mix(*self.component_log_prob(v))

    def mix(self, component_log_prob: Tensor) -> Tensor:
        """Log-sum over components, weights included: from (b, K, n) to (b, n)."""
        return torch.logsumexp(component_log_prob + self.log_weight.unsqueeze(-1), dim=1)

    def _radial(self, square: Tensor, d: int) -> Tensor:
        log_scale = self._log_scale[..., d - 1].unsqueeze(-1)
        if self.nu is None:
            return -0.5 * square - (log_scale + 0.5 * d * math.log(2 * math.pi))
        nu = self.nu.unsqueeze(-1)
        constant = torch.lgamma((nu + d) / 2) - torch.lgamma(nu / 2)
        constant = constant - 0.5 * d * torch.log(nu * math.pi) - log_scale
        return constant - 0.5 * (nu + d) * torch.log1p(square / nu)


def block_information(covariance: Tensor, dx: int) -> Tensor:
    """Mutual information between the first dx coordinates of a Gaussian and the rest, in nats.

    `covariance` has shape (*, d, d), the result (*).
    """
    factor = torch.linalg.cholesky(covariance)
    tail = torch.linalg.cholesky(covariance[..., dx:, dx:])
    conditional = factor.diagonal(dim1=-2, dim2=-1)[..., dx:].log().sum(-1)
    return tail.diagonal(dim1=-2, dim2=-1).log().sum(-1) - conditional


def damp_cross(covariance: Tensor, dx: int, ceiling: Tensor) -> Tensor:
    """Shrink the cross block until the Gaussian information is at most `ceiling`.

    With canonical correlations r, I(t) = -1/2 sum log(1 - t^2 r^2) is convex in t^2 and 0 at 0, so
    I(t) <= t^2 I(1): t^2 = min(1, ceiling / I(1)) is enough, and needs no canonical analysis.
    `covariance` has shape (*, d, d), `ceiling` (*).
    """
    t = (ceiling / block_information(covariance, dx).clamp(min=1e-12)).clamp(max=1.0).sqrt()
    damped = covariance.clone()
    damped[..., :dx, dx:] *= t[..., None, None]
    damped[..., dx:, :dx] *= t[..., None, None]
    return damped


def student_excess(nu: Tensor, dx: int, dy: int) -> Tensor:
    """What the mutual information of a multivariate t has beyond its Gaussian part, in nats.

    From the entropy of the multivariate t; see "Beyond Normal: On the Evaluation of Mutual
    Information Estimators" (Czyz et al., 2023), https://arxiv.org/abs/2306.11078, section 3.
    `nu` and the result have the same shape.
    """

    def entropy(d: int) -> Tensor:  # less 1/2 log det and d/2 log(nu pi), which cancel
        half, whole = nu / 2, (nu + d) / 2
        gap = torch.digamma(whole) - torch.digamma(half)
        return torch.lgamma(half) - torch.lgamma(whole) + whole * gap

    return entropy(dx) + entropy(dy) - entropy(dx + dy)
