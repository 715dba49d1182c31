"""Injective maps with random parameters for each data set, the steps of a flow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor

from .draws import integer, log_uniform, normal, orthogonal, uniform

__all__ = [
    "AffineCoupling",
    "Lift",
    "LinearMix",
    "NormRotation",
    "SinhArcsinh",
    "Standardise",
    "Step",
]


class Step(Protocol):
    """One injective map, with parameters for each data set: (b, n, d) to (b, n, d')."""

    def __call__(self, x: Tensor) -> Tensor:
        """The image of x."""

    def inverse(self, z: Tensor) -> Tensor:
        """What z is the image of."""


@dataclass(frozen=True)
class Standardise:
    """x -> (x - centre) / scale, both of shape (b, 1, d)."""

    centre: Tensor
    scale: Tensor

    @classmethod
    def fit(cls, x: Tensor) -> Standardise:
        """Median and half the 16-84 % range of each coordinate of x, of shape (b, n, d).

        These resist the heavy tails of Student's t. Where the range is nil the standard deviation
        takes its place, and 1 where that is nil too (a padded coordinate).
        """
        x = x.detach()
        n = x.shape[1]
        ordered = x.sort(dim=1).values
        middle, low, high = (ordered[:, int(q * (n - 1))] for q in (0.5, 0.16, 0.84))
        scale = (high - low) / 2
        scale = torch.where(scale > 1e-4, scale, x.std(dim=1, unbiased=False))
        scale = torch.where(scale > 1e-4, scale, torch.ones_like(scale))
        return cls(middle.unsqueeze(1), scale.unsqueeze(1))

    def __call__(self, x: Tensor) -> Tensor:
        """The image of x."""
        return (x - self.centre) / self.scale

    def inverse(self, z: Tensor) -> Tensor:
        """What z is the image of."""
        return z * self.scale + self.centre


@dataclass(frozen=True)
class LinearMix:
    """x -> x M, with M of shape (b, d, d) and condition number at most `spread`²."""

    matrix: Tensor

    @classmethod
    def draw(cls, x: Tensor, *, generator: Generator, spread: float = 2.0) -> LinearMix:
        """Random rotations around a random stretch by 1/spread .. spread along each axis."""
        batch, _, d = x.shape
        dtype = x.dtype
        u = orthogonal(batch, d, generator=generator, dtype=dtype)
        v = orthogonal(batch, d, generator=generator, dtype=dtype)
        shape = (batch, 1, d)
        stretch = log_uniform(shape, 1 / spread, spread, generator=generator, dtype=dtype)
        return cls((u * stretch) @ v)

    def __call__(self, x: Tensor) -> Tensor:
        """The image of x."""
        return x @ self.matrix

    def inverse(self, z: Tensor) -> Tensor:
        """What z is the image of."""
        return torch.linalg.solve(self.matrix, z, left=False)


@dataclass(frozen=True)
class SinhArcsinh:
    """x -> sinh(power · asinh(x) + skew) for each coordinate; both of shape (b, 1, d).

    Linear near 0 and |x|^power in the tails: lighter below 1, heavier above. See "Sinh-arcsinh
    distributions" (Jones and Pewsey, 2009), https://doi.org/10.1093/biomet/asp053.
    """

    power: Tensor
    skew: Tensor

    @classmethod
    def draw(
        cls,
        x: Tensor,
        *,
        generator: Generator,
    ) -> SinhArcsinh:
        """Random tails and skews, at random signs."""
        batch, _, d = x.shape
        dtype = x.dtype
        shape = (batch, 1, d)
        power = log_uniform(shape, 0.6, 1.4, generator=generator, dtype=dtype)
        skew = uniform(shape, -0.8, 0.8, generator=generator, dtype=dtype)
        return cls(power, skew)

    def __call__(self, x: Tensor) -> Tensor:
        """The image of x."""
        return torch.sinh(self.power * torch.asinh(x) + self.skew)

    def inverse(self, z: Tensor) -> Tensor:
        """What z is the image of."""
        return torch.sinh((torch.asinh(z) - self.skew) / self.power)


@dataclass(frozen=True)
class AffineCoupling:
    """Some coordinates shift and stretch the others: b -> b · exp(s(a)) + t(a).

    (s, t) is a tanh network with one hidden layer; s is bounded by `stretch`. See "Density
    estimation using Real NVP" (Dinh et al., 2017), https://arxiv.org/abs/1605.08803.

    Attributes:
        order: Coordinates in the order conditioning, then conditioned, of shape (b, d).
        conditioning: How many of them condition.
        hidden: Weights of the hidden layer, of shape (b, conditioning, h).
        bias: Its biases, of shape (b, 1, h).
        out: Weights of the output, of shape (b, h, 2 (d - conditioning)).
        stretch: Bound on |s|.
    """

    order: Tensor
    conditioning: int
    hidden: Tensor
    bias: Tensor
    out: Tensor
    stretch: float = 1.0

    @classmethod
    def draw(
        cls,
        x: Tensor,
        *,
        generator: Generator,
        conditioning: int | None = None,
        width: int = 16,
    ) -> AffineCoupling:
        """A random coupling; with `conditioning` given, the first ones condition the others."""
        batch, _, d = x.shape
        dtype = x.dtype
        g = generator
        if conditioning is None:
            conditioning = integer(1, d - 1, generator=g)
            order = uniform((batch, d), generator=g).argsort(-1)
        else:
            order = torch.arange(d, device=g.device).expand(batch, d)
        # how fast the network bends, for each data set
        speed = log_uniform((batch, 1, 1), 0.5, 3.0, generator=g, dtype=dtype)
        shape = (batch, conditioning, width)
        hidden = normal(shape, generator=g, dtype=dtype) * speed / conditioning**0.5
        bias = normal((batch, 1, width), generator=g, dtype=dtype)
        out = normal((batch, width, 2 * (d - conditioning)), generator=g, dtype=dtype)
        size = log_uniform((batch, 1, 1), 0.5, 3.0, generator=g, dtype=dtype)
        return cls(order, conditioning, hidden, bias, out * size / width**0.5)

    def _shift(self, a: Tensor) -> tuple[Tensor, Tensor]:
        s, t = (torch.tanh(a @ self.hidden + self.bias) @ self.out).chunk(2, dim=-1)
        return self.stretch * torch.tanh(s), t

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.gather(2, self.order.unsqueeze(1).expand_as(x))
        return x[..., : self.conditioning], x[..., self.conditioning :]

    def _join(self, a: Tensor, b: Tensor) -> Tensor:
        x = torch.cat((a, b), dim=-1)
        return x.gather(2, self.order.argsort(-1).unsqueeze(1).expand_as(x))

    def __call__(self, x: Tensor) -> Tensor:
        """The image of x."""
        a, b = self._split(x)
        s, t = self._shift(a)
        return self._join(a, b * s.exp() + t)

    def inverse(self, z: Tensor) -> Tensor:
        """What z is the image of."""
        a, b = self._split(z)
        s, t = self._shift(a)
        return self._join(a, (b - t) * torch.exp(-s))


@dataclass(frozen=True)
class NormRotation:
    """x -> exp(A s(|x|)) x: planes turn by an angle that depends on the norm, which stays.

    The angle of a plane is speed · tanh(bend · (|x|/√d - middle)): from a mild swirl to several
    turns, and always levelling off. It is a bijection as the norm, hence the angle, is kept.

    Attributes:
        basis: Orthogonal, of shape (b, d, d); consecutive pairs of its columns span the planes.
        speed: Of each plane, of shape (b, 1, d // 2), as are `bend` and `middle`.
    """

    basis: Tensor
    speed: Tensor
    bend: Tensor
    middle: Tensor

    @classmethod
    def draw(
        cls,
        x: Tensor,
        *,
        generator: Generator,
        speed: tuple[float, float] = (0.3, 6.0),
    ) -> NormRotation:
        """Random planes, with log-uniform speeds (radians) in the given bounds."""
        batch, _, d = x.shape
        dtype = x.dtype
        g = generator
        shape = (batch, 1, d // 2)
        sign = torch.where(uniform(shape, generator=g, dtype=dtype) < 0.5, -1.0, 1.0).to(dtype)
        return cls(
            orthogonal(batch, d, generator=g, dtype=dtype),
            sign * log_uniform((batch, 1, 1), *speed, generator=g, dtype=dtype),
            uniform(shape, 0.5, 2.0, generator=g, dtype=dtype),
            uniform(shape, 0.3, 1.8, generator=g, dtype=dtype),
        )

    def _turn(self, x: Tensor, direction: float) -> Tensor:
        d = x.shape[-1]
        radius = x.norm(dim=-1, keepdim=True) / d**0.5
        angle = direction * self.speed * torch.tanh(self.bend * (radius - self.middle))
        cos, sin = angle.cos(), angle.sin()
        v = x @ self.basis
        p, q = v[..., 0 : d - 1 : 2], v[..., 1:d:2]
        turned = torch.stack((cos * p - sin * q, sin * p + cos * q), dim=-1).flatten(-2)
        return torch.cat((turned, v[..., turned.shape[-1] :]), dim=-1) @ self.basis.mT

    def __call__(self, x: Tensor) -> Tensor:
        """The image of x."""
        return self._turn(x, 1.0)

    def inverse(self, z: Tensor) -> Tensor:
        """What z is the image of."""
        return self._turn(z, -1.0)


@dataclass(frozen=True)
class Lift:
    """x -> (x, 0): from (b, n, d) to (b, n, width)."""

    source: int
    width: int

    def __call__(self, x: Tensor) -> Tensor:
        """The image of x."""
        return torch.nn.functional.pad(x, (0, self.width - self.source))

    def inverse(self, z: Tensor) -> Tensor:
        """What z is the image of."""
        return z[..., : self.source]
