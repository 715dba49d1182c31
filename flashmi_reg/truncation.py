r"""Canonical truncation: sides too wide for the network, by their strongest canonical pairs.

What linear dependence there is, in whatever width, is told by a closed form. What else there is,
the network finds among few coordinates: those of the strongest canonical pairs, and one for the
norm of all others, which tells scales. Canonical correlations of wide samples are inflated (null
ones are about √(dx/n) + √(dy/n)), hence each half of the samples is seen in the coordinates of the
other half, where they are what new samples would show.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .canonical import singular_vectors, whiten
from .copula import normal_scores
from .estimator import arranged, estimate_scores
from .hypernet import HyperNetwork

__all__ = ["Truncation", "estimate_truncated", "gaussian_information"]

# Random flips of signs by which is found what scales alone make of chance correlations.
FLIPS = 8
# Added to variances of scores, which are about one: a constant column has none.
RIDGE = 1e-9


class Truncation(NamedTuple):
    """What an estimate by canonical truncation is made of.

    Attributes:
        value: information in nats, shape (b,).
        gaussian: of which linear dependence, in whatever width, shape (b,).
        rho: canonical correlations of the strongest pairs in the halves, where they were not
            sought, shape (2b, width).
    """

    value: Tensor
    gaussian: Tensor
    rho: Tensor


def estimate_truncated(
    network: HyperNetwork, x: Tensor, y: Tensor, generator: torch.Generator, *, frozen: bool
) -> Truncation:
    r"""Estimates MI from normal scores of any width.

        I(x; y) ≈ G(x, y) + s · e₊,   e = mean over halves of [network(z_x, z_y) − G(strongest)],

    where G is :func:`gaussian_information`, less what it owes to common scales; z are the strongest
    canonical coordinates with the norm of the rest; and e₊ is e where it is positive: the network
    cannot take from a linear dependence, only miss a part of it. By s = e²/(e² + τ²),
    τ = width of z_x · width of z_y / (4 · samples of a half), what it adds is silenced where it is
    no more than chance.

    Args:
        network: the pretrained network.
        x: scores of x, shape (b, n, dx).
        y: scores of y, shape (b, n, dy).
        generator: draws the halves and the derangements.
        frozen: see :func:`flashmi_reg.estimator.estimate_scores`; canonical coordinates are then
            held fixed too, and gradients are those of G + e.
    """
    width = network.architecture.width
    x, y, _ = arranged(x.double(), y.double())
    gaussian = gaussian_information(x, y) - _owed_to_scales(x, y, generator)
    half = x.shape[1] // 2
    order = torch.randperm(x.shape[1], generator=generator, device=generator.device)
    order = order[: 2 * half].to(x.device)
    x, y = (side[:, order].unflatten(1, (2, half)).flatten(0, 1) for side in (x, y))
    with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
        x_map, y_map = (_of_other_half(side) for side in _canonical_maps(x, y))
    u, v = (side @ matrix[:, :-1] + matrix[:, -1:] for side, matrix in ((x, x_map), (y, y_map)))
    strongest = gaussian_information(*(_strongest(side, width) for side in (u, v)))
    first, second = (normal_scores(_with_norm(side, width)) for side in (u, v))
    found = estimate_scores(network, first, second, generator, frozen=frozen)
    excess = (found.value - strongest).unflatten(0, (-1, 2)).mean(1)
    chance = first.shape[-1] * second.shape[-1] / (4 * half)
    added = excess.relu() * excess.square() / (excess.square() + chance**2)
    if frozen:
        # What is not yet heard must still tell training where to go.
        added = added.detach() + excess - excess.detach()
    return Truncation(gaussian + added, gaussian, found.data.rho)


def gaussian_information(x: Tensor, y: Tensor) -> Tensor:
    r"""MI of a Gaussian copula in nats, unbiased in samples of any width, shape (b,).

    ½ log(|S_x| |S_y| / |S|) of the covariances, less its bias, which does not depend on the
    strength of the dependence: E log |S| = log |Σ| + Σ_{j=1..d} ψ((n − j)/2) − d log(n/2) for the
    covariance of n Gaussian samples in d dimensions (Wishart). Gradients with the correlations
    held fixed are those through them, as they maximise the likelihood.

    Args:
        x: scores, shape (b, n, dx).
        y: scores, shape (b, n, dy), n > dx + dy.
    """
    x, y = (side.double() - side.double().mean(-2, keepdim=True) for side in (x, y))
    terms = [_log_determinant(side) for side in (x, y, torch.cat([x, y], -1))]
    return 0.5 * (terms[0] + terms[1] - terms[2])


@torch.no_grad()
def _owed_to_scales(x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
    r"""What :func:`gaussian_information` finds by chance where samples share a scale, shape (b,).

    Chance correlations are larger than those of Gaussian samples where large samples of x meet
    large ones of y, by tenths of a nat in many dimensions. Flipping samples of y at random undoes
    every linear dependence and leaves scales as they are. What is left over chance is told from
    noise as in :func:`estimate_truncated`, τ being two standard errors.
    """
    n, dx, dy = x.shape[1], x.shape[2], y.shape[2]
    signs = torch.randint(2, (FLIPS, n, 1), generator=generator, device=generator.device)
    signs = (2 * signs - 1).to(x)
    found = torch.stack([gaussian_information(x, y * sign) for sign in signs]).mean(0).relu()
    noise = math.sqrt(2 * dx * dy / FLIPS) / (n - dx - dy)
    return found * found.square() / (found.square() + noise**2)


def _log_determinant(z: Tensor) -> Tensor:
    """log |Σ| of centred samples (b, n, d), unbiased for Gaussian ones."""
    n, d = z.shape[-2:]
    covariance = z.mT @ z / n
    variance = covariance.diagonal(dim1=-2, dim2=-1)
    eye = torch.eye(d, dtype=z.dtype, device=z.device)
    factor = torch.linalg.cholesky(covariance + RIDGE * eye)
    found = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    # Constant columns add no dimension.
    present = (variance > RIDGE).sum(-1, keepdim=True)
    place = torch.arange(d, device=z.device)
    lost = torch.digamma((n - 1 - place.double()) / 2) - torch.log(z.new_tensor(n / 2))
    return found - torch.where(place < present, lost, 0.0).sum(-1)


def _canonical_maps(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Affine maps (b, d + 1, d) of either side to its canonical coordinates, strongest first."""
    x_white, x_map = whiten(x)
    y_white, y_map = whiten(y)
    x_turn, _, y_turn = singular_vectors(x_white.mT @ y_white / x.shape[1])
    return x_map @ x_turn, y_map @ y_turn


def _of_other_half(parts: Tensor) -> Tensor:
    return parts.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)


def _strongest(side: Tensor, width: int) -> Tensor:
    """As many of the first coordinates as the network can see beside the norm of the others."""
    return side if side.shape[-1] <= width else side[..., : width - 1]


def _with_norm(side: Tensor, width: int) -> Tensor:
    """The strongest coordinates and, where there are others, the norm of those."""
    strongest = _strongest(side, width)
    others = side[..., strongest.shape[-1] :]
    if others.shape[-1] == 0:
        return strongest
    return torch.cat([strongest, others.square().sum(-1, keepdim=True)], -1)
