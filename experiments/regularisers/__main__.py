"""Losses in use, at equal time: `python -m experiments.regularisers`.

Writes results/regularisers.json, after every run, and .png, and prints a table. An interrupted
experiment goes on where it stopped; with other weights only our runs are made again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from experiments.regularisers.plot import draw
from experiments.regularisers.selection import RULE, pending
from experiments.regularisers.summary import (
    Row,
    asked,
    plain,
    read,
    summarise,
    told,
    verdicts,
    write,
)
from experiments.regularisers.tasks import TASKS, Cell, run
from experiments.regularisers.training import Budget
from experiments.report import RESULTS, circumstances, describe_weights, table, write_json
from flashmi_reg import FlashMI

__all__ = ["main"]

QUICK = Budget(seconds=60.0, steps=3)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m experiments.regularisers", description=__doc__)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--seeds", type=int, default=8, help="number of seeds that are reported")
    parser.add_argument(
        "--seed", type=int, default=11, help="the first; lower ones saw the grids being chosen"
    )
    parser.add_argument(
        "--tuning", type=int, default=2, help="number of seeds, from 1, that choose the settings"
    )
    parser.add_argument("--weights", default="small", help="name or path of our network's weights")
    parser.add_argument("--quick", action="store_true", help="three steps a run, for a look")
    parser.add_argument("--restart", action="store_true", help="drop the runs that are there")
    parser.add_argument("--out", type=Path, default=RESULTS / "regularisers.json")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the runs that are missing, write JSON and picture, print the table."""
    options = parse(arguments)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    model = FlashMI.from_pretrained(options.weights)
    weights = describe_weights(model, options.weights)
    seeds = list(range(options.seed, options.seed + options.seeds))
    tuning = list(range(1, 1 + options.tuning))
    if {*seeds} & {*tuning}:
        raise SystemExit(f"`--seed` must be above {options.tuning}: lower ones choose settings.")
    settings: dict[str, Any] = {
        "tasks": options.tasks,
        "seeds": seeds,
        "tuning": tuning,
        "quick": options.quick,
        "seconds": {name: task.seconds for name, task in TASKS.items()},
        "rule": RULE,
    }
    cells = [] if options.restart else _found(options.out, settings, weights["sha256"])
    model.estimate(*torch.randn(2, 64, 1, generator=torch.Generator().manual_seed(0)))  # warm
    content = {"settings": settings, "weights": weights, **circumstances("scikit-learn", "scipy")}

    def left() -> list[tuple[str, str, float, int]]:
        return pending(cells, options.tasks, settings["tuning"], settings["seeds"])

    with tqdm(total=_total(settings), initial=len(asked(cells, settings)), unit="run") as bar:
        while runs := left():
            name, method, setting, seed = runs[0]
            bar.set_description(f"{name}, {method} {told(setting, method, name)}, seed {seed}")
            cells.append(
                run(
                    name,
                    method,
                    setting,
                    seed,
                    weights=options.weights,
                    checksum=weights["sha256"],
                    budget=QUICK if options.quick else None,
                )
            )
            write_json(options.out, content | {"cells": [write(cell) for cell in cells]})
            bar.update()
    content["cells"] = [write(cell) for cell in cells]
    cells = asked(cells, settings)
    rows = summarise(cells, settings["tuning"])
    content["summary"] = plain(rows)
    content["verdicts"] = verdicts(cells, settings["tuning"])
    _print(rows)
    _print_verdicts(content["verdicts"])
    write_json(options.out, content)
    note = f"weights {weights['name']}, {weights['sha256'][:12]}, {options.seeds} seed(s)"
    picture = draw(options.out.with_suffix(".png"), cells, settings["tuning"], note)
    print(f"\nwrote {options.out.name} and {picture.name}")


def _total(settings: dict[str, Any]) -> int:
    """Number of runs of the whole experiment."""
    tuning, rest = len(settings["tuning"]), len(settings["seeds"])
    return sum(
        len(grid) * tuning + rest
        for name in settings["tasks"]
        for grid in TASKS[name].grids.values()
    )


def _found(path: Path, settings: dict[str, Any], checksum: str) -> list[Cell]:
    """Cells of an earlier call that still hold; ours only if they are of the same weights."""
    if not path.exists():
        return []
    content = json.loads(path.read_text())
    before = content["settings"]
    same = before["quick"] == settings["quick"]
    cells = []
    for cell in map(read, content["cells"]):
        task = TASKS.get(cell.task)
        if task is None or before["seconds"].get(cell.task) != task.seconds:
            continue
        tried = cell.setting in task.grids.get(cell.method, ())
        if same and tried and cell.weights in (None, checksum):
            cells.append(cell)
    return cells


def _print(rows: Sequence[Row]) -> None:
    for task in dict.fromkeys(row.task for row in rows):
        names = TASKS[task].names
        print(f"\n{TASKS[task].title}, {TASKS[task].seconds:g} s a run; mean ± standard error")
        lines = [
            [row.method, told(row.setting, row.method, task), f"{row.steps:,.0f}"]
            + [row.text(n) for n in names]
            for row in rows
            if row.task == task
        ]
        print(table(["method", "setting", "steps", *names.values()], lines))


def _print_verdicts(found: Sequence[dict[str, Any]]) -> None:
    lines = [
        [f"{v['task']}: {v['method']}"]
        + [
            f"{v[name]['verdict']} ({v[name]['difference']:+.3f} ± {v[name]['error']:.3f})"
            if name in v
            else "–"
            for name in ("score", "leak")
        ]
        for v in found
    ]
    if lines:
        print("\nours against, same seeds, a win or a loss where 95 % exclude zero")
        print(table(["", "score", "leak"], lines))


if __name__ == "__main__":
    main()
