"""Checks of inputs: errors where nothing can be computed, warnings where it misleads."""

from __future__ import annotations

import torch
from torch import Tensor

from .checkpoint import Header
from .errors import InputError

__all__ = ["WIDEST", "check_pair", "is_truncated", "samples_needed", "support_warnings"]

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Share of samples of a coordinate that have an equal: above it, ranks are no longer those of a
# continuous variable, which the copula transform presumes.
TIED_SHARE = 0.1
# Beyond the network's width, sides are truncated to the few coordinates that tell something: up to
# this width, and from this many samples on for each coordinate of the two sides together.
WIDEST = 64
LEAST_SAMPLES = 3


def check_pair(x: Tensor, y: Tensor, header: Header) -> None:
    """Raises :class:`InputError` unless `x` and `y` are samples that can be estimated from.

    Args:
        x: shape (n, dx) or (b, n, dx).
        y: shape (n, dy) or (b, n, dy).
        header: of the weights; gives the least n and the width beyond which sides are truncated.
    """
    for name, value in (("x", x), ("y", y)):
        _check_side(name, value, header)
    if x.ndim != y.ndim or x.shape[:-1] != y.shape[:-1]:
        raise InputError(
            f"`x` and `y` must pair up sample by sample: received shapes {tuple(x.shape)} and "
            f"{tuple(y.shape)}; all but the last dimension must be equal."
        )
    if x.device != y.device:
        raise InputError(f"`x` is on {x.device} and `y` on {y.device}: move them to one device.")
    n, least = x.shape[-2], header.trained_n[0]
    if n < least:
        raise InputError(
            f"`x` and `y` hold n = {n} samples; the network was trained for n >= {least}: "
            "collect more samples, e.g. a larger batch or several batches together."
        )
    needed = samples_needed(x, y, header)
    if n < needed:
        raise InputError(
            f"`x` and `y` have {x.shape[-1]} + {y.shape[-1]} coordinates and n = {n} samples; "
            f"beyond {header.trained_width[1]} a side, {needed} samples are needed: collect more, "
            "or use `sliced_mutual_information`."
        )
    for name, value in (("x", x), ("y", y)):
        # The extremes are not finite where any value is not, and are found in one pass.
        low, high = value.detach().aminmax()
        if not (low.isfinite() & high.isfinite()):
            finite = value.detach().isfinite()
            raise InputError(
                f"`{name}` holds {int((~finite).sum())} NaN or infinite value(s) among "
                f"{value.numel()}: remove or impute those samples."
            )


def is_truncated(x: Tensor, y: Tensor, header: Header) -> bool:
    """Whether a side is wider than what the network reads whole."""
    return max(x.shape[-1], y.shape[-1]) > header.trained_width[1]


def samples_needed(x: Tensor, y: Tensor, header: Header) -> int:
    """The fewest samples of two continuous sides of these widths that are estimated from."""
    least = header.trained_n[0]
    if is_truncated(x, y, header):
        least = max(least, LEAST_SAMPLES * (x.shape[-1] + y.shape[-1]))
    return least


def _check_side(name: str, value: Tensor, header: Header) -> None:
    if not isinstance(value, Tensor):
        raise InputError(f"`{name}` must be a torch.Tensor, received {type(value).__name__}.")
    if value.ndim not in (2, 3):
        hint = f": use `{name}[:, None]` for one variable" if value.ndim == 1 else ""
        raise InputError(
            f"`{name}` must have shape (n, d) or (b, n, d), received {tuple(value.shape)}{hint}."
        )
    if value.dtype not in FLOATS:
        raise InputError(
            f"`{name}` must be real and floating point, received {value.dtype}: continuous values "
            f"can be cast with `{name}.float()`; class labels belong into "
            "`label_mutual_information`."
        )
    if value.numel() == 0:
        raise InputError(f"`{name}` is empty: received shape {tuple(value.shape)}.")
    widest = max(WIDEST, header.trained_width[1])
    if value.shape[-1] > widest:
        raise InputError(
            f"`{name}` has {value.shape[-1]} coordinates; at most {widest} can be estimated from: "
            "use `sliced_mutual_information`, or project or select coordinates first."
        )
    if value.layout != torch.strided or value.device.type == "meta":
        raise InputError(
            f"`{name}` must be a dense tensor that holds values, received layout {value.layout} "
            f"on {value.device}: use `to_dense()`, or a real device."
        )


def support_warnings(
    ordered: Tensor, dx: int, rho: Tensor, value: Tensor, header: Header
) -> list[str]:
    """What makes an estimate doubtful, as sentences.

    Args:
        ordered: ascending columns of x and of y, shape (b, dx + dy, n).
        dx: how many of them are columns of x.
        rho: canonical correlations, shape (b, width).
        value: estimates, shape (b,).
        header: of the weights.
    """
    found = []
    same = ordered[..., 1:] == ordered[..., :-1]
    constant = same.sum(-1) == same.shape[-1]
    edge = torch.zeros_like(same[..., :1])
    tied = torch.cat([same, edge], -1) | torch.cat([edge, same], -1)
    share = (tied.sum(-1).double() / tied.shape[-1]).masked_fill(constant, 0)
    doubtful = (constant | (share > TIED_SHARE)).any()
    for name, of_side in (("x", slice(dx)), ("y", slice(dx, None))) if doubtful else ():
        still = constant[:, of_side].any(0)
        if still.any():
            columns = still.nonzero()[:, 0].tolist()
            found.append(f"`{name}` is constant in column(s) {columns}, which carry no information")
        equal = share[:, of_side]
        if (equal > TIED_SHARE).any():
            columns = (equal > TIED_SHARE).any(0).nonzero()[:, 0].tolist()
            found.append(
                f"`{name}` has many tied values in column(s) {columns} "
                f"(up to {float(equal.max()):.0%}): it is treated as continuous"
            )
    if (rho > 0.9995).any():
        found.append(
            "`x` and `y` are almost linearly determined by each other: MI may be infinite and is "
            "underestimated"
        )
    low, high = -0.1, header.trained_mi
    if (value > high).any():
        found.append(
            f"the estimate {float(value.max()):.2f} is beyond {high:g} nats, the range of "
            "training: read it as 'large'"
        )
    if (value < low).any():
        found.append(
            f"the estimate {float(value.min()):.2f} is clearly negative, which MI cannot be: the "
            "data lie outside what the network was trained for"
        )
    return found
