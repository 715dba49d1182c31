"""Small batches, n = 64 to 512: bias and spread of a value, and how well its gradient points.

`python -m experiments.small_batches` prints tables, writes results/small_batches.json and draws
results/small_batches.png. An encoder z = a W of eight sources is half-way to the y that it is to
tell of; the gradient of one batch's estimate with respect to W is held against the exact one. With
a memory, the codes of the last k batches, without their gradient, are estimated from together with
those of the present one, as in "Cross-Batch Memory for Embedding Learning" (Wang et al., 2020);
older codes are of an encoder that has since turned by a given angle a step.
"""

from __future__ import annotations

import argparse
import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from experiments.report import RESULTS, circumstances, describe_weights, number, table, write_json
from flashmi_reg import FlashMI
from flashmi_reg.errors import SupportWarning

__all__ = ["FAMILIES", "Family", "main", "markdown", "measure"]

SOURCES = 8
NOISE = 0.5
SIZES = (64, 128, 256, 512)
MEMORIES = (0, 1, 3)
# An encoder trained with Adam at a rate of 1e-3 to 1e-2 turns by about so much a step.
DRIFTS = (0.0, 0.03)
# Samples estimated from at once.
CHUNK = 16_384


class Family(NamedTuple):
    """A dependence whose information is known, with its gradient, for any encoder.

    Attributes:
        width: of the code z.
        respond: y (…, n, dy) of sources (…, n, 8) and standard normal noise (…, n, dy).
        start: the encoder, shape (8, width).
        information: exact I(z; y) in nats of an encoder.
    """

    width: int
    respond: Callable[[Tensor, Tensor], Tensor]
    start: Tensor
    information: Callable[[Tensor], Tensor]


def _half_way(width: int) -> Tensor:
    """An encoder at 45° to the first `width` sources."""
    eye = torch.eye(SOURCES)
    return (eye[:, :width] + eye[:, width : 2 * width]) / math.sqrt(2)


def _gaussian(weight: Tensor) -> Tensor:
    """I(a W; a V + noise) by determinants."""
    target = torch.eye(SOURCES, dtype=weight.dtype)[:, :2]
    both = torch.cat([weight, target], 1)
    covariance = both.mT @ both
    covariance = covariance + torch.diag(weight.new_tensor([0, 0, NOISE**2, NOISE**2]))
    parts = covariance[:2, :2].logdet() + covariance[2:, 2:].logdet()
    return (parts - covariance.logdet()) / 2


def _quadratic(weight: Tensor) -> Tensor:
    """I(a·w; (a₁)² + noise) by quadrature: it depends on the cosine of w and a₁ alone."""
    cosine = weight[0, 0] / weight.norm()
    z = torch.linspace(-5, 5, 201, dtype=weight.dtype)
    s = torch.linspace(-6, 6, 1201, dtype=weight.dtype)
    y = torch.linspace(-3, 30, 1101, dtype=weight.dtype)

    def normal(value: Tensor, mean: Tensor, deviation: Tensor | float) -> Tensor:
        standard = (value - mean) / deviation
        return (-standard.square() / 2).exp() / (deviation * math.sqrt(2 * math.pi))

    step = [float(grid[1] - grid[0]) for grid in (z, s, y)]
    response = normal(y, s[:, None].square(), NOISE)
    hidden = normal(s, cosine * z[:, None], (1 - cosine.square()).sqrt())
    given = hidden @ response * step[1]
    density = normal(z, z.new_zeros(()), 1.0)[:, None] * step[0]
    marginal = (given * density).sum(0)
    return (density * given * (given.clamp_min(1e-300) / marginal).log()).sum() * step[2]


FAMILIES: dict[str, Family] = {
    "Gaussian, 2 + 2": Family(
        2, lambda a, e: a[..., :2] + NOISE * e[..., :2], _half_way(2), _gaussian
    ),
    "quadratic, 1 + 1": Family(
        1, lambda a, e: a[..., :1].square() + NOISE * e[..., :1], _half_way(1), _quadratic
    ),
    "independent, 2 + 2": Family(2, lambda a, e: e[..., :2], _half_way(2), lambda w: 0 * w.sum()),
}


class Drawn(NamedTuple):
    """Sides of many repeats, and where their gradient is read.

    Attributes:
        z: codes, those of the present batch last, shape (b, N, width).
        y: shape (b, N, dy).
        weight: of the present batch's encoders, shape (b, 8, width).
    """

    z: Tensor
    y: Tensor
    weight: Tensor


def draw(
    family: Family, count: int, n: int, memory: int, drift: float, generator: torch.Generator
) -> Drawn:
    """Draws `count` repeats of a batch of n and the `memory` batches before it."""
    sources = torch.randn(count, memory + 1, n, SOURCES, generator=generator)
    noise = torch.randn(count, memory + 1, n, 2, generator=generator)
    away = torch.randn(count, SOURCES, family.width, generator=generator)
    weight = family.start.expand(count, -1, -1).clone().requires_grad_()
    # Every column turns in a direction at right angles to all of them.
    away = away - family.start @ (family.start.mT @ away)
    away = away / away.norm(dim=1, keepdim=True)
    codes = []
    for age in range(memory, -1, -1):
        angle = torch.tensor(age * drift)
        older = family.start * angle.cos() + away * angle.sin()
        codes.append(sources[:, memory - age] @ (older if age else weight))
    return Drawn(torch.cat(codes, 1), family.respond(sources, noise).flatten(1, 2), weight)


def measure(
    model: FlashMI, family: Family, n: int, memory: int, drift: float, repeats: int
) -> dict[str, Any]:
    """Bias and spread of the value, cosine and length of the gradient.

    The gradient of a memory of k batches is of the present one alone, so that it is (k + 1) times
    too short; the length given is after this factor, as a share of the exact gradient's.
    """
    weight = family.start.double().requires_grad_()
    truth = family.information(weight)
    (exact,) = torch.autograd.grad(truth, weight)
    generator = torch.Generator().manual_seed(0)
    values, cosines, shares = [], [], []
    at_once = max(1, CHUNK // (n * (memory + 1)))
    for start in range(0, repeats, at_once):
        count = min(at_once, repeats - start)
        drawn = draw(family, count, n, memory, drift, generator)
        found = model.mutual_information(drawn.z, drawn.y)
        (slope,) = torch.autograd.grad(found.sum(), drawn.weight)
        values.append(found.detach())
        slope = (memory + 1) * slope.double()
        along = (slope * exact).sum((1, 2))
        cosines.append(along / (slope.norm(dim=(1, 2)) * exact.norm()).clamp_min(1e-12))
        shares.append(along / exact.norm().square().clamp_min(1e-12))
    value, cosine, share = torch.cat(values), torch.cat(cosines), torch.cat(shares)
    dependent = bool(exact.norm() > 1e-9)
    return {
        "n": n,
        "memory": memory,
        "drift": drift,
        "truth": float(truth.detach()),
        "bias": float(value.mean() - truth.detach()),
        "deviation": float(value.std()),
        "rmse": float((value - truth.detach()).square().mean().sqrt()),
        "cosine": float(cosine.mean()) if dependent else None,
        "cosine_error": float(cosine.std() / math.sqrt(repeats)) if dependent else None,
        "length": float(share.mean()) if dependent else None,
    }


def cells() -> list[tuple[int, int, float]]:
    """Batch size, memory and drift of each row; the largest batch is measured without memory."""
    found: list[tuple[int, int, float]] = []
    for n in SIZES:
        found.append((n, 0, 0.0))
        if n < max(SIZES):
            found += [(n, k, drift) for k in MEMORIES[1:] for drift in DRIFTS]
    return found


def draw_figure(rows: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Cosine of the gradient over the memory, and root mean square error of the value."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 2.8), layout="constrained")
    FigureCanvasAgg(figure)
    named = [(name, found) for name, found in rows.items() if found[0]["cosine"] is not None]
    for axes, (name, found) in zip(figure.subplots(1, len(named), sharey=True), named, strict=True):
        for colour, n in enumerate(SIZES[:-1]):
            for drift, style in zip(DRIFTS, ("-", "--"), strict=True):
                chosen = [
                    r for r in found if r["n"] == n and (r["drift"] == drift or not r["memory"])
                ]
                label = f"n = {n}" + (f", encoder turns {drift:g} a step" if drift else "")
                axes.errorbar(
                    [r["memory"] for r in chosen],
                    [r["cosine"] for r in chosen],
                    [r["cosine_error"] for r in chosen],
                    color=f"C{colour}",
                    linestyle=style,
                    marker="o",
                    markersize=3,
                    label=label,
                )
        axes.set_title(name, fontsize=9)
        axes.set_xticks(MEMORIES)
        axes.set_xlabel("past batches estimated from")
    axes.legend(fontsize=6)
    figure.axes[0].set_ylabel("cosine with the exact gradient")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def markdown(path: Path = RESULTS / "small_batches.json") -> str:
    """The tables of docs/add_a_term.md, from the result: batches alone, and with past ones."""
    content = json.loads(path.read_text())
    rows, weights = content["rows"], content["weights"]
    head, alone = ["n"], [[str(n)] for n in SIZES]
    past = [[name, str(n)] for name, found in rows.items() for n in SIZES[:-1] if _sloped(found)]
    lines = {(line[0], int(line[1])): line for line in past}
    for name, found in rows.items():
        head += [f"{name}, I = {number(found[0]['truth'], 2)}: bias", "deviation"]
        head += ["cosine"] if _sloped(found) else []
        for r in found:
            if r["memory"] == 0:
                line = alone[SIZES.index(r["n"])]
                line += [number(r["bias"], 2, sign=True), number(r["deviation"], 2)]
                line += [number(r["cosine"], 2)] if _sloped(found) else []
            if (name, r["n"]) in lines and (r["memory"] == 0 or r["drift"] == DRIFTS[-1]):
                lines[name, r["n"]] += [number(r["deviation"], 2), number(r["cosine"], 2)]
    kept = [f"{k} past: deviation" if k else "alone: deviation" for k in MEMORIES]
    second = ["", "n", *(cell for k in kept for cell in (k, "cosine"))]
    return (
        f"`python -m experiments.small_batches`, weights {weights['sha256'][:12]}"
        f" ({weights['header']['steps']:,} steps), {content['settings']['repeats']} data sets a"
        f" row, nats:\n\n{_rows(head, alone)}\n\n"
        "The same with past batches, where the encoder turns by"
        f" {DRIFTS[-1]:g} a step:\n\n{_rows(second, past)}"
    )


def _sloped(found: list[dict[str, Any]]) -> bool:
    return found[0]["cosine"] is not None


def _rows(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *rows))


def main(argv: list[str] | None = None) -> None:
    """Command line of the experiment."""
    parser = argparse.ArgumentParser(prog="python -m experiments.small_batches")
    parser.add_argument("--repeats", type=int, default=32, help="data sets behind each number")
    parser.add_argument("--weights", default="base", help="packaged name or .safetensors file")
    parser.add_argument("--out", type=Path, default=RESULTS / "small_batches.json")
    chosen = parser.parse_args(argv)
    warnings.simplefilter("ignore", SupportWarning)
    model = FlashMI.from_pretrained(chosen.weights)
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in FAMILIES}
    work = [(name, cell) for name in FAMILIES for cell in cells() if _counts(name, *cell)]
    for name, cell in tqdm(work, unit="cell", disable=None):
        rows[name].append(measure(model, FAMILIES[name], *cell, chosen.repeats))
    for name, found in rows.items():
        print(f"\n{name}, I = {found[0]['truth']:.3f} nats, {chosen.repeats} data sets a row")
        head = ["n", "memory", "turn", "bias", "deviation", "rmse", "cosine", "length"]
        print(table(head, [_cells_of(row) for row in found]))
    content = {
        "settings": {"repeats": chosen.repeats, "sources": SOURCES, "noise": NOISE},
        "weights": describe_weights(model, chosen.weights),
        "rows": rows,
    }
    print("\nwrote", write_json(chosen.out, content | circumstances("matplotlib")).name)
    draw_figure(rows, chosen.out.with_suffix(".png"))


def _counts(name: str, n: int, memory: int, drift: float) -> bool:
    """Independent sides have no gradient, and turning the encoder leaves them alike."""
    return not name.startswith("independent") or drift == 0


def _cells_of(row: dict[str, Any]) -> list[str]:
    exact = [number(row[key], sign=key == "bias") for key in ("bias", "deviation", "rmse")]
    slope = [number(row[key], 2) for key in ("cosine", "length")]
    return [
        str(row["n"]),
        str(row["memory"]),
        f"{row['drift']:g}",
        *exact,
        *slope,
    ]


if __name__ == "__main__":
    main()
