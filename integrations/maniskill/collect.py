"""Demonstrations by motion planning: resumable, only successes kept, seeds recorded."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from flashmi_reg.errors import InputError

from .demonstrations import Demonstration, load_demonstrations, save_demonstrations
from .planners import planner_of
from .simulator import check_planning, make, number

__all__ = ["collect"]

MOVES = (
    "move_to_pose_with_screw",
    "move_to_pose_with_RRTConnect",
    "open_gripper",
    "close_gripper",
)
MOST_FAILURES = 5  # attempts for each demonstration that is asked for


def collect(task: str, count: int, path: str | Path, *, first_seed: int = 0) -> Path:
    """Makes demonstrations with ManiSkill's motion planner and writes them as one `.npz` file.

    Each success is written at once to a folder beside `path`; a collection that was interrupted
    goes on where it stopped. The folder also keeps the seeds that failed.

    Args:
        task: e.g. PickCube-v1.
        count: number of successful demonstrations.
        path: the `.npz` file to write; :func:`load_demonstrations` reads it.
        first_seed: of the first episode; the following count up from it.

    Raises:
        InputError: there is no planner for the task, or too few attempts succeed.
        MissingExtraError: ManiSkill is missing, or numpy is too new for the planner.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise InputError(f"`path` ends in {path.suffix!r}; expected .npz.")
    if count < 1:
        raise InputError(f"`count` must be at least 1, received {count}.")
    if path.is_file() and len(load_demonstrations(path)) >= count:
        return path
    check_planning()
    folder = path.with_suffix(".parts")
    folder.mkdir(parents=True, exist_ok=True)
    failures = _failures(folder)
    done = {int(part.stem) for part in folder.glob("[0-9]*.npz")}
    env = _Recorder(make(task))
    solve = planner_of(task)
    with tqdm(total=count, initial=min(len(done), count), desc=task, unit="demo") as bar:
        seed = first_seed
        while len(done) < count:
            if len(done) + len(failures) >= MOST_FAILURES * count:
                raise InputError(
                    f"`task` {task}: only {len(done)} of {len(done) + len(failures)} attempts "
                    "succeeded; the planner does not master it."
                )
            if seed not in done and seed not in failures:
                found = _attempt(env, solve, seed)
                if found is None:
                    failures.add(seed)
                    _write(folder / "failed.json", json.dumps(sorted(failures)))
                else:
                    partial = folder / "partial.npz"
                    save_demonstrations(partial, [found]).replace(folder / f"{seed:06d}.npz")
                    done.add(seed)
                    bar.update()
            seed += 1
    env.close()
    parts = sorted(folder.glob("[0-9]*.npz"))[:count]
    found_all = [load_demonstrations(part)[0] for part in parts]
    return save_demonstrations(path, found_all)


def _failures(folder: Path) -> set[int]:
    file = folder / "failed.json"
    return set(json.loads(file.read_text())) if file.is_file() else set()


def _write(path: Path, text: str) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(text)
    partial.replace(path)


class _Recorder:
    """Stands between planner and environment and notes states, actions, flags and moves."""

    def __init__(self, env: Any) -> None:
        self.env = env
        self.unwrapped = env.unwrapped
        self.move = -1
        self.states: list[Any] = []
        self.actions: list[Any] = []
        self.flags: list[dict[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.env, name)

    def reset(self, **settings: Any) -> Any:
        result = self.env.reset(**settings)
        self.move = -1
        self.states, self.actions, self.flags = [_flat(result[0])], [], [self._flags(result[1])]
        return result

    def step(self, action: Any) -> Any:
        result = self.env.step(action)
        self.actions.append(np.asarray(action, dtype=np.float32).reshape(-1))
        self.states.append(_flat(result[0]))
        self.flags.append(self._flags(result[-1]))
        return result

    def _flags(self, info: dict[str, Any]) -> dict[str, Any]:
        """The numbers, yes or no, and short vectors in what the environment tells of a state."""
        found: dict[str, Any] = {"segment": self.move}
        for name, value in info.items():
            if isinstance(value, torch.Tensor) and value.ndim in (1, 2):
                found[name] = value[0].cpu().numpy()
        if "is_grasped" not in found:
            held = self._held()
            if held is not None:
                found["is_grasped"] = bool(number(self.unwrapped.agent.is_grasping(held)))
        return found

    def _held(self) -> Any:
        """What the task has grasped: its cube, cube A or peg."""
        parts = (getattr(self.unwrapped, name, None) for name in ("cube", "cubeA", "peg", "obj"))
        return next((part for part in parts if part is not None), None)

    def demonstration(self, seed: int) -> Demonstration:
        names = set.intersection(*(set(f) for f in self.flags[1:]))
        flags = {}
        for name in sorted(names):
            later = [np.asarray(f[name]) for f in self.flags[1:]]
            start = np.asarray(self.flags[0].get(name, np.zeros_like(later[0])))
            flags[name] = torch.from_numpy(np.stack([start, *later]))
        states = torch.from_numpy(np.stack(self.states))
        return Demonstration(states, torch.from_numpy(np.stack(self.actions)), seed, flags)


def _flat(observation: Any) -> Any:
    return observation[0].cpu().numpy().astype(np.float32)


def _attempt(env: _Recorder, solve: Any, seed: int) -> Demonstration | None:
    """One episode; None if the planner finds no way or misses the goal."""
    with _counted_moves(env), contextlib.redirect_stdout(io.StringIO()):
        try:
            result = solve(env, seed=seed, debug=False, vis=False)
        except (RuntimeError, ValueError, IndexError):  # what the planners raise at dead ends
            return None
    if isinstance(result, int) or not number(result[-1]["success"]):
        return None
    return env.demonstration(seed)


@contextlib.contextmanager
def _counted_moves(env: _Recorder) -> Iterator[None]:
    """Numbers the planner's moves, a ground truth for key states."""
    from mani_skill.examples.motionplanning.panda.motionplanner import PandaArmMotionPlanningSolver

    kind: Any = PandaArmMotionPlanningSolver
    kept = {name: getattr(kind, name) for name in MOVES}

    def counted(method: Any) -> Any:
        def move(self: Any, *arguments: Any, **settings: Any) -> Any:
            if not settings.get("dry_run"):
                env.move += 1
            return method(self, *arguments, **settings)

        return move

    for name, method in kept.items():
        setattr(kind, name, counted(method))
    try:
        yield
    finally:
        for name, method in kept.items():
            setattr(kind, name, method)
