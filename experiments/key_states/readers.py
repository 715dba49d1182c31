"""What takes the estimator's place in the extractor: a Gaussian of slices, and MINE."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from experiments.baselines.mine import DonskerVaradhan
from experiments.baselines.neural import Critic
from flashmi_reg.integrations.maniskill.readers import PairScore, slices_of

__all__ = ["GaussianReader", "MineReader"]


@dataclass(frozen=True)
class GaussianReader:
    """Pointwise MI of a Gaussian with the sample's correlations, averaged over the same slices.

    Args:
        slices: number of projections, as in `SlicedCritic`.
        width: coordinates of a slice.
        together: how many readings an extractor asks for at once.
    """

    slices: int = 1
    width: int = 5
    together: int = 16

    def __call__(self, x: Tensor, y: Tensor, generator: torch.Generator) -> PairScore:
        """Reads x and y, each of shape (b, n, Q)."""
        b, _, q = x.shape
        drawn = slices_of(q, b * self.slices, self.width, generator)
        count = max(len(drawn) // b, 1)
        projections = drawn.expand(b * count, -1, -1).unflatten(0, (b, count))

        def project(z: Tensor) -> Tensor:
            return torch.einsum("bnq,bsqk->bsnk", z, projections)

        x, y = project(x), project(y)
        middle = x.mean(-2, keepdim=True), y.mean(-2, keepdim=True)
        x_in, y_in = (_whitener(z - m) for z, m in zip((x, y), middle, strict=True))
        cross = ((x - middle[0]) @ x_in).mT @ ((y - middle[1]) @ y_in) / x.shape[-2]
        u, rho, v = torch.linalg.svd(cross)
        rho = rho.clamp_max(0.999)[..., None, :]
        x_in, y_in = x_in @ u, y_in @ v.mT

        def score(x: Tensor, y: Tensor) -> Tensor:
            a, b = (project(x) - middle[0]) @ x_in, (project(y) - middle[1]) @ y_in
            quadratic = 2 * rho * a * b - rho**2 * (a**2 + b**2)
            value = -0.5 * (-(rho**2)).log1p() + quadratic / (2 * (1 - rho**2))
            return value.sum(-1).mean(1)

        return score


def _whitener(z: Tensor) -> Tensor:
    """W with unit covariance of z W, for centred z of shape (*, n, k)."""
    covariance = z.mT @ z / z.shape[-2]
    values, vectors = torch.linalg.eigh(covariance)
    floor = 1e-6 * values[..., -1:].clamp_min(1e-12)
    return vectors / values.clamp_min(floor).sqrt()[..., None, :]


@dataclass
class MineReader:
    """MINE on the whole states: one critic a key state, trained further at each reading.

    Args:
        steps: gradient steps of each critic at each reading.
        rate: the learning rate of Adam.
        hidden: the widths of the hidden layers.
        together: readings asked for at once; one, so that each critic learns on from the last.
    """

    steps: int = 100
    rate: float = 1e-3
    hidden: tuple[int, ...] = (64, 64, 64)
    together: int = 1
    _critics: list[Critic] = field(default_factory=list, repr=False)

    def __call__(self, x: Tensor, y: Tensor, generator: torch.Generator) -> PairScore:
        """Reads x and y, each of shape (b, n, Q)."""
        width = x.shape[-1]
        while len(self._critics) < len(x):
            self._critics.append(Critic(width, width, self.hidden, generator=generator))
        for critic, a, b in zip(self._critics, x, y, strict=True):
            self._train(critic, a, b, generator)

        @torch.no_grad()
        def score(x: Tensor, y: Tensor) -> Tensor:
            sets = zip(self._critics, x, y, strict=True)
            return torch.stack([critic(a, b) for critic, a, b in sets])

        return score

    @torch.enable_grad()
    def _train(self, critic: Critic, x: Tensor, y: Tensor, generator: torch.Generator) -> None:
        optimizer = torch.optim.Adam(critic.parameters(), lr=self.rate)
        objective = DonskerVaradhan()
        for _ in range(self.steps):
            loss = objective.loss(critic, x, y, generator)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
