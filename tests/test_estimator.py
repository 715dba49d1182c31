"""The one data path: derangements, both gradient modes, large data, and the emitted critic."""

from __future__ import annotations

import math
import subprocess
import sys
import textwrap

import pytest
import torch
from torch import Tensor

from flashmi_reg import FlashMI
from flashmi_reg.canonical import Canonical
from flashmi_reg.copula import normal_scores
from flashmi_reg.critic import Values, log_mean_exp
from flashmi_reg.estimator import READ_LIMIT, derange, estimate_scores, shuffle_copies
from flashmi_reg.hypernet import (
    COMPARED_FROM,
    TAKEN_BACK,
    Emission,
    HyperNetwork,
    Pairs,
    Shuffle,
)

BENT = 0.17
WIDTHS = [(1, 1), (3, 3), (2, 4), (5, 2), (1, 3)]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def dependent(n: int, dx: int, dy: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple:
    """Data with linear and non-linear dependence between all sides, of generic position."""
    generator = seeded(seed)
    common, x, y = (torch.randn(n, d, generator=generator, dtype=dtype) for d in (1, dx, dy))
    scale = torch.linspace(0.5, 1, max(dx, dy), dtype=dtype)
    x = x + scale[:dx] * common + 0.2 * x**2
    y = y + scale[:dy].flip(0) * common + 0.3 * common**2
    return x, y


@pytest.fixture(scope="module")
def network64(tiny: FlashMI) -> HyperNetwork:
    return tiny.to(dtype=torch.float64)._network


# --- derangements -----------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3, 5, 50, 333, 2048])
@pytest.mark.parametrize("seed", range(3))
def test_no_sample_is_shuffled_onto_itself_and_no_pair_comes_twice(n: int, seed: int) -> None:
    copies = min(shuffle_copies(n), n - 1)
    first, second = derange(n, copies, seeded(seed))
    assert first.shape == second.shape == (copies * n,)
    assert (first != second).all()
    assert len(set(zip(first.tolist(), second.tolist(), strict=True))) == copies * n
    for side in (first, second):
        assert (side.bincount(minlength=n) == copies).all()


def test_fewer_samples_are_shuffled_more_often() -> None:
    assert [shuffle_copies(n) for n in (50, 512, 1024, 2048, 8192)] == [4, 4, 2, 1, 1]


def test_shuffled_partners_look_independent() -> None:
    first, second = derange(10_000, 1, seeded())
    x = torch.arange(10_000.0)
    assert torch.corrcoef(torch.stack([x[first], x[second]]))[0, 1].abs() < 0.04


# --- gradients --------------------------------------------------------------------------------


@pytest.mark.parametrize(("dx", "dy"), WIDTHS)
@pytest.mark.parametrize("direction", ["random", "x along y", "rotation"])
def test_full_gradient_equals_finite_differences(
    network64: HyperNetwork, dx: int, dy: int, direction: str
) -> None:
    x, y = (side[None] for side in dependent(150, dx, dy, dtype=torch.float64))
    generator = seeded(3)
    match direction:
        case "random":
            moves = [torch.randn(*s.shape, generator=generator).double() for s in (x, y)]
        case "x along y":
            moves = [y[..., :1].sin().expand_as(x), torch.zeros_like(y)]
        case "rotation":
            moves = [(x.roll(1, -1) * y[..., :1]).tanh(), (y * x[..., :1]).tanh()]

    def value(step: float) -> Tensor:
        moved = (x + step * moves[0], y + step * moves[1])
        return estimate_scores(network64, *moved, seeded(), frozen=False).value[0]

    step = 1e-6
    expected = (value(step) - value(-step)) / (2 * step)
    x.requires_grad_()
    y.requires_grad_()
    value(0.0).backward()
    found = (x.grad * moves[0]).sum() + (y.grad * moves[1]).sum()
    assert abs(expected) > 1e-6
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize(("dx", "dy"), WIDTHS)
def test_both_gradient_modes_have_one_value(network64: HyperNetwork, dx: int, dy: int) -> None:
    x, y = (side[None] for side in dependent(150, dx, dy, dtype=torch.float64))
    values = [
        estimate_scores(network64, x.clone().requires_grad_(track), y, seeded(), frozen=frozen)
        for track, frozen in ((True, True), (True, False), (False, True))
    ]
    for estimation in values[1:]:
        torch.testing.assert_close(estimation.value, values[0].value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("dx", "dy"), WIDTHS)
def test_frozen_gradient_points_the_way_of_the_full_one(
    network64: HyperNetwork, dx: int, dy: int
) -> None:
    gradients = []
    for frozen in (True, False):
        x, y = (side[None] for side in dependent(400, dx, dy, dtype=torch.float64))
        x.requires_grad_()
        y.requires_grad_()
        estimate_scores(
            network64, normal_scores(x), normal_scores(y), seeded(), frozen=frozen
        ).value.sum().backward()
        gradients.append(torch.cat([x.grad.flatten(), y.grad.flatten()]))
    assert torch.cosine_similarity(*gradients, dim=0) > 0.5


@pytest.mark.parametrize(("dx", "dy"), [(3, 2), (5, 1)])
def test_frozen_gradient_equals_finite_differences_with_critic_and_maps_held(
    network64: HyperNetwork, dx: int, dy: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = (side[None] for side in dependent(150, dx, dy, dtype=torch.float64))
    moves = [torch.randn(*s.shape, generator=seeded(3)).double() for s in (x, y)]
    x.requires_grad_()
    y.requires_grad_()
    estimation = estimate_scores(network64, x, y, seeded(), frozen=True)
    estimation.value.backward()
    found = (x.grad * moves[0]).sum() + (y.grad * moves[1]).sum()
    held, parameters = estimation.data, estimation.parameters

    def transform(x: Tensor, y: Tensor, width: int) -> Canonical:
        u = x @ held.x_map[:, :-1] + held.x_map[:, -1:]
        v = y @ held.y_map[:, :-1] + held.y_map[:, -1:]
        return held._replace(u=u, v=v)

    def emit(data: Canonical, joint: Pairs, shuffle: Shuffle, **_: bool) -> Emission:
        found = (
            network64.evaluate(parameters, joint, back=TAKEN_BACK),
            network64.evaluate(parameters, shuffle.of(joint)),
        )
        values, gaussian = (Values(*part) for part in zip(*found, strict=True))
        return Emission(parameters, values, gaussian, estimation.optimism)

    monkeypatch.setattr("flashmi_reg.estimator.canonicalise", transform)
    monkeypatch.setattr(network64, "forward", emit)

    def value(step: float) -> Tensor:
        moved = (x + step * moves[0], y + step * moves[1])
        return estimate_scores(network64, *moved, seeded(), frozen=False).value[0]

    with torch.no_grad():
        assert value(0.0).item() == pytest.approx(estimation.value.item())
        expected = (value(1e-6) - value(-1e-6)) / 2e-6
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


# --- averaged with a Gaussian copula ----------------------------------------------------------


def nearly_gaussian(n: int) -> tuple[Tensor, Tensor]:
    """Of which neither a Gaussian copula nor the critic of an untrained network is sure."""
    x, noise = torch.randn(2, 1, n, 1, generator=seeded(), dtype=torch.float64)
    return x, x + noise + BENT * x**2


def share_of(network: HyperNetwork, x: Tensor, y: Tensor) -> float:
    plain = estimate_scores(network, x, y, seeded(), frozen=True).parameters.plain
    assert plain is not None
    return plain.share.item()


def test_gradients_pass_through_the_average(network64: HyperNetwork) -> None:
    x, y = nearly_gaussian(COMPARED_FROM)
    assert 0.1 < share_of(network64, x, y) < 0.9
    move = (x * y).tanh()

    def value(step: float) -> Tensor:
        return estimate_scores(network64, x, y + step * move, seeded(), frozen=False).value[0]

    step = 3e-9  # of so many samples a longer one would exchange some in their order
    expected = (value(step) - value(-step)) / (2 * step)
    y.requires_grad_()
    value(0.0).backward()
    assert (y.grad * move).sum().item() == pytest.approx(expected.item(), rel=1e-4)


def test_frozen_gradient_is_that_of_the_critic_whatever_its_share(
    network64: HyperNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Gaussian data too: what it does not tell yet is where training is to go."""
    x, noise = torch.randn(2, 1, COMPARED_FROM, 1, generator=seeded(), dtype=torch.float64)
    y = (x + noise).requires_grad_()
    assert share_of(network64, x, y) < 0.05
    gradients = []
    for least in (COMPARED_FROM, 10**9):
        monkeypatch.setattr("flashmi_reg.hypernet.COMPARED_FROM", least)
        value = estimate_scores(network64, x, y, seeded(), frozen=True).value
        gradients += torch.autograd.grad(value.sum(), y)
    assert gradients[0].abs().sum() > 0
    torch.testing.assert_close(*gradients)


def test_gaussian_data_have_the_estimate_of_a_gaussian_copula(network64: HyperNetwork) -> None:
    x, noise = torch.randn(2, 1, 8000, 1, generator=seeded(), dtype=torch.float64)
    x, y = normal_scores(x), normal_scores(x + noise)
    assert share_of(network64, x, y) < 0.05
    rho = torch.corrcoef(torch.stack([x[0, :, 0], y[0, :, 0]]))[0, 1].item()
    found = estimate_scores(network64, x, y, seeded(), frozen=True).value.item()
    assert found == pytest.approx(-0.5 * math.log1p(-(rho**2)) - 1 / 16_000, abs=1e-3)


def test_the_critic_alone_speaks_of_other_data(network64: HyperNetwork) -> None:
    x, noise = torch.randn(2, 1, COMPARED_FROM, 1, generator=seeded(), dtype=torch.float64)
    assert share_of(network64, *map(normal_scores, (x, x**2 + noise))) > 0.999


def test_few_samples_are_not_compared(network64: HyperNetwork) -> None:
    x, y = nearly_gaussian(COMPARED_FROM - 1)
    assert estimate_scores(network64, x, y, seeded(), frozen=True).parameters.plain is None


# --- more samples than the network reads ------------------------------------------------------


@pytest.mark.parametrize("gradient", ["critic", "full"])
def test_more_samples_than_are_read_give_the_same_answer(tiny: FlashMI, gradient: str) -> None:
    n = 20_000
    assert n > READ_LIMIT
    x, y = dependent(n, 2, 3)
    x.requires_grad_()
    large = tiny.mutual_information(x, y, gradient=gradient)
    small = tiny.mutual_information(x[:READ_LIMIT], y[:READ_LIMIT])
    assert large.item() == pytest.approx(small.item(), abs=0.05)
    large.backward()
    assert x.grad.isfinite().all()
    assert (x.grad != 0).any(1).double().mean() > 0.99


def test_more_samples_make_the_estimate_steadier(tiny: FlashMI) -> None:
    def spread(n: int) -> float:
        values = [tiny.mutual_information(*dependent(n, 1, 1, seed)) for seed in range(6)]
        return torch.stack(values).std().item()

    assert spread(40_000) < 0.5 * spread(1000)


@pytest.mark.slow
def test_a_million_samples_fit_into_bounded_memory(tiny_path: object) -> None:
    """All pairs at once would take more than the bound for a single layer of 32 units."""
    script = f"""
        import resource, sys, torch
        from flashmi_reg import FlashMI
        torch.set_num_threads(1)
        model = FlashMI.from_pretrained({str(tiny_path)!r})
        def peak():
            scale = 1 if sys.platform == "darwin" else 1024
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 2**20
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(1_000_000, 2, generator=generator)
        y = x + torch.randn(1_000_000, 2, generator=generator)
        model.mutual_information(x[:9000], y[:9000])
        before = peak()
        value = model.mutual_information(x, y)
        print(value.item(), peak() - before)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True
    )
    value, grown = map(float, done.stdout.split())
    assert value == pytest.approx(0.693, abs=0.05)
    assert grown < 400  # MiB


# --- the critic -------------------------------------------------------------------------------


@pytest.mark.parametrize(("dx", "dy"), WIDTHS)
def test_critic_at_the_samples_gives_the_estimate_back(tiny: FlashMI, dx: int, dy: int) -> None:
    """Its mean less log-mean-exp over all other pairs is the bound over a few derangements."""
    x, y = dependent(300, dx, dy)
    critic = tiny.critic(x, y)
    joint = critic(x, y)
    i, j = (~torch.eye(300, dtype=torch.bool)).nonzero().T
    bound = joint.mean() - log_mean_exp(joint[None], critic(x[i], y[j])[None])[0]
    assert bound.item() == pytest.approx(tiny.mutual_information(x, y).item(), abs=0.03)


@pytest.mark.parametrize("n", [300, 9000])
def test_critic_of_swapped_sides_has_the_same_values(tiny: FlashMI, n: int) -> None:
    x, y = dependent(n, 2, 2)
    new_x, new_y = dependent(40, 2, 2, seed=1)
    one, other = tiny.critic(x, y)(new_x, new_y), tiny.critic(y, x)(new_y, new_x)
    torch.testing.assert_close(one, other)


def test_critic_takes_new_pairs_in_any_number(tiny: FlashMI) -> None:
    x, y = dependent(300, 2, 3)
    critic = tiny.critic(x, y)
    for m in (1, 7, 1000):
        values = critic(*dependent(m, 2, 3, seed=1))
        assert values.shape == (m,)
        assert values.isfinite().all()


def test_critic_of_a_batch_has_a_data_set_each(tiny: FlashMI) -> None:
    sets = [dependent(300, 2, 3, seed) for seed in range(3)]
    points = [dependent(40, 2, 3, seed + 10) for seed in range(3)]
    together = tiny.critic(*map(torch.stack, zip(*sets, strict=True)))
    found = together(*map(torch.stack, zip(*points, strict=True)))
    assert found.shape == (3, 40)
    for i in range(3):
        torch.testing.assert_close(
            found[i], tiny.critic(*sets[i])(*points[i]), rtol=1e-3, atol=1e-3
        )


def test_critic_scores_dependent_pairs_above_shuffled_ones(tiny: FlashMI) -> None:
    critic = tiny.critic(*dependent(2000, 2, 3))
    x, y = dependent(500, 2, 3, seed=1)
    assert critic(x, y).mean() > 0.1
    assert critic(x, y.roll(1, 0)).mean() < -0.1


def test_critic_is_differentiable_in_the_points(tiny: FlashMI) -> None:
    critic = tiny.critic(*dependent(500, 2, 3))
    x, y = (side.requires_grad_() for side in dependent(100, 2, 3, seed=1))
    critic(x, y).sum().backward()
    for side in (x, y):
        assert side.grad.isfinite().all()
        assert (side.grad != 0).any(1).double().mean() > 0.8


@pytest.mark.parametrize(("n", "least"), [(500, 0.85), (4000, 0.95)])
def test_critic_gradient_points_along_that_of_the_exact_pmi(
    tiny: FlashMI, n: int, least: float
) -> None:
    """Gaussian data, of which an untrained network already finds the critic."""
    rho = 0.8
    generator = seeded()
    x, w, new_x, new_w = (torch.randn(m, 1, generator=generator) for m in (n, n, 1000, 1000))
    y, new_y = (rho * a + (1 - rho**2) ** 0.5 * b for a, b in ((x, w), (new_x, new_w)))
    exact = (rho * new_y - rho**2 * new_x) / (1 - rho**2)
    new_x.requires_grad_()
    tiny.critic(x, y)(new_x, new_y).sum().backward()
    assert torch.cosine_similarity(new_x.grad.flatten(), exact.flatten(), dim=0) > least


def test_critic_gradient_equals_differences_over_a_bandwidth(tiny: FlashMI) -> None:
    exact = tiny.to(dtype=torch.float64)
    critic = exact.critic(*dependent(4000, 2, 3, dtype=torch.float64))
    x, y = dependent(2000, 2, 3, seed=1, dtype=torch.float64)
    move, step = (2 * y[:, :2]).sin(), 0.05
    expected = (critic(x + step * move, y) - critic(x - step * move, y)) / (2 * step)
    x.requires_grad_()
    critic(x, y).sum().backward()
    found = (x.grad * move).sum(-1)
    assert found.mean().item() == pytest.approx(expected.mean().item(), rel=0.05)
    assert torch.cosine_similarity(found, expected, dim=0) > 0.98


def test_critic_at_tied_and_far_points_is_finite(tiny: FlashMI) -> None:
    x, y = dependent(300, 2, 2)
    critic = tiny.critic(x.round(), y)
    far = torch.tensor([[-1e30, 1e30], [0.0, 0.0], [3.4e38, -3.4e38]], requires_grad=True)
    values = critic(far, far)
    values.sum().backward()
    assert values.isfinite().all()
    assert far.grad.isfinite().all()
