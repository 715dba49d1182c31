"""Gradients put to use: find a hidden dependence, and remove a nuisance.

`python -m experiments.gradients` writes results/gradients.json and prints a table.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from tqdm import tqdm

from experiments.report import RESULTS, circumstances, describe_weights, number, table, write_json
from flashmi_reg import FlashMI, MutualInformationLoss

__all__ = ["Removal", "find_direction", "main", "remove_nuisance"]

N = 512
DIMENSIONS = 5


def find_direction(
    response: Callable[[Tensor], Tensor], *, steps: int, seed: int, rate: float = 0.05
) -> float:
    """|cosine| between a hidden direction and the projection that maximises I(projection; y).

    Args:
        response: y as a function of x's hidden coordinate, shape (n,) → (n,); noise is added.
        steps: steps of Adam, each on n = 512 fresh samples of x in R^5.
        seed: of direction, start and samples.
        rate: learning rate.
    """
    generator = torch.Generator().manual_seed(seed)
    hidden = nn.functional.normalize(torch.randn(DIMENSIONS, generator=generator), dim=0)
    weight = nn.Parameter(torch.randn(DIMENSIONS, 1, generator=generator))
    optimizer = torch.optim.Adam([weight], lr=rate)
    loss = MutualInformationLoss("maximize")
    for _ in range(steps):
        x = torch.randn(N, DIMENSIONS, generator=generator)
        y = response(x @ hidden) + 0.3 * torch.randn(N, generator=generator)
        optimizer.zero_grad()
        loss(x @ nn.functional.normalize(weight, dim=0), y[:, None]).backward()
        optimizer.step()
    found = nn.functional.normalize(weight.detach(), dim=0)[:, 0]
    return float((found @ hidden).abs())


@dataclass(frozen=True)
class Removal:
    """A nuisance before and after.

    Attributes:
        probe_r2: R² of a held-out probe for the nuisance; 0 where nothing is left.
        error: mean squared error of the reconstruction.
        optimum: its least value without the nuisance.
    """

    probe_r2: float
    error: float
    optimum: float


def remove_nuisance(*, weight: float, steps: int, seed: int) -> Removal:
    """Reconstructs five mixed coordinates from a linear code that must not tell one of them.

    The optimum leaves out the nuisance and nothing else: an error of 1/5 of the variance.
    """
    generator = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(DIMENSIONS, DIMENSIONS, generator=generator)).Q

    def draw(n: int) -> tuple[Tensor, Tensor]:
        source = torch.randn(n, DIMENSIONS, generator=generator)
        return source @ turn, source[:, :1]

    encoder = nn.Parameter(torch.randn(DIMENSIONS, DIMENSIONS, generator=generator) / 2)
    decoder = nn.Parameter(torch.randn(DIMENSIONS, DIMENSIONS, generator=generator) / 2)
    optimizer = torch.optim.Adam([encoder, decoder], lr=0.01)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, steps)
    penalty = MutualInformationLoss("minimize")
    noise = 0.05
    for _ in range(steps):
        x, nuisance = draw(N)
        code = x @ encoder
        code = code + noise * torch.randn(code.shape, generator=generator)
        loss = (code @ decoder - x).square().mean() + weight * penalty(code, nuisance)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        x, nuisance = draw(20_000)
        code = x @ encoder
        code = code + noise * torch.randn(code.shape, generator=generator)
        error = float((code @ decoder - x).square().mean())
        r2 = _probe(code, nuisance)
    return Removal(r2, error, 1 / DIMENSIONS)


def _probe(code: Tensor, target: Tensor) -> float:
    """R² on held-out samples of a gradient-boosted probe."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    half = len(code) // 2
    features, wanted = code.numpy(), target[:, 0].numpy()
    probe = HistGradientBoostingRegressor(random_state=0).fit(features[:half], wanted[:half])
    return float(probe.score(features[half:], wanted[half:]))


def main(argv: list[str] | None = None) -> None:
    """Command line of the experiment."""
    parser = argparse.ArgumentParser(prog="python -m experiments.gradients", description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--removals", type=int, default=3, help="seeds of the nuisance task")
    parser.add_argument("--removal-steps", type=int, default=800)
    chosen = parser.parse_args(argv)
    bar = tqdm(total=2 * chosen.seeds + 2 * chosen.removals, unit="run", disable=None)
    overlaps: dict[str, list[float]] = {}
    for name, response in {"linear": lambda s: s, "quadratic": torch.square}.items():
        overlaps[name] = []
        for seed in range(chosen.seeds):
            overlaps[name].append(find_direction(response, steps=chosen.steps, seed=seed))
            bar.update()
    removals: dict[str, list[Removal]] = {}
    for name, weight in {"without the term": 0.0, "with the term": 1.0}.items():
        removals[name] = []
        for seed in range(chosen.removals):
            removals[name].append(
                remove_nuisance(weight=weight, steps=chosen.removal_steps, seed=seed)
            )
            bar.update()
    bar.close()
    rows = [
        [
            f"hidden {name} direction",
            f"{sum(v > 0.9 for v in values)} of {len(values)}",
            number(sorted(values)[len(values) // 2]),
            number(min(values)),
        ]
        for name, values in overlaps.items()
    ]
    print(table(["maximise", "overlap > 0.9", "median overlap", "least"], rows), "\n")
    rows = [
        [
            name,
            number(max(r.probe_r2 for r in found)),
            number(max(r.error for r in found)),
            number(found[0].optimum),
        ]
        for name, found in removals.items()
    ]
    print(table(["minimise", "probe R² (worst)", "error (worst)", "optimum"], rows))
    content = {
        "settings": vars(chosen) | {"n": N, "dimensions": DIMENSIONS},
        "weights": describe_weights(FlashMI.from_pretrained("base"), "base"),
        "overlaps": overlaps,
        "removals": {name: [asdict(r) for r in found] for name, found in removals.items()},
    }
    print("wrote", write_json(RESULTS / "gradients.json", content | circumstances()).name)


if __name__ == "__main__":
    main()
