# SPDX-License-Identifier: Apache-2.0
"""The way home from anywhere in the workspace, one control period after the other."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from rl100_policy.core.config import RobotConfig, WorkspaceBox
from rl100_policy.core.kinematics import ArmKinematics

Floats = NDArray[np.float64]

HOME_TOLERANCE = 0.02
"""An arm whose joints are all nearer than this to the home position is at home [rad, m]."""
_TOOL_SPEED = 0.15
"""Of the tool on its way [m/s]."""
_TURN_SPEED = 0.6
"""Of the tool's direction [rad/s]."""
_JOINT_SHARE = 0.25
"""Share of the joints' velocity limits while they turn one by one."""
_NEAR_M = 2e-3
_NEAR_RAD = 2e-3
_HEADROOM = 0.01
"""Kept from the top of the workspace [m]."""
_STRETCHED = 0.3
"""An arm that must turn a joint by this share of its velocity limit to go on up is high enough:
farther up it comes to the end of its reach."""


class _Leg(IntEnum):
    """Parts of the way, in order."""

    UP = 0
    ACROSS = 1
    ALIGN = 2
    DOWN = 3
    JOINTS = 4


class Homing:
    """Up, across, joints, down: nothing on the table is swept away, and no wall is cut.

    The tool goes straight up to the top of the workspace, or as far as the arm reaches with ease,
    straight to above its home and turns there as it is at home; then the joints take the posture
    from which a straight way down ends at the home position. A box holds a straight line between
    two of its points. Where home is higher than the workspace, the tool goes straight to it.
    """

    def __init__(
        self,
        robot: RobotConfig,
        workspace: WorkspaceBox,
        arm: ArmKinematics,
        approach: float = 1.0,
    ) -> None:
        """Plan for one arm and one workspace of its tool.

        Args:
            robot: The arm.
            workspace: Box that its tool stays in.
            arm: Its kinematics.
            approach: Largest share of what is left of a leg that is gone in one period.
        """
        self._slowest = 1.0 / approach
        self._arm, self._period = arm, robot.control_period
        self._home = np.array(robot.home)
        self._pose = arm.tool_pose(self._home)
        self._top = max(workspace.high[2] - _HEADROOM, float(self._pose[2, 3]))
        self.restart()

    def restart(self) -> None:
        """Begin a new way, wherever the arm is now."""
        self._leg = _Leg.UP
        self._go_across_at(self._top)

    def _go_across_at(self, height: float) -> None:
        self._above = self._pose.copy()
        self._above[2, 3] = max(height, self._pose[2, 3])
        self._posture, _ = self._arm.solve(self._above, self._home)

    def at_home(self, q: Floats) -> bool:
        """Whether joint positions, [n] rad, are those of home."""
        return bool(np.abs(q - self._home).max() <= HOME_TOLERANCE)

    def way(self, command: Floats, pose: Floats) -> Callable[[float], Floats]:
        """What to ask for in this period: joint positions, [n] rad, for a share of it.

        Args:
            command: Present joint command, [n], rad.
            pose: Tool pose that it has, [4, 4].
        """
        while self._leg < _Leg.JOINTS and self._is_done(command, pose):
            self._leg = _Leg(self._leg + 1)
        if self._leg in (_Leg.ALIGN, _Leg.JOINTS):
            goal = self._posture if self._leg is _Leg.ALIGN else self._home
            step = self._joint_step(goal - command)
            return lambda share: command + share * step
        target = self._target(pose)
        wanted = self._arm.solve(self._towards(pose, target, 1.0), command)[0]
        turned = np.abs(wanted - command) / (self._arm.velocity_limits * self._period)
        if self._leg is _Leg.UP and turned.max() > _STRETCHED:
            self._go_across_at(float(pose[2, 3]))
            self._leg = _Leg.ACROSS
            return self.way(command, pose)
        return lambda share: (
            wanted
            if share == 1.0
            else self._arm.solve(self._towards(pose, target, share), command)[0]
        )

    def _target(self, pose: Floats) -> Floats:
        """Tool pose at which the leg ends."""
        if self._leg is _Leg.DOWN:
            return self._pose
        if self._leg is _Leg.ACROSS:
            return self._above
        target = pose.copy()
        target[2, 3] = max(pose[2, 3], self._above[2, 3])
        return target

    def _is_done(self, command: Floats, pose: Floats) -> bool:
        if self._leg is _Leg.ALIGN:
            return bool(np.abs(self._posture - command).max() < _NEAR_RAD)
        away, turn = _apart(pose, self._target(pose))
        return bool(np.linalg.norm(away) < _NEAR_M and np.linalg.norm(turn) < _NEAR_RAD)

    def _towards(self, pose: Floats, target: Floats, share: float) -> Floats:
        """The pose one period, or a share of it, nearer to a target."""
        away, turn = _apart(pose, target)
        periods = max(
            float(np.linalg.norm(away)) / (_TOOL_SPEED * self._period),
            float(np.linalg.norm(turn)) / (_TURN_SPEED * self._period),
            self._slowest,
        )
        nearer = pose.copy()
        nearer[:3, 3] += share * away / periods
        nearer[:3, :3] = Rotation.from_rotvec(share * turn / periods).as_matrix() @ pose[:3, :3]
        return nearer

    def _joint_step(self, way: Floats) -> Floats:
        largest = _JOINT_SHARE * self._arm.velocity_limits * self._period
        return way / max(self._slowest, float((np.abs(way) / largest).max()))


def _apart(pose: Floats, target: Floats) -> tuple[Floats, Floats]:
    """Translation [m] and rotation vector [rad] from one pose to another, in the base frame."""
    turn = Rotation.from_matrix(target[:3, :3] @ pose[:3, :3].T).as_rotvec()
    return target[:3, 3] - pose[:3, 3], np.asarray(turn)
