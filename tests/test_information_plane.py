"""Estimates of the information plane: known answers, and what is refused."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import pytest
import torch

from flashmi_reg import FlashMI
from flashmi_reg.errors import InputError
from flashmi_reg.integrations.information_plane import as_input, as_target, label_entropy, measure


def test_each_path_finds_a_known_answer(generator: torch.Generator) -> None:
    x = torch.randn(1000, 2, generator=generator)
    y = 0.8 * x[:, :1] + 0.6 * torch.randn(1000, 1, generator=generator)
    found = measure(x, y)
    assert found.path == "native"
    assert found.value == pytest.approx(-0.5 * math.log(1 - 0.64), abs=0.06)

    labels = torch.randint(2, (1000,), generator=generator)
    found = measure(x + 8 * labels[:, None], labels)
    assert found.path == "labels"
    assert found.value == pytest.approx(math.log(2), abs=0.05)

    middling = torch.randn(1000, 12, generator=generator)
    found = measure(torch.cat([y, middling], 1), x)
    assert found.path == "truncated"
    assert found.value == pytest.approx(-0.5 * math.log(1 - 0.64), abs=0.06)
    assert measure(middling[:60], middling[:60, :10], n_slices=2).path == "sliced5"

    wide = torch.randn(1000, 66, generator=generator)
    found = measure(wide, torch.randn(1000, 12, generator=generator), n_slices=2)
    assert found.path == "sliced5"
    assert found.value == pytest.approx(0, abs=0.05)
    # A projection of equal copies in 66 coordinates is far from one-to-one, but not independent.
    assert measure(wide, wide, n_slices=4).value > 0.02

    found = measure(wide + 8 * labels[:, None], labels, n_slices=2)
    assert found.path == "labels_sliced5"
    assert found.value == pytest.approx(math.log(2), abs=0.08)


def test_weights_reach_the_estimates_of_continuous_sides_alone(
    other_weights: Path, generator: torch.Generator
) -> None:
    wide = torch.randn(200, 66, generator=generator)
    other = FlashMI.from_pretrained(other_weights)
    for x, y in ((wide[:, :3], wide[:, 2:4].sin()), (wide, wide + wide.roll(1, 1))):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ours, theirs = (measure(x, y, n_slices=1, model=m) for m in (None, other))
        assert ours.path == theirs.path
        assert ours.value != pytest.approx(theirs.value, abs=1e-4)
    labels = torch.arange(200) % 3
    for x in (wide[:, :3], wide):
        ours, theirs = (measure(x, labels, n_slices=1, model=m) for m in (None, other))
        assert ours == theirs


def test_estimates_repeat_themselves_and_leave_the_global_generator_alone() -> None:
    x = torch.randn(200, 12, generator=torch.Generator().manual_seed(1))
    before = torch.random.get_rng_state()
    first, second = (measure(x, x + x.roll(1, 1), n_slices=2, seed=3) for _ in range(2))
    assert first == second
    assert torch.equal(before, torch.random.get_rng_state())


def test_entropy_of_labels() -> None:
    assert label_entropy(torch.arange(4)) == pytest.approx(math.log(4))
    assert label_entropy(torch.zeros(9, dtype=torch.long)) == 0


def test_sides_are_told_apart() -> None:
    assert as_target(torch.tensor([[1], [0]])).dtype == torch.int64
    assert as_target(torch.tensor([True, False])).tolist() == [1, 0]
    assert as_target(torch.ones(3)).shape == (3, 1)
    assert as_input(torch.zeros(2, 3, 4, dtype=torch.uint8)).shape == (2, 3, 4)
    with pytest.raises(InputError, match="token numbers"):
        as_input(torch.arange(6).view(2, 3))
    with pytest.raises(InputError, match="`y` has shape"):
        as_target(torch.zeros(2, 5, dtype=torch.long))
    with pytest.raises(InputError, match="received list"):
        as_input([1.0])
