"""Checks of samples with class labels: errors where nothing can be computed, and doubts."""

from __future__ import annotations

import torch
from torch import Tensor

from .errors import InputError

__all__ = ["MAX_WIDTH", "MIN_SAMPLES", "check_labelled", "label_doubts"]

MIN_SAMPLES = 32
MAX_WIDTH = 64
# Classes of fewer samples are hardly described by them.
FEW = 8


def check_labelled(x: Tensor, labels: Tensor) -> Tensor:
    """Raises :class:`InputError` unless `x` and `labels` can be estimated from.

    Args:
        x: shape (n, d) or (b, n, d).
        labels: shape (n,) or (b, n).

    Returns:
        One-hot classes, shape (b, n, C), C the number of classes in all data sets together.
    """
    for name, value in (("x", x), ("labels", labels)):
        if not isinstance(value, Tensor):
            raise InputError(f"`{name}` must be a torch.Tensor, received {type(value).__name__}.")
    if x.ndim not in (2, 3):
        hint = ": use `x[:, None]` for one variable" if x.ndim == 1 else ""
        raise InputError(
            f"`x` must have shape (n, d) or (b, n, d), received {tuple(x.shape)}{hint}."
        )
    if not x.is_floating_point():
        raise InputError(f"`x` must be floating point, received {x.dtype}: use `x.float()`.")
    if labels.is_floating_point() or labels.is_complex():
        raise InputError(
            f"`labels` must hold classes as integers, received {labels.dtype}: cast class indices "
            "with `labels.long()`; continuous values belong into `mutual_information`."
        )
    if labels.shape != x.shape[:-1]:
        raise InputError(
            f"`labels` must have one class a sample, shape {tuple(x.shape[:-1])}, received "
            f"{tuple(labels.shape)}: use `labels.argmax(-1)` on one-hot codes."
        )
    if x.numel() == 0 or x.shape[-2] < MIN_SAMPLES:
        raise InputError(
            f"`x` holds n = {x.shape[-2]} samples of {x.shape[-1]} coordinates; at least "
            f"{MIN_SAMPLES} samples of one coordinate are needed."
        )
    if x.shape[-1] > MAX_WIDTH:
        raise InputError(
            f"`x` has {x.shape[-1]} coordinates, more than {MAX_WIDTH}: project or select "
            "coordinates first."
        )
    if labels.device != x.device:
        raise InputError(
            f"`x` is on {x.device} and `labels` on {labels.device}: move them to one device."
        )
    finite = x.detach().isfinite()
    if not finite.all():
        raise InputError(
            f"`x` holds {int((~finite).sum())} NaN or infinite value(s) among {x.numel()}: remove "
            "or impute those samples."
        )
    place = labels.unique(return_inverse=True)[1]
    target = torch.nn.functional.one_hot(place if x.ndim == 3 else place[None])
    classes = int(target.any(1).sum(-1).max())
    if classes > x.shape[-2] // 2:
        raise InputError(
            f"`labels` holds {classes} classes in n = {x.shape[-2]} samples, less than two samples "
            "a class: merge classes or collect more samples; numbers that are no classes belong "
            "into `mutual_information`, as floats."
        )
    return target


def label_doubts(x: Tensor, target: Tensor) -> list[str]:
    """What makes an estimate doubtful, as sentences; `target` as :func:`check_labelled` gives."""
    found = []
    count = target.sum(1)
    classes = (count > 0).sum(-1)
    if (classes == 1).any():
        found.append("`labels` holds one class only: mutual information is zero")
    few = (count < FEW) & (count > 0)
    if few.any():
        found.append(
            f"`labels` has {int(few.sum(-1).max())} class(es) of fewer than {FEW} samples, of "
            "which little can be told: the value may be off by tenths of a nat"
        )
    n, d = x.shape[-2:]
    if d * (int(classes.max()) - 1) > n:
        found.append(
            f"`x` has d = {d} coordinates and `labels` {int(classes.max())} classes: that is more "
            f"than n = {n} samples settle, and the value may be off by tenths of a nat"
        )
    x = x.detach() if x.ndim == 3 else x.detach()[None]
    constant = (x == x[:, :1]).all(1)
    if constant.any():
        columns = constant.any(0).nonzero()[:, 0].tolist()
        found.append(f"`x` is constant in column(s) {columns}, which carry no information")
    return found
