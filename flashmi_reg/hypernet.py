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
    donsker_varadhan,
    gaussian_pmi,
    pair_inputs,
)
from .readout import (
    ITERATIONS,
    LEVELS,
    Loudness,
    choose_loudness,
    leave_one_out,
    solve_readout,
)

__all__ = ["Architecture", "CriticParameters", "Emission", "HyperNetwork", "Pairs", "Readout"]

MAX_CORRELATION = 0.9999
# A part of the features tells how loud they all may be, and where later rounds find residuals.
ROUGH_FEATURES = 64
ROUGH_ITERATIONS = 3
# The network moves the loudness that leave-one-out chose by at most this much, in logs.
MAX_CORRECTION = 3.0
# A feature of less spread is not scaled up to unit spread: few pairs would make it up.
MIN_SPREAD = 0.2
# Units of the heads that correct loudness and optimism.
HEAD = 64


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
    features: int = 256
    context: int = 256
    rounds: int = 1


class Pairs(NamedTuple):
    """Pairs of points in canonical coordinates, each of shape (b, m, width)."""

    u: Tensor
    v: Tensor


class Readout(NamedTuple):
    """An affine function of the features: weights, shape (b, features), and bias, shape (b,)."""

    weights: Tensor
    bias: Tensor


class Scaling(NamedTuple):
    """What standardises features: centre and factor, each of shape (b, features)."""

    centre: Tensor
    factor: Tensor


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
        optimism: by how much the Donsker–Varadhan value at these pairs overstates the information,
            since the critic was read off them, shape (b,).
    """

    parameters: CriticParameters
    joint: Tensor
    shuffled: Tensor
    optimism: Tensor


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
            nn.Linear(a.context, 2 * sum(self.body.units) + a.features) for _ in range(a.rounds + 1)
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
        evidence = len(LEVELS) + 3
        self.correct = nn.Sequential(
            nn.Linear(a.context + evidence, HEAD), nn.SiLU(), nn.Linear(HEAD, 1)
        )
        self.temper = nn.Sequential(
            nn.Linear(a.context + evidence + 4, HEAD), nn.SiLU(), nn.Linear(HEAD, 2)
        )
        # Contexts would otherwise grow round by round. They are of length one, not √units, or one
        # optimizer step on the emitting layers would move all that they emit by a large amount.
        self.norm = nn.LayerNorm(a.context)
        nn.init.constant_(self.norm.weight, 1 / math.sqrt(a.context))
        for layer in (self.shrink, *self.emit):
            nn.init.normal_(layer.weight, std=0.05)
            nn.init.zeros_(layer.bias)
        for head in (self.correct, self.temper):
            nn.init.zeros_(head[-1].weight)
            nn.init.zeros_(head[-1].bias)
        # Half the gap between fit and leave-one-out is optimism, where the critic is the right one.
        nn.init.constant_(self.temper[-1].bias, -math.log(3))
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
                features, _ = self._standard(hidden, modulation, ROUGH_FEATURES)
                with _full_precision(features):
                    total = solve_readout(features, gaussian, n, ROUGH_ITERATIONS).values
            pooled = _pool(silu(probe(hidden)), total, n).to(dtype)
            context = context + update(torch.cat([context, pooled], -1)).to(dtype)
            context = self.norm(context)
        modulation = self._modulation(-1, context)
        hidden = self.body(inputs, modulation)
        features, scaling = self._standard(hidden, modulation)
        loudness = self._loudness(features, gaussian, n)
        correction = self.correct(torch.cat([context, loudness.evidence], -1)).to(dtype)
        level = loudness.level + MAX_CORRECTION * correction.tanh()
        # The constant, last, keeps its own.
        features = torch.cat([features[..., :-1] * level.exp()[:, None], features[..., -1:]], -1)
        with _full_precision(features):
            total, weights = solve_readout(features, gaussian, n, ITERATIONS)
        optimism = self._optimism(features, total, context, loudness, data.widths, n)
        weights, bias = weights[:, :-1] * level.exp() * scaling.factor, weights[:, -1]
        readout = Readout(weights, bias - (weights * scaling.centre).sum(-1))
        parameters = CriticParameters(rho, modulation, readout)
        return Emission(parameters, total[:, :n], total[:, n:], optimism)

    def evaluate(self, parameters: CriticParameters, pairs: Pairs) -> Tensor:
        """The critic at pairs in canonical coordinates: PMI in nats, shape (b, m)."""
        gaussian = gaussian_pmi(*pairs, parameters.rho)
        hidden = self.body(pair_inputs(*pairs, gaussian), parameters.modulation)
        features = self.body.features(hidden, parameters.modulation).to(gaussian.dtype)
        weights, bias = parameters.readout
        return gaussian + (features @ weights[..., None])[..., 0] + bias[:, None]

    def _modulation(self, turn: int, context: Tensor) -> Modulation:
        emitted = self.emit[turn](context).to(context.dtype)[:, None]
        units = self.body.units
        scales, shifts, accents = emitted.split(
            [sum(units), sum(units), self.architecture.features], -1
        )
        return Modulation(
            list((1 + scales).split(units, -1)),
            list(shifts.split(units, -1)),
            accents[:, 0].tanh(),
        )

    def _standard(
        self, hidden: Tensor, modulation: Modulation, features: int | None = None
    ) -> tuple[Tensor, Scaling]:
        """Features in units of their spread times their amplitudes, and a constant one, last.

        In these units features cannot escape the penalty by growing.
        """
        values = self.body.features(hidden, modulation)[..., :features]
        values = values.to(modulation.accents.dtype)
        centre = values.mean(1)
        variance = (values.square().mean(1) - centre.square()).clamp_min(0)
        factor = self.body.amplitudes(modulation)[:, :features]
        factor = factor * (variance + MIN_SPREAD**2).rsqrt()
        values = (values - centre[:, None]) * factor[:, None]
        return torch.cat([values, torch.ones_like(values[..., :1])], -1), Scaling(centre, factor)

    def _loudness(self, features: Tensor, offset: Tensor, n: int) -> Loudness:
        # In training, what is chosen guides the features and is not guided by them.
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.training):
            rough = torch.cat([features[..., :ROUGH_FEATURES], features[..., -1:]], -1)
            with _full_precision(features):
                return choose_loudness(rough, offset, n)

    def _optimism(
        self,
        features: Tensor,
        total: Tensor,
        context: Tensor,
        loudness: Loudness,
        widths: Tensor,
        n: int,
    ) -> Tensor:
        """Shares, which the network emits, of two excesses of an in-sample estimate.

        They are the gap between the critic's fit and its leave-one-out, and dx · dy / 2n, the bias
        of a Gaussian estimate; both of first order in 1/n.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.training):
            with _full_precision(features):
                fresh = leave_one_out(features, total, n)
            gap = (total - fresh)[:, :n].mean(-1)
            value = donsker_varadhan(total[:, :n], total[:, n:])
            gaussian = widths.prod(-1).to(gap.dtype) / (2 * n)
            root = math.sqrt(n)
            inputs = torch.stack([value, gap, (root * gap).log1p(), (root * gaussian).log1p()], -1)
            inputs = torch.cat([loudness.evidence, inputs], -1)
        shares = 2 * self.temper(torch.cat([context, inputs], -1)).to(gap.dtype).sigmoid()
        return (shares * torch.stack([gap, gaussian], -1)).sum(-1)


def _full_precision(tensor: Tensor) -> torch.autocast:
    return torch.autocast(tensor.device.type, enabled=False)


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
