"""The moments that key states are measured against, and a time-warped copy of demonstrations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from flashmi_reg.integrations.maniskill import Demonstration, load_demonstrations

__all__ = [
    "EVENTS",
    "TASKS",
    "VELOCITIES",
    "event_places",
    "load_task",
    "observed",
    "observed_columns",
    "warp",
]

TASKS = ("PickCube-v1", "StackCube-v1", "PegInsertionSide-v1")

EVENTS: dict[str, tuple[str, ...]] = {
    "PickCube-v1": ("is_grasped", "success"),
    "StackCube-v1": ("is_grasped", "is_cubeA_on_cubeB", "success"),
    "PegInsertionSide-v1": ("is_grasped", "pre-inserted", "success"),
}
"""The events of each task, in order; an extractor is asked for as many key states."""

PRE_INSERTED = 0.01  # metres from the hole's axis within which the peg's head then stays
# The observation of PickCube contains the flag that key states are measured against.
GIVEN_AWAY = {"PickCube-v1": 18}
VELOCITIES = slice(9, 18)


def load_task(data: Path, task: str) -> list[Demonstration]:
    """A task's demonstrations in a folder: `flashmi maniskill collect`'s file, or a recorder's."""
    made = data / f"{task}.npz"
    return load_demonstrations(made if made.is_file() else data / f"{task}.motionplanning.h5")


def observed(task: str, demonstration: Demonstration) -> Demonstration:
    """The demonstration without coordinates that give events away."""
    keep = observed_columns(task, demonstration.states.shape[1])
    return replace(demonstration, states=demonstration.states[:, keep])


def observed_columns(task: str, width: int) -> list[int]:
    """The coordinates of a task's observation that give no event away."""
    return [i for i in range(width) if i != GIVEN_AWAY.get(task)]


def event_places(task: str, demonstration: Demonstration) -> Tensor:
    """When each event first holds, as shares of the length; shape (events,)."""
    flags, places = demonstration.flags, []
    for name in EVENTS[task]:
        if name == "pre-inserted":
            off_axis = flags["peg_head_pos_at_hole"][:, 1:].norm(dim=1) >= PRE_INSERTED
            holds = ~off_axis.flip(0).cummax(0).values.flip(0)
        else:
            holds = flags[name].bool()
        places.append(holds.int().argmax() / (len(demonstration) - 1))
    return torch.stack(places)


def warp(demonstrations: Sequence[Demonstration], seed: int) -> list[Demonstration]:
    """The same motions at another, changing pace, each demonstration at its own.

    The pace is exp of a random smooth curve between about a third and three; joint velocities
    follow it. States lie on the lines between those recorded, flags are those of the state passed.
    """
    generator = torch.Generator().manual_seed(seed)
    return [_warped(d, generator) for d in demonstrations]


def _warped(demonstration: Demonstration, generator: torch.Generator) -> Demonstration:
    length = len(demonstration)
    grid = torch.linspace(0, 1, length)
    wave = torch.randn(2, 3, generator=generator)
    order = torch.arange(1, 4)
    angles = 2 * math.pi * grid[:, None] * order / 2
    curve = ((angles.sin() * wave[0] + angles.cos() * wave[1]) / order).sum(1)
    pace = (0.7 * curve).clamp(-1.1, 1.1).exp()  # time spent on each recorded step
    clock = torch.cat([torch.zeros(1), pace[1:].cumsum(0)])
    count = max(length, 8)
    wanted = torch.linspace(0, float(clock[-1]), count)
    right = torch.searchsorted(clock, wanted).clamp(1, length - 1)
    share = ((wanted - clock[right - 1]) / (clock[right] - clock[right - 1])).clamp(0, 1)[:, None]
    states = demonstration.states[right - 1].lerp(demonstration.states[right], share)
    scale = clock[-1] / (count - 1) / pace[right]
    states[:, VELOCITIES] *= scale[:, None]
    before = torch.where(share[:, 0] >= 1 - 1e-6, right, right - 1)
    flags = {name: values[before] for name, values in demonstration.flags.items()}
    actions = demonstration.actions[before[:-1].clamp_max(length - 2)]
    return Demonstration(states, actions, demonstration.seed, flags)
