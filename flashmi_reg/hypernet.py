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
from torch.nn.functional import one_hot, pad, silu

from .audition import Group, audition, full_precision, joined
from .canonical import Canonical, rows_of
from .critic import (
    Modulation,
    PairFeatures,
    RadialFeatures,
    Values,
    gaussian_pmi,
    pair_inputs,
)
from .readout import (
    ITERATIONS,
    LEVELS,
    leave_one_out,
    nce_loss,
    solve_readout,
)
from .variates import (
    INPUTS_PER_VARIATE,
    SideFeatures,
    Variates,
    canonical_variates,
    taken_back,
    variate_inputs,
    variate_values,
)

__all__ = [
    "Architecture",
    "CriticParameters",
    "Emission",
    "HyperNetwork",
    "Pairs",
    "Plain",
    "Readout",
    "Shuffle",
    "chance_information",
]

MAX_CORRELATION = 0.9999
# Samples of independent continuous variables correlate by far more than this.
NO_CORRELATION = 1e-6
# The network moves the loudness that leave-one-out chose by at most this much, in logs.
MAX_CORRECTION = 3.0
# Units of the head that corrects loudness.
HEAD = 64
# Share of the lean of variates that is taken back at pairs that were read: the truth lies between
# what is seen with it and without.
TAKEN_BACK = 0.5
# From so many samples on the critic must do better than a Gaussian copula to be heard. With fewer,
# what it adds where it is needed is lost in the noise of the comparison.
COMPARED_FROM = 4096
# By so much per pair, in nats: less is a thousandth or two of the information.
TOLERANCE = 5e-4


@dataclass(frozen=True)
class Architecture:
    """Sizes of the network.

    Attributes:
        width: greatest width of a side.
        hidden: units of the critic's layers.
        layers: number of the critic's layers before its features.
        features: number of features of all coordinates that the readout combines.
        radial: number of features of the norms alone.
        radial_hidden: units of the layer before them.
        side: number of functions of one side among which variates are sought, and units of the
            layer before them.
        variates: number of nonlinear canonical variates that the critic sees.
        context: units of the data set's description.
        rounds: how often residuals are pooled.
        auditioned: how many features of a group tell how loud all of them may be.
        auditions: Newton steps at each loudness tried, the last from where their weighted mean led.
    """

    width: int = 10
    hidden: int = 192
    layers: int = 3
    features: int = 208
    radial: int = 48
    radial_hidden: int = 64
    side: int = 96
    variates: int = 8
    context: int = 256
    rounds: int = 1
    auditioned: int = 64
    auditions: int = 2


class Pairs(NamedTuple):
    """Pairs of points in canonical coordinates, each of shape (b, m, width)."""

    u: Tensor
    v: Tensor


class Shuffle(NamedTuple):
    """Which samples make up pairs of the product of marginals.

    Attributes:
        first: places of their first points among the joint pairs, shape (m,).
        second: places of their second points.
    """

    first: Tensor
    second: Tensor

    def of(self, pairs: tuple[Tensor, Tensor]) -> Pairs:
        """The shuffled pairs of joint ones, or of functions of their sides, (b, n, *) each."""
        return Pairs(*(rows_of(*side) for side in zip(pairs, self, strict=True)))


class Readout(NamedTuple):
    """An affine function of all features, the radial ones first.

    Attributes:
        weights: shape (b, radial + features).
        bias: shape (b,).
    """

    weights: Tensor
    bias: Tensor


class Plain(NamedTuple):
    """A Gaussian copula, and how much of the critic there is beside it.

    Attributes:
        rho: its canonical correlations, those of the samples, shape (b, width).
        share: weight of the critic in the average of both, shape (b,).
    """

    rho: Tensor
    share: Tensor

    def average(self, critic: Tensor, plain: Tensor) -> Tensor:
        """What both say, each of shape (b,) or (b, m); in the precision of the critic's."""
        share = self.share.to(critic.dtype)
        share = share if critic.ndim == 1 else share[:, None]
        return torch.lerp(plain.to(critic.dtype), critic, share)


class CriticParameters(NamedTuple):
    """All that makes a critic in canonical coordinates.

    Attributes:
        rho: shrunken canonical correlations of the Gaussian term, shape (b, width).
        widths: true widths of the sides, shape (b, 2).
        variates: nonlinear canonical variates.
        modulation: scales and shifts of the features' layers.
        readout: from features to the critic's value.
        plain: what the critic is averaged with, where there are enough samples to tell.
    """

    rho: Tensor
    widths: Tensor
    variates: Variates
    modulation: Modulation
    readout: Readout
    plain: Plain | None = None


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
        statistics = 2 * a.width + 2 * a.width + 2 + a.variates
        self.describe = nn.Sequential(
            nn.Linear(statistics, a.context), nn.SiLU(), nn.Linear(a.context, a.context)
        )
        self.shrink = nn.Linear(a.context, a.width)
        self.radial = RadialFeatures(a.radial_hidden, a.radial)
        self.side = SideFeatures(a.width, a.side, a.side)
        bent = INPUTS_PER_VARIATE * a.variates
        self.body = PairFeatures(a.width, bent, a.hidden, a.layers, a.features)
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
        self.correct = _correction(a.context + evidence)
        # Contexts would otherwise grow round by round. They are of length one, not √units, or one
        # optimizer step on the emitting layers would move all that they emit by a large amount.
        self.norm = nn.LayerNorm(a.context)
        nn.init.constant_(self.norm.weight, 1 / math.sqrt(a.context))
        for layer in (self.shrink, *self.emit):
            nn.init.normal_(layer.weight, std=0.05)
            nn.init.zeros_(layer.bias)
        nn.init.constant_(self.shrink.bias, 4.0)

    def forward(
        self, data: Canonical, joint: Pairs, shuffle: Shuffle, *, hold: bool = False
    ) -> Emission:
        """Reads the pairs of a data set and returns its critic, with the critic's values there.

        Args:
            data: the data set's canonical form; its correlations, widths and n are used.
            joint: joint pairs, in as many coordinates as the wider side has, or padded to more.
            shuffle: which of their points make up pairs of the product of marginals.
            hold: whether the critic is held fixed: gradients then reach the pairs as points at
                which it is evaluated, not as data that it was read off.
        """
        through = torch.set_grad_enabled
        tracked = torch.is_grad_enabled() and not hold
        dtype = self.shrink.weight.dtype
        n = joint.u.shape[1]
        rho = data.rho.to(dtype).clamp(0, MAX_CORRELATION)
        first, second = self._sides(joint, data.widths)
        with full_precision(joint.u), through(tracked):
            count = self.architecture.variates
            variates = canonical_variates(first, second, count, hold_rotation=self.training)
        with full_precision(joint.u):
            # Functions of one side alone are the same wherever a sample is paired.
            found = variate_values(variates, first, second)
            found = _followed(taken_back(variates, *found, TAKEN_BACK), shuffle.of(found))
        pairs = _followed(joint, shuffle.of(joint))
        width = self.architecture.width
        statistics = _statistics(rho, data.widths, n, variates, width)
        context = self.norm(self.describe(statistics).to(dtype))
        rho = rho * self.shrink(context)[:, : rho.shape[-1]].to(dtype).sigmoid()
        gaussian = gaussian_pmi(*pairs, rho)
        inputs = _inputs(pairs, data.widths, gaussian, variates, found)
        radial_features = self.radial(inputs)
        with through(tracked):
            amplitude = self.radial.amplitude.exp()
            radial = self._group(radial_features, amplitude, gaussian, n)
            context = self._read(context, inputs, radial.loudness.values, n)
        modulation = self._modulation(-1, context)
        fine_features = self.body.features(self.body(inputs, modulation), modulation)
        with through(tracked):
            fine = self._fine(fine_features, modulation, radial.loudness.values, n)
            evidence = torch.cat([radial.loudness.evidence, fine.loudness.evidence], -1)
            correction = self.correct(torch.cat([context, evidence], -1)).to(dtype).tanh()
            choir = joined([radial, fine], MAX_CORRECTION * correction)
            with full_precision(gaussian):
                solution = solve_readout(choir.features, gaussian, n, ITERATIONS, choir.start)
            factor = choir.scaling.factor
            weights = solution.weights[:, : factor.shape[-1]] * factor
            bias = solution.weights[:, -1] - (weights * choir.scaling.centre).sum(-1)
            readout = Readout(weights, bias)
            parameters = CriticParameters(rho, data.widths, variates, modulation, readout)
        values = solution.values
        compared = n >= COMPARED_FROM and not self.training
        with through(tracked and not self.training):
            with full_precision(gaussian):
                told = None if compared else n
                fresh = leave_one_out(choir.features, values, n, first=told)
            optimism = _optimism(data, rho, (values[:, :n] - fresh[:, :n]).mean(-1))
            if compared:
                plain = self._plain(data, parameters, pairs, fresh - values, values)
                parameters = parameters._replace(plain=plain)
        if hold and torch.is_grad_enabled():  # the same values, by another way for the gradients
            values = _read_out(radial_features, fine_features, readout, gaussian)
        return Emission(
            parameters,
            Values(values[:, :n], values[:, n:]),
            Values(gaussian[:, :n], gaussian[:, n:]),
            optimism,
        )

    def evaluate(
        self, parameters: CriticParameters, pairs: Pairs, *, back: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """The critic at pairs in canonical coordinates, PMI in nats, and its Gaussian term.

        Each is of shape (b, m). `back` is for the joint pairs that it was read off: how much of the
        variates' lean is taken back there.
        """
        gaussian = gaussian_pmi(*pairs, parameters.rho)
        variates = parameters.variates
        with full_precision(gaussian):
            found = variate_values(variates, *self._sides(pairs, parameters.widths))
            if back > 0:
                found = taken_back(variates, *found, back)
        inputs = _inputs(pairs, parameters.widths, gaussian, variates, found)
        fine = self.body.features(self.body(inputs, parameters.modulation), parameters.modulation)
        return _read_out(self.radial(inputs), fine, parameters.readout, gaussian), gaussian

    def _read(self, context: Tensor, inputs: Tensor, coarse: Tensor, n: int) -> Tensor:
        """What is known of a data set once its residuals are pooled, round by round."""
        total = coarse
        for turn, (probe, update) in enumerate(zip(self.probe, self.update, strict=True)):
            modulation = self._modulation(turn, context)
            hidden = self.body(inputs, modulation)
            if turn > 0:
                features = self.body.features(hidden, modulation)
                total = self._fine(features, modulation, coarse, n).loudness.values
            pooled = _pool(silu(probe(hidden)), total, n).to(context.dtype)
            context = context + update(torch.cat([context, pooled], -1)).to(context.dtype)
            context = self.norm(context)
        return context

    def _sides(self, pairs: Pairs, widths: Tensor) -> list[Tensor]:
        """Functions of either side, each of shape (b, m, width + side)."""
        points = torch.cat([side.mT for side in pairs]).mT
        return list(self.side(points, widths.mT.reshape(-1, 1)).chunk(2))

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

    def _fine(self, features: Tensor, modulation: Modulation, offset: Tensor, n: int) -> Group:
        """The group of the features of all coordinates."""
        return self._group(features, self.body.amplitudes(modulation), offset, n)

    def _group(self, features: Tensor, amplitude: Tensor, offset: Tensor, n: int) -> Group:
        count, steps = self.architecture.auditioned, self.architecture.auditions
        return audition(
            features, amplitude, offset, n, count=count, steps=steps, frozen=self.training
        )

    def _plain(
        self,
        data: Canonical,
        parameters: CriticParameters,
        pairs: Pairs,
        moved: Tensor,
        values: Tensor,
    ) -> Plain:
        """Weighs the critic against a Gaussian copula, by how well each tells pairs left out.

        Averaged as models are, by exp(−n · loss) ("Information theory and mixing least-squares
        regressions", Leung & Barron, 2006): on Gaussian data what the readout makes of chance is
        not heard, and estimates are those of maximum likelihood.

        Args:
            data: canonical form of n samples.
            parameters: of the critic.
            pairs: those read, n joint ones first.
            moved: by how much the critic there changes once the readout has not seen the pair.
            values: the critic there.
        """
        n = data.u.shape[1]
        joint = Pairs(pairs.u[:, :n], pairs.v[:, :n])
        unread, _ = self.evaluate(parameters, joint, back=1.0)
        told = torch.cat([unread, values[:, n:]], 1) + moved
        rho = data.rho.clamp(0, MAX_CORRELATION)
        gain = nce_loss(gaussian_pmi(*pairs, rho.to(values.dtype)), n) - nce_loss(told, n)
        return Plain(rho, (n * (gain - TOLERANCE)).sigmoid())


def _optimism(data: Canonical, rho: Tensor, gap: Tensor) -> Tensor:
    """By how much the value at the pairs read overstates the information, shape (b,).

    Half the gap (b,) between fit and leave-one-out, plus what the Gaussian term found by chance.
    The former is the readout's, as the truth lies between the two. The latter is dx · dy / 2n
    where correlations are taken as found, and s (2 − s) of it where they are shrunken by s:
    what independent sides would have yielded. Both are of first order in 1/n.
    """
    found = data.rho.to(gap.dtype)
    # A constant side correlates with nothing, and nothing is fitted to it.
    shrinkage = (rho * found).sum(-1) / found.square().sum(-1).clamp_min(NO_CORRELATION**2)
    return 0.5 * gap + shrinkage * (2 - shrinkage) * chance_information(data).to(gap.dtype)


def chance_information(data: Canonical) -> Tensor:
    """What a Gaussian copula finds between independent sides on average, dx · dy / 2n, (b,)."""
    return data.widths.prod(-1).to(data.rho.dtype) / (2 * data.u.shape[1])


def _correction(inputs: int) -> nn.Sequential:
    """Corrections of the two loudnesses, which are zero before training."""
    last = nn.Linear(HEAD, 2)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(inputs, HEAD), nn.SiLU(), last)


def _followed(joint: tuple[Tensor, Tensor], shuffled: Pairs) -> Pairs:
    """Both sides of joint pairs and, after them, of shuffled ones."""
    sides = zip(joint, shuffled, strict=True)
    return Pairs(*(torch.cat([part.mT for part in side], -1).mT for side in sides))


def _inputs(
    pairs: Pairs,
    widths: Tensor,
    gaussian: Tensor,
    variates: Variates,
    found: tuple[Tensor, Tensor],
) -> Tensor:
    """All that the features see of pairs where variates were found so, the radial inputs last."""
    with full_precision(gaussian):
        bent = variate_inputs(variates, *found)
    return torch.cat([p.mT for p in (*bent, *pair_inputs(*pairs, widths, gaussian))], 1).mT


def _read_out(radial: Tensor, fine: Tensor, readout: Readout, gaussian: Tensor) -> Tensor:
    """The critic from its features at pairs, shape (b, m)."""
    features = torch.cat([radial.mT, fine.mT], 1).mT.to(gaussian.dtype)
    return gaussian + (features @ readout.weights[..., None])[..., 0] + readout.bias[:, None]


def _statistics(rho: Tensor, widths: Tensor, n: int, variates: Variates, width: int) -> Tensor:
    """What is known of a data set before its pairs are read, (b, 4 · width + 2 + variates)."""
    rho = pad(rho, (0, width - rho.shape[-1]))
    present = one_hot(widths - 1, width).flatten(1).to(rho.dtype)
    size = torch.full_like(rho[:, :1], (math.log(n) - 6.5) / 1.5)
    noise = (widths.sum(-1, keepdim=True) / n).sqrt().to(rho.dtype)
    return torch.cat([rho, rho.atanh(), present, size, noise, variates.correlation], -1)


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
