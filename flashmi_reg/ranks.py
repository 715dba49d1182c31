"""The samples of all processes as one batch, with gradients into this process's own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.autograd.function import once_differentiable

from .errors import InputError

__all__ = ["gather_ranks"]

DTYPES = (
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
)
MOST_DIMENSIONS = 3


@torch.compiler.disable
def gather_ranks(sides: Sequence[Tensor]) -> list[Tensor]:
    r"""Concatenates paired samples of all processes, which may hold unlike numbers of them.

    Every process gets the same samples, those of rank 0 first. Where all compute the same
    loss from them, the gradient of the sum of their losses with respect to a process's own samples
    is its own gradient times the number of processes: it is passed on so, without another exchange.
    The *mean* over processes of what parameters then get, which DDP and FSDP take, is the gradient
    of one process that has all samples.

    Without an initialised process group, or in one of one process, the sides are returned as they
    are.

    Args:
        sides: paired samples; the first continuous one of shape (n, d) or (b, n, d), the others
            with as many leading dimensions, (n, …) or (b, n, …). The numbers of samples n may
            differ between processes, all else may not.

    Returns:
        The sides with the samples of all processes, on their device and in their dtype.

    Raises:
        InputError: on every process, where they hold sides of unlike shapes or dtypes.

    Example:
        >>> import torch
        >>> from flashmi_reg.ranks import gather_ranks
        >>> x, labels = torch.randn(64, 3), torch.arange(64) % 2
        >>> [side.shape for side in gather_ranks([x, labels])]
        [torch.Size([64, 3]), torch.Size([64])]
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return list(sides)
    _check_sides(sides)
    shapes = _shapes_of_ranks(sides)
    place = _place(sides)
    rank = dist.get_rank()
    parts = _exchange(sides, shapes)
    gathered = []
    for side, found in zip(sides, parts, strict=True):
        start = sum(part.shape[place] for part in found[:rank])
        joined = torch.cat(found, place)
        if side.requires_grad:
            joined = _Placed.apply(side, joined, place, start, len(found))
        gathered.append(joined)
    return gathered


class _Placed(torch.autograd.Function):
    """All samples, whose gradient reaches the own ones, times the number of processes.

    The differentiable collectives of torch would exchange gradients that are all equal, and under
    gloo take a gradient that is not contiguous, such as that of a transpose, for another.
    """

    @staticmethod
    def forward(
        ctx: Any, own: Tensor, joined: Tensor, place: int, start: int, processes: int
    ) -> Tensor:
        ctx.slice = (place, start, own.shape[place])
        ctx.processes = processes
        return joined.view_as(joined)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.processes * gradients[0].narrow(*ctx.slice), None, None, None, None


def _check_sides(sides: Sequence[Tensor]) -> None:
    """Raises where this process cannot take part at all."""
    for i, side in enumerate(sides):
        if not isinstance(side, Tensor):
            raise InputError(
                f"with `gather=True`, sides must be tensors: side {i} is a {type(side).__name__}."
            )
        if side.dtype not in DTYPES or not 1 <= side.ndim <= MOST_DIMENSIONS:
            raise InputError(
                f"with `gather=True`, sides must be real and of shape (n, d) or (b, n, d), labels "
                f"(n,) or (b, n): side {i} is {side.dtype} of shape {tuple(side.shape)}."
            )
        if side.device != sides[0].device:
            raise InputError(
                f"with `gather=True`, sides must be on one device: side {i} is on {side.device}, "
                f"the first on {sides[0].device}."
            )
    place = _place(sides)
    if any(side.ndim <= place or side.shape[place] != sides[0].shape[place] for side in sides):
        raise InputError(
            "sides must pair up sample by sample on every process: received shapes "
            f"{[tuple(side.shape) for side in sides]}."
        )


def _place(sides: Sequence[Tensor]) -> int:
    """The dimension of the samples, told by the first continuous side: labels have one less."""
    continuous = [side for side in sides if side.is_floating_point() and side.ndim > 1]
    if not continuous:
        raise InputError(
            "with `gather=True`, a continuous side must have shape (n, d) or (b, n, d), received "
            f"{[tuple(side.shape) for side in sides]}: use `[:, None]` for one variable."
        )
    return continuous[0].ndim - 2


def _shapes_of_ranks(sides: Sequence[Tensor]) -> list[list[tuple[int, ...]]]:
    """Shapes of the sides on each process; raises on all of them where they do not match."""
    own = torch.full((len(sides), 2 + MOST_DIMENSIONS), -1, dtype=torch.int64)
    for row, side in zip(own, sides, strict=True):
        row[0], row[1] = DTYPES.index(side.dtype), side.ndim
        row[2 : 2 + side.ndim] = torch.tensor(side.shape)
    own = own.to(sides[0].device)
    tables = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(tables, own)
    stacked = torch.stack(tables).cpu()
    fixed = stacked.clone()
    fixed[:, :, 2 + _place(sides)] = 0  # the numbers of samples: two entries come before the shape
    shapes = [[tuple(row[2 : 2 + int(row[1])].tolist()) for row in of_rank] for of_rank in stacked]
    if (fixed != fixed[0]).any():
        seen = "; ".join(
            f"rank {rank}: "
            + ", ".join(
                f"{DTYPES[int(row[0])]} {shape}".removeprefix("torch.")
                for row, shape in zip(of_rank, shapes[rank], strict=True)
            )
            for rank, of_rank in enumerate(stacked)
        )
        raise InputError(
            "with `gather=True`, the processes' sides may differ in the number of samples only, "
            f"received {seen}."
        )
    return shapes


def _exchange(sides: Sequence[Tensor], shapes: list[list[tuple[int, ...]]]) -> list[list[Tensor]]:
    """What each process holds of each side, by sides; all in one exchange of bytes."""
    packed = torch.cat([side.detach().contiguous().view(-1).view(torch.uint8) for side in sides])
    sizes = [
        [side.element_size() * math.prod(shape) for side, shape in zip(sides, of_rank, strict=True)]
        for of_rank in shapes
    ]
    # Some collectives ask for equal lengths: the shorter are filled up.
    longest = max(map(sum, sizes))
    padded = torch.cat([packed, packed.new_zeros(longest - len(packed))])
    received = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(received, padded)
    found: list[list[Tensor]] = [[] for _ in sides]
    for content, of_rank, lengths in zip(received, shapes, sizes, strict=True):
        pieces = content[: sum(lengths)].split(lengths)
        for i, (piece, shape) in enumerate(zip(pieces, of_rank, strict=True)):
            # A copy begins where numbers of any size may.
            found[i].append(piece.clone().view(sides[i].dtype).view(shape))
    return found
