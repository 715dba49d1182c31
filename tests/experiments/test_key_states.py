from __future__ import annotations

import pytest
import torch

from experiments.key_states.__main__ import errors
from experiments.key_states.events import EVENTS, event_places, observed, warp
from experiments.key_states.readers import GaussianReader, MineReader
from flashmi_reg.integrations.maniskill import Demonstration


def demonstration(length: int = 60) -> Demonstration:
    """Moves along a line at even speed; velocities in coordinates 9 to 17; held from step 30."""
    states = torch.arange(length, dtype=torch.float32)[:, None].repeat(1, 20)
    states[:, 9:18] = 1.0
    flags = {"is_grasped": torch.arange(length) >= 30, "success": torch.arange(length) >= 50}
    return Demonstration(states, torch.zeros(length - 1, 2), 7, flags)


def test_events_are_shares_of_the_length():
    assert event_places("PickCube-v1", demonstration(61)).tolist() == pytest.approx([0.5, 50 / 60])


def test_the_peg_is_before_the_hole_once_it_stays_there():
    off = torch.full((11, 3), 0.05)
    off[3] = 0  # passes by
    off[6:] = 0
    flags = {"is_grasped": torch.arange(11) >= 2, "success": torch.arange(11) >= 9}
    demo = Demonstration(
        torch.zeros(11, 4), torch.zeros(10, 1), 0, flags | {"peg_head_pos_at_hole": off}
    )
    assert event_places("PegInsertionSide-v1", demo).tolist() == pytest.approx([0.2, 0.6, 0.9])
    assert len(EVENTS["PegInsertionSide-v1"]) == 3


def test_the_flag_that_is_asked_for_is_no_part_of_the_state():
    assert observed("PickCube-v1", demonstration()).states.shape[1] == 19
    assert observed("StackCube-v1", demonstration()).states.shape[1] == 20


def test_a_warp_keeps_the_path_and_the_order_and_scales_velocities():
    demo = demonstration()
    warped = warp([demo] * 20, seed=0)
    for other in warped:
        place = other.states[:, 0]
        assert place[0] == 0
        assert place[-1] == pytest.approx(59, abs=1e-3)
        assert (place.diff() >= 0).all()
        # Where the flag begins to hold, the motion has got as far as in the original.
        first = int(other.flags["is_grasped"].int().argmax())
        assert float(place[first]) == pytest.approx(30, abs=3)
        # The velocity is the rate of change of the place.
        middle = slice(5, -5)
        rate = (place[2:] - place[:-2]) / 2
        assert (rate[middle] - other.states[1:-1][middle, 9]).abs().median() < 0.1
    starts = [int(d.flags["is_grasped"].int().argmax()) for d in warped]
    assert max(starts) - min(starts) > 10


def test_errors_leave_the_end_out_of_what_was_searched():
    places = torch.tensor([[0.4, 1.0], [0.5, 1.0], [0.6, 1.0]])
    events = torch.tensor([[0.41, 0.9], [0.51, 0.9], [0.61, 0.9]])
    found = errors(places, events)
    assert found["searched"] == pytest.approx(0.01)
    assert found["each"] == pytest.approx([0.01, 0.1])
    assert found["follow"] == pytest.approx([1.0])


@pytest.mark.parametrize("reader", [GaussianReader(), MineReader(steps=150)])
def test_baseline_readers_value_dependent_pairs_above_shuffled_ones(reader):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 200, 8, generator=generator)
    y = x + 0.3 * torch.randn(2, 200, 8, generator=generator)
    score = reader(x, y, generator)
    assert score(x, y).shape == (2, 200)
    assert (score(x, y).mean(1) > score(x, y.roll(1, 1)).mean(1) + 1).all()


def test_the_gaussian_reader_is_exact_for_a_gaussian():
    generator = torch.Generator().manual_seed(0)
    rho = 0.8
    x = torch.randn(1, 20_000, 1, generator=generator)
    y = rho * x + (1 - rho**2) ** 0.5 * torch.randn(1, 20_000, 1, generator=generator)
    value = GaussianReader()(x, y, generator)(x, y).mean().item()
    assert value == pytest.approx(-0.5 * torch.tensor(1 - rho**2).log().item(), abs=0.02)
