"""A permutation test of independence whose statistic is the estimate."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from .batches import estimate_many, model_or_base, seed_of, seeded
from .errors import InputError
from .inputs import check_pair
from .model import DEFAULT_SEED, FlashMI

__all__ = ["IndependenceTest", "independence_test"]

# Estimates of equal data that are nearer than this, in nats, differ by rounding alone.
ROUNDING = 1e-6


class IndependenceTest(NamedTuple):
    """The outcome of a permutation test.

    Attributes:
        value: estimate of I(x; y) in nats, shape () or (b,).
        p_value: probability of so large a value, or a larger one, if x and y are independent, of
            the value's shape, float64; the least possible is 1/(permutations + 1).
        null: estimates with the pairing broken, shape (permutations,) or (b, permutations).
    """

    value: Tensor
    p_value: Tensor
    null: Tensor

    def __str__(self) -> str:
        rows = torch.stack([self.value.double(), self.p_value], -1).reshape(-1, 2)[:6]
        found = ", ".join(f"{value:.3f} (p = {p:.3g})" for value, p in rows.tolist())
        more = ", …" if self.value.numel() > 6 else ""
        return f"I(x;y) = {found}{more} nats, against {self.null.shape[-1]} permutations"


@torch.no_grad()
def independence_test(
    x: Tensor,
    y: Tensor,
    permutations: int = 99,
    *,
    generator: torch.Generator | None = None,
    model: FlashMI | None = None,
) -> IndependenceTest:
    r"""Tests whether x and y are independent, by their MI against that of permuted pairs.

    p = (1 + #{null ≥ value})/(1 + permutations) (Phipson & Smyth, 2010). The statistic is one
    function of the samples, shuffled pairs included, so that the level is exact at any n, however
    biased the estimate. It needs independent samples: neighbours in time are none. A progress bar
    is shown on terminals.

    Args:
        x: samples, shape (n, dx), or (b, n, dx) for b tests.
        y: samples paired with them, shape (n, dy) or (b, n, dy).
        permutations: number of permutations; the cost is that of so many estimates and one.
        generator: draws the permutations and the shuffled pairs; by default one of a fixed seed.
        model: the estimator, by default that of the packaged `base` weights.

    Raises:
        InputError: the samples cannot be used; the message says why.

    Example:
        >>> import torch
        >>> from flashmi_reg import independence_test
        >>> x, noise = torch.randn(2, 100, 1, generator=torch.Generator().manual_seed(0))
        >>> independence_test(x, x**2 + noise, permutations=19).p_value.item()
        0.05
    """
    model = model_or_base(model)
    if not isinstance(permutations, int) or permutations < 1:
        raise InputError(f"`permutations` must be a positive integer, received {permutations!r}.")
    check_pair(x, y, model.header)
    seed = seed_of(generator)
    generator = seeded(DEFAULT_SEED) if generator is None else generator
    first, second = (side if side.ndim == 3 else side[None] for side in (x, y))
    b, n, _ = first.shape
    noise = torch.rand(permutations, n, generator=generator, device=generator.device)
    orders = torch.cat([torch.arange(n, device=noise.device)[None], noise.argsort(-1)])
    orders = orders.to(x.device)

    def pick(start: int, stop: int) -> tuple[Tensor, Tensor]:
        moved = second[:, orders[start:stop]].movedim(1, 0).flatten(0, 1)
        return first.repeat(stop - start, 1, 1), moved

    count = permutations + 1
    with tqdm(total=count, desc="permutations", leave=False, disable=None) as bar:
        values, _ = estimate_many(model, pick, count, size=b * n, seed=seed, bar=bar)
    value, null = values.reshape(-1, b).mT.split([1, permutations], -1)
    p_value = (1 + (null >= value - ROUNDING).sum(-1)).double() / (1 + permutations)
    value = value[:, 0]
    if x.ndim == 3:
        return IndependenceTest(value, p_value, null)
    return IndependenceTest(value[0], p_value[0], null[0])
