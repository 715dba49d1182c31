"""Pictures of key states as a camera sees them: a demonstration replayed and drawn in software."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from flashmi_reg.errors import InputError, MissingExtraError

from .demonstrations import Demonstration
from .simulator import make

__all__ = ["draw_frames"]

DRIVER = (
    "pictures of the scene need a Vulkan driver, which was not found ({}): install one, in "
    "software for instance Debian's `mesa-vulkan-drivers` and `libvulkan1` of Mesa 23 or newer. "
    "Everything else works without."
)


def draw_frames(
    task: str, demonstration: Demonstration, keys: Tensor, path: str | Path, *, size: int = 256
) -> Path:
    """Replays a demonstration, draws its key states side by side and returns the picture's path.

    Must be called in a process in which no environment without a renderer was made before.

    Args:
        task: of the demonstration.
        demonstration: recorded under `pd_joint_pos`, with the seed that it began with.
        keys: times of its key states, from `KeyStateExtractor.transform`, shape (K,).
        path: the file to write.
        size: of each frame in pixels.

    Raises:
        MissingExtraError: ManiSkill, matplotlib or a graphics driver is missing.
        InputError: the demonstration's seed is unknown, or the times lie outside it.
    """
    times = [int(t) for t in keys]
    if demonstration.seed < 0:
        raise InputError("`demonstration` has no seed; its episode cannot be played again.")
    if not times or min(times) < 0 or max(times) >= len(demonstration):
        raise InputError(
            f"`keys` must lie in 0 to {len(demonstration) - 1}, received {keys.tolist()}."
        )
    camera = {"width": size, "height": size}
    try:
        env = make(
            task,
            render_mode="rgb_array",
            render_backend="cpu",
            human_render_camera_configs=camera,
        )
        env.reset(seed=demonstration.seed)
        frames = _played(env, demonstration, times)
        env.close()
    except RuntimeError as error:
        if not any(word in str(error) for word in ("vk::", "ulkan", "render", "physical device")):
            raise
        raise MissingExtraError(DRIVER.format(error)) from error
    return _written(np.concatenate(frames, axis=1), path)


def _played(env: Any, demonstration: Demonstration, times: list[int]) -> list[Any]:
    """The frames at these times, in their order."""
    frames = {}
    for time in range(max(times) + 1):
        if time in times:
            frames[time] = np.asarray(env.render())[0]
        if time < len(demonstration.actions):
            env.step(demonstration.actions[time].numpy())
    return [frames[time] for time in times]


def _written(picture: Any, path: str | Path) -> Path:
    try:
        from matplotlib.image import imsave
    except ImportError as error:
        raise MissingExtraError(
            'drawing needs matplotlib: pip install "flashmi_reg[maniskill]", or matplotlib alone.'
        ) from error
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    imsave(path, picture)
    return path
