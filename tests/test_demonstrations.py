from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch

from flashmi_reg.errors import InputError, MissingExtraError
from flashmi_reg.integrations.maniskill import (
    Demonstration,
    load_demonstrations,
    save_demonstrations,
)


def made(count: int = 3, width: int = 4, length: int = 6) -> list[Demonstration]:
    generator = torch.Generator().manual_seed(0)
    return [
        Demonstration(
            torch.randn(length + i, width, generator=generator),
            torch.randn(length + i - 1, 2, generator=generator),
            seed=10 + i,
            flags={"success": torch.arange(length + i) > 3},
        )
        for i in range(count)
    ]


def write_h5(path, *, obs=True, success=(True, False, True)):
    """A file in ManiSkill's layout: episode 10 sorts after 2, one episode fails."""
    h5py = pytest.importorskip("h5py")
    rng = np.random.default_rng(0)
    numbers = (0, 2, 10)
    with h5py.File(path, "w") as file:
        for number, good in zip(numbers, success, strict=True):
            group = file.create_group(f"traj_{number}")
            group["actions"] = np.full((5, 2), number, dtype=np.float32)
            group["success"] = np.array([False] * 4 + [good])
            if obs:
                group["obs"] = np.full((6, 3), number, dtype=np.float32)
            group["env_states/articulations/panda"] = rng.random((6, 4), dtype=np.float32)
            group["env_states/actors/cube"] = rng.random((6, 2), dtype=np.float32)
            group["signals/is_grasped"] = np.arange(6) > 2
            group["signals/info_is_grasped"] = np.arange(6) > 3
    episodes = [{"episode_id": n, "episode_seed": 100 + n} for n in numbers]
    path.with_suffix(".json").write_text(json.dumps({"episodes": episodes}))


def test_h5_in_the_order_of_episodes_with_successes_only(tmp_path):
    write_h5(tmp_path / "task.h5")
    found = load_demonstrations(tmp_path / "task.h5")
    assert [d.seed for d in found] == [100, 110]
    assert [float(d.states[0, 0]) for d in found] == [0, 10]
    assert found[0].states.shape == (6, 3)
    assert found[0].actions.shape == (5, 2)
    assert len(load_demonstrations(tmp_path / "task.h5", only_successes=False)) == 3


def test_flags_have_one_row_a_state_and_the_measured_one_wins(tmp_path):
    write_h5(tmp_path / "task.h5")
    flags = load_demonstrations(tmp_path / "task.h5")[0].flags
    assert flags["is_grasped"].tolist() == [False] * 3 + [True] * 3
    assert flags["success"].tolist() == [False] * 5 + [True]


def test_env_states_put_joints_before_actors(tmp_path):
    h5py = pytest.importorskip("h5py")
    write_h5(tmp_path / "task.h5")
    states = load_demonstrations(tmp_path / "task.h5", source="env_states")[0].states
    with h5py.File(tmp_path / "task.h5") as file:
        group = file["traj_0/env_states"]
        expected = np.concatenate([group["articulations/panda"], group["actors/cube"]], axis=1)
    assert torch.equal(states, torch.from_numpy(expected))


def test_missing_observations_say_what_to_do(tmp_path):
    write_h5(tmp_path / "task.h5", obs=False)
    with pytest.raises(InputError, match="source='env_states'"):
        load_demonstrations(tmp_path / "task.h5")


def test_no_success_is_an_error(tmp_path):
    write_h5(tmp_path / "task.h5", success=(False, False, False))
    with pytest.raises(InputError, match="no successful demonstration"):
        load_demonstrations(tmp_path / "task.h5")


def test_h5_without_h5py_names_the_extra(tmp_path, monkeypatch):
    (tmp_path / "task.h5").touch()
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingExtraError, match=r"flashmi_reg\[maniskill\]"):
        load_demonstrations(tmp_path / "task.h5")


def test_npz_gives_back_what_was_saved(tmp_path):
    demos = made()
    found = load_demonstrations(save_demonstrations(tmp_path / "demos.npz", demos))
    for one, other in zip(demos, found, strict=True):
        assert torch.equal(one.states, other.states)
        assert torch.equal(one.actions, other.actions)
        assert torch.equal(one.flags["success"], other.flags["success"])
        assert one.seed == other.seed


def test_unequal_widths_cannot_be_saved(tmp_path):
    with pytest.raises(InputError, match="differ in state width"):
        save_demonstrations(tmp_path / "demos.npz", [*made(1), *made(1, width=5)])


@pytest.mark.parametrize(
    ("path", "message"), [("missing.h5", "does not exist"), ("notes.txt", "expected .h5 or .npz")]
)
def test_bad_paths(tmp_path, path, message):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match=message):
        load_demonstrations(tmp_path / path)


def test_foreign_npz_is_refused(tmp_path):
    np.savez(tmp_path / "other.npz", states=np.zeros((3, 2)))
    with pytest.raises(InputError, match="save_demonstrations"):
        load_demonstrations(tmp_path / "other.npz")


@pytest.mark.parametrize(
    ("states", "actions", "flags", "message"),
    [
        (torch.zeros(4), torch.zeros(3, 1), {}, "must have shapes"),
        (torch.zeros(4, 2), torch.zeros(4, 1), {}, "one more state than actions"),
        (torch.zeros(4, 2), torch.zeros(3, 1), {"won": torch.zeros(3)}, "one row a state"),
    ],
)
def test_inconsistent_episodes(states, actions, flags, message):
    with pytest.raises(InputError, match=message):
        Demonstration(states, actions, seed=0, flags=flags)


def test_collecting_without_the_simulator_names_the_extra(tmp_path, monkeypatch):
    from flashmi_reg.integrations.maniskill.collect import collect

    monkeypatch.setitem(sys.modules, "mplib", None)
    with pytest.raises(MissingExtraError, match=r"flashmi_reg\[maniskill\]"):
        collect("PickCube-v1", 2, tmp_path / "demos.npz")


def test_planning_under_numpy_2_is_refused_before_it_can_crash(tmp_path, monkeypatch):
    from flashmi_reg.integrations.maniskill.collect import collect

    monkeypatch.setitem(sys.modules, "mplib", type(sys)("mplib"))
    monkeypatch.setattr(np, "__version__", "2.1.0")
    with pytest.raises(MissingExtraError, match="numpy 2"):
        collect("PickCube-v1", 2, tmp_path / "demos.npz")


def test_a_finished_collection_is_left_alone(tmp_path):
    from flashmi_reg.integrations.maniskill.collect import collect

    path = save_demonstrations(tmp_path / "demos.npz", made(3))
    content = path.read_bytes()
    assert collect("PickCube-v1", 3, path).read_bytes() == content
    with pytest.raises(InputError, match=r"expected .npz"):
        collect("PickCube-v1", 3, tmp_path / "demos.h5")


def test_tasks_without_a_planner_are_named():
    from flashmi_reg.integrations.maniskill.planners import planner_of

    with pytest.raises(InputError, match="no motion planner"):
        planner_of("OpenDrawer-v1")
