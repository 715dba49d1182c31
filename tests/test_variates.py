"""Nonlinear canonical variates: found where they are known, silent where there are none."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from flashmi_reg.critic import FLOOR
from flashmi_reg.variates import (
    INPUTS_PER_VARIATE,
    SideFeatures,
    Variates,
    canonical_variates,
    taken_back,
    variate_inputs,
    variate_values,
)


def gaussian(n: int, correlation: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x, noise = torch.randn(2, 1, n, 1, generator=generator, dtype=torch.float64)
    return x, correlation * x + math.sqrt(1 - correlation**2) * noise


def powers(x: Tensor) -> Tensor:
    return torch.cat([x, x**2, x**3], -1)


def seen_of(variates: Variates, first: Tensor, second: Tensor) -> Tensor:
    """What the critic's features see of new points with these features."""
    return torch.cat(variate_inputs(variates, *variate_values(variates, first, second)), -1)


def test_correlations_of_gaussian_pairs_are_the_powers_of_theirs() -> None:
    """The expansion of a Gaussian pair has Hermite polynomials and correlations ρ^k."""
    x, y = gaussian(100_000, 0.8)
    found = canonical_variates(powers(x), powers(y), 3).correlation[0]
    # The ridge takes up to 3 % of each.
    expected = torch.tensor([0.8, 0.64, 0.512], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.05)


def test_bent_dependence_is_straightened() -> None:
    """y depends on x² alone: no linear correlation, one variate that has it."""
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, 1, 20_000, 1, generator=generator, dtype=torch.float64)
    y = (x**2 - 1) / math.sqrt(2) + 0.5 * noise
    exact = 1 / math.sqrt(1.25)
    second = torch.cat([y, torch.zeros_like(powers(y)[..., 1:])], -1)
    variates = canonical_variates(powers(x), second, 1)
    assert variates.correlation.item() == pytest.approx(exact, abs=0.03)  # the ridge takes a part
    along = powers(x) @ variates.first[:, :-1] + variates.first[:, -1:]
    seen = torch.corrcoef(torch.stack([along[0, :, 0], x[0, :, 0] ** 2]))[0, 1].abs()
    assert seen > 0.99


@pytest.mark.parametrize("n", [50, 500, 5000])
@pytest.mark.parametrize("features", [3, 40])
def test_independent_features_are_silent(n: int, features: int) -> None:
    generator = torch.Generator().manual_seed(n + features)
    first, second = torch.randn(2, 20, n, features, generator=generator)
    found = canonical_variates(first, second, 3)
    assert found.correlation.mean() < 0.01
    assert found.correlation.max() < 0.1


def test_variates_have_unit_variance_where_they_were_found() -> None:
    x, y = gaussian(500, 0.7)
    variates = canonical_variates(powers(x), powers(y), 2)
    for features, matrix in ((powers(x), variates.first), (powers(y), variates.second)):
        values = features @ matrix[:, :-1] + matrix[:, -1:]
        torch.testing.assert_close(values.mean(1), torch.zeros(1, 2, dtype=torch.float64))
        assert (values.square().mean(1) - 1).abs().max() < 1e-9


def test_exchanging_the_sides_exchanges_the_maps() -> None:
    x, y = gaussian(400, 0.6)
    one = canonical_variates(powers(x), powers(y), 3)
    other = canonical_variates(powers(y), powers(x), 3)
    torch.testing.assert_close(one.correlation, other.correlation)
    torch.testing.assert_close(one.first, other.second)


def test_holding_the_rotation_changes_no_value() -> None:
    x, y = gaussian(400, 0.6)
    for one, other in zip(
        canonical_variates(powers(x), powers(y), 3),
        canonical_variates(powers(x), powers(y), 3, hold_rotation=True),
        strict=True,
    ):
        assert torch.equal(one, other)


def test_constant_features_are_finite_and_silent() -> None:
    x, _ = gaussian(200, 0.5)
    constant = torch.full_like(powers(x), 3.0).requires_grad_()
    features = powers(x).requires_grad_()
    variates = canonical_variates(features, constant, 2)
    assert (variates.correlation == 0).all()
    seen = seen_of(variates, features, constant)
    assert seen.isfinite().all()
    seen.square().sum().backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()
    assert constant.grad.isfinite().all()


def test_functions_found_on_few_pairs_lean_towards_each_other_there() -> None:
    """Taking it back brings what is seen nearer to what other pairs show, or there."""
    generator = torch.Generator().manual_seed(0)
    common, *noise = torch.randn(5, 40, 1000, 20, generator=generator, dtype=torch.float64)
    x, y, new_x, new_y = noise
    for side in (x, y):
        side[..., 0] = 0.6 * side[..., 0] + 0.8 * common[..., 0]
    for side in (new_x, new_y):
        side[..., 0] = 0.6 * side[..., 0] + 0.8 * common[..., 1]
    variates = canonical_variates(x, y, 1)

    as_found, new = (variate_values(variates, *p) for p in ((x, y), (new_x, new_y)))
    halfway, all_the_way = (taken_back(variates, *as_found, share) for share in (0.5, 1.0))
    found, halfway, held_out, fresh = (
        variate_inputs(variates, *functions)[2].mean()
        for functions in (as_found, halfway, all_the_way, new)
    )
    assert held_out < halfway < found
    assert abs(held_out - fresh) < 0.8 * (halfway - fresh)
    assert halfway - fresh < 0.7 * (found - fresh)


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_taking_back_keeps_the_spread(share: float) -> None:
    x, y = gaussian(500, 0.7)
    found = canonical_variates(powers(x), powers(y), 1)
    a, b = variate_values(found, powers(x), powers(y))
    nearer = torch.stack(taken_back(found, a, b, share))
    for side in nearer:
        torch.testing.assert_close(side.square().mean(), torch.tensor(1.0, dtype=torch.float64))
    assert nearer.prod(0).mean() < (a * b).mean() - 1e-3


def test_points_far_out_stay_bounded() -> None:
    x, y = gaussian(1000, 0.99)
    variates = canonical_variates(powers(x), powers(y), 2)
    seen = seen_of(variates, powers(100 * x), powers(-100 * y))
    assert seen.shape == (1, 1000, 2 * INPUTS_PER_VARIATE)
    assert seen[..., :6].abs().max() <= 9
    assert seen[..., 6:].min() >= -math.log1p(-FLOOR)


def test_level_of_a_gaussian_pair_is_its_pmi() -> None:
    x, y = gaussian(50_000, 0.6)
    variates = canonical_variates(x, y, 1)
    level = seen_of(variates, x, y)[..., -1]
    pmi = level.sign() * level.abs().expm1()
    assert pmi.mean().item() == pytest.approx(-0.5 * math.log(1 - 0.36), abs=0.02)


def test_gradient_is_that_of_the_values() -> None:
    x, y = gaussian(300, 0.7)
    weight = torch.linspace(-1, 1, 300, dtype=torch.float64)[None, :, None]

    def value(x: Tensor, y: Tensor) -> Tensor:
        first, second = powers(x), powers(y)
        variates = canonical_variates(first, second, 2)
        return (weight * seen_of(variates, first, second)).sum()

    assert torch.autograd.gradcheck(
        value, (x.requires_grad_(), y.requires_grad_()), eps=1e-6, atol=1e-4, fast_mode=True
    )


def test_padding_adds_no_function_of_its_own() -> None:
    side = SideFeatures(4, 8, 6)
    points = torch.zeros(1, 5, 4)
    points[..., 0] = torch.linspace(-1, 1, 5)
    found = side(points, torch.tensor([[1]]))
    assert found.shape == (1, 5, 10)
    assert (found[..., 1:4] == 0).all()
    assert (found[..., 4:].std(1) > 0).all()
