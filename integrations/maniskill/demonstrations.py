"""Demonstrations: the states, actions and flags of successful episodes, from ManiSkill's files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from flashmi_reg.errors import InputError, MissingExtraError

__all__ = ["Demonstration", "load_demonstrations", "save_demonstrations"]

Source = Literal["obs", "env_states"]


@dataclass(frozen=True)
class Demonstration:
    """One successful episode of T actions.

    Attributes:
        states: observed states before each action and after the last, shape (T + 1, Q).
        actions: shape (T, A).
        seed: of the episode's reset.
        flags: what the simulator knows of each state, by name, each of shape (T + 1, ...):
            booleans such as `is_grasped`, poses, or the number of the planner's move, `segment`.
    """

    states: Tensor
    actions: Tensor
    seed: int
    flags: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.states.ndim != 2 or self.actions.ndim != 2:
            raise InputError(
                "`states` and `actions` must have shapes (T + 1, Q) and (T, A), received "
                f"{tuple(self.states.shape)} and {tuple(self.actions.shape)}."
            )
        if len(self.states) != len(self.actions) + 1:
            raise InputError(
                f"`states` holds {len(self.states)} rows for {len(self.actions)} actions; there "
                "must be one more state than actions: the one after the last."
            )
        for name, flag in self.flags.items():
            if flag.shape[:1] != self.states.shape[:1]:
                raise InputError(
                    f"`flags[{name!r}]` must hold one row a state, {len(self.states)}, received "
                    f"shape {tuple(flag.shape)}."
                )

    def __len__(self) -> int:
        """The number of states, T + 1."""
        return len(self.states)


def load_demonstrations(
    path: str | Path, *, source: Source = "obs", only_successes: bool = True
) -> list[Demonstration]:
    """Reads demonstrations from ManiSkill's `.h5` with its `.json`, or from our own `.npz`.

    Args:
        path: the `.h5` file, beside which the `.json` of the same name lies, or an `.npz` file of
            :func:`save_demonstrations`.
        source: "obs" takes the flat state observations (`obs_mode="state"`), "env_states" the
            poses and velocities of all actors and joints, which every ManiSkill file holds.
        only_successes: leaves out episodes that do not end in success.

    Returns:
        Demonstrations in the order of their episodes.

    Raises:
        InputError: the file is missing, or holds no such states or no demonstration.
        MissingExtraError: `.h5` files need h5py, which the extra `maniskill` brings.
    """
    path = Path(path)
    if source not in ("obs", "env_states"):
        raise InputError(f"`source` must be 'obs' or 'env_states', received {source!r}.")
    if not path.is_file():
        raise InputError(f"`path` {str(path)!r} does not exist; give a .h5 or .npz file.")
    if path.suffix == ".npz":
        found = _read_npz(path)
    elif path.suffix == ".h5":
        found = _read_h5(path, source, only_successes)
    else:
        raise InputError(f"`path` ends in {path.suffix!r}; expected .h5 or .npz.")
    if not found:
        raise InputError(f"`path` {path.name!r} holds no successful demonstration.")
    return found


def save_demonstrations(path: str | Path, demonstrations: Sequence[Demonstration]) -> Path:
    """Writes demonstrations as one `.npz` file, which needs no h5py to be read.

    Raises:
        InputError: there are none, or they differ in widths or flags.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise InputError(f"`path` ends in {path.suffix!r}; expected .npz.")
    if not demonstrations:
        raise InputError("`demonstrations` is empty.")
    first = demonstrations[0]
    for other in demonstrations:
        same = (
            other.states.shape[1:] == first.states.shape[1:]
            and other.actions.shape[1:] == first.actions.shape[1:]
            and other.flags.keys() == first.flags.keys()
        )
        if not same:
            raise InputError("`demonstrations` differ in state width, action width or flags.")
    arrays: dict[str, Any] = {
        "lengths": np.array([len(d) for d in demonstrations]),
        "seeds": np.array([d.seed for d in demonstrations]),
        "states": torch.cat([d.states for d in demonstrations]).numpy(),
        "actions": torch.cat([d.actions for d in demonstrations]).numpy(),
    }
    for name in first.flags:
        arrays[f"flag_{name}"] = torch.cat([d.flags[name] for d in demonstrations]).numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)
    return path


def _read_npz(path: Path) -> list[Demonstration]:
    with np.load(path) as arrays:
        missing = {"lengths", "seeds", "states", "actions"} - set(arrays.files)
        if missing:
            raise InputError(
                f"`path` {path.name!r} lacks {sorted(missing)}: it was not written by "
                "`save_demonstrations`."
            )
        lengths, seeds = arrays["lengths"].tolist(), arrays["seeds"].tolist()
        states = torch.from_numpy(arrays["states"]).float().split(lengths)
        actions = torch.from_numpy(arrays["actions"]).float().split([n - 1 for n in lengths])
        flags = {
            name.removeprefix("flag_"): torch.from_numpy(arrays[name]).split(lengths)
            for name in arrays.files
            if name.startswith("flag_")
        }
    return [
        Demonstration(states[i], actions[i], seeds[i], {name: f[i] for name, f in flags.items()})
        for i in range(len(lengths))
    ]


def _read_h5(path: Path, source: Source, only_successes: bool) -> list[Demonstration]:
    try:
        import h5py
    except ImportError as error:
        raise MissingExtraError(
            "reading `.h5` demonstrations needs h5py: "
            'pip install "flashmi_reg[maniskill]", or pip install h5py.'
        ) from error
    seeds = _seeds(path.with_suffix(".json"))
    found = []
    with h5py.File(path) as file:
        names = sorted(file, key=lambda name: int(name.rsplit("_", 1)[-1]))
        for name in names:
            group = file[name]
            if only_successes and "success" in group and not group["success"][-1]:
                continue
            states = _states(group, source, f"{path.name}/{name}")
            actions = torch.from_numpy(group["actions"][:]).float()
            number = int(name.rsplit("_", 1)[-1])
            seed = seeds.get(number, int(group.attrs.get("seed", -1)))
            found.append(Demonstration(states, actions, seed, _flags(group, len(states))))
    return found


def _seeds(path: Path) -> dict[int, int]:
    """Seeds by episode; a missing `.json` costs the seeds alone."""
    if not path.is_file():
        return {}
    episodes = json.loads(path.read_text(encoding="utf-8")).get("episodes", [])
    return {int(e["episode_id"]): int(e.get("episode_seed", -1)) for e in episodes}


def _states(group: Any, source: Source, where: str) -> Tensor:
    if source == "obs":
        if "obs" not in group or not hasattr(group["obs"], "shape"):
            raise InputError(
                f"`path` holds no flat state observations in {where}: it was recorded in another "
                "`obs_mode`; use source='env_states', or replay it with `obs_mode=\"state\"`."
            )
        return torch.from_numpy(group["obs"][:]).float()
    if "env_states" not in group:
        raise InputError(f"`path` holds no `env_states` in {where}; use source='obs'.")
    parts: list[Any] = []
    for kind in ("articulations", "actors"):
        members = group["env_states"].get(kind, {})
        parts += [members[name][:] for name in sorted(members)]
    return torch.from_numpy(np.concatenate(parts, axis=1)).float()


def _flags(group: Any, count: int) -> dict[str, Tensor]:
    """What was recorded under `signals`, and the success flag."""
    flags = {}
    for name, values in group.get("signals", {}).items():
        short = name.removeprefix("info_")
        # A signal of that very name was measured; the info's copy can be a step late.
        if len(values) == count and (short == name or short not in group["signals"]):
            flags[short] = torch.from_numpy(np.asarray(values[:]))
    if "success" not in flags and "success" in group:
        after = np.asarray(group["success"][:])
        flags["success"] = torch.from_numpy(np.concatenate([after[:1] & False, after]))
    return flags
