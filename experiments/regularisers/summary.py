"""What the runs say: means and errors at the chosen strengths, wins and losses, tables."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from scipy.stats import t as student

from experiments.regularisers.selection import RULE, chosen, of
from experiments.regularisers.tasks import TASKS, Cell
from experiments.report import RESULTS, number

__all__ = ["FIGURES", "Row", "asked", "markdown", "plain", "spread", "summarise", "verdicts"]

FIGURES = ("score", "score_in", "leak", "information")


@dataclass(frozen=True)
class Row:
    """A method on a task at its chosen strength.

    Attributes:
        task: name of the task.
        method: name of the method.
        strength: chosen on the tuning seeds.
        runs: number of seeds.
        steps: of the model within the budget, mean.
        figures: mean and standard error over the seeds of each figure that the task has.
    """

    task: str
    method: str
    strength: float
    runs: int
    steps: float
    figures: dict[str, tuple[float, float]]

    def text(self, name: str) -> str:
        """Mean ± standard error of a figure."""
        if name not in self.figures:
            return "–"
        mean, error = self.figures[name]
        return f"{number(mean)} ± {number(error)}"


def asked(cells: Sequence[Cell], settings: dict[str, Any]) -> list[Cell]:
    """The cells of the tasks and seeds of the settings; a file may hold more."""
    return [c for c in cells if c.task in settings["tasks"] and c.seed in settings["seeds"]]


def spread(cells: Sequence[Cell], name: str) -> tuple[float, float]:
    """Mean and standard error of a figure over cells."""
    values = [float(getattr(cell, name)) for cell in cells]
    error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return fmean(values), error


def summarise(cells: Sequence[Cell], tuning: Sequence[int]) -> list[Row]:
    """A row for each task and method of which there are cells."""
    rows = []
    for task, settings in TASKS.items():
        for method in settings.strengths:
            runs = _best(cells, task, method, tuning)
            if not runs:
                continue
            strength = runs[0].strength
            figures = {name: spread(runs, name) for name in FIGURES if name in settings.names}
            steps = fmean(cell.steps for cell in runs)
            rows.append(Row(task, method, strength, len(runs), steps, figures))
    return rows


def verdicts(cells: Sequence[Cell], tuning: Sequence[int]) -> list[dict[str, Any]]:
    """Ours against each other method, by paired differences of the score over the seeds.

    A win or a loss is a mean difference whose 95 % interval, by Student's t, excludes zero; the
    leak is judged in the same way where a task has one.
    """
    found = []
    for task, settings in TASKS.items():
        mine = {c.seed: c for c in _best(cells, task, "ours", tuning)}
        for method in settings.strengths:
            other = {c.seed: c for c in _best(cells, task, method, tuning)}
            seeds = sorted(mine.keys() & other.keys())
            if method == "ours" or len(seeds) < 2:
                continue
            row: dict[str, Any] = {"task": task, "method": method}
            for name, sign in (("score", 1), ("leak", -1)):
                if name not in settings.names:
                    continue
                gaps = [getattr(mine[s], name) - getattr(other[s], name) for s in seeds]
                mean, error = fmean(gaps), stdev(gaps) / math.sqrt(len(gaps))
                said = "even"
                if abs(mean) > error * float(student.ppf(0.975, len(gaps) - 1)):
                    said = "win" if sign * mean > 0 else "loss"
                row[name] = {"difference": mean, "error": error, "verdict": said}
            found.append(row)
    return found


def _best(cells: Sequence[Cell], task: str, method: str, tuning: Sequence[int]) -> list[Cell]:
    """Cells at the chosen strength; none while some of the tuning is still to be done."""
    tuned = {(c.strength, c.seed) for name in ("none", method) for c in of(cells, task, name)}
    wanted = {*TASKS[task].strengths["none"], *TASKS[task].strengths[method]}
    if any((strength, seed) not in tuned for strength in wanted for seed in tuning):
        return []
    return of(cells, task, method, chosen(cells, task, method, tuning))


def markdown(path: Path = RESULTS / "regularisers.json") -> str:
    """The part of README on this experiment, from its result."""
    content = json.loads(path.read_text())
    settings, hardware, weights = (content[key] for key in ("settings", "hardware", "weights"))
    cells = asked([Cell(**cell) for cell in content["cells"]], settings)
    rows = summarise(cells, settings["tuning"])
    seconds = ", ".join(f"{settings['seconds'][name]:g} s ({name})" for name in settings["tasks"])
    parts = [
        f"**Losses in use, at equal time**: `python -m experiments.regularisers`, seeds"
        f" {', '.join(map(str, settings['seeds']))}, {hardware['processor']},"
        f" {hardware['torch_threads']} thread(s), weights {weights['sha256'][:12]}"
        f" ({weights['header']['steps']:,} steps). Every run trains for the same time of the"
        f" processor, {seconds}, however many steps that is. Strengths of the terms, three for"
        f" each method, are chosen on validation rows of {len(settings['tuning'])} seeds. {RULE}"
        " Mean ± standard error; *ours against* compares the same seeds: a win or a loss"
        " where the 95 % interval of the difference excludes zero, by score and by leak."
    ]
    said = {(v["task"], v["method"]): v for v in verdicts(cells, settings["tuning"])}
    for task in settings["tasks"]:
        names = TASKS[task].names
        head = ["method", "strength", "steps", *names.values(), "ours against"]
        lines = [
            [r.method, f"{r.strength:g}" if r.strength else "–", f"{r.steps:,.0f}"]
            + [r.text(name) for name in names]
            + [_words(said.get((task, r.method)))]
            for r in rows
            if r.task == task
        ]
        parts.append(f"*{TASKS[task].title}*\n\n{_table(head, lines)}")
    return "\n\n".join(parts)


def _words(verdict: dict[str, Any] | None) -> str:
    if verdict is None:
        return "–"
    return ", ".join(
        f"{name} {verdict[name]['verdict']}" for name in ("score", "leak") if name in verdict
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *rows))


def plain(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows as they are written to the result."""
    return [asdict(row) for row in rows]
