"""The methods, one interface: a term that is added to a loss, with whatever trains beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.baselines.mine import DonskerVaradhan
from experiments.baselines.neural import Critic, log_mean_exp
from experiments.regularisers.bounds import (
    channel_club,
    gaussian_club,
    info_nce,
    label_club,
    normalised_hsic,
)
from flashmi_reg import MutualInformationLoss, label_mutual_information

__all__ = [
    "CLUB",
    "HSIC",
    "METHODS",
    "MINE",
    "ChannelCLUB",
    "GradientReversal",
    "InfoNCE",
    "Ours",
    "Regulariser",
    "make",
]

HIDDEN = 64
# Learning rate of a method's own network.
RATE = 3e-3


class Regulariser(nn.Module):
    r"""A term for a loss that lowers, or raises, the dependence of two sides of a batch.

    Parameters of the module itself are trained by the model's optimizer, in the same backward
    pass; a network that must be trained against the model has an optimizer of its own.

    Attributes:
        every: the term is due in one of so many steps only, with that many times its weight, as
            in "Analyzing and Improving the Image Quality of StyleGAN" (Karras et al., 2020,
            https://arxiv.org/abs/1912.04958): where a term costs more than a step of the model,
            equal time buys more steps.
    """

    every = 1

    def forward(self, a: Tensor, b: Tensor, weight: float) -> Tensor:
        """The term of a batch, weight included.

        Args:
            a: shape (n, da).
            b: shape (n, db), or classes of shape (n,).
            weight: positive to lower the dependence, negative to raise it.
        """
        raise NotImplementedError


class Ours(Regulariser):
    """The frozen network of this package; for classes, the critic that needs no network."""

    def __init__(self, weights: str | Path) -> None:
        super().__init__()
        self.loss = MutualInformationLoss("minimize", weights=weights)

    def forward(self, a: Tensor, b: Tensor, weight: float) -> Tensor:
        """Weighted estimate."""
        classes = not b.is_floating_point()
        value: Tensor = label_mutual_information(a, b) if classes else self.loss(a, b)
        return weight * value


class HSIC(Regulariser):
    """Normalised HSIC."""

    def forward(self, a: Tensor, b: Tensor, weight: float) -> Tensor:
        """Weighted HSIC."""
        return weight * normalised_hsic(a, columns(b))


class InfoNCE(Regulariser):
    """InfoNCE between two codes of one width; a lower bound, of use for raising it only.

    Args:
        temperature: of its critic.
    """

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, a: Tensor, b: Tensor, weight: float) -> Tensor:
        """Weighted bound."""
        return weight * info_nce(a, b, self.temperature)


class ChannelCLUB(Regulariser):
    """CLUB where a code is a signal plus known noise, so that no network has to be trained."""

    def __init__(self, noise: float) -> None:
        super().__init__()
        self.noise = noise

    def forward(self, a: Tensor, b: Tensor, weight: float) -> Tensor:
        """Weighted bound; `a` is the signal and `b` what is received."""
        return weight * channel_club(a, b, self.noise)


class MINE(Regulariser):
    r"""The Donsker–Varadhan bound with a critic that is trained in turns with the model."""

    def __init__(self, da: int, db: int, generator: torch.Generator, inner: int) -> None:
        super().__init__()
        self.generator = generator
        self.inner = inner
        self.objective = DonskerVaradhan()
        self._critic = [Critic(da, db, (HIDDEN, HIDDEN), generator=generator)]
        self._optimizer = torch.optim.Adam(self._critic[0].parameters(), lr=RATE)

    def forward(self, a: Tensor, b: Tensor, weight: float) -> Tensor:
        """Weighted bound, after some steps of the critic on the same batch."""
        critic, b = self._critic[0], columns(b)

        def train() -> Tensor:
            return self.objective.loss(critic, a.detach(), b.detach(), self.generator)

        _inner(self._optimizer, train, self.inner)
        shuffled = b[torch.randperm(len(b), generator=self.generator)]
        return weight * (critic(a, b).mean() - log_mean_exp(critic(a, shuffled)))


class CLUB(Regulariser):
    r"""The variational CLUB, with a network q(b|a) that is trained in turns with the model."""

    def __init__(
        self, da: int, db: int, classes: int | None, generator: torch.Generator, inner: int
    ) -> None:
        super().__init__()
        self.classes = classes
        self.inner = inner
        self._net = [perceptron(da, 2 * db if classes is None else classes, generator)]
        self._optimizer = torch.optim.Adam(self._net[0].parameters(), lr=RATE)

    def _gaussian(self, a: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = self._net[0](a).chunk(2, dim=-1)
        return mean, 3 * (log_variance / 3).tanh()

    def forward(self, a: Tensor, b: Tensor, weight: float) -> Tensor:
        """Weighted bound, after some steps of q on the same batch."""
        net = self._net[0]

        def train() -> Tensor:
            if self.classes is not None:
                return F.cross_entropy(net(a.detach()), b)
            mean, log_variance = self._gaussian(a.detach())
            return ((b - mean).square() / log_variance.exp() + log_variance).mean()

        _inner(self._optimizer, train, self.inner)
        if self.classes is not None:
            return weight * label_club(net(a), b)
        return weight * gaussian_club(*self._gaussian(a), b)


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -ctx.scale * gradient, None


class GradientReversal(Regulariser):
    r"""A predictor of b from a, whose gradient reaches the model with the opposite sign (DANN).

    The predictor takes its step with the model, as published, and may take more before it.

    References:
        | Domain-Adversarial Training of Neural Networks (Ganin et al., 2016)
        | https://arxiv.org/abs/1505.07818
    """

    def __init__(
        self, da: int, db: int, classes: int | None, generator: torch.Generator, inner: int
    ) -> None:
        super().__init__()
        self.inner = inner
        self.net = perceptron(da, db if classes is None else classes, generator)
        self._optimizer = torch.optim.Adam(self.net.parameters(), lr=RATE)

    def forward(self, a: Tensor, b: Tensor, weight: float) -> Tensor:
        """The predictor's loss; the weight acts in the reversal."""

        def loss(code: Tensor) -> Tensor:
            found = self.net(code)
            return F.mse_loss(found, b) if b.is_floating_point() else F.cross_entropy(found, b)

        _inner(self._optimizer, lambda: loss(a.detach()), self.inner)
        return loss(_Reverse.apply(a, weight))


def columns(b: Tensor) -> Tensor:
    """Classes as standardised one-hot columns; other values as they are."""
    if b.is_floating_point():
        return b
    target = F.one_hot(b).float()
    return (target - target.mean(0)) / target.std(0).clamp_min(1e-6)


def perceptron(wide: int, out: int, generator: torch.Generator) -> nn.Sequential:
    """Two layers, with weights drawn by the generator."""
    seed = int(torch.randint(2**31, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(wide, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, out))


def _inner(optimizer: torch.optim.Optimizer, loss: Callable[[], Tensor], steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    optimizer.zero_grad()


METHODS = ("none", "ours", "CLUB", "MINE", "InfoNCE", "HSIC", "gradient reversal")


def make(
    method: str,
    widths: tuple[int, int],
    *,
    weights: str | Path,
    every: int,
    seed: int,
    inner: int = 3,
    classes: int | None = None,
    noise: float | None = None,
    temperature: float = 0.5,
) -> Regulariser | None:
    """The regulariser of a name, or None where that is "none".

    Args:
        method: one of :data:`METHODS`.
        widths: of the two sides; of classes, 1.
        weights: of our network.
        every: see :class:`Regulariser`.
        seed: of networks and shuffled pairs.
        inner: steps of a method's own network before each of the model.
        classes: their number where the second side holds classes.
        noise: its size where the second side is the first plus noise.
        temperature: of InfoNCE.
    """
    generator = torch.Generator().manual_seed(seed)
    term: Regulariser
    match method:
        case "none":
            return None
        case "ours":
            term = Ours(weights)
        case "CLUB" if noise is not None:
            term = ChannelCLUB(noise)
        case "CLUB":
            term = CLUB(*widths, classes, generator, inner)
        case "MINE":
            term = MINE(widths[0], classes or widths[1], generator, inner)
        case "InfoNCE":
            term = InfoNCE(temperature)
        case "HSIC":
            term = HSIC()
        case "gradient reversal":
            term = GradientReversal(*widths, classes, generator, inner)
        case _:
            raise ValueError(f"`method` must be one of {METHODS}, received {method!r}.")
    term.every = every
    return term
