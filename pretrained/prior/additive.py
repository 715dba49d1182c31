"""Channels with additive noise: y = x + e, x of a stepwise density, e of one of four laws."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from .base import DataSets, Family
from .dependence import spread_information
from .draws import coin, exponential, integer, normal, shares, uniform

__all__ = ["FLOOR", "LAWS", "AdditiveNoise", "log_cdf", "log_density", "log_interval"]

LAWS = ("gaussian", "laplace", "logistic", "uniform")

# PMI of a pair that uniform noise makes impossible (the truth is -inf), in nats
FLOOR = -30.0

_ROOT3 = math.sqrt(3.0)
_ROOT2 = math.sqrt(2.0)
_LOGISTIC = math.pi / _ROOT3  # from unit variance to the unit logistic law


def log_density(law: str, e: Tensor) -> Tensor:
    """Log density of unit-variance noise at e, of e's shape; -inf outside the uniform's support."""
    if law == "gaussian":
        return -0.5 * e.square() - 0.5 * math.log(2 * math.pi)
    if law == "laplace":
        return -_ROOT2 * e.abs() - 0.5 * math.log(2.0)
    if law == "logistic":
        z = _LOGISTIC * e.abs()
        return math.log(_LOGISTIC) - z - 2 * torch.log1p(torch.exp(-z))
    # e is read back from y - x: allow for rounding at the edge
    outside = e.abs() > _ROOT3 * (1 + 1e-4)
    return torch.full_like(e, -math.log(2 * _ROOT3)).masked_fill(outside, -math.inf)


def log_cdf(law: str, e: Tensor) -> Tensor:
    """Log distribution function of unit-variance noise at e, exact far into the left tail."""
    if law == "gaussian":
        return torch.special.log_ndtr(e)
    if law == "laplace":
        z = _ROOT2 * e
        tail = 0.5 * torch.exp(-z.abs())
        return torch.where(z < 0, z - math.log(2.0), torch.log1p(-tail))
    if law == "logistic":
        return torch.nn.functional.logsigmoid(_LOGISTIC * e)
    return (0.5 + e / (2 * _ROOT3)).clamp(0.0, 1.0).log()


def log_interval(law: str, low: Tensor, high: Tensor) -> Tensor:
    """Log probability that unit-variance noise falls in [low, high], of their shape.

    The laws are symmetric: an interval on the right is mirrored to the left, where `log_cdf` keeps
    its precision; then log(F(b) - F(a)) = log F(b) + log(1 - exp(log F(a) - log F(b))).
    """
    if law == "uniform":
        length = torch.minimum(high, high.new_tensor(_ROOT3)) - low.clamp(min=-_ROOT3)
        return (length / (2 * _ROOT3)).clamp(min=0.0).log()
    mirror = low + high > 0
    a, b = torch.where(mirror, -high, low), torch.where(mirror, -low, high)
    log_b = log_cdf(law, b)
    return log_b + torch.log(-torch.expm1(log_cdf(law, a) - log_b))


class AdditiveNoise(Family):
    """m ~ U{1..min(dx, dy)} channels y_k = x_k + e_k; the other coordinates are noise.

    Each x_k has a density that is constant on J bins, some of them apart, with unequal weights;
    the density of y_k is then a finite sum of distribution functions of the noise. Noise laws are
    drawn once a call for each channel, all else for each data set. `source_x` and `source_y` are
    the m channels.

    Args:
        bins: Bounds of the number of bins J; at least 2 of them, never one uniform.
        noise: Bounds of the noise's standard deviation in units of x_k's.
        ceiling, power: The information aimed at is ceiling · U^power nats, shared at random among
            the channels as if they were Gaussian; what comes out is near it, not equal to it.
        gaps: Probability that two neighbouring bins lie apart.
    """

    name = "additive"

    def __init__(
        self,
        *,
        bins: tuple[int, int] = (2, 8),
        noise: tuple[float, float] = (0.02, 3.0),
        ceiling: float = 4.0,
        power: float = 2.0,
        gaps: float = 0.3,
    ) -> None:
        if bins[0] < 2:
            raise ValueError(f"`bins` must start at 2 or more, received {bins}")
        self.bins = bins
        self.noise = noise
        self.ceiling = ceiling
        self.power = power
        self.gaps = gaps

    def sample(
        self,
        batch: int,
        n: int,
        dx: int,
        dy: int,
        *,
        generator: Generator,
        dtype: torch.dtype = torch.float32,
    ) -> DataSets:
        """Draw data sets; see `Family.sample`. Their `mi` has no closed form."""
        g = generator
        m = integer(1, min(dx, dy), generator=g)
        low, high, log_weight = self._bins(batch, m, generator=g)
        sigma = self._noise_scale(batch, m, generator=g).to(dtype).unsqueeze(1)  # (b, 1, m)
        laws = [LAWS[integer(0, len(LAWS) - 1, generator=g)] for _ in range(m)]
        groups = [
            (law, torch.tensor([k for k in range(m) if laws[k] == law], device=g.device))
            for law in sorted(set(laws))
        ]

        j = torch.multinomial(log_weight.exp().flatten(0, 1), n, replacement=True, generator=g)
        j = j.unflatten(0, (batch, m))
        low, high, log_weight = low.to(dtype), high.to(dtype), log_weight.to(dtype)
        u = uniform((batch, m, n), generator=g, dtype=dtype)
        x = (low.gather(2, j) * (1 - u) + high.gather(2, j) * u).transpose(1, 2).contiguous()
        noise = torch.empty_like(x)
        for law, k in groups:
            noise[..., k] = _draw(law, (batch, n, len(k)), generator=g, dtype=dtype)
        y = x + sigma * noise

        # a bin's mass is spread over its length, and y is in units of sigma
        log_height = log_weight - (high - low).log()

        def log_ratio(x: Tensor, y: Tensor) -> Tensor:
            total = torch.zeros_like(x[..., 0])
            for law, k in groups:
                s = sigma[..., k]
                forward = log_density(law, (y[..., k] - x[..., k]) / s)
                v, scale = y[..., k].unsqueeze(-1), s.unsqueeze(-1)
                inside = log_interval(
                    law, (v - high[:, k].unsqueeze(1)) / scale, (v - low[:, k].unsqueeze(1)) / scale
                )
                # the least mass of a y that occurs at all is far above 1e-7
                marginal = (inside + log_height[:, k].unsqueeze(1)).logsumexp(-1)
                if law == "uniform":
                    marginal = marginal.clamp(min=math.log(1e-7))
                total = total + (forward - s.log() - marginal).sum(-1)
            if "uniform" in laws:
                total = total.clamp(min=FLOOR)
            return total

        observed_x = self._padded(x, dx, generator=g)
        observed_y = self._padded(y, dy, generator=g)
        return DataSets(observed_x, observed_y, x, y, log_ratio, None, self.name)

    def _bins(self, batch: int, m: int, *, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Ends and log weights (batch, m, J) of the bins, x standardised; in float64."""
        g = generator
        count = integer(*self.bins, generator=g)
        shape = (batch, m, count)
        width = 0.2 + exponential(shape, generator=g, dtype=torch.float64)
        gap = exponential(shape, generator=g, dtype=torch.float64)
        gap = gap * (uniform(shape, generator=g) < self.gaps)
        high = (width + gap).cumsum(-1)
        low = high - width
        weight = 0.02 + shares(torch.ones(shape, dtype=torch.bool, device=g.device), generator=g)
        weight = weight / weight.sum(-1, keepdim=True)
        mean = (weight * (low + high) / 2).sum(-1, keepdim=True)
        square = (weight * (low.square() + low * high + high.square()) / 3).sum(-1, keepdim=True)
        std = (square - mean.square()).sqrt()
        return (low - mean) / std, (high - mean) / std, weight.log()

    def _noise_scale(self, batch: int, m: int, *, generator: Generator) -> Tensor:
        """Standard deviations (batch, m) of the noise, in float64."""
        total = spread_information(batch, self.ceiling, self.power, 0.0, generator=generator)
        mask = torch.ones(batch, m, dtype=torch.bool, device=total.device)
        nats = total.unsqueeze(-1) * shares(mask, generator=generator)
        return torch.rsqrt(torch.expm1(2 * nats).clamp(min=1e-9)).clamp(*self.noise)

    @staticmethod
    def _padded(channels: Tensor, width: int, *, generator: Generator) -> Tensor:
        """The channels among columns of independent noise, in random order: (b, n, width)."""
        b, n, m = channels.shape
        rest = normal((b, n, width - m), generator=generator, dtype=channels.dtype)
        if coin(0.5, generator=generator):
            rest = uniform(rest.shape, generator=generator, dtype=channels.dtype)
        order = torch.randperm(width, generator=generator, device=channels.device)
        return torch.cat((channels, rest), dim=-1)[..., order]


def _draw(law: str, shape: tuple[int, ...], *, generator: Generator, dtype: torch.dtype) -> Tensor:
    """Noise of mean 0 and variance 1, of shape `shape`."""
    if law == "gaussian":
        return normal(shape, generator=generator, dtype=dtype)
    if law == "laplace":
        first = exponential(shape, generator=generator, dtype=dtype)
        return (first - exponential(shape, generator=generator, dtype=dtype)) / _ROOT2
    u = uniform(shape, generator=generator, dtype=dtype)
    if law == "logistic":
        return torch.logit(u, eps=1e-7) / _LOGISTIC
    return _ROOT3 * (2 * u - 1)
