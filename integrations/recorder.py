"""What the callbacks share: rows are sampled, turned into points, and the time is kept."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from flashmi_reg import FlashMI
from flashmi_reg.errors import InputError, SupportWarning

from .information_plane import (
    SLICE,
    Point,
    as_input,
    as_target,
    columns,
    label_entropy,
    measure,
)
from .sampling import RowSample, rank_and_world

__all__ = ["BUDGET", "N_SAMPLES", "N_SLICES", "Recorder", "check_cadence"]

BUDGET = 0.05
"""The share of training time that estimates may take where no cadence is given."""
MARGIN = 1.5
"""How much longer than the last point the next one may take, e.g. on a busy machine."""
PATIENCE = 10.0
"""Seconds of training before the cost of a point is looked into."""
N_SAMPLES = 1000
N_SLICES = 8
"""Fewer than one good value needs: projections stay the same from point to point."""
T = TypeVar("T")
LAYER = "layer "  # before a layer's name among the columns of a sample


class Recorder:
    """Samples rows of each split, turns them into points, and knows what that cost.

    Args:
        n_samples: rows behind each point.
        n_slices: projections of wide sides.
        seed: of the choice of rows, projections and shuffled pairs.
        weights: name or path of the network's weights.

    Raises:
        InputError: an argument is out of range.
        CheckpointError: there are no such weights.
    """

    def __init__(
        self,
        *,
        n_samples: int = N_SAMPLES,
        n_slices: int = N_SLICES,
        seed: int = 0,
        weights: str | Path = "base",
    ) -> None:
        if n_slices < 1:
            raise InputError(f"`n_slices` must be at least 1, received {n_slices}.")
        self.model = FlashMI.from_pretrained(weights)
        least, most = self.model.header.trained_n
        if not least <= n_samples <= most:
            raise InputError(
                f"`n_samples` must lie between {least} and {most}, for which the network was "
                f"trained, received {n_samples}."
            )
        self.n_samples, self.n_slices, self.seed = n_samples, n_slices, seed
        self.points: list[Point] = []
        self.spent = 0.0
        self._trained_before = 0.0
        self._spent_before = 0.0
        self._started: float | None = None
        self._samples: dict[str, RowSample] = {}
        self._cost: dict[str, float] = {}  # seconds of the last point of each split
        self._said: set[str] = set()

    def offer(self, split: str, size: int) -> Tensor:
        """Announces a batch; returns the indices of the rows that are wanted of it."""
        if split not in self._samples:
            self._samples[split] = RowSample(self.n_samples, seed=self.seed)
        return self._samples[split].offer(size)

    def put(
        self, split: str, rows: Tensor, x: object, y: object | None, layers: Mapping[str, Tensor]
    ) -> None:
        """Hands over the rows that were wanted.

        Args:
            split: as in :meth:`offer`.
            rows: what it returned, shape (m,).
            x: input of the whole batch, shape (n, *).
            y: target of the whole batch, (n,) or (n, dy), or None.
            layers: outputs of the layers at those rows, shape (m, *) each.

        Raises:
            InputError: a side is no tensor of rows, or changes its shape from batch to batch.
        """
        taken = {"x": _at(as_input(x), rows)}
        if y is not None:
            taken["y"] = _at(as_target(y), rows)
        taken |= {LAYER + name: values for name, values in layers.items()}
        self._samples[split].put(taken)

    def rows_of(self, split: str) -> int:
        """Rows that this rank holds of a split."""
        return len(self._samples[split]) if split in self._samples else 0

    def reset(self) -> None:
        """Forgets the rows of all splits."""
        for sample in self._samples.values():
            sample.reset()

    def release(self) -> None:
        """Forgets them and frees their memory."""
        self._samples.clear()

    def take(
        self, split: str, *, epoch: float, step: int, device: torch.device | str = "cpu"
    ) -> list[Point]:
        """Estimates from the rows of a split, forgets them, and returns the new points.

        All ranks must call it; rank 0 estimates from the rows of all, and all get its values.
        """
        start = time.perf_counter()
        sample = self._samples.setdefault(split, RowSample(self.n_samples, seed=self.seed))
        with torch.inference_mode(False), torch.no_grad():
            rows = sample.gather()
            sample.reset()
            found = _of_first_rank(lambda: list(self._estimates(rows, split, epoch, step, device)))
        self.points += found
        self._cost.pop("probe", None)
        self._cost[split] = time.perf_counter() - start
        return found

    def _estimates(
        self,
        rows: dict[str, Tensor],
        split: str,
        epoch: float,
        step: int,
        device: torch.device | str,
    ) -> Iterator[Point]:
        if not rows:
            return
        x, y = columns(rows["x"]).to(device), rows.get("y")
        entropy = None
        if y is not None:
            entropy = None if y.is_floating_point() else label_entropy(y)
            y = (columns(y) if y.is_floating_point() else y).to(device)
        for name in (name for name in rows if name.startswith(LAYER)):
            z, layer = columns(rows[name]).to(device), name.removeprefix(LAYER)
            path, value = self._careful(x, z, f"I(x; z) of '{layer}'")
            yield Point(split, layer, "I_xz", path, value, epoch, step, len(x))
            if y is not None:
                path, value = self._careful(z, y, f"I(z; y) of '{layer}'", entropy)
                yield Point(split, layer, "I_zy", path, value, epoch, step, len(x), entropy)

    def _careful(
        self, x: Tensor, y: Tensor, what: str, ceiling: float | None = None
    ) -> tuple[str, float]:
        """Path and value; an observer must not end a training run, so that failing means NaN."""
        try:
            value, path, doubts = measure(
                x, y, n_slices=self.n_slices, seed=self.seed, model=self.model
            )
        except InputError as error:
            self._say(f"{what} could not be estimated: {error}")
            return "none", math.nan
        for doubt in doubts:
            self._say(f"{what}: {doubt}.", doubt)
        if ceiling is not None and value > ceiling:
            self._say(
                f"{what} is {value:.3f} nats, above the entropy of the labels, {ceiling:.3f} nats: "
                "read it as 'all of it'."
            )
        return path, value

    def _say(self, message: str, kind: str | None = None) -> None:
        """Warns once of each kind: the same layers are looked at again and again."""
        kind = "".join(c for c in kind or message if not c.isdigit())
        if kind not in self._said:
            self._said.add(kind)
            warnings.warn(message, SupportWarning, stacklevel=2)

    def start(self) -> None:
        """Training starts, or goes on after a pause."""
        self._started, self._spent_before = time.perf_counter(), self.spent

    def stop(self) -> None:
        """Training pauses or ends."""
        self._trained_before, self._started = self.trained, None

    @property
    def trained(self) -> float:
        """Seconds of training so far, without those spent here."""
        if self._started is None:
            return self._trained_before
        spent = self.spent - self._spent_before
        return self._trained_before + time.perf_counter() - self._started - spent

    @property
    def overhead(self) -> float:
        """Seconds spent here as a share of those of training."""
        return self.spent / self.trained if self.trained > 0 else 0.0

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Counts what happens inside as spent here."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.spent += time.perf_counter() - start

    def affordable(self, splits: int, layers: int) -> bool:
        """Whether the next point of so many splits and layers keeps to the budget.

        All ranks must call it; the clock of rank 0 decides.
        """
        return _of_first_rank(lambda: self._affordable(splits, layers))

    def _affordable(self, splits: int, layers: int) -> bool:
        if self.trained < PATIENCE:
            return False
        if not self._cost:
            with self.timed():
                self._probe(layers)
        cost = MARGIN * splits * max(self._cost.values())
        return self.spent + cost <= BUDGET * self.trained

    def _probe(self, layers: int) -> None:
        """Times one estimate, and takes all sides for wide until real costs are known."""
        generator = torch.Generator().manual_seed(self.seed)
        x, y = torch.randn(2, self.n_samples, SLICE, generator=generator)
        start = time.perf_counter()
        measure(x, y, model=self.model)
        self._cost["probe"] = (time.perf_counter() - start) * 2 * layers * self.n_slices

    def warn_if_empty(self, prefix: str) -> None:
        """Says why there is nothing to show at the end."""
        if not self.points:
            cost = f", at {max(self._cost.values()):.1f} s a split" if self._cost else ""
            warnings.warn(
                f"'{prefix}' has no point: {BUDGET:.0%} of {self.trained:.0f} s of training did "
                f"not pay for one{cost}; set `every_n_epochs`.",
                stacklevel=3,
            )

    def state_dict(self) -> dict[str, Any]:
        """Points and clock, in plain types."""
        return {
            "points": [asdict(point) for point in self.points],
            "spent": self.spent,
            "trained": self.trained,
            "cost": dict(self._cost),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from :meth:`state_dict`."""
        self.points = [Point(**point) for point in state["points"]]
        self._cost = dict(state["cost"])
        self.spent = self._spent_before = state["spent"]
        self._trained_before = state["trained"]


def check_cadence(every_n_epochs: int | None, every_n_steps: int | None) -> None:
    """Raises :class:`InputError` unless at most one is given, and that one positive."""
    for name, every in (("every_n_epochs", every_n_epochs), ("every_n_steps", every_n_steps)):
        if every is not None and every < 1:
            raise InputError(f"`{name}` must be at least 1, received {every}.")
    if every_n_epochs is not None and every_n_steps is not None:
        raise InputError("`every_n_epochs` and `every_n_steps` exclude each other: give one.")


def _at(side: Tensor, rows: Tensor) -> Tensor:
    return side.detach()[rows.to(side.device)]


def _of_first_rank(find: Callable[[], T]) -> T:
    """What rank 0 finds, on every rank."""
    rank, world = rank_and_world()
    found: list[Any] = [find() if rank == 0 else None]
    if world > 1:
        torch.distributed.broadcast_object_list(found, src=0)
    value: T = found[0]
    return value
