"""Demonstrations played again with disturbances, from which a policy learns the way back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from tqdm import tqdm

from .demonstrations import Demonstration
from .simulator import make, number

__all__ = ["JOINTS", "disturbed"]

JOINTS = 7  # whose targets the actions begin with, and whose positions the states
SIZE = 0.06  # radians, the disturbance's spread where the arm is fastest
WIDTH = 4.0  # steps over which it changes


def disturbed(
    task: str, demonstrations: Sequence[Demonstration], seed: int = 0
) -> list[Demonstration]:
    """Each demonstration once more, the arm pushed off its way while it moves.

    After "DART: Noise Injection for Robust Imitation Learning" (Laskey et al., 2017): what is
    executed is disturbed, what is recorded are the actions of the original. These are joint
    targets, so that they lead back. The disturbance follows the square of the commanded speed and
    spares grasps and releases; it is the same for all that is trained from it.

    Args:
        task: the one they were recorded in, under `pd_joint_pos`.
        demonstrations: with full observations and the seeds of their episodes.
        seed: of the disturbances.

    Returns:
        Those that still succeed, without flags; seed, length and actions are the original's.
    """
    generator = torch.Generator().manual_seed(seed)
    longest = max(len(d) for d in demonstrations)
    env = make(task, max_episode_steps=longest + 1)
    found = []
    for demonstration in tqdm(demonstrations, desc=f"{task}, disturbed", disable=None):
        state, _ = env.reset(seed=demonstration.seed)
        states, reached = [state[0].float().clone()], False
        for action in demonstration.actions + disturbance(demonstration.actions, generator):
            state, _, _, _, info = env.step(action.numpy())
            states.append(state[0].float().clone())
            reached = bool(number(info["success"]))
        if reached:
            found.append(replace(demonstration, states=torch.stack(states), flags={}))
    env.close()
    return found


def disturbance(actions: Tensor, generator: torch.Generator) -> Tensor:
    """Smooth noise on the joints' targets that is zero where the arm stands, shape (T, A)."""
    times = torch.arange(len(actions))
    kernel = (-0.5 * ((times[:, None] - times) / WIDTH) ** 2).exp()
    smooth = kernel / kernel.norm(dim=1, keepdim=True)
    targets = actions[:, :JOINTS]
    speed = targets.diff(dim=0, append=targets[-1:]).norm(dim=1, keepdim=True)
    found = torch.zeros_like(actions)
    noise = smooth @ torch.randn(targets.shape, generator=generator)
    found[:, :JOINTS] = SIZE * noise * (speed / speed.max().clamp_min(1e-6)) ** 2
    return found
