"""Training a small model on one task with one term, for a given time of the processor."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.regularisers.data import Rows, within_classes
from experiments.regularisers.methods import Regulariser

__all__ = ["Budget", "Coder", "Codes", "Side", "fit"]

Side = Literal["code", "within classes", "input"]


@dataclass(frozen=True)
class Budget:
    """How long a run may take.

    Seconds are those of the process on the processor, so that a busy machine makes no difference;
    the learning rate falls linearly over them, whatever number of steps they hold.

    Args:
        seconds: of training, the term and its own networks included.
        steps: a limit of steps, for tests.
    """

    seconds: float
    steps: int | None = None


@dataclass(frozen=True)
class Codes:
    """What a model makes of rows.

    Attributes:
        code: of the input, shape (n, d).
        second: what the term sets it against: the other view's code, or the noisy code.
        scores: of the head, shape (n, classes) or (n, 1).
    """

    code: Tensor
    second: Tensor
    scores: Tensor


class Coder(nn.Module):
    r"""A perceptron to a code and a linear head.

    Args:
        wide: width of the input.
        hidden: width of the hidden layer.
        code: width of the code.
        out: width of the head's output.
        seed: of the weights.
        noise: size of the noise that is added to the code before the head; without it codes are
            standardised, so that their scale cannot hide anything.
        twin: width of a second view, which gets an encoder of its own.
    """

    def __init__(
        self,
        wide: int,
        hidden: int,
        code: int,
        out: int,
        *,
        seed: int,
        noise: float = 0.0,
        twin: int | None = None,
    ) -> None:
        super().__init__()
        self.noise = noise
        self.generator = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoder = self._encoder(wide, hidden, code)
            self.twin = None if twin is None else self._encoder(twin, hidden, code)
            self.head = nn.Linear(code, out)

    def _encoder(self, wide: int, hidden: int, code: int) -> nn.Sequential:
        layers = [nn.Linear(wide, hidden), nn.ReLU(), nn.Linear(hidden, code)]
        if not self.noise:
            layers.append(nn.BatchNorm1d(code, affine=False))
        return nn.Sequential(*layers)

    def forward(self, rows: Rows) -> Codes:
        """Codes and scores of rows; noise is added in training only."""
        code = self.encoder(rows.x)
        second = rows.other if self.twin is None else self.twin(rows.other)
        received = code
        if self.noise:
            second = code
            if self.training:
                draw = torch.randn(code.shape, generator=self.generator)
                second = received = code + self.noise * draw
        return Codes(code, second, self.head(received))


def fit(
    model: Coder,
    train: Rows,
    term: Regulariser | None,
    *,
    weight: float,
    rate: float,
    batch: int,
    budget: Budget,
    supervised: bool = True,
    side: Side = "code",
    score: Callable[[Coder], float] | None = None,
    looks: int = 10,
) -> int:
    """Trains the model in place and returns the number of steps.

    Args:
        model: the model.
        train: its rows.
        term: added to the loss, or None.
        weight: of the term.
        rate: learning rate of AdamW at the start.
        batch: rows of a step.
        budget: of time.
        supervised: whether the head's loss is part of the objective.
        side: what the term sets against the second side: the code, the code less the mean of its
            class, or the input.
        score: early stopping: judged at `looks` equal parts of the time, which is not counted;
            the best model is kept.
        looks: their number.
    """
    parameters = [*model.parameters(), *(term.parameters() if term is not None else ())]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=1e-2)
    generator = torch.Generator().manual_seed(model.generator.initial_seed())
    limit = budget.steps or 10**9
    best: tuple[float, dict[str, Tensor]] | None = None
    steps, spent, seen = 0, 0.0, 0
    model.train()
    while spent < budget.seconds and steps < limit:
        start = time.process_time()
        share = max(spent / budget.seconds, steps / limit)
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - share)
        rows = train.take(torch.randperm(len(train.x), generator=generator)[:batch])
        found = model(rows)
        loss = found.scores.new_zeros(())
        if supervised and rows.target.is_floating_point():
            loss = F.mse_loss(found.scores, rows.target)
        elif supervised:
            loss = F.cross_entropy(found.scores, rows.target)
        if term is not None and steps % term.every == 0:
            first = rows.x if side == "input" else found.code
            if side == "within classes":
                first = within_classes(first, rows.target)
            loss = loss + term(first, found.second, weight * term.every)
        optimizer.zero_grad()
        if loss.requires_grad:
            loss.backward()
            optimizer.step()
        steps += 1
        spent += time.process_time() - start
        if score is not None and share * looks >= seen:
            seen += 1
            value = score(model.eval())
            if best is None or value >= best[0]:
                best = value, copy.deepcopy(model.state_dict())
            model.train()
    if best is not None:
        model.load_state_dict(best[1])
    model.eval()
    return steps
