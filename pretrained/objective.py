"""The pretraining objective: the critic is regressed on the exact PMI at the pairs it read."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, huber_loss

from flashmi_reg.canonical import Canonical, canonicalise
from flashmi_reg.copula import normal_scores
from flashmi_reg.critic import log_mean_exp
from flashmi_reg.estimator import derange, rows_of, shuffle_copies
from flashmi_reg.hypernet import HyperNetwork, Pairs

from .prior import DataSets

__all__ = ["Batch", "Losses", "losses", "prepare", "soft_nce"]

# Loss of a data set beyond which its gradient no longer grows.
CAP = 0.5


class Batch(NamedTuple):
    """Data sets in canonical form with the exact PMI at the pairs that the network reads.

    Attributes:
        data: canonical form.
        joint: joint pairs.
        shuffled: pairs of the product of marginals.
        joint_pmi: exact PMI, shape (b, n).
        shuffled_pmi: exact PMI, shape (b, m).
    """

    data: Canonical
    joint: Pairs
    shuffled: Pairs
    joint_pmi: Tensor
    shuffled_pmi: Tensor

    def to(self, device: torch.device) -> Batch:
        """The batch on another device."""
        data = Canonical(*(part.to(device) for part in self.data))
        joint, shuffled = (Pairs(*(side.to(device) for side in p)) for p in self[1:3])
        return Batch(data, joint, shuffled, *(pmi.to(device) for pmi in self[3:]))

    @property
    def mi(self) -> Tensor:
        """The mean PMI of the samples at hand, shape (b,)."""
        return self.joint_pmi.mean(-1)


def prepare(groups: list[DataSets], width: int, generator: torch.Generator) -> Batch:
    """Brings groups of data sets of one sample size, but of any widths, into one batch."""
    n = groups[0].x.shape[1]
    first, second = derange(n, shuffle_copies(n), generator)
    forms, joint_pmi, shuffled_pmi = [], [], []
    for group in groups:
        form = canonicalise(normal_scores(group.x), normal_scores(group.y), width)
        # Where y became the first side, its points are those that `first` picks.
        picked_x = torch.where(form.swapped[:, None], second, first)
        picked_y = torch.where(form.swapped[:, None], first, second)
        joint_pmi.append(group.pmi())
        shuffled_pmi.append(
            group.log_ratio(rows_of(group.source_x, picked_x), rows_of(group.source_y, picked_y))
        )
        # The maps have a row per coordinate; no one needs them here.
        empty = form.u.new_zeros(form.u.shape[0], 0, width)
        forms.append(form._replace(x_map=empty, y_map=empty))
    data = Canonical(*(torch.cat(parts) for parts in zip(*forms, strict=True)))
    u, v = data.u.float(), data.v.float()
    return Batch(
        data,
        Pairs(u, v),
        Pairs(u[:, first], v[:, second]),
        torch.cat(joint_pmi).float(),
        torch.cat(shuffled_pmi).float(),
    )


class Losses(NamedTuple):
    """Parts of the objective, each of shape (b,), and the estimates beside the truth."""

    total: Tensor
    nce: Tensor
    estimate: Tensor


def losses(network: HyperNetwork, batch: Batch) -> Losses:
    r"""The weighted objective of each data set.

    KL(σ(T*) ‖ σ(T)) over joint and over shuffled pairs + 0.3 Huber(T, T*) over joint pairs
    + 0.5 Huber(estimate, MI) + 0.1 Huber(log mean exp T, 0), all over 1 + MI. Taken at the
    pairs that the network has read, its optimum is the posterior mean given the data set, so
    that overfitting, which maximising the Donsker–Varadhan bound rewards, is trained away.
    """
    _, joint, shuffled = network(batch.data, batch.joint, batch.shuffled)
    nce = soft_nce(joint, batch.joint_pmi) + soft_nce(shuffled, batch.shuffled_pmi)
    normaliser = log_mean_exp(joint, shuffled)
    estimate = joint.mean(-1) - normaliser
    pointwise = huber_loss(joint, batch.joint_pmi, reduction="none").mean(-1)
    error = huber_loss(estimate, batch.mi, reduction="none")
    drift = huber_loss(normaliser, torch.zeros_like(normaliser), reduction="none")
    total = (nce + 0.3 * pointwise + 0.5 * error + 0.1 * drift) / (1 + batch.mi.clamp_min(0))
    # Few samples of many independent coordinates overfit at first, with gradients that would
    # drown all others and teach the network to ignore its features: their pull is capped.
    total = total / total.detach().clamp_min(CAP) * CAP
    return Losses(total, nce, estimate)


def soft_nce(logit: Tensor, pmi: Tensor) -> Tensor:
    """KL(σ(T*) ‖ σ(T)) averaged over pairs, shapes (b, m) → (b,)."""
    target = pmi.sigmoid()
    cross = binary_cross_entropy_with_logits(logit, target, reduction="none")
    own = binary_cross_entropy_with_logits(pmi, target, reduction="none")
    return (cross - own).mean(-1)
