"""ManiSkill environments on a CPU without a renderer: what must be put right before `gym.make`."""

from __future__ import annotations

import importlib
import importlib.util
from contextlib import suppress
from typing import Any

import numpy as np

from flashmi_reg.errors import InputError, MissingExtraError

__all__ = ["advance", "check_planning", "make", "number"]


class _Inert:
    """Stands for a material that no driver is there to hold; takes every attribute."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setattr__(self, name: str, value: Any) -> None: ...


def make(task: str, **settings: Any) -> Any:
    """Makes an environment with flat state observations and absolute joint targets.

    Args:
        task: a name that ManiSkill registers, e.g. PickCube-v1.
        settings: further arguments of `gymnasium.make`. Unless a `render_backend` is among them,
            nothing is drawn and no graphics driver is needed, in all of the process.

    Raises:
        MissingExtraError: ManiSkill is not installed.
        InputError: it knows no such task.
    """
    gymnasium = _needed("gymnasium")
    _needed("mani_skill.envs")
    if settings.get("render_backend", "none") == "none":
        _without_renderer()
    wanted = {
        "obs_mode": "state",
        "control_mode": "pd_joint_pos",
        "reward_mode": "none",
        "sim_backend": "physx_cpu",
        "render_backend": "none",
        "reconfiguration_freq": 1,  # otherwise flags are stale and Peg keeps its first peg
        "max_episode_steps": 400,  # the planner passes the tasks' own limits
    }
    if task not in gymnasium.registry:
        raise InputError(f"`task` {task!r} is unknown to ManiSkill; try 'PickCube-v1'.")
    return gymnasium.make(task, **(wanted | settings))


def advance(env: Any, action: Any) -> None:
    """One control step of the Panda arm under `pd_joint_pos`, without observation or flags.

    Does what `env.step` does to the simulation, at a third of the cost.

    Args:
        env: of :func:`make`.
        action: seven joint targets and the gripper's opening from −1 to 1, float32, shape (8,).
    """
    scene = env.unwrapped
    gripper = scene.agent.controller.controllers["gripper"]
    low, high = (np.float32(side.item()) for side in _gripper_ends(gripper))
    opening = (high + low) / 2 + (high - low) / 2 * np.clip(action[7], -1, 1)
    targets = [*action[:7], opening, opening]
    for joint, target in zip(scene.agent.robot.active_joints, targets, strict=True):
        joint._objs[0].drive_target = np.array([target], dtype=np.float32)
    for _ in range(scene._sim_steps_per_control):
        scene.scene.step()


def check_planning() -> None:
    """Raises :class:`MissingExtraError` where the motion planner would end the process.

    mplib is built for numpy 1; under numpy 2 it crashes without a message.
    """
    _needed("mplib")
    if int(np.__version__.split(".")[0]) >= 2:
        raise MissingExtraError(
            f"the motion planner crashes under numpy 2, received numpy {np.__version__}: use an "
            'environment of its own with pip install "flashmi_reg[maniskill]".'
        )


def number(value: Any) -> float:
    """The number in what an environment of one scene returns: tensors of one element."""
    return float(value.reshape(-1)[0]) if hasattr(value, "reshape") else float(value)


def _gripper_ends(controller: Any) -> tuple[Any, Any]:
    return controller.action_space_low.reshape(-1)[0], controller.action_space_high.reshape(-1)[0]


def _needed(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"this needs {module.split('.')[0]} ({error}): "
            'pip install "flashmi_reg[maniskill]", in an environment of its own.'
        ) from error


def _without_renderer() -> None:
    """Replaces materials by stand-ins: the loader of robots makes them even where nothing is drawn.

    With these, `render_backend="none"` needs no graphics driver.
    """
    names = ("RenderMaterial", "RenderTexture2D")
    for module in ("sapien.render", "sapien.pysapien.render", "sapien.wrapper.urdf_loader"):
        with suppress(ImportError):
            loaded = importlib.import_module(module)
            for name in names:
                if hasattr(loaded, name):
                    setattr(loaded, name, _Inert)
