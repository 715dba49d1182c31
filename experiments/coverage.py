"""How often the 90 % interval holds the truth on families it was not calibrated on, and when the
support check warns.

`python -m experiments.coverage` writes results/coverage.json and .png and prints tables.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from experiments.bmi.evaluate import draw
from experiments.bmi.tasks import TASKS
from experiments.outside import OUTSIDE
from experiments.report import RESULTS, circumstances, describe_weights, number, table, write_json
from flashmi_reg import FlashMI
from flashmi_reg.calibration import Calibration
from flashmi_reg.pretrained.calibrate import (
    SIZES,
    Case,
    calibrate,
    covered,
    draw_cases,
    folds,
    observe_pair,
)
from flashmi_reg.uncertainty import ATYPICAL, uncertainty

__all__ = ["Coverage", "Warned", "benchmark_cases", "held_out", "main", "warned"]


@dataclass(frozen=True)
class Coverage:
    """How often intervals hold the truth.

    Attributes:
        group: the data.
        n: the sample size; None for all sizes.
        sets: the number of data sets.
        covered: the share of them whose interval holds the truth.
        too_low: the share whose truth lies above the interval.
        width: the median width of the intervals, in nats.
        error: the median absolute error of the estimates.
    """

    group: str
    n: int | None
    sets: int
    covered: float
    too_low: float
    width: float
    error: float


@dataclass(frozen=True)
class Warned:
    """How often data are warned of.

    Attributes:
        data: what they are.
        sets: the number of data sets.
        support: the share of them that the support score finds untypical.
        any: the share with a warning of any kind; None where only the score was taken.
    """

    data: str
    sets: int
    support: float
    any: float | None = None


def _coverage(group: str, cases: Sequence[tuple[Case, Calibration]]) -> list[Coverage]:
    found = []
    for n in (*SIZES, None):
        chosen = [pair for pair in cases if n is None or pair[0].seen.n == n]
        if not chosen:
            continue
        outcomes = [covered(case, calibration) for case, calibration in chosen]
        missed = [
            case.truth > float(uncertainty(case.seen, calibration).upper)
            for case, calibration in chosen
        ]
        found.append(
            Coverage(
                group,
                n,
                len(chosen),
                statistics.fmean(inside for inside, _ in outcomes),
                statistics.fmean(missed),
                statistics.median(width for _, width in outcomes),
                statistics.median(abs(case.error) for case, _ in chosen),
            )
        )
    return found


def held_out(cases: Sequence[Case]) -> list[Coverage]:
    """Coverage on each family by a calibration on all others, and over all families.

    Independence, without which there is no null level, is held out a fifth at a time.
    """
    pairs: list[tuple[Case, Calibration]] = []
    rows = []
    for family in sorted({case.family for case in cases}):
        mine = [case for case in cases if case.family == family]
        if family == "independence":
            tested = [pair for pair in _by_folds(cases) if pair[0].family == family]
        else:
            calibration = calibrate([case for case in cases if case.family != family])
            tested = [(case, calibration) for case in mine]
        rows += _coverage(family, tested)
        pairs += tested
    return rows + _coverage("all families", pairs)


def _by_folds(cases: Sequence[Case]) -> list[tuple[Case, Calibration]]:
    """Cases, each with a calibration that it was no part of."""
    return [
        (case, calibration)
        for kept, left_out in folds(cases)
        for calibration in [calibrate(kept)]
        for case in left_out
    ]


def benchmark_cases(model: FlashMI, seeds: int, sizes: Sequence[int]) -> list[Case]:
    """The narrow tasks of the BMI benchmark, on which nothing was calibrated."""
    tasks = [task for task in TASKS.values() if task.narrow]
    cases = []
    for task in tqdm(tasks, unit="task", disable=None):
        for n in sizes:
            x, y = (side.float() for side in draw(task, n, seeds))
            cases += [Case(seen, task.mi, task.name) for seen in observe_pair(model, x, y)]
    return cases


def warned(model: FlashMI, seeds: int, sizes: Sequence[int]) -> list[Warned]:
    """How often data outside the training prior are warned of."""
    rows = []
    for name, build in tqdm(OUTSIDE.items(), unit="kind", disable=None):
        scores, doubts = [], []
        for n in sizes:
            for seed in range(seeds):
                x, y = _single(*build(n, torch.Generator().manual_seed(seed)))
                found = model.estimate(x, y)
                assert found.support is not None
                scores.append(float(found.support) < ATYPICAL)
                doubts.append(bool(found.warnings))
        rows.append(Warned(name, len(scores), statistics.fmean(scores), statistics.fmean(doubts)))
    return rows


def _single(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return x.float(), y.float()


def _untypical(name: str, pairs: Sequence[tuple[Case, Calibration]]) -> Warned:
    scores = [float(uncertainty(case.seen, told).support) < ATYPICAL for case, told in pairs]
    return Warned(name, len(scores), statistics.fmean(scores))


def _below_null(pairs: Sequence[tuple[Case, Calibration]]) -> float:
    null = [(case, told) for case, told in pairs if case.family == "independence"]
    return statistics.fmean(
        float(case.seen.value) <= float(uncertainty(case.seen, told).null_level)
        for case, told in null
    )


def main(argv: list[str] | None = None) -> None:
    """Command line of the experiment."""
    parser = argparse.ArgumentParser(prog="python -m experiments.coverage")
    parser.add_argument("--weights", default="base", help="packaged name or .safetensors file")
    parser.add_argument("--sets", type=int, default=900, help="data sets of the prior")
    parser.add_argument("--seed", type=int, default=1, help="of these; calibration itself uses 0")
    parser.add_argument("--bmi-seeds", type=int, default=2, help="data sets of each task")
    parser.add_argument("--outside-seeds", type=int, default=3, help="data sets of each kind")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--out", type=Path, default=RESULTS / "coverage.json")
    chosen = parser.parse_args(argv)
    model = FlashMI.from_pretrained(chosen.weights)
    drawn = draw_cases(model, chosen.sets, chosen.seed)
    cases = list(tqdm(drawn, total=chosen.sets, unit="set", disable=None))
    rows = held_out(cases)
    calibration = calibrate(cases, chosen.seed)
    benchmark = benchmark_cases(model, chosen.bmi_seeds, chosen.sizes)
    rows += _coverage("BMI, narrow", [(case, calibration) for case in benchmark])
    calibrated = FlashMI(model._network, replace(model.header, calibration=calibration))
    inside = _by_folds(cases)
    rates = [
        _untypical("inside: the prior", inside),
        _untypical("BMI, narrow", [(case, calibration) for case in benchmark]),
        *warned(calibrated, chosen.outside_seeds, chosen.sizes),
    ]
    null = _below_null(inside)
    coverage_head = ["held out", "n", "sets", "covered", "too low", "median width", "median error"]
    coverage_rows = [
        [
            row.group,
            "all" if row.n is None else f"{row.n:,}",
            str(row.sets),
            f"{row.covered:.0%}",
            f"{row.too_low:.0%}",
            number(row.width),
            number(row.error),
        ]
        for row in rows
    ]
    support_head = ["data", "sets", "untypical", "any warning"]
    support_rows = [
        [r.data, str(r.sets), f"{r.support:.0%}", "–" if r.any is None else f"{r.any:.0%}"]
        for r in rates
    ]
    print(table(coverage_head, coverage_rows))
    print(table(support_head, support_rows))
    print(f"{null:.0%} of independent sides stay below the null level (nominal 95 %)")
    names = ("weights", "sets", "seed", "bmi_seeds", "outside_seeds", "sizes")
    content = {
        "settings": {name: str(vars(chosen)[name]) for name in names},
        "weights": describe_weights(model, chosen.weights),
        "coverage": [asdict(row) for row in rows],
        "support": [asdict(row) for row in rates],
        "below_null_level": null,
        "head": coverage_head,
        "rows": coverage_rows,
        "support_head": support_head,
        "support_rows": support_rows,
    }
    print("wrote", write_json(chosen.out, content | circumstances()).name)
    try:
        _draw(rows, rates, chosen.out.with_suffix(".png"))
    except ImportError:
        print("matplotlib is not installed: no figure")


def _draw(rows: Sequence[Coverage], rates: Sequence[Warned], path: Path) -> None:
    """Coverage by group and n, and the rates of warnings."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    groups = list(dict.fromkeys(row.group for row in rows))
    for n in SIZES:
        found = {row.group: row.covered for row in rows if row.n == n}
        places = [i for i, group in enumerate(groups) if group in found]
        left.plot([found[groups[i]] for i in places], places, "o", label=f"n = {n:,}", alpha=0.8)
    left.axvspan(0.85, 0.95, color="0.9", zorder=0)
    left.axvline(0.9, color="0.5", linewidth=1)
    left.set_yticks(range(len(groups)), groups)
    left.invert_yaxis()
    left.set_xlim(right=1.01)
    left.set_xlabel("share of intervals that hold the truth (nominal 0.9)")
    left.legend()
    places = range(len(rates))
    right.barh(places, [rate.any or 0 for rate in rates], color="0.8", label="any warning")
    right.barh(places, [rate.support for rate in rates], height=0.4, label="untypical")
    right.set_yticks(places, [rate.data for rate in rates])
    right.invert_yaxis()
    right.set_xlabel("share of data sets that are warned of")
    right.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
