"""What the runs say: ends of the curves, whether bands are apart, correlation with accuracy."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from experiments.baselines import MINE
from experiments.ib_dynamics.features import Features
from experiments.ib_dynamics.training import Perceptron, Recipe, Run
from flashmi_reg import FlashMI
from flashmi_reg.integrations.information_plane import measure

__all__ = ["cost", "curve", "summarise"]

Array = NDArray[np.float64]
TIMED_SLICES = 3
T = TypeVar("T")


def curve(run: Run, name: str, layer: str, split: str = "val") -> tuple[Array, Array]:
    """Epochs and values of one quantity of a run.

    Args:
        run: the run.
        name: "I_xz", "I_zy", or a metric of its epochs without the split, e.g. "accuracy".
        layer: for the first two, whose.
        split: "train" or "val".
    """
    if name in ("I_xz", "I_zy"):
        wanted = (name, layer, split)
        pairs = [
            (p["epoch"], p["value"])
            for p in run.points
            if (p["quantity"], p["layer"], p["split"]) == wanted
        ]
    else:
        pairs = [(row["epoch"], row[f"{split}_{name}"]) for row in run.epochs]
    epochs, values = np.array(pairs, dtype=float).reshape(-1, 2).T
    return epochs, values


def summarise(runs: Sequence[Run], layer: str) -> dict[str, Any]:
    """Figures over all runs for one layer, on validation data.

    The control for I(z; y) is H(y) minus the cross-entropy of the network's own head, the bound
    that anybody can have without an estimator.
    """
    ends = []
    for words in sorted({run.words for run in runs}):
        same = [run for run in runs if run.words == words]
        row: dict[str, Any] = {"words": words, "repeats": len(same)}
        for name in ("accuracy", "I_zy", "I_xz"):
            last = np.array([_last(curve(run, name, layer)[1]) for run in same])
            row[name], row[f"{name}_sd"] = float(last.mean()), float(last.std())
            row[f"{name}_range"] = [float(last.min()), float(last.max())]
        ends.append(row)
    together = [_together(run, layer) for run in runs]
    accuracy, information, control = (np.concatenate(part) for part in zip(*together, strict=True))
    targets = [p for run in runs for p in run.points if p["quantity"] == "I_zy"]
    return {
        "layer": layer,
        "ends": ends,
        "order_agrees": _order(ends, "I_zy") == _order(ends, "accuracy"),
        "bands_apart": all(a["I_zy_range"][1] < b["I_zy_range"][0] for a, b in pairwise(ends)),
        "correlation": _correlations(information, accuracy),
        "correlation_of_control": _correlations(control, accuracy),
        "points_correlated": len(accuracy),
        "label_entropy": targets[0]["ceiling"] if targets else None,
        "above_ceiling": sum(p["value"] > p["ceiling"] for p in targets),
        "overhead": sum(run.spent for run in runs) / sum(run.seconds for run in runs),
    }


def _last(values: Array) -> float:
    return float(values[-1]) if len(values) else float("nan")


def _together(run: Run, layer: str) -> tuple[Array, Array, Array]:
    """Accuracy, I(z; y) and control on validation data, at epochs that have a point."""
    epochs, information = curve(run, "I_zy", layer)
    rows = {row["epoch"]: row for row in run.epochs}
    accuracy = np.array([rows[epoch]["val_accuracy"] for epoch in epochs])
    top = next((p["ceiling"] for p in run.points if p["quantity"] == "I_zy"), 0.0)
    control = np.array([top - rows[epoch]["val_loss"] for epoch in epochs])
    return accuracy, information, control


def _order(ends: Sequence[dict[str, Any]], name: str) -> list[int]:
    return [row["words"] for row in sorted(ends, key=lambda row: row[name])]


def _correlations(a: Array, b: Array) -> dict[str, float]:
    from scipy.stats import pearsonr, spearmanr

    if len(a) < 3 or a.std() == 0 or b.std() == 0:
        return {"pearson": float("nan"), "spearman": float("nan")}
    return {"pearson": float(pearsonr(a, b)[0]), "spearman": float(spearmanr(a, b)[0])}


@torch.no_grad()
def cost(model: Perceptron, features: Features, recipe: Recipe, seed: int) -> list[dict[str, Any]]:
    """Processor seconds of one value of the last hidden layer, and of MINE's on the same rows.

    They are those of this process, so that another one's work does not count. MINE is timed once at
    full width, and on a few random projections to five coordinates, whose mean times the number of
    projections is what the sliced value would cost with it.
    """
    n = min(recipe.n_samples, len(features.val_x))
    rows = torch.randperm(len(features.val_x), generator=torch.Generator().manual_seed(seed))[:n]
    x, y = features.val_x[rows], features.val_y[rows]
    z = model.hidden3(model.hidden2(model.hidden1(x)))
    classes = torch.nn.functional.one_hot(y, features.classes).float()
    found, mine = [], torch.enable_grad()(MINE())
    network = FlashMI.from_pretrained(recipe.weights)
    options = {"n_slices": recipe.n_slices, "seed": seed, "model": network}
    for quantity, left, right, wide in (("I_xz", x, z, z), ("I_zy", z, y, classes)):
        ours, seconds = _timed(measure, left, right, **options)
        full, full_seconds = _timed(mine, left, wide, seed)
        sliced_seconds = 0.0
        for i in range(TIMED_SLICES):
            part = wide if quantity == "I_zy" else _project(wide, i)
            sliced_seconds += _timed(mine, _project(left, i), part, seed)[1] / TIMED_SLICES
        found.append(
            {
                "quantity": quantity,
                "n": n,
                "words": features.train_x.shape[1],
                "path": ours.path,
                "seconds": seconds,
                "value": ours.value,
                "mine_full_seconds": full_seconds,
                "mine_full_value": full.value,
                "mine_sliced_seconds": sliced_seconds * recipe.n_slices,
            }
        )
    return found


def _timed(function: Callable[..., T], *args: Any, **options: Any) -> tuple[T, float]:
    start = time.process_time()
    value = function(*args, **options)
    return value, time.process_time() - start


def _project(side: torch.Tensor, seed: int) -> torch.Tensor:
    normal = torch.randn(side.shape[1], 5, generator=torch.Generator().manual_seed(seed))
    return side @ torch.linalg.qr(normal)[0]
