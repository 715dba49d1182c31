"""An information term whose gradient is as long as the task's, whatever the scale of either."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from .errors import InputError

__all__ = ["match_gradient_norm"]


def match_gradient_norm(
    information: Tensor,
    task: Tensor,
    shared: Tensor | Iterable[Tensor],
    *,
    ratio: float = 1.0,
    shrink_only: bool = False,
) -> Tensor:
    r"""Scales an information loss so that its gradient is `ratio` times as long as the task's.

    Returns s · `information` with s = `ratio` · ‖∂task/∂shared‖ / ‖∂information/∂shared‖, computed
    anew in each call and held constant: the direction of the information's gradient stays, and the
    weight to be tuned is a share of the task's gradient rather than a factor between nats and
    whatever the task is measured in. With `shrink_only`, s is at most one, the adaptive clipping of
    "Mutual Information Neural Estimation" (Belghazi et al., 2018, section 5).

    A term that has reached its goal has a gradient of noise alone, and matching makes the noise as
    long as the task's gradient: where the goal is zero information, take `shrink_only`.

    The cost is one more backward pass of both losses down to `shared`: a representation that both
    are computed from costs less than the encoder's parameters. Under DDP each process takes its
    own s.

    Args:
        information: the information loss, shape ().
        task: the loss of the task, shape ().
        shared: the tensor that both depend on, such as the representation, or parameters.
        ratio: length of the information's gradient as a share of the task's, at least 0.
        shrink_only: whether the information's gradient is never made longer.

    Returns:
        The scaled loss, shape (), to be added to `task`.

    Raises:
        InputError: an argument cannot be used, or a loss does not depend on `shared`.

    Example:
        >>> import torch
        >>> from flashmi_reg import MutualInformationLoss
        >>> from flashmi_reg.gradient_norm import match_gradient_norm
        >>> generator = torch.Generator().manual_seed(0)
        >>> x = torch.randn(128, 8, generator=generator)
        >>> z = torch.nn.Linear(8, 2)(x)
        >>> task = (z.sum(1) - x[:, 0]).square().mean()
        >>> leak = MutualInformationLoss("minimize")(z, x[:, 1:2])
        >>> (task + match_gradient_norm(leak, task, z, ratio=0.5)).backward()
    """
    if not 0 <= ratio < float("inf"):
        raise InputError(f"`ratio` must be at least 0 and finite, received {ratio!r}.")
    tensors = [shared] if isinstance(shared, Tensor) else list(shared)
    if not tensors or not all(isinstance(t, Tensor) and t.requires_grad for t in tensors):
        raise InputError(
            "`shared` must be a tensor that carries a gradient, or several of them: give the "
            "representation before any `detach()`, or the encoder's parameters."
        )
    wanted = _norm("task", task, tensors)
    present = _norm("information", information, tensors)
    # Without a gradient any scale does.
    scale = ratio * wanted / torch.where(present > 0, present, 1.0)
    scale = scale.clamp_max(1.0) if shrink_only else scale
    return scale.to(information.dtype) * information


def _norm(name: str, loss: Tensor, shared: Sequence[Tensor]) -> Tensor:
    """Length of a loss's gradient, which the graph survives."""
    if not isinstance(loss, Tensor) or loss.ndim != 0:
        seen = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise InputError(f"`{name}` must be a loss of shape (), received {seen}.")
    parts = None
    if loss.requires_grad:
        parts = torch.autograd.grad(loss, shared, retain_graph=True, allow_unused=True)
    found = [part for part in parts or () if part is not None]
    if not found:
        raise InputError(
            f"`{name}` does not depend on `shared`: give a tensor that both losses are computed "
            "from, itself and not a copy or a slice of it."
        )
    # In half precision squares of small gradients would vanish.
    squares = [part.double().square().sum() for part in found]
    return torch.stack(squares).sum().sqrt()
