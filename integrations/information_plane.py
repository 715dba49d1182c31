"""Points of the information plane: what is estimated of a layer, by which path, named how.

I(x; z) and I(z; y) of a layer's output z with the input x and the target y, from "Deep Learning and
the Information Bottleneck Principle" (Tishby & Zaslavsky, 2015, https://arxiv.org/abs/1503.02406).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from flashmi_reg import FlashMI
from flashmi_reg.errors import InputError
from flashmi_reg.inputs import WIDEST, is_truncated, samples_needed
from flashmi_reg.mixed import LabelEstimator, class_entropy, is_discrete
from flashmi_reg.slicing import sliced_estimate

__all__ = [
    "N_SLICES",
    "SLICE",
    "Measurement",
    "Point",
    "as_input",
    "as_target",
    "columns",
    "label_entropy",
    "measure",
    "named_values",
]

SLICE = 5
N_SLICES = 25


@dataclass(frozen=True)
class Point:
    """One estimate of one layer at one time.

    Args:
        split: the data it was taken on, e.g. "train" or "val".
        layer: the name of the layer.
        quantity: "I_xz" or "I_zy".
        path: how it was estimated, see :func:`measure`.
        value: in nats; NaN where nothing could be estimated.
        epoch: as the trainer counts them.
        step: optimiser steps taken.
        n: rows it was estimated from.
        ceiling: entropy of the labels among these rows, which bounds I(z; y); None elsewhere.
    """

    split: str
    layer: str
    quantity: str
    path: str
    value: float
    epoch: float
    step: int
    n: int
    ceiling: float | None = None

    @property
    def name(self) -> str:
        """What it is logged as, below the prefix."""
        return f"{self.split}/{self.layer}/{self.quantity}_{self.path}"


def named_values(points: Sequence[Point], prefix: str) -> dict[str, float]:
    """What is logged of points that were taken together: they, their n, and the entropy H(y)."""
    values = {f"{prefix}/{point.name}": point.value for point in points}
    for point in points:
        values[f"{prefix}/{point.split}/n"] = float(point.n)
        if point.ceiling is not None:
            values[f"{prefix}/{point.split}/H_y"] = point.ceiling
    return values


class Measurement(NamedTuple):
    """An estimate in nats, the path it took, and what speaks against it, as sentences."""

    value: float
    path: str
    doubts: tuple[str, ...] = ()


def measure(
    x: Tensor,
    y: Tensor,
    *,
    n_slices: int = N_SLICES,
    seed: int = 0,
    model: FlashMI | None = None,
) -> Measurement:
    """Estimates I(x; y) in nats by the path that fits the widths and kinds.

    - "native": both sides of at most ten coordinates; mutual information itself.
    - "truncated": sides of up to 64 coordinates, with three samples or more for each of them; the
      same quantity, by canonical truncation.
    - "labels": y holds classes, x at most 64 coordinates; mutual information itself.
    - "sliced5": the mean over random projections of wider sides to five coordinates, another
      quantity, at most as large; "labels_sliced5" where y holds classes.

    The projections depend on the seed alone, so that a layer is seen from the same sides each time.

    Args:
        x: samples, floating point, shape (n, dx).
        y: floating point, shape (n, dy), or classes, integer, shape (n,).
        n_slices: number of projections.
        seed: of projections and shuffled pairs.
        model: the estimator, by default that of the packaged `base` weights. Values of classes do
            not come from a network.

    Raises:
        InputError: the samples cannot be used; the message says why.

    Example:
        >>> import torch
        >>> from flashmi_reg.integrations.information_plane import measure
        >>> generator = torch.Generator().manual_seed(0)
        >>> x = torch.randn(500, 80, generator=generator)
        >>> measure(x, x + torch.randn(500, 80, generator=generator), n_slices=4).path
        'sliced5'
        >>> measure(x[:, :20], x[:, 20:23]).path
        'truncated'
        >>> measure(x[:, :2], x[:, 2:5]).path
        'native'
    """
    model = FlashMI.from_pretrained("base") if model is None else model
    generator = torch.Generator().manual_seed(seed)
    if is_discrete(y):
        if x.shape[-1] <= WIDEST:
            found = LabelEstimator().estimate(x[None], y[None], generator=generator)
            return Measurement(float(found.value), "labels", found.warnings)
    elif max(x.shape[-1], y.shape[-1]) <= WIDEST and len(x) >= samples_needed(x, y, model.header):
        truncated = is_truncated(x, y, model.header)
        # Intervals are of no use here, nor is a warning that there is none.
        found = (model.without_calibration() if truncated else model).estimate(
            x, y, generator=generator
        )
        return Measurement(
            float(found.value), "truncated" if truncated else "native", found.warnings
        )
    sliced = sliced_estimate(x, y, SLICE, n_slices, generator=generator, model=model)
    path = f"labels_sliced{SLICE}" if is_discrete(y) else f"sliced{SLICE}"
    return Measurement(float(sliced.value), path, sliced.warnings)


def label_entropy(labels: Tensor) -> float:
    """Entropy of classes in nats, shape (n,): what I(z; y) cannot exceed on these samples."""
    return float(class_entropy(labels))


def as_input(x: object, origin: str = "x") -> Tensor:
    """Input rows as the sample keeps them, shape (n, *); token numbers are refused.

    Raises:
        InputError: it is no tensor of rows, or its numbers are no amounts.
    """
    x = _rows(x, origin)
    if x.dtype in (torch.int32, torch.int64):
        raise InputError(
            f"`{origin}` must hold amounts, received {x.dtype}, which look like token numbers: "
            "pass `inputs=` that returns floats, e.g. pooled embeddings."
        )
    return x


def as_target(y: object, origin: str = "y") -> Tensor:
    """Target rows: classes as int64 of shape (n,), everything else as floats of shape (n, dy).

    Raises:
        InputError: it is no tensor of rows, or holds several integers a row.
    """
    y = _rows(y, origin)
    if y.is_floating_point():
        return y.reshape(len(y), -1)
    if y.numel() != len(y):
        raise InputError(
            f"`{origin}` has shape {tuple(y.shape)} and {y.dtype}; integers are classes of shape "
            "(n,): pass `inputs=` that returns one class a row, or floats."
        )
    return y.reshape(-1).long()


def columns(rows: Tensor) -> Tensor:
    """Rows of any shape and real dtype as float32 of shape (n, d)."""
    return rows.reshape(len(rows), -1).float()


def _rows(value: object, origin: str) -> Tensor:
    if not isinstance(value, Tensor) or value.ndim == 0 or value.is_complex():
        what = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise InputError(
            f"`{origin}` must be a real tensor with one row a sample, received {what}: pass "
            "`inputs=` that takes it from the batch."
        )
    return value
