"""The demo: a classifier that takes a shortcut, and the same one with a mutual-information term.

Handwritten digits lie on a ground whose colour goes with the digit in training. Plain training
reads the colour. The other run adds one term to its loss, I(z; colour | digit), the mutual
information within each class, in nats, so that what is left in z of the colour is only what the
digit itself explains; it then classifies digits whose colour is drawn at random.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from .demo_data import CLASSES, ColouredDigits, Split, coloured_digits
from .demo_probe import ksg, probe_r2
from .errors import InputError, MissingExtraError

__all__ = ["Arm", "Outcome", "Report", "run_demo"]

WIDTH = 256
LATENT = 8
LEARNING_RATE = 3e-3
WEIGHT = 1.5
EPOCHS = 200
PER_CLASS = 104
FIGURE = "flashmi_demo.png"


@dataclass(frozen=True)
class Outcome:
    """What one trained classifier reaches on held-out images.

    Args:
        accuracy_in: accuracy where the colour goes with the digit, as in training.
        accuracy_out: accuracy where the colour is independent of the digit.
        colour_r2: how well a separate probe recovers the colour from z, colours independent.
        colour_mi: I(z; colour) there in nats, by nearest neighbours.
        step_ms: duration of a training step, median.
    """

    accuracy_in: float
    accuracy_out: float
    colour_r2: float
    colour_mi: float
    step_ms: float


@dataclass(frozen=True)
class Arm:
    """One way of training, repeated.

    Args:
        name: what the table calls it.
        outcomes: one for each repeat.
        latent: z of the held-out images with independent colours, last repeat, shape (n, d).
    """

    name: str
    outcomes: tuple[Outcome, ...]
    latent: Tensor

    def mean_std(self, field: str) -> tuple[float, float]:
        """Mean and standard deviation of one field of the outcomes."""
        values = np.array([getattr(outcome, field) for outcome in self.outcomes])
        return float(values.mean()), float(values.std())


@dataclass(frozen=True)
class Report:
    """All that the demo found.

    Args:
        arms: plain training and training with the term.
        data: the data of the last repeat.
        figure: where the picture lies.
    """

    arms: tuple[Arm, ...]
    data: ColouredDigits
    figure: Path


class _Classifier(nn.Module):
    """A small perceptron: images to z, z to class scores."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoder = nn.Sequential(
                nn.Flatten(),
                nn.Linear(3 * 8 * 8, WIDTH),
                nn.ReLU(),
                nn.Linear(WIDTH, LATENT),
            )
            self.head = nn.Linear(LATENT, CLASSES)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        z = self.encoder(images)
        return z, self.head(z)


def _train(
    data: Split, *, penalty: nn.Module | None, weight: float, epochs: int, seed: int, title: str
) -> tuple[_Classifier, float]:
    """Trains one classifier; returns it with the median duration of a step in milliseconds."""
    model = _Classifier(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    generator = torch.Generator().manual_seed(seed)
    rows = data.rows_of_class()
    size = min(PER_CLASS, *map(len, rows))
    durations = []
    for _ in tqdm(range(epochs), desc=title, unit="step", leave=False, disable=None):
        start = time.perf_counter()
        drawn = [r[torch.randperm(len(r), generator=generator)[:size]] for r in rows]
        batch = torch.stack(drawn)  # (classes, size)
        z, scores = model(data.images[batch.flatten()])
        loss = F.cross_entropy(scores, data.labels[batch.flatten()])
        if penalty is not None:
            # One call for all classes: the mean over them is I(z; colour | digit).
            loss = loss + weight * penalty(z.view(CLASSES, size, -1), data.colour[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        durations.append(1e3 * (time.perf_counter() - start))
    return model.eval(), float(np.median(durations))


@torch.no_grad()
def _judge(
    model: _Classifier, data: ColouredDigits, step_ms: float, seed: int
) -> tuple[Outcome, Tensor]:
    def accuracy(split: Split) -> float:
        return float((model(split.images)[1].argmax(1) == split.labels).float().mean())

    latent = model(data.test_out.images)[0]
    z: NDArray[np.float64] = latent.double().numpy()
    colour = data.test_out.colour.double().numpy()
    outcome = Outcome(
        accuracy_in=accuracy(data.test_in),
        accuracy_out=accuracy(data.test_out),
        colour_r2=probe_r2(z, colour[:, 0], seed=seed),
        colour_mi=ksg(z, colour, seed=seed),
        step_ms=step_ms,
    )
    return outcome, latent


def run_demo(
    *,
    seed: int = 0,
    output: str | Path = ".",
    epochs: int = EPOCHS,
    repeats: int = 3,
    weight: float = WEIGHT,
) -> Report:
    """Trains with and without the term, prints a table and writes `flashmi_demo.png`.

    Args:
        seed: seed of the first repeat; the others follow.
        output: folder for the figure, made if it is not there.
        epochs: training steps, each on a batch with equally many images of every class.
        repeats: how often all is repeated, with new data splits, colours and initial weights.
        weight: factor of the mutual-information term.
    """
    try:
        import matplotlib  # noqa: F401
        import sklearn  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            "`flashmi demo` needs scikit-learn and matplotlib; "
            'install them with pip install "flashmi_reg[demo]".'
        ) from error
    for name, value in (("epochs", epochs), ("repeats", repeats)):
        if value < 1:
            raise InputError(f"`{name}` must be at least 1, got {value}.")

    from . import MutualInformationLoss
    from .demo_plot import draw

    plans: tuple[tuple[str, nn.Module | None], ...] = (
        ("cross-entropy", None),
        ("+ MI term", MutualInformationLoss("minimize")),
    )
    outcomes: list[list[Outcome]] = [[] for _ in plans]
    latents: list[Tensor] = [torch.empty(0)] * len(plans)
    for repeat in range(seed, seed + repeats):
        data = coloured_digits(repeat)
        for i, (name, penalty) in enumerate(plans):
            model, step_ms = _train(
                data.train,
                penalty=penalty,
                weight=weight,
                epochs=epochs,
                seed=repeat,
                title=f"seed {repeat}, {name}",
            )
            outcome, latents[i] = _judge(model, data, step_ms, repeat)
            outcomes[i].append(outcome)
    arms = tuple(
        Arm(name, tuple(found), latent)
        for (name, _), found, latent in zip(plans, outcomes, latents, strict=True)
    )
    print(table(arms))
    figure = draw(arms, data, Path(output) / FIGURE)
    print(f"\nFigure: {figure}")
    return Report(arms, data, figure)


ROWS = (
    ("accuracy, colour as in training", "accuracy_in", 100.0, " %", 1),
    ("accuracy, colour at random", "accuracy_out", 100.0, " %", 1),
    ("R2 of a probe for the colour in z", "colour_r2", 1.0, "", 2),
    ("I(z; colour) by neighbours, nats", "colour_mi", 1.0, "", 2),
    ("training step, ms", "step_ms", 1.0, "", 1),
)


def table(arms: Sequence[Arm]) -> str:
    """Lays the arms out side by side, mean ± standard deviation over the repeats."""
    lines = [f"{'held-out digits':<36}" + "".join(f"{arm.name:>18}" for arm in arms)]
    for label, field, factor, unit, digits in ROWS:
        cells = []
        for arm in arms:
            mean, std = arm.mean_std(field)
            cells.append(f"{factor * mean:.{digits}f} ± {factor * std:.{digits}f}{unit}")
        lines.append(f"{label:<36}" + "".join(f"{cell:>18}" for cell in cells))
    repeats = len(arms[0].outcomes)
    lines.append(f"mean ± standard deviation over {repeats} repeat{'s' if repeats > 1 else ''}")
    return "\n".join(lines)
