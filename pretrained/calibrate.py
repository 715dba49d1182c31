"""Calibration of weights: `python -m flashmi_reg.pretrained.calibrate --weights base`.

Estimates are compared with the exact information of data sets that training has not seen; what
their errors are is written into the file of the weights, whose tensors stay as they are.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from flashmi_reg.calibration import NOMINAL, Calibration, Calm
from flashmi_reg.checkpoint import load_weights, save_weights, weights_path
from flashmi_reg.errors import FlashMIError
from flashmi_reg.model import FlashMI
from flashmi_reg.support import distance_from, size_terms
from flashmi_reg.uncertainty import (
    Observation,
    above_terms,
    below_terms,
    null_level,
    null_terms,
    observe,
    uncertainty,
)

from .prior import Prior
from .prior.base import DataSets
from .prior.draws import coin, integer, log_uniform

__all__ = [
    "SIZES",
    "Case",
    "calibrate",
    "covered",
    "draw_cases",
    "folds",
    "main",
    "observe_pair",
]

SIZES = (100, 500, 2000)
"""Sample sizes at which coverage is told; half of the data sets are of one of them."""

# Far from the seeds of training and of validation.
SEED = 2**42
RANGE = (50.0, 8192.0)
# Independence gives the null level, and has no error to speak of: it is drawn apart.
NULL = "independence"
# Classes are no continuous variable and have an estimate of their own.
LEFT_OUT = ("labels",)
NULL_SHARE = 0.2
# Pairs beyond those read by which the information is averaged where it has no closed form.
PAIRS_FOR_TRUTH = 15_000
# Data sets of one kind and one size that are drawn and estimated from together.
GROUP = 3
# Data sets, at least, for numbers worth writing.
LEAST = 20
# Steps of reweighted least squares, and the least residual that they divide by.
ITERATIONS, SMALL = 200, 1e-4
LEVELS = 50


@dataclass(frozen=True)
class Case:
    """One data set: what is observed of it, and the truth.

    Attributes:
        seen: what is observed, a batch of one.
        truth: the information in nats.
        family: the name of its family.
    """

    seen: Observation
    truth: float
    family: str

    @property
    def error(self) -> float:
        """The truth minus the estimate."""
        return self.truth - float(self.seen.value)


@torch.no_grad()
def observe_pair(model: FlashMI, x: Tensor, y: Tensor) -> list[Observation]:
    """What is observed of data sets (b, n, dx) and (b, n, dy), one by one."""
    found, _ = model._estimate(x, y, None, "critic")
    seen = observe(found.value, found.optimism, found.data)
    return [
        Observation(
            value=seen.value[i : i + 1],
            optimism=seen.optimism[i : i + 1],
            nonlinear=seen.nonlinear[i : i + 1],
            surplus=seen.surplus[i : i + 1],
            widths=seen.widths[i : i + 1],
            n=seen.n,
            statistics=seen.statistics[i : i + 1],
        )
        for i in range(len(x))
    ]


def draw_cases(model: FlashMI, count: int, seed: int) -> Iterator[Case]:
    """Draws data sets of the prior, a fifth of them of independence, and estimates from them.

    Args:
        model: the estimator.
        count: number of data sets.
        seed: of the draws; every seed has data sets of its own.
    """
    prior = Prior()
    entries = [e for e in prior.entries if e.name not in (NULL, *LEFT_OUT)]
    weights = torch.tensor([entry.weight for entry in entries])
    weights = torch.cat([(1 - NULL_SHARE) * weights / weights.sum(), torch.tensor([NULL_SHARE])])
    names = [*(entry.name for entry in entries), NULL]
    done, group = 0, 0
    while done < count:
        generator = torch.Generator().manual_seed(SEED + 1_000_003 * seed + group)
        n = round(float(log_uniform((1,), *RANGE, generator=generator)))
        if coin(0.5, generator=generator):
            n = SIZES[integer(0, len(SIZES) - 1, generator=generator)]
        name = names[int(torch.multinomial(weights, 1, generator=generator))]
        batch = min(count - done, GROUP)
        sets = prior.sample_family(name, batch, n + PAIRS_FOR_TRUTH, generator=generator)
        seen = observe_pair(model, sets.x[:, :n], sets.y[:, :n])
        for one, truth in zip(seen, _information(sets), strict=True):
            yield Case(one, truth, name)
        done, group = done + batch, group + 1


def _information(sets: DataSets) -> list[float]:
    truth = sets.pmi().double().mean(-1) if sets.mi is None else sets.mi
    return [float(value) for value in truth]


def calibrate(cases: Sequence[Case], seed: int = 0) -> Calibration:
    """Finds the numbers of a calibration.

    Args:
        cases: data sets with their truth, some of them of independence.
        seed: for the record.

    Raises:
        FlashMIError: there are too few.
    """
    null = [case for case in cases if case.family == NULL]
    rest = [case for case in cases if case.family != NULL]
    if len(cases) < LEAST or len(null) < 2 or not rest:
        raise FlashMIError(
            f"`sets` must yield at least {LEAST} data sets, some of them of independence, received "
            f"{len(cases)} and {len(null)}: ask for more."
        )
    values = torch.cat([case.seen.value for case in null])
    terms = torch.cat([null_terms(case.seen.widths, case.seen.n) for case in null])
    spread = terms[:, 1]  # that of the estimate, to leading order
    partial = Calibration(
        below=(0.0,),
        above=(0.0,),
        null=_reach(terms, values, spread, 0.95),
        calm=_calm(cases),
        sets=len(cases),
        seed=seed,
    )
    tail = (1 + NOMINAL) / 2
    errors = torch.tensor([case.error for case in cases], dtype=torch.float64)
    levels = [null_level(case.seen.widths, case.seen.n, partial) for case in cases]
    below = torch.cat([below_terms(c.seen, level) for c, level in zip(cases, levels, strict=True)])
    above = torch.cat([above_terms(case.seen) for case in cases])
    spread = below[:, 0] + below[:, 2]
    # Missing fit is of the size of its signs; each counts by its share of it.
    missing = below[:, 0] + below[:, 1] + 3 * above[:, 2] + above[:, 3]
    return replace(
        partial,
        below=_reach(below, -errors, spread, tail),
        above=_reach(above, errors, missing, tail),
    )


def _reach(terms: Tensor, target: Tensor, spread: Tensor, share: float) -> tuple[float, ...]:
    """Weights, none negative, of a sum that `share` of the targets stay below.

    Quantile regression (Koenker & Bassett, 1978), by least squares that are reweighted until their
    squares are absolute values, of targets in units of their spread. A factor then makes the share
    that of a conformal quantile: of N targets, the ⌈share (N + 1)⌉-th.

    Args:
        terms: shape (N, K), none negative.
        target: shape (N,).
        spread: the size of the target's scatter, shape (N,).
        share: of targets to stay below.
    """
    size = terms.mean(0).clamp_min(1e-12)
    left = terms / size / spread[:, None]
    right = target / spread
    weights = torch.full_like(size, 1 / len(size))
    for _ in range(ITERATIONS):
        rest = right - left @ weights
        cost = torch.where(rest > 0, share, 1 - share) / rest.abs().clamp_min(SMALL)
        # A little of a ridge, as terms may be all but equal.
        matrix = (left * cost[:, None]).mT @ left
        matrix = matrix + 1e-6 * matrix.diagonal().mean() * torch.eye(len(size)).to(matrix)
        weights = _nonnegative(matrix, (left * cost[:, None]).mT @ right, weights)
    reach = left @ weights
    ratio = (right / reach.clamp_min(1e-12)).sort().values
    rank = min(len(ratio), math.ceil(share * (len(ratio) + 1)))
    factor = float(ratio[rank - 1].clamp_min(0))
    return tuple(float(f"{factor * w:.6g}") for w in weights / size)


def _nonnegative(matrix: Tensor, vector: Tensor, start: Tensor) -> Tensor:
    """Minimises w·matrix·w/2 − vector·w over w ≥ 0, coordinate by coordinate."""
    rows, right = matrix.tolist(), vector.tolist()
    weights = start.tolist()
    for _ in range(30):
        for i, row in enumerate(rows):
            slope = right[i] - sum(r * w for r, w in zip(row, weights, strict=True))
            weights[i] = max(0.0, weights[i] + slope / row[i])
    return torch.tensor(weights, dtype=start.dtype)


def _calm(cases: Sequence[Case]) -> Calm:
    """Mean of the statistics given the size, their covariance, and distances in its terms.

    The distances are those of data sets that were no part of mean and covariance.
    """
    distances = torch.cat(
        [
            distance_from(case.seen.statistics, case.seen.widths, case.seen.n, calm)
            for kept, left_out in folds(cases)
            for calm in [_spread_out(kept)]
            for case in left_out
        ]
    )
    steps = torch.linspace(0, 1, LEVELS + 1, dtype=distances.dtype)
    return replace(_spread_out(cases), levels=_rows(distances.quantile(steps)[None])[0])


def _spread_out(cases: Sequence[Case]) -> Calm:
    found = torch.cat([case.seen.statistics for case in cases])
    terms = torch.cat([size_terms(case.seen.widths, case.seen.n) for case in cases])
    ridge = 1e-6 * len(cases) * torch.eye(terms.shape[1], dtype=terms.dtype)
    centre = torch.linalg.solve(terms.mT @ terms + ridge, terms.mT @ found).mT
    rest = found - terms @ centre.mT
    covariance = rest.mT @ rest / len(rest)
    ridge = 1e-6 * covariance.diagonal().mean() * torch.eye(len(covariance)).to(covariance)
    factor = torch.linalg.cholesky(covariance + ridge)
    turn = torch.linalg.solve_triangular(factor, torch.eye(len(factor)).to(factor), upper=False)
    return Calm(_rows(centre), _rows(turn), (0.0, 1.0))


def folds(cases: Sequence[Case], count: int = 5) -> Iterator[tuple[list[Case], list[Case]]]:
    """Splits into what is kept and what is left out, so that each case is left out once.

    Groups, whose data sets are of one kind, stay together.
    """
    for fold in range(count):
        out = [i // GROUP % count == fold for i in range(len(cases))]
        yield (
            [case for case, left in zip(cases, out, strict=True) if not left],
            [case for case, left in zip(cases, out, strict=True) if left],
        )


def _rows(matrix: Tensor) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(f"{entry:.6g}") for entry in row) for row in matrix.tolist())


def covered(case: Case, calibration: Calibration) -> tuple[bool, float]:
    """Whether the interval covers the truth, and how wide it is, in nats."""
    told = uncertainty(case.seen, calibration)
    lower, upper = float(told.lower), float(told.upper)
    return lower <= case.truth <= upper, upper - lower


def _table(cases: Sequence[Case]) -> str:
    """Coverage by sample size and family of data sets that were no part of the calibration."""
    outcomes: dict[str, list[tuple[bool, float]]] = {}
    for kept, left_out in folds(cases):
        calibration = calibrate(kept)
        for case in left_out:
            n = case.seen.n
            size = "n < 200" if n < 200 else "n = 200…999" if n < 1000 else "n ≥ 1,000"
            for key in (size, case.family, "all"):
                outcomes.setdefault(key, []).append(covered(case, calibration))
    lines = [f"{'':18}  sets  covered  median width"]
    for key in sorted(outcomes, key=lambda k: (k == "all", not k.startswith("n "), k)):
        inside, widths = zip(*outcomes[key], strict=True)
        middle = statistics.median(widths)
        lines.append(f"{key:18} {len(inside):5}  {sum(inside) / len(inside):7.1%}  {middle:9.3f}")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Command line of the calibration."""
    parser = argparse.ArgumentParser(
        prog="python -m flashmi_reg.pretrained.calibrate",
        description="Find how far estimates are off, and write it into the file of the weights.",
    )
    parser.add_argument("--weights", default="base", help="packaged name or file")
    parser.add_argument("--out", type=Path, help="file to write; by default that of the weights")
    parser.add_argument("--sets", type=int, default=1200, help="data sets to estimate from")
    parser.add_argument("--seed", type=int, default=0, help="of these data sets")
    chosen = parser.parse_args(argv)
    path = weights_path(chosen.weights)
    model = FlashMI.from_pretrained(path)
    drawn = draw_cases(model, chosen.sets, chosen.seed)
    cases = list(tqdm(drawn, total=chosen.sets, unit="set", disable=None))
    calibration = calibrate(cases, chosen.seed)
    print(_table(cases))
    print(f"below {calibration.below}, above {calibration.above}, null {calibration.null}")
    state, header = load_weights(path)
    out = chosen.out or path
    save_weights(out, state, replace(header, calibration=calibration))
    print("wrote", out.name)


if __name__ == "__main__":
    main()
