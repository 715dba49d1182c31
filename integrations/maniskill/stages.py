"""Stages of an episode: what an arm is to do until the next key state, and when it is there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from flashmi_reg.errors import InputError

from .demonstrations import Demonstration

__all__ = [
    "CHUNK",
    "PATIENCE",
    "PLAYED",
    "Lessons",
    "Reach",
    "coming_actions",
    "distance",
    "goals_of",
    "lessons_of",
    "reach_of",
    "rests_of",
    "stage_lengths",
]

CHUNK = 16  # actions that are foretold at once
PLAYED = 8  # of these, before the policy is asked again; several at once span pauses
LEAD = 1  # steps before a key state: the action that brings it about has not begun
OVERLAP = 6  # steps before the end of a stage in which the one that follows may be on already
USUAL = 0.95  # share of the demonstrations that counts as the usual
SLACK = 1.5  # a goal is reached where the state lies within so many times the usual distance
PATIENCE = 1.3  # a stage is given up after so many times its usual length
LEAST = 0.01  # error of what is foretold, in units of the states' spread, below which none is told


def goals_of(
    demonstrations: Sequence[Demonstration], keys: Sequence[Tensor], count: int, relative: int
) -> Tensor:
    """The times that the stages lead to, (demonstrations, K): just before key states, and the end.

    A searched key state is one that its past does not foretell, such as a grasp; the state before
    it, in which the arm is where it must be for that, is what can be foretold and aimed at. Times
    found scatter by a step: where the gripper, or what else is switched by an action behind the
    first `relative`, is on its way there, the goal is the state before that.

    Args:
        demonstrations: of one task.
        keys: the times of each one's key states, each of shape (K,).
        count: K, the number of key states.
        relative: how many actions are no switches, see :func:`coming_actions`.

    Raises:
        InputError: `keys` do not fit the demonstrations.
    """
    if len(keys) != len(demonstrations):
        raise InputError(
            f"`keys` holds {len(keys)} entries for {len(demonstrations)} demonstrations."
        )
    for demonstration, times in zip(demonstrations, keys, strict=True):
        last = len(demonstration) - 1
        if times.shape != (count,) or int(times[-1]) != last or bool((times.diff() <= 0).any()):
            raise InputError(
                f"`keys` must be {count} times that ascend and end at {last}, the demonstration's "
                f"last state, received {times.tolist()}."
            )
    goals = torch.stack(list(keys))
    goals[:, :-1] = (goals[:, :-1] - LEAD).clamp_min(0)
    for demonstration, times in zip(demonstrations, goals[:, :-1], strict=True):
        times -= torch.tensor(
            [_just_switched(demonstration.actions[:t, relative:]) for t in times.tolist()]
        ).int()
    return goals


def _just_switched(actions: Tensor) -> bool:
    """Whether the last action is another than the one before, and that was no other."""
    if len(actions) < 3:
        return False
    oldest, old, last = actions[-3:]
    return bool(((last != old) & (old == oldest)).any())


def rests_of(demonstrations: Sequence[Demonstration], goals: Tensor, relative: int) -> Tensor:
    """Targets that bring an arm to rest at searched goals, (demonstrations, K − 1, relative).

    They are those of the last action before: at the goal itself it may still be on its way there.
    """
    times = (goals[:, :-1] - 1).clamp_min(0)
    found = [d.actions[t, :relative] for d, t in zip(demonstrations, times, strict=True)]
    return torch.stack(found)


def coming_actions(demonstration: Demonstration, relative: int) -> Tensor:
    """The 16 actions from each time on, the last one repeated, shape (T, 16, A).

    The first `relative` of each are distances from the state's first coordinates.
    """
    last = len(demonstration.actions)
    times = (torch.arange(last)[:, None] + torch.arange(CHUNK)).clamp_max(last - 1)
    coming = demonstration.actions[times]
    coming[..., :relative] -= demonstration.states[:-1, None, :relative]
    return coming


class Lessons(NamedTuple):
    """What demonstrations teach of S stages at each of their N states but the last ones.

    Attributes:
        coming: the actions from there on, see :func:`coming_actions`, shape (N, 16, A).
        joints: where the first coordinates of the state are, shape (N, relative).
        left: steps to each stage's goal, negative behind it, shape (N, S).
        stay: the action that stays at each stage's goal, shape (N, S, A).
        own: the stage that is on, shape (N,).
        following: the stage after it where that may be on already, and else the same, shape (N,).
    """

    coming: Tensor
    joints: Tensor
    left: Tensor
    stay: Tensor
    own: Tensor
    following: Tensor

    def wanted(self, rows: Tensor, stage: Tensor) -> Tensor:
        """The coming actions at some of the states in a stage: to its goal, and no further.

        Only the last stage is not kept back.
        """
        coming, joints = self.coming[rows], self.joints[rows]
        stay = self.stay[rows, stage]
        stay = torch.cat([stay[:, : joints.shape[1]] - joints, stay[:, joints.shape[1] :]], -1)
        there = torch.arange(CHUNK) >= self.left[rows, stage, None]
        kept_back = there & (stage < self.left.shape[1] - 1)[:, None]
        return torch.where(kept_back[..., None], stay[:, None], coming)


def lessons_of(demonstrations: Sequence[Demonstration], goals: Tensor, relative: int) -> Lessons:
    """The lessons of demonstrations whose stages end at `goals`, shape (demonstrations, S).

    Staying at a goal is to aim at the first coordinates of its state, and else to do what was done
    last before it. No stage is taught behind its goal: an arm that had rested there would rest near
    it as well.
    """
    last = goals.shape[1] - 1
    left, stay = [], []
    for demonstration, ends in zip(demonstrations, goals, strict=True):
        left.append(ends - torch.arange(len(demonstration.actions))[:, None])
        at_rest = demonstration.actions[(ends - 1).clamp_min(0)]
        at_rest[:, :relative] = demonstration.states[ends, :relative]
        stay.append(at_rest.expand(len(demonstration.actions), -1, -1))
    steps = torch.cat(left)
    own = (steps[:, :last] <= 0).sum(1)
    early = steps.gather(1, own[:, None])[:, 0] <= OVERLAP
    return Lessons(
        torch.cat([coming_actions(d, relative) for d in demonstrations]),
        torch.cat([d.states[:-1, :relative] for d in demonstrations]),
        steps,
        torch.cat(stay),
        own,
        (own + early).clamp_max(last),
    )


class Reach(NamedTuple):
    """When goals count as reached, those that are searched alone.

    Attributes:
        error: spread of what is foretold of each coordinate at the goal, shape (K − 1, Q).
        limit: the greatest distance, in units of that, which counts as there, shape (K − 1,).
        divides: whether states of a few steps before lie farther away, shape (K − 1,).
    """

    error: Tensor
    limit: Tensor
    divides: Tensor


@torch.no_grad()
def reach_of(
    foretell: Callable[[Tensor], Tensor],
    standardised: Sequence[Tensor],
    goals: Tensor,
    blurred: slice,
) -> Reach:
    """Measures on demonstrations how well goals are foretold once they are reached.

    Args:
        foretell: goals (*, K, Q) from states (*, Q).
        standardised: states of each demonstration.
        goals: their times, shape (demonstrations, K).
        blurred: coordinates that are not asked.
    """
    found = []
    for k, times in enumerate(goals[:, :-1].T):
        gaps = []
        for back in (0, PLAYED):
            places = (times - back).clamp_min(0)
            states = torch.stack([s[t] for s, t in zip(standardised, places, strict=True)])
            gaps.append(states - foretell(states)[:, k])
        error = gaps[0].square().mean(0).sqrt().clamp_min(LEAST)
        error[blurred] = torch.inf
        at_goal, before = (distance(gap, error) for gap in gaps)
        limit = SLACK * at_goal.quantile(USUAL)
        found.append(Reach(error, limit, before.median() > limit))
    return Reach(*(torch.stack(parts) for parts in zip(*found, strict=True)))


def distance(gap: Tensor, error: Tensor) -> Tensor:
    """Mean square, in units of the error, of the coordinates that are asked; (*, Q) → (*)."""
    return (gap / error).square().sum(-1) / error.isfinite().sum(-1)


def stage_lengths(goals: Tensor, divides: Tensor) -> Tensor:
    """What the stages that end at searched goals usually take at most, in steps, shape (K − 1,).

    Args:
        goals: times, shape (demonstrations, K).
        divides: which of the searched ones end a stage, shape (K − 1,).
    """
    found = torch.zeros(len(divides))
    begin = torch.zeros(len(goals))
    for k in divides.nonzero()[:, 0].tolist():
        found[k] = (goals[:, k] - begin).quantile(USUAL)
        begin = goals[:, k].float()
    return found
