from __future__ import annotations

import math

import pytest
import torch

from experiments.bmi.distributions import Gaussian, Student, dense, two_pair
from experiments.bmi.tasks import TASKS, Task, generator_for
from experiments.bmi.transforms import half_cube, mixture_quantile, normal_cdf, spiral

# Truths as printed by benchmark-mi 0.1.3, without the transforms, which leave them unchanged.
TRUTHS = {
    "1v1-normal-0.75": 0.4133,
    "1v1-additive-0.1": 1.7094,
    "1v1-additive-0.75": 0.3333,
    "1v1-bimodal-0.75": 0.4133,
    "multinormal-dense-2-2-0.5": 0.2939,
    "multinormal-dense-3-3-0.5": 0.4133,
    "multinormal-dense-5-5-0.5": 0.5928,
    "multinormal-dense-25-25-0.5": 1.2922,
    "multinormal-dense-50-50-0.5": 1.6243,
    "multinormal-sparse-2-2-2-2.0": 1.0217,
    "multinormal-sparse-3-3-2-2.0": 1.0217,
    "multinormal-sparse-5-5-2-2.0": 1.0217,
    "multinormal-sparse-25-25-2-2.0": 1.0217,
    "student-identity-1-1-1": 0.2242,
    "student-identity-2-2-1": 0.4319,
    "student-identity-2-2-2": 0.1931,
    "student-identity-3-3-2": 0.2909,
    "student-identity-3-3-3": 0.1787,
    "student-identity-5-5-2": 0.4482,
    "student-identity-5-5-3": 0.2985,
}
PREFIXES = ("normal_cdf-", "wiggly-", "half_cube-", "asinh-", "swissroll_x-", "spiral-")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def base_name(name: str) -> str:
    for prefix in PREFIXES:
        if name.startswith(prefix):
            return base_name(name.removeprefix(prefix))
    return name


def test_registry_holds_forty_tasks_of_which_seven_are_wide() -> None:
    assert len(TASKS) == 40
    assert sum(task.narrow for task in TASKS.values()) == 33
    assert all(name == task.name for name, task in TASKS.items())
    assert {task.dx + task.dy for task in TASKS.values() if not task.narrow} == {50, 100}
    assert len({task.title for task in TASKS.values()}) == 40


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_task(task: Task) -> None:
    assert task.mi == pytest.approx(TRUTHS[base_name(task.name)], abs=5e-5)
    before = torch.get_rng_state()
    x, y = task.sample(64, generator=seeded(1), batch=2)
    assert torch.equal(before, torch.get_rng_state()), "the global generator was used"
    assert (x.shape, y.shape) == ((2, 64, task.dx), (2, 64, task.dy))
    assert x.dtype == y.dtype == torch.float64
    assert x.isfinite().all()
    assert y.isfinite().all()
    assert not torch.equal(x[0], x[1])

    again = task.sample(64, generator=seeded(1), batch=2)
    assert torch.equal(x, again[0])
    assert torch.equal(y, again[1])
    assert not torch.equal(x, task.sample(64, generator=seeded(2), batch=2)[0])

    low = task.sample(64, generator=seeded(1), batch=2, dtype=torch.float32)
    assert low[0].dtype == low[1].dtype == torch.float32
    torch.testing.assert_close(low[0], x.float())

    single = task.sample(5, generator=seeded(3))
    assert [z.shape for z in single] == [(5, task.dx), (5, task.dy)]


def test_sample_refuses_no_pairs() -> None:
    with pytest.raises(ValueError, match="`n`"):
        TASKS["1v1-normal-0.75"].sample(0, generator=seeded(0))


def test_generators_differ_between_cells() -> None:
    a, b = TASKS["1v1-normal-0.75"], TASKS["wiggly-1v1-normal-0.75"]
    cells = [(a, 100, 0), (a, 100, 1), (a, 200, 0), (b, 100, 0)]
    assert len({generator_for(*cell).initial_seed() for cell in cells}) == 4
    assert generator_for(a, 100, 0).initial_seed() == generator_for(a, 100, 0).initial_seed()


@pytest.mark.parametrize("gaussian", [dense(2, 3), two_pair(3, 2)])
def test_gaussian_has_its_covariance(gaussian: Gaussian) -> None:
    x, y = gaussian.draw((50_000,), seeded(0))
    sample = torch.cat([x, y], 1).T.cov()
    torch.testing.assert_close(sample, gaussian.covariance, atol=0.03, rtol=0)


def test_gaussian_information_matches_the_scalar_formula() -> None:
    covariance = torch.tensor([[1.0, 0.6], [0.6, 1.0]], dtype=torch.float64)
    assert Gaussian(1, 1, covariance).mi == pytest.approx(-0.5 * math.log(1 - 0.36))
    assert two_pair(3, 3).mi == pytest.approx(-math.log(1 - 0.64))


def test_student_tends_to_independence_with_its_degrees_of_freedom() -> None:
    informations = [Student(3, 3, df).mi for df in (1, 2, 5, 20, 100)]
    assert informations == sorted(informations, reverse=True)
    assert 0 < informations[-1] < 0.01


def test_student_has_the_quartiles_of_a_cauchy_variable() -> None:
    x, _ = Student(1, 1, 1).draw((50_000,), seeded(0))
    quartiles = x.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64))
    torch.testing.assert_close(
        quartiles, torch.tensor([-1.0, 0.0, 1.0]).double(), atol=0.04, rtol=0
    )


def test_spiral_keeps_norms_and_turns_one_plane() -> None:
    x = torch.randn(100, 4, generator=seeded(0), dtype=torch.float64)
    turned = spiral(1, 2, 4)(x)
    torch.testing.assert_close(turned.norm(dim=1), x.norm(dim=1))
    assert torch.equal(turned[:, [0, 3]], x[:, [0, 3]])
    unit = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    expected = torch.tensor([[math.cos(0.5), math.sin(0.5)]], dtype=torch.float64)
    torch.testing.assert_close(spiral(0, 1, 2)(unit), expected)


def test_mixture_quantile_inverts_the_distribution_function() -> None:
    u = torch.linspace(0.001, 0.999, 101, dtype=torch.float64)
    q = mixture_quantile((0.3, 0.7), (0.0, 5.0))(u)
    torch.testing.assert_close(0.3 * normal_cdf(q) + 0.7 * normal_cdf(q - 5), u)


def test_half_cube_is_odd() -> None:
    x = torch.tensor([-4.0, 0.0, 4.0])
    torch.testing.assert_close(half_cube(x), torch.tensor([-8.0, 0.0, 8.0]))
