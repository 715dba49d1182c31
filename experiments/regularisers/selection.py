"""Which setting a method is given: one rule for all methods, on validation rows alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean

from experiments.regularisers.tasks import TASKS, Cell, Setting

__all__ = ["RULE", "TOLERANCE", "chosen", "of", "pending"]

TOLERANCE = 0.03
RULE = (
    "Removal: of the settings whose validation score, in distribution, is at most"
    f" {TOLERANCE} below that without the term, the one that leaks least on validation rows; where"
    " there is none, the best score. Elsewhere: the best validation score. Means over the tuning"
    " seeds."
)

Run = tuple[str, str, Setting, int]


def of(cells: Iterable[Cell], task: str, method: str, setting: Setting | None = None) -> list[Cell]:
    """The cells of a task and a method, of one setting or of all."""
    return [
        cell
        for cell in cells
        if (cell.task, cell.method) == (task, method) and setting in (None, cell.setting)
    ]


def chosen(cells: Sequence[Cell], task: str, method: str, seeds: Sequence[int]) -> Setting:
    """The setting of a method by :data:`RULE`, from the cells of the tuning seeds."""

    def mean(name: str, setting: Setting, of_method: str = method) -> float:
        found = [c for c in of(cells, task, of_method, setting) if c.seed in seeds]
        return fmean(float(getattr(cell, name)) for cell in found)

    grids = TASKS[task].grids
    if TASKS[task].kind == "removal" and method != "none":
        without = max(mean("val_score", setting, "none") for setting in grids["none"])
        least = without - TOLERANCE
        allowed = [setting for setting in grids[method] if mean("val_score", setting) >= least]
        if allowed:
            return min(allowed, key=lambda setting: mean("val_leak", setting))
    return max(grids[method], key=lambda setting: mean("val_score", setting))


def pending(
    cells: Sequence[Cell], tasks: Sequence[str], tuning: Sequence[int], seeds: Sequence[int]
) -> list[Run]:
    """Runs that are still to be made, as (task, method, setting, seed).

    First all settings on the tuning seeds; once these are there for all methods of a task, the
    chosen ones on the others, seed by seed: what else the machine does then strikes all alike.
    """
    done = {(c.task, c.method, c.setting, c.seed) for c in cells}
    found: list[Run] = []
    for task in tasks:
        grids = TASKS[task].grids
        first = [
            (task, method, setting, seed)
            for seed in tuning
            for method, grid in grids.items()
            for setting in grid
        ]
        missing = [run for run in first if run not in done]
        found += missing
        if not missing:
            best = {method: chosen(cells, task, method, tuning) for method in grids}
            rest = [(task, method, best[method], seed) for seed in seeds for method in grids]
            found += [run for run in rest if run not in done]
    return found
