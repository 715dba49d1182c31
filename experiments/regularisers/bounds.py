"""The competing measures of dependence, as functions of a batch: CLUB, InfoNCE and HSIC."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["channel_club", "gaussian_club", "info_nce", "label_club", "normalised_hsic"]


def gaussian_club(mean: Tensor, log_variance: Tensor, y: Tensor) -> Tensor:
    r"""CLUB with a Gaussian q(y|x): E_joint[log q] − E_product[log q], in nats.

    An upper bound of I(x; y) where q is the true conditional.

    Args:
        mean: of q at each x, shape (n, d).
        log_variance: of q at each x, shape (n, d).
        y: the paired samples, shape (n, d).

    References:
        | CLUB: A Contrastive Log-ratio Upper Bound of Mutual Information (Cheng et al., 2020)
        | https://arxiv.org/abs/2006.12013
    """
    # Σ_j (y_j − m_i)² / n needs the first two moments of y only.
    own = (y - mean).square()
    other = y.square().mean(0) - 2 * mean * y.mean(0) + mean.square()
    return 0.5 * ((other - own) / log_variance.exp()).sum(-1).mean()


def channel_club(signal: Tensor, received: Tensor, noise: float) -> Tensor:
    """CLUB of a channel that adds Gaussian noise of known size: an upper bound of I, in nats."""
    log_variance = torch.full_like(signal, 2 * math.log(noise))
    return gaussian_club(signal, log_variance, received)


def label_club(scores: Tensor, label: Tensor) -> Tensor:
    """CLUB with a categorical q(c|x): scores of shape (n, C), labels of shape (n,)."""
    log_q = scores.log_softmax(-1)
    share = F.one_hot(label, scores.shape[-1]).to(log_q).mean(0)
    return log_q.gather(1, label[:, None]).mean() - (log_q * share).sum(-1).mean()


def info_nce(x: Tensor, y: Tensor, temperature: float) -> Tensor:
    r"""InfoNCE with the critic cos(x, y)/temperature, over both sides: a lower bound, in nats.

    Args:
        x: shape (n, d).
        y: shape (n, d).
        temperature: of the critic.

    References:
        | Representation Learning with Contrastive Predictive Coding (van den Oord et al., 2018)
        | https://arxiv.org/abs/1807.03748
        | A Simple Framework for Contrastive Learning of Visual Representations (Chen et al., 2020)
        | https://arxiv.org/abs/2002.05709
    """
    table = F.normalize(x, dim=-1) @ F.normalize(y, dim=-1).T / temperature
    own = torch.arange(len(x), device=x.device)
    lost = F.cross_entropy(table, own) + F.cross_entropy(table.T, own)
    return math.log(len(x)) - lost / 2


def normalised_hsic(x: Tensor, y: Tensor) -> Tensor:
    r"""HSIC(x, y) / √(HSIC(x, x) HSIC(y, y)) with Gaussian kernels of the median distance.

    Between 0 and 1, no mutual information. The bandwidth is held fixed in the gradient.

    References:
        | Measuring Statistical Dependence with Hilbert-Schmidt Norms (Gretton et al., 2005)
        | https://doi.org/10.1007/11564089_7
    """
    a, b = _centred(x), _centred(y)
    return (a * b).sum() / (a.square().sum() * b.square().sum()).sqrt().clamp_min(1e-12)


def _centred(x: Tensor) -> Tensor:
    distance = (x[:, None] - x).square().sum(-1)
    kept = distance.detach()
    positive = kept[kept > 0]
    scale = positive.median() if len(positive) else distance.new_ones(())
    kernel = (-distance / scale).exp()
    rows = kernel.mean(0)
    return kernel - rows - rows[:, None] + rows.mean()
