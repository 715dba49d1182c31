"""What the estimator says of independent sides, where every value above zero is bias.

`python -m experiments.independence` writes results/independence.json and prints a table.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from tqdm import tqdm

from experiments.report import RESULTS, circumstances, describe_weights, number, table, write_json
from flashmi_reg import FlashMI

__all__ = ["main", "mean_estimate"]

SEED = 0


def mean_estimate(model: FlashMI, width: int, n: int, sets: int) -> float:
    """Mean estimate over `sets` pairs of independent Gaussian sides of equal width, in nats."""
    generator = torch.Generator().manual_seed(SEED)
    x, y = torch.randn(2, sets, n, width, generator=generator)
    with torch.no_grad():
        return float(model.mutual_information(x, y, generator=generator).mean())


def main(argv: list[str] | None = None) -> None:
    """Command line of the experiment."""
    parser = argparse.ArgumentParser(prog="python -m experiments.independence")
    parser.add_argument("--n", type=int, nargs="+", default=[250, 500, 1000, 2000, 5000])
    parser.add_argument("--widths", type=int, nargs="+", default=[1, 2, 3, 5, 7, 10])
    parser.add_argument("--sets", type=int, default=20, help="data sets behind each mean")
    parser.add_argument("--weights", default="base", help="packaged name or .safetensors file")
    parser.add_argument("--out", type=Path, default=RESULTS / "independence.json")
    chosen = parser.parse_args(argv)
    model = FlashMI.from_pretrained(chosen.weights)
    cells = [(width, n) for width in chosen.widths for n in chosen.n]
    found = {
        (width, n): mean_estimate(model, width, n, chosen.sets)
        for width, n in tqdm(cells, unit="cell", disable=None)
    }
    means = [
        [f"{w} + {w}", *(number(found[w, n], sign=True) for n in chosen.n)] for w in chosen.widths
    ]
    head = ["independent sides", *(f"n = {n:,}" for n in chosen.n)]
    print(table(head, means))
    content = {
        "settings": {"n": chosen.n, "widths": chosen.widths, "sets": chosen.sets, "seed": SEED},
        "weights": describe_weights(model, chosen.weights),
        "head": head,
        "rows": means,
    }
    print("wrote", write_json(chosen.out, content | circumstances()).name)


if __name__ == "__main__":
    main()
