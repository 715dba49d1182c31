"""Motion planners of ManiSkill's tasks, and one for the insertion of pegs that corrects for lag."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from flashmi_reg.errors import InputError

__all__ = ["SHIPPED", "planner_of"]

SHIPPED = {
    "PickCube-v1": "solvePickCube",
    "StackCube-v1": "solveStackCube",
    "PushCube-v1": "solvePushCube",
    "PullCube-v1": "solvePullCube",
    "LiftPegUpright-v1": "solveLiftPegUpright",
    "PlugCharger-v1": "solvePlugCharger",
    "PlaceSphere-v1": "solvePlaceSphere",
}
"""Tasks that need no download, and the names of their planners in ManiSkill."""
SOLUTIONS = "mani_skill.examples.motionplanning.panda.solutions"
STAGES = (0.8, 0.6, 0.4, 0.2, 0.0)  # of the way into the hole; the pose is corrected before each
PUSH = 0.01  # metres past the goal: the arm stops a little short of what it is told


def planner_of(task: str) -> Callable[..., Any]:
    """The planner of a task: a function of (env, seed=...) that moves it to the end.

    Raises:
        InputError: there is none.
    """
    if task == "PegInsertionSide-v1":
        return insert_peg
    if task not in SHIPPED:
        known = ", ".join(sorted([*SHIPPED, "PegInsertionSide-v1"]))
        raise InputError(f"`task` {task!r} has no motion planner; those with one are {known}.")
    solve: Callable[..., Any] = getattr(importlib.import_module(SOLUTIONS), SHIPPED[task])
    return solve


def insert_peg(env: Any, seed: int | None = None, **_: Any) -> Any:
    """Grasps the peg and puts it into the hole, correcting each pose by the peg's measured one.

    The shipped planner pushes the peg in by one blind move; the arm lags behind, thick pegs jam,
    and demonstrations kept for their success are of thin pegs.
    """
    import sapien
    from mani_skill.examples.motionplanning.base_motionplanner.utils import (
        compute_grasp_info_by_obb,
        get_actor_obb,
    )
    from mani_skill.examples.motionplanning.panda.motionplanner import PandaArmMotionPlanningSolver

    env.reset(seed=seed)
    scene = env.unwrapped
    arm = PandaArmMotionPlanningSolver(
        env,
        debug=False,
        vis=False,
        base_pose=scene.agent.robot.pose,
        visualize_target_grasp_pose=False,
        print_env_info=False,
        joint_vel_limits=0.75,
        joint_acc_limits=0.75,
    )
    down = [0, 0, -1]
    closing = scene.agent.tcp.pose.to_transformation_matrix()[0, :3, 1].cpu().numpy()
    grasp = compute_grasp_info_by_obb(
        get_actor_obb(scene.peg), approaching=down, target_closing=closing, depth=0.025
    )
    half = float(scene.peg_half_sizes[0, 0])
    pose = scene.agent.build_grasp_pose(down, grasp["closing"], grasp["center"])
    pose = pose * sapien.Pose([-max(0.05, half / 2 + 0.01), 0, 0])
    lying = scene.peg.pose
    for target in (pose * sapien.Pose([0, 0, -0.05]), pose):
        if arm.move_to_pose_with_screw(target) == -1:
            return -1
    arm.close_gripper()
    before = sapien.Pose([-0.01 - half, 0, 0])
    command = scene.goal_pose * lying.inv() * pose * before
    if arm.move_to_pose_with_screw(command) == -1:
        return -1
    depth = 0.01 + half
    aims = [before] * 3 + [sapien.Pose([-depth * share, 0, 0]) for share in STAGES]
    aims[-1] = sapien.Pose([PUSH, 0, 0])
    result: Any = -1
    for aim in aims:
        command = scene.goal_pose * aim * scene.peg.pose.inv() * command
        result = arm.move_to_pose_with_screw(command)
        if result == -1:
            return -1
    arm.close()
    return result
