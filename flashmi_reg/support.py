"""Statistics of a data set that tell whether it resembles those of training."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .calibration import Calm
from .canonical import Canonical
from .copula import normal_scores

__all__ = ["Neighbourhood", "in_support", "look_around", "serially_dependent", "statistics"]

# Samples whose neighbours are sought, among all: the cost is linear in n.
QUERIES = 512
# The neighbour that sets the scale of the nearest-neighbour estimate, and the furthest looked at.
NEAR, FAR = 3, 10
# Distances below this, in units of the coordinates' spread, count as equal.
RESOLUTION = 1e-6
# Autocorrelation of neighbouring rows, in standard errors, that no random order has.
UNLIKELY = 6.0


class Neighbourhood(NamedTuple):
    """What the nearest neighbours of samples in canonical coordinates tell.

    Attributes:
        mi: nearest-neighbour estimate of the information (Kraskov et al., 2004, equation 8), in
            nats, shape (b,). It sees local structure that a smooth critic does not, and little in
            many dimensions.
        dimension: that in which distances grow as they do, of the first side, the second side and
            the pairs, shape (b, 3).
        crowding: mean log ratio of the third distance to the first, of the same, shape (b, 3).
    """

    mi: Tensor
    dimension: Tensor
    crowding: Tensor


def look_around(data: Canonical) -> Neighbourhood:
    """Looks at the neighbours of at most 512 samples among all of a data set.

    Args:
        data: canonical form of b data sets of at least eleven samples.
    """
    u, v = data.u.detach().float(), data.v.detach().float()
    n = u.shape[1]
    # The samples are in an order of their values: equal steps pick fair ones.
    chosen = torch.linspace(0, n - 1, min(n, QUERIES), device=u.device).round().long()
    own = torch.arange(len(chosen), device=u.device)
    first, second = (torch.cdist(side[:, chosen], side, p=math.inf) for side in (u, v))
    pair = torch.maximum(first, second)
    dimensions, crowdings = [], []
    reach = pair.new_zeros(())
    for distance in (first, second, pair):
        distance[:, own, chosen] = math.inf
        near = distance.topk(FAR, largest=False).values.clamp_min(RESOLUTION)
        logs = near.log()
        growth = (logs[..., -1:] - logs[..., :-1]).mean((-2, -1))
        dimensions.append(growth.clamp_min(RESOLUTION).reciprocal())
        crowdings.append((logs[..., NEAR - 1] - logs[..., 0]).mean(-1))
        reach = near[..., NEAR - 1, None]  # in the end, that of the pairs
    counts = [(distance < reach).sum(-1).float() for distance in (first, second)]
    digammas = sum(torch.special.digamma(count + 1).mean(-1) for count in counts)
    constant = torch.special.digamma(torch.tensor([float(NEAR), float(n)])).sum().to(u.device)
    return Neighbourhood(
        constant - digammas, torch.stack(dimensions, -1), torch.stack(crowdings, -1)
    )


def size_terms(widths: Tensor, n: int) -> Tensor:
    """Functions of n and the widths by which statistics are expected to move, shape (b, 6)."""
    first, second = widths.double().unbind(-1)
    return torch.stack(
        [
            torch.ones_like(first),
            torch.full_like(first, math.log(n)),
            first.log(),
            second.log(),
            1 / first,
            1 / second,
        ],
        -1,
    )


def statistics(data: Canonical, value: Tensor, optimism: Tensor, around: Neighbourhood) -> Tensor:
    """What a data set is judged by: the shape of its sides and pairs, near and far.

    Logs of local dimension and crowding of the sides and of the pairs over what their widths are;
    by how much nearest neighbours find more information than the critic, over the scale of its
    error; the largest fourth moment, third moment, and mixed third and fourth moments of canonical
    coordinates.

    Args:
        data: canonical form.
        value: estimates, shape (b,).
        optimism: what was subtracted from them, shape (b,).
        around: the neighbours.

    Returns:
        Shape (b, 11), float64.
    """
    u, v = data.u.detach().double(), data.v.detach().double()
    n = u.shape[1]
    widths = torch.cat([data.widths, data.widths.sum(-1, keepdim=True)], -1).double()
    dimension = (around.dimension.double() / widths).log()
    crowding = (around.crowding.double() * widths).clamp_min(RESOLUTION).log()
    scale = optimism.double().clamp_min(0) + 0.5 / math.sqrt(n)
    surplus = (around.mi.double() - value.double()) / scale
    mixed = torch.stack(
        [
            (u.square().mT @ v).flatten(1).abs().amax(-1) / n,
            (u.mT @ v.square()).flatten(1).abs().amax(-1) / n,
        ],
        -1,
    ).amax(-1)
    # Absent coordinates are zero and have no moments.
    present = (u.square().mean(1)[..., None] * v.square().mean(1)[:, None]) > 0.5
    fourth = (u.square().mT @ v.square() / n - 1).where(present, 0).flatten(1).abs().amax(-1)
    sides = torch.cat([u, v], -1)
    own = (sides.pow(4).mean(1) - 3).where(sides.square().mean(1) > 0.5, 0).amax(-1)
    skewness = sides.pow(3).mean(1).abs().amax(-1)
    shape = torch.stack([surplus, own, fourth, 3 * skewness, 3 * mixed], -1).asinh()
    return torch.cat([dimension, crowding, shape], -1)


def in_support(found: Tensor, widths: Tensor, n: int, calm: Calm) -> Tensor:
    """Share of the prior's data sets that are as untypical or more so, shape (b,).

    Args:
        found: statistics, shape (b, k).
        widths: true widths of the sides in canonical order, shape (b, 2).
        n: number of samples.
        calm: where statistics of the prior lie.
    """
    distance = distance_from(found, widths, n, calm)
    levels = torch.tensor(calm.levels, dtype=distance.dtype, device=distance.device)
    place = torch.searchsorted(levels, distance).clamp(1, len(levels) - 1)
    low, high = levels[place - 1], levels[place]
    within = ((distance - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
    return 1 - (place - 1 + within) / (len(levels) - 1)


def distance_from(found: Tensor, widths: Tensor, n: int, calm: Calm) -> Tensor:
    """Mahalanobis distance of statistics from where the prior's lie, shape (b,)."""
    centre = torch.tensor(calm.centre, dtype=found.dtype, device=found.device)
    turn = torch.tensor(calm.turn, dtype=found.dtype, device=found.device)
    away = found - size_terms(widths, n).to(found) @ centre.mT
    return (away @ turn.mT).norm(dim=-1)


def serially_dependent(x: Tensor, y: Tensor) -> Tensor:
    """Whether neighbouring rows resemble each other on both sides, shape (b,).

    Rows sorted by a column do so too, and are as good as in any other order: they do not count.

    Args:
        x: samples, shape (b, n, dx).
        y: samples, shape (b, n, dy).
    """
    n = x.shape[1]
    alike = []
    arranged = torch.zeros(x.shape[0], dtype=torch.bool, device=x.device)
    for side in (x.detach(), y.detach()):
        step = side.diff(dim=1)
        arranged = arranged | ((step >= 0).all(1) | (step <= 0).all(1)).any(-1)
        z = normal_scores(side)
        power = z.square().sum(1).clamp_min(RESOLUTION)
        correlation = (z[:, 1:] * z[:, :-1]).sum(1) / power
        alike.append((correlation * math.sqrt(n)).amax(-1) > UNLIKELY)
    return alike[0] & alike[1] & ~arranged
