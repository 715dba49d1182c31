"""k-sliced mutual information: the mean MI of random low-dimensional projections of wide data.

It is another quantity than mutual information: at most as large, zero for the same data, and not
invariant under invertible maps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .batches import Many, any_width, estimate_many, model_or_base, seed_of, seeded
from .errors import InputError
from .inputs import check_pair
from .mixed import LabelEstimator, as_classes, is_discrete
from .model import DEFAULT_SEED, FlashMI, Gradient

__all__ = [
    "SlicedEstimate",
    "monte_carlo_error",
    "orthonormal",
    "sliced_estimate",
    "sliced_mutual_information",
    "sliced_values",
]


@dataclass(frozen=True)
class SlicedEstimate:
    """An estimate of k-sliced mutual information, which is not the full mutual information.

    Attributes:
        value: mean over the slices in nats, shape () or (b,).
        standard_error: of the mean, for the choice of projections alone and not for that of the
            samples, which all slices share; of the value's shape, zero where nothing is projected
            and NaN for one slice.
        slices: values of the slices, shape (n_slices,) or (b, n_slices); one where nothing is
            projected.
        n: number of samples.
        dx: width of x, before projection.
        dy: width of y, before projection.
        k: greatest widths of the slices' sides.
        warnings: why the slices' values may be off, as sentences.
    """

    value: Tensor
    standard_error: Tensor
    slices: Tensor
    n: int
    dx: int
    dy: int
    k: tuple[int, int]
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        pairs = torch.stack([self.value, self.standard_error], -1).reshape(-1, 2)[:6].tolist()
        values = ", ".join(f"{value:.3f} ± {error:.3f}" for value, error in pairs)
        more = ", …" if self.value.numel() > 6 else ""
        kx, ky = min(self.k[0], self.dx), min(self.k[1], self.dy)
        line = (
            f"sliced I(x;y) = {values}{more} nats (n = {self.n}, {self.slices.shape[-1]} slices of "
            f"{kx} + {ky} of {self.dx} + {self.dy} dimensions)"
        )
        return line + "".join(f"; warning: {text}" for text in self.warnings)


def sliced_mutual_information(
    x: Tensor,
    y: Tensor,
    k: int | tuple[int, int] = 5,
    n_slices: int = 32,
    *,
    generator: torch.Generator | None = None,
    gradient: Gradient = "critic",
    model: FlashMI | None = None,
) -> Tensor:
    r"""Estimates the k-sliced MI of x and y in nats, differentiable in both, for wide data.

    SI_k(x; y) = E I(Aᵀx; Bᵀy) over uniform A, B with k orthonormal columns, from "k-Sliced Mutual
    Information: A Quantitative Study of Scalability with Dimension" (Goldfeld et al., 2022). It is
    zero if and only if x and y are independent, and at most I(x; y); it falls with the width of
    dense dependence and must not be read, or compared, as mutual information. Unlike it, it
    depends on the scale of the coordinates: standardise those of unlike units.

    A side of at most k coordinates is not projected; if neither is, this is I(x; y) itself.

    Args:
        x: samples, shape (n, dx), or (b, n, dx) for b data sets, which share the projections.
        y: samples paired with them, shape (n, dy) or (b, n, dy); either side may hold integer
            classes instead, (n,) or (b, n), which are not projected.
        k: coordinates of a slice, or one number for x and one for y: `k=(5, 10)` leaves a y of ten
            coordinates whole.
        n_slices: number of pairs of projections; the cost is that of so many estimates.
        generator: draws the projections and the shuffled pairs; by default one of a fixed seed.
            In training, one that is kept between the steps gives new projections in each.
        gradient: see :meth:`FlashMI.mutual_information`.
        model: the estimator, by default that of the packaged `base` weights.

    Returns:
        Shape (), or (b,).

    Raises:
        InputError: the samples cannot be used; the message says why.

    Warns:
        SupportWarning: the value of a slice may be off, and why; it names the slice's columns.

    Example:
        >>> import torch
        >>> from flashmi_reg import sliced_mutual_information
        >>> generator = torch.Generator().manual_seed(0)
        >>> x = torch.randn(500, 40, generator=generator)
        >>> y = x + torch.randn(500, 40, generator=generator)
        >>> 0 < sliced_mutual_information(x, y, k=2, n_slices=8).item() < 0.2
        True
    """
    if gradient not in ("critic", "full"):
        raise InputError(f"`gradient` must be 'critic' or 'full', received {gradient!r}.")
    found = sliced_values(x, y, k, n_slices, generator, gradient, model_or_base(model))
    return found.values.mean(-1)


@torch.no_grad()
def sliced_estimate(
    x: Tensor,
    y: Tensor,
    k: int | tuple[int, int] = 5,
    n_slices: int = 32,
    *,
    generator: torch.Generator | None = None,
    model: FlashMI | None = None,
) -> SlicedEstimate:
    """Estimates k-sliced MI without gradients, with its Monte-Carlo error and each slice's value.

    Args, shapes and errors are those of :func:`sliced_mutual_information`; warnings are part of
    the result and are not raised.

    Example:
        >>> import torch
        >>> from flashmi_reg import sliced_estimate
        >>> generator = torch.Generator().manual_seed(0)
        >>> x, y = torch.randn(2, 300, 20, generator=generator)
        >>> found = sliced_estimate(x, y, k=2, n_slices=4)
        >>> found.slices.shape
        torch.Size([4])
    """
    slices, warnings = sliced_values(x, y, k, n_slices, generator, None, model_or_base(model))
    value, widths = slices.mean(-1), _pair_of(k)
    dx, dy = (1 if is_discrete(side) else side.shape[-1] for side in (x, y))
    if dx <= widths[0] and dy <= widths[1]:
        error = torch.zeros_like(value)
    else:
        error = monte_carlo_error(slices)
    return SlicedEstimate(
        value=value,
        standard_error=error,
        slices=slices,
        n=x.shape[-1] if is_discrete(x) else x.shape[-2],
        dx=dx,
        dy=dy,
        k=widths,
        warnings=tuple(f"in slices: {text}" for text in warnings),
    )


def monte_carlo_error(slices: Tensor) -> Tensor:
    """Standard error of the mean over the last dimension; NaN for one slice."""
    count = slices.shape[-1]
    if count == 1:
        return torch.full_like(slices[..., 0], torch.nan)
    return slices.std(-1) / math.sqrt(count)


def orthonormal(width: int, k: int, count: int, generator: torch.Generator) -> Tensor:
    """Uniform (Haar) orthonormal frames, shape (count, width, k), in float64."""
    shape = (count, width, k)
    normal = torch.randn(shape, generator=generator, dtype=torch.float64, device=generator.device)
    q, r = torch.linalg.qr(normal)
    # The factors are unique, and q hence uniform, once the diagonal of r is positive.
    return q * r.diagonal(dim1=-2, dim2=-1).sign()[:, None]


@torch.compiler.disable
def sliced_values(
    x: Tensor,
    y: Tensor,
    k: int | tuple[int, int],
    n_slices: int,
    generator: torch.Generator | None,
    gradient: Gradient | None,
    model: FlashMI,
) -> Many:
    """Values of the slices, shape (s,) or (b, s), and their warnings; see :func:`estimate_many`.

    One slice where nothing is projected.
    """
    widths = _checked_widths(k, model)
    if not isinstance(n_slices, int) or n_slices < 1:
        raise InputError(f"`n_slices` must be a positive integer, received {n_slices!r}.")
    if isinstance(x, Tensor) and isinstance(y, Tensor) and (is_discrete(x) or is_discrete(y)):
        return _values_of_labels(x, y, widths, n_slices, generator, gradient, model)
    check_pair(x, y, any_width(model))
    seed = seed_of(generator)
    generator = seeded(DEFAULT_SEED) if generator is None else generator
    sides = [_Side(s, w, n_slices, generator) for s, w in zip((x, y), widths, strict=True)]
    if not any(side.projected for side in sides):
        n_slices = 1

    def pick(start: int, stop: int) -> tuple[Tensor, Tensor]:
        return sides[0].slices(start, stop), sides[1].slices(start, stop)

    b = len(x) if x.ndim == 3 else 1
    many = estimate_many(model, pick, n_slices, size=b * x.shape[-2], seed=seed, gradient=gradient)
    dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    values = many.values.to(dtype).reshape(n_slices, b).mT
    return many._replace(values=values if x.ndim == 3 else values[0])


def _values_of_labels(
    x: Tensor,
    y: Tensor,
    widths: tuple[int, int],
    n_slices: int,
    generator: torch.Generator | None,
    gradient: Gradient | None,
    model: FlashMI,
) -> Many:
    """As :func:`sliced_values`, where one side holds classes, which are not projected."""
    if is_discrete(x) and is_discrete(y):
        raise InputError(
            "`x` and `y` are both of an integer type, that is classes, and nothing can be "
            "projected: use `mutual_information`, or cast amounts and counts with `.float()`."
        )
    width, (samples, labels) = widths[0], (x, y)
    if is_discrete(x):
        width, (samples, labels) = widths[1], (y, x)
    check_pair(samples, samples, any_width(model))
    labels = as_classes(labels, samples.ndim - 1)
    seed = seed_of(generator)
    generator = seeded(DEFAULT_SEED) if generator is None else generator
    side = _Side(samples, width, n_slices, generator)
    n_slices = n_slices if side.projected else 1
    classes = labels if labels.ndim == 2 else labels[None]

    def pick(start: int, stop: int) -> tuple[Tensor, Tensor]:
        return side.slices(start, stop), classes.repeat(stop - start, 1)

    n = samples.shape[-2]
    # Neighbours are compared pair by pair: memory grows with the square of n.
    size = len(classes) * n * max(1, n // 512)
    estimator = LabelEstimator()
    many = estimate_many(estimator, pick, n_slices, size=size, seed=seed, gradient=gradient)
    values = many.values.reshape(n_slices, -1).mT
    values = values.to(torch.promote_types(samples.dtype, torch.float32))
    return many._replace(values=values if samples.ndim == 3 else values[0])


class _Side:
    """One side of the data and the frames onto which it is projected.

    Args:
        samples: shape (n, d) or (b, n, d).
        k: greatest width of a slice.
        count: number of slices.
        generator: draws the frames.
    """

    def __init__(self, samples: Tensor, k: int, count: int, generator: torch.Generator) -> None:
        self.samples = samples if samples.ndim == 3 else samples[None]
        width = samples.shape[-1]
        self.projected = width > k
        if self.projected:
            # Less the first sample, what is constant is exactly so after projection; in float64
            # and rounded, equal samples stay equal whatever the order in which products are added.
            self.samples = self.samples.double() - self.samples[:, :1].detach().double()
            self.frames = orthonormal(width, k, count, generator).to(samples.device)

    def slices(self, start: int, stop: int) -> Tensor:
        """Slices of all data sets, shape ((stop − start) · b, n, k), slice by slice."""
        count = stop - start
        if not self.projected:
            return self.samples.repeat(count, 1, 1)
        frames = self.frames[start:stop]
        with torch.autocast(self.samples.device.type, enabled=False):
            flat = self.samples @ frames.movedim(0, 1).flatten(1)
        return flat.unflatten(-1, (count, -1)).movedim(-2, 0).flatten(0, 1).float()


def _pair_of(k: int | tuple[int, int]) -> tuple[int, int]:
    return (k, k) if isinstance(k, int) else k


def _checked_widths(k: int | tuple[int, int], model: FlashMI) -> tuple[int, int]:
    widths = tuple(k) if isinstance(k, (tuple, list)) else (k, k)
    widest = model.header.trained_width[1]
    if len(widths) != 2 or not all(isinstance(w, int) and 1 <= w <= widest for w in widths):
        raise InputError(
            f"`k` must be an integer from 1 to {widest}, the width the network was trained for, "
            f"or two of them, received {k!r}."
        )
    return widths
