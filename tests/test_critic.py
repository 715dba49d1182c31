"""The Gaussian term is exact, features are bounded, and log-mean-exp is guarded."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from flashmi_reg.critic import (
    FLOOR,
    MAX_SHARE,
    Modulation,
    PairFeatures,
    RadialFeatures,
    Values,
    donsker_varadhan,
    gaussian_pmi,
    log_mean_exp,
    norm_score,
    pair_inputs,
)

CORRELATIONS = [(0.0, 0.0, 0.0), (0.5, 0.3, 0.1), (0.6, 0.0, 0.0)]


def gaussian(rho: Tensor, n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    u, w = torch.randn(2, 1, n, rho.numel(), generator=generator, dtype=torch.float64)
    return u, rho * u + (1 - rho**2).sqrt() * w


# --- the Gaussian term ------------------------------------------------------------------------


def test_gaussian_pmi_is_the_log_ratio_of_densities() -> None:
    rho = torch.tensor([0.7, 0.2], dtype=torch.float64)
    u, v = gaussian(rho, 500)
    cross = torch.diag(rho)
    eye = torch.eye(2, dtype=torch.float64)
    joint = torch.cat([torch.cat([eye, cross], 1), torch.cat([cross, eye], 1)])
    side = MultivariateNormal(torch.zeros(2, dtype=torch.float64), eye)
    law = MultivariateNormal(torch.zeros(4, dtype=torch.float64), joint)
    exact = law.log_prob(torch.cat([u, v], -1)) - side.log_prob(u) - side.log_prob(v)
    found = gaussian_pmi(u, v, rho[None])
    torch.testing.assert_close(found, exact, rtol=0, atol=2e-3)
    high = exact > -4  # the levelling off at -12 is felt by e^-8 there
    torch.testing.assert_close(found[high], exact[high], rtol=0, atol=4e-4)


@pytest.mark.parametrize("rho", CORRELATIONS)
def test_mean_of_gaussian_pmi_is_the_mutual_information(rho: tuple[float, ...]) -> None:
    rho = torch.tensor(rho, dtype=torch.float64)
    pmi = gaussian_pmi(*gaussian(rho, 200_000), rho[None])
    exact = -0.5 * (1 - rho**2).log().sum()
    assert pmi.mean().item() == pytest.approx(exact.item(), abs=5e-3)


@pytest.mark.parametrize("rho", CORRELATIONS)
def test_exp_of_gaussian_pmi_averages_to_one_over_the_product(rho: tuple[float, ...]) -> None:
    rho = torch.tensor(rho, dtype=torch.float64)
    u, _ = gaussian(rho, 400_000)
    v, _ = gaussian(rho, 400_000, seed=1)
    assert gaussian_pmi(u, v, rho[None]).exp().mean().item() == pytest.approx(1, abs=0.02)


def test_gaussian_pmi_goes_no_lower_than_its_floor() -> None:
    u = torch.tensor([[[8.0]]])
    found = gaussian_pmi(u, -u, torch.tensor([[0.99]]))
    torch.testing.assert_close(found, torch.tensor([[FLOOR]]))


# --- the features -----------------------------------------------------------------------------


def test_features_are_bounded_however_far_out_a_pair_lies(generator: torch.Generator) -> None:
    body = PairFeatures(width=3, bent=0, hidden=8, layers=2, features=5)
    neutral = Modulation(
        [torch.ones(1, 1, units) for units in body.units],
        [torch.zeros(1, 1, units) for units in body.units],
        torch.zeros(1, 5),
    )
    u, v = 1e4 * torch.randn(2, 1, 40, 3, generator=generator)
    inputs = torch.cat(pair_inputs(u, v, torch.full((1, 2), 3), torch.zeros(1, 40)), -1)
    assert inputs.shape == (1, 40, 3 * 3 + 4)
    with torch.no_grad():
        features = body.features(body(inputs, neutral), neutral)
        assert features.shape == (1, 40, 5)
        assert (features.abs() <= 1).all()


@pytest.mark.parametrize("width", [1, 2, 5, 10])
def test_norms_of_normal_points_are_about_standard_normal(
    width: int, generator: torch.Generator
) -> None:
    points = torch.zeros(1, 20_000, 10)
    points[..., :width] = torch.randn(1, 20_000, width, generator=generator)
    score = norm_score(points, torch.tensor([[width]]))
    assert abs(score.mean().item()) < 0.15
    assert abs(score.std().item() - 1) < 0.15


def test_radial_features_see_norms_alone(generator: torch.Generator) -> None:
    radial = RadialFeatures(16, 5)
    u, v = torch.randn(2, 1, 30, 3, generator=generator)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=generator))[0]
    widths, term = torch.full((1, 2), 3), torch.zeros(1, 30)
    found = radial(torch.cat(pair_inputs(u, v, widths, term), -1))
    assert found.shape == (1, 30, 5)
    turned = torch.cat(pair_inputs(u @ turn, -v, widths, term), -1)
    torch.testing.assert_close(radial(turned), found)


def test_norm_has_a_finite_slope_at_the_origin() -> None:
    points = torch.zeros(1, 4, 3, requires_grad=True)
    norm_score(points, torch.tensor([[3]])).sum().backward()
    assert points.grad.isfinite().all()


# --- log-mean-exp -----------------------------------------------------------------------------


def test_guarded_log_mean_exp_is_the_plain_one_for_small_values(
    generator: torch.Generator,
) -> None:
    m = 1_000_000  # the guard sets in at log(0.05 m), here 10.8
    joint, shuffled = 0.5 * torch.randn(2, 1, m, generator=generator, dtype=torch.float64)
    plain = shuffled.logsumexp(-1) - math.log(m)
    torch.testing.assert_close(log_mean_exp(joint, shuffled), plain, rtol=0, atol=1e-4)


def test_log_mean_exp_of_zeros_is_zero() -> None:
    zeros = torch.zeros(3, 77)
    torch.testing.assert_close(log_mean_exp(zeros, zeros), torch.zeros(3))


@pytest.mark.parametrize("outlier", [10.0, 50.0, 1e4])
def test_one_outlier_adds_no_more_than_its_share(outlier: float) -> None:
    shuffled = torch.zeros(1, 1000)
    shuffled[0, 0] = outlier
    found = log_mean_exp(torch.zeros(1, 1000), shuffled).item()
    assert 0 < found <= math.log(1 + MAX_SHARE) + 1e-6
    assert found < shuffled.logsumexp(-1).item() - math.log(1000)


def test_guarded_log_mean_exp_of_a_calibrated_critic_is_zero() -> None:
    """Even where a plain mean of exp is ruled by a few pairs: correlation 0.95."""
    rho = torch.tensor([0.95], dtype=torch.float64)
    u, v = gaussian(rho, 20_000)
    other, _ = gaussian(rho, 20_000, seed=1)
    found = log_mean_exp(gaussian_pmi(u, v, rho[None]), gaussian_pmi(u, other, rho[None]))
    assert found.item() == pytest.approx(0, abs=0.03)


def at_pairs(rho: Tensor, n: int, seed: int = 0, step: int = 1) -> Values:
    """The true critic of Gaussian samples, at joint and at shuffled pairs."""
    u, v = gaussian(rho, n, seed)
    return Values(*(gaussian_pmi(u, w, rho[None]) for w in (v, v.roll(step, 1))))


def constant(values: Values) -> Values:
    """A Gaussian term that finds no correlation."""
    return Values(*(torch.zeros_like(part) for part in values))


def test_donsker_varadhan_of_the_true_critic_is_the_mutual_information() -> None:
    rho = torch.tensor([0.8, 0.4], dtype=torch.float64)
    values = at_pairs(rho, 50_000)
    exact = (-0.5 * (1 - rho**2).log().sum()).item()
    assert donsker_varadhan(values, constant(values)).item() == pytest.approx(exact, abs=0.02)
    assert donsker_varadhan(values, values).item() == pytest.approx(exact, abs=0.02)


def test_control_variate_leaves_little_of_the_noise_of_shuffling() -> None:
    """Of a critic that is Gaussian but for a little."""
    rho = torch.tensor([0.8, 0.8], dtype=torch.float64)
    plain, controlled = [], []
    for step in range(1, 41):
        control = at_pairs(rho, 1000, step=step)
        values = Values(*(part + 0.05 * part.sin() for part in control))
        plain.append(donsker_varadhan(values, constant(values)))
        controlled.append(donsker_varadhan(values, control))
    plain, controlled = torch.cat(plain), torch.cat(controlled)
    assert controlled.std() < 0.2 * plain.std()
    assert abs(controlled.mean() - plain.mean()) < plain.std()


def test_control_that_is_constant_or_foreign_changes_next_to_nothing() -> None:
    rho = torch.tensor([0.6], dtype=torch.float64)
    values = at_pairs(rho, 20_000)
    plain = values.joint.mean(-1) - log_mean_exp(*values)
    torch.testing.assert_close(donsker_varadhan(values, constant(values)), plain)
    foreign = at_pairs(rho, 20_000, seed=5)
    assert (donsker_varadhan(values, foreign) - plain).abs().item() < 0.005


def test_adding_a_constant_to_the_critic_leaves_the_bound_almost_as_it_is() -> None:
    """It would not change a plain Donsker–Varadhan bound at all; the guard sees it a little."""
    values = at_pairs(torch.tensor([0.6], dtype=torch.float64), 20_000)
    moved = Values(*(part + 1 for part in values))
    shift = donsker_varadhan(moved, values) - donsker_varadhan(values, values)
    assert shift.abs().item() < 0.01
