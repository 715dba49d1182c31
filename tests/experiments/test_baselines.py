from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import digamma
from torch import Tensor

from experiments.baselines import (
    BASELINES,
    KNIFE,
    KSG,
    MINE,
    NWJ,
    SMILE,
    Baseline,
    GaussianCopula,
    InfoNCE,
)
from experiments.baselines.knife import KernelDensities
from experiments.baselines.neural import Critic, Dropout, Objective, Schedule, shifted
from experiments.baselines.nwj import NguyenWainwrightJordan
from experiments.baselines.smile import Smoothed
from experiments.bmi.distributions import dense, two_pair
from experiments.bmi.tasks import TASKS, generator_for

QUICK = Schedule(hidden=(32, 32), learning_rate=3e-3, batch=64, max_steps=400, patience=4)


def normal_pair(rho: float, n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x, noise = torch.randn(2, n, 1, generator=generator, dtype=torch.float64)
    return x, rho * x + math.sqrt(1 - rho**2) * noise


def information(rho: float) -> float:
    return -0.5 * math.log(1 - rho**2)


@pytest.mark.parametrize("rho", [0.0, 0.5, -0.9])
@pytest.mark.parametrize("name", ["control", "ksg"])
def test_known_information_of_normal_pairs(name: str, rho: float) -> None:
    estimates = [BASELINES[name](*normal_pair(rho, 2_000, seed), seed).value for seed in range(3)]
    assert np.mean(estimates) == pytest.approx(information(rho), abs=0.035)


@pytest.mark.parametrize("name", list(BASELINES))
def test_baselines_refuse_what_they_cannot_use(name: str) -> None:
    x, y = normal_pair(0.5, 50)
    with pytest.raises(ValueError, match="shapes"):
        BASELINES[name](x, y[:-1], 0)
    with pytest.raises(ValueError, match="shapes"):
        BASELINES[name](x[:, 0], y[:, 0], 0)
    with pytest.raises(ValueError, match="finite"):
        BASELINES[name](x, torch.full_like(y, math.nan), 0)


class TestGaussianCopula:
    def test_recovers_wide_gaussians(self) -> None:
        for law in (dense(5, 5), two_pair(10, 10)):
            estimates = [
                GaussianCopula()(*law.draw((2_000,), torch.Generator().manual_seed(seed))).value
                for seed in range(3)
            ]
            assert np.mean(estimates) == pytest.approx(law.mi, abs=0.04)

    def test_correction_removes_the_bias_of_independent_data(self) -> None:
        generator = torch.Generator().manual_seed(0)
        pairs = [torch.randn(2, 500, 5, generator=generator) for _ in range(20)]
        plain = np.mean([GaussianCopula(corrected=False)(x, y).value for x, y in pairs])
        corrected = np.mean([GaussianCopula()(x, y).value for x, y in pairs])
        assert plain == pytest.approx(25 / 1_000, abs=0.006)
        assert corrected == pytest.approx(0.0, abs=0.006)

    def test_monotone_maps_of_coordinates_change_nothing(self) -> None:
        x, y = normal_pair(0.7, 300)
        value = GaussianCopula()(x, y).value
        assert GaussianCopula()(x.exp(), -(y**3)).value == pytest.approx(value, abs=1e-12)

    def test_constant_and_repeated_columns_carry_nothing(self) -> None:
        x, y = normal_pair(0.7, 300)
        plain = GaussianCopula(corrected=False)
        wide = torch.cat([x, x, torch.ones_like(x)], 1)
        assert plain(wide, y).value == pytest.approx(plain(x, y).value, abs=1e-9)
        assert plain(torch.ones_like(x), y).value == 0.0

    def test_is_finite_for_equal_variables_and_refuses_too_few_pairs(self) -> None:
        x, _ = normal_pair(0.0, 100)
        assert math.isfinite(GaussianCopula()(x, x).value)
        with pytest.raises(ValueError, match="more pairs than dimensions"):
            GaussianCopula()(torch.randn(10, 5), torch.randn(10, 5))

    def test_is_blind_to_dependence_through_scale(self) -> None:
        task = TASKS["student-identity-3-3-2"]
        value = GaussianCopula()(*task.sample(2_000, generator=generator_for(task, 2_000, 0))).value
        assert abs(value) < 0.05 < task.mi


class TestKSG:
    def test_equals_the_definition(self) -> None:
        generator = torch.Generator().manual_seed(0)
        x, y = torch.randn(120, 2, generator=generator), torch.randn(120, 3, generator=generator)
        y[:, 0] += x[:, 0]
        a, b = (((z - z.mean(0)) / z.std(0, correction=0)).double().numpy() for z in (x, y))
        dx = np.abs(a[:, None] - a[None]).max(-1)
        dy = np.abs(b[:, None] - b[None]).max(-1)
        radius = np.sort(np.maximum(dx, dy), axis=1)[:, 3]
        nx, ny = ((d < radius[:, None]).sum(1) - 1 for d in (dx, dy))
        expected = digamma(3) + digamma(120) - np.mean(digamma(nx + 1) + digamma(ny + 1))
        assert KSG(k=3, noise=0.0)(x, y).value == pytest.approx(expected, abs=1e-12)

    def test_agrees_with_scikit_learn_in_one_dimension(self) -> None:
        regression = pytest.importorskip("sklearn.feature_selection").mutual_info_regression
        x, y = normal_pair(0.8, 500)
        expected = regression(x.numpy(), y.numpy()[:, 0], n_neighbors=3, random_state=0)[0]
        assert KSG(k=3)(x, y).value == pytest.approx(expected, abs=1e-6)

    def test_sees_dependence_through_scale(self) -> None:
        task = TASKS["asinh-student-identity-1-1-1"]
        value = KSG()(*task.sample(2_000, generator=generator_for(task, 2_000, 0))).value
        assert value == pytest.approx(task.mi, abs=0.06)

    def test_scale_of_a_coordinate_does_not_matter(self) -> None:
        x, y = normal_pair(0.7, 300)
        assert KSG()(1e4 * x, y - 7).value == pytest.approx(KSG()(x, y).value, abs=1e-6)

    @pytest.mark.parametrize("k", [0, 100])
    def test_refuses_impossible_neighbours(self, k: int) -> None:
        with pytest.raises(ValueError, match="`k`"):
            KSG(k=k)(*normal_pair(0.5, 100))


class TestNeural:
    @pytest.mark.parametrize(
        "baseline",
        [
            MINE(QUICK),
            InfoNCE(replace(QUICK, hidden=(16, 16), max_steps=300)),
            NWJ(QUICK),
            SMILE(schedule=QUICK),
            KNIFE(schedule=QUICK),
        ],
        ids=["mine", "infonce", "nwj", "smile", "knife"],
    )
    def test_recovers_a_strong_dependence(self, baseline: Baseline) -> None:
        estimate = baseline(*normal_pair(0.8, 1_000), 0)
        assert estimate.value == pytest.approx(information(0.8), abs=0.15)
        assert estimate.steps is not None
        assert 0 < estimate.steps <= QUICK.max_steps
        assert estimate.seconds > 0

    @pytest.mark.parametrize(
        "baseline",
        [MINE(QUICK), NWJ(QUICK), SMILE(schedule=QUICK), KNIFE(schedule=QUICK)],
        ids=["mine", "nwj", "smile", "knife"],
    )
    def test_finds_nothing_in_independent_data_and_stops_by_itself(
        self, baseline: Baseline
    ) -> None:
        estimate = baseline(*normal_pair(0.0, 600), 0)
        assert abs(estimate.value) < 0.06
        assert estimate.converged

    def test_seed_decides_everything_and_the_global_generator_is_left_alone(self) -> None:
        brief = MINE(Schedule(hidden=(16,), max_steps=50))
        x, y = normal_pair(0.8, 200)
        before = torch.get_rng_state()
        first, same, other = (brief(x, y, seed).value for seed in (1, 1, 2))
        assert torch.equal(before, torch.get_rng_state())
        assert first == same != other

    @pytest.mark.parametrize("change", [{"dropout": 0.2}, {"averaging": 0.99}])
    def test_dropout_and_averages_are_of_the_seed_and_change_the_estimate(
        self, change: dict[str, float]
    ) -> None:
        plain = Schedule(hidden=(16, 16), max_steps=50)
        x, y = normal_pair(0.8, 200)
        before = torch.get_rng_state()
        first, same = (MINE(replace(plain, **change))(x, y, 1).value for _ in range(2))
        assert torch.equal(before, torch.get_rng_state())
        assert first == same != MINE(plain)(x, y, 1).value

    @pytest.mark.parametrize("share", [0.0, 0.2, 0.5])
    def test_dropout_leaves_out_its_share_in_training_alone(self, share: float) -> None:
        dropout = Dropout(share, torch.Generator().manual_seed(0))
        found = dropout(torch.ones(301, 333))
        assert (found == 0).double().mean() == pytest.approx(share, abs=0.01)
        assert found.mean() == pytest.approx(1.0, abs=0.01)
        assert torch.equal(dropout.eval()(found), found)

    def test_table_of_the_critic_holds_its_values_at_pairs(self) -> None:
        generator = torch.Generator().manual_seed(0)
        critic = Critic(2, 3, (8, 8), generator=generator)
        x, y = torch.randn(5, 2, generator=generator), torch.randn(5, 3, generator=generator)
        torch.testing.assert_close(critic.table(x, y).diagonal(), critic(x, y))


class Exact(Critic):
    """The log density ratio of normal pairs with a correlation, less `offset`."""

    def __init__(self, rho: float, offset: float = 0.0) -> None:
        super().__init__(1, 1, (2,), generator=torch.Generator())
        self.rho, self.level = rho, offset

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        square = x**2 + y**2
        form = (2 * self.rho * x * y - self.rho**2 * square) / (2 * (1 - self.rho**2))
        return form.squeeze(-1) + information(self.rho) - self.level


class TestBounds:
    @pytest.mark.parametrize(
        "objective", [NguyenWainwrightJordan(), Smoothed(5.0), Smoothed(math.inf)]
    )
    def test_are_tight_at_the_density_ratio(self, objective: Objective) -> None:
        x, y = normal_pair(0.6, 20_000)
        assert objective.value(Exact(0.6), x, y) == pytest.approx(information(0.6), abs=0.02)

    def test_nwj_pays_for_a_wrong_level_and_smile_without_clipping_does_not(self) -> None:
        x, y = normal_pair(0.6, 20_000)
        level = 0.5
        loss = level + math.exp(-level) - 1
        nwj = NguyenWainwrightJordan().value(Exact(0.6, level), x, y)
        assert nwj == pytest.approx(information(0.6) - loss, abs=0.02)
        smile = Smoothed(math.inf).value(Exact(0.6, level), x, y)
        assert smile == pytest.approx(information(0.6), abs=0.02)

    def test_clipping_bounds_the_second_term_alone(self) -> None:
        x, y = normal_pair(0.0, 100)
        constant = Exact(0.0, offset=-3.0)
        assert Smoothed(1.0).value(constant, x, y) == pytest.approx(2.0, abs=1e-5)
        assert Smoothed(5.0).value(constant, x, y) == pytest.approx(0.0, abs=1e-5)

    def test_training_of_smile_is_judged_by_a_bound_that_is_best_at_the_density_ratio(
        self,
    ) -> None:
        x, y = normal_pair(0.6, 20_000)
        found = [Smoothed(5.0).score(Exact(0.6, level), x, y, 0.0) for level in (0.0, 0.5, -0.5)]
        assert found[0] == max(found)

    def test_shifted_copies_leave_no_pair_whole(self) -> None:
        y = torch.arange(9.0)[:, None]
        for other in shifted(y, 8):
            assert not (other == y).any()
            assert torch.equal(other.sort(0).values, y)


class TestKernelDensities:
    def test_both_integrate_to_one(self) -> None:
        generator = torch.Generator().manual_seed(0)
        densities = KernelDensities(1, 2, (8,), 3, generator)
        with torch.no_grad():
            for parameter in densities.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        axis = torch.linspace(-12, 12, 481)
        y = torch.cartesian_prod(axis, axis)
        cell = float(axis[1] - axis[0]) ** 2
        x = torch.full((len(y), 1), 0.7)
        for log_density in (densities.marginal(y), densities.conditional(x, y)):
            assert log_density.exp().sum().item() * cell == pytest.approx(1.0, abs=1e-3)

    def test_the_conditional_one_starts_as_the_marginal_one(self) -> None:
        generator = torch.Generator().manual_seed(0)
        densities = KernelDensities(2, 3, (8,), 4, generator)
        x, y = torch.randn(20, 2, generator=generator), torch.randn(20, 3, generator=generator)
        torch.testing.assert_close(densities.conditional(x, y), densities.marginal(y))

    def test_correlated_coordinates_of_a_side_do_not_matter(self) -> None:
        generator = torch.Generator().manual_seed(0)
        x, y = dense(2, 2, 0.9).draw((400,), generator)
        brief = KNIFE(schedule=replace(QUICK, max_steps=100, scores=False))
        turned = y @ torch.tensor([[2.0, 0.0], [-1.0, 0.5]], dtype=torch.float64)
        assert brief(x, turned).value == pytest.approx(brief(x, y).value, abs=0.15)
