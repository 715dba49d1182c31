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
    donsker_varadhan,
    gaussian_pmi,
    log_mean_exp,
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
    body = PairFeatures(width=3, hidden=8, layers=2, features=5)
    neutral = Modulation(
        [torch.ones(1, 1, units) for units in body.units],
        [torch.zeros(1, 1, units) for units in body.units],
        torch.zeros(1, 5),
    )
    u, v = 1e4 * torch.randn(2, 1, 40, 3, generator=generator)
    inputs = pair_inputs(u, v, torch.full((1, 2), 3), torch.zeros(1, 40))
    assert inputs.shape == (1, 40, 3 * 3 + 4)
    with torch.no_grad():
        features = body.features(body(inputs, neutral), neutral)
        assert features.shape == (1, 40, 5)
        assert (features.abs() <= 1).all()


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


def test_donsker_varadhan_of_the_true_critic_is_the_mutual_information() -> None:
    rho = torch.tensor([0.8, 0.4], dtype=torch.float64)
    u, v = gaussian(rho, 50_000)
    joint = gaussian_pmi(u, v, rho[None])
    shuffled = gaussian_pmi(u, v.roll(1, 1), rho[None])
    exact = -0.5 * (1 - rho**2).log().sum()
    assert donsker_varadhan(joint, shuffled).item() == pytest.approx(exact.item(), abs=0.02)


def test_adding_a_constant_to_the_critic_leaves_the_bound_almost_as_it_is() -> None:
    """It would not change a plain Donsker–Varadhan bound at all; the guard sees it a little."""
    rho = torch.tensor([0.6], dtype=torch.float64)
    u, v = gaussian(rho, 20_000)
    joint, shuffled = (gaussian_pmi(u, w, rho[None]) for w in (v, v.roll(1, 1)))
    shift = donsker_varadhan(joint + 1, shuffled + 1) - donsker_varadhan(joint, shuffled)
    assert shift.abs().item() < 0.01
