"""Canonical truncation: known answers in many dimensions, gradients, and what it leaves alone."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import Tensor

from flashmi_reg import FlashMI, estimate, mutual_information, total_correlation
from flashmi_reg.copula import normal_scores
from flashmi_reg.errors import InputError, SupportWarning
from flashmi_reg.truncation import gaussian_information


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def correlated(
    rho: list[float], d: int, n: int, generator: torch.Generator, sets: int = 4
) -> tuple[Tensor, Tensor, float]:
    """Sides of d coordinates of which the first correlate, in coordinates turned at random."""
    strength = torch.zeros(d)
    strength[: len(rho)] = torch.tensor(rho)
    x, noise = torch.randn(2, sets, n, d, generator=generator)
    y = strength * x + (1 - strength**2).sqrt() * noise
    turn = torch.linalg.qr(torch.randn(2, d, d, generator=generator)).Q
    return x @ turn[0], y @ turn[1], -0.5 * sum(math.log(1 - r**2) for r in rho)


@pytest.mark.parametrize("d", [16, 32, 64])
def test_gaussian_information_is_unbiased_where_dimensions_are_many(
    d: int, generator: torch.Generator
) -> None:
    x, y, truth = correlated([0.9, 0.6], d, 500, generator, sets=20)
    found = gaussian_information(normal_scores(x), normal_scores(y))
    plain = found + d * d / 1000  # about what the correction takes away
    error = float(found.std()) / math.sqrt(20)
    assert found.mean().item() == pytest.approx(truth, abs=4 * error + 0.02)
    assert plain.mean() > truth + d * d / 2000


@pytest.mark.parametrize(
    ("d", "n", "tolerance"), [(12, 500, 0.06), (25, 1000, 0.06), (64, 2000, 0.06)]
)
def test_gaussian_pairs_among_many_coordinates(
    d: int, n: int, tolerance: float, generator: torch.Generator
) -> None:
    x, y, truth = correlated([0.9, 0.6], d, n, generator)
    assert mutual_information(x, y).mean().item() == pytest.approx(truth, abs=tolerance)


@pytest.mark.parametrize("d", [11, 25, 64])
def test_independent_sides_have_none(d: int, generator: torch.Generator) -> None:
    x, y = torch.randn(2, 6, 1000, d, generator=generator)
    # The standard deviation of the Gaussian term alone is about d / (√2 n).
    tolerance = 0.01 + 3 * d / (math.sqrt(2 * 6) * 1000)
    assert mutual_information(x, y).mean().item() == pytest.approx(0, abs=tolerance)


def test_a_common_scale_is_found_through_the_norms(generator: torch.Generator) -> None:
    """Students of 25 + 25 dimensions whose coordinates are uncorrelated, I = 0.889."""
    x, y = torch.randn(2, 2, 4000, 25, generator=generator)
    chi = torch.randn(2, 4000, 3, generator=generator).square().sum(-1, keepdim=True)
    scale = (3 / chi).sqrt()
    found = mutual_information(x * scale, y * scale)
    linear = gaussian_information(normal_scores(x * scale), normal_scores(y * scale))
    assert linear.mean() < 0.2
    assert found.mean().item() == pytest.approx(0.889, abs=0.06)


def test_a_common_scale_is_not_taken_for_linear_dependence(generator: torch.Generator) -> None:
    """Students of 50 + 50 dimensions and 2 degrees of freedom, I = 1.44: no estimate above it."""
    x, y = torch.randn(2, 3, 600, 50, generator=generator)
    scale = (2 / torch.randn(3, 600, 2, generator=generator).square().sum(-1, keepdim=True)).sqrt()
    linear = gaussian_information(normal_scores(x * scale), normal_scores(y * scale))
    assert linear.mean() > 0.8  # what chance makes of it
    assert 0.9 < mutual_information(x * scale, y * scale).mean() < 1.5


def test_scales_of_their_own_add_nothing(generator: torch.Generator) -> None:
    """Heavy tails on either side, apart: there is no more than the Gaussian pairs tell."""
    x, y, truth = correlated([0.8, 0.8], 25, 1000, generator)
    chi = torch.randn(2, 4, 1000, 2, generator=generator).square().sum(-1, keepdim=True)
    found = mutual_information(x * chi[0].rsqrt(), y * chi[1].rsqrt())
    assert found.mean().item() < truth + 0.03
    assert mutual_information(x * chi[0].rsqrt(), y.roll(500, 1) * chi[1].rsqrt()).mean() < 0.02


def test_a_bent_dependence_of_strong_pairs_is_found(generator: torch.Generator) -> None:
    """y tells x² and a trace of x; the rest is noise."""
    x = torch.randn(2, 4000, 20, generator=generator)
    y = torch.randn(2, 4000, 20, generator=generator)
    y[..., 0] = 0.5 * x[..., 0] + x[..., 0] ** 2 + 0.3 * y[..., 0]
    linear = gaussian_information(normal_scores(x), normal_scores(y))
    assert (mutual_information(x, y) > linear + 0.3).all()


def test_bent_columns_without_linear_trace_are_found(generator: torch.Generator) -> None:
    """Each of three columns of y tells the square of one of x, 0.86 nats each."""
    x, y = torch.randn(2, 2, 1000, 20, generator=generator)
    y[..., 4:7] = x[..., :3] ** 2 + 0.5 * y[..., 4:7]
    assert ((mutual_information(x, y) > 1.2) & (mutual_information(x, y) < 2.7)).all()


@pytest.mark.parametrize(("d", "n", "tolerance"), [(16, 1000, 0.1), (25, 2000, 0.06)])
def test_spirals_are_found(d: int, n: int, tolerance: float, generator: torch.Generator) -> None:
    """Two pairs, turned with a third column by an angle that grows with the norm."""
    x, noise = torch.randn(2, 3, n, d, generator=generator)
    y = noise.clone()
    y[..., :2] = 0.8 * x[..., :2] + 0.6 * noise[..., :2]
    truth = -math.log(1 - 0.64)
    x, y = (_turned(side, i) for side, i in ((x, 0), (y, 1)))
    linear = gaussian_information(normal_scores(x), normal_scores(y))
    assert linear.mean() < truth - 0.12
    assert mutual_information(x, y).mean().item() == pytest.approx(truth, abs=tolerance)


def _turned(z: Tensor, i: int) -> Tensor:
    angle, found = z.square().mean(-1), z.clone()
    found[..., i] = angle.cos() * z[..., i] - angle.sin() * z[..., i + 1]
    found[..., i + 1] = angle.sin() * z[..., i] + angle.cos() * z[..., i + 1]
    return found


def test_what_else_is_in_the_batch_does_not_matter(generator: torch.Generator) -> None:
    """Data sets of which different numbers of coordinates are shown."""
    x, y, _ = correlated([0.8], 14, 300, generator, sets=3)
    y[1] = torch.randn(300, 14, generator=generator)
    y[2, :, 3] = x[2, :, 3] ** 2
    value = mutual_information(x, y)
    alone = [mutual_information(a, b).item() for a, b in zip(x, y, strict=True)]
    assert value.tolist() == pytest.approx(alone, abs=1e-5)


def test_order_and_sides_do_not_matter(generator: torch.Generator) -> None:
    x, y, _ = correlated([0.8], 14, 300, generator, sets=2)
    value = mutual_information(x, y)
    order = torch.randperm(300, generator=generator)
    assert torch.equal(mutual_information(x[:, order], y[:, order]), value)
    assert torch.equal(mutual_information(x[0], y[0]), mutual_information(x[0], y[0]))
    assert mutual_information(x[0], y[0]).item() == pytest.approx(value[0].item(), abs=1e-5)
    assert mutual_information(y, x).tolist() == pytest.approx(value.tolist(), abs=0.03)


def test_monotone_transforms_change_nothing(generator: torch.Generator) -> None:
    x, y, _ = correlated([0.8], 12, 300, generator, sets=1)
    assert torch.equal(mutual_information(x.exp(), y**3), mutual_information(x, y))


@pytest.mark.parametrize("gradient", ["critic", "full"])
def test_gradients_reach_both_sides_and_are_finite(
    gradient: str, generator: torch.Generator
) -> None:
    x, y, _ = correlated([0.8], 16, 256, generator, sets=1)
    x[..., 3], y[..., 5] = 0.0, y[..., 4]  # constant, and collapsed
    x, y = x[0].requires_grad_(), y[0].requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SupportWarning)
        mutual_information(x, y, gradient=gradient).backward()  # type: ignore[arg-type]
    assert all(side.grad.isfinite().all() and side.grad.abs().sum() > 0 for side in (x, y))


def test_gradient_of_the_gaussian_term_is_that_of_finite_differences(
    generator: torch.Generator,
) -> None:
    x, y = torch.randn(2, 1, 40, 3, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(gaussian_information, (x.requires_grad_(), y.requires_grad_()))


def test_minimising_removes_what_a_wide_code_tells(generator: torch.Generator) -> None:
    secret = torch.randn(400, 1, generator=generator)
    observed = torch.cat([secret, torch.randn(400, 15, generator=generator)], 1)
    observed = observed @ torch.linalg.qr(torch.randn(16, 16, generator=generator)).Q
    noise = torch.randn(400, 12, generator=generator)
    weights = torch.eye(16)[:, :12].clone().requires_grad_()
    optimizer = torch.optim.Adam([weights], lr=0.05)

    def unexplained() -> float:
        code = torch.cat([observed @ weights.detach() + 0.1 * noise, torch.ones(400, 1)], 1)
        residual = secret - code @ torch.linalg.lstsq(code, secret).solution
        return float(residual.var() / secret.var())

    before = unexplained()
    for _ in range(40):
        value = mutual_information(observed @ weights + 0.1 * noise, secret)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    assert before < 0.5
    assert unexplained() > 0.9


def test_degenerate_columns_add_no_information(generator: torch.Generator) -> None:
    x, y, truth = correlated([0.8], 11, 1000, generator, sets=1)
    x = torch.cat([x, torch.ones(1, 1000, 3)], -1)
    with pytest.warns(SupportWarning, match="constant"):
        value = mutual_information(x, y)
    assert value.item() == pytest.approx(truth, abs=0.08)


def test_what_is_not_told_is_said(generator: torch.Generator) -> None:
    x, y, _ = correlated([0.8], 12, 300, generator, sets=1)
    found = estimate(x[0], y[0])
    assert found.interval is None
    assert sum("no interval" in note for note in found.warnings) == 1
    with pytest.raises(InputError, match="critic for at most 10"):
        FlashMI.from_pretrained("base").critic(x, y)


def test_samples_must_suffice_for_the_width() -> None:
    with pytest.raises(InputError, match="75 samples are needed"):
        mutual_information(torch.randn(74, 20), torch.randn(74, 5))
    assert mutual_information(torch.randn(75, 20), torch.randn(75, 5)).isfinite()


def test_halves_of_many_variables_may_be_wide(generator: torch.Generator) -> None:
    x = torch.randn(600, 24, generator=generator)
    x[:, 1] = 0.6 * x[:, 0] + 0.8 * x[:, 1]
    assert total_correlation(x).item() == pytest.approx(-0.5 * math.log(0.64), abs=0.1)
