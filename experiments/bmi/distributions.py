"""The base distributions of the BMI benchmark, with their mutual information in closed form.

References:
    | Beyond Normal: On the Evaluation of Mutual Information Estimators (Czyż et al., 2023)
    | https://arxiv.org/abs/2306.11078
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["AdditiveUniform", "Distribution", "Gaussian", "Student", "dense", "two_pair"]


class Distribution(Protocol):
    """A joint law of (x, y): widths, mutual information, and draws."""

    @property
    def dx(self) -> int:
        """Width of x."""

    @property
    def dy(self) -> int:
        """Width of y."""

    @property
    def mi(self) -> float:
        """Mutual information in nats."""

    @property
    def formula(self) -> str:
        """Where the value of `mi` comes from."""

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw x of shape `(*shape, dx)` and y of shape `(*shape, dy)`, in float64."""


def _normal(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, device=generator.device, dtype=torch.float64)


def _uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class Gaussian:
    r"""A centred Gaussian pair: I = ½ log(det Σ_x det Σ_y / det Σ).

    Args:
        dx: The width of x.
        dy: The width of y.
        covariance: The joint covariance Σ, of shape `(dx + dy, dx + dy)`.
    """

    dx: int
    dy: int
    covariance: Tensor

    formula = "closed form, ½ log(det Σ_x det Σ_y / det Σ)"

    @property
    def mi(self) -> float:
        """Mutual information in nats."""
        joint = self.covariance.logdet()
        x = self.covariance[: self.dx, : self.dx].logdet()
        y = self.covariance[self.dx :, self.dx :].logdet()
        return 0.5 * float(x + y - joint)

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw x of shape `(*shape, dx)` and y of shape `(*shape, dy)`, in float64."""
        z = _normal((*shape, self.dx + self.dy), generator)
        root = torch.linalg.cholesky(self.covariance).to(z.device)
        x, y = (z @ root.mT).split([self.dx, self.dy], dim=-1)
        return x, y


@dataclass(frozen=True)
class Student:
    r"""A multivariate Student-t pair with identity dispersion.

    All dependence is through the shared scale: I = h_x + h_y − h_xy with the entropies of Eq. (7)
    of Shannon Entropy and Mutual Information for Multivariate Skew-Elliptical Distributions
    (Arellano-Valle et al., 2013).

    Args:
        dx: The width of x.
        dy: The width of y.
        df: The degrees of freedom ν, a whole number.
    """

    dx: int
    dy: int
    df: int

    formula = "closed form, h_x + h_y − h_xy of Student-t entropies"

    def _entropy(self, d: int) -> float:
        nu = float(self.df)
        half = torch.tensor([(nu + d) / 2, nu / 2], dtype=torch.float64)
        psi, lgamma = half.digamma(), half.lgamma()
        scale = 0.5 * d * math.log(nu * math.pi)
        return float(lgamma[1] - lgamma[0] + scale + half[0] * (psi[0] - psi[1]))

    @property
    def mi(self) -> float:
        """Mutual information in nats."""
        return self._entropy(self.dx) + self._entropy(self.dy) - self._entropy(self.dx + self.dy)

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw x of shape `(*shape, dx)` and y of shape `(*shape, dy)`, in float64."""
        z = _normal((*shape, self.dx + self.dy), generator)
        chi2 = _normal((*shape, self.df), generator).square().sum(dim=-1, keepdim=True)
        x, y = (z * (self.df / chi2).sqrt()).split([self.dx, self.dy], dim=-1)
        return x, y


@dataclass(frozen=True)
class AdditiveUniform:
    r"""x ~ U(0, 1) and y = x + u with u ~ U(−ε, ε): I = ε − log 2ε, or 1/(4ε) if ε > ½.

    Args:
        epsilon: The half-width ε of the noise.
    """

    epsilon: float

    dx = 1
    dy = 1
    formula = "closed form, ε − log 2ε, or 1/(4ε) if ε > ½"

    @property
    def mi(self) -> float:
        """Mutual information in nats."""
        if self.epsilon > 0.5:
            return 0.25 / self.epsilon
        return self.epsilon - math.log(2 * self.epsilon)

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw x of shape `(*shape, 1)` and y of shape `(*shape, 1)`, in float64."""
        x = _uniform((*shape, 1), generator)
        noise = self.epsilon * (2 * _uniform((*shape, 1), generator) - 1)
        return x, x + noise


def dense(dx: int, dy: int, correlation: float = 0.5) -> Gaussian:
    """Gaussian in which every two coordinates have the same correlation."""
    d = dx + dy
    return Gaussian(dx, dy, (1 - correlation) * torch.eye(d, dtype=torch.float64) + correlation)


def two_pair(dx: int, dy: int, strength: float = 2.0) -> Gaussian:
    """Gaussian in which only (x₁, y₁) and (x₂, y₂) are correlated, by s²/(1 + s²)."""
    covariance = torch.eye(dx + dy, dtype=torch.float64)
    for i in range(2):
        covariance[i, dx + i] = covariance[dx + i, i] = strength**2 / (1 + strength**2)
    return Gaussian(dx, dy, covariance)
