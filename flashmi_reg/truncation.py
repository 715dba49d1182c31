r"""Canonical truncation: sides too wide for the network, by the few coordinates that tell.

What linear dependence there is, in whatever width, is told by a closed form. What else there is,
the network finds among a few coordinates of either side: see :mod:`flashmi_reg.shown`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from .canonical import singular_vectors, whiten
from .estimator import arranged, estimate_scores
from .hypernet import HyperNetwork
from .shown import Canonicals, Shown, choose, edge_of_chance

__all__ = ["Truncation", "estimate_truncated", "gaussian_information"]

# Random flips of signs by which is found what chance leaves.
FLIPS = 8
# Added to variances of scores, which are about one: a constant column has none.
RIDGE = 1e-9


class Truncation(NamedTuple):
    """What an estimate by canonical truncation is made of.

    Attributes:
        value: information in nats, shape (b,).
        gaussian: of which linear dependence, in whatever width, shape (b,).
        rho: canonical correlations of the coordinates that were shown, shape (b, width).
    """

    value: Tensor
    gaussian: Tensor
    rho: Tensor


def estimate_truncated(
    network: HyperNetwork, x: Tensor, y: Tensor, generator: torch.Generator, *, frozen: bool
) -> Truncation:
    r"""Estimates MI from normal scores of any width.

        I(x; y) ≈ G(x, y) + s · e₊,   e = network(z_x, z_y) − G(linear ones of z_x, of z_y),

    where G is :func:`gaussian_information`, less what it owes to common scales; z are the
    coordinates shown; and e₊ is e where it is positive: the network cannot take from a linear
    dependence, only miss a part of it. By s = e²/(e² + τ²), τ = width of z_x · width of z_y / 2n,
    what it adds is silenced where it is no more than chance.

    Args:
        network: the pretrained network.
        x: scores of x, shape (b, n, dx).
        y: scores of y, shape (b, n, dy).
        generator: draws flips, the order of samples and derangements.
        frozen: see :func:`flashmi_reg.estimator.estimate_scores`; canonical coordinates are then
            held fixed too, and gradients are those of G + e. What is shown is always held fixed.
    """
    n, width = x.shape[1], network.architecture.width
    x, y, _ = arranged(x.double(), y.double())
    order = torch.randperm(n, generator=generator, device=generator.device).to(x.device)
    x, y = x[:, order], y[:, order]
    signs = torch.randint(2, (FLIPS, n), generator=generator, device=generator.device)
    signs = (2 * signs - 1).to(x)
    with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
        x_white, x_map = whiten(x)
        y_white, y_map = whiten(y)
        x_turn, rho, y_turn = singular_vectors(x_white.mT @ y_white / n)
        x_map, y_map = x_map @ x_turn, y_map @ y_turn
    with torch.no_grad():
        chance = torch.stack(
            [torch.linalg.svdvals(x_white.mT @ (y_white * sign[:, None]) / n) for sign in signs]
        )
        pairs = (rho > edge_of_chance(chance[..., :1])).sum(-1)
    gaussian = gaussian_information(x, y) - _owed_to_scales(chance, x, y)
    u, v = (side @ matrix[:, :-1] + matrix[:, -1:] for side, matrix in ((x, x_map), (y, y_map)))
    shown = [
        choose(Canonicals(*(part[i] for part in (u, v, x_turn, y_turn, rho, pairs))), signs, width)
        for i in range(len(x))
    ]
    excess, found, noise = _excess(network, u, v, shown, generator, frozen=frozen)
    added = excess.relu() * excess.square() / (excess.square() + noise.square())
    if frozen:
        # What is not yet heard must still tell training where to go.
        added = added.detach() + excess - excess.detach()
    return Truncation(gaussian + added, gaussian, found)


def _excess(
    network: HyperNetwork,
    u: Tensor,
    v: Tensor,
    shown: list[tuple[Shown, Shown]],
    generator: torch.Generator,
    *,
    frozen: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """What the network finds beyond what is linear, the correlations that it saw, and noise.

    Data sets that are shown in as many coordinates go through the network together.
    """
    n, width = u.shape[1], network.architecture.width
    linear, seen = [], []
    for x, y, (x_shown, y_shown) in zip(u, v, shown, strict=True):
        linear.append(_gaussian_of_one(x_shown.linear(x), y_shown.linear(y)))
        seen.append((x_shown.coordinates(x), y_shown.coordinates(y)))
    values, rho = [*linear], [*linear]
    shapes = [(x.shape[-1], y.shape[-1]) for x, y in seen]
    state = generator.get_state()
    for shape in sorted(set(shapes)):
        members = [i for i, found in enumerate(shapes) if found == shape]
        # So that an estimate does not depend on what else is in the batch.
        generator.set_state(state)
        first, second = (torch.stack([seen[i][side] for i in members]) for side in (0, 1))
        estimation = estimate_scores(network, first, second, generator, frozen=frozen)
        for i, value, found in zip(members, estimation.value, estimation.rho, strict=True):
            values[i], rho[i] = value, pad(found, (0, width - len(found)))
    excess = torch.stack(values) - torch.stack(linear)
    noise = excess.new_tensor([wide * other for wide, other in shapes]) / (2 * n)
    return excess, torch.stack(rho), noise


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


def _gaussian_of_one(x: Tensor, y: Tensor) -> Tensor:
    """:func:`gaussian_information` of one data set, shape (n, ·), whose sides may be empty."""
    if min(x.shape[-1], y.shape[-1]) == 0:
        return x.new_zeros(())
    return gaussian_information(x[None], y[None])[0]


@torch.no_grad()
def _owed_to_scales(chance: Tensor, x: Tensor, y: Tensor) -> Tensor:
    r"""What :func:`gaussian_information` finds by chance where samples share a scale, shape (b,).

    Chance correlations are larger than those of Gaussian samples where large samples of x meet
    large ones of y, by tenths of a nat in many dimensions. Flipping samples of y at random undoes
    every linear dependence and leaves scales as they are. What is left over chance is told from
    noise as in :func:`estimate_truncated`, τ being two standard errors.

    Args:
        chance: canonical correlations after each flip, shape (flips, b, min(dx, dy)).
        x: scores, shape (b, n, dx).
        y: scores, shape (b, n, dy).
    """
    n, dx, dy = x.shape[1], x.shape[2], y.shape[2]
    bias = 0.5 * (_lost(x) + _lost(y) - _lost(torch.cat([x, y], -1)))
    found = -0.5 * torch.log1p(-chance.square().clamp_max(1 - RIDGE)).sum(-1)
    found = (found.mean(0) - bias).relu()
    noise = math.sqrt(2 * dx * dy / len(chance)) / (n - dx - dy)
    return found * found.square() / (found.square() + noise**2)


def _log_determinant(z: Tensor) -> Tensor:
    """log |Σ| of centred samples (b, n, d), unbiased for Gaussian ones."""
    n, d = z.shape[-2:]
    covariance = z.mT @ z / n
    eye = torch.eye(d, dtype=z.dtype, device=z.device)
    factor = torch.linalg.cholesky(covariance + RIDGE * eye)
    return 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1) - _lost(z)


@torch.no_grad()
def _lost(z: Tensor) -> Tensor:
    """E log |S| − log |Σ| of the covariance of Gaussian samples (b, n, d), shape (b,)."""
    n, d = z.shape[-2:]
    # Constant columns add no dimension.
    present = (z.var(-2, correction=0) > RIDGE).sum(-1, keepdim=True)
    place = torch.arange(d, device=z.device)
    lost = torch.digamma((n - 1 - place.double()) / 2) - torch.log(z.new_tensor(n / 2))
    return torch.where(place < present, lost, 0.0).sum(-1)
