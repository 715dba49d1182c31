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
    RadialFeatures,
    Values,
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
# Samples of independent continuous variables correlate by far more than this.
NO_CORRELATION = 1e-6
# A part of the features tells how loud they all may be, and where later rounds find residuals.
ROUGH_FEATURES = 64
ROUGH_ITERATIONS = 3
# The network moves the loudness that leave-one-out chose by at most this much, in logs.
MAX_CORRECTION = 3.0
# A feature of less spread is not scaled up to unit spread: few pairs would make it up.
MIN_SPREAD = 0.2
# Units of the heads that correct loudness and optimism, and of the radial features.
HEAD = 64
RADIAL_HIDDEN = 64


@dataclass(frozen=True)
class Architecture:
    """Sizes of the network.

    Attributes:
        width: greatest width of a side.
        hidden: units of the critic's layers.
        layers: number of the critic's layers before its features.
        features: number of features of all coordinates that the readout combines.
        radial: number of features of the norms alone.
        context: units of the data set's description.
        rounds: how often residuals are pooled.
    """

    width: int = 10
    hidden: int = 192
    layers: int = 3
    features: int = 208
    radial: int = 48
    context: int = 256
    rounds: int = 1


class Pairs(NamedTuple):
    """Pairs of points in canonical coordinates, each of shape (b, m, width)."""

    u: Tensor
    v: Tensor


class Readout(NamedTuple):
    """An affine function of all features, the radial ones first.

    Attributes:
        weights: shape (b, radial + features).
        bias: shape (b,).
    """

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
        widths: true widths of the sides, shape (b, 2).
        modulation: scales and shifts of the features' layers.
        readout: from features to the critic's value.
    """

    rho: Tensor
    widths: Tensor
    modulation: Modulation
    readout: Readout


class Emission(NamedTuple):
    """A critic and its values at the pairs that the network has read.

    Attributes:
        parameters: what makes the critic.
        values: the critic at these pairs.
        gaussian: its Gaussian term there.
        optimism: by how much the Donsker–Varadhan value at these pairs overstates the information,
            since the critic was read off them, shape (b,).
    """

    parameters: CriticParameters
    values: Values
    gaussian: Values
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
        self.radial = RadialFeatures(RADIAL_HIDDEN, a.radial)
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
        evidence = 2 * (len(LEVELS) + 3)
        self.correct = _head(a.context + evidence, (0.0, 0.0))
        # Shares of one half and of one: of the gap between fit and leave-one-out, half is optimism
        # (the truth lies between), and dx · dy / 2n is that of a fitted Gaussian as it stands.
        self.temper = _head(a.context + evidence + 4, (-math.log(3), 0.0))
        # Contexts would otherwise grow round by round. They are of length one, not √units, or one
        # optimizer step on the emitting layers would move all that they emit by a large amount.
        self.norm = nn.LayerNorm(a.context)
        nn.init.constant_(self.norm.weight, 1 / math.sqrt(a.context))
        for layer in (self.shrink, *self.emit):
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
        inputs = pair_inputs(*pairs, data.widths, gaussian)
        radial, radial_scaling = _standardise(self.radial(inputs), self.radial.amplitude.exp())
        radial_loudness, coarse = self._audition(radial, gaussian, n)

        total = coarse
        for turn, (probe, update) in enumerate(zip(self.probe, self.update, strict=True)):
            modulation = self._modulation(turn, context)
            hidden = self.body(inputs, modulation)
            if turn > 0:
                _, total = self._audition(self._fine(hidden, modulation)[0], coarse, n)
            pooled = _pool(silu(probe(hidden)), total, n).to(dtype)
            context = context + update(torch.cat([context, pooled], -1)).to(dtype)
            context = self.norm(context)
        modulation = self._modulation(-1, context)
        fine, fine_scaling = self._fine(self.body(inputs, modulation), modulation)
        fine_loudness, _ = self._audition(fine, coarse, n)

        evidence = torch.cat([radial_loudness.evidence, fine_loudness.evidence], -1)
        levels = torch.cat([radial_loudness.level, fine_loudness.level], -1)
        correction = self.correct(torch.cat([context, evidence], -1)).to(dtype)
        loud = (levels + MAX_CORRECTION * correction.tanh()).exp()
        features = _with_constant(radial * loud[:, None, :1], fine * loud[:, None, 1:])
        with _full_precision(features):
            total, weights = solve_readout(features, gaussian, n, ITERATIONS)
        values = Values(total[:, :n], total[:, n:])
        reference = Values(gaussian[:, :n], gaussian[:, n:])
        # A constant side correlates with nothing, and nothing is fitted to it.
        fitted = data.widths.prod(-1) * (data.rho.amax(-1) > NO_CORRELATION)
        optimism = self._optimism(features, values, reference, context, evidence, fitted)
        factor = torch.cat(
            [radial_scaling.factor * loud[:, :1], fine_scaling.factor * loud[:, 1:]], -1
        )
        centre = torch.cat([radial_scaling.centre, fine_scaling.centre], -1)
        weights, bias = weights[:, :-1] * factor, weights[:, -1]
        readout = Readout(weights, bias - (weights * centre).sum(-1))
        parameters = CriticParameters(rho, data.widths, modulation, readout)
        return Emission(parameters, values, reference, optimism)

    def evaluate(self, parameters: CriticParameters, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """The critic at pairs in canonical coordinates, PMI in nats, and its Gaussian term.

        Each is of shape (b, m).
        """
        gaussian = gaussian_pmi(*pairs, parameters.rho)
        inputs = pair_inputs(*pairs, parameters.widths, gaussian)
        hidden = self.body(inputs, parameters.modulation)
        fine = self.body.features(hidden, parameters.modulation)
        features = torch.cat([self.radial(inputs), fine], -1).to(gaussian.dtype)
        weights, bias = parameters.readout
        value = gaussian + (features @ weights[..., None])[..., 0] + bias[:, None]
        return value, gaussian

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

    def _fine(self, hidden: Tensor, modulation: Modulation) -> tuple[Tensor, Scaling]:
        """Features of all coordinates, standardised."""
        return _standardise(
            self.body.features(hidden, modulation), self.body.amplitudes(modulation)
        )

    def _audition(self, features: Tensor, offset: Tensor, n: int) -> tuple[Loudness, Tensor]:
        """How loud features may be beside an offset, and what a few of them make of it."""
        # In training, what is chosen guides the features and is not guided by them.
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.training):
            rough = _with_constant(features[..., :ROUGH_FEATURES])
            with _full_precision(features):
                loudness = choose_loudness(rough, offset, n)
                loud = loudness.level.exp()[:, None]
                heard = _with_constant(rough[..., :-1] * loud)
                return loudness, solve_readout(heard, offset, n, ROUGH_ITERATIONS).values

    def _optimism(
        self,
        features: Tensor,
        values: Values,
        reference: Values,
        context: Tensor,
        evidence: Tensor,
        fitted: Tensor,
    ) -> Tensor:
        """Shares, which the network emits, of two excesses of an in-sample estimate.

        They are the gap between the critic's fit and its leave-one-out, and dx · dy / 2n, the bias
        of a Gaussian estimate; both of first order in 1/n.
        """
        n = values.joint.shape[1]
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.training):
            with _full_precision(features):
                fresh = leave_one_out(features, torch.cat(values, 1), n)
            gap = (values.joint - fresh[:, :n]).mean(-1)
            value = donsker_varadhan(values, reference)
            gaussian = fitted.to(gap.dtype) / (2 * n)
            root = math.sqrt(n)
            inputs = torch.stack([value, gap, (root * gap).log1p(), (root * gaussian).log1p()], -1)
            inputs = torch.cat([evidence, inputs], -1)
        if self.training:  # the error of the estimate teaches this head, and nothing before it
            context = context.detach()
        shares = 2 * self.temper(torch.cat([context, inputs], -1)).to(gap.dtype).sigmoid()
        return (shares * torch.stack([gap, gaussian], -1)).sum(-1)


def _head(inputs: int, start: tuple[float, float]) -> nn.Sequential:
    """Two numbers that are `start` before training."""
    last = nn.Linear(HEAD, 2)
    nn.init.zeros_(last.weight)
    with torch.no_grad():
        last.bias.copy_(torch.tensor(start))
    return nn.Sequential(nn.Linear(inputs, HEAD), nn.SiLU(), last)


def _standardise(values: Tensor, factor: Tensor) -> tuple[Tensor, Scaling]:
    """Features in units of their spread times a factor: they cannot escape the ridge by growing."""
    values = values.to(factor.dtype)
    centre = values.mean(1)
    variance = (values.square().mean(1) - centre.square()).clamp_min(0)
    factor = factor * (variance + MIN_SPREAD**2).rsqrt()
    return (values - centre[:, None]) * factor[:, None], Scaling(centre, factor)


def _with_constant(*features: Tensor) -> Tensor:
    return torch.cat([*features, torch.ones_like(features[0][..., :1])], -1)


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
