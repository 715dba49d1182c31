"""Coordinates shown of wide sides: chosen where there is something, and only there."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from flashmi_reg.canonical import singular_vectors, whiten
from flashmi_reg.copula import normal_scores
from flashmi_reg.shown import Canonicals, Shown, choose

WIDTH = 10


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(4)


def shown(
    x: Tensor, y: Tensor, pairs: int, generator: torch.Generator
) -> tuple[Canonicals, Shown, Shown]:
    """The choice for samples (n, dx) and (n, dy) of which so many canonical pairs are told."""
    (x_white, _), (y_white, _) = (whiten(normal_scores(side.double())[None]) for side in (x, y))
    x_turn, rho, y_turn = singular_vectors(x_white.mT @ y_white / len(x))
    data = Canonicals(
        (x_white @ x_turn)[0],
        (y_white @ y_turn)[0],
        x_turn[0],
        y_turn[0],
        rho[0],
        torch.tensor(pairs),
    )
    signs = 2.0 * torch.randint(2, (8, len(x)), generator=generator).double() - 1
    return data, *choose(data, signs, WIDTH)


def widths(side: Shown) -> tuple[int, int, bool]:
    return side.fixed.shape[-1], side.crossed.shape[-1], side.norm is not None


@pytest.mark.parametrize("n", [150, 500, 2000])
def test_of_independent_sides_the_norms_alone_are_shown(n: int, generator: torch.Generator) -> None:
    found = []
    for _ in range(20):
        x, y = torch.randn(2, n, 16, generator=generator)
        found += [widths(side) for side in shown(x, y, 0, generator)[1:]]
    assert found.count((0, 0, True)) >= 38


def test_common_scales_do_not_bend_axes(generator: torch.Generator) -> None:
    x, y = torch.randn(2, 1000, 25, generator=generator)
    scale = torch.randn(1000, 2, generator=generator).square().sum(-1, keepdim=True).rsqrt()
    _, *sides = shown(x * scale, y * scale, 0, generator)
    assert [widths(side) for side in sides] == [(0, 0, True)] * 2


def test_bent_axes_are_found(generator: torch.Generator) -> None:
    """y₃ tells x₅², and nothing of it is linear."""
    x, y = torch.randn(2, 1000, 20, generator=generator)
    y[:, 3] = x[:, 5] ** 2 + 0.5 * y[:, 3]
    data, first, second = shown(x, y, 0, generator)
    assert widths(first) == widths(second) == (1, 0, True)
    for side, told, column in ((first, data.u, x[:, 5]), (second, data.v, y[:, 3])):
        axis = side.linear(told)[:, 0]
        correlation = torch.corrcoef(torch.stack([axis, normal_scores(column[:, None])[:, 0]]))
        assert correlation[0, 1].abs() > 0.9


def turned(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """y₀ tells x₀, turned into y₁ by an angle that grows with the norm; what y₁ was."""
    x, noise = torch.randn(2, n, 25, generator=generator)
    noise[:, 0] = 0.8 * x[:, 0] + 0.6 * noise[:, 0]
    angle = noise.square().mean(-1) - 1
    y = noise.clone()
    y[:, 0] = angle.cos() * noise[:, 0] - angle.sin() * noise[:, 1]
    y[:, 1] = angle.sin() * noise[:, 0] + angle.cos() * noise[:, 1]
    return x, y, y[:, 1].clone()


def test_directions_that_a_norm_turns_are_found(generator: torch.Generator) -> None:
    x, y, lost = turned(2000, generator)
    data, first, second = shown(x, y, 1, generator)
    assert widths(first) == (1, 0, True)
    assert widths(second) == (1, 1, True)
    direction = second.linear(data.v)[:, 1]
    assert torch.corrcoef(torch.stack([direction, lost.double()]))[0, 1].abs() > 0.8


def test_turned_directions_are_found_in_other_samples(generator: torch.Generator) -> None:
    """What happens in a fold changes nothing in how it is seen."""
    x, y, _ = turned(2000, generator)
    data, _, second = shown(x, y, 1, generator)
    fold = torch.arange(2000) % 5 == 2
    other = data._replace(u=torch.where(fold[:, None], data.u.flip(0), data.u))
    signs = 2.0 * torch.randint(2, (8, 2000), generator=generator).double() - 1
    changed = choose(other, signs, WIDTH)[1]
    unchanged = torch.nn.functional.cosine_similarity(changed.crossed, second.crossed, dim=1)
    assert unchanged[2].item() == pytest.approx(1, abs=0.02)
    assert (unchanged < unchanged[2]).sum() == 4


def test_narrow_sides_are_shown_whole(generator: torch.Generator) -> None:
    x, y = torch.randn(500, 20, generator=generator), torch.randn(500, 3, generator=generator)
    data, first, second = shown(x, y, 0, generator)
    assert widths(first) == (0, 0, True)
    assert second.coordinates(data.v).shape == (500, 3)
    assert torch.equal(second.linear(data.v), data.v)


def test_no_more_is_shown_than_the_network_takes(generator: torch.Generator) -> None:
    x, noise = torch.randn(2, 1000, 24, generator=generator)
    y = 0.8 * x + 0.6 * noise
    y[:, 12:] = x[:, 12:] ** 2 + 0.3 * noise[:, 12:]
    for pairs in (0, 5, 12, 24):
        data, *sides = shown(x, y, pairs, generator)
        for side, told in zip(sides, (data.u, data.v), strict=True):
            assert side.coordinates(told).shape[-1] <= WIDTH
    # Norms do not count pairs of which only the closed form tells.
    data, first, _ = shown(x, y, 12, generator)
    assert first.norm is not None
    assert first.norm[:, 0].tolist() == [1.0] * 9 + [0.0] * 3 + [1.0] * 12
