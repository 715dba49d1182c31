r"""Mutual information between continuous x and class labels: a critic that normalises exactly.

I(x; c) = E[log p(c|x) − log p(c)]. As p(c|x) is modelled as a distribution over the classes, exp T
of the critic T(x, c) = log p(c|x) − log p(c) averages to one over c ~ p(c) at every x, and nothing
has to be shuffled.
"""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from .class_experts import (
    Linear,
    Neighbours,
    Prior,
    Quadratic,
    fit_linear,
    fit_quadratic,
    normalised,
)
from .copula import Marginals, normal_scores
from .errors import InputError, SupportWarning
from .label_inputs import MAX_WIDTH, MIN_SAMPLES, check_labelled, label_doubts
from .model import Gradient
from .multinomial import listen

__all__ = ["MAX_WIDTH", "MIN_SAMPLES", "LabelCritic", "label_critic", "label_mutual_information"]

# Experts: samples that the mean covariance counts for, and ranks of the neighbours asked.
STRENGTHS = (0.0, 30.0)
REACH = (4, 16, 64)
# Samples that vote at most: bounds time and memory.
VOTERS = 2048
DEFAULT_SEED = 0
# Directions whose variance within the classes is below this share of the mean count as collapsed.
RIDGE = 1e-4


class _Hearing(NamedTuple):
    """Who is heard, and how loudly.

    Attributes:
        reach: ranks of the neighbours that set the widths at which they are asked.
        weights: of the experts, those of the neighbours last, shape (b, K).
    """

    reach: tuple[int, ...]
    weights: Tensor


class _Reading(NamedTuple):
    """A data set's critic.

    Attributes:
        affine: map of scores to coordinates, shape (b, d + 1, d), offset in the last row.
        linear: the first expert.
        quadratic: those that follow.
        neighbours: the last one, asked at several reaches.
        hearing: of all of them, for values.
        smooth: of those without the narrow reaches, for gradients.
        prior: log p(c), shape (b, 1, C), −inf for an absent class.
        own: which sample each voting one is, shape (b, m).
        value: the estimate, shape (b,).
    """

    affine: Tensor
    linear: Linear
    quadratic: tuple[Quadratic, ...]
    neighbours: Neighbours
    hearing: _Hearing
    smooth: _Hearing
    prior: Tensor
    own: Tensor
    value: Tensor


def label_mutual_information(
    x: Tensor,
    labels: Tensor,
    *,
    generator: torch.Generator | None = None,
    gradient: Gradient = "critic",
) -> Tensor:
    r"""Estimates I(x; c) in nats between continuous `x` and classes c, differentiable in `x`.

    One pass and no training: a few experts in closed form (linear, quadratic, neighbours; see
    :mod:`flashmi_reg.class_experts`) say what p(c|x) is, weighted by how well they tell samples
    that they have not seen. The value lies halfway between how well the mixture tells the samples
    and how well it does without them, and never above the entropy of the labels.

    Args:
        x: samples, shape (n, d), or (b, n, d) for b data sets at once; n at least 32, d at most
            64. Local structure is found in about ten coordinates, linear and quadratic
            dependence in all.
        labels: their classes, any integers or booleans, shape (n,) or (b, n).
        generator: draws the samples that vote as neighbours where there are more than 2,048; by
            default one of a fixed seed, so that equal input gives equal output.
        gradient: "critic" holds the critic fixed and differentiates its values at the samples;
            "full" differentiates through its making too, which is costlier and noisier.

    Returns:
        Shape (), or (b,); in the dtype of `x`, at least float32.

    Raises:
        InputError: the samples or labels cannot be used; the message says why.

    Warns:
        SupportWarning: the value may be off, and why.

    Example:
        >>> import torch
        >>> from flashmi_reg.labels import label_mutual_information
        >>> generator = torch.Generator().manual_seed(0)
        >>> labels = torch.randint(2, (1000,), generator=generator)
        >>> x = torch.randn(1000, 1, generator=generator) + 2 * labels[:, None]
        >>> abs(label_mutual_information(x, labels).item() - 0.337) < 0.05
        True
    """
    target = check_labelled(x, labels)
    if gradient not in ("critic", "full"):
        raise InputError(f"`gradient` must be 'critic' or 'full', received {gradient!r}.")
    for message in label_doubts(x, target):
        warnings.warn(message, SupportWarning, stacklevel=2)
    frozen = gradient == "critic"
    track = torch.is_grad_enabled() and x.requires_grad
    with torch.autocast(x.device.type, enabled=False):
        scores = normal_scores(x if x.ndim == 3 else x[None])
        target = target.to(scores.dtype)
        with torch.set_grad_enabled(track and not frozen):
            reading = _read(scores, target, generator)
        value = reading.value
        if track and frozen:
            told = _log_ratios(reading, reading.smooth, scores, reading.own)
            gain = (told * target).sum(-1).mean(-1)
            value = value + (gain - gain.detach())
        value = value.to(torch.promote_types(x.dtype, torch.float32))
    return value if x.ndim == 3 else value[0]


def label_critic(
    x: Tensor, labels: Tensor, *, generator: torch.Generator | None = None
) -> LabelCritic:
    """Reads samples and returns their critic: log p(c|x) − log p(c) at any point.

    Args, shapes, errors and warnings are those of :func:`label_mutual_information`. The critic is
    held fixed; it is differentiable in the points at which it is evaluated.

    Example:
        >>> import torch
        >>> from flashmi_reg.labels import label_critic
        >>> x = torch.linspace(-2, 2, 200)[:, None]
        >>> critic = label_critic(x, (x[:, 0] > 0).long())
        >>> bool(critic(torch.tensor([[1.0]]), torch.tensor([1])) > 0.5)
        True
    """
    target = check_labelled(x, labels)
    for message in label_doubts(x, target):
        warnings.warn(message, SupportWarning, stacklevel=2)
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        scores = normal_scores(x if x.ndim == 3 else x[None])
        reading = _read(scores, target.to(scores.dtype), generator)
    return LabelCritic(x, labels.unique(), reading)


class LabelCritic:
    """A data set's critic over classes, differentiable in the points where it is evaluated.

    Args:
        x: the samples it was read from.
        classes: the labels that occur, ascending, shape (C,).
        reading: what was read.
    """

    def __init__(self, x: Tensor, classes: Tensor, reading: _Reading) -> None:
        self.classes = classes
        self._batched = x.ndim == 3
        self._marginals = Marginals(x if self._batched else x[None])
        self._reading = reading

    def __call__(self, x: Tensor, labels: Tensor) -> Tensor:
        """log p(c|x) − log p(c) in nats: x (m, d) and labels (m,) → (m,); batches likewise.

        Raises:
            InputError: a label is none of `classes`.
        """
        place = torch.searchsorted(self.classes, labels.contiguous())
        place = place.clamp_max(len(self.classes) - 1)
        unknown = labels[self.classes[place] != labels]
        if unknown.numel():
            raise InputError(
                f"`labels` holds {unknown.unique().tolist()[:5]}, which the critic has not seen: "
                f"its classes are {self.classes.tolist()[:20]}."
            )
        return self.log_ratios(x).gather(-1, place[..., None])[..., 0]

    def log_ratios(self, x: Tensor) -> Tensor:
        """log p(c|x) − log p(c) of every class, shape (m, d) → (m, C); batches likewise."""
        with torch.autocast(x.device.type, enabled=False):
            scores = self._marginals(x if self._batched else x[None])
            value = _log_ratios(self._reading, self._reading.hearing, scores, None)
        return value if self._batched else value[0]


@torch.compiler.disable
def _read(scores: Tensor, target: Tensor, generator: torch.Generator | None) -> _Reading:
    """Builds the experts, weighs them, and estimates.

    Args:
        scores: normal scores of x, shape (b, n, d).
        target: one-hot classes, shape (b, n, C).
        generator: draws the samples that vote.
    """
    if generator is None:
        generator = torch.Generator().manual_seed(DEFAULT_SEED)
    d = scores.shape[-1]
    prior = Prior.of(target)
    affine = _whiten_within(scores, target)
    points = scores @ affine[:, :-1] + affine[:, -1:]
    own = _voters(points, generator)
    pick = own[..., None]
    neighbours = Neighbours(
        points.gather(1, pick.expand(-1, -1, d)),
        target.gather(1, pick.expand(-1, -1, target.shape[-1])),
        prior,
    )
    reach = tuple(min(k, own.shape[1] // 4) for k in REACH)

    linear, said = fit_linear(points, target, prior)
    fitted = [fit_quadratic(points, target, prior, strength) for strength in STRENGTHS]
    heard = [said, *(part for _, part in fitted), *neighbours(points, reach, own)]
    fit, left_out = (torch.stack(parts, -1) for parts in zip(*heard, strict=True))
    weights = listen(left_out, target, prior.left_out)
    losses = []
    for ratios, given in ((fit, prior.fit), (left_out, prior.left_out)):
        mixed = normalised((ratios @ weights[:, None, :, None])[..., 0], given)
        losses.append(-((mixed + given.clamp_min(-1e4)) * target).sum(-1).mean(-1))
    value = _value(losses[0], losses[1], prior, target)
    quadratic = tuple(part for part, _ in fitted)
    hearing = _Hearing(reach, weights)
    smooth = _smooth(hearing, left_out, target, prior)
    return _Reading(affine, linear, quadratic, neighbours, hearing, smooth, prior.fit, own, value)


@torch.no_grad()
def _smooth(hearing: _Hearing, left_out: Tensor, target: Tensor, prior: Prior) -> _Hearing:
    """The experts heard anew without the narrow reaches, whose slopes are mostly noise.

    A reach is wide from √n neighbours on; the widest always counts. Measured against the gradient
    of the true pointwise information, the cosine rises by up to 0.3.
    """
    wide = [k >= math.sqrt(target.shape[1]) for k in hearing.reach[:-1]] + [True]
    others = hearing.weights.shape[-1] - len(wide)
    chosen = [*range(others), *(others + i for i, yes in enumerate(wide) if yes)]
    reach = tuple(k for k, yes in zip(hearing.reach, wide, strict=True) if yes)
    return _Hearing(reach, listen(left_out[..., chosen], target, prior.left_out))


def _value(fit: Tensor, left_out: Tensor, prior: Prior, target: Tensor) -> Tensor:
    r"""The estimate from the cross-entropies of classes with and without the sample itself.

    The fit flatters and leave-one-out blackens, to first order by as much (the truth of a model
    of p parameters lies p/2n from either); so do the same two readings of the labels' entropy.
    The share of the entropy that x explains is 1 − (mean of the first two)/(mean of the others).
    """
    entropy, without = (-torch.where(target > 0, p, 0.0).sum(-1).mean(-1) for p in prior)
    return entropy * (1 - (fit + left_out) / (entropy + without).clamp_min(1e-12))


@torch.compiler.disable
def _log_ratios(reading: _Reading, hearing: _Hearing, scores: Tensor, own: Tensor | None) -> Tensor:
    """log p(c|x) − log p(c) at scores (b, m, d) by a critic held fixed → (b, m, C)."""
    points = scores @ reading.affine[:, :-1] + reading.affine[:, -1:]
    said = [reading.linear(points), *(expert(points) for expert in reading.quadratic)]
    said = [normalised(ratio, reading.prior) for ratio in said]
    said += [part.left_out for part in reading.neighbours(points, hearing.reach, own)]
    mixed = (torch.stack(said, -1) @ hearing.weights[:, None, :, None])[..., 0]
    return normalised(mixed, reading.prior)


def _whiten_within(scores: Tensor, target: Tensor) -> Tensor:
    """Affine map (b, d + 1, d) to coordinates of unit covariance within the classes."""
    b, n, d = scores.shape
    mean = scores.mean(1, keepdim=True)
    rest = scores - target @ (target.mT @ scores / target.sum(1)[..., None].clamp_min(1))
    scatter = rest.mT @ rest / n
    scale = scatter.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None]
    eye = torch.eye(d, device=scores.device, dtype=scores.dtype)
    # The absolute part only matters for samples that do not vary within any class.
    factor = torch.linalg.cholesky(scatter + (RIDGE * scale + 1e-6) * eye)
    matrix = torch.linalg.solve_triangular(factor, eye.expand(b, d, d), upper=False).mT
    return torch.cat([matrix, -mean @ matrix], 1)


def _voters(points: Tensor, generator: torch.Generator) -> Tensor:
    """Indices (b, m) of the samples that vote: all, or as many as can be afforded, drawn."""
    b, n, _ = points.shape
    if n <= VOTERS:
        return torch.arange(n, device=points.device).expand(b, n)
    drawn = torch.randperm(n, generator=generator, device=generator.device)[:VOTERS]
    # Drawn from the samples in an order of their own, so that theirs in the input is no matter.
    order = points.detach().square().sum(-1).argsort(-1)
    return order[:, drawn.sort().values.to(points.device)]
