"""Which strength a method is given: one rule for all methods, on validation rows alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean

from experiments.regularisers.tasks import TASKS, Cell

__all__ = ["RULE", "TOLERANCE", "chosen", "of", "pending"]

TOLERANCE = 0.03
RULE = (
    "Removal: the largest strength whose validation score, in distribution, is at most"
    f" {TOLERANCE} below that without the term; where there is none, the best score. Elsewhere:"
    " the best validation score. Means over the tuning seeds."
)

Run = tuple[str, str, float, int]


def of(cells: Iterable[Cell], task: str, method: str, strength: float | None = None) -> list[Cell]:
    """The cells of a task and a method, of one strength or of all."""
    return [
        cell
        for cell in cells
        if (cell.task, cell.method) == (task, method) and strength in (None, cell.strength)
    ]


def chosen(cells: Sequence[Cell], task: str, method: str, seeds: Sequence[int]) -> float:
    """The strength of a method by :data:`RULE`, from the cells of the tuning seeds."""

    def score(of_method: str, strength: float) -> float:
        found = [c for c in of(cells, task, of_method, strength) if c.seed in seeds]
        return fmean(cell.val_score for cell in found)

    settings = TASKS[task]
    strengths = settings.strengths[method]
    if settings.kind == "removal" and method != "none":
        least = score("none", settings.strengths["none"][0]) - TOLERANCE
        allowed = [strength for strength in strengths if score(method, strength) >= least]
        if allowed:
            return max(allowed)
    return max(strengths, key=lambda strength: score(method, strength))


def pending(
    cells: Sequence[Cell], tasks: Sequence[str], tuning: Sequence[int], seeds: Sequence[int]
) -> list[Run]:
    """Runs that are still to be made, as (task, method, strength, seed).

    First all strengths on the tuning seeds; once these are there for a method, the chosen one on
    the others.
    """
    done = {(c.task, c.method, c.strength, c.seed) for c in cells}
    found: list[Run] = []
    for task in tasks:
        for method, strengths in TASKS[task].strengths.items():
            first = [(task, method, strength, seed) for strength in strengths for seed in tuning]
            missing = [run for run in first if run not in done]
            found += missing
            base = [
                (task, "none", s, seed) for s in TASKS[task].strengths["none"] for seed in tuning
            ]
            if missing or any(run not in done for run in base):
                continue
            best = chosen(cells, task, method, tuning)
            rest = [(task, method, best, seed) for seed in seeds if seed not in tuning]
            found += [run for run in rest if run not in done]
    return found
