# SPDX-License-Identifier: Apache-2.0
"""Forward and differential inverse kinematics of an arm from its URDF, by pinocchio."""

from __future__ import annotations

import math

import numpy as np
import pinocchio as pin
from numpy.typing import NDArray

from rl100_policy.core.arm_model import ArmModel
from rl100_policy.core.config import RobotConfig
from rl100_policy.core.errors import ConfigError

Floats = NDArray[np.float64]

_DAMPING = 1e-4
"""Levenberg damping of the pose Jacobian, square of a length [m^2]: keeps joint steps finite near
singularities."""
_DAMPED = _DAMPING * np.eye(6)
_MAX_ITERATIONS = 20
_CONVERGED = 1e-6
"""Pose error, norm of the 6-D logarithm [m, rad], at which the iteration stops."""


class ArmKinematics:
    """Kinematics of the commanded joints of one arm and its tool tip.

    Joint vectors are in the order of ``RobotConfig.joints``, revolute [rad], prismatic [m] or
    continuous [rad], not wrapped; poses are of the tool frame in the base frame. Not thread-safe:
    pinocchio keeps its workspace in ``_data``.
    """

    def __init__(self, robot: RobotConfig) -> None:
        """Read the URDF.

        Raises:
            ConfigError: As of :class:`ArmModel`, and if a commanded joint has no velocity limit.
        """
        self.robot = robot
        self.arm = ArmModel(robot)
        self._model, self._tool = self.arm.model, self.arm.tool
        self._data = self._model.createData()
        self._t_root_base = self.arm.t_root_base
        self._t_base_root = self._t_root_base.inverse()
        places, order = self.arm.places, self.arm.order
        lower = self._model.lowerPositionLimit[places]
        upper = self._model.upperPositionLimit[places]
        lower[self.arm.continuous], upper[self.arm.continuous] = -np.inf, np.inf
        self.position_lower: Floats = lower + robot.position_margin
        self.position_upper: Floats = upper - robot.position_margin
        self.velocity_limits: Floats = self._model.velocityLimit[order] * robot.velocity_scale
        self.acceleration_limits: Floats = np.array(robot.acceleration_limits)
        self.jerk_limits: Floats = np.array(robot.jerk_limits)
        still = [
            name
            for name, limit in zip(robot.joints, self.velocity_limits, strict=True)
            if not limit > 0.0
        ]
        if still:
            raise ConfigError(
                f"joints {still} of robot {robot.name!r} have a velocity limit of 0 in its URDF "
                f"{robot.urdf}: give the limit, or name them in locked_joints"
            )
        placed = [placement.translation for placement in self._model.jointPlacements[1:]]
        tip = self._model.frames[self._tool].placement.translation
        self.reach: float = float(sum(np.linalg.norm(each) for each in [*placed, tip]))
        """No point of the tool is ever farther from any joint's axis than this [m], but for what
        prismatic joints add."""

    def tool_pose(self, q: Floats) -> Floats:
        """Tool frame in the base frame, [4, 4], for joint positions q [n] rad."""
        pin.forwardKinematics(self._model, self._data, self.arm.configuration(q))
        pose = self._t_base_root * pin.updateFramePlacement(self._model, self._data, self._tool)
        return np.asarray(pose.homogeneous)

    def tool_position(self, q: Floats) -> Floats:
        """Tool tip in the base frame, [3], m, for joint positions q [n] rad."""
        return self.tool_pose(q)[:3, 3].copy()

    def solve(self, target: Floats, q_start: Floats) -> tuple[Floats, float]:
        """Joint positions near q_start whose tool pose is the target.

        Damped least squares, iterated to convergence:
        dq = J^T (J J^T + lambda I)^-1 log(T^-1 T_target); of all solutions of a redundant arm the
        one that moves least.

        Args:
            target: Tool frame in the base frame, [4, 4].
            q_start: Joint positions to start from, [n], rad.

        Returns:
            Joint positions [n], kept within the position limits, and the remaining pose error
            (norm of the 6-D logarithm, m and rad).
        """
        goal = self._t_root_base * pin.SE3(target)
        q = np.array(q_start, dtype=float)
        lower = np.minimum(self.position_lower, q_start)
        upper = np.maximum(self.position_upper, q_start)
        for _ in range(_MAX_ITERATIONS):
            pin.computeJointJacobians(self._model, self._data, self.arm.configuration(q))
            placement = pin.updateFramePlacement(self._model, self._data, self._tool)
            error = pin.log6(placement.inverse() * goal).vector
            residual = math.sqrt(error @ error)
            if residual < _CONVERGED:
                return q, residual
            jacobian = pin.getFrameJacobian(self._model, self._data, self._tool, pin.LOCAL)[
                :, self.arm.order
            ]
            step = jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + _DAMPED, error)
            q = np.minimum(np.maximum(q + step, lower), upper)
        return q, float(
            np.linalg.norm(pin.log6(pin.SE3(self.tool_pose(q)).inverse() * pin.SE3(target)).vector)
        )
