r"""The critic T(x, y): a Gaussian-copula term plus features that a readout combines."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, silu, softplus

__all__ = [
    "Modulation",
    "PairFeatures",
    "RadialFeatures",
    "Values",
    "bounded_layer",
    "donsker_varadhan",
    "gaussian_pmi",
    "layer_of",
    "log_mean_exp",
    "norm_score",
    "pair_inputs",
]

# Initial variance gain of the layers: the readout of the untrained network already finds a part
# of most dependences.
GAIN = 2.0
# The Gaussian term goes no further below zero: exp of it is nothing, and where the data are not
# Gaussian, features would have to make up for hundreds of nats.
FLOOR = -12.0
# How many of the inputs of a pair tell its norms and its Gaussian term.
RADIAL_INPUTS = 4
# No shuffled pair may contribute more than this share to the mean of exp(T).
MAX_SHARE = 0.05


def gaussian_pmi(u: Tensor, v: Tensor, rho: Tensor) -> Tensor:
    r"""Pointwise mutual information of a Gaussian copula in canonical coordinates.

    Σ_k −½ log(1−ρ_k²) + [2 ρ_k u_k v_k − ρ_k² (u_k² + v_k²)] / (2 (1−ρ_k²)), in nats, levelling
    off smoothly at −12.

    Args:
        u: first side, shape (b, m, d).
        v: second side, shape (b, m, d).
        rho: canonical correlations below 1 in size, shape (b, d).

    Returns:
        PMI, shape (b, m).
    """
    rest = 1 - rho**2
    cross = (u * v) @ (rho / rest)[..., None]
    squares = (u**2 + v**2) @ (rho**2 / (2 * rest))[..., None]
    exact = (cross - squares)[..., 0] - 0.5 * rest.log().sum(-1, keepdim=True)
    return FLOOR + softplus(exact - FLOOR)


def pair_inputs(
    u: Tensor, v: Tensor, widths: Tensor, gaussian: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the features see of a pair.

    Args:
        u: first side, shape (b, m, d).
        v: second side, shape (b, m, d).
        widths: true widths of the sides, shape (b, 2).
        gaussian: the Gaussian term, shape (b, m).

    Returns:
        Both sides' coordinates, their products, and the `RADIAL_INPUTS`: both norms, their product
        and the Gaussian term; 3d + RADIAL_INPUTS numbers in all, to be joined along the last
        dimension.
    """
    u_norm, v_norm = norm_score(u, widths[:, :1]), norm_score(v, widths[:, 1:])
    # Of moderate size also where the Gaussian term is far below zero.
    level = gaussian.sign() * gaussian.abs().log1p()
    radial = torch.stack([u_norm, v_norm, u_norm * v_norm, level], 1).mT
    return u, v, u * v, radial


def norm_score(u: Tensor, width: Tensor) -> Tensor:
    r"""The norm of points, about standard normal if they are: (|u|²/d)^⅓, centred and scaled.

    The transform is that of Wilson & Hilferty (1931). A small constant keeps its slope finite where
    all coordinates are zero.

    Args:
        u: points, shape (b, m, d).
        width: number of coordinates that are not padding, shape (b, 1).

    Returns:
        Shape (b, m).
    """
    variance = 2 / (9 * width.to(u.dtype))
    root = (u.square().sum(-1) / width + 0.01).pow(1 / 3)
    return (root - 1 + variance) * variance.rsqrt()


class Values(NamedTuple):
    """A critic at pairs: joint ones, shape (b, n), and shuffled ones, shape (b, m)."""

    joint: Tensor
    shuffled: Tensor


class Modulation(NamedTuple):
    """What the hypernetwork emits for one data set: a scale and a shift for each unit.

    Attributes:
        scales: per layer, shape (b, 1, units); one in the neutral state.
        shifts: per layer, shape (b, 1, units); zero in the neutral state.
        accents: of the features' log-amplitudes, shape (b, features); at most one in size.
    """

    scales: list[Tensor]
    shifts: list[Tensor]
    accents: Tensor


class PairFeatures(nn.Module):
    """The critic's body: a residual MLP over pairs whose layers the hypernetwork modulates.

    Args:
        width: greatest number of coordinates of a side.
        bent: how many inputs precede those of :func:`pair_inputs`.
        hidden: units of each layer.
        layers: number of layers before the features.
        features: number of features that the readout combines.
    """

    def __init__(self, width: int, bent: int, hidden: int, layers: int, features: int) -> None:
        super().__init__()
        self.parts = (bent, width, width, width, RADIAL_INPUTS)
        self.first = nn.Linear(sum(self.parts), hidden)
        self.inner = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(layers - 1))
        self.last = nn.Linear(hidden, features)
        self.amplitude = nn.Parameter(torch.zeros(features))
        for layer in (self.first, *self.inner, self.last):
            nn.init.normal_(layer.weight, std=math.sqrt(GAIN / layer.in_features))
            nn.init.normal_(layer.bias, std=0.3)

    @property
    def units(self) -> list[int]:
        """Number of units of each modulated layer."""
        return [layer.out_features for layer in (self.first, *self.inner, self.last)]

    def forward(self, inputs: Tensor, modulation: Modulation) -> Tensor:
        """The last hidden layer of pairs (b, m, inputs), shape (b, m, hidden).

        They may be told in fewer coordinates than the greatest number: the others are zero.
        """
        weight = self._weight_of(inputs.shape[-1])
        weight, bias = _modulated(weight, self.first.bias, modulation, 0)
        hidden = silu(layer_of(weight, bias, inputs))
        for depth, layer in enumerate(self.inner, start=1):
            assert isinstance(layer, nn.Linear)
            weight, bias = _modulated(layer.weight, layer.bias, modulation, depth)
            hidden = hidden + silu(layer_of(weight, bias, hidden))
        return hidden

    def _weight_of(self, inputs: int) -> Tensor:
        """The first layer's weights of so many inputs."""
        bent, width, *_ = self.parts
        present = (inputs - bent - RADIAL_INPUTS) // 3
        if present == width:
            return self.first.weight
        bent_of, u, v, uv, radial = self.first.weight.split(self.parts, 1)
        return torch.cat([bent_of, *(part[:, :present] for part in (u, v, uv)), radial], 1)

    def features(self, hidden: Tensor, modulation: Modulation) -> Tensor:
        """The features that the readout combines, (b, m, hidden) → (b, m, features).

        They are bounded, so that a pair far out cannot get a value far out.
        """
        weight, bias = _modulated(self.last.weight, self.last.bias, modulation, -1)
        return bounded_layer(weight, bias, hidden)

    def amplitudes(self, modulation: Modulation) -> Tensor:
        """How strongly each feature may contribute beside the others, shape (b, features)."""
        return (self.amplitude + modulation.accents).exp()


class RadialFeatures(nn.Module):
    """Features of the norms of a pair alone: dependence through scale, of whatever width.

    Two norms are a plane, however many coordinates there are: what depends through them is found
    with far fewer samples than among features of all coordinates.

    Args:
        hidden: units of the hidden layer.
        features: number of features.
    """

    def __init__(self, hidden: int, features: int) -> None:
        super().__init__()
        self.first = nn.Linear(RADIAL_INPUTS, hidden)
        self.last = nn.Linear(hidden, features)
        self.amplitude = nn.Parameter(torch.zeros(features))
        for layer in (self.first, self.last):
            nn.init.normal_(layer.weight, std=math.sqrt(GAIN / layer.in_features))
            nn.init.normal_(layer.bias, std=0.5)

    def forward(self, inputs: Tensor) -> Tensor:
        """Of pair inputs (b, m, inputs), shape (b, m, features)."""
        hidden = silu(layer_of(self.first.weight, self.first.bias, inputs[..., -RADIAL_INPUTS:]))
        return bounded_layer(self.last.weight, self.last.bias, hidden)


def _modulated(
    weight: Tensor, bias: Tensor, modulation: Modulation, depth: int
) -> tuple[Tensor, Tensor]:
    """Weights and biases of a layer, scaled once per data set: cheaper than every activation."""
    scale, shift = modulation.scales[depth], modulation.shifts[depth]
    return weight * scale.mT, (bias * scale + shift).mT


def layer_of(weight: Tensor, bias: Tensor, inputs: Tensor) -> Tensor:
    """A linear layer at points (b, m, inputs), which lie in memory with the points last.

    Args:
        weight: shape (units, inputs), or (b, units, inputs).
        bias: shape (units,), or (b, units, 1).
        inputs: the points.
    """
    weight = weight.expand(len(inputs), -1, -1)
    return torch.baddbmm(bias if bias.ndim == 3 else bias[:, None], weight, inputs.mT).mT


def bounded_layer(weight: Tensor, bias: Tensor, inputs: Tensor) -> Tensor:
    """The hyperbolic tangent of :func:`layer_of`, moved and scaled to between zero and one.

    Features are centred and scaled where they are used, so that this changes nothing; the logistic
    function of twice the values is three times as fast on CPUs.
    """
    return layer_of(2 * weight, 2 * bias, inputs).sigmoid()


def log_mean_exp(joint: Tensor, shuffled: Tensor) -> Tensor:
    r"""log E[exp T] over shuffled pairs, guarded against single pairs that outweigh the rest.

    For a calibrated critic E_product[e^T s(T)] = E_joint[s(T)] with any weight s; so the part of
    the mean that lies above τ is read off the joint pairs, where it is well sampled:

        mean_shuffled e^T σ(τ − T) + mean_joint σ(T − τ),   τ = log(0.05 m).

    One of the m shuffled pairs then contributes at most 5 % of a mean of one. The idea is that of
    bridge sampling (Bennett, 1976; Meng & Wong, 1996).

    Args:
        joint: critic at joint pairs, shape (b, n).
        shuffled: critic at shuffled pairs, shape (b, m).

    Returns:
        Shape (b,).
    """
    return _log_mean_exp(joint, _guarded(shuffled), _cut(shuffled))


def _log_mean_exp(joint: Tensor, guarded: Tensor, cut: float) -> Tensor:
    below = guarded.logsumexp(-1) - math.log(guarded.shape[-1])
    above = logsigmoid(joint - cut).logsumexp(-1) - math.log(joint.shape[-1])
    return torch.logaddexp(below, above)


def donsker_varadhan(values: Values, control: Values) -> Tensor:
    r"""Donsker–Varadhan estimate mean T − log mean exp T in nats, with less noise, shape (b,).

    Shuffled pairs are a sample: where the information is high, few of them make up the mean of
    exp. The Gaussian term's own mean of exp is known to be one; what it is found to be at the same
    pairs tells what these happen to get wrong, and is subtracted times its regression coefficient
    (a control variate).

    Args:
        values: the critic.
        control: the Gaussian term at the same pairs.
    """
    cut = _cut(values.shuffled)
    # The critic and its Gaussian term as one batch: half the operations.
    joint = torch.stack([values.joint, control.joint])
    guarded = _guarded(torch.stack([values.shuffled, control.shuffled]))
    found, excess = _log_mean_exp(joint, guarded, cut)
    # What each pair has of the mean of exp beyond an equal share.
    share, reference = guarded.softmax(-1) - 1 / guarded.shape[-1]
    # An almost constant Gaussian term has nothing to tell.
    spread = reference.square().sum(-1) + 1e-6 / reference.shape[-1]
    coefficient = (share * reference).sum(-1) / spread
    return values.joint.mean(-1) - found + coefficient * excess


def _guarded(shuffled: Tensor) -> Tensor:
    """Values that level off where one pair would contribute more than its greatest share."""
    return shuffled - softplus(shuffled - _cut(shuffled))


def _cut(shuffled: Tensor) -> float:
    return math.log(MAX_SHARE * shuffled.shape[-1])
