"""Auditions: how loud a group of features may be, judged on a few of them by leave-one-out."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from .readout import Loudness, choose_loudness

__all__ = ["Choir", "Group", "Scaling", "audition", "full_precision", "joined"]

# A feature of less spread, of a range of one, is not scaled up to unit spread: few pairs would make
# it up.
MIN_SPREAD = 0.1
# Matrix products work on so many columns at once. Where at most so many lack, zeros take their
# place: 48 columns are faster than 45 by a third.
COLUMNS, MOST_ZEROS = 16, 3


class Scaling(NamedTuple):
    """What standardises features: centre and factor, each of shape (b, features)."""

    centre: Tensor
    factor: Tensor


class Group(NamedTuple):
    """Features that share a loudness.

    Attributes:
        features: shape (b, m, features).
        scaling: what standardises them.
        loudness: the one that leave-one-out chose, with the first few features and a constant read
            out at it.
    """

    features: Tensor
    scaling: Scaling
    loudness: Loudness


class Choir(NamedTuple):
    """All features as the readout hears them.

    Attributes:
        features: with a constant last, and zeros before it, shape (b, m, features + zeros + 1).
        scaling: what led to them, loudness included.
        start: weights that the auditions found, shape (b, features + zeros + 1).
    """

    features: Tensor
    scaling: Scaling
    start: Tensor


def audition(
    features: Tensor,
    amplitude: Tensor,
    offset: Tensor,
    n: int,
    *,
    count: int,
    steps: int,
    frozen: bool,
) -> Group:
    """How loud features may be beside an offset, and what a few of them make of it.

    Args:
        features: of n joint and m shuffled pairs, shape (b, n + m, features).
        amplitude: how strongly each may contribute beside the others, (features,) or with b first.
        offset: the critic without them, shape (b, n + m).
        n: number of joint pairs.
        count: how many of the features are heard.
        steps: Newton steps at each loudness.
        frozen: whether no gradient passes through what is chosen. In training it guides the
            features and is not guided by them.
    """
    features = features.to(amplitude.dtype)
    scaling = _scaling_of(features, amplitude)
    with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
        heard = Scaling(*(part[:, :count] for part in scaling))
        rough = _with_constant(_scaled(features[..., :count], heard))
        with full_precision(features):
            loudness = choose_loudness(rough, offset, n, steps)
    return Group(features, scaling, loudness)


def joined(groups: list[Group], corrections: Tensor) -> Choir:
    """Groups together, each at its loudness corrected by a column of (b, groups), in logs."""
    features, factors, starts = [], [], []
    for i, group in enumerate(groups):
        loud = (group.loudness.level + corrections[:, i, None]).exp()
        factors.append(group.scaling.factor * loud)
        features.append(_scaled(group.features, Scaling(group.scaling.centre, factors[-1])))
        # Those that were not heard are silent; zeros are dropped.
        silent = group.features.shape[-1] + 1 - group.loudness.weights.shape[-1]
        starts.append(pad(group.loudness.weights[:, :-1], (0, silent)) / loud)
    constants = torch.stack([group.loudness.weights[:, -1:] for group in groups])
    centre = torch.cat([group.scaling.centre for group in groups], -1)
    scaling = Scaling(centre, torch.cat(factors, -1))
    return Choir(_with_constant(*features), scaling, _completed(starts, constants.sum(0)))


def _scaling_of(values: Tensor, factor: Tensor) -> Scaling:
    """To units of their spread times a factor: features cannot escape the ridge by growing."""
    centre = values.mean(1)
    variance = (values.square().mean(1) - centre.square()).clamp_min(0)
    return Scaling(centre, factor * (variance + MIN_SPREAD**2).rsqrt())


def _scaled(values: Tensor, scaling: Scaling) -> Tensor:
    # In one pass: features are bounded, so that nothing is lost by subtracting afterwards.
    shift = -scaling.centre * scaling.factor
    return torch.addcmul(shift[:, None], values, scaling.factor[:, None])


def _with_constant(*features: Tensor) -> Tensor:
    columns = [part.mT for part in features]
    return _completed(columns, torch.ones_like(columns[0][:, :1])).mT


def _completed(parts: list[Tensor], last: Tensor) -> Tensor:
    """Columns, shape (b, columns, *), and a last one, with zeros before it if a few lack."""
    lack = -(sum(part.shape[1] for part in parts) + 1) % COLUMNS
    if 0 < lack <= MOST_ZEROS:
        parts = [*parts, last.new_zeros(len(last), lack, *last.shape[2:])]
    return torch.cat([*parts, last], 1)


def full_precision(tensor: Tensor) -> AbstractContextManager[None]:
    """Keeps autocast away from what follows: solves and whitening need all digits."""
    if not torch.is_autocast_enabled(tensor.device.type):
        return nullcontext()
    return torch.autocast(tensor.device.type, enabled=False)
