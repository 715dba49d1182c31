"""The pretraining objective: the critic is regressed on the exact PMI, read and fresh pairs."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from flashmi_reg.canonical import Canonical, canonicalise
from flashmi_reg.copula import Marginals, normal_scores
from flashmi_reg.critic import donsker_varadhan
from flashmi_reg.estimator import coordinates, derange, rows_of, shuffle_copies
from flashmi_reg.hypernet import HyperNetwork, Pairs, Shuffle

from .prior import DataSets

__all__ = ["Batch", "Losses", "Objective", "Precision", "losses", "prepare", "soft_nce"]

Precision = Literal["bf16-mixed", "32-true"]
# Loss of a data set from which on it counts by its logarithm.
KNEE = 0.15
# Weight of pairs that the network has not read; the rest is that of those that it has.
FRESH = 0.7


class Batch(NamedTuple):
    """Data sets in canonical form with the exact PMI at the pairs that the network reads.

    Attributes:
        data: canonical form.
        joint: joint pairs.
        shuffle: which of their points make up pairs of the product of marginals.
        joint_pmi: exact PMI, shape (b, n).
        shuffled_pmi: exact PMI, shape (b, m).
        fresh: as many joint as shuffled pairs of samples that the network does not read.
        fresh_pmi: exact PMI there, shape (b, 2q).
    """

    data: Canonical
    joint: Pairs
    shuffle: Shuffle
    joint_pmi: Tensor
    shuffled_pmi: Tensor
    fresh: Pairs
    fresh_pmi: Tensor

    def to(self, device: torch.device) -> Batch:
        """The batch on another device."""
        data = Canonical(*(part.to(device) for part in self.data))
        joint, fresh = (Pairs(*(s.to(device) for s in p)) for p in (self.joint, self.fresh))
        shuffle = Shuffle(*(index.to(device) for index in self.shuffle))
        pmi = (part.to(device) for part in (self.joint_pmi, self.shuffled_pmi, self.fresh_pmi))
        joint_pmi, shuffled_pmi, fresh_pmi = pmi
        return Batch(data, joint, shuffle, joint_pmi, shuffled_pmi, fresh, fresh_pmi)

    @property
    def mi(self) -> Tensor:
        """The mean PMI of the samples at hand, shape (b,)."""
        return self.joint_pmi.mean(-1)


def prepare(groups: list[DataSets], n: int, width: int, generator: torch.Generator) -> Batch:
    """Brings groups of data sets of one size, but of any widths, into one batch.

    The network reads the first n samples of each; the others become fresh pairs.
    """
    first, second = derange(n, shuffle_copies(n), generator)
    parts = [_prepare_group(group, n, width, first, second) for group in groups]
    data = Canonical(*(torch.cat(p) for p in zip(*(part[0] for part in parts), strict=True)))
    joint_pmi, shuffled_pmi, fresh_pmi, fresh_u, fresh_v = (
        torch.cat(p).float() for p in zip(*(part[1:] for part in parts), strict=True)
    )
    joint, fresh = Pairs(data.u.float(), data.v.float()), Pairs(fresh_u, fresh_v)
    shuffle = Shuffle(first, second)
    return Batch(data, joint, shuffle, joint_pmi, shuffled_pmi, fresh, fresh_pmi)


def _prepare_group(
    group: DataSets, n: int, width: int, first: Tensor, second: Tensor
) -> tuple[Canonical, Tensor, Tensor, Tensor, Tensor, Tensor]:
    read = slice(None, n)
    x, y = group.x[:, read], group.y[:, read]
    form = canonicalise(normal_scores(x), normal_scores(y), width)
    # Where y became the first side, its points are those that `first` picks.
    picked_x = torch.where(form.swapped[:, None], second, first)
    picked_y = torch.where(form.swapped[:, None], first, second)
    joint_pmi = group.log_ratio(group.source_x[:, read], group.source_y[:, read])
    shuffled_pmi = group.log_ratio(
        rows_of(group.source_x, picked_x), rows_of(group.source_y, picked_y)
    )
    # Fresh samples each with its own partner, then each with the next one's.
    own = torch.arange(n, group.x.shape[1], device=group.x.device)
    left, right = own.repeat(2), torch.cat([own, own.roll(1)])
    fresh_u, fresh_v = coordinates(
        form, Marginals(x)(group.x[:, left]), Marginals(y)(group.y[:, right])
    )
    fresh_pmi = group.log_ratio(group.source_x[:, left], group.source_y[:, right])
    # The maps have a row per coordinate; no one needs them from here on.
    empty = form.u.new_zeros(form.u.shape[0], 0, width)
    form = form._replace(x_map=empty, y_map=empty)
    return form, joint_pmi, shuffled_pmi, fresh_pmi, fresh_u, fresh_v


class Losses(NamedTuple):
    """Parts of the objective, each of shape (b,), and the estimates beside the truth."""

    total: Tensor
    nce: Tensor
    fresh: Tensor
    estimate: Tensor


def losses(network: HyperNetwork, batch: Batch) -> Losses:
    r"""The objective of each data set.

    The critic learns from KL(σ(T*) ‖ σ(T)) over joint and over shuffled pairs, 0.3 of it at those
    that the network has read and 0.7 at fresh ones, over 1 + MI. At the former, the optimum is the
    posterior mean given the data set, so that overfitting, which maximising the Donsker–Varadhan
    bound rewards, is trained away; the latter are what gradients and pointwise MI live on. The
    error of the estimate is no part of it: a critic that learned from it would make up for
    missing fit by overfitting.
    """
    parameters, values, gaussian, optimism = network(batch.data, batch.joint, batch.shuffle)
    nce = soft_nce(values.joint, batch.joint_pmi) + soft_nce(values.shuffled, batch.shuffled_pmi)
    at_fresh, _ = network.evaluate(parameters, batch.fresh)
    fresh = 2 * soft_nce(at_fresh, batch.fresh_pmi)
    estimate = (donsker_varadhan(values, gaussian) - optimism).detach()
    fit = ((1 - FRESH) * nce + FRESH * fresh) / (1 + batch.mi.clamp_min(0))
    # Hard data sets, of many clusters in many dimensions, would drown all others.
    total = KNEE * (fit / KNEE).log1p()
    return Losses(total, nce, fresh, estimate)


class Objective(nn.Module):
    """:func:`losses` of a network as a module: what is distributed over devices.

    Args:
        network: the network.
        precision: of its matrix products. Autocast is entered here and not left to Fabric, which
            would round coordinates, correlations and the exact PMI to bf16 as well.
    """

    def __init__(self, network: HyperNetwork, precision: Precision) -> None:
        super().__init__()
        self.network = network
        self.precision = precision

    def forward(self, batch: Batch) -> Losses:
        """The losses of a batch."""
        mixed = self.precision == "bf16-mixed"
        with torch.autocast(batch.joint_pmi.device.type, torch.bfloat16, enabled=mixed):
            return losses(self.network, batch)


def soft_nce(logit: Tensor, pmi: Tensor) -> Tensor:
    """KL(σ(T*) ‖ σ(T)) averaged over pairs, shapes (b, m) → (b,)."""
    target = pmi.sigmoid()
    cross = binary_cross_entropy_with_logits(logit, target, reduction="none")
    own = binary_cross_entropy_with_logits(pmi, target, reduction="none")
    return (cross - own).mean(-1)
