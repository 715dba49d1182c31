"""The four tasks: data, model, the methods that apply with their strengths, and the judges."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from experiments.regularisers import data
from experiments.regularisers.data import Rows, Splits
from experiments.regularisers.methods import make
from experiments.regularisers.probes import (
    channel_information,
    information,
    leak,
    linear_accuracy,
    r2,
)
from experiments.regularisers.training import Budget, Coder, Codes, Side, fit
from flashmi_reg.errors import SupportWarning

__all__ = ["TASKS", "Cell", "Setting", "Task", "run"]

Kind = Literal["removal", "views", "bottleneck"]
NOISE = 0.5
# Labelled images that the linear probe of the two views learns from.
LABELLED = 200


class Setting(NamedTuple):
    """What is chosen for a method on a task.

    Attributes:
        strength: weight of the term; the temperature of InfoNCE; 1 of other methods that are all
            of the loss.
        every: see `Regulariser`.
        rate: learning rate, where it is not the task's.
        inner: steps of the method's own network before each of the model.
    """

    strength: float
    every: int = 1
    rate: float | None = None
    inner: int = 3


def _grid(
    *strengths: float,
    every: tuple[int, ...] = (1,),
    rate: tuple[float | None, ...] = (None,),
    inner: tuple[int, ...] = (3,),
) -> tuple[Setting, ...]:
    """All combinations."""
    return tuple(Setting(*chosen) for chosen in product(strengths, every, rate, inner))


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        title: of tables and panels.
        kind: what the term is for: to lower I(code; nuisance), to raise I(code; code of the other
            view), or to lower I(code; noisy code).
        load: makes the data of a seed.
        hidden: width of the hidden layer.
        code: width of the code.
        out: width of the head.
        rate: learning rate, except where a setting has its own.
        batch: rows of a step.
        seconds: the budget.
        grids: of each method that applies, the settings that are tried.
        names: of the figures `score`, `score_in`, `leak` and `information`; empty where there is
            none.
    """

    title: str
    kind: Kind
    load: Callable[[int], Splits]
    hidden: int
    code: int
    out: int
    rate: float
    batch: int
    seconds: float
    grids: Mapping[str, tuple[Setting, ...]]
    names: Mapping[str, str]


TASKS: dict[str, Task] = {
    "nuisance": Task(
        title="nuisance removal: coloured digits",
        kind="removal",
        load=data.nuisance,
        hidden=128,
        code=8,
        out=10,
        rate=3e-3,
        batch=256,
        seconds=4.0,
        grids={
            "none": _grid(0.0),
            "ours": _grid(1.5, 3.0, 5.0, 8.0, every=(12, 24)),
            "CLUB": _grid(1.0, 2.5, 5.0, 10.0, inner=(1, 3)),
            "MINE": _grid(1.0, 2.5, 6.0, 12.0, every=(1, 4)),
            "HSIC": _grid(4.0, 10.0, 25.0, 60.0, every=(1, 4)),
            "gradient reversal": _grid(0.3, 1.0, 2.5, 6.0, inner=(0, 3)),
        },
        names={
            "score": "accuracy, colour at random",
            "score_in": "accuracy, colour as in training",
            "leak": "R² of a probe for the colour",
            "information": "I(z; colour), KSG",
        },
    ),
    "fair": Task(
        title="fair representation: diabetes without the sex",
        kind="removal",
        load=data.fair,
        hidden=32,
        code=4,
        out=10,
        rate=1e-2,
        batch=256,
        seconds=2.0,
        grids={
            "none": _grid(0.0, rate=(1e-3, 3e-3, 1e-2)),
            "ours": _grid(1.0, 4.0, 16.0, 64.0, every=(8,), rate=(3e-3, 1e-2)),
            "CLUB": _grid(0.1, 0.5, 2.0, 8.0, every=(4,), rate=(3e-3, 1e-2)),
            "MINE": _grid(0.5, 2.0, 6.0, 20.0, every=(4,), rate=(3e-3, 1e-2)),
            "HSIC": _grid(1.0, 4.0, 16.0, 64.0, every=(4,), rate=(3e-3, 1e-2)),
            "gradient reversal": _grid(0.3, 1.0, 3.0, 10.0, rate=(3e-3, 1e-2)),
        },
        names={
            "score": "mean R² of progression and columns",
            "leak": "AUC of a probe for the sex",
            "information": "I(z; sex), Ross",
        },
    ),
    "views": Task(
        title="two views: halves of a digit",
        kind="views",
        load=data.views,
        hidden=64,
        code=8,
        out=1,
        rate=3e-3,
        batch=256,
        seconds=4.0,
        grids={
            "none": _grid(0.0),
            "ours": _grid(1.0, rate=(3e-3, 1e-2, 3e-2)),
            "MINE": _grid(1.0, rate=(1e-3, 3e-3, 1e-2), inner=(1,)),
            "InfoNCE": _grid(0.5, 1.0, rate=(3e-3, 1e-2)),
            "HSIC": _grid(1.0, rate=(3e-3, 1e-2, 3e-2)),
        },
        names={
            "score": f"accuracy of a linear probe, {LABELLED} labels",
            "information": "I(z; z'), KSG",
        },
    ),
    "bottleneck": Task(
        title="bottleneck: 200 digits, 30 % wrong labels",
        kind="bottleneck",
        load=data.noisy,
        hidden=128,
        code=8,
        out=10,
        rate=3e-3,
        batch=256,
        seconds=1.5,
        grids={
            "none": _grid(0.0, rate=(1e-4, 3e-4, 1e-3, 3e-3)),
            "ours": _grid(3e-3, 0.02, every=(8,), rate=(3e-4, 1e-3, 3e-3)),
            "CLUB": _grid(1e-3, 6e-3, rate=(3e-4, 1e-3, 3e-3)),
            "MINE": _grid(0.04, 0.16, every=(4,), rate=(3e-4, 1e-3, 3e-3)),
            "HSIC": _grid(0.03, 0.1, every=(4,), rate=(3e-4, 1e-3, 3e-3)),
        },
        names={
            "score": "accuracy",
            "score_in": "accuracy on the training labels",
            "information": "I(x; z), known channel",
        },
    ),
}
"""The tasks by the name that the command line knows."""


@dataclass(frozen=True)
class Cell:
    """One run and what the judges say; figures that a task does not have are None.

    Attributes:
        task: name of the task.
        method: name of the method.
        setting: of the method.
        seed: of split, weights and batches.
        weights: checksum of our network's weights, None of other methods.
        steps: of the model within the budget.
        val_score: on validation rows, what settings are chosen by.
        val_leak: probe for the nuisance on validation rows, likewise.
        score: on test rows; on shifted ones where there are such.
        score_in: on unshifted test rows, or on the training labels.
        leak: probe for the nuisance.
        information: by an independent estimator, nats.
    """

    task: str
    method: str
    setting: Setting
    seed: int
    weights: str | None
    steps: int
    val_score: float
    val_leak: float | None
    score: float
    score_in: float | None
    leak: float | None
    information: float


def run(
    name: str,
    method: str,
    setting: Setting,
    seed: int,
    *,
    weights: str | Path = "base",
    checksum: str | None = None,
    budget: Budget | None = None,
) -> Cell:
    """Trains and judges once.

    Args:
        name: of the task.
        method: one of those in the task's grids.
        setting: of it.
        seed: of split, weights and batches.
        weights: of our network.
        checksum: of those, for the cell.
        budget: instead of the task's.
    """
    task = TASKS[name]
    splits = task.load(seed)
    twin = splits.train.other.shape[1] if task.kind == "views" else None
    noise = NOISE if task.kind == "bottleneck" else None
    wide = splits.train.x.shape[1]
    model = Coder(wide, task.hidden, task.code, task.out, seed=seed, noise=noise or 0.0, twin=twin)
    other = splits.train.other
    classes = None if other.is_floating_point() else int(other.max()) + 1
    side: Side = "within classes" if name == "nuisance" else "code"
    if task.kind == "bottleneck" and method == "HSIC":
        side = "input"
    term = make(
        method,
        (task.code, 1 if task.kind == "removal" else task.code),
        weights=weights,
        every=setting.every,
        inner=setting.inner,
        seed=seed,
        classes=classes,
        noise=noise,
        temperature=setting.strength,
    )
    views = task.kind == "views"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SupportWarning)
        steps = fit(
            model,
            splits.train,
            term,
            weight=-1.0 if views else setting.strength,
            rate=setting.rate or task.rate,
            batch=task.batch,
            budget=budget or Budget(task.seconds),
            supervised=not views,
            side=side,
            score=_STOPPING[name](splits) if name in _STOPPING else None,
        )
    found = _JUDGES[name](model, splits)
    own = checksum if method == "ours" else None
    return Cell(name, method, setting, seed, own, steps, **found)


@torch.no_grad()
def _codes(model: Coder, rows: Rows) -> Codes:
    found: Codes = model(rows)
    return found


def _accuracy(model: Coder, rows: Rows) -> float:
    scores = _codes(model, rows).scores
    if rows.target.is_floating_point():
        return r2(scores, rows.target)
    return float((scores.argmax(1) == rows.target).float().mean())


def _judge_removal(model: Coder, splits: Splits) -> dict[str, Any]:
    code = _codes(model, splits.shifted).code
    moved = splits.shifted is not splits.test
    return {
        "val_score": _accuracy(model, splits.validation),
        "val_leak": leak(_codes(model, splits.moved).code, splits.moved.other),
        "score": _accuracy(model, splits.shifted),
        "score_in": _accuracy(model, splits.test) if moved else None,
        "leak": leak(code, splits.shifted.other),
        "information": information(code, splits.shifted.other),
    }


def _probe(model: Coder, splits: Splits, rows: Rows) -> float:
    """Accuracy on rows of a linear probe of both views' codes."""

    def both(rows: Rows) -> Tensor:
        found = _codes(model, rows)
        return torch.cat([found.code, found.second], 1)

    labelled = splits.train.take(torch.arange(LABELLED))
    return linear_accuracy(both(labelled), labelled.target, both(rows), rows.target)


def _judge_views(model: Coder, splits: Splits) -> dict[str, Any]:
    found = _codes(model, splits.test)
    return {
        "val_score": _probe(model, splits, splits.validation),
        "val_leak": None,
        "score": _probe(model, splits, splits.test),
        "score_in": None,
        "leak": None,
        "information": information(found.code, found.second),
    }


def _judge_bottleneck(model: Coder, splits: Splits) -> dict[str, Any]:
    return {
        "val_score": _accuracy(model, splits.validation),
        "val_leak": None,
        "score": _accuracy(model, splits.test),
        "score_in": _accuracy(model, splits.train),
        "leak": None,
        "information": channel_information(_codes(model, splits.test).code, NOISE),
    }


_JUDGES: dict[str, Callable[[Coder, Splits], dict[str, Any]]] = {
    "nuisance": _judge_removal,
    "fair": _judge_removal,
    "views": _judge_views,
    "bottleneck": _judge_bottleneck,
}

# What early stopping looks at, for all methods alike, where training longer may do harm.
_STOPPING: dict[str, Callable[[Splits], Callable[[Coder], float]]] = {
    "views": lambda splits: lambda model: _probe(model, splits, splits.validation),
    "bottleneck": lambda splits: lambda model: _accuracy(model, splits.validation),
}
