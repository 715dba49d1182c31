"""Canonical coordinates: white, paired by correlation, blind to linear maps and to the sides."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from flashmi_reg.canonical import Canonical, canonicalise

WIDTHS = [(1, 1), (3, 3), (5, 2), (2, 5), (1, 4), (10, 10)]


def sides(dx: int, dy: int, *, n: int = 600, b: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Skewed, dependent sides in generic position: no direction of one is like another."""
    generator = torch.Generator().manual_seed(seed)
    narrow = min(dx, dy)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def steps(low: float, high: float, d: int) -> Tensor:
        return torch.linspace(low, high, d, dtype=torch.float64)

    def turned(side: Tensor) -> Tensor:
        return side @ torch.linalg.qr(draw(side.shape[-1], side.shape[-1])).Q

    common = steps(1.5, 0.3, narrow) * draw(b, n, narrow)
    pair = []
    for d in (dx, dy):
        own = draw(b, n, d)
        # The coordinates without a partner depend on the other side by their scale.
        own[..., narrow:] *= 1 + steps(0.2, 1.5, d)[narrow:] * common[..., :1].abs()
        own[..., :narrow] += common
        pair.append(own + steps(0.1, 0.3, d) * own**2)
    return turned(pair[0]), turned(pair[1])


def covariance(a: Tensor, b: Tensor) -> Tensor:
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    return a.mT @ b / a.shape[1]


def same(one: Tensor, other: Tensor, *, atol: float = 1e-8) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=atol)


@pytest.mark.parametrize(("dx", "dy"), WIDTHS)
def test_sides_are_white_and_paired_by_their_correlations(dx: int, dy: int) -> None:
    form = canonicalise(*sides(dx, dy), 10)
    wide, narrow = max(dx, dy), min(dx, dy)
    for side, width in ((form.u, wide), (form.v, narrow)):
        assert side.dtype == torch.float64
        assert side.shape == (2, 600, 10)
        assert side.mean(1).abs().max() < 1e-10
        expected = torch.diag((torch.arange(10) < width).double())
        same(covariance(side, side), expected.expand(2, 10, 10), atol=5e-5)
        assert (side[..., width:] == 0).all()
    same(covariance(form.u, form.v), torch.diag_embed(form.rho))
    assert (form.rho[:, :narrow] > 0).all()
    assert (form.rho[:, narrow:] == 0).all()
    assert (form.rho.diff() <= 0).all()
    assert form.rho.max() < 1
    assert (form.widths == torch.tensor([wide, narrow])).all()


def test_correlations_of_correlated_pairs_are_theirs() -> None:
    """Two pairs of known correlation, hidden by rotations, are found; signs do not matter."""
    generator = torch.Generator().manual_seed(0)
    u, w = torch.randn(2, 1, 50_000, 2, generator=generator, dtype=torch.float64)
    rho = torch.tensor([0.8, -0.4], dtype=torch.float64)
    v = rho * u + (1 - rho**2).sqrt() * w
    mix = torch.tensor([[1.0, 2.0], [-1.0, 0.5]], dtype=torch.float64)
    form = canonicalise(u @ mix, v @ mix.mT, 3)
    same(form.rho[0], torch.tensor([0.8, 0.4, 0.0], dtype=torch.float64), atol=0.01)


@pytest.mark.parametrize(("dx", "dy"), WIDTHS)
def test_linear_maps_of_a_side_change_nothing(dx: int, dy: int) -> None:
    x, y = sides(dx, dy)
    generator = torch.Generator().manual_seed(1)
    form = canonicalise(x, y, 10)
    shift = torch.randn(dx, generator=generator, dtype=torch.float64)
    maps = [
        torch.eye(d, dtype=torch.float64)
        + 0.3 * torch.randn(d, d, generator=generator, dtype=torch.float64) / d**0.5
        for d in (dx, dy)
    ]
    moved = canonicalise(x @ maps[0] + shift, -3 * y @ maps[1], 10)
    # The ridge under the whitening is one part in a million of a variance.
    same(moved.rho, form.rho, atol=1e-5)
    same(moved.u, form.u, atol=2e-3)
    same(moved.v, form.v, atol=2e-3)


@pytest.mark.parametrize(("dx", "dy"), WIDTHS)
def test_exchanging_the_sides_changes_nothing(dx: int, dy: int) -> None:
    x, y = sides(dx, dy)
    form, other = canonicalise(x, y, 10), canonicalise(y, x, 10)
    for name in ("u", "v", "rho"):
        same(getattr(other, name), getattr(form, name))
    same(other.x_map, form.y_map)
    same(other.y_map, form.x_map)
    assert torch.equal(other.widths, form.widths)
    assert torch.equal(other.swapped, ~form.swapped)


def test_wider_side_comes_first() -> None:
    x, y = sides(2, 5)
    assert canonicalise(x, y, 10).swapped.all()
    assert not canonicalise(y, x, 10).swapped.any()


def test_order_of_the_samples_moves_their_coordinates_along() -> None:
    x, y = sides(4, 3)
    order = torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(2))
    form, shuffled = canonicalise(x, y, 10), canonicalise(x[:, order], y[:, order], 10)
    same(shuffled.u, form.u[:, order])
    same(shuffled.v, form.v[:, order])


def test_data_sets_of_a_batch_do_not_touch() -> None:
    x, y = sides(4, 4, b=3)
    alone = canonicalise(x[1:2], y[1:2], 10)
    for part, own in zip(canonicalise(x, y, 10), alone, strict=True):
        torch.testing.assert_close(part[1:2], own)


@pytest.mark.parametrize(("dx", "dy"), WIDTHS)
def test_coordinates_are_the_scores_under_the_maps(dx: int, dy: int) -> None:
    x, y = sides(dx, dy, b=3)
    form = canonicalise(x, y, 10)
    assert form.x_map.shape == (3, dx + 1, 10)
    assert form.y_map.shape == (3, dy + 1, 10)
    by_map = [
        side @ affine[:, :-1] + affine[:, -1:]
        for side, affine in ((x, form.x_map), (y, form.y_map))
    ]
    for i in range(3):
        first, second = by_map[::-1] if form.swapped[i] else by_map
        same(first[i], form.u[i])
        same(second[i], form.v[i])


def collapsed(kind: str) -> tuple[Tensor, Tensor]:
    x, y = sides(4, 3)
    match kind:
        case "constant column":
            x[..., 1] = 0.0
        case "constant side":
            x = torch.zeros_like(x)
        case "both sides constant":
            x, y = torch.zeros_like(x), torch.full_like(y, 2.0)
        case "duplicate columns":
            x[..., 1] = x[..., 0]
            x[..., 3] = x[..., 0]
        case "a column on both sides":
            y[..., 0] = x[..., 0]
        case "one side a part of the other":
            y = x[..., :3].clone()
        case "two distinct rows":
            x, y = x[:, :2].repeat(1, 300, 1), y[:, :2].repeat(1, 300, 1)
        case "independent with equal correlations":
            x, y = torch.eye(8).repeat(2, 75, 1)[..., :4], torch.eye(8).repeat(2, 75, 1)[..., 4:7]
    return x, y


@pytest.mark.parametrize(
    "kind",
    [
        "constant column",
        "constant side",
        "both sides constant",
        "duplicate columns",
        "a column on both sides",
        "one side a part of the other",
        "two distinct rows",
        "independent with equal correlations",
    ],
)
def test_collapsed_sides_stay_finite(kind: str) -> None:
    x, y = (side.requires_grad_() for side in collapsed(kind))
    form = canonicalise(x, y, 10)
    for part in form:
        assert part.isfinite().all()
    assert form.rho.max() <= 1 + 1e-9
    weight = torch.randn(2, 600, 10, generator=torch.Generator().manual_seed(0)).double()
    ((form.u * weight).sum() + (form.v.tanh() * weight).sum() + form.rho.sum()).backward()
    assert x.grad.isfinite().all()
    assert y.grad.isfinite().all()


def readings(form: Canonical) -> dict[str, Tensor]:
    """Smooth functions of what canonicalising yields."""
    generator = torch.Generator().manual_seed(7)
    weight = torch.randn(*form.u.shape, generator=generator, dtype=torch.float64)
    return {
        "u": (form.u * weight).mean(),
        "v": (form.v.tanh() * weight).mean(),
        "rho": (form.rho * torch.arange(1.0, 11.0)).sum(),
        "products": (form.u * form.v * weight).mean(),
        "maps": (form.x_map.sin()).sum() + (form.y_map.sin()).sum(),
    }


@pytest.mark.parametrize("name", ["u", "v", "rho", "products", "maps"])
@pytest.mark.parametrize(("dx", "dy"), [(1, 1), (3, 3), (4, 3), (5, 2), (2, 5), (1, 4)])
def test_gradient_equals_finite_differences(name: str, dx: int, dy: int) -> None:
    """Rotations included, with one, and with two or more, coordinates that have no partner."""
    x, y = sides(dx, dy, n=80)
    generator = torch.Generator().manual_seed(8)
    moves = [torch.randn(*s.shape, generator=generator, dtype=torch.float64) for s in (x, y)]

    def value(step: float) -> Tensor:
        return readings(canonicalise(x + step * moves[0], y + step * moves[1], 10))[name]

    step = 1e-6
    expected = (value(step) - value(-step)) / (2 * step)
    x.requires_grad_()
    y.requires_grad_()
    readings(canonicalise(x, y, 10))[name].backward()
    found = (x.grad * moves[0]).sum() + (y.grad * moves[1]).sum()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("function", [torch.sum, torch.amax])
def test_value_is_the_same_with_and_without_gradient(function: Callable) -> None:
    x, y = sides(5, 2)
    plain = canonicalise(x, y, 10)
    tracked = canonicalise(x.requires_grad_(), y, 10)
    for name in ("u", "v", "rho", "x_map", "y_map"):
        same(function(getattr(tracked, name)), function(getattr(plain, name)))
