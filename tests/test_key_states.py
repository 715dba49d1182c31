from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from flashmi_reg import FlashMI
from flashmi_reg.errors import CheckpointError, InputError
from flashmi_reg.integrations.maniskill import (
    Demonstration,
    KeyStateExtractor,
    SlicedCritic,
    load_demonstrations,
)
from flashmi_reg.integrations.maniskill.localisation import (
    ordered_times,
    ordered_weights,
    prior,
    shifted,
)

SAMPLE = Path(__file__).parent / "data" / "pick_cube.npz"
EVENT, PAUSE = 6, 12  # steps


def episode(states: torch.Tensor, seed: int, **flags: int) -> Demonstration:
    held = {name: torch.arange(len(states)) >= start for name, start in flags.items()}
    return Demonstration(states, torch.zeros(len(states) - 1, 1), seed, held)


def contacts(count: int = 60) -> list[Demonstration]:
    """Straight motions whose direction turns at random at one time, `contact`, of their own."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for seed in range(count):
        length = int(torch.randint(50, 70, (), generator=generator))
        event = int(length * (0.35 + 0.3 * torch.rand((), generator=generator)))
        velocity = torch.randn(2, 4, generator=generator)
        turned = (torch.arange(length) >= event).long()
        kick = (
            15
            * torch.randn(4, generator=generator)
            * torch.nn.functional.one_hot(torch.tensor(event), length)[:, None]
        )
        states = 10 * torch.randn(4, generator=generator) + (velocity[turned] + kick).cumsum(0)
        states += 0.3 * torch.randn(states.shape, generator=generator)
        found.append(episode(states, seed, contact=event))
    return found


def pauses(count: int = 60) -> list[Demonstration]:
    """Random walks that rest for a while, from a time `rest` of their own."""
    generator = torch.Generator().manual_seed(1)
    found = []
    for seed in range(count):
        length = int(torch.randint(50, 70, (), generator=generator))
        start = int(length * (0.3 + 0.2 * torch.rand((), generator=generator)))
        moves = torch.randn(length, 4, generator=generator)
        moves[start : start + PAUSE] *= 0.05
        found.append(episode(moves.cumsum(0), seed, rest=start))
    return found


def first(flag: torch.Tensor) -> int:
    return int(flag.int().argmax())


def test_least_predictable_times_are_the_contacts_and_not_the_clock():
    demos = contacts()
    extractor = KeyStateExtractor(2).fit(demos)
    gaps = [int(extractor.transform(d)[0]) - first(d.flags["contact"]) for d in demos]
    of_the_clock = [len(d) // 2 - first(d.flags["contact"]) for d in demos]
    assert sum(0 <= g <= extractor.settings.lag_steps for g in gaps) > 0.8 * len(demos)
    assert sum(0 <= g <= extractor.settings.lag_steps for g in of_the_clock) < 0.5 * len(demos)


def test_most_predictable_times_are_the_pauses():
    demos = pauses()
    extractor = KeyStateExtractor(2, criterion="most", lag=0.1).fit(demos)
    lag = extractor.settings.lag_steps
    gaps = [int(extractor.transform(d)[0]) - first(d.flags["rest"]) for d in demos]
    # The pair (t − Δ, t) lies in the pause.
    assert sum(lag - 2 <= g <= PAUSE + 2 for g in gaps) > 0.8 * len(demos)


def test_the_grasp_is_found_in_demonstrations_of_pick_cube():
    demos = load_demonstrations(SAMPLE)
    extractor = KeyStateExtractor(2).fit(demos)
    grasp = torch.tensor([first(d.flags["is_grasped"]) / (len(d) - 1) for d in demos])
    found = torch.stack([extractor.transform(d)[0] / (len(d) - 1) for d in demos])
    error, of_the_clock = (found - grasp).abs().median(), (0.5 - grasp).abs().median()
    assert error < 0.04 < of_the_clock


@pytest.fixture(scope="module")
def fitted() -> KeyStateExtractor:
    return KeyStateExtractor(3, readings=2).fit(contacts())


def test_key_states_are_ordered_apart_and_end_at_the_end(fitted):
    for demo in contacts():
        times = fitted.transform(demo)
        assert times.shape == (3,)
        assert times.dtype == torch.int64
        assert times[-1] == len(demo) - 1
        assert times[1] - times[0] >= (len(demo) - 1) // 6
        assert times[2] > times[1]
        assert times[0] >= fitted.settings.lag_steps


def test_equal_seeds_agree_and_the_global_generator_is_left_alone(fitted):
    demos = contacts()
    before = torch.get_rng_state()
    other = KeyStateExtractor(3, readings=2).fit(demos)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(fitted.weights(d), other.weights(d)) for d in demos[:5])
    third = KeyStateExtractor(3, readings=2, seed=1).fit(demos)
    assert not torch.equal(third.weights(demos[0]), other.weights(demos[0]))


def test_constant_coordinates_change_nothing_but_their_number():
    demos = [
        replace(d, states=torch.cat([d.states, torch.full((len(d), 1), 7.0)], 1))
        for d in contacts()
    ]
    weights = KeyStateExtractor(2, readings=1).fit(demos).weights(demos[0])
    assert weights.isfinite().all()


def test_save_and_load(fitted, tmp_path):
    demo = contacts()[0]
    again = KeyStateExtractor.load(fitted.save(tmp_path / "found" / "keys.safetensors"))
    assert again.settings == fitted.settings
    assert torch.equal(again.weights(demo), fitted.weights(demo))
    assert torch.equal(again.transform(demo), fitted.transform(demo))


def test_foreign_and_broken_files_are_refused(fitted, tmp_path):
    foreign = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(1)}, foreign)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(fitted.save(tmp_path / "whole.safetensors").read_bytes()[:200])
    with pytest.raises(CheckpointError, match="no key-state file"):
        KeyStateExtractor.load(foreign)
    with pytest.raises(CheckpointError, match="cannot be read"):
        KeyStateExtractor.load(broken)
    with pytest.raises(CheckpointError, match="does not exist"):
        KeyStateExtractor.load(tmp_path / "missing.safetensors")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"count": 1}, "`count` must be at least 2"),
        ({"criterion": "both"}, "`criterion` must be"),
        ({"lag": 0.5}, "`lag` must be a share"),
        ({"readings": 0}, "`readings` must be at least 1"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(InputError, match=message):
        KeyStateExtractor(**settings)


def test_too_few_demonstrations():
    with pytest.raises(InputError, match=r"holds 20; .* needs at least 50"):
        KeyStateExtractor().fit(contacts(20))


def test_unequal_widths():
    demos = contacts(50)
    demos[3] = episode(torch.zeros(60, 5), 3)
    with pytest.raises(InputError, match=r"unequal widths \[4, 5\]"):
        KeyStateExtractor().fit(demos)


def test_values_that_are_not_finite():
    demos = contacts(50)
    demos[3].states[2, 1] = torch.nan
    with pytest.raises(InputError, match=r"`demonstrations\[3\].states` holds NaN"):
        KeyStateExtractor().fit(demos)


def test_a_demonstration_too_short_for_the_lag():
    demos = contacts(50)
    demos[3] = episode(torch.zeros(4, 4), 3)
    with pytest.raises(InputError, match="too short"):
        KeyStateExtractor().fit(demos)


def test_transform_before_fit_and_of_another_width(fitted):
    with pytest.raises(InputError, match="call `fit` first"):
        KeyStateExtractor().transform(contacts(1)[0])
    with pytest.raises(InputError, match="width 5"):
        fitted.transform(episode(torch.zeros(60, 5), 0))


def test_sliced_critic_values_dependent_pairs_above_shuffled_ones():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 100, 12, generator=generator)
    y = x + 0.3 * torch.randn(2, 100, 12, generator=generator)
    score = SlicedCritic(FlashMI.from_pretrained("base"), slices=2)(x, y, generator)
    assert score(x, y).shape == (2, 100)
    assert (score(x, y).mean(1) > 1).all()
    assert (score(x, y.roll(1, 1)).mean(1) < 0).all()


def test_ordered_times_and_weights_against_trying_all():
    scores = torch.randn(9, 3, generator=torch.Generator().manual_seed(0))
    gap = 2
    tried = {
        (a, b, c): float(scores[a, 0] + scores[b, 1] + scores[c, 2])
        for a in range(9)
        for b in range(a + gap, 9)
        for c in range(b + gap, 9)
    }
    assert tuple(ordered_times(scores, gap).tolist()) == max(tried, key=tried.__getitem__)
    expected = torch.zeros(9, 3)
    for times, score in tried.items():
        expected[list(times), [0, 1, 2]] += torch.tensor(score).exp()
    torch.testing.assert_close(ordered_weights(scores, gap), expected / expected.sum(0))


def test_prior_is_centred_and_shift_repeats_the_ends():
    places = torch.linspace(0, 1, 61)
    assert places[prior(places, 3).argmax(0)].tolist() == pytest.approx([1 / 3, 2 / 3])
    assert shifted(torch.arange(4.0)[:, None], 2)[:, 0].tolist() == [0, 0, 0, 1]
    assert shifted(torch.arange(4.0)[:, None], -1)[:, 0].tolist() == [1, 2, 3, 3]
