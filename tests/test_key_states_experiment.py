from __future__ import annotations

import pytest
import torch

from experiments.key_states.__main__ import errors
from experiments.key_states.events import observed_columns, warp
from experiments.key_states.extractors import key_times
from experiments.key_states.summary import index_errors, speed, successes
from flashmi_reg.integrations.maniskill import Demonstration


def demonstration(length: int) -> Demonstration:
    states = torch.linspace(0, 1, length)[:, None].repeat(1, 20)
    held = torch.arange(length) >= length // 2
    return Demonstration(states, torch.zeros(length - 1, 2), 0, {"is_grasped": held})


def test_uniform_times_are_the_clock():
    (times,) = key_times("uniform", [demonstration(61)], 3, 0)
    assert times.tolist() == [20, 40, 60]


def test_errors_leave_out_the_end_and_tell_what_follows():
    events = torch.tensor([[0.2, 1.0], [0.4, 1.0], [0.6, 1.0]])
    found = errors(events - torch.tensor([0.1, 0.0]), events)
    assert found["searched"] == pytest.approx(0.1)
    assert found["each"] == pytest.approx([0.1, 0.0])
    assert found["follow"] == pytest.approx([1.0])
    assert errors(torch.tensor([0.5, 1.0]).expand(3, 2), events)["follow"] == [0.0]


def test_warping_keeps_the_path_and_moves_the_event():
    demos = [demonstration(61) for _ in range(4)]
    warped = warp(demos, 0)
    events = {int(d.flags["is_grasped"].int().argmax()) for d in warped}
    assert len(events) > 1
    for demo in warped:
        held = demo.flags["is_grasped"]
        assert (demo.states[:, 0].diff() >= -1e-6).all()
        assert demo.states[held, 0].min() >= 0.5 - 1e-6


def test_the_flag_is_kept_from_pick_cube_alone():
    assert 18 not in observed_columns("PickCube-v1", 42)
    assert observed_columns("StackCube-v1", 48) == list(range(48))


def test_tables_give_means_worst_ratio_and_trainings():
    base = {"task": "PickCube-v1", "pace": "recorded"}
    rows = [
        base | {"extractor": "ours, least", "searched": 0.1, "cpu_seconds": 1.0},
        base | {"extractor": "ours, least", "searched": 0.3, "cpu_seconds": 1.0},
        base | {"extractor": "MINE-100, least", "searched": 0.5, "cpu_seconds": 12.0},
    ]
    assert "| ours, least | 0.200 (0.300) / – |" in index_errors(rows)
    assert speed(rows) == "MINE-100, least 12.0, ours itself 1.00 s"
    played = [
        {"task": "PickCube-v1", "arm": "none", "seen": seen, "unseen": 0.25} for seen in (0.5, 0.7)
    ]
    assert "| none | 60 ± 14 / 25 ± 0 (2) |" in successes(played)
    assert "| paper: none | 66.0 / 60.0 |" in successes(played)
