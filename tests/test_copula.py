"""Ranks become normal scores; the gradient is that of moving past one's neighbours."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from flashmi_reg.copula import RADIX_FROM, Marginals, ascending, normal_scores

ndtri = torch.special.ndtri


def column(*values: float, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(values, dtype=dtype)[:, None]


def test_scores_of_a_small_column_are_known() -> None:
    expected = ndtri(torch.tensor([5 / 6, 1 / 6, 3 / 6], dtype=torch.float64))
    torch.testing.assert_close(normal_scores(column(30.0, -1.0, 2.0))[:, 0], expected)


def test_tied_values_share_their_mean_rank() -> None:
    expected = ndtri(torch.tensor([0.5, 0.125, 0.5, 0.875], dtype=torch.float64))
    torch.testing.assert_close(normal_scores(column(2.0, 1.0, 2.0, 5.0))[:, 0], expected)


def test_constant_column_becomes_zero() -> None:
    x = torch.stack([torch.full((50,), 7.0), torch.randn(50)], -1)
    scores = normal_scores(x)
    assert (scores[:, 0] == 0).all()
    assert (scores[:, 1] != 0).any()


def test_columns_and_data_sets_are_ranked_apart(generator: torch.Generator) -> None:
    x = torch.randn(2, 3, 40, 5, generator=generator)
    scores = normal_scores(x)
    assert scores.shape == x.shape
    assert torch.equal(scores[1, 2, :, [3]], normal_scores(x[1, 2, :, [3]]))
    assert torch.equal(scores[0, 1].argsort(0), x[0, 1].argsort(0))


@pytest.mark.parametrize(
    ("given_dtype", "expected"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_scores_are_at_least_float32(given_dtype: torch.dtype, expected: torch.dtype) -> None:
    assert normal_scores(torch.randn(20, 1).to(given_dtype)).dtype == expected


@pytest.mark.parametrize(
    "monotone",
    [
        torch.exp,
        torch.atan,
        lambda x: x**3,
        lambda x: 1e6 * x - 7,
        lambda x: x.sign() * x.abs().log1p(),
    ],
    ids=["exp", "atan", "cube", "affine", "symlog"],
)
def test_monotone_maps_change_no_bit(
    monotone: Callable[[Tensor], Tensor], generator: torch.Generator
) -> None:
    x = torch.randn(500, 3, generator=generator, dtype=torch.float64)
    assert torch.equal(normal_scores(monotone(x)), normal_scores(x))


def test_scores_of_many_samples_are_standard_normal(generator: torch.Generator) -> None:
    scores = normal_scores(torch.rand(10_000, 1, generator=generator, dtype=torch.float64) ** 5)
    assert abs(scores.mean()) < 1e-12
    assert abs(scores.var() - 1) < 2e-3
    assert abs(scores.pow(4).mean() - 3) < 2e-2


# --- the fitted transform ---------------------------------------------------------------------


@given(st.lists(st.integers(-4, 4), min_size=2, max_size=60), st.sampled_from([1.0, 1e-30, 1e30]))
def test_marginals_agree_with_scores_at_the_samples(values: list[int], scale: float) -> None:
    """Also where values are tied."""
    x = torch.tensor(values, dtype=torch.float32)[:, None] * scale
    torch.testing.assert_close(
        Marginals(x[None])(x[None])[0], normal_scores(x), rtol=1e-5, atol=1e-6
    )


def test_marginals_rise_between_samples_and_level_off_beyond(generator: torch.Generator) -> None:
    x = torch.randn(1, 200, 1, generator=generator, dtype=torch.float64)
    points = torch.linspace(-6, 6, 5001, dtype=torch.float64)[None, :, None]
    scores = Marginals(x)(points)[0, :, 0]
    assert (scores.diff() >= 0).all()
    inside = (points[0, :, 0] > x.min()) & (points[0, :, 0] < x.max())
    assert (scores[inside].diff() > 0).all()
    edge = ndtri(torch.tensor(0.5 / 200, dtype=torch.float64))
    torch.testing.assert_close(scores[[0, -1]], torch.stack([edge, -edge]))


def test_marginals_halfway_between_two_samples_are_halfway_between_their_scores() -> None:
    x = column(0.0, 1.0, 4.0)[None]
    expected = ndtri(torch.tensor([5 / 6], dtype=torch.float64)) / 2
    torch.testing.assert_close(Marginals(x)(column(2.5)[None])[0, 0], expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_marginals_of_the_largest_representable_values_are_finite(dtype: torch.dtype) -> None:
    top = torch.finfo(dtype).max
    x = column(-top, 0.0, top, dtype=dtype)[None]
    torch.testing.assert_close(Marginals(x)(x), normal_scores(x))
    assert Marginals(column(-top, top, dtype=dtype)[None])(x).isfinite().all()


@pytest.mark.parametrize("law", [lambda z: z, torch.exp, torch.sinh], ids=["normal", "log", "sinh"])
def test_gradient_of_marginals_is_the_local_density(
    law: Callable[[Tensor], Tensor], generator: torch.Generator
) -> None:
    """Not the inverse gap of two samples, which strays by factors."""
    x = law(torch.randn(1, 4000, 1, generator=generator, dtype=torch.float64))
    z = torch.linspace(-1.5, 1.5, 500, dtype=torch.float64)[None, :, None].requires_grad_()
    Marginals(x)(law(z)).sum().backward()
    assert z.grad.mean().item() == pytest.approx(1, abs=0.05)
    assert (z.grad - 1).abs().max() < 0.6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradient_of_marginals_is_finite_at_ties_and_zero_beyond(dtype: torch.dtype) -> None:
    x = column(*[0.0] * 20, *[1.0] * 20, 1.0 + 1e-6, 2.0, dtype=dtype)[None]
    points = column(-3.0, 0.0, 0.5, 1.0, 2.0, 7.0, dtype=dtype)[None].requires_grad_()
    Marginals(x)(points).sum().backward()
    assert points.grad.isfinite().all()
    assert (points.grad[0, [0, 5]] == 0).all()
    assert (points.grad[0, 2:5] > 0).all()
    constant = Marginals(torch.ones(1, 30, 1, dtype=dtype))
    points.grad = None
    constant(points).sum().backward()
    assert (points.grad == 0).all()


# --- the gradient -----------------------------------------------------------------------------

SMOOTH: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "covariance along y": (lambda z, w: z * w, lambda x, y: y),
    "covariance along sin y": (lambda z, w: z * w, lambda x, y: (2 * y).sin()),
    "third moment along xy": (lambda z, w: z**2 * w, lambda x, y: (x * y).tanh()),
    "saturated along y": (lambda z, w: (z + w).tanh() * w, lambda x, y: y),
    "wave along xy": (lambda z, w: (2 * z + w).sin(), lambda x, y: (x * y).tanh()),
}


def correlated(seed: int, n: int = 4000) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x, noise = torch.randn(2, n, 1, generator=generator, dtype=torch.float64)
    return x, 0.6 * x + 0.8 * noise


@pytest.mark.parametrize("case", SMOOTH)
@pytest.mark.parametrize("seed", [0, 1])
def test_gradient_is_the_change_under_a_smooth_deformation(case: str, seed: int) -> None:
    """Ranks are piecewise constant; a step that crosses many of them shows the slope."""
    functional, direction = SMOOTH[case]
    x, y = correlated(seed)
    move = direction(x, y)
    w = normal_scores(y)

    def value(step: float) -> Tensor:
        return functional(normal_scores(x + step * move), w).mean()

    step = 0.03
    ranks = (normal_scores(x + step * move).argsort(0).argsort(0) - x.argsort(0).argsort(0)).abs()
    assert ranks.double().mean() > 8
    expected = (value(step) - value(-step)) / (2 * step)

    moving = x.clone().requires_grad_()
    functional(normal_scores(moving), w).mean().backward()
    assert (moving.grad * move).sum() == pytest.approx(expected.item(), rel=0.05)


@pytest.mark.parametrize("bend", [torch.tanh, lambda x: x, lambda x: (2 * x).sin()])
def test_gradient_under_a_monotone_deformation_of_one_coordinate_vanishes(
    bend: Callable[[Tensor], Tensor],
) -> None:
    x, y = correlated(0)
    x.requires_grad_()
    (normal_scores(x) * normal_scores(y)).mean().backward()
    along_y = (x.grad * y).sum().abs()
    assert (x.grad * bend(x.detach())).sum().abs() < 0.01 * along_y


def test_gradient_of_a_function_of_one_coordinate_alone_is_small(
    generator: torch.Generator,
) -> None:
    """The scores of a sample without ties are the same set, wherever its values move."""
    x = torch.randn(1000, 1, generator=generator, dtype=torch.float64).requires_grad_()
    scores = normal_scores(x)
    scores.pow(4).sum().backward()
    bulk = scores.detach().abs() < 2  # further out the neighbours are few, and on one side
    if_scores_were_free = 4 * scores.detach().pow(3)
    assert x.grad[bulk].norm() < 0.1 * if_scores_were_free[bulk].norm()


def awkward(kind: str, n: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    match kind:
        case "ordinary":
            pass
        case "constant":
            x[:, 0] = 3.0
        case "ties":
            x = (2 * x).round()
        case "mostly one value":
            x[: n - 3] = 0.0
        case "duplicated rows":
            x[n // 2 :] = x[: n - n // 2]
        case "gaps of 1e-30":
            x[: n // 2] = 1e-30 * torch.arange(n // 2, dtype=torch.float64)[:, None]
        case "mostly gaps of 1e-30":
            x[: n - 3] = 1e-30 * torch.arange(n - 3, dtype=torch.float64)[:, None]
        case "tiny":
            x = 1e-30 * x
        case "huge":
            x = 5e37 * x
    return x.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("n", [2, 50, 1000])
@pytest.mark.parametrize(
    "kind",
    [
        "ordinary",
        "constant",
        "ties",
        "mostly one value",
        "duplicated rows",
        "gaps of 1e-30",
        "mostly gaps of 1e-30",
        "tiny",
        "huge",
    ],
)
def test_gradient_is_finite(kind: str, n: int, dtype: torch.dtype) -> None:
    if kind == "huge" and dtype == torch.float16:
        kind = "ordinary"
    x = awkward(kind, max(n, 4), dtype)[:n].requires_grad_()
    weight = torch.randn(n, 2, generator=torch.Generator().manual_seed(2))
    (normal_scores(x) * weight).sum().backward()
    assert x.grad.dtype == dtype
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["ordinary", "ties", "both zeros", "infinite", "tiny", "huge"])
@pytest.mark.parametrize("n", [2, 3, 100, 5000])
def test_sorting_by_digits_is_stable_sorting(n: int, kind: str, dtype: torch.dtype) -> None:
    columns = -(-RADIX_FROM // n)
    x = torch.randn(2, columns, n, generator=torch.Generator().manual_seed(3)).to(dtype)
    if kind == "ties":
        x = x.round()
    elif kind == "both zeros":
        x = torch.where(x.abs() < 1, x * 0.0, x)
    elif kind == "infinite":
        x = torch.where(x.abs() > 1, x * torch.inf, x)
    elif kind in ("tiny", "huge"):
        x = x * (torch.finfo(dtype).tiny / 1e3 if kind == "tiny" else torch.finfo(dtype).max / 10)
    values, order = ascending(x)
    expected = x.sort(dim=-1, stable=True)
    assert torch.equal(values, expected.values)
    assert torch.equal(order, expected.indices)
    assert torch.equal(values.signbit(), expected.values.signbit())


def test_columns_without_ties_have_the_scores_that_they_have_beside_others_with(
    generator: torch.Generator,
) -> None:
    x = torch.randn(300, 2, generator=generator)
    tied = torch.stack([x[:, 0], x[:, 1].round()], -1)
    assert torch.equal(normal_scores(x)[:, 0], normal_scores(tied)[:, 0])


def test_scores_first_found_in_inference_mode_serve_gradients() -> None:
    x = torch.randn(277, 1, generator=torch.Generator().manual_seed(4), requires_grad=True)
    with torch.inference_mode():
        normal_scores(x)
    normal_scores(x).square().sum().backward()


def test_near_ties_do_not_outweigh_all_other_gradients(generator: torch.Generator) -> None:
    x = torch.randn(1000, 1, generator=generator)
    plain, near = x.clone().requires_grad_(), x.clone()
    near[:60] = 1e-30 * torch.arange(60.0)[:, None]
    near.requires_grad_()
    weight = torch.randn(1000, 1, generator=generator)
    for samples in (plain, near):
        (normal_scores(samples) * weight).sum().backward()
    assert near.grad.abs().max() < 1e4 * plain.grad.abs().max()


def test_gradient_of_a_constant_column_is_zero() -> None:
    x = torch.full((50, 1), math.pi, requires_grad=True)
    (normal_scores(x) * torch.randn(50, 1)).sum().backward()
    assert (x.grad == 0).all()
