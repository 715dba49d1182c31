"""The one data path: x, y → copula → canonical → hypernetwork → critic → estimate."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .canonical import Canonical, affine, canonicalise, rows_of
from .copula import Marginals, ascending
from .critic import Values, donsker_varadhan, gaussian_pmi
from .hypernet import (
    CriticParameters,
    HyperNetwork,
    Pairs,
    Plain,
    Shuffle,
    chance_information,
)

__all__ = [
    "Critic",
    "Estimation",
    "arranged",
    "coordinates",
    "derange",
    "estimate_scores",
    "rows_of",
    "shuffle_copies",
]

# The hypernetwork reads at most this many samples; larger data are read in part, evaluated in full.
# Twice the n of training: at 10,000 and 16,000, what is read whole has the smaller error.
READ_LIMIT = 16_384
# Samples evaluated at once when there are more than the network reads: bounds memory.
CHUNK = 32_768


def shuffle_copies(n: int) -> int:
    """Number of derangements used at sample size n: four for few samples, one from 2,048 on."""
    return min(4, max(1, 2048 // n))


def derange(n: int, copies: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pairs of the product of marginals: indices (copies · n,) of either side, never equal.

    A random cyclic order is drawn, and each copy pairs every sample with the one a random number
    of places further on; no pair comes twice.
    """
    device = generator.device
    order = torch.randperm(n, generator=generator, device=device)
    steps = 1 + torch.randperm(n - 1, generator=generator, device=device)[:copies]
    place = torch.arange(n, device=device)
    return order.repeat(copies), order[(place + steps[:, None]) % n].flatten()


class Estimation(NamedTuple):
    """What one pass over data sets yields.

    Attributes:
        value: Donsker–Varadhan estimate less its optimism, in nats, shape (b,), averaged with the
            Gaussian one where that is as likely.
        data: canonical form of the samples.
        parameters: of the critic.
        optimism: by how much the critic overstates the information at the pairs that it was read
            off, shape (b,).
    """

    value: Tensor
    data: Canonical
    parameters: CriticParameters
    optimism: Tensor

    @property
    def rho(self) -> Tensor:
        """Canonical correlations of the samples, shape (b, width)."""
        return self.data.rho


def estimate_scores(
    network: HyperNetwork, x: Tensor, y: Tensor, generator: torch.Generator, *, frozen: bool
) -> Estimation:
    """Estimates MI from normal scores.

    Args:
        network: the pretrained network.
        x: scores of x, shape (b, n, dx).
        y: scores of y, shape (b, n, dy).
        generator: draws the derangements.
        frozen: whether gradients hold the critic and all transforms fixed ("critic"), or pass
            through everything ("full").
    """
    x, y, exchanged = arranged(x, y)
    estimate = _estimate_large if x.shape[1] > READ_LIMIT else _estimate_read
    return _exchange_back(estimate(network, x, y, generator, frozen=frozen), exchanged)


def _estimate_read(
    network: HyperNetwork, x: Tensor, y: Tensor, generator: torch.Generator, *, frozen: bool
) -> Estimation:
    """The network reads all samples."""
    n = x.shape[1]
    shuffle = Shuffle(*(part.to(x.device) for part in derange(n, shuffle_copies(n), generator)))
    track = torch.is_grad_enabled() and (x.requires_grad or y.requires_grad)
    with torch.set_grad_enabled(track and not frozen):
        data = canonicalise(x, y, max(x.shape[-1], y.shape[-1]))
    with torch.set_grad_enabled(track):
        u, v = coordinates(data, x, y) if track and frozen else (data.u, data.v)
        joint = _pairs(network, u, v)
        parameters, values, gaussian, optimism = network(data, joint, shuffle, hold=frozen)
    value = donsker_varadhan(values, gaussian) - optimism
    if parameters.plain is not None:
        of_plain = gaussian_pmi(u, v, parameters.plain.rho).mean(-1) - chance_information(data)
        value = _averaged(value, of_plain, parameters.plain, frozen=frozen)
    return Estimation(value, data, parameters, optimism)


def _estimate_large(
    network: HyperNetwork, x: Tensor, y: Tensor, generator: torch.Generator, *, frozen: bool
) -> Estimation:
    """The critic is read off a random subset; the averages run over all samples, in chunks."""
    n = x.shape[1]
    chosen = torch.randperm(n, generator=generator, device=generator.device)[:READ_LIMIT]
    chosen = chosen.sort().values.to(x.device)
    with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
        _, data, parameters, optimism = estimate_scores(
            network, x[:, chosen], y[:, chosen], generator, frozen=False
        )
    plain = parameters.plain
    assert plain is not None  # there are many samples
    first, second = (part.to(x.device) for part in derange(n, 1, generator))
    joint, shuffled, told = [], [], []
    for start in range(0, n, CHUNK):
        block = slice(start, start + CHUNK)
        u, v = coordinates(data, x[:, block], y[:, block])
        joint.append(_evaluate(network, parameters, u, v))
        told.append(gaussian_pmi(u, v, plain.rho).sum(-1))
        swapped = data.swapped[:, None]
        pick_x = torch.where(swapped, second[block], first[block])
        pick_y = torch.where(swapped, first[block], second[block])
        u, v = coordinates(data, rows_of(x, pick_x), rows_of(y, pick_y))
        shuffled.append(_evaluate(network, parameters, u, v))
    # The truth lies between what the critic says of pairs that were read and of others, which are
    # most of them where this becomes negative.
    unread = 2 * READ_LIMIT / n - 1
    optimism = optimism * unread
    value = donsker_varadhan(*_values(_joined(joint), _joined(shuffled))) - optimism
    of_plain = torch.stack(told).sum(0) / n - unread * chance_information(data)
    value = _averaged(value, of_plain, plain, frozen=frozen)
    return Estimation(value, data, parameters, optimism)


def _averaged(value: Tensor, of_plain: Tensor, plain: Plain, *, frozen: bool) -> Tensor:
    """The critic's value averaged with that of the plain Gaussian copula, each of shape (b,)."""
    average = plain.average(value, of_plain)
    # What of the critic is not yet heard must still tell training where to go.
    return average.detach() + value - value.detach() if frozen else average


class Critic:
    r"""A data set's critic: pointwise mutual information at any pairs, new ones included.

    Args:
        network: the pretrained network.
        x: the samples of x that it was read from, shape (n, dx) or (b, n, dx).
        y: the samples of y.
        estimation: what the pass over them yielded.
    """

    def __init__(self, network: HyperNetwork, x: Tensor, y: Tensor, estimation: Estimation) -> None:
        self._network = network
        self._batched = x.ndim == 3
        self._x, self._y = Marginals(_batch(x)), Marginals(_batch(y))
        self._data, self._parameters = estimation.data, estimation.parameters

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """PMI, log p(x, y)/(p(x) p(y)), in nats; differentiable in both arguments.

        Args:
            x: shape (m, dx), or (b, m, dx) if the critic was read from a batch.
            y: shape (m, dy), or (b, m, dy).

        Returns:
            Shape (m,) or (b, m).
        """
        u, v = coordinates(self._data, self._x(_batch(x)), self._y(_batch(y)))
        with torch.autocast(x.device.type, enabled=False):
            value = _evaluate(self._network, self._parameters, u, v)[0].to(x.dtype)
            plain = self._parameters.plain
            if plain is not None:
                value = plain.average(value, gaussian_pmi(u, v, plain.rho))
        return value if self._batched else value[0]


def _batch(x: Tensor) -> Tensor:
    return x if x.ndim == 3 else x[None]


def arranged(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Samples in an order, and sides in a sequence, that depend on their values alone.

    Hence neither the order of the samples nor exchanging the sides changes an estimate. The
    moments by which canonical coordinates settle their first side are no help where both are
    single variables: without ties, these have the same scores.

    Returns:
        The two sides, the wider one first, and where they were exchanged, shape (b,).
    """
    with torch.no_grad():
        x_key, y_key = (
            side.double() @ torch.linspace(1, 2, side.shape[-1], device=side.device).double().sin()
            for side in (x, y)
        )
        narrow = torch.full_like(x_key[:, 0], x.shape[-1] < y.shape[-1], dtype=torch.bool)
        equal = x.shape[-1] == y.shape[-1]
        exchanged = (x_key * y_key * (x_key - y_key)).sum(-1) < 0 if equal else narrow
        swap = exchanged[:, None]
        key = torch.where(swap, y_key, x_key) + math.sqrt(2) * torch.where(swap, x_key, y_key)
        order = ascending(key)[1]
    x, y = rows_of(x, order), rows_of(y, order)
    if not equal:
        return (y, x, exchanged) if x.shape[-1] < y.shape[-1] else (x, y, exchanged)
    swap = exchanged[:, None, None]
    return torch.where(swap, y, x), torch.where(swap, x, y), exchanged


def _exchange_back(estimation: Estimation, exchanged: Tensor) -> Estimation:
    """The estimation in terms of x and y as they were before :func:`arranged`."""
    data = estimation.data
    x_map, y_map = data.x_map, data.y_map
    if x_map.shape == y_map.shape:
        swap = exchanged[:, None, None]
        x_map, y_map = torch.where(swap, y_map, x_map), torch.where(swap, x_map, y_map)
    elif exchanged.any():
        x_map, y_map = y_map, x_map
    data = data._replace(x_map=x_map, y_map=y_map, swapped=data.swapped ^ exchanged)
    return estimation._replace(data=data)


def _pairs(network: HyperNetwork, u: Tensor, v: Tensor) -> Pairs:
    dtype = network.shrink.weight.dtype
    return Pairs(u.to(dtype), v.to(dtype))


def coordinates(data: Canonical, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Canonical coordinates of scores by the maps of a data set, held fixed or not as they are."""
    x, y = affine(x.double(), data.x_map), affine(y.double(), data.y_map)
    swapped = data.swapped[:, None, None]
    return torch.where(swapped, y, x), torch.where(swapped, x, y)


def _values(joint: tuple[Tensor, Tensor], shuffled: tuple[Tensor, Tensor]) -> tuple[Values, Values]:
    """The critic, and its Gaussian term, at joint and shuffled pairs."""
    return Values(joint[0], shuffled[0]), Values(joint[1], shuffled[1])


def _joined(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    value, gaussian = zip(*parts, strict=True)
    return torch.cat(value, 1), torch.cat(gaussian, 1)


def _evaluate(
    network: HyperNetwork, parameters: CriticParameters, u: Tensor, v: Tensor
) -> tuple[Tensor, Tensor]:
    return network.evaluate(parameters, _pairs(network, u, v))
