"""A bounded uniform sample of paired rows that merges exactly, over batches and over ranks."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .errors import InputError

__all__ = [
    "CAPACITY",
    "Reservoir",
    "draw_keys",
    "merge_rows",
    "pack",
    "smallest_keys",
    "stack_padded",
    "unpack",
]

# More rows than this change an estimate less than its own sampling error.
CAPACITY = 2048


class Reservoir:
    r"""A uniform sample of at most `capacity` of all rows seen, in bounded memory.

    Every row gets a random key, and the rows with the smallest keys are kept. Hence merging is
    exact however unevenly the rows are spread: put the rows together, keep the smallest keys. Up
    to `capacity` rows, nothing is lost ("Priority sampling for estimation of arbitrary subset
    sums", Duffield et al., 2007, with equal weights).

    Rows are kept in float64, detached and on the device of the first ones, in
    8 · capacity · (1 + columns) bytes.

    Args:
        capacity: the most rows kept.
        seed: of the keys; ranks draw different keys from the same seed.

    Raises:
        InputError: `capacity` is less than 1.

    Example:
        >>> import torch
        >>> from flashmi_reg.reservoir import Reservoir
        >>> reservoir = Reservoir(capacity=100)
        >>> for start in range(0, 1000, 250):
        ...     ids = torch.arange(start, start + 250)
        ...     reservoir.add(torch.randn(250, 3), ids)  # floats and class labels
        >>> x, ids = reservoir.gather().sides()  # of all ranks; of this one where there is one
        >>> x.shape, ids.dtype, reservoir.seen
        (torch.Size([100, 3]), torch.int64, 1000)
    """

    def __init__(self, capacity: int = CAPACITY, *, seed: int = 0) -> None:
        check_capacity(capacity)
        self.capacity = capacity
        self.seed = seed
        self._draws = 0
        self.reset()

    def reset(self) -> None:
        """Forgets all rows; the keys go on, so that no two passes draw the same ones."""
        self.seen = 0
        self._rows = torch.empty(0, 0, dtype=torch.float64)
        self._layout = torch.zeros(0, 2, dtype=torch.int64)

    def add(self, *sides: Tensor) -> None:
        """Offers the rows of a batch.

        Args:
            sides: what was observed together, row by row: floating point of shape (n, d) or (n,),
                or class labels, integer of shape (n,). The same sides in every call.

        Raises:
            InputError: the sides do not pair up, or differ in width or kind from earlier ones.
        """
        keys = draw_keys(len(sides[0]), self.seed, self._draws) if sides else torch.empty(0)
        names = [f"sides[{i}]" for i in range(len(sides))]
        rows, self._layout = pack(keys, sides, names, self._layout)
        self._draws += 1
        self.seen += len(rows)
        if self._rows.numel() == 0:
            self._rows = self._rows.to(rows.device)
        self._rows = merge_rows([self._rows, rows], self.capacity)

    def sides(self) -> tuple[Tensor, ...]:
        """The rows kept, in random order: (m, d) each in float64, labels (m,) in int64."""
        return unpack(self._rows, self._layout)

    def merge(self, others: Iterable[Reservoir]) -> Reservoir:
        """A new reservoir of the rows of this one and of others.

        Raises:
            InputError: they hold different sides.
        """
        parts = [self, *others]
        return self._of(
            [part._rows for part in parts],
            [part._layout for part in parts],
            sum(part.seen for part in parts),
        )

    def gather(
        self, group: Any | None = None, device: torch.device | str | None = None
    ) -> Reservoir:
        """A new reservoir of the rows of all ranks, the same on each of them.

        All ranks of the group must call it, those without rows too; outside of a process group it
        is a copy.

        Args:
            group: the process group, all ranks if None.
            device: where tensors are exchanged, e.g. "cuda" for NCCL, which a rank without rows
                cannot know; by default where the rows are.
        """
        if not _distributed():
            return self.merge([])
        from torchmetrics.utilities.distributed import gather_all_tensors

        device = device or self._rows.device
        seen = torch.tensor(self.seen, device=device)
        layouts = gather_all_tensors(self._layout.to(device), group)
        rows = gather_all_tensors(self._rows.to(device), group)
        return self._of(rows, layouts, int(torch.stack(gather_all_tensors(seen, group)).sum()))

    def _of(self, rows: list[Tensor], layouts: list[Tensor], seen: int) -> Reservoir:
        merged = Reservoir(self.capacity, seed=self.seed)
        merged._draws = self._draws
        merged.seen = seen
        merged._rows = merge_rows(rows, self.capacity)
        known = {tuple(part.flatten().tolist()) for part in layouts if len(part)}
        if len(known) > 1:
            raise InputError(f"reservoirs hold different sides (width, is a label): {known}.")
        merged._layout = max(layouts, key=len).cpu()
        return merged

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"Reservoir(capacity={self.capacity}, seed={self.seed}, seen={self.seen})"


def check_capacity(capacity: int) -> None:
    """Raises :class:`InputError` for a capacity below 1."""
    if capacity < 1:
        raise InputError(f"`capacity` must be at least 1 row, received {capacity}.")


def draw_keys(n: int, seed: int, draw: int) -> Tensor:
    """Random keys, shape (n,), a function of the seed, the number of the draw and the rank."""
    rank = torch.distributed.get_rank() if _distributed() else 0
    # Hashed by Python, so that neighbouring numbers give unrelated streams.
    mixed = random.Random(f"{seed} {rank} {draw}").getrandbits(63)
    return torch.rand(n, dtype=torch.float64, generator=torch.Generator().manual_seed(mixed))


def pack(
    keys: Tensor, sides: Sequence[Tensor], names: Sequence[str], layout: Tensor
) -> tuple[Tensor, Tensor]:
    """Joins the sides of a batch to rows.

    Args:
        keys: shape (n,).
        sides: (n, d), (n,), or integer labels (n,).
        names: of the sides, for messages.
        layout: width of each side and whether it is a label, shape (s, 2), as known from earlier
            rows; no rows or zeros if there were none.

    Returns:
        Rows (n, 1 + columns) in float64, the key first; and the layout.

    Raises:
        InputError: the sides do not pair up, or do not fit the layout.
    """
    if not sides:
        raise InputError("a reservoir needs at least one side, received none.")
    found, columns = [], []
    for name, side in zip(names, sides, strict=True):
        is_label = _check_side(name, side)
        if len(side) != len(sides[0]):
            raise InputError(
                f"`{name}` must pair up with `{names[0]}` row by row: received shapes "
                f"{tuple(side.shape)} and {tuple(sides[0].shape)}."
            )
        side = side.detach().reshape(len(side), -1).to(torch.float64)
        columns.append(side)
        found.append([side.shape[1], int(is_label)])
    new = torch.tensor(found, device=layout.device)
    if layout.any() and not torch.equal(new, layout):
        raise InputError(
            f"{', '.join(f'`{name}`' for name in names)} have (width, is a label) = {found}; "
            f"earlier batches had {layout.tolist()}: every batch must hold the same variables."
        )
    return torch.cat([keys.to(columns[0].device)[:, None], *columns], 1), new


def unpack(rows: Tensor, layout: Tensor) -> tuple[Tensor, ...]:
    """The sides of rows: (m, d) each in float64, labels (m,) in int64."""
    widths = layout[:, 0].tolist()
    if not layout.any():  # no rows were ever seen
        return tuple(rows.new_empty(0, 0) for _ in widths)
    sides = rows[:, 1:].split(widths, 1)
    return tuple(
        side[:, 0].long() if is_label else side
        for side, is_label in zip(sides, layout[:, 1].tolist(), strict=True)
    )


def smallest_keys(rows: Tensor, capacity: int) -> Tensor:
    """The rows with the smallest keys, at most `capacity`, in the order of their keys."""
    order = rows[:, 0].argsort()[:capacity] if rows.shape[1] else slice(0)
    kept = rows[order]
    return kept[kept[:, 0].isfinite()] if kept.shape[1] else kept


def merge_rows(parts: Sequence[Tensor], capacity: int) -> Tensor:
    """One sample from several: the smallest keys of all.

    Args:
        parts: rows (m, 1 + columns), as many as there are; (0, 0) where nothing was seen. A key
            of infinity marks a row that only fills.
        capacity: the most rows kept.
    """
    seen = [part for part in parts if part.numel()]
    if not seen:
        return max(parts, key=lambda part: part.shape[1])
    if len({part.shape[1] for part in seen}) > 1:
        widths = [part.shape[1] - 1 for part in seen]
        raise InputError(f"samples to be merged must have one width, received {widths} columns.")
    return smallest_keys(torch.cat(seen), capacity)


def stack_padded(parts: Sequence[Tensor]) -> Tensor:
    """Stacks rows of uneven shapes, as ranks and batches have them, filled by infinite keys."""
    height, width = (max(part.shape[i] for part in parts) for i in (0, 1))
    if len({part.shape[1] for part in parts if part.numel()}) > 1:
        merge_rows(parts, 1)  # raises
    pad = nn.functional.pad
    return torch.stack(
        [
            pad(part, (0, width - part.shape[1], 0, height - part.shape[0]), value=torch.inf)
            for part in parts
        ]
    )


def _check_side(name: str, side: Tensor) -> bool:
    """Whether the side holds class labels."""
    if not isinstance(side, Tensor):
        raise InputError(f"`{name}` must be a torch.Tensor, received {type(side).__name__}.")
    if side.is_complex() or side.ndim not in (1, 2):
        raise InputError(
            f"`{name}` must be real, of shape (n, d) or (n,), received {tuple(side.shape)} of "
            f"{side.dtype}: flatten each sample, e.g. with `{name}.flatten(1)`."
        )
    if side.is_floating_point():
        return False
    if side.ndim == 2 and side.shape[1] != 1:
        raise InputError(
            f"`{name}` is of {side.dtype} and shape {tuple(side.shape)}; integers are class "
            f"labels of shape (n,): cast amounts and counts with `{name}.float()`."
        )
    return True


def _distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
