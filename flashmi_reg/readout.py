r"""The readout: weights of the critic's features, solved for in closed-form steps.

They minimise the ridge-penalised NCE objective (Gutmann & Hyvärinen, 2010), convex in w,

    mean_joint softplus(−T) + mean_shuffled softplus(T) + |w|² / (2n),   T = offset + w·φ.

A unit penalty is no restriction: the scale of each feature, which the network emits, sets how
strongly it is penalised.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus

__all__ = [
    "ITERATIONS",
    "LEVELS",
    "Loudness",
    "Solution",
    "choose_loudness",
    "leave_one_out",
    "nce_loss",
    "solve_readout",
]

# Newton steps: started from the auditions, what is left is below the noise of float32 up to about
# one nat, and changes the estimate by a few thousandths at two.
ITERATIONS = 3
# Logs of the factors on the features among which leave-one-out chooses; the first is silence.
LEVELS = (-8.0, -5.0, -4.0, -3.0, -2.0, -1.0, 0.0)
# Least share of itself that a pair keeps when it is left out.
MIN_KEPT = 0.05
# Shares of a Newton step of which the best is taken; zero, so that no step goes uphill.
STEP_LENGTHS = (1.0, 1.5, 0.75, 0.5, 0.25, 0.0)


class Solution(NamedTuple):
    """A solved readout.

    Attributes:
        values: the critic at the pairs, shape (b, n + m).
        weights: of the features, shape (b, M).
    """

    values: Tensor
    weights: Tensor


def solve_readout(
    features: Tensor, offset: Tensor, n: int, iterations: int, start: Tensor | None = None
) -> Solution:
    """Minimises the objective by a fixed number of Newton steps, the best length of each searched.

    Gradients are those of the exact minimiser (implicit function theorem), whose first derivatives
    need one more solve and no pass back through the steps.

    Args:
        features: φ at n joint pairs, followed by m shuffled ones, shape (b, n + m, M).
        offset: the critic before the readout, shape (b, n + m).
        n: number of joint pairs.
        iterations: number of steps.
        start: weights to start from, shape (b, M); zero by default. No gradient passes to them.
    """
    start = torch.zeros_like(features[:, 0]) if start is None else start.detach()
    return Solution(*_Readout.apply(features, offset, start, n, iterations))


class _Readout(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, features: Tensor, offset: Tensor, start: Tensor, n: int, iterations: int
    ) -> tuple[Tensor, Tensor]:
        label, share, sign = _labels(features, n)
        lengths = torch.tensor(STEP_LENGTHS, device=features.device, dtype=features.dtype)[:, None]
        weights = start
        values = offset + torch.bmm(features, weights[..., None])[..., 0]
        for _ in range(iterations):
            chance = values.sigmoid()
            residual = share * (chance - label)
            slope = torch.bmm(residual[:, None], features)[:, 0] + weights / n
            factor, _ = torch.linalg.cholesky_ex(_hessian(features, chance, share, 1 / n))
            step = -torch.cholesky_solve(slope[..., None], factor)[..., 0]
            change = torch.bmm(features, step[..., None])[..., 0]
            tried = torch.addcmul((sign * values)[:, None], lengths, (sign * change)[:, None])
            penalty = torch.addcmul(weights[:, None], lengths, step[:, None]).square().sum(-1)
            objective = softplus(tried) @ share + penalty / (2 * n)
            # Within rounding the full step counts as the best, so that the last ones are taken.
            objective[:, 0] -= 10 * torch.finfo(objective.dtype).eps
            length = lengths[objective.argmin(-1)]
            weights, values = weights + length * step, values + length * change
        ctx.n = n
        ctx.save_for_backward(features, values, weights, factor)
        return values, weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_values: Tensor, grad_weights: Tensor) -> tuple[Tensor | None, ...]:
        # At the minimum φᵀr(T) + w/n = 0 with r = share · (σ(T) − label), hence
        # dw = −H⁻¹ (dφᵀ r + φᵀ c (dφ w + d offset)), where c = share · σ′(T).
        features, values, weights, factor = ctx.saved_tensors
        label, share, _ = _labels(features, ctx.n)
        chance = values.sigmoid()
        grad = grad_weights + torch.bmm(grad_values[:, None], features)[:, 0]
        solved = torch.cholesky_solve(grad[..., None], factor)[..., 0]
        moved = share * _spread(chance) * torch.bmm(features, solved[..., None])[..., 0]
        grad_offset = grad_values - moved
        left = torch.stack([grad_offset, share * (label - chance)], 1)
        grad_features = torch.bmm(torch.stack([weights, solved], -1), left)
        return grad_features.mT, grad_offset, None, None, None


def leave_one_out(features: Tensor, values: Tensor, n: int, *, first: int | None = None) -> Tensor:
    r"""What the critic would say of each pair had it not been among those it was read off.

    Approximate (one Newton step): with the leverage a_i = φ_iᵀ H⁻¹ φ_i, the pair's weight s_i and
    c_i = s_i σ(T_i)(1 − σ(T_i)), a value moves by s_i (σ(T_i) − label_i) a_i / (1 − c_i a_i).

    Args:
        features: what :func:`solve_readout` was given, shape (b, n + m, M).
        values: the critic that it returned, shape (b, n + m).
        n: number of joint pairs.
        first: how many of the pairs to tell it of, the joint ones first; by default all.

    Returns:
        Shape (b, first), or (b, n + m).
    """
    labels = _labels(features, n)
    hessian = _hessian(features, values.sigmoid(), labels.share, 1 / n)
    factor = torch.linalg.cholesky_ex(hessian)[0]
    told, values = features[:, :first], values[:, :first]
    leverage = (torch.bmm(torch.cholesky_inverse(factor), told.mT) * told.mT).sum(1)
    return values + _left_out(values, leverage, Labels(*(part[:first] for part in labels)))


def _left_out(values: Tensor, leverage: Tensor, labels: Labels) -> Tensor:
    """By how much values change where their pair is left out; all of shape (*, pairs)."""
    chance = values.sigmoid()
    weighted = labels.share * leverage
    kept = torch.addcmul(chance.new_ones(()), _spread(chance), weighted, value=-1)
    # In exact arithmetic `kept` is positive; one step is no guide where it is nearly zero.
    return (chance - labels.label) * weighted / kept.clamp_min(MIN_KEPT)


def nce_loss(values: Tensor, n: int) -> Tensor:
    """Cross-entropy of telling n joint from m shuffled pairs, shape (*, n + m) → (*), in nats."""
    _, share, sign = _labels(values[..., None], n)
    return softplus(sign * values) @ share


class Loudness(NamedTuple):
    """How loudly the features may speak.

    Attributes:
        level: log of the factor on the features that serves new pairs best, shape (b, 1).
        values: the critic read out at about that level, shape (b, n + m).
        weights: of the features as they were given, which led to it, shape (b, M).
        evidence: for the network to correct that: signed log z-scores of the gain over the offset
            at each level, the level, the gain, and how far the critic fits better than it
            generalises, shape (b, len(LEVELS) + 3).
    """

    level: Tensor
    values: Tensor
    weights: Tensor
    evidence: Tensor


def choose_loudness(features: Tensor, offset: Tensor, n: int, steps: int) -> Loudness:
    """Judges a few levels of the features by leave-one-out, and averages them accordingly.

    The louder the features, the weaker the ridge on them. One level serves no two data sets: what
    a warped dependence needs overfits independent coordinates by tenths of a nat. The average is
    weighted by exp(−n · leave-one-out loss), so that it is smooth in the data.

    Args:
        features: φ in units of their spread, at n joint and m shuffled pairs, shape (b, n + m, M).
        offset: the critic without them, shape (b, n + m).
        n: number of joint pairs.
        steps: Newton steps at each level, the last from where their weighted mean led.
    """
    levels = torch.tensor(LEVELS, device=features.device, dtype=features.dtype)
    ridges = (-2 * levels).exp()[:, None] / n
    labels = _labels(features, n)
    before = nce_loss(offset, n)[:, None]
    values, weights = offset, torch.zeros_like(features[:, 0])
    for _ in range(steps):
        tried, found, leverage = _newton_steps(features, values, weights, labels, ridges)
        left_out = tried + _left_out(tried, leverage, labels)
        loss = nce_loss(left_out, n) - before
        weight = (-n * loss).softmax(-1)
        weights = torch.bmm(weight[:, None], found)[:, 0]
        values = offset + torch.bmm(features, weights[..., None])[..., 0]
    mean = (weight * levels).sum(-1, keepdim=True)
    fit = nce_loss(tried, n) - before
    score = -loss * math.sqrt(n)
    gain = -(weight * loss).sum(-1, keepdim=True)
    excess = (weight * (loss - fit)).sum(-1, keepdim=True) * math.sqrt(n)
    score = score.sign() * score.abs().log1p()
    evidence = torch.cat([score, mean, 3 * gain, excess], -1)
    return Loudness(mean, values, weights, evidence)


def _newton_steps(
    features: Tensor, values: Tensor, weights: Tensor, labels: Labels, ridges: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """One Newton step under each of several ridges, all by one eigendecomposition.

    Args:
        features: shape (b, n + m, M).
        values: the critic before the step, shape (b, n + m).
        weights: of the features before the step, shape (b, M).
        labels: of the pairs.
        ridges: on the squared weights, shape (L, 1).

    Returns:
        The critic after the step, shape (b, L, n + m); the weights, (b, L, M); the leverage
        φ_iᵀ H⁻¹ φ_i of each pair, (b, L, n + m).
    """
    chance = values.sigmoid()
    hessian = _hessian(features, chance, labels.share)
    with torch.no_grad():
        # Where training has diverged, the features carry NaN on; the decomposition would raise.
        # In single precision it also fails on the next to nothing that constant sides leave.
        plain = hessian.nan_to_num(0.0, 0.0, 0.0).double()
        curvature, axes = (part.to(hessian.dtype) for part in torch.linalg.eigh(plain))
    inverse = 1 / (curvature[:, None] + ridges)
    turned = torch.bmm(axes.mT, features.mT).mT
    before = torch.bmm(weights[:, None], axes)
    slope = torch.bmm((labels.share * (chance - labels.label))[:, None], turned) + ridges * before
    step = -slope * inverse
    leverage = torch.bmm(inverse, turned.square().mT)
    if hessian.requires_grad:
        # Zero in value, and what an inverse does when the matrix moves: −H⁻¹ dH H⁻¹.
        moved = (axes.mT @ (hessian - hessian.detach()) @ axes)[:, None]
        step = step - (step[:, :, None] @ moved)[:, :, 0] * inverse
        lifted = turned[:, None] * inverse[:, :, None]
        leverage = leverage - (lifted @ moved * lifted).sum(-1)
    after = values[:, None] + torch.bmm(step, turned.mT)
    return after, torch.bmm(before + step, axes.mT), leverage


class Labels(NamedTuple):
    """Of the pairs, each of shape (n + m,).

    Attributes:
        label: one for joint pairs, zero for shuffled ones.
        share: weight in the objective: joint pairs have a mean of their own, and so have others.
        sign: minus one for joint pairs, one for shuffled ones.
    """

    label: Tensor
    share: Tensor
    sign: Tensor


def _labels(features: Tensor, n: int) -> Labels:
    """Of n joint pairs, followed by shuffled ones, whose features (*, n + m, M) are given."""
    return _labels_of(n, features.shape[-2], features.dtype, features.device)


# A dozen uses in every estimate; what is first made in inference mode must serve training later.
@lru_cache(maxsize=16)
@torch.inference_mode(False)
def _labels_of(n: int, total: int, dtype: torch.dtype, device: torch.device) -> Labels:
    label = (torch.arange(total, device=device) < n).to(dtype)
    return Labels(label, label / n + (1 - label) / (total - n), 1 - 2 * label)


def _spread(chance: Tensor) -> Tensor:
    """Variance of a label that is one by `chance`, σ (1 − σ)."""
    return torch.addcmul(chance, chance, chance, value=-1)


def _hessian(features: Tensor, chance: Tensor, share: Tensor, ridge: float = 0.0) -> Tensor:
    """Of the objective where pairs are joint by `chance` (b, n + m), shape (b, M, M)."""
    curvature = share * _spread(chance)
    hessian = torch.bmm((features * curvature[..., None]).mT, features)
    if ridge:
        hessian.diagonal(dim1=-2, dim2=-1).add_(ridge)
    return hessian
