"""The hypernetwork: reads a data set in canonical coordinates and emits its critic.

It starts from the Gaussian-copula critic and, in a few rounds, pools learned features of the
pairs weighted by what the current critic still gets wrong (the functional gradient of the NCE
objective), from which it emits the modulation of the critic's layers anew.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot, silu

from .canonical import Canonical
from .critic import (
    Modulation,
    PairFeatures,
    gaussian_pmi,
    pair_inputs,
    solve_readout,
)

__all__ = ["Architecture", "CriticParameters", "Emission", "HyperNetwork", "Pairs", "Readout"]

MAX_CORRELATION = 0.9999
NEWTON_STEPS = 3
# Before the last round a rough readout will do: it only serves to find the residuals.
ROUGH_FEATURES = 64


@dataclass(frozen=True)
class Architecture:
    """Sizes of the network.

    Attributes:
        width: greatest width of a side.
        hidden: units of the critic's layers.
        layers: number of the critic's layers before its features.
        features: number of features that the readout combines.
        context: units of the data set's description.
        rounds: how often residuals are pooled.
    """

    width: int = 10
    hidden: int = 192
    layers: int = 3
    features: int = 192
    context: int = 256
    rounds: int = 2


class Pairs(NamedTuple):
    """Pairs of points in canonical coordinates, each of shape (b, m, width)."""

    u: Tensor
    v: Tensor


class Readout(NamedTuple):
    """An affine function of the features: weights, shape (b, features), and bias, shape (b,)."""

    weights: Tensor
    bias: Tensor


class CriticParameters(NamedTuple):
    """All that makes a critic in canonical coordinates.

    Attributes:
        rho: shrunken canonical correlations of the Gaussian term, shape (b, width).
        modulation: scales and shifts of the features' layers.
        readout: from features to the critic's value.
    """

    rho: Tensor
    modulation: Modulation
    readout: Readout


class Emission(NamedTuple):
    """A critic and its values at the pairs that the network has read.

    Attributes:
        parameters: what makes the critic.
        joint: values at joint pairs, shape (b, n).
        shuffled: values at shuffled pairs, shape (b, m).
    """

    parameters: CriticParameters
    joint: Tensor
    shuffled: Tensor


class HyperNetwork(nn.Module):
    """Emits the critic of a data set in one forward pass.

    Args:
        architecture: sizes of the network.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = a = architecture
        statistics = 2 * a.width + 2 * a.width + 2
        self.describe = nn.Sequential(
            nn.Linear(statistics, a.context), nn.SiLU(), nn.Linear(a.context, a.context)
        )
        self.shrink = nn.Linear(a.context, a.width)
        self.body = PairFeatures(a.width, a.hidden, a.layers, a.features)
        self.emit = nn.ModuleList(
            nn.Linear(a.context, 2 * sum(self.body.units)) for _ in range(a.rounds + 1)
        )
        self.prior_mean = nn.ModuleList(
            nn.Linear(a.context, a.features + 1) for _ in range(a.rounds + 1)
        )
        self.probe = nn.ModuleList(nn.Linear(a.hidden, a.context) for _ in range(a.rounds))
        self.update = nn.ModuleList(
            nn.Sequential(
                nn.Linear(4 * a.context, 2 * a.context),
                nn.SiLU(),
                nn.Linear(2 * a.context, a.context),
            )
            for _ in range(a.rounds)
        )
        # Contexts would otherwise grow round by round. They are of length one, not √units, or one
        # optimizer step on the emitting layers would move all that they emit by a large amount.
        self.norm = nn.LayerNorm(a.context)
        nn.init.constant_(self.norm.weight, 1 / math.sqrt(a.context))
        for layer in (self.shrink, *self.emit, *self.prior_mean):
            nn.init.normal_(layer.weight, std=0.05)
            nn.init.zeros_(layer.bias)
        nn.init.constant_(self.shrink.bias, 4.0)

    def forward(self, data: Canonical, joint: Pairs, shuffled: Pairs) -> Emission:
        """Reads the pairs of a data set and returns its critic, with the critic's values there.

        Args:
            data: the data set's canonical form; its correlations, widths and n are used.
            joint: joint pairs.
            shuffled: pairs of the product of marginals.
        """
        dtype = self.shrink.weight.dtype
        n = joint.u.shape[1]
        rho = data.rho.to(dtype).clamp(0, MAX_CORRELATION)
        context = self.norm(self.describe(_statistics(rho, data.widths, n)).to(dtype))
        rho = rho * self.shrink(context).to(dtype).sigmoid()

        pairs = Pairs(*(torch.cat(sides, 1) for sides in zip(joint, shuffled, strict=True)))
        gaussian = gaussian_pmi(*pairs, rho)
        inputs = pair_inputs(*pairs, gaussian)
        total = gaussian
        for turn, (probe, update) in enumerate(zip(self.probe, self.update, strict=True)):
            modulation = self._modulation(turn, context)
            hidden = self.body(inputs, modulation)
            if turn > 0:
                total, _ = self._read_out(turn, context, hidden, modulation, gaussian, n, 1)
            pooled = _pool(silu(probe(hidden)), total, n).to(dtype)
            context = context + update(torch.cat([context, pooled], -1)).to(dtype)
            context = self.norm(context)
        modulation = self._modulation(-1, context)
        hidden = self.body(inputs, modulation)
        total, readout = self._read_out(-1, context, hidden, modulation, gaussian, n, NEWTON_STEPS)
        return Emission(CriticParameters(rho, modulation, readout), total[:, :n], total[:, n:])

    def evaluate(self, parameters: CriticParameters, pairs: Pairs) -> Tensor:
        """The critic at pairs in canonical coordinates: PMI in nats, shape (b, m)."""
        gaussian = gaussian_pmi(*pairs, parameters.rho)
        hidden = self.body(pair_inputs(*pairs, gaussian), parameters.modulation)
        features = self.body.features(hidden, parameters.modulation).to(gaussian.dtype)
        weights, bias = parameters.readout
        return gaussian + (features @ weights[..., None])[..., 0] + bias[:, None]

    def _modulation(self, turn: int, context: Tensor) -> Modulation:
        emitted = self.emit[turn](context).to(context.dtype)[:, None]
        scales, shifts = emitted.chunk(2, -1)
        units = self.body.units
        return Modulation(list((1 + scales).split(units, -1)), list(shifts.split(units, -1)))

    def _read_out(
        self,
        turn: int,
        context: Tensor,
        hidden: Tensor,
        modulation: Modulation,
        offset: Tensor,
        n: int,
        steps: int,
    ) -> tuple[Tensor, Readout]:
        """The critic's values at all pairs, and the readout that was solved for."""
        features = self.body.features(hidden, modulation)
        prior_mean = self.prior_mean[turn](context)
        if turn >= 0:
            features = features[..., :ROUGH_FEATURES]
            weights, bias = prior_mean[:, : features.shape[-1]], prior_mean[:, -1:]
            prior_mean = torch.cat([weights, bias], -1)
        with torch.autocast(features.device.type, enabled=False):
            features, prior_mean = features.to(offset.dtype), prior_mean.to(offset.dtype)
            # In units of their spread, features cannot escape the penalty by growing, nor can
            # training silence them by making them small.
            centre, spread = features.mean(1), features.std(1) + 1e-3
            amplitude = self.body.amplitudes(modulation)[:, : spread.shape[-1]] / spread
            standard = (features - centre[:, None]) * amplitude[:, None]
            constant = torch.ones_like(standard[..., :1])
            standard = torch.cat([standard, constant], -1)
            weights = solve_readout(standard, offset, n, prior_mean, steps)
            total = offset + (standard @ weights[..., None])[..., 0]
            weights, bias = weights[:, :-1] * amplitude, weights[:, -1]
            return total, Readout(weights, bias - (weights * centre).sum(-1))


def _statistics(rho: Tensor, widths: Tensor, n: int) -> Tensor:
    """What is known of a data set before its pairs are read, shape (b, 4 · width + 2)."""
    width = rho.shape[-1]
    present = one_hot(widths - 1, width).flatten(1).to(rho.dtype)
    size = torch.full_like(rho[:, :1], (math.log(n) - 6.5) / 1.5)
    noise = (widths.sum(-1, keepdim=True) / n).sqrt().to(rho.dtype)
    return torch.cat([rho, rho.atanh(), present, size, noise], -1)


def _pool(probes: Tensor, total: Tensor, n: int) -> Tensor:
    """Residual-weighted means of the probes, plain and as z-scores, and their plain mean."""
    total = total.to(probes.dtype)
    joint, shuffled = probes[:, :n], probes[:, n:]
    missed = (1 - total[:, :n].sigmoid())[:, None] @ joint / n
    invented = total[:, n:].sigmoid()[:, None] @ shuffled / shuffled.shape[1]
    # At least float32, also where the probes are of a lower precision.
    dtype = torch.promote_types(probes.dtype, torch.float32)
    gap = (missed - invented)[:, 0].to(dtype)
    pooled = torch.cat([gap, gap * math.sqrt(n), shuffled.mean(1).to(dtype)], -1)
    return pooled.sign() * pooled.abs().log1p()
