r"""Nonlinear canonical variates: functions of one side that correlate most with ones of the other.

Canonical correlation analysis of learned features of either side. In full, its functions and
correlations expand the ratio of densities, p(x,y)/(p(x)p(y)) = 1 + Σ σ_k a_k(x) b_k(y)
(Hirschfeld–Gebelein–Rényi; see Lancaster, 1958, and Breiman & Friedman, 1985). Where a flow has
bent x and y, the first of them straighten it again, in closed form.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import silu, softplus

from .canonical import affine, singular_vectors, turned
from .critic import FLOOR, bounded_layer, layer_of, norm_score

__all__ = [
    "INPUTS_PER_VARIATE",
    "SideFeatures",
    "Variates",
    "canonical_variates",
    "taken_back",
    "variate_inputs",
    "variate_values",
]

# Per variate: either side's function, their product and the Gaussian PMI of the two.
INPUTS_PER_VARIATE = 4
# Added to the variance, one, of each feature before whitening: rare combinations stay quiet.
RIDGE = 0.03
# Features of less spread are as good as constant.
MIN_SPREAD = 1e-3
# Variates level off here, in units of their spread.
BOUND = 3.0


class SideFeatures(nn.Module):
    """Functions of the coordinates of one side, among which the variates are sought.

    Args:
        width: greatest width of a side.
        hidden: units of the hidden layer.
        features: number of functions beside the coordinates themselves.
    """

    def __init__(self, width: int, hidden: int, features: int) -> None:
        super().__init__()
        self.first = nn.Linear(width + 1, hidden)
        self.last = nn.Linear(hidden, features)
        for layer in (self.first, self.last):
            nn.init.normal_(layer.weight, std=math.sqrt(2 / layer.in_features))
            nn.init.normal_(layer.bias, std=0.4)

    def forward(self, u: Tensor, width: Tensor) -> Tensor:
        """Of points (b, m, d), d ≤ width, of which `width` (b, 1) coordinates are no padding."""
        inputs = torch.cat([u.mT, norm_score(u, width)[:, None]], 1).mT
        weight, most = self.first.weight, self.first.in_features
        if inputs.shape[-1] < most:  # the coordinates that are not there are zero
            weight = torch.cat([weight[:, : u.shape[-1]], weight[:, -1:]], 1)
        # Few coordinates are to move the hidden units as much as many.
        scale = (most / (width.to(u.dtype) + 1)).sqrt()[..., None]
        hidden = silu(layer_of(weight * scale, self.first.bias, inputs))
        features = bounded_layer(self.last.weight, self.last.bias, hidden)
        return torch.cat([u.mT, features.mT.to(u.dtype)], 1).mT


class Variates(NamedTuple):
    """Pairs of functions, strongest first, of unit variance where they were found.

    Attributes:
        first: affine map of the first side's features, offset last, shape (b, K + 1, R).
        second: the same of the second side.
        correlation: of each pair, shrunken, and zero where chance would do as well, (b, R).
        gate: share of the squared correlation that is beyond chance, shape (b, R).
        lean: how far the functions lean towards each other at the pairs they were found on, for
            each side, shape (b, 2, R).
        together: their mean product there, shape (b, R).
    """

    first: Tensor
    second: Tensor
    correlation: Tensor
    gate: Tensor
    lean: Tensor
    together: Tensor


def canonical_variates(
    first: Tensor, second: Tensor, count: int, *, hold_rotation: bool = False
) -> Variates:
    r"""Canonical correlation analysis of the features of paired points.

    Chance alone gives independent features correlations of up to (√f₁ + √f₂)/√n, where f are their
    degrees of freedom (Wachter, 1980, to leading order). Below that edge a pair is silenced; above
    it, correlations σ are shrunken to σ (1 − edge²/σ²).

    At the pairs themselves the functions look better than they are. With whitened features α and
    β, a_k(x_i) = Σ_j (α_i·α_j) b_k(y_j) / (nσ_k): its own pair adds |α_i|²/(nσ_k), on average
    f/(nσ_k), of b_k(y_i), which at other pairs is not there: by so much they lean.

    Args:
        first: features of the first side, shape (b, n, K).
        second: features of the second side, shape (b, n, K).
        count: number of variates, R.
        hold_rotation: hold singular vectors and values fixed in the backward pass.
    """
    n = first.shape[1]
    mean, centred, white, freedom = _whiten(torch.cat([first.mT, second.mT]).mT)
    (first, second), (first_white, second_white) = centred.chunk(2), white.chunk(2)
    cross = torch.bmm(first_white.mT, torch.bmm(torch.bmm(first.mT, second), second_white)) / n
    left, correlation, right = singular_vectors(cross.detach() if hold_rotation else cross)
    correlation = correlation[:, :count]
    both = torch.stack(freedom.chunk(2), 1)
    edge = (both + 1).sqrt().sum(1, keepdim=True) / math.sqrt(n)
    if hold_rotation:
        edge = edge.detach()
    chance = (edge / correlation.clamp_min(1e-6)).square()
    gate = (1 - chance).clamp_min(0)
    axes = torch.bmm(white, torch.cat([left[..., :count], right[..., :count]]))
    functions = turned(centred, axes)
    scale = functions.square().mean(1, keepdim=True).clamp_min(1e-6).rsqrt()
    axes = axes * scale
    first_map, second_map = torch.cat([axes, -torch.bmm(mean, axes)], 1).chunk(2)
    a, b = (functions * scale).chunk(2)
    # Singular vectors come with either sign.
    sign = torch.where((a + b).pow(3).mean(1, keepdim=True) < 0, -1.0, 1.0)
    together = (a * b).mean(1)
    # Beyond the edge, functions lean by less than a quarter of their correlation.
    share = torch.where(gate > 0, 1 / correlation.clamp_min(1e-6), 0.0)
    lean = share[:, None] * both[..., None] / n
    return Variates(first_map * sign, second_map * sign, correlation * gate, gate, lean, together)


def variate_values(variates: Variates, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """The functions of points, each of shape (b, m, R), from their features, (b, m, K)."""
    return affine(first, variates.first), affine(second, variates.second)


def taken_back(variates: Variates, a: Tensor, b: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Functions at the pairs they were found on, nearer to what they are at others, (b, n, R).

    Args:
        variates: R pairs of functions.
        a: the functions of the first points as found, shape (b, n, R).
        b: those of the second points.
        share: of their lean that is taken back; all of it leaves what they would be had the pair
            not been among those that they were found on.
    """
    lean = share * variates.lean
    spread = (1 - 2 * lean * variates.together[:, None] + lean.square()).sqrt()
    first, second = lean[:, :, None].unbind(1)
    return (a - first * b) / spread[:, :1], (b - second * a) / spread[:, 1:]


def variate_inputs(
    variates: Variates, a: Tensor, b: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the critic's features see of the variates at pairs of points.

    Args:
        variates: R pairs of functions.
        a: the functions of the first points, shape (b, m, R).
        b: those of the second points.

    Returns:
        `INPUTS_PER_VARIATE` parts of shape (b, m, R).
    """
    rho = variates.correlation[:, None]
    rest = (1 - rho.square()).clamp_min(1e-3)
    exact = torch.addcmul(-rest.log() / 2, rho / rest, a * b)
    squares = torch.addcmul(a.square(), b, b)
    exact = torch.addcmul(exact, rho.square() / rest, squares, value=-0.5)
    level = FLOOR + softplus(exact - FLOOR)
    level = level.sign() * level.abs().log1p()
    # About the root of the gate, with a finite slope where it opens.
    amplitude = (variates.gate / (variates.gate + 0.01).sqrt())[:, None]
    # The hyperbolic tangent, as the layers have it.
    a, b = (2 * BOUND * (2 / BOUND * amplitude * side).sigmoid() - BOUND for side in (a, b))
    return a, b, a * b, level


def _whiten(features: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean and centred features, the matrix (b, K, K) that whitens, and degrees of freedom."""
    mean = features.mean(1, keepdim=True)
    centred = features - mean
    covariance = torch.bmm(centred.mT, centred) / features.shape[1]
    variance = covariance.diagonal(dim1=-2, dim2=-1)
    scale = torch.where(variance > MIN_SPREAD**2, variance, torch.inf).rsqrt()
    covariance = covariance * scale[..., None] * scale[:, None]
    eye = torch.eye(covariance.shape[-1], dtype=features.dtype, device=features.device)
    factor = torch.linalg.cholesky(covariance + RIDGE * eye)
    matrix = torch.linalg.solve_triangular(factor, eye.expand_as(factor), upper=False).mT
    freedom = (torch.bmm(covariance, matrix) * matrix).sum((-2, -1))
    return mean, centred, scale[..., None] * matrix, freedom
