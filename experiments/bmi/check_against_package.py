"""Compare the samplers and truths here with those of the `benchmark-mi` package, once.

The package needs old versions, so the check has two parts that run in two environments:

    python -m venv bmi-venv
    bmi-venv/bin/pip install "jax==0.4.30" "jaxlib==0.4.30" "numpy<2" "scipy<1.13" \
        "benchmark-mi==0.1.3"
    bmi-venv/bin/python experiments/bmi/check_against_package.py dump bmi.npz
    python -m experiments.bmi.check_against_package compare bmi.npz

The second writes results/bmi_check.json. Imports are local to each part for that reason.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

    from experiments.baselines import Baseline
    from experiments.bmi.tasks import Task

    Pair = tuple[Tensor, Tensor]
    Array = npt.NDArray[np.float64]

SAMPLES = 20_000
SEED = 20_231
TRUTH_TOLERANCE = 1e-6  # the package computes some truths in float32
P_VALUE = 1e-4  # least p-value of a task, corrected for the number of its comparisons
BLOCKS = 10  # disjoint parts of a sample, whose spread gives the sampling error of an estimate


def dump(path: Path) -> None:
    """Write truths and samples of the package's 40 tasks (in its own environment)."""
    from importlib.metadata import version

    from bmi.benchmark.task_list import BENCHMARK_TASKS_LIST  # type: ignore[import-not-found]

    content: dict[str, Any] = {
        "version": version("benchmark-mi"),
        "names": [task.id for task in BENCHMARK_TASKS_LIST],
        "truths": [float(task.mutual_information) for task in BENCHMARK_TASKS_LIST],
    }
    for k, task in enumerate(BENCHMARK_TASKS_LIST):
        print(task.id, file=sys.stderr)
        x, y = task.sample(SAMPLES, SEED + k)
        content[f"x{k}"] = np.asarray(x, dtype=np.float32)
        content[f"y{k}"] = np.asarray(y, dtype=np.float32)
    np.savez_compressed(path, **content)


def compare(path: Path) -> bool:
    """Compare the dump with the tasks here, write the result, and tell whether all agree."""
    from tqdm import tqdm

    from experiments.bmi.tasks import TASKS
    from experiments.report import RESULTS, circumstances, number, table, write_json

    with np.load(path) as theirs:
        names = theirs["names"].tolist()
        if names != list(TASKS):
            raise SystemExit(f"the names differ: {set(names) ^ set(TASKS)}")
        package = str(theirs["version"])
        tasks = {}
        for k, name in enumerate(tqdm(names, unit="task")):
            truth = float(theirs["truths"][k])
            x, y = (theirs[f"{side}{k}"].astype(np.float64) for side in "xy")
            tasks[name] = _compare_task(TASKS[name], truth, x, y)

    head = ["task", "Δ truth", "p", "Δ corr (σ)", "Δ copula", "p", "Δ KSG", "p", "agree"]
    rows = [
        [
            name,
            f"{found['truth_difference']:.1e}",
            number(found["p_value"], 4),
            number(found["correlation_z"], 1),
            *(
                text
                for name_of in ("copula", "ksg")
                for text in (
                    number(found[name_of]["here"] - found[name_of]["package"], sign=True),
                    number(found[name_of]["p_value"], 4),
                )
            ),
            "yes" if found["agrees"] else "NO",
        ]
        for name, found in tasks.items()
    ]
    print(table(head, rows))
    agree = sum(found["agrees"] for found in tasks.values())
    content = {
        "package": f"benchmark-mi {package}",
        "samples": SAMPLES,
        "seed": SEED,
        "criteria": {
            "truth_difference": TRUTH_TOLERANCE,
            "p_value": P_VALUE,
            "p_value_is": "least two-sample Kolmogorov–Smirnov p over all coordinates, 24 random "
            "projections of the joint normal scores and three norms, times their number",
            "copula_and_ksg_are": f"means over {BLOCKS} disjoint blocks, with Welch's p times 2",
            "correlation_z_is": "greatest difference of two correlations of normal scores, or of "
            "their squares, in standard errors of Gaussian data; shown, no criterion",
        },
        "agree": agree,
        **circumstances("scipy"),
        "tasks": tasks,
    }
    written = write_json(RESULTS / "bmi_check.json", content)
    print(f"{agree} of {len(tasks)} agree; wrote {written.name}")
    return agree == len(tasks)


def _compare_task(task: Task, truth: float, x: Array, y: Array) -> dict[str, Any]:
    import torch

    from experiments.baselines import KSG, GaussianCopula

    ours = task.sample(SAMPLES, generator=torch.Generator().manual_seed(SEED))
    theirs = torch.from_numpy(x), torch.from_numpy(y)
    same_shapes = [z.shape for z in ours] == [z.shape for z in theirs]
    here, there = (torch.cat(pair, 1).numpy() for pair in (ours, theirs))
    p_value, comparisons = _least_p(here, there, task.dx)
    copula = _compare_estimates(GaussianCopula(), ours, theirs, SAMPLES // BLOCKS)
    # Neighbours are slow to find in wide data: smaller blocks there.
    ksg = _compare_estimates(KSG(), ours, theirs, SAMPLES // BLOCKS if task.narrow else 1_000)
    difference = abs(task.mi - truth)
    least = min(p_value, copula["p_value"], ksg["p_value"])
    return {
        "agrees": same_shapes and difference < TRUTH_TOLERANCE and least > P_VALUE,
        "truth": {"here": task.mi, "package": truth},
        "truth_difference": difference,
        "p_value": p_value,
        "comparisons": comparisons,
        "correlation_z": _correlation_z(here, there),
        "copula": copula,
        "ksg": ksg,
    }


def _compare_estimates(
    estimator: Baseline, ours: Pair, theirs: Pair, size: int
) -> dict[str, float]:
    """Mean estimates over disjoint blocks, and Welch's p-value of their difference, doubled."""
    from scipy.stats import ttest_ind

    here, there = (
        [
            estimator(x[k * size : (k + 1) * size], y[k * size : (k + 1) * size], 0).value
            for k in range(BLOCKS)
        ]
        for x, y in (ours, theirs)
    )
    return {
        "here": float(np.mean(here)),
        "package": float(np.mean(there)),
        "p_value": min(1.0, 2 * float(ttest_ind(here, there, equal_var=False).pvalue)),
    }


def _pooled_scores(here: Array, there: Array) -> tuple[Array, Array]:
    """Normal scores of each coordinate by ranks in both samples together."""
    from experiments.baselines.gaussian_copula import normal_scores

    scores = normal_scores(np.concatenate([here, there]))
    return scores[: len(here)], scores[len(here) :]


def _least_p(here: Array, there: Array, dx: int) -> tuple[float, int]:
    """Bonferroni-corrected least p-value of Kolmogorov–Smirnov tests of many one-dimensional views.

    Raw coordinates show the marginals; random projections and norms of the pooled normal scores
    show the joint distribution.
    """
    from scipy.stats import ks_2samp

    directions = np.random.default_rng(SEED).standard_normal((here.shape[1], 24))
    a, b = _pooled_scores(here, there)
    views = [
        (here, there),
        (a @ directions, b @ directions),
        *(
            ((a[:, part] ** 2).sum(1, keepdims=True), (b[:, part] ** 2).sum(1, keepdims=True))
            for part in (slice(None, dx), slice(dx, None), slice(None))
        ),
    ]
    pairs = [(u[:, j], v[:, j]) for u, v in views for j in range(u.shape[1])]
    least = min(ks_2samp(u, v, method="asymp").pvalue for u, v in pairs)
    return min(1.0, float(least) * len(pairs)), len(pairs)


def _correlation_z(here: Array, there: Array) -> float:
    """Greatest difference of correlations of scores and of squared scores, in standard errors."""
    scores = _pooled_scores(here, there)
    greatest = 0.0
    for power in (1, 2):
        a, b = (np.corrcoef((z**power).T) for z in scores)
        upper = np.triu_indices_from(a, k=1)
        # Fisher's transformation; its standard error is only a guide for squares.
        z = np.arctanh(a[upper]) - np.arctanh(b[upper])
        greatest = max(greatest, float(np.abs(z).max()) / np.sqrt(2 / (len(here) - 3)))
    return greatest


def main() -> None:
    """Read the command line and run one of the two parts."""
    parser = argparse.ArgumentParser(description="compare with the benchmark-mi package")
    parser.add_argument("part", choices=["dump", "compare"])
    parser.add_argument("path", type=Path, help="the .npz file between the two parts")
    options = parser.parse_args()
    if options.part == "dump":
        dump(options.path)
    elif not compare(options.path):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
