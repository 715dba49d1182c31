"""Index errors of key-state extractors: `python -m experiments.key_states DATA`.

DATA is a folder with TASK.npz files of `flashmi maniskill collect`, or with ManiSkill's
TASK.motionplanning.h5. Writes results/key_states.json and .png; rows already there are kept unless
asked for again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from experiments.key_states.events import EVENTS, TASKS, event_places, load_task, observed, warp
from experiments.key_states.extractors import EXTRACTORS, key_times
from experiments.key_states.figure import draw
from experiments.report import RESULTS, circumstances, describe_weights, number, table, write_json
from flashmi_reg import FlashMI
from flashmi_reg.integrations.maniskill import Demonstration
from flashmi_reg.integrations.maniskill.readers import WEIGHTS

__all__ = ["main"]

WARP_SEED = 0
PACES = ("recorded", "warped")


def extract(name: str, demos: Sequence[Demonstration], count: int, seed: int) -> dict[str, Any]:
    """Places of the key states, shape (demos, count), and what it cost to find them."""
    wall, busy = time.perf_counter(), time.process_time()
    times = key_times(name, demos, count, seed)
    cost = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - busy}
    places = [t / (len(d) - 1) for t, d in zip(times, demos, strict=True)]
    return {"places": torch.stack(places)} | cost


def errors(places: Tensor, events: Tensor) -> dict[str, Any]:
    """Index errors as shares of the length: of the k-th key state from the k-th event.

    `searched` leaves out the last, which is the end for every extractor; `follow` is the
    correlation of a key state's place with its event's over demonstrations.
    """
    gap = (places - events).abs()
    return {
        "median": float(gap.median()),
        "searched": float(gap[:, :-1].median()),
        "each": gap.median(0).values.tolist(),
        "follow": [_correlation(p, e) for p, e in zip(places.T[:-1], events.T[:-1], strict=True)],
    }


def _correlation(a: Tensor, b: Tensor) -> float:
    if a.std() < 0.01 or b.std() == 0:  # the clock, but for rounding to whole steps
        return 0.0
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1])


def main(argv: list[str] | None = None) -> None:
    """Command line of the experiment."""
    parser = argparse.ArgumentParser(prog="python -m experiments.key_states")
    parser.add_argument("data", type=Path, help="folder with demonstrations")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--paces", nargs="+", choices=PACES, default=list(PACES))
    parser.add_argument("--extractors", nargs="+", choices=EXTRACTORS, default=list(EXTRACTORS))
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each extractor")
    parser.add_argument("--out", type=Path, default=RESULTS / "key_states.json")
    chosen = parser.parse_args(argv)
    content = json.loads(chosen.out.read_text()) if chosen.out.is_file() else {"rows": []}
    content |= circumstances("h5py")
    content["weights"] = describe_weights(FlashMI.from_pretrained(WEIGHTS), WEIGHTS)
    content["settings"] = {
        "events": EVENTS,
        "warp_seed": WARP_SEED,
        "left_out": "is_grasped of PickCube's observation",
    }
    for task in chosen.tasks:
        recorded = load_task(chosen.data, task)
        recorded = [observed(task, d) for d in recorded]
        for pace in chosen.paces:
            demos = warp(recorded, WARP_SEED) if pace == "warped" else recorded
            events = torch.stack([event_places(task, d) for d in demos])
            seeds = {n: 1 if EXTRACTORS[n] is None else chosen.seeds for n in chosen.extractors}
            runs = [(name, seed) for name, count in seeds.items() for seed in range(count)]
            for name, seed in tqdm(runs, desc=f"{task}, {pace}", unit="fit", disable=None):
                row = {"task": task, "pace": pace, "extractor": name, "seed": seed}
                found = extract(name, demos, len(EVENTS[task]), seed)
                content["rows"] = [r for r in content["rows"] if not row.items() <= r.items()]
                cost = {key: found[key] for key in ("seconds", "cpu_seconds")}
                row |= {"demonstrations": len(demos)} | errors(found["places"], events) | cost
                content["rows"].append(row)
                write_json(chosen.out, content)  # what an interruption leaves is whole
    print("wrote", chosen.out.name)
    print(_table(content["rows"]))
    draw(content["rows"], chosen.out.with_suffix(".png"))


def _table(rows: Sequence[dict[str, Any]]) -> str:
    """Means over the seeds; of the searched key states also the worst seed."""
    head = ["task", "pace", "extractor", "all", "searched", "worst", "each event", "follows"]
    head.append("CPU s")
    keys = ("task", "pace", "extractor")
    lines = []
    for cell in dict.fromkeys(tuple(r[key] for key in keys) for r in rows):
        found = [r for r in rows if tuple(r[key] for key in keys) == cell]
        lines.append(
            [
                *cell,
                number(_mean([r["median"] for r in found])),
                number(_mean([r["searched"] for r in found])),
                number(max(r["searched"] for r in found)),
                " ".join(number(_mean(v)) for v in zip(*(r["each"] for r in found), strict=True)),
                " ".join(
                    number(_mean(v), 2) for v in zip(*(r["follow"] for r in found), strict=True)
                ),
                number(_mean([r["cpu_seconds"] for r in found]), 1),
            ]
        )
    return table(head, lines)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


if __name__ == "__main__":
    main()
