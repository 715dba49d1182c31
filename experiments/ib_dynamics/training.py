"""One training run of the perceptron, watched by the information-plane callback."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    Sampler,
    SequentialSampler,
    TensorDataset,
)

from experiments.ib_dynamics.features import Features
from flashmi_reg.integrations.lightning import InformationPlaneCallback

__all__ = ["WIDTH", "Perceptron", "Recipe", "Run", "train"]

WIDTH = 512
PREFIX = "plane"


@dataclass(frozen=True)
class Recipe:
    """How every run is trained and watched.

    Args:
        epochs: passes over the training data.
        every: epochs from one point to the next; None for the callback's default, by budget.
        batch: rows of a step.
        learning_rate: of Adam.
        n_samples: rows behind each estimate.
        n_slices: projections behind each estimate.
        layers: names of the layers that are watched, see :class:`Perceptron`.
        weights: name or path of the weights behind I(x; z).
    """

    epochs: int = 6
    every: int | None = 2
    batch: int = 128
    learning_rate: float = 1e-4
    n_samples: int = 1000
    n_slices: int = 25
    layers: tuple[str, ...] = ("hidden3",)
    weights: str = "base"


@dataclass(frozen=True)
class Run:
    """What one run gave.

    Args:
        words: size of the vocabulary.
        repeat: seed of weights and batches.
        epochs: one row an epoch: epoch, train and validation accuracy and cross-entropy.
        points: what the callback found, the fields of its `Point`.
        seconds: of training, without those of the callback.
        spent: seconds of the callback.
    """

    words: int
    repeat: int
    epochs: tuple[dict[str, float], ...]
    points: tuple[dict[str, Any], ...]
    seconds: float
    spent: float

    @property
    def overhead(self) -> float:
        """Seconds of the callback as a share of those of training."""
        return self.spent / self.seconds


class Perceptron(pl.LightningModule):
    """Four linear layers; the outputs of the first three, after ReLU, are hidden1 to hidden3."""

    def __init__(self, words: int, classes: int, learning_rate: float, seed: int) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.hidden1 = nn.Sequential(nn.Linear(words, WIDTH), nn.ReLU())
            self.hidden2 = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU())
            self.hidden3 = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU())
            self.head = nn.Linear(WIDTH, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Class scores: (n, words) → (n, classes)."""
        scores: Tensor = self.head(self.hidden3(self.hidden2(self.hidden1(x))))
        return scores

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """Cross-entropy of a batch."""
        return self._step(batch, "train")

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """As in training."""
        return self._step(batch, "val")

    def _step(self, batch: tuple[Tensor, Tensor], split: str) -> Tensor:
        x, y = batch
        scores = self(x)
        loss = F.cross_entropy(scores, y)
        right = (scores.argmax(1) == y).float().mean()
        values = {f"{split}_accuracy": right, f"{split}_loss": loss}
        self.log_dict(values, on_step=False, on_epoch=True, batch_size=len(x))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), self.learning_rate)


class _Curves(pl.Callback):
    """Keeps the metrics of every epoch and moves the progress bar."""

    def __init__(self, advance: Callable[[], object]) -> None:
        self.rows: list[dict[str, float]] = []
        self.advance = advance

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Called after the module's own epoch end and after validation."""
        kept = {
            name: float(value)
            for name, value in trainer.callback_metrics.items()
            if name.startswith(("train_", "val_"))
        }
        self.rows.append({"epoch": trainer.current_epoch, **kept})
        self.advance()


def train(
    features: Features, recipe: Recipe, repeat: int, advance: Callable[[], object] = lambda: None
) -> tuple[Run, Perceptron]:
    """Trains once and returns the trained model too; `advance` is called after each epoch."""
    words = features.train_x.shape[1]
    model = Perceptron(words, features.classes, recipe.learning_rate, repeat)
    plane = InformationPlaneCallback(
        recipe.layers,
        every_n_epochs=recipe.every,
        n_samples=recipe.n_samples,
        n_slices=recipe.n_slices,
        prefix=PREFIX,
        figure=False,
        seed=repeat,
        weights=recipe.weights,
    )
    curves = _Curves(advance)
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        trainer = pl.Trainer(
            max_epochs=recipe.epochs,
            accelerator="cpu",
            callbacks=[plane, curves],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        generator = torch.Generator().manual_seed(repeat)
        trainer.fit(
            model,
            _loader(features.train_x, features.train_y, recipe.batch, generator),
            _loader(features.val_x, features.val_y, recipe.batch),
        )
    spent = plane.spent
    run = Run(
        words=words,
        repeat=repeat,
        epochs=tuple(curves.rows),
        points=tuple(asdict(point) for point in plane.points),
        seconds=time.perf_counter() - start - spent,
        spent=spent,
    )
    return run, model.eval()


def _loader(
    x: Tensor, y: Tensor, batch: int, generator: torch.Generator | None = None
) -> DataLoader:
    """Whole batches by index: rows of ten thousand columns are slow to collate one by one."""
    data = TensorDataset(x, y)
    order: Sampler = SequentialSampler(data)
    if generator is not None:
        order = RandomSampler(data, generator=generator)
    return DataLoader(data, sampler=BatchSampler(order, batch, drop_last=False), batch_size=None)
