"""Writes the tables of README, model card and docs: `python -m experiments.summary`."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

from experiments import (
    independence_tests,
    invariance,
    paper_table,
    small_batches,
    speed,
    truths,
)
from experiments.bmi import proximity
from experiments.key_states import summary as key_states
from experiments.regularisers import summary as regularisers
from experiments.report import RESULTS, markdown_table, number, origin

__all__ = ["main"]

HOW_TO = "docs/add_a_term.md"
UNTRAINED = "bmi_untrained.json"
TOLD = (1000, 5000)
COLUMNS = {
    "bias": "bias",
    "spread": "seed s.d.",
    "null": "null",
    "fresh": "fresh",
}


def main() -> None:
    """Replaces what stands between the marks in each document."""
    benchmark, known, coverage = _benchmark(), truths.markdown(), _coverage()
    times, uses = speed.markdown(), regularisers.headline()
    of_weights = (
        benchmark,
        paper_table.markdown(),
        known,
        _independence(),
        invariance.markdown(),
        independence_tests.markdown(),
        _labels(),
        coverage,
        _gradients(),
        times,
    )
    of_uses = (_all_pairs(), uses, _newsgroups(), key_states.markdown())
    _write("docs/results.md", "RESULTS", *of_weights, *of_uses)
    _write("README.md", "RESULTS", benchmark, times, uses)
    of_training = (proximity.markdown(), _pretraining())
    _write("pretrained/MODEL_CARD.md", "RESULTS", benchmark, known, coverage, *of_training)
    _write(HOW_TO, "SMALL BATCHES", small_batches.markdown())
    _write(HOW_TO, "LOSSES IN USE", regularisers.markdown())


def _write(name: str, mark: str, *parts: str) -> None:
    """Replaces what stands between the marks of a document."""
    text = "\n\n".join(parts)
    start, end = (f"<!-- {mark}: {side} -->" for side in ("start", "end"))
    path = RESULTS.parent / name
    before, rest = path.read_text().split(start)
    path.write_text(f"{before}{start}\n\n{text}\n\n{end}{rest.split(end)[1]}")
    print("wrote", name)


def _benchmark() -> str:
    content, small = _read("bmi.json"), _read("bmi_small.json")
    summary = [*content["summary"]]
    for name, others in (("small", small), ("untrained", _read(UNTRAINED))):
        summary += [r | {"method": name} for r in others["summary"] if r["method"] == "ours"]
    sizes = sorted({r["n"] for r in summary})
    errors = {(r["group"], r["method"], r["n"]): number(r["mae"]) for r in summary}
    kinds = dict.fromkeys((r["group"], r["method"]) for r in summary)
    order = {"narrow": 0, "wide": 1, "all": 2}
    rows = [
        [group, method, *(errors.get((group, method, n), "–") for n in sizes)]
        for group, method in sorted(kinds, key=lambda kind: order[kind[0]])
    ]
    told = [
        [r["method"], f"{r['n']:,}", str(r.get("seeds", "–"))]
        + [number(r[key], sign=key != "spread") for key in COLUMNS]
        for r in sorted(summary, key=lambda r: r["n"])
        if r["group"] == "narrow" and r["n"] in TOLD
    ]
    head = ["tasks", "method", *(f"n = {n:,}" for n in sizes)]
    return (
        "**BMI benchmark** (Czyż et al., 2023): mean absolute error in nats over 33 tasks of at"
        " most ten joint dimensions (narrow), 7 of 50 to 100 (wide; six at n = 250, where the"
        " seventh has too few samples) and all. `python -m experiments.bmi --n 100 250 500 1000"
        f" 2000 5000 10000 --seeds 5`, {_origin(content)}; the second table has the seeds of each"
        " method. Ours is `base`, small the network of that name (`--weights small --out"
        " results/bmi_small.json`), untrained `base` with random weights (`flashmi pretrain --steps"
        " 0 --seed 1`), control the Gaussian copula, its bias corrected to first order."
        f"\n\n{markdown_table(head, rows)}\n\n"
        "No task has zero information, so that overfitting alone lowers the error; *null* is the"
        " mean estimate with the pairing broken, where the truth is zero, and *fresh* the mean"
        " error of the critic's bound at pairs it has not seen. Narrow tasks. The settings of MINE"
        " were chosen by accuracy on other data of six of these tasks at n = 1,000 and 5,000; with"
        " them, or the part that helped, the other neural baselines did better than with their own"
        " on five of the tasks at n = 1,000. Time:"
        " `results/bmi_curves.png`; the seconds of ours are in part wall clock beside other work,"
        " and hence upper bounds, and those of MINE were taken on a busy machine, where a step took"
        " two to three times as long as on an idle one. MINE's nulls are of four or five tasks"
        " of the paper's table alone."
        f"\n\n{markdown_table(['method', 'n', 'seeds', *COLUMNS.values()], told)}"
    )


def _independence() -> str:
    content = _read("independence.json")
    settings = content["settings"]
    return (
        "**Independent Gaussian sides**, mean estimate in nats, truth zero:"
        f" `python -m experiments.independence --sets {settings['sets']}"
        f" --n {' '.join(map(str, settings['n']))}"
        f" --widths {' '.join(map(str, settings['widths']))}`, seed {settings['seed']},"
        f" {_origin(content)}.\n\n{markdown_table(content['head'], content['rows'])}"
    )


def _labels() -> str:
    content = _read("labels.json")
    settings, hardware = content["settings"], content["hardware"]
    found = defaultdict(list)
    for cell in content["cells"]:
        kind = "independent" if cell["family"] == "independent" else "dependent"
        found[cell["method"], cell["n"], kind] += cell["errors"]
    methods = dict.fromkeys(method for method, _, _ in found)
    rows = []
    for method in methods:
        row = [method]
        for n in settings["n"]:
            errors = found[method, n, "dependent"]
            error, bias = sum(map(abs, errors)) / len(errors), sum(errors) / len(errors)
            row.append(f"{number(error)} ({number(bias, sign=True)})")
        nulls = [found[method, n, "independent"] for n in settings["n"]]
        row += [", ".join(number(sum(v) / len(v), sign=True) for v in nulls)]
        rows.append(row)
    sizes = [f"n = {n:,}" for n in settings["n"]]
    families = len({cell["family"] for cell in content["cells"]}) - 1
    return (
        "**Class labels**, no part of the pretrained weights: `python -m experiments.labels --tasks"
        f" {settings['tasks']}`, seed {settings['seed']}, {hardware['processor']},"
        f" {hardware['torch_threads']} thread(s). Mean absolute error and bias, nats, of I(x; c)"
        f" over {families} families of classes; last, the mean estimate on independent labels"
        f" at each n.\n\n{markdown_table(['method', *sizes, 'independent'], rows)}"
    )


def _coverage() -> str:
    content = _read("coverage.json")
    settings = content["settings"]
    flags = ("sets", "seed", "bmi_seeds", "outside_seeds")
    command = " ".join(f"--{flag.replace('_', '-')} {settings[flag]}" for flag in flags)
    rows = [row for row in content["rows"] if row[0] in ("all families", "BMI, narrow")]
    return (
        "**Intervals** of nominally 90 %, calibrated without the family that is judged, on"
        f" {settings['sets']} data sets:"
        f" `python -m experiments.coverage {command}`, {_origin(content)}. Of estimates on"
        " independent sides"
        f" {content['below_null_level']:.0%} stay below the null level, nominally 95 %.\n\n"
        f"{markdown_table(content['head'], rows)}\n\n"
        "Warnings on the prior's own data (inside) and on data built to be outside:\n\n"
        f"{markdown_table(content['support_head'], content['support_rows'])}"
    )


def _gradients() -> str:
    content = _read("gradients.json")
    settings = content["settings"]
    rows = [
        [
            f"maximise: hidden {name} direction",
            f"{sum(v > 0.9 for v in values)} of {len(values)} with overlap > 0.9",
            f"overlap: median {number(sorted(values)[len(values) // 2])}, least"
            f" {number(min(values))}",
        ]
        for name, values in content["overlaps"].items()
    ]
    for name, found in content["removals"].items():
        r2, error = (max(r[key] for r in found) for key in ("probe_r2", "error"))
        said = (
            f"probe R² {number(r2)}, error {number(error)} (optimum {number(found[0]['optimum'])})"
        )
        rows.append([f"minimise: nuisance, {name}", f"worst of {len(found)}", said])
    flags = ("seeds", "steps", "removals", "removal_steps")
    command = " ".join(f"--{flag.replace('_', '-')} {settings[flag]}" for flag in flags)
    return (
        f"**Gradients** at n = {settings['n']}: `python -m experiments.gradients {command}`,"
        f" {_origin(content)}.\n\n{markdown_table(['task', 'seeds from 0', 'outcome'], rows)}"
    )


def _all_pairs() -> str:
    content = _read("all_pairs.json")
    settings = content["settings"]
    rows = [
        [
            r["method"],
            f"{r['timed_pairs']:,}",
            number(r["wall_seconds"], 1),
            number(r["mean_absolute_error"]),
        ]
        for r in content["methods"]
    ]
    head = ["method", "pairs timed", "s, all pairs", "mean absolute error"]
    return (
        f"**All {content['pairs']:,} pairs** of {settings['columns']} columns, n ="
        f" {settings['n']:,}: `python -m experiments.all_pairs --weights small`,"
        f" {_origin(content)}.\n\n{markdown_table(head, rows)}"
    )


def _newsgroups() -> str:
    content = _read("ib_dynamics.json")
    settings, found = content["settings"], content["summary"][-1]
    rows = []
    for end in found["ends"]:
        accuracy, xz = (
            f"{number(end[key])} ± {number(end[key + '_sd'])}" for key in ("accuracy", "I_xz")
        )
        low, high = (number(value) for value in end["I_zy_range"])
        rows.append([f"{end['words']:,}", accuracy, f"{number(end['I_zy'])} ({low} to {high})", xz])
    agrees, apart = ("" if found[key] else "do not " for key in ("order_agrees", "bands_apart"))
    ours, control = (
        number(found[key]["pearson"]) for key in ("correlation", "correlation_of_control")
    )
    head = ["words", "validation accuracy", "I(z;y), nats (range)", "I(x;z), nats"]
    return (
        f"**20 Newsgroups**: `python -m experiments.ib_dynamics --weights {settings['weights']}"
        f" --jobs {settings['jobs']}`, {_origin(content)}. Layer {found['layer']} on validation"
        f" data, n = {settings['n_samples']:,}, {settings['n_slices']} projections to five"
        f" coordinates, {settings['repeats']} repeats of {settings['epochs']} epochs, seeds from"
        f" {settings['seed']}.\n\n{markdown_table(head, rows)}\n\n"
        f"Values of I(z;y) {agrees}order the vocabularies as accuracy does, and their ranges over"
        f" repeats {apart}lie apart; {found['above_ceiling']} points exceed H(y) ="
        f" {number(found['label_entropy'])} nats. Over {found['points_correlated']} points the"
        f" correlation with validation accuracy is {ours}; that of a control without an estimator,"
        f" H(y) minus the network's own cross-entropy, {control}. At the default cadence the"
        f" callback took {content['default_cadence']['overhead']:.1%} of the training time."
    )


def _pretraining() -> str:
    figures = {
        "error of the estimate": lambda r: r["mean_error"],
        "on independent sides": lambda r: r["error"]["independence"],
        "divergence at the pairs read": lambda r: _mean(r["nce"]),
        "divergence at fresh pairs": lambda r: _mean(r["fresh"]),
    }
    head = [""]
    rows = [[name] for name in figures]
    for weights, file in (("base", "pretraining.jsonl"), ("small", "pretraining_small.jsonl")):
        log = [json.loads(line) for line in (RESULTS / file).read_text().splitlines()]
        first, last = log[0], log[-1]
        head += [f"{weights}, before", f"after {last['step']:,} steps, {last['seconds']:,} s"]
        for row, pick in zip(rows, figures.values(), strict=True):
            row += [number(pick(r)) for r in (first, last)]
    return (
        "**Pretraining** (`results/pretraining.jsonl`, `results/pretraining_small.jsonl`, pictures"
        " beside them): mean over the families of the fixed validation set, nats, the averaged"
        f" weights, by the estimate as it was then (see the model card):"
        f"\n\n{markdown_table(head, rows)}"
    )


def _mean(values: dict[str, float]) -> float:
    return sum(values.values()) / len(values)


def _origin(content: dict[str, Any]) -> str:
    return origin(content["hardware"], content["weights"])


def _read(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / name).read_text())


if __name__ == "__main__":
    main()
