"""Writes the tables of README and model card from results/*.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from experiments.report import RESULTS, number

__all__ = ["main"]

START, END = "<!-- RESULTS: start -->", "<!-- RESULTS: end -->"
DOCUMENTS = ("README.md", "pretrained/MODEL_CARD.md")


def main() -> None:
    """Replaces what stands between the marks in each document."""
    text = "\n\n".join(part for part in (_benchmark(), _gradients()) if part)
    for name in DOCUMENTS:
        path = RESULTS.parent / name
        before, rest = path.read_text().split(START)
        path.write_text(f"{before}{START}\n\n{text}\n\n{END}{rest.split(END)[1]}")
        print("wrote", name)


def _benchmark() -> str:
    content = _read("bmi.json")
    if content is None:
        return ""
    rows = [
        [r["method"], f"{r['n']:,}", f"{r['group']} ({r['tasks']})"]
        + [number(r[key], sign=key in ("bias", "null", "fresh")) for key in COLUMNS]
        for r in content["summary"]
    ]
    head = ["method", "n", "tasks", *COLUMNS.values()]
    return (
        "Tasks of the BMI benchmark (Czyż et al., 2023), nats; `python -m experiments.bmi`"
        f" {_origin(content)}. The control is the bias-corrected Gaussian copula. *Null* is the"
        " mean estimate with the pairing broken, where the truth is zero; *fresh* the mean error"
        " of the critic's bound at pairs it has not seen: where it is far below zero, the"
        f" in-sample estimate leans on overfitting.\n\n{_markdown(head, rows)}"
    )


COLUMNS = {
    "mae": "MAE",
    "bias": "bias",
    "spread": "seed s.d.",
    "null": "null",
    "fresh": "fresh",
    "seconds": "seconds",
}


def _gradients() -> str:
    content = _read("gradients.json")
    if content is None:
        return ""
    settings = content["settings"]
    rows = [
        [
            f"maximise: hidden {name} direction",
            f"{sum(v > 0.9 for v in values)} of {len(values)}",
            f"overlap > 0.9; median {number(sorted(values)[len(values) // 2])}",
        ]
        for name, values in content["overlaps"].items()
    ]
    for name, found in content["removals"].items():
        r2, error = (max(r[key] for r in found) for key in ("probe_r2", "error"))
        said = f"worst of {len(found)}: probe R² {number(r2)}, reconstruction error {number(error)}"
        rows.append([f"minimise, {name}", "", f"{said}, optimum {number(found[0]['optimum'])}"])
    return (
        f"Gradients at n = {settings['n']}, {settings['steps']} steps to maximise,"
        f" {settings['removal_steps']} to minimise; `python -m experiments.gradients`"
        f" {_origin(content)}.\n\n{_markdown(['task', 'seeds', 'outcome'], rows)}"
    )


def _origin(content: dict[str, Any]) -> str:
    hardware, seeds = content["hardware"], content["settings"]["seeds"]
    seeds = len(seeds) if isinstance(seeds, list) else seeds
    return (
        f"({seeds} seeds from 0; {hardware['processor']}, {hardware['torch_threads']} thread(s);"
        f" weights {content['weights']['sha256'][:12]}, "
        f"{content['weights']['header']['steps']:,} steps)"
    )


def _read(name: str) -> dict[str, Any] | None:
    path: Path = RESULTS / name
    return json.loads(path.read_text()) if path.exists() else None


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    main()
