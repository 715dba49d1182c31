"""Compare FlashMI with baselines on the BMI benchmark: `python -m experiments.bmi`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import reduce
from pathlib import Path
from typing import Any

from tqdm import tqdm

from experiments.baselines import BASELINES
from experiments.bmi.evaluate import Cell, Summary, run_baseline, run_ours, summarise
from experiments.bmi.plot import draw_results
from experiments.bmi.tasks import NARROW_WIDTH, TASKS, Task
from experiments.report import (
    RESULTS,
    circumstances,
    describe_weights,
    number,
    table,
    write_json,
)
from flashmi_reg import FlashMI


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m experiments.bmi", description=__doc__)
    parser.add_argument("--n", type=int, nargs="+", default=[1000], help="sample sizes")
    parser.add_argument("--seeds", type=int, default=3, help="data sets of each task and n")
    parser.add_argument(
        "--subset",
        choices=["narrow", "wide", "all"],
        default="all",
        help=f"narrow tasks have at most {NARROW_WIDTH} joint dimensions",
    )
    parser.add_argument(
        "--baselines",
        nargs="*",
        choices=list(BASELINES),
        default=["control"],
        metavar="NAME",
        help=f"any of {', '.join(BASELINES)}",
    )
    parser.add_argument("--weights", default="base", help="packaged name or .safetensors file")
    parser.add_argument("--no-ours", action="store_true", help="run the baselines alone")
    parser.add_argument(
        "--reuse",
        action="store_true",
        help="take baseline estimates from the last results where task, n and seeds are the same",
    )
    parser.add_argument(
        "--keep",
        action="store_true",
        help="leave in the results what this run does not estimate anew: other n, other methods",
    )
    parser.add_argument(
        "--add", type=Path, nargs="*", default=[], metavar="FILE", help="results to join to those"
    )
    parser.add_argument("--out", type=Path, default=RESULTS / "bmi.json", help="the JSON file")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the comparison, print its tables, write JSON and picture."""
    options = parse(arguments)
    tasks = [t for t in TASKS.values() if options.subset in ("all", _kind(t))]
    model = None if options.no_ours else FlashMI.from_pretrained(options.weights)
    last = _read(options.out)
    known = _known(last, options.seeds) if options.reuse else {}
    methods = ([] if model is None else ["ours"]) + options.baselines
    if model is not None:
        run_ours(model, tasks[0], 128, 1)  # the first call pays for one-time set-up

    cells: list[Cell] = []
    work = [(n, method, task) for n in options.n for method in methods for task in tasks]
    with tqdm(work, unit="cell", dynamic_ncols=True) as bar:
        for n, method, task in bar:
            bar.set_description(f"n={n} {method} {task.name[:24]}")
            if method == "ours" and model is not None:
                cell = run_ours(model, task, n, options.seeds)
            else:
                cell = known.get((method, task.name, n)) or run_baseline(
                    method, BASELINES[method], task, n, options.seeds
                )
            cells.append(cell)

    for n in options.n:
        print(f"\nn = {n:,}, {options.seeds} seeds; mean estimate and its error, nats")
        print(_task_table([cell for cell in cells if cell.n == n], methods))
    content = {
        "settings": {"n": options.n, "seeds": list(range(options.seeds)), "subset": options.subset},
        "weights": None if model is None else describe_weights(model, options.weights),
        **circumstances("scipy"),
        "baselines": {name: repr(BASELINES[name]) for name in options.baselines},
    }
    content["cells"] = [asdict(cell) for cell in cells]
    added = [json.loads(path.read_text()) for path in options.add]
    content = reduce(_merged, [*([last] if options.keep and last else []), *added, content])
    cells = [_cell(found) for found in content["cells"]]
    summaries = summarise(cells)
    content["summary"] = [summary._asdict() for summary in summaries]
    print()
    print(_summary_table(summaries))
    print("null: mean estimate with the pairing broken (truth 0); ", end="")
    print("fresh: mean error of the critic's bound at new pairs")
    picture = draw_results(options.out.with_suffix(".png"), cells, summaries)
    print(f"\nwrote {write_json(options.out, content).name} and {picture.name}")


def _kind(task: Task) -> str:
    return "narrow" if task.narrow else "wide"


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.is_file() else {}


def _known(last: dict[str, Any], seeds: int) -> dict[tuple[str, str, int], Cell]:
    return {
        (cell.method, cell.task, cell.n): cell
        for cell in map(_cell, last.get("cells", []))
        if cell.method != "ours" and len(cell.values) == seeds
    }


def _cell(content: dict[str, Any]) -> Cell:
    lists = {name: tuple(content[name]) for name in ("values", "nulls", "fresh")}
    return Cell(**(content | lists))


def _merged(last: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The last results with new ones in their place; of other weights than the new, none stay."""
    old = last["cells"]
    checksums = {found["weights"]["sha256"] for found in (last, new) if found["weights"]}
    if len(checksums) > 1:
        old = [cell for cell in old if cell["method"] != "ours"]
    keyed = {(cell["method"], cell["task"], cell["n"]): cell for cell in [*old, *new["cells"]]}
    before, settings = last["settings"], new["settings"]
    return new | {
        "settings": {
            "n": sorted({*before["n"], *settings["n"]}),
            "seeds": max(before["seeds"], settings["seeds"], key=len),
            "subset": before["subset"] if before["subset"] == settings["subset"] else "all",
        },
        "weights": new["weights"] or last["weights"],
        "baselines": last["baselines"] | new["baselines"],
        "cells": sorted(keyed.values(), key=lambda cell: cell["n"]),
    }


def _task_table(cells: Sequence[Cell], methods: Sequence[str]) -> str:
    by_key = {(cell.task, cell.method): cell for cell in cells}
    head = ["task", "truth"] + [text for method in methods for text in (method, "error")]
    rows = []
    for name in dict.fromkeys(cell.task for cell in cells):
        row = [name, number(TASKS[name].mi)]
        for method in methods:
            cell = by_key[name, method]
            row += [number(cell.mean), number(cell.bias, sign=True)]
        rows.append(row)
    return table(head, rows)


def _summary_table(summaries: Sequence[Summary]) -> str:
    head = ["method", "n", "tasks", "seeds", "MAE", "bias", "seed s.d.", "null", "fresh", "seconds"]
    rows = [
        [
            s.method,
            f"{s.n:,}",
            f"{s.group} ({s.tasks})",
            str(s.seeds),
            number(s.mae),
            number(s.bias, sign=True),
            number(s.spread),
            number(s.null, sign=True),
            number(s.fresh, sign=True),
            number(s.seconds, 4),
        ]
        for s in summaries
    ]
    return table(head, rows)


if __name__ == "__main__":
    main()
