"""The readout is solved to its optimum, and leave-one-out tells how loud features may be."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

from flashmi_reg.audition import audition, joined
from flashmi_reg.readout import (
    ITERATIONS,
    LEVELS,
    choose_loudness,
    leave_one_out,
    nce_loss,
    solve_readout,
)


class Problem:
    """A readout problem with a dependence that the offset misses."""

    def __init__(
        self, seed: int = 0, *, scale: float = 1.0, shift: float = 1.0, n: int = 120, m: int = 300
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.n = n
        self.features = scale * torch.randn(2, n + m, 6, generator=generator, dtype=torch.float64)
        self.features[:, :n, 0] += shift
        self.offset = torch.randn(2, n + m, generator=generator, dtype=torch.float64)

    def values(self, weights: Tensor) -> Tensor:
        return self.offset + (self.features @ weights[..., None])[..., 0]

    def objective(self, weights: Tensor) -> Tensor:
        values = self.values(weights)
        joint, shuffled = softplus(-values[:, : self.n]), softplus(values[:, self.n :])
        return joint.mean(-1) + shuffled.mean(-1) + weights.pow(2).sum(-1) / (2 * self.n)

    def solve(self, iterations: int) -> Tensor:
        return solve_readout(self.features, self.offset, self.n, iterations).weights

    def optimum(self) -> Tensor:
        weights = torch.zeros(2, 6, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS(
            [weights],
            max_iter=500,
            tolerance_grad=1e-12,
            tolerance_change=1e-16,
            line_search_fn="strong_wolfe",
        )

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = self.objective(weights).sum()
            loss.backward()
            return loss

        optimizer.step(closure)
        return weights.detach()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
def test_one_step_more_than_from_auditions_reaches_the_optimum(seed: int, scale: float) -> None:
    problem = Problem(seed, scale=scale)
    found = problem.solve(ITERATIONS + 1)
    torch.testing.assert_close(found, problem.optimum(), rtol=0, atol=1e-5)


def test_values_are_those_of_the_weights() -> None:
    problem = Problem()
    values, weights = solve_readout(problem.features, problem.offset, problem.n, 3)
    torch.testing.assert_close(values, problem.values(weights))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("scale", [0.3, 1.0, 10.0, 100.0])
def test_no_step_goes_uphill_however_sure_the_critic(seed: int, scale: float) -> None:
    problem = Problem(seed, scale=scale, n=60, m=60)
    course = torch.stack([problem.objective(problem.solve(steps)) for steps in range(1, 10)])
    assert (course.diff(dim=0) <= 1e-12).all()
    assert (course[-1] < problem.objective(torch.zeros(2, 6).double())).all()


def test_start_saves_steps_and_settles_nothing() -> None:
    problem = Problem(scale=3.0)
    near = problem.optimum() + 0.01
    solve = lambda steps: solve_readout(  # noqa: E731
        problem.features, problem.offset, problem.n, steps, near
    )
    torch.testing.assert_close(solve(2).weights, problem.optimum(), rtol=0, atol=1e-6)
    torch.testing.assert_close(solve(8).weights, problem.solve(12), rtol=0, atol=1e-9)


@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
def test_gradients_are_those_of_the_minimiser(scale: float) -> None:
    problem = Problem(n=20, m=30, scale=scale)

    def solve(features: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
        return tuple(solve_readout(features, offset, 20, 12))

    inputs = (problem.features, problem.offset)
    assert torch.autograd.gradcheck(solve, [i.requires_grad_() for i in inputs], atol=1e-6)


# --- leave-one-out ----------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 7, 60, 99])
def test_leave_one_out_is_what_a_readout_without_the_pair_says(place: int) -> None:
    problem = Problem(n=60, m=100, scale=0.7)
    values = solve_readout(problem.features, problem.offset, 60, 12).values
    guess = leave_one_out(problem.features, values, 60)[:, place]

    # Its weight is set to zero, and the others keep theirs: the same minimiser by LBFGS.
    weights = torch.zeros(2, 6, dtype=torch.float64, requires_grad=True)
    keep = torch.ones(160, dtype=torch.float64)
    keep[place] = 0.0
    share = keep * torch.cat([torch.full((60,), 1 / 60), torch.full((100,), 1 / 100)])
    label = (torch.arange(160) < 60).double()
    optimizer = torch.optim.LBFGS(
        [weights], max_iter=300, tolerance_grad=1e-12, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        now = problem.values(weights)
        loss = (share * (softplus(now) - label * now)).sum() + weights.pow(2).sum() / 120
        loss.backward()
        return loss

    optimizer.step(closure)
    exact = problem.values(weights.detach())[:, place]
    moved = (values[:, place] - exact).abs()
    assert ((guess - exact).abs() < 0.1 * moved + 1e-4).all()


def test_a_pair_is_missed_where_it_is_left_out() -> None:
    problem = Problem()
    values = solve_readout(problem.features, problem.offset, problem.n, 8).values
    without = leave_one_out(problem.features, values, problem.n)
    assert (without[:, : problem.n] < values[:, : problem.n]).all()
    assert (without[:, problem.n :] > values[:, problem.n :]).all()
    assert (nce_loss(without, problem.n) > nce_loss(values, problem.n)).all()
    joint = leave_one_out(problem.features, values, problem.n, first=problem.n)
    torch.testing.assert_close(joint, without[:, : problem.n])


# --- loudness ---------------------------------------------------------------------------------


def test_features_of_nothing_are_hushed_and_those_of_something_are_heard() -> None:
    blank = Problem(shift=0.0, n=400, m=400)
    telling = Problem(shift=1.5, n=400, m=400)
    hushed = choose_loudness(blank.features, torch.zeros_like(blank.offset), 400, 2)
    heard = choose_loudness(telling.features, torch.zeros_like(telling.offset), 400, 2)
    assert (hushed.level < -3).all()
    assert (heard.level > -2).all()
    assert hushed.evidence.shape == (2, len(LEVELS) + 3)


def test_level_stays_within_those_tried() -> None:
    problem = Problem()
    level = choose_loudness(problem.features, problem.offset, problem.n, 2).level
    assert ((level >= min(LEVELS)) & (level <= max(LEVELS))).all()


def test_loudness_has_the_gradient_of_its_value() -> None:
    problem = Problem(n=60, m=60, scale=0.5, shift=0.6)
    features = problem.features.clone().requires_grad_()
    direction = problem.features.sin()

    def level(step: float) -> Tensor:
        return choose_loudness(features + step * direction, problem.offset, 60, 2).level.sum()

    level(0.0).backward()
    with torch.no_grad():
        slope = (level(1e-5) - level(-1e-5)) / 2e-5
    assert (features.grad * direction).sum().item() == pytest.approx(slope.item(), rel=0.05)


@pytest.mark.parametrize("sizes", [(12, 32), (3, 9), (15, 16)])
def test_columns_of_zeros_change_nothing(
    sizes: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(5)
    n = 90
    features = [torch.rand(2, 3 * n, size, generator=generator).double() for size in sizes]
    features[1][:, :n, 0] += 0.4
    offset = torch.randn(2, 3 * n, generator=generator, dtype=torch.float64)

    def found() -> list[Tensor]:
        groups = [
            audition(
                part, part.new_ones(part.shape[-1]), offset, n, count=12, steps=2, frozen=False
            )
            for part in features
        ]
        choir = joined(groups, torch.zeros(2, 2))
        values, weights = solve_readout(choir.features, offset, n, 3, choir.start)
        told = leave_one_out(choir.features, values, n)
        return [groups[1].loudness.level, values, weights[:, : sum(sizes)], weights[:, -1], told]

    completed = found()
    monkeypatch.setattr("flashmi_reg.audition.MOST_ZEROS", 0)
    for one, other in zip(completed, found(), strict=True):
        torch.testing.assert_close(one, other)
