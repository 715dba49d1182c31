"""Class labels: estimates of I(x; c) against known truths, beside two baselines.

`python -m experiments.labels` writes results/labels.json and prints a table. Each class is a
mixture of Gaussian or Student components, so that the pointwise information is exact, and the truth
a Monte-Carlo mean over 100,000 samples (standard error below 0.005 nats).
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from scipy.spatial import KDTree
from scipy.special import digamma
from torch import Tensor
from tqdm import tqdm

from experiments.report import RESULTS, circumstances, number, table, write_json
from flashmi_reg.errors import SupportWarning
from flashmi_reg.labels import label_mutual_information

__all__ = ["FAMILIES", "METHODS", "ClassMixture", "discriminant", "draw", "main", "ross"]

TRUTH_SAMPLES = 100_000
# Tasks are redrawn until their truth lies in this range of nats.
RANGE = (0.05, 2.6)


@dataclass(frozen=True)
class ClassMixture:
    """Classes that are equal mixtures of K elliptic components.

    Attributes:
        prior: of the classes, shape (C,).
        mean: shape (C, K, d).
        factor: lower Cholesky factors of the scales, shape (C, K, d, d).
        freedom: integer degrees of freedom of Student components; infinite for Gaussian ones.
    """

    prior: Tensor
    mean: Tensor
    factor: Tensor
    freedom: float = math.inf

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Samples (n, d) and their classes (n,)."""
        _, components, d = self.mean.shape
        label = torch.multinomial(self.prior, n, True, generator=generator)
        part = torch.randint(components, (n,), generator=generator)
        noise = torch.randn(n, d, generator=generator, dtype=torch.float64)
        if math.isfinite(self.freedom):
            shape = (n, int(self.freedom))
            chi2 = torch.randn(shape, generator=generator, dtype=torch.float64).square().sum(1)
            noise = noise * (self.freedom / chi2).sqrt()[:, None]
        x = self.mean[label, part] + (self.factor[label, part] @ noise[..., None])[..., 0]
        return x, label

    def pointwise(self, x: Tensor, label: Tensor) -> Tensor:
        """log p(c|x) − log p(c), shape (n,)."""
        d, nu = x.shape[-1], self.freedom
        given = []
        for mean, factor in zip(self.mean, self.factor, strict=True):
            rest = (x[:, None] - mean).permute(1, 2, 0)
            distance = torch.linalg.solve_triangular(factor, rest, upper=False).square().sum(1)
            if math.isfinite(nu):
                log_density = -(nu + d) / 2 * torch.log1p(distance / nu)
            else:
                log_density = -distance / 2
            scale = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1, keepdim=True)
            given.append((log_density - scale).logsumexp(0))
        log_given = torch.stack(given, -1)  # up to one constant
        chosen = log_given.gather(1, label[:, None])[:, 0]
        return chosen - (log_given + self.prior.log()).logsumexp(1)

    def truth(self, generator: torch.Generator) -> float:
        """I(x; c) in nats, by Monte Carlo."""
        return float(self.pointwise(*self.sample(TRUTH_SAMPLES, generator)).mean())


class _Draws:
    """Random numbers of one generator, in float64."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=self.generator))

    def choice(self, options: tuple[int, ...]) -> int:
        return options[int(torch.randint(len(options), (), generator=self.generator))]

    def prior(self, classes: int) -> Tensor:
        """Equal in half of the draws, of unequal sizes in the others."""
        if self.uniform(0, 1) < 0.5:
            return torch.full((classes,), 1 / classes, dtype=torch.float64)
        return (0.7 * self.normal(classes)).softmax(0)

    def scales(self, classes: int, parts: int, d: int, *, shared: bool) -> Tensor:
        """Covariances (C, K, d, d): one for all, or one each."""
        shape = (1, 1, d, d) if shared else (classes, parts, d, d)
        eye = torch.eye(d, dtype=torch.float64)
        root = self.normal(*shape) / math.sqrt(d) * self.uniform(0.2, 1) + eye
        return (root @ root.mT * self.uniform(0.2, 1) + 0.05 * eye).expand(classes, parts, d, d)


def _scattered(
    draws: _Draws,
    classes: tuple[int, ...],
    widths: tuple[int, ...],
    parts: tuple[int, ...] = (1,),
    spread: tuple[float, float] = (0.3, 2.5),
    *,
    shared: bool = False,
    freedom: float = math.inf,
) -> ClassMixture:
    count, d, k = draws.choice(classes), draws.choice(widths), draws.choice(parts)
    mean = draws.uniform(*spread) / max(1.0, d / 3) ** 0.5 * draws.normal(count, k, d)
    scale = draws.scales(count, k, d, shared=shared)
    return ClassMixture(draws.prior(count), mean, torch.linalg.cholesky(scale), freedom)


def _placed(draws: _Draws, mean: Tensor, spread: float = 1.0) -> ClassMixture:
    """Round components at given places, mixed by a random linear map."""
    d = mean.shape[-1]
    turn = draws.normal(d, d) / math.sqrt(d) + torch.eye(d, dtype=torch.float64)
    scale = (spread**2 * turn @ turn.T).expand(*mean.shape, d)
    prior = torch.full((len(mean),), 1 / len(mean), dtype=torch.float64)
    return ClassMixture(prior, mean @ turn.T, torch.linalg.cholesky(scale))


def _ring(draws: _Draws) -> ClassMixture:
    angle = torch.arange(24, dtype=torch.float64) * (2 * math.pi / 24)
    circle = torch.stack([angle.cos(), angle.sin()], -1)
    radius = 1 + torch.arange(draws.choice((2, 3, 4)), dtype=torch.float64)
    return _placed(draws, radius[:, None, None] * circle, draws.uniform(0.15, 0.6))


def _xor(draws: _Draws) -> ClassMixture:
    d = draws.choice((2, 3, 5))
    mean = torch.zeros(2, 2, d, dtype=torch.float64)
    mean[..., :2] = torch.tensor([[[1.0, 1.0], [-1.0, -1.0]], [[1.0, -1.0], [-1.0, 1.0]]])
    return _placed(draws, draws.uniform(0.5, 2) * mean)


def _nuisance(draws: _Draws) -> ClassMixture:
    classes = draws.choice((2, 3, 5, 10, 20))
    mean = torch.zeros(classes, 1, 10, dtype=torch.float64)
    mean[..., :2] = draws.uniform(0.5, 3) * draws.normal(classes, 1, 2)
    return _placed(draws, mean)


def _independent(draws: _Draws) -> ClassMixture:
    classes, d = draws.choice((2, 3, 5, 10, 20)), draws.choice((1, 2, 3, 5, 10))
    factor = torch.eye(d, dtype=torch.float64).expand(classes, 1, d, d)
    mean = torch.zeros(classes, 1, d, dtype=torch.float64)
    return ClassMixture(draws.prior(classes), mean, factor)


MANY, SOME = (2, 3, 5, 10, 20), (2, 3, 5, 10)
FAMILIES: dict[str, Callable[[_Draws], ClassMixture]] = {
    "Gaussian, one covariance": lambda r: _scattered(r, MANY, (1, 2, 3, 5, 10), shared=True),
    "Gaussian, own covariances": lambda r: _scattered(r, MANY, (1, 2, 3, 5, 10)),
    "2–4 clusters a class": lambda r: _scattered(r, SOME, (2, 3, 5), (2, 3, 4), (1.0, 4.0)),
    "Student, 2–5 d.o.f.": lambda r: _scattered(
        r, MANY, (1, 2, 3, 5), freedom=float(r.choice((2, 3, 4, 5)))
    ),
    "rings": _ring,
    "exclusive or": _xor,
    "2 of 10 coordinates": _nuisance,
    "independent": _independent,
}


def draw(family: str, seed: int) -> tuple[ClassMixture, float, torch.Generator]:
    """A task, its truth, and the generator to go on with."""
    generator = torch.Generator().manual_seed(1000 * list(FAMILIES).index(family) + seed)
    while True:
        task = FAMILIES[family](_Draws(generator))
        if family == "independent":
            return task, 0.0, generator
        truth = task.truth(generator)
        if RANGE[0] < truth < RANGE[1]:
            return task, truth, generator


def ours(x: Tensor, label: Tensor) -> float:
    """The estimator of this package."""
    return float(label_mutual_information(x.float(), label))


def ross(x: Tensor, label: Tensor, k: int = 3) -> float:
    r"""Nearest neighbours: ψ(n) + ψ(k) − ⟨ψ(n_c)⟩ − ⟨ψ(m)⟩, the samples standardised.

    As scikit-learn's `mutual_info_classif`, here for any width, and not cut off at zero.

    References:
        Mutual Information between Discrete and Continuous Data Sets (Ross, 2014)
    """
    points = ((x - x.mean(0)) / x.std(0)).numpy()
    classes = label.numpy()
    kept, radius, ranks, sizes = [], [], [], []
    for c in np.unique(classes):
        member = np.flatnonzero(classes == c)
        if len(member) < 2:
            continue
        rank = min(k, len(member) - 1)
        distance, _ = KDTree(points[member]).query(points[member], k=[rank + 1], p=np.inf)
        kept.append(member)
        radius.append(np.nextafter(distance[:, 0], 0))
        ranks += [rank] * len(member)
        sizes += [len(member)] * len(member)
    index = np.concatenate(kept)
    tree = KDTree(points[index])
    within = tree.query_ball_point(
        points[index], np.concatenate(radius), p=np.inf, return_length=True
    )
    value = digamma(len(index)) + digamma(ranks).mean() - digamma(sizes).mean()
    return float(value - digamma(within).mean())


def discriminant(x: Tensor, label: Tensor, *, quadratic: bool) -> float:
    """Plug-in of Gaussian discriminant analysis: mean log p(c|x) − log p(c) at the samples."""
    target = torch.nn.functional.one_hot(label).double()
    target = target[:, target.any(0)]
    n, d = x.shape
    count = target.sum(0)
    mean = target.T @ x / count[:, None]
    rest = x - target @ mean
    pooled = rest.T @ rest / n
    if quadratic:
        scatter = torch.einsum("nc,ni,nj->cij", target, rest, rest)
        # One pooled sample's worth a coordinate keeps small classes regular.
        scale = (scatter + d * pooled) / (count + d)[:, None, None]
    else:
        scale = pooled.expand(len(count), d, d)
    normal = torch.distributions.MultivariateNormal(mean, scale)
    prior = (count / n).log()
    posterior = (normal.log_prob(x[:, None]) + prior).log_softmax(-1)
    return float(((posterior - prior) * target).sum(-1).mean())


METHODS: dict[str, Callable[[Tensor, Tensor], float]] = {
    "ours": ours,
    "Ross": ross,
    "LDA": lambda x, label: discriminant(x, label, quadratic=False),
    "QDA": lambda x, label: discriminant(x, label, quadratic=True),
}


@dataclass(frozen=True)
class Cell:
    """One family at one n by one method: errors of each task in nats, and mean seconds."""

    family: str
    n: int
    method: str
    errors: tuple[float, ...]
    seconds: float

    @property
    def text(self) -> str:
        """Mean absolute error and bias."""
        return f"{number(fmean(map(abs, self.errors)))} {number(fmean(self.errors), sign=True)}"


def main(argv: list[str] | None = None) -> None:
    """Command line of the experiment."""
    parser = argparse.ArgumentParser(prog="python -m experiments.labels")
    parser.add_argument("--n", type=int, nargs="+", default=[200, 500, 1000, 5000])
    parser.add_argument("--tasks", type=int, default=10, help="tasks drawn from each family")
    parser.add_argument("--seed", type=int, default=0, help="of the first task")
    parser.add_argument("--out", type=Path, default=RESULTS / "labels.json")
    chosen = parser.parse_args(argv)
    warnings.simplefilter("ignore", SupportWarning)
    seeds = range(chosen.seed, chosen.seed + chosen.tasks)
    tasks = {family: [draw(family, seed) for seed in seeds] for family in FAMILIES}
    cells = []
    for n, family in tqdm([(n, f) for n in chosen.n for f in FAMILIES], unit="cell", disable=None):
        errors: dict[str, list[float]] = {name: [] for name in ("perfect critic", *METHODS)}
        seconds = dict.fromkeys(errors, 0.0)
        for task, truth, generator in tasks[family]:
            x, label = task.sample(n, generator)
            errors["perfect critic"].append(float(task.pointwise(x, label).mean()) - truth)
            for name, method in METHODS.items():
                start = time.perf_counter()
                errors[name].append(method(x, label) - truth)
                seconds[name] += (time.perf_counter() - start) / chosen.tasks
        cells += [Cell(family, n, m, tuple(errors[m]), seconds[m]) for m in errors]

    for n in chosen.n:
        print(f"\nn = {n:,}: mean absolute error and bias, nats, {chosen.tasks} tasks each")
        print(_table([cell for cell in cells if cell.n == n]))
    content = {
        "settings": {"n": chosen.n, "tasks": chosen.tasks, "seed": chosen.seed},
        "truths": {family: [truth for _, truth, _ in found] for family, found in tasks.items()},
        "cells": [asdict(cell) for cell in cells],
    }
    print("wrote", write_json(chosen.out, content | circumstances("scipy")).name)


def _table(cells: list[Cell]) -> str:
    methods = list(dict.fromkeys(cell.method for cell in cells))
    by_key = {(cell.family, cell.method): cell for cell in cells}
    rows = [[family, *(by_key[family, m].text for m in methods)] for family in FAMILIES]
    pooled = []
    for method in methods:
        found = [c for c in cells if c.method == method and c.family != "independent"]
        errors = tuple(error for cell in found for error in cell.errors)
        pooled.append(Cell("all", 0, method, errors, fmean(cell.seconds for cell in found)))
    rows.append(["all dependent", *(cell.text for cell in pooled)])
    rows.append(["seconds", *(number(cell.seconds, 4) for cell in pooled)])
    return table(["family", *methods], rows)


if __name__ == "__main__":
    main()
