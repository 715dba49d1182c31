"""Many estimates of one shape: in chunks of bounded memory, all with the same random pairs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from tqdm import tqdm

from .checkpoint import Header
from .model import DEFAULT_SEED, FlashMI, Gradient
from .result import MIEstimate

__all__ = ["Estimator", "Many", "any_width", "estimate_many", "model_or_base", "seed_of", "seeded"]

# Samples estimated from at once: about half a GB while the network reads them.
CHUNK = 16_384
# Samples whose intermediate results are kept for the backward pass, about 1 GB; beyond it they
# are computed a second time.
KEPT: dict[Gradient, int] = {"critic": 65_536, "full": 12_288}


class Many(NamedTuple):
    """What many estimates yield.

    Attributes:
        values: in nats, shape (count,).
        warnings: of those without gradients, each sentence once.
    """

    values: Tensor
    warnings: tuple[str, ...]


class Estimator(Protocol):
    """What estimates batches of pairs: :class:`FlashMI`, or another of its manner."""

    def mutual_information(
        self, x: Tensor, y: Tensor, *, generator: torch.Generator | None, gradient: Gradient
    ) -> Tensor:
        """Values of shape (b,), differentiable; doubts are warned of."""

    def estimate(self, x: Tensor, y: Tensor, *, generator: torch.Generator | None) -> MIEstimate:
        """Values of shape (b,) without gradients; doubts are part of the result."""


def model_or_base(model: FlashMI | None) -> FlashMI:
    """The model, or the packaged `base` one, for values alone: intervals cost time."""
    model = FlashMI.from_pretrained("base") if model is None else model
    return model.without_calibration()


def any_width(model: FlashMI) -> Header:
    """The model's header for checks of data of which only parts are estimated from."""
    return replace(model.header, trained_width=(1, sys.maxsize))


def seed_of(generator: torch.Generator | None) -> int:
    """One draw of the generator, from which several estimates can be seeded alike."""
    if generator is None:
        return DEFAULT_SEED
    drawn = torch.randint(2**62, (), generator=generator, device=generator.device)
    return int(drawn)


def seeded(seed: int) -> torch.Generator:
    """A generator of its own."""
    return torch.Generator().manual_seed(seed)


def estimate_many(
    model: Estimator,
    pick: Callable[[int, int], tuple[Tensor, Tensor]],
    count: int,
    *,
    size: int,
    seed: int,
    gradient: Gradient | None = None,
    bar: tqdm | None = None,
) -> Many:
    """Estimates MI of `count` pairs of sides that exist only while they are needed.

    Every chunk draws the same random pairs, so that the values do not depend on the chunks.

    Args:
        model: the estimator.
        pick: makes the sides from `start` to `stop`, shapes (b, n, dx) and (b, n, dy), where b is
            the same multiple of the number of items asked for.
        count: number of items.
        size: samples of one item, b · n / (stop − start).
        seed: of the shuffled pairs.
        gradient: see :meth:`FlashMI.mutual_information`, which also raises the warnings then; None
            estimates without gradients and returns the warnings.
        bar: advanced by the items that are done.
    """
    step = max(1, CHUNK // size)
    again = gradient is not None and torch.is_grad_enabled() and count * size > KEPT[gradient]

    def differentiable(x: Tensor, y: Tensor) -> Tensor:
        assert gradient is not None
        return model.mutual_information(x, y, generator=seeded(seed), gradient=gradient)

    values: list[Tensor] = []
    notes: dict[str, None] = {}
    for start in range(0, count, step):
        stop = min(start + step, count)
        x, y = pick(start, stop)
        if gradient is None:
            found = model.estimate(x, y, generator=seeded(seed))
            values.append(found.value)
            notes.update(dict.fromkeys(found.warnings))
        elif again:
            value = checkpoint(differentiable, x, y, use_reentrant=False, preserve_rng_state=False)
            values.append(value)
        else:
            values.append(differentiable(x, y))
        if bar is not None:
            bar.update(stop - start)
    return Many(torch.cat(values), tuple(notes))
