"""What needs the simulator, in an environment of its own: `pip install -e ".[maniskill]"`."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from flashmi_reg.errors import InputError, MissingExtraError
from flashmi_reg.integrations.maniskill import load_demonstrations
from flashmi_reg.integrations.maniskill.collect import collect
from flashmi_reg.integrations.maniskill.commands import main
from flashmi_reg.integrations.maniskill.frames import draw_frames
from flashmi_reg.integrations.maniskill.planners import planner_of
from flashmi_reg.integrations.maniskill.policy import train_policy
from flashmi_reg.integrations.maniskill.replay import disturbed
from flashmi_reg.integrations.maniskill.simulator import advance, make, number

pytestmark = pytest.mark.slow
pytest.importorskip("mani_skill")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("demos")


@pytest.fixture(scope="module")
def picks(folder):
    """What one command makes from nothing: demonstrations, key states and their picture."""
    command = ["keys", "PickCube-v1", "-n", "50", "--count", "2", "--output", str(folder)]
    assert main(command) == 0
    return load_demonstrations(folder / "PickCube-v1.npz")


def test_numpy_is_one_that_the_planner_can_bear():
    assert np.__version__.startswith("1.")


def test_one_command_from_nothing_to_a_figure(picks, folder):
    assert (folder / "PickCube-v1.keys.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "PickCube-v1.keys.safetensors").is_file()
    assert len(picks) == 50
    assert len({d.seed for d in picks}) == 50
    for demo in picks:
        assert demo.states.shape[1] == 42
        assert demo.actions.shape[1] == 8
        assert demo.flags["success"][-1]
        assert not demo.flags["is_grasped"][0]


def test_a_recorded_episode_plays_again_bit_by_bit(picks):
    env = make("PickCube-v1")
    demo = picks[3]
    state, _ = env.reset(seed=demo.seed)
    assert torch.equal(state[0], demo.states[0])
    for action, expected in zip(demo.actions, demo.states[1:], strict=True):
        state, _, _, _, info = env.step(action.numpy())
        assert torch.equal(state[0], expected)
    assert number(info["success"])
    env.close()


def test_steps_without_observations_move_the_simulation_alike(picks):
    env = make("PickCube-v1")
    demo = picks[3]
    env.reset(seed=demo.seed)
    *first, last = demo.actions.numpy()
    for action in first:
        advance(env, action)
    state, _, _, _, info = env.step(last)
    torch.testing.assert_close(state[0], demo.states[-1], atol=1e-5, rtol=0)
    assert number(info["success"])
    env.close()


def test_disturbed_replays_leave_the_path_and_reach_the_goal(picks):
    for replay in disturbed("PickCube-v1", picks[:4]):
        (original,) = (d for d in picks[:4] if d.seed == replay.seed)
        assert torch.equal(replay.actions, original.actions)
        assert torch.equal(replay.states[0], original.states[0])
        away = (replay.states - original.states)[:, :7].abs().amax(1)
        assert away.max() > 0.01


def test_an_interrupted_collection_goes_on(tmp_path):
    path = tmp_path / "StackCube-v1.npz"
    collect("StackCube-v1", 1, path)
    first = load_demonstrations(path)[0]
    path.unlink()
    collect("StackCube-v1", 2, path)
    again, second = load_demonstrations(path)
    assert torch.equal(again.states, first.states)
    assert second.seed > first.seed


def test_pegs_are_inserted(tmp_path):
    path = collect("PegInsertionSide-v1", 1, tmp_path / "peg.npz")
    (demo,) = load_demonstrations(path)
    assert demo.flags["success"][-1]
    assert int(demo.flags["segment"].max()) == 11


def test_a_policy_plays_from_the_states_it_was_trained_on(picks):
    policy = train_policy(picks, relative=7, steps=5)
    env = make("PickCube-v1")
    state, _ = env.reset(seed=picks[0].seed)
    for action in policy.act(state.float())[0].numpy():
        state, *_ = env.step(action)
    assert state.isfinite().all()
    env.close()


def test_unknown_tasks_are_named():
    with pytest.raises(InputError, match="unknown to ManiSkill"):
        make("JuggleCubes-v1")
    assert callable(planner_of("StackCube-v1"))


def test_frames_are_drawn_or_the_missing_driver_is_named(picks, tmp_path):
    demo = picks[0]
    path, times = tmp_path / "frames.png", torch.tensor([0, len(demo) - 1])
    try:
        draw_frames("PickCube-v1", demo, times, path, size=64)
    except MissingExtraError:
        with pytest.raises(MissingExtraError, match="Vulkan driver"):
            draw_frames("PickCube-v1", demo, times, path, size=64)
    else:
        assert path.read_bytes().startswith(b"\x89PNG")
