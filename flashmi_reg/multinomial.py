r"""Readouts over classes: weights of features or of experts, solved for in a few Newton steps.

They minimise the ridge-penalised cross-entropy of a multinomial logistic model, convex in W,

    −mean_i log p(c_i|x_i) + |W|²/(2n),   log p(c|x) = log softmax_c(offset_c(x) + φ(x)·W_c).

A unit penalty is no restriction: the scale of each feature sets how strongly it is penalised.
:func:`solve_classes` has weights W_c of each class; :func:`listen` has one set w ≥ 0 for all
classes, where each class has features φ_c of its own: what several experts say of it.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["ClassReadout", "cross_entropy", "leave_one_out", "listen", "solve_classes"]

# Shares of a step of which the best is taken; zero, so that no step goes uphill.
STEP_LENGTHS = (1.0, 1.5, 0.6, 0.3, 0.1, 0.0)
# Below this offset a class is absent.
ABSENT = -1e3
# Conjugate-gradient steps of the backward pass, preconditioned by the blocks of the classes.
GRADIENT_STEPS = 30
# Log odds against dependence before the samples are seen. Independent samples yield gains of 0–3.
DOUBT = 3.0
# Newton steps on the weights of experts, and shares of a step of which the best is taken.
HEARING_STEPS = 6
HEARING_LENGTHS = (1.0, 0.5, 0.25, 0.1, 0.0)
# Least share of itself that a sample keeps when it is left out.
MIN_KEPT = 0.05


class ClassReadout(NamedTuple):
    """A solved readout.

    Attributes:
        logits: unnormalised log p(c|x) at the samples, shape (b, n, C).
        weights: of the features, shape (b, M, C).
    """

    logits: Tensor
    weights: Tensor


def solve_classes(
    features: Tensor, offset: Tensor, target: Tensor, iterations: int, start: Tensor | None = None
) -> ClassReadout:
    """Minimises the objective; gradients are those of the exact minimiser.

    Each step solves one system a class, whose curvature stands in for the coupling of the classes
    as well, and is taken at the best of a few lengths.

    Args:
        features: φ, shape (b, n, M).
        offset: logits before the readout, shape (b, n, C); very negative for an absent class.
        target: one-hot classes, shape (b, n, C).
        iterations: number of steps.
        start: weights to start from, shape (b, M, C); zero by default. No gradient passes to them.
    """
    if start is None:
        start = features.new_zeros(features.shape[0], features.shape[2], offset.shape[2])
    return ClassReadout(
        *_Readout.apply(features, offset, target.to(offset.dtype), start.detach(), iterations)
    )


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """−mean log p(c_i|x_i), shape (b, n, C) → (b,), in nats."""
    return -(logits.log_softmax(-1) * target).sum(-1).mean(-1)


def leave_one_out(features: Tensor, logits: Tensor, target: Tensor) -> Tensor:
    r"""What the readout would say of each sample had it not been among those it was fitted to.

    Approximate (one step, one system a class): with the leverage a_ic = φ_iᵀ H_c⁻¹ φ_i and the
    curvature h_ic, the logit of class c moves by (p_ic − [c = c_i]) a_ic / (n − h_ic a_ic).

    Args:
        features: what :func:`solve_classes` was given, shape (b, n, M).
        logits: what it returned, shape (b, n, C).
        target: one-hot classes, shape (b, n, C).

    Returns:
        Logits of shape (b, n, C).
    """
    n = features.shape[1]
    chance = logits.softmax(-1)
    curvature = _curvature(chance)
    factor = _factor(features, curvature)
    whitened = torch.linalg.solve_triangular(factor, features[:, None].mT, upper=False)
    leverage = whitened.square().sum(2).mT / n
    kept = (1 - curvature * leverage).clamp_min(MIN_KEPT)
    return logits + (chance - target) * leverage / kept


def listen(left_out: Tensor, target: Tensor, prior: Tensor) -> Tensor:
    r"""Weights w ≥ 0 of experts: p(c|x) ∝ p(c) exp(Σ_k w_k · ratio_k(x, c)), shape (b, K).

    They minimise the cross-entropy of what the experts say of samples left out, with a unit ridge
    (a prior on w of variance one). Each Newton step solves its bounded problem exactly, over all
    sets of experts that are heard. Gradients are those of the exact minimiser: one more step, zero
    in value, whose residual alone is differentiated.

    Weighed against them is that nothing depends on x: all weights are multiplied by the chance,
    σ(n · gain − DOUBT), that the gain over p(c) alone is no accident.

    Args:
        left_out: log ratios of the experts, shape (b, n, C, K).
        target: one-hot classes, shape (b, n, C).
        prior: log p(c) without each sample, shape (b, n, C), −inf for an absent class.
    """
    n, k = left_out.shape[1], left_out.shape[-1]
    offset = prior.clamp_min(-1e4)
    lengths = torch.tensor(HEARING_LENGTHS, device=left_out.device, dtype=left_out.dtype)
    eye = torch.eye(k, device=left_out.device, dtype=left_out.dtype)

    def chance_of(ratios: Tensor, weights: Tensor) -> Tensor:
        return (offset + (ratios @ weights[:, None, :, None])[..., 0]).softmax(-1)

    def slope_of(ratios: Tensor, weights: Tensor, chance: Tensor) -> Tensor:
        pull = torch.einsum("bnc,bnck->bk", chance - target, ratios) / n
        return pull + weights / n

    def bend_of(ratios: Tensor, chance: Tensor) -> Tensor:
        mean = (chance[..., None] * ratios).sum(2, keepdim=True)
        spread = ((ratios - mean) * chance[..., None].sqrt()).flatten(1, 2)
        return (spread.mT @ spread + eye) / n

    with torch.no_grad():
        weights = torch.zeros_like(left_out[:, 0, 0])
        for _ in range(HEARING_STEPS):
            chance = chance_of(left_out, weights)
            slope = slope_of(left_out, weights, chance)
            hessian = bend_of(left_out, chance)
            step = _bounded(hessian, (hessian @ weights[..., None])[..., 0] - slope) - weights
            tried = weights[:, None] + lengths[:, None] * step[:, None]
            logits = offset[:, None] + torch.einsum("bnck,blk->blnc", left_out, tried)
            loss = logits.logsumexp(-1) - (logits * target[:, None]).sum(-1)
            objective = loss.mean(-1) + tried.square().sum(-1) / (2 * n)
            best = objective.argmin(-1)[:, None, None].expand(-1, 1, k)
            weights = tried.gather(1, best)[:, 0].clamp_min(0)
    if left_out.requires_grad:
        chance = chance_of(left_out, weights)
        slope = slope_of(left_out, weights, chance)
        with torch.no_grad():
            heard = (weights > 0).to(weights)
            hessian = bend_of(left_out, chance)
            hessian = hessian * heard[:, :, None] * heard[:, None] + torch.diag_embed(1 - heard)
        moved = torch.linalg.solve(hessian, (slope * heard)[..., None])[..., 0]
        weights = weights - (moved - moved.detach())
    logits = offset + (left_out @ weights[:, None, :, None])[..., 0]
    gain = cross_entropy(offset, target) - cross_entropy(logits, target)
    return weights * (n * gain - DOUBT).sigmoid()[:, None]


class _Readout(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, features: Tensor, offset: Tensor, target: Tensor, start: Tensor, iterations: int
    ) -> tuple[Tensor, Tensor]:
        n = features.shape[1]
        lengths = torch.tensor(STEP_LENGTHS, device=features.device, dtype=features.dtype)
        present = (offset[:, :1] > ABSENT).to(features.dtype)
        count = present.sum(-1, keepdim=True)
        weights = start
        logits = offset + features @ weights
        for _ in range(iterations):
            chance = logits.softmax(-1)
            slope = features.mT @ (chance - target) / n + weights / n
            step = -_block_solve(_factor(features, _curvature(chance)), slope)
            # What all classes share changes no probability and only costs ridge.
            step = (step - (step * present).sum(-1, keepdim=True) / count) * present
            change = features @ step
            tried = logits[:, None] + lengths[:, None, None] * change[:, None]
            fit = (tried.logsumexp(-1) - (tried * target[:, None]).sum(-1)).mean(-1)
            penalty = _squared(weights, step, lengths) / (2 * n)
            objective = fit + penalty
            length = lengths[objective.argmin(-1)][:, None, None]
            weights, logits = weights + length * step, logits + length * change
        ctx.save_for_backward(features, target, logits, weights)
        return logits, weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logits: Tensor, grad_weights: Tensor) -> tuple[Tensor | None, ...]:
        # At the minimum Φᵀr + W/n = 0 with r = (p − y)/n, hence dW = −H⁻¹(dΦᵀ r + Φᵀ S (dΦ W +
        # d offset)), where S = (diag p − p pᵀ)/n acts on the logits of each sample.
        features, target, logits, weights = ctx.saved_tensors
        n = features.shape[1]
        chance = logits.softmax(-1)
        factor = _factor(features, _curvature(chance))

        def curve(change: Tensor) -> Tensor:
            return chance * (change - (chance * change).sum(-1, keepdim=True)) / n

        def hessian(w: Tensor) -> Tensor:
            return features.mT @ curve(features @ w) + w / n

        grad = grad_weights + features.mT @ grad_logits
        solved = _conjugate_gradient(hessian, factor, grad)
        grad_offset = grad_logits - curve(features @ solved)
        residual = (chance - target) / n
        grad_features = grad_offset @ weights.mT - residual @ solved.mT
        return grad_features, grad_offset, None, None, None


def _squared(weights: Tensor, step: Tensor, lengths: Tensor) -> Tensor:
    """|weights + length · step|² of each length, shape (b, L)."""
    square, mixed, far = (
        (a * b).sum((-2, -1))[:, None]
        for a, b in ((weights, weights), (weights, step), (step, step))
    )
    return square + 2 * lengths * mixed + lengths.square() * far


def _curvature(chance: Tensor) -> Tensor:
    r"""Of the cross-entropy in the logit of each class, with the others moving against it.

    p_c(1 − p_c) is the diagonal; the others' part is exact where all other classes are equally
    likely, or only one of them is possible.
    """
    others = (chance.square().sum(-1, keepdim=True) - chance.square()).clamp_min(0)
    rest = (1 - chance).clamp_min(torch.finfo(chance.dtype).eps)
    return chance * (rest + others / rest)


def _factor(features: Tensor, curvature: Tensor) -> Tensor:
    """Cholesky factors of each class's block of the Hessian, shape (b, C, M, M)."""
    n, m = features.shape[1:]
    weighted = features[:, None] * curvature.mT[..., None]
    eye = torch.eye(m, device=features.device, dtype=features.dtype)
    hessian = (weighted.mT @ features[:, None] + eye) / n
    return torch.linalg.cholesky_ex(hessian)[0]


def _block_solve(factor: Tensor, right: Tensor) -> Tensor:
    """H_c⁻¹ of each class's column, shape (b, M, C)."""
    return torch.cholesky_solve(right.mT[..., None], factor)[..., 0].mT


def _conjugate_gradient(hessian: Any, factor: Tensor, right: Tensor) -> Tensor:
    solved = _block_solve(factor, right)
    residual = right - hessian(solved)
    ready = _block_solve(factor, residual)
    direction, size = ready, (residual * ready).sum((-2, -1), keepdim=True)
    for _ in range(GRADIENT_STEPS):
        image = hessian(direction)
        bend = (direction * image).sum((-2, -1), keepdim=True)
        length = torch.where(bend > 0, size / torch.where(bend > 0, bend, 1.0), 0.0)
        solved, residual = solved + length * direction, residual - length * image
        ready = _block_solve(factor, residual)
        now = (residual * ready).sum((-2, -1), keepdim=True)
        share = torch.where(size > 0, now / torch.where(size > 0, size, 1.0), 0.0)
        direction, size = ready + share * direction, now
    return solved


def _bounded(hessian: Tensor, right: Tensor) -> Tensor:
    """The minimiser of ½ wᵀHw − rᵀw over w ≥ 0, by trying every set of nonzero entries."""
    k = right.shape[-1]
    sets = torch.tensor(
        list(itertools.product((0.0, 1.0), repeat=k)), device=right.device, dtype=right.dtype
    )
    outer = sets[:, :, None] * sets[:, None]
    blocks = hessian[:, None] * outer + torch.diag_embed(1 - sets)
    solved = torch.linalg.solve(blocks, (right[:, None] * sets)[..., None])[..., 0]
    gain = (solved * right[:, None]).sum(-1).masked_fill((solved < 0).any(-1), -math.inf)
    return solved.gather(1, gain.argmax(-1)[:, None, None].expand(-1, 1, k))[:, 0]
