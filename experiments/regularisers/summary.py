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

from experiments.regularisers.methods import METHODS
from experiments.regularisers.selection import RULE, chosen, of
from experiments.regularisers.tasks import TASKS, Cell, Setting
from experiments.report import RESULTS, number

__all__ = [
    "FIGURES",
    "Row",
    "asked",
    "headline",
    "markdown",
    "plain",
    "read",
    "spread",
    "summarise",
    "told",
    "verdicts",
    "write",
]

_SIGNS = {"win": " +", "loss": " −", "even": ""}
FIGURES = ("score", "score_in", "leak", "information")


@dataclass(frozen=True)
class Row:
    """A method on a task at its chosen setting, on the seeds that are reported.

    Attributes:
        task: name of the task.
        method: name of the method.
        setting: chosen on the tuning seeds.
        runs: number of seeds.
        steps: of the model within the budget, mean.
        figures: mean and standard error over the seeds of each figure that the task has.
    """

    task: str
    method: str
    setting: Setting
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
    seeds = {*settings["seeds"], *settings["tuning"]}
    return [c for c in cells if c.task in settings["tasks"] and c.seed in seeds]


def told(setting: Setting, method: str, task: str) -> str:
    """A setting in words."""
    grid, words = TASKS[task].grids[method], []
    if method == "InfoNCE":
        words.append(f"temperature {setting.strength:g}")
    elif method != "none" and TASKS[task].kind != "views":
        words.append(f"{setting.strength:g}")
    if setting.every > 1 or len({other.every for other in grid}) > 1:
        words.append("each step" if setting.every == 1 else f"1 step in {setting.every}")
    if len({other.inner for other in grid}) > 1:
        words.append(f"{setting.inner} inner steps")
    if setting.rate is not None:
        words.append(f"rate {setting.rate:g}")
    return ", ".join(words) or "–"


def spread(cells: Sequence[Cell], name: str) -> tuple[float, float]:
    """Mean and standard error of a figure over cells."""
    values = [float(getattr(cell, name)) for cell in cells]
    error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return fmean(values), error


def summarise(cells: Sequence[Cell], tuning: Sequence[int]) -> list[Row]:
    """A row for each task and method of which there are cells."""
    rows = []
    for task, settings in TASKS.items():
        for method in settings.grids:
            runs = _best(cells, task, method, tuning)
            if not runs:
                continue
            figures = {name: spread(runs, name) for name in FIGURES if name in settings.names}
            steps = fmean(cell.steps for cell in runs)
            rows.append(Row(task, method, runs[0].setting, len(runs), steps, figures))
    return rows


def verdicts(cells: Sequence[Cell], tuning: Sequence[int]) -> list[dict[str, Any]]:
    """Ours against each other method, by paired differences of the score over the seeds.

    A win or a loss is a mean difference whose 95 % interval, by Student's t, excludes zero; the
    leak is judged in the same way where a task has one.
    """
    found = []
    for task, settings in TASKS.items():
        mine = {c.seed: c for c in _best(cells, task, "ours", tuning)}
        for method in settings.grids:
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
    """Cells at the chosen setting of other seeds; none while some tuning is still to be done."""
    tuned = {(c.method, c.setting, c.seed) for c in of_task(cells, task)}
    grids = TASKS[task].grids
    wanted = [(name, setting) for name in ("none", method) for setting in grids[name]]
    if any((*run, seed) not in tuned for run in wanted for seed in tuning):
        return []
    best = of(cells, task, method, chosen(cells, task, method, tuning))
    return [cell for cell in best if cell.seed not in tuning]


def of_task(cells: Sequence[Cell], task: str) -> list[Cell]:
    """The cells of a task."""
    return [cell for cell in cells if cell.task == task]


def headline(path: Path = RESULTS / "regularisers.json") -> str:
    """The part of README on this experiment: one row a task, with wins and losses."""
    content, cells = _read(path)
    settings, tuning = content["settings"], content["settings"]["tuning"]
    said = {(v["task"], v["method"]): v for v in verdicts(cells, tuning)}
    rows = {(r.task, r.method): r for r in summarise(cells, tuning)}
    lines = []
    for task in settings["tasks"]:
        kind = TASKS[task].names
        figures = [name for name in ("score", "leak") if name in kind]
        line = [f"{TASKS[task].title}: {' / '.join(kind[name] for name in figures)}"]
        for method in METHODS:
            row, verdict = rows.get((task, method)), said.get((task, method))
            if row is None:
                line.append("–")
                continue
            line.append(
                " / ".join(
                    number(row.figures[name][0])
                    + (_SIGNS[verdict[name]["verdict"]] if verdict else "")
                    for name in figures
                )
            )
        lines.append(line)
    return (
        f"**Losses in use, at equal time**: `{_command(content)}`, {_origin(content)},"
        f" {len(settings['seeds'])} seeds. Every run of a task trains for as many seconds of the"
        " process, and the other methods have at least as many settings to choose from as ours, on"
        " other seeds. `+` ours is better, `−` ours is worse (95 % interval of the difference on"
        " the same seeds excludes zero), else even; a higher score and a lower leak are better."
        " Settings and errors are in `docs/add_a_term.md`.\n\n"
        f"{_table(['task', *METHODS], lines)}"
    )


def markdown(path: Path = RESULTS / "regularisers.json") -> str:
    """The tables of docs on this experiment, from its result."""
    content, cells = _read(path)
    settings = content["settings"]
    rows = summarise(cells, settings["tuning"])
    seconds = ", ".join(f"{settings['seconds'][name]:g} s ({name})" for name in settings["tasks"])
    most = max(len(g) for name in settings["tasks"] for g in TASKS[name].grids.values())
    parts = [
        f"`{_command(content)}`, {_origin(content)}. Every run of a task trains for the same"
        f" seconds of the process on the processor, {seconds}, however many steps that is (not wall"
        " clock, as the machine was shared). Every method has its settings (weight of the term,"
        " how often it is due, steps of its own network, learning rate, temperature) chosen among"
        f" up to {most} on validation rows of {len(settings['tuning'])} other seeds. {RULE} Mean ±"
        f" standard error over {len(settings['seeds'])} seeds; *ours is* compares the same"
        " seeds: better or worse where the 95 % interval of the difference excludes zero."
    ]
    said = {(v["task"], v["method"]): v for v in verdicts(cells, settings["tuning"])}
    for task in settings["tasks"]:
        names = TASKS[task].names
        head = ["method", "setting", "steps", *names.values(), "ours is"]
        lines = [
            [r.method, told(r.setting, r.method, task), f"{r.steps:,.0f}"]
            + [r.text(name) for name in names]
            + [_words(said.get((task, r.method)))]
            for r in rows
            if r.task == task
        ]
        parts.append(f"*{TASKS[task].title}*\n\n{_table(head, lines)}")
    return "\n\n".join(parts)


def _read(path: Path) -> tuple[dict[str, Any], list[Cell]]:
    content = json.loads(path.read_text())
    return content, asked([read(cell) for cell in content["cells"]], content["settings"])


def _command(content: dict[str, Any]) -> str:
    settings = content["settings"]
    tasks = "" if settings["tasks"] == [*TASKS] else f" --tasks {' '.join(settings['tasks'])}"
    return (
        f"python -m experiments.regularisers --seed {settings['seeds'][0]} --seeds"
        f" {len(settings['seeds'])} --tuning {len(settings['tuning'])} --weights"
        f" {content['weights']['name']}{tasks}"
    )


def _origin(content: dict[str, Any]) -> str:
    hardware, weights = content["hardware"], content["weights"]
    return (
        f"{hardware['processor']}, {hardware['torch_threads']} thread(s), weights"
        f" {weights['sha256'][:12]} ({weights['header']['steps']:,} steps)"
    )


def _words(verdict: dict[str, Any] | None) -> str:
    if verdict is None:
        return "–"
    words = {"win": "better", "loss": "worse", "even": "even"}
    return ", ".join(
        f"{words[verdict[name]['verdict']]} ({name})"
        for name in ("score", "leak")
        if name in verdict
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *rows))


def read(cell: dict[str, Any]) -> Cell:
    """A cell as it is written to the result."""
    return Cell(**cell | {"setting": Setting(**cell["setting"])})


def write(cell: Cell) -> dict[str, Any]:
    """A cell for the result."""
    return asdict(cell) | {"setting": cell.setting._asdict()}


def plain(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows as they are written to the result."""
    return [asdict(row) | {"setting": row.setting._asdict()} for row in rows]
