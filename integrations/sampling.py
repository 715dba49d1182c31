"""Which rows of passing batches are kept: few, paired, the same on one rank or on many."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from flashmi_reg.errors import InputError
from flashmi_reg.reservoir import merge_rows

__all__ = ["RowSample", "positional_keys", "rank_and_world", "survivors"]

MAX_BYTES = 2 * 2**30


def positional_keys(positions: Tensor, seed: int) -> Tensor:
    """A key in [0, 1) for each position in a pass over data, shape (n,) → (n,), float64.

    It is the output of SplitMix64 ("Fast splittable pseudorandom number generators", Steele et
    al., 2014), hence a function of position and seed alone: a loader that is not shuffled gives
    the same sample at every epoch and on any number of ranks.
    """
    with np.errstate(over="ignore"):
        z = positions.numpy().astype(np.uint64) + np.uint64(seed) * np.uint64(0xD1342543DE82EF95)
        z = (z + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return torch.from_numpy((z >> np.uint64(11)).astype(np.float64) * 2.0**-53)


class RowSample:
    r"""A uniform sample of at most `capacity` of the rows that pass, several tensors wide.

    A :class:`flashmi_reg.reservoir.Reservoir` in which only keys and row numbers are sorted: the
    rows themselves are copied once, when they enter, in their own dtype, so that inputs of ten
    thousand columns cost next to nothing to follow. Keys depend on the position in the pass,
    taking rank r of w to see positions r, r + w, ..., as `DistributedSampler` deals them out.

    Args:
        capacity: the most rows kept, over all ranks.
        seed: of the keys.

    Example:
        >>> import torch
        >>> from flashmi_reg.integrations.sampling import RowSample
        >>> sample = RowSample(capacity=100)
        >>> for start in range(0, 1000, 250):
        ...     x = torch.arange(start, start + 250.0)[:, None]
        ...     rows = sample.offer(len(x))
        ...     sample.put({"x": x[rows], "y": -x[rows]})
        >>> kept = sample.gather()
        >>> kept["x"].shape, bool((kept["x"] == -kept["y"]).all())
        (torch.Size([100, 1]), True)
    """

    def __init__(self, capacity: int, *, seed: int = 0) -> None:
        self.capacity = capacity
        self.seed = seed
        self._stores: dict[str, Tensor] = {}
        self.reset()

    def reset(self) -> None:
        """Forgets all rows and starts a new pass; the memory is kept for it."""
        self.seen = 0
        self._rows = torch.empty(0, 2, dtype=torch.float64)  # key, place in the stores
        self._offered: Tensor | None = None

    def offer(self, count: int) -> Tensor:
        """Announces a batch of `count` rows; returns the indices of those that enter, ascending.

        They must then be handed over by :meth:`put`, or are not taken.
        """
        rank, world = rank_and_world()
        positions = (self.seen + torch.arange(count)) * world + rank
        self.seen += count
        keys = positional_keys(positions, self.seed)
        new = torch.stack([keys, -1.0 - torch.arange(count)], 1)  # negative: not stored yet
        self._offered = merge_rows([self._rows, new], self.capacity)
        place = self._offered[:, 1]
        return (-1 - place[place < 0]).long().sort().values

    def put(self, columns: dict[str, Tensor]) -> None:
        """Stores the rows that the last :meth:`offer` asked for.

        Args:
            columns: the same names in every call; each of shape (m, *), row i the i-th index that
                `offer` returned.

        Raises:
            InputError: a shape or dtype differs from earlier batches, or rows are too large.
        """
        if self._offered is None:
            raise RuntimeError("`put` follows an `offer`.")
        rows, self._offered = self._offered, None
        fresh = rows[:, 1] < 0
        taken = torch.zeros(self.capacity, dtype=torch.bool)
        taken[rows[~fresh, 1].long()] = True
        places = (~taken).nonzero()[: int(fresh.sum()), 0]
        for name, values in columns.items():
            self._store(name, values)[places] = values.detach().to("cpu")
        # Row i of `columns` is the i-th entry by index, and `rows` are in the order of their keys.
        order = (-1 - rows[fresh, 1]).argsort().argsort()
        rows[fresh, 1] = places[order].double()
        self._rows = rows

    # Buffers made in a validation loop must stay writable outside of inference mode.
    @torch.inference_mode(False)
    def _store(self, name: str, values: Tensor) -> Tensor:
        kept = self._stores.get(name)
        if kept is None:
            self._check_size(name, values)
            shape = (self.capacity, *values.shape[1:])
            kept = self._stores[name] = torch.empty(shape, dtype=values.dtype)
        if kept.shape[1:] != values.shape[1:] or kept.dtype != values.dtype:
            raise InputError(
                f"`{name}` has rows of shape {tuple(values.shape[1:])} and {values.dtype}; earlier "
                f"batches had {tuple(kept.shape[1:])} and {kept.dtype}: reduce it to one shape, "
                "e.g. by a mean over positions."
            )
        return kept

    def _check_size(self, name: str, values: Tensor) -> None:
        size = self.capacity * values[:1].numel() * values.element_size()
        if size > MAX_BYTES:
            raise InputError(
                f"{self.capacity} rows of `{name}`, each of shape {tuple(values.shape[1:])}, take "
                f"{size / 2**30:.1f} GiB: reduce each row first, e.g. by a mean over positions."
            )

    def __len__(self) -> int:
        return len(self._rows)

    def gather(self) -> dict[str, Tensor]:
        """The rows kept, in the order of their keys: of all ranks, on rank 0; {} on the others.

        Without any rows it is {} everywhere.
        All ranks must call it, those without rows too. Only rows that remain travel.
        """
        rank, world = rank_and_world()
        rows = self._rows
        if world > 1:
            parts: list[Any] = [None] * world
            torch.distributed.all_gather_object(parts, rows[:, 0])
            rows = rows[: survivors(parts, rank, self.capacity)]
        kept = {name: store[rows[:, 1].long()] for name, store in self._stores.items()}
        if world == 1:
            return kept if len(rows) else {}
        found: list[Any] | None = [None] * world if rank == 0 else None
        torch.distributed.gather_object((rows[:, 0], kept), found, dst=0)
        found = [part for part in found or [] if len(part[0])]
        if not found:
            return {}
        order = torch.cat([keys for keys, _ in found]).argsort()
        return {name: torch.cat([part[name] for _, part in found])[order] for name in found[0][1]}


def survivors(keys: list[Tensor], rank: int, capacity: int) -> int:
    """How many of a rank's rows are among those with the smallest keys of all ranks.

    Args:
        keys: of each rank's rows, ascending.
        rank: whose rows.
        capacity: how many rows of all ranks survive at most.
    """
    owner = torch.cat([torch.full_like(part, i) for i, part in enumerate(keys)])
    merged = merge_rows([torch.stack([torch.cat(keys), owner], 1)], capacity)
    return int((merged[:, 1] == rank).sum())


def rank_and_world() -> tuple[int, int]:
    """The rank of this process and the number of processes; 0 and 1 outside of a group."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()
