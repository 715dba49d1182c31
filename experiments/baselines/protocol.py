"""What every baseline takes and returns."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["Array", "Baseline", "Estimate", "as_pair", "clock"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """One estimate of mutual information.

    Args:
        value: The estimate in nats.
        seconds: The time that it took, by :func:`clock`.
        steps: The number of optimiser steps, where something was trained.
        converged: Whether training stopped by itself, before its limit of steps.
    """

    value: float
    seconds: float
    steps: int | None = None
    converged: bool | None = None


def clock() -> float:
    """Seconds: with one thread those of the processor, so that a busy machine does not count."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


class Baseline(Protocol):
    """An estimator of I(x; y) from x of shape `(n, dx)` and y of shape `(n, dy)`."""

    def __call__(self, x: Tensor, y: Tensor, seed: int) -> Estimate:
        """Estimate I(x; y); `seed` governs all randomness of the estimator."""


def as_pair(x: Tensor, y: Tensor) -> tuple[Array, Array]:
    """Convert a pair to float64 arrays of shapes `(n, dx)` and `(n, dy)`, or raise `ValueError`."""
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        raise ValueError(
            f"`x` and `y` must have shapes (n, dx) and (n, dy), got {tuple(x.shape)} and "
            f"{tuple(y.shape)}."
        )
    if len(x) < 8:
        raise ValueError(f"`x` and `y` must hold at least 8 pairs, got {len(x)}.")
    pair = x.detach().cpu().double().numpy(), y.detach().cpu().double().numpy()
    if not all(np.isfinite(z).all() for z in pair):
        raise ValueError("`x` and `y` must be finite; drop or replace NaN and infinite values.")
    return pair
