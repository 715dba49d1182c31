"""How near the packaged weights come to known answers; `--weights PATH` tests others alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from flashmi_reg import FlashMI
from flashmi_reg.readout import Solution, solve_readout

pytestmark = pytest.mark.filterwarnings("ignore::flashmi_reg.errors.SupportWarning")


def gaussian(mi: float, d: int, n: int, b: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Data sets of d correlated pairs, hidden by rotations, and the mean PMI of their samples.

    The mean PMI has the true information as its expectation. Measuring errors from it leaves out
    the sampling error that no estimator can avoid.
    """
    generator = torch.Generator().manual_seed(1000 * seed + 10 * d + round(100 * mi))
    rho = math.sqrt(1 - math.exp(-2 * mi / d))
    u, w = torch.randn(2, b, n, d, generator=generator, dtype=torch.float64)
    v = rho * u + math.sqrt(1 - rho**2) * w
    pmi = mi + 0.5 * (u**2 + v**2 - (u**2 + v**2 - 2 * rho * u * v) / (1 - rho**2)).sum(-1)
    turns = torch.linalg.qr(torch.randn(2, b, d, d, generator=generator, dtype=torch.float64)).Q
    return (u @ turns[0]).float(), (v @ turns[1]).float(), pmi.mean(-1)


WIDTHS = (1, 2, 3, 4, 5)
INFORMATION = (0.0, 0.2, 0.5, 1.0, 1.5)


@pytest.fixture(scope="module", params=[(1000, 8), (4000, 4)], ids=["n=1000", "n=4000"])
def errors(request: pytest.FixtureRequest, trained: FlashMI) -> Tensor:
    """Mean signed error on Gaussian data, of shape (widths, information)."""
    n, sets = request.param
    found = torch.empty(len(WIDTHS), len(INFORMATION), dtype=torch.float64)
    for i, d in enumerate(WIDTHS):
        for j, mi in enumerate(INFORMATION):
            x, y, mean_pmi = gaussian(mi, d, n, sets)
            found[i, j] = (trained.mutual_information(x, y) - mean_pmi).mean()
    return found


@pytest.mark.parametrize("mi", INFORMATION)
def test_gaussian_information_is_found_at_every_strength(errors: Tensor, mi: float) -> None:
    assert errors[:, INFORMATION.index(mi)].mean().item() == pytest.approx(0, abs=0.03)


@pytest.mark.parametrize("d", WIDTHS)
def test_gaussian_information_is_found_at_every_width(errors: Tensor, d: int) -> None:
    assert errors[WIDTHS.index(d)].mean().item() == pytest.approx(0, abs=0.03)


def test_gaussian_information_is_found_at_every_width_and_strength(errors: Tensor) -> None:
    """For few data sets, the noise of the shuffled pairs, which grows with exp(MI), adds to it."""
    allowed = 0.03 * (1 + torch.tensor(INFORMATION))
    assert (errors.abs() < allowed).all(), errors


@pytest.mark.parametrize("width", range(1, 11))
@pytest.mark.parametrize(("n", "sets"), [(500, 10), (2000, 4)])
def test_independent_sides_have_no_information(
    trained: FlashMI, width: int, n: int, sets: int
) -> None:
    generator = torch.Generator().manual_seed(width)
    x, y = torch.randn(2, sets, n, width, generator=generator)
    mean = trained.mutual_information(x, y).mean()
    assert mean.item() == pytest.approx(0, abs=0.02)


def test_independent_clusters_have_no_information(trained: FlashMI) -> None:
    """Neither side is Gaussian, and both have structure that could be mistaken for dependence."""
    generator = torch.Generator().manual_seed(0)
    centres = 4 * torch.randn(2, 6, 1, 3, 2, generator=generator)
    which = torch.randint(3, (2, 6, 1000, 1, 1), generator=generator).expand(-1, -1, -1, 1, 2)
    noise = torch.randn(2, 6, 1000, 2, generator=generator)
    x, y = centres.expand(-1, -1, 1000, -1, -1).gather(3, which)[..., 0, :] + noise
    mean = trained.mutual_information(x, y).mean()
    assert mean.item() == pytest.approx(0, abs=0.03)


@pytest.mark.parametrize(("mi", "tolerance"), [(0.0, 0.002), (0.5, 0.015), (1.5, 0.03)])
def test_invertible_linear_maps_change_almost_nothing_on_average(
    trained: FlashMI, mi: float, tolerance: float
) -> None:
    """On average: a map reorders the samples, so that each estimate draws other shuffled pairs."""
    changes = []
    for d in (2, 3, 5):
        x, y, _ = gaussian(mi, d, 8000, 2)
        generator = torch.Generator().manual_seed(d)
        turn, other = torch.linalg.qr(torch.randn(2, d, d, generator=generator)).Q
        matrix = turn * torch.linspace(0.5, 2, d) @ other  # of condition 4
        before = trained.mutual_information(x, y)
        changes += [trained.mutual_information(x @ matrix, y) - before]
        changes += [trained.mutual_information(x, y @ matrix) - before]
    assert torch.stack(changes).mean().item() == pytest.approx(0, abs=tolerance)


@pytest.mark.parametrize("d", [2, 3, 5])
@pytest.mark.parametrize(("mi", "n", "sets"), [(0.5, 8000, 4), (1.5, 131_072, 1)])
def test_a_single_linear_map_changes_less_than_a_thousandth(
    trained: FlashMI, d: int, mi: float, n: int, sets: int
) -> None:
    """As little as it changes the correlations of ranks, of which there must be enough for that."""
    x, y, _ = gaussian(mi, d, n, sets)
    generator = torch.Generator().manual_seed(d)
    turn = torch.linalg.qr(torch.randn(d, d, generator=generator)).Q
    matrix = turn * torch.linspace(0.5, 2, d)
    change = trained.mutual_information(x @ matrix, y) - trained.mutual_information(x, y)
    assert (change.abs() > 0).all()
    assert (change.abs() < 1e-3).all(), change


@pytest.mark.parametrize("widths", [(1, 1), (3, 3), (2, 5)])
@pytest.mark.parametrize("n", [500, 10_000])
def test_exchanging_the_sides_changes_no_bit(
    trained: FlashMI, widths: tuple[int, int], n: int
) -> None:
    x, y, _ = gaussian(0.8, max(widths), n, 2)
    x, y = x[..., : widths[0]], y[..., : widths[1]]
    assert torch.equal(trained.mutual_information(x, y), trained.mutual_information(y, x))


@pytest.mark.parametrize("n", [500, 2000])
def test_coordinates_of_noise_add_no_information(trained: FlashMI, n: int) -> None:
    x, y, mean_pmi = gaussian(0.7, 1, n, 6)
    generator = torch.Generator().manual_seed(0)
    padded = [torch.cat([s, torch.randn(6, n, 4, generator=generator)], -1) for s in (x, y)]
    error = (trained.mutual_information(*padded) - mean_pmi).mean()
    assert error.item() == pytest.approx(0, abs=0.05)


def test_processing_a_side_loses_information(trained: FlashMI) -> None:
    """I(x; y) falls as noise is added to y, or a part of y is dropped."""
    x, y, _ = gaussian(1.5, 3, 2000, 4)
    noise = torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    whole = trained.mutual_information(x, y).mean()
    noisier = [trained.mutual_information(x, y + s * noise).mean() for s in (0.5, 1.0, 2.0)]
    course = torch.stack([whole, *noisier])
    assert (course.diff() < 0).all()
    assert trained.mutual_information(x, y[..., :2]).mean() < whole


def test_information_of_two_independent_parts_adds_up(trained: FlashMI) -> None:
    (x1, y1, _), (x2, y2, _) = (gaussian(mi, 1, 2000, 8, seed=1) for mi in (0.4, 0.8))
    parts = trained.mutual_information(x1, y1) + trained.mutual_information(x2, y2)
    whole = trained.mutual_information(torch.cat([x1, x2], -1), torch.cat([y1, y2], -1))
    assert (whole - parts).mean().item() == pytest.approx(0, abs=0.06)


def test_dependence_without_correlation_is_found(trained: FlashMI) -> None:
    """A circle with noise: the Gaussian-copula term alone sees nothing."""
    generator = torch.Generator().manual_seed(0)
    angle = 2 * math.pi * torch.rand(4, 2000, 1, generator=generator)
    noise = 0.2 * torch.randn(2, 4, 2000, 1, generator=generator)
    x, y = angle.cos() + noise[0], angle.sin() + noise[1]
    assert torch.corrcoef(torch.stack([x[0, :, 0], y[0, :, 0]]))[0, 1].abs() < 0.1
    assert trained.mutual_information(x, y).mean() > 0.25


def test_critic_at_new_pairs_is_their_pointwise_information(trained: FlashMI) -> None:
    rho = 0.7
    generator = torch.Generator().manual_seed(0)
    x, w, new_x, new_w = torch.randn(4, 4000, 1, generator=generator)
    y, new_y = (rho * a + math.sqrt(1 - rho**2) * b for a, b in ((x, w), (new_x, new_w)))
    pmi = trained.critic(x, y)(new_x, new_y)
    exact = -0.5 * math.log(1 - rho**2) + 0.5 * (
        new_x**2 + new_y**2 - (new_x**2 + new_y**2 - 2 * rho * new_x * new_y) / (1 - rho**2)
    )
    assert torch.corrcoef(torch.stack([pmi, exact[:, 0]]))[0, 1] > 0.98
    assert (pmi - exact[:, 0]).abs().mean() < 0.1


@pytest.mark.parametrize("gradient", ["critic", "full"])
@pytest.mark.parametrize("rho", [0.4, 0.8])
def test_gradient_along_a_known_deformation_is_known(
    trained: FlashMI, gradient: str, rho: float
) -> None:
    """Of I(x + t y; y) for correlation rho, the slope at t = 0 is rho."""
    generator = torch.Generator().manual_seed(0)
    x, w = torch.randn(2, 6, 1000, 1, generator=generator)
    y = rho * x + math.sqrt(1 - rho**2) * w
    x.requires_grad_()
    trained.mutual_information(x, y, gradient=gradient).sum().backward()
    slope = (x.grad * y).sum((1, 2)).mean()
    assert slope.item() == pytest.approx(rho, rel=0.15)


@pytest.mark.parametrize(("noise", "allowed"), [(1.5, 1e-3), (0.3, 0.05)], ids=["0.5", "2 nats"])
@pytest.mark.parametrize("n", [256, 1000])
def test_readout_is_solved_by_the_steps_taken(
    trained: FlashMI, n: int, noise: float, allowed: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gradients pass by the implicit function theorem, hence have to start from the optimum."""
    generator = torch.Generator().manual_seed(n)
    x = torch.randn(n, 2, generator=generator)
    y = x.square() + noise * torch.randn(n, 2, generator=generator)
    off: list[Tensor] = []

    def spy(features: Tensor, offset: Tensor, n: int, steps: int, start: Tensor) -> Solution:
        taken = solve_readout(features, offset, n, steps, start)
        exact = solve_readout(features.double(), offset.double(), n, 30, start.double())
        off.append((taken.values - exact.values)[:, :n].abs().mean())
        return taken

    monkeypatch.setattr("flashmi_reg.hypernet.solve_readout", spy)
    trained.mutual_information(x, y)
    assert off[0] < allowed
