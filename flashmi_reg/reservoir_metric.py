"""The base of all metrics: a reservoir of rows as state, merged exactly over batches and ranks."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors

from .errors import InputError, SupportWarning
from .model import FlashMI
from .reservoir import check_capacity, draw_keys, merge_rows, pack, stack_padded, unpack

__all__ = ["ReservoirMetric"]


class ReservoirMetric(Metric):
    """A metric whose state is a uniform sample of all rows seen.

    The frozen network is no module and shared by all: copies, pickles and `state_dict` stay small.

    Args:
        sides: number of tensors that `update` brings.
        capacity: the most rows kept.
        weights: name or path of the weights.
        kwargs: those of :class:`torchmetrics.Metric`.
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False
    plot_lower_bound = 0.0

    rows: Tensor
    layout: Tensor
    seen: Tensor

    def __init__(
        self, sides: int, capacity: int, *, weights: str | Path = "base", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        check_capacity(capacity)
        self.capacity = capacity
        self._model = FlashMI.from_pretrained(weights)
        self._draws = 0  # no state: a reset must not repeat keys, and `forward` resets each batch
        self._one_batch = False
        empty = torch.empty(0, 0, dtype=torch.float64)
        self.add_state("rows", empty, partial(_merged, capacity=capacity))
        self.add_state("layout", torch.zeros(sides, 2, dtype=torch.int64), _common)
        self.add_state("seen", torch.tensor(0), "sum")
        # Lets collections share states between metrics of one capacity, and only between them.
        self.add_state("bound", torch.tensor(capacity), "max")

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Adds a batch and returns the estimate on this batch alone, NaN if it is too small."""
        self._one_batch = True
        try:
            return super().forward(*args, **kwargs)
        finally:
            self._one_batch = False

    def set_dtype(self, dst_type: str | torch.dtype) -> Metric:
        """Does nothing: rows are kept as they were given, whatever the precision of the model."""
        return self

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Plots one result or several in sequence, `compute()` if none is given.

        Args:
            val: a result, or a list of results.
            ax: the matplotlib axes to draw into.

        Returns:
            The figure, None if axes were given, and the axes.
        """
        figure, axes_or_array = self._plot(val, ax)
        axes: Any = axes_or_array
        # Estimates may lie a little below zero, the lower bound of MI: show them.
        lowest = min((float(y) for line in axes.lines for y in line.get_ydata()), default=0.0)
        bottom, top = axes.get_ylim()
        margin = 0.05 * abs(top - lowest)
        axes.set_ylim(min(bottom, lowest - margin), max(top, margin))
        return figure, axes

    def _add(self, sides: Mapping[str, Tensor]) -> None:
        for name, side in sides.items():
            if not isinstance(side, Tensor):
                continue  # `pack` says what is wrong with it
            if side.device != self.rows.device:
                raise InputError(
                    f"`{name}` is on {side.device} and the metric on {self.rows.device}: move it "
                    f"once with `metric.to({str(side.device)!r})`."
                )
            finite = side.isfinite()
            if not finite.all():
                raise InputError(
                    f"`{name}` holds {int((~finite).sum())} NaN or infinite value(s) among "
                    f"{side.numel()}: remove or impute those samples before `update`."
                )
        first = next(iter(sides.values()))
        keys = draw_keys(len(first) if isinstance(first, Tensor) else 0, 0, self._draws)
        rows, self.layout = pack(keys, list(sides.values()), list(sides), self.layout)
        self._draws += 1
        self.seen = self.seen + len(rows)
        self.rows = merge_rows([self.rows, rows], self.capacity)

    def _sides(self) -> tuple[Tensor, ...]:
        """The sides of the rows kept, see :func:`unpack`."""
        return unpack(self.rows, self.layout)

    def _is_short(self, least: int) -> bool:
        """Whether this is one batch of fewer than `least` rows; an error if it is all rows."""
        n = len(self.rows)
        if n >= least:
            return False
        if not self._one_batch:
            remedy = "call `update` with more batches first"
            if self.capacity < least:
                remedy = f"raise `capacity`, which is {self.capacity}"
            raise InputError(
                f"`{type(self).__name__}.compute()` has n = {n} samples and needs at least "
                f"{least}: {remedy}."
            )
        warnings.warn(
            f"a batch of n = {n} samples is too small for an estimate, which needs {least}: its "
            "value is NaN; its samples count in `compute()`. To avoid this warning call `update`, "
            "which estimates nothing",
            SupportWarning,
            stacklevel=2,
        )
        return True

    def _sync_dist(
        self,
        dist_sync_fn: Callable[..., list[Tensor]] = gather_all_tensors,
        process_group: Any | None = None,
    ) -> None:
        """Ranks hold uneven numbers of rows, or none; torchmetrics stacks what it gathers."""

        def gather(state: Tensor, group: Any | None = None) -> list[Tensor]:
            parts = dist_sync_fn(state, group=group)
            return list(stack_padded(parts)) if state.is_floating_point() else parts

        super()._sync_dist(gather, process_group)

    def _reduce_states(self, incoming_state: dict[str, Any]) -> None:
        """As do batches, and metrics that are merged."""
        incoming, self.rows = stack_padded([incoming_state["rows"], self.rows])
        super()._reduce_states({**incoming_state, "rows": incoming})


def _merged(stacked: Tensor, capacity: int) -> Tensor:
    """Reduction of rows: (ranks, rows, columns) to the smallest keys."""
    return merge_rows(list(stacked), capacity)


def _common(layouts: Tensor) -> Tensor:
    """Reduction of layouts: (ranks, sides, 2) to the one that all but empty ranks share."""
    known = [layout for layout in layouts if layout.any()]
    if any(not torch.equal(layout, known[0]) for layout in known):
        raise InputError(
            f"ranks or merged metrics hold different variables, (width, is a label) = "
            f"{[layout.tolist() for layout in known]}: update them with the same ones."
        )
    return known[0] if known else layouts[0]
