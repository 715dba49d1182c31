"""One Gaussian or Student law with a designed dependence: a few canonical pairs, or all of them."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Generator, Tensor

from .base import DataSets, Family
from .draws import coin, integer, normal, orthogonal, shares, uniform
from .elliptical import EllipticalMixture, student_excess
from .mixture import from_joint

__all__ = ["DenseDependence", "SparseDependence", "spread_information"]


def spread_information(
    batch: int, ceiling: float, power: float, zero: float, *, generator: Generator
) -> Tensor:
    """Target information of each data set: 0 with probability `zero`, else ceiling · U^power.

    Of shape (batch,), in float64, in nats.
    """
    u = uniform((batch,), generator=generator, dtype=torch.float64)
    keep = uniform((batch,), generator=generator, dtype=torch.float64) >= zero
    return ceiling * u**power * keep


class _Dependence(Family):
    """What the sparse and the dense design share.

    The total information of a data set is drawn first. Student's t has some even where the scale
    matrix is the identity (`student_excess`); the correlations are given the rest, if there is any.

    Args:
        student: Probability that a call draws Student's t, with one nu for each data set.
        nu: Bounds of the degrees of freedom, uniform.
        ceiling: Greatest total information, in nats.
        power: The total is ceiling · U^power.
        zero: Probability that a data set's correlations are all zero.
        rotate: Probability that x and y of a data set are turned by random orthogonal maps.
    """

    def __init__(
        self,
        *,
        student: float = 0.4,
        nu: tuple[float, float] = (2.0, 30.0),
        ceiling: float = 4.0,
        power: float = 2.0,
        zero: float = 0.05,
        rotate: float = 0.5,
    ) -> None:
        self.student = student
        self.nu = nu
        self.ceiling = ceiling
        self.power = power
        self.zero = zero
        self.rotate = rotate

    @abstractmethod
    def scale_matrix(self, target: Tensor, dx: int, dy: int, *, generator: Generator) -> Tensor:
        """Scale matrices (b, dx + dy, dx + dy) with Gaussian information `target`, (b,)."""

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
        """Draw data sets; see `Family.sample`. Their `mi` is always known."""
        target = spread_information(batch, self.ceiling, self.power, self.zero, generator=generator)
        nu = None
        excess = torch.zeros_like(target)
        if coin(self.student, generator=generator):
            nu = uniform((batch,), *self.nu, generator=generator, dtype=torch.float64)
            excess = student_excess(nu, dx, dy)
        gaussian = (target - excess).clamp(min=0.0)
        scale = self.scale_matrix(gaussian, dx, dy, generator=generator).unsqueeze(1)
        joint = EllipticalMixture(
            torch.zeros_like(target).unsqueeze(-1),
            scale.new_zeros(batch, 1, dx + dy),
            scale,
            None if nu is None else nu.unsqueeze(-1),
            dtype=dtype,
        )
        mi = (gaussian + excess).to(dtype)
        return from_joint(joint, scale, n, dx, mi, self.name, generator=generator)

    def _rotations(self, batch: int, width: int, turned: Tensor, *, generator: Generator) -> Tensor:
        q = orthogonal(batch, width, generator=generator, dtype=torch.float64)
        eye = torch.eye(width, dtype=q.dtype, device=q.device)
        return torch.where(turned[:, None, None], q, eye)


class SparseDependence(_Dependence):
    """k ~ U{1..min(dx, dy)} canonical pairs of random strength, all else independent.

    Arguments are those of `_Dependence`.
    """

    name = "sparse"

    def scale_matrix(self, target: Tensor, dx: int, dy: int, *, generator: Generator) -> Tensor:
        """Scale matrices (b, dx + dy, dx + dy) with Gaussian information `target`, (b,)."""
        b, width = target.shape[0], min(dx, dy)
        device = target.device
        pairs = torch.randint(1, width + 1, (b, 1), generator=generator, device=device)
        share = shares(torch.arange(width, device=device) < pairs, generator=generator)
        # a pair of correlation r has -1/2 log(1 - r²) nats
        r = torch.sqrt(-torch.expm1(-2 * share * target.unsqueeze(-1)))
        r = r * torch.where(uniform(r.shape, generator=generator) < 0.5, -1.0, 1.0)
        cross = target.new_zeros(b, dx, dy)
        cross[:, range(width), range(width)] = r
        turned = uniform((b,), generator=generator) < self.rotate
        u = self._rotations(b, dx, turned, generator=generator)
        v = self._rotations(b, dy, turned, generator=generator)
        cross = u @ cross @ v.mT
        eye = torch.eye(dx + dy, dtype=cross.dtype, device=device).repeat(b, 1, 1)
        eye[:, :dx, dx:], eye[:, dx:, :dx] = cross, cross.mT
        return eye


class DenseDependence(_Dependence):
    """Every coordinate of x depends on every one of y, through a few common factors.

    Args:
        factors: Greatest number of common factors.
        equal: Probability that all loadings of a data set are equal (every pair alike).
        The others are those of `_Dependence`.
    """

    name = "dense"

    def __init__(self, *, factors: int = 3, equal: float = 0.3, **shared: object) -> None:
        super().__init__(**shared)  # type: ignore[arg-type]
        self.factors = factors
        self.equal = equal

    def scale_matrix(self, target: Tensor, dx: int, dy: int, *, generator: Generator) -> Tensor:
        """Scale matrices (b, dx + dy, dx + dy) with Gaussian information `target`, (b,)."""
        b, d = target.shape[0], dx + dy
        rank = integer(1, self.factors, generator=generator)
        loading = normal((b, d, rank), generator=generator, dtype=torch.float64)
        alike = uniform((b, 1, 1), generator=generator) < self.equal
        first = torch.zeros_like(loading)
        first[..., 0] = 1.0
        loading = torch.where(alike, first, loading)
        noise = uniform((b, d), 0.3, 1.5, generator=generator, dtype=torch.float64)
        noise = torch.where(alike.squeeze(-1), torch.ones_like(noise), noise)
        scale = loading @ loading.mT + torch.diag_embed(noise)
        sigma = scale.diagonal(dim1=-2, dim2=-1).sqrt()
        scale = scale / (sigma.unsqueeze(-1) * sigma.unsqueeze(-2))
        t = _cross_factor(scale, dx, target)
        scale[:, :dx, dx:] *= t
        scale[:, dx:, :dx] *= t
        turned = uniform((b,), generator=generator) < self.rotate
        turn = torch.zeros_like(scale)
        turn[:, :dx, :dx] = self._rotations(b, dx, turned, generator=generator)
        turn[:, dx:, dx:] = self._rotations(b, dy, turned, generator=generator)
        return turn @ scale @ turn.mT


def _cross_factor(scale: Tensor, dx: int, target: Tensor, steps: int = 50) -> Tensor:
    """The factor (b, 1, 1) on the cross block that makes the Gaussian information `target`."""
    whiten_x = torch.linalg.cholesky(scale[:, :dx, :dx])
    whiten_y = torch.linalg.cholesky(scale[:, dx:, dx:])
    half = torch.linalg.solve_triangular(whiten_x, scale[:, :dx, dx:], upper=False)
    cross = torch.linalg.solve_triangular(whiten_y, half.mT, upper=False)
    r = torch.linalg.svdvals(cross)
    squares = (r / r[:, :1]).square()  # in units of the strongest, which may go up to 1
    low, high = torch.zeros_like(target), torch.ones_like(target)
    for _ in range(steps):  # bisection on the square of the strongest correlation
        middle = (low + high) / 2
        over = -0.5 * torch.log1p(-middle.unsqueeze(-1) * squares).sum(-1) > target
        low, high = torch.where(over, low, middle), torch.where(over, middle, high)
    return (low.sqrt() / r[:, 0])[:, None, None]
