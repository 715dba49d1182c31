"""All pairs of 90 columns: seconds, memory and error beside scikit-learn and KSG, in one run.

`python -m experiments.all_pairs` writes results/all_pairs.json and prints a table. The columns are
of a Gaussian factor model, every third of them cubed, which leaves all informations as they are, so
that each pair's is known. The slower methods are timed on a random sample of the pairs, whose
seconds are scaled up to all; errors are compared on these pairs. Processor seconds do not grow when
the machine has other work.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from experiments.baselines import KSG
from experiments.report import RESULTS, circumstances, describe_weights, number, table, write_json
from flashmi_reg import FlashMI, mutual_information_matrix
from flashmi_reg.errors import SupportWarning
from flashmi_reg.matrix import estimate_pairs, places_of

__all__ = ["draw", "main", "measure"]

FACTORS = 6
NEIGHBOURS = 3


def draw(columns: int, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Samples, shape (n, columns), and the exact informations of all pairs, NaN on the diagonal."""
    loadings = torch.randn(columns, FACTORS, generator=generator, dtype=torch.float64)
    # Columns of few and of many factors: pairs from independent to over a nat.
    loadings *= torch.rand(columns, FACTORS, generator=generator) < 0.4
    own = 0.2 + torch.rand(columns, generator=generator, dtype=torch.float64)
    covariance = loadings @ loadings.mT + own.diag()
    x = torch.randn(n, columns, generator=generator, dtype=torch.float64)
    x = x @ torch.linalg.cholesky(covariance).mT
    x[:, ::3] = x[:, ::3] ** 3
    scale = covariance.diagonal().sqrt()
    correlation = (covariance / scale / scale[:, None]).clamp(-1, 1)
    return x.float(), (-0.5 * torch.log1p(-correlation.square())).fill_diagonal_(torch.nan)


def peak_gib() -> float:
    """The most memory that this process has held so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2 ** (30 if sys.platform == "darwin" else 20)


def timed(action: Callable[[], Any]) -> tuple[Any, float, float]:
    """The result of an action, and its wall-clock and processor seconds."""
    wall, processor = time.perf_counter(), time.process_time()
    found = action()
    return found, time.perf_counter() - wall, time.process_time() - processor


def scikit_learn(x: Tensor, pairs: list[tuple[int, int]]) -> list[float]:
    """`mutual_info_regression` of each pair; a call tells one column of another."""
    from sklearn.feature_selection import mutual_info_regression

    data = x.double().numpy()
    found = []
    for i, j in tqdm(pairs, desc="scikit-learn", leave=False, disable=None):
        value = mutual_info_regression(
            data[:, [i]], data[:, j], n_neighbors=NEIGHBOURS, random_state=0
        )
        found.append(float(value[0]))
    return found


def ksg(x: Tensor, pairs: list[tuple[int, int]]) -> list[float]:
    """The nearest-neighbour estimate of each pair."""
    estimator = KSG(NEIGHBOURS)
    return [
        estimator(x[:, [i]], x[:, [j]]).value
        for i, j in tqdm(pairs, desc="KSG", leave=False, disable=None)
    ]


def ours(model: FlashMI, x: Tensor, pairs: list[tuple[int, int]]) -> list[float]:
    """The estimates of some pairs, as the matrix makes them."""
    with torch.no_grad():
        found = estimate_pairs(model, x, [((i,), (j,)) for i, j in pairs], seed=0)
    return [float(value) for value in found.values]


def measure(
    model: FlashMI, columns: int, n: int, sampled: int, *, whole: bool, seed: int = 0
) -> dict[str, Any]:
    """Time the methods and compare their errors.

    Args:
        model: the estimator.
        columns: number of variables.
        n: number of samples.
        sampled: pairs on which the slower methods are timed and all are compared.
        whole: whether our matrix is made of all pairs, or its time scaled up from the sample too.
        seed: of samples and choice of pairs.
    """
    generator = torch.Generator().manual_seed(seed)
    x, truth = draw(columns, n, generator)
    places = places_of(columns)
    order = torch.randperm(len(places), generator=generator)[:sampled].tolist()
    chosen = sorted(places[k] for k in order)
    exact = torch.tensor([float(truth[i, j]) for i, j in chosen])
    ours(model, x, chosen[:1])  # what happens once is not timed
    before = peak_gib()
    if whole:
        matrix, wall, processor = timed(lambda: mutual_information_matrix(x, model=model))
        values = [float(matrix[i, j]) for i, j in chosen]
    else:
        values, wall, processor = timed(lambda: ours(model, x, chosen))
    peak = peak_gib()
    rows = [_row("flashmi_reg", values, exact, wall, processor, len(places), whole, len(chosen))]
    for name, method in (("scikit-learn", scikit_learn), ("KSG", ksg)):
        method(x, chosen[:1])
        values, wall, processor = timed(lambda method=method: method(x, chosen))  # type: ignore[misc]
        rows.append(_row(name, values, exact, wall, processor, len(places), False, len(chosen)))
    for row in rows:
        row["times_ours"] = row["processor_seconds"] / rows[0]["processor_seconds"]
    return {
        "pairs": len(places),
        "mean_information": float(exact.mean()),
        "peak_gib": {"before": before, "after": peak},
        "methods": rows,
    }


def _row(
    name: str,
    values: list[float],
    exact: Tensor,
    wall: float,
    processor: float,
    pairs: int,
    whole: bool,
    sampled: int,
) -> dict[str, Any]:
    factor = 1.0 if whole else pairs / sampled
    return {
        "method": name,
        "timed_pairs": pairs if whole else sampled,
        "wall_seconds": wall * factor,
        "processor_seconds": processor * factor,
        "mean_absolute_error": float((torch.tensor(values) - exact).abs().mean()),
    }


def main(argv: list[str] | None = None) -> None:
    """Command line of the experiment."""
    parser = argparse.ArgumentParser(prog="python -m experiments.all_pairs")
    parser.add_argument("--columns", type=int, default=90)
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--sampled", type=int, default=400, help="pairs of the slower methods")
    parser.add_argument(
        "--part", action="store_true", help="scale our own seconds up from the sample too"
    )
    parser.add_argument("--weights", default="base", help="packaged name or .safetensors file")
    parser.add_argument("--out", type=Path, default=RESULTS / "all_pairs.json")
    chosen = parser.parse_args(argv)
    warnings.simplefilter("ignore", SupportWarning)
    model = FlashMI.from_pretrained(chosen.weights)
    found = measure(model, chosen.columns, chosen.n, chosen.sampled, whole=not chosen.part)
    pairs = found["pairs"]
    print(f"{pairs:,} pairs of {chosen.columns} columns, n = {chosen.n:,}")
    print(f"mean I = {found['mean_information']:.3f} nats of the pairs compared\n")
    rows = [
        [
            row["method"],
            f"{row['timed_pairs']:,}",
            number(row["wall_seconds"], 1),
            number(row["processor_seconds"], 1),
            f"{row['times_ours']:.2g}×",
            number(row["mean_absolute_error"]),
        ]
        for row in found["methods"]
    ]
    head = ["method", "pairs timed", "s, all pairs", "processor s", "of ours", "mean |error|"]
    print(table(head, rows))
    peak = found["peak_gib"]
    print(f"\nmemory: {peak['before']:.2f} GiB before the matrix, {peak['after']:.2f} at its peak")
    content = {
        "settings": {"columns": chosen.columns, "n": chosen.n, "sampled": chosen.sampled},
        "weights": describe_weights(model, chosen.weights),
        **found,
    }
    print("wrote", write_json(chosen.out, content | circumstances("scikit-learn", "scipy")).name)


if __name__ == "__main__":
    main()
