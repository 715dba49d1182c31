"""The tables of the documents on key states, from results/key_states.json and its policies."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from experiments.key_states.events import TASKS
from experiments.report import RESULTS, markdown_table, number

__all__ = ["PAPER", "index_errors", "markdown", "speed", "successes"]

PAPER = {
    "none": ("66.0 / 60.0", "67.4 / 41.0", "38.6 / 9.3"),
    "MINE-100": ("86.4 / 81.0", "68.0 / 37.0", "55.0 / 13.5"),
    "MINE-1000": ("81.2 / 81.0", "61.2 / 37.0", "65.4 / 17.8"),
    "InfoNet": ("91.0 / 76.0", "63.0 / 27.0", "46.4 / 9.8"),
    "FlashMI": ("94.2 / 82.0", "68.2 / 37.0", "72.4 / 18.3"),
}
"""Success on seen / unseen starts in % on each of `TASKS` as FlashMI's paper reports it, with other
policies, a bigger budget and other demonstrations."""


def markdown(folder: Path = RESULTS) -> str:
    """All tables: index errors, time, and success where policies were trained."""
    content = json.loads((folder / "key_states.json").read_text())
    hardware, weights = content["hardware"], content["weights"]
    count = max(r["demonstrations"] for r in content["rows"])
    parts = [
        "**Key states of motion-planned demonstrations** against the events that the simulator"
        f" knows (`python -m experiments.key_states DEMONSTRATIONS`, {count} demonstrations a task,"
        f" {hardware['processor']}, one thread, weights {weights['name']} {weights['sha256'][:12]}"
        f" of {weights['header']['steps']:,} steps). Distance of the k-th key state from the k-th"
        " event as a share of the length, median over demonstrations, mean (worst) over seeds; the"
        " last key state is the end for all and is left out. Recorded / with the pace changed at"
        " random.",
        index_errors(content["rows"]),
        "The same schedule for each criterion and reader, CPU seconds for one extraction, as a"
        f" multiple of ours: {speed(content['rows'])}.",
    ]
    played = folder / "key_states_policy.json"
    if played.is_file():
        rows = json.loads(played.read_text())["rows"]
        episodes = sorted({r["episodes"] for r in rows})
        parts += [
            "**Success of cloned policies** on seen / unseen starts in %, mean ± standard deviation"
            f" over training seeds (`python -m experiments.key_states.rollouts`,"
            f" {_listed(episodes)} episodes of each kind a training). Every arm has the same"
            f" network, {_listed(sorted({r['steps'] for r in rows}))} steps of training,"
            f" demonstrations and disturbed replays of them ({_demonstrations(rows)}). The paper's"
            " figures are of other policies, trained for far longer: compare within a column only.",
            successes(rows),
        ]
    return "\n\n".join(parts)


def index_errors(rows: Sequence[dict[str, Any]]) -> str:
    """Extractors down, tasks across; recorded / warped."""
    tasks = _unique(r["task"] for r in rows)
    lines = []
    for name in _unique(r["extractor"] for r in rows):
        cells = []
        for task in tasks:
            halves = []
            for pace in ("recorded", "warped"):
                found = [
                    r["searched"]
                    for r in rows
                    if (r["task"], r["extractor"], r["pace"]) == (task, name, pace)
                ]
                worst = f" ({number(max(found))})" if len(found) > 1 else ""
                halves.append(number(fmean(found)) + worst if found else "–")
            cells.append(" / ".join(halves))
        lines.append([name, *cells])
    return markdown_table(["key states", *tasks], lines)


def speed(rows: Sequence[dict[str, Any]], ours: str = "ours, least") -> str:
    """Mean CPU seconds of each extractor over those of ours, on the sets that both have."""
    seconds = {}
    for name in _unique(r["extractor"] for r in rows):
        seconds[name] = {
            (r["task"], r["pace"]): r["cpu_seconds"] for r in rows if r["extractor"] == name
        }
    parts = []
    for name, found in seconds.items():
        shared = [key for key in found if key in seconds[ours]]
        if name in ("uniform", ours) or not shared:
            continue
        ratio = fmean(found[key] / seconds[ours][key] for key in shared)
        parts.append(f"{name} {number(ratio, 1)}")
    parts.append(f"ours itself {number(fmean(seconds[ours].values()), 2)} s")
    return ", ".join(parts)


def successes(rows: Sequence[dict[str, Any]]) -> str:
    """Arms down, tasks across; seen / unseen, with the number of trainings."""
    tasks = _unique(r["task"] for r in rows)
    lines = []
    for arm in _unique(r["arm"] for r in rows):
        cells = []
        for task in tasks:
            found = [r for r in rows if (r["task"], r["arm"]) == (task, arm)]
            both = [_spread([100 * r[kind] for r in found]) for kind in ("seen", "unseen")]
            cells.append(f"{' / '.join(both)} ({len(found)})" if found else "–")
        lines.append([arm, *cells])
    for arm, cells in PAPER.items():
        lines.append([f"paper: {arm}", *(cells[TASKS.index(task)] for task in tasks)])
    return markdown_table(["key states", *tasks], lines)


def _spread(values: Sequence[float]) -> str:
    if len(values) < 2:
        return "".join(f"{value:.0f}" for value in values)
    return f"{fmean(values):.0f} ± {stdev(values):.0f}"


def _demonstrations(rows: Sequence[dict[str, Any]]) -> str:
    counts = {r["task"]: f"{r['demonstrations']} + {r['replays']}" for r in rows}
    return ", ".join(f"{task} {count}" for task, count in counts.items())


def _listed(values: Sequence[int]) -> str:
    return " or ".join(f"{value:,}" for value in values)


def _unique(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


if __name__ == "__main__":
    print(markdown())
