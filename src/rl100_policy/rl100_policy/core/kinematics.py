# SPDX-License-Identifier: Apache-2.0
"""Forward and differential inverse kinematics of an arm from its URDF, by pinocchio."""

from __future__ import annotations

import math

import numpy as np
import pinocchio as pin
from numpy.typing import NDArray

from rl100_policy.core.config import RobotConfig
from rl100_policy.core.errors import ConfigError
from rl100_policy.core.geometry import pose_from_xyz_rpy
from rl100_policy.core.shares import resolve_uri

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
        """Read the URDF and lock the joints that are not commanded.

        Raises:
            ConfigError: If the URDF lacks a joint or link named in the robot description, or a
                joint is neither commanded nor locked.
        """
        self.robot = robot
        full = pin.buildModelFromUrdf(str(resolve_uri(robot.urdf)))
        names = list(full.names)[1:]
        _check_joints(robot, names)
        configuration = pin.neutral(full)
        for name, value in robot.locked_joints.items():
            joint = full.joints[full.getJointId(name)]
            _set_position(configuration, joint.idx_q, joint.nq, value)
        locked = [full.getJointId(name) for name in robot.locked_joints]
        self._model = pin.buildReducedModel(full, locked, configuration)
        self._data = self._model.createData()
        joints = [self._model.joints[self._model.getJointId(name)] for name in robot.joints]
        self._places = np.array([joint.idx_q for joint in joints])
        self._continuous = [index for index, joint in enumerate(joints) if joint.nq == 2]
        self._order = np.array([joint.idx_v for joint in joints])
        self._tool = self._add_tool_frame(robot)
        self._base = self._frame(robot.base_frame)
        self._t_base_root = self._base_in_root().inverse()
        self._t_root_base = self._t_base_root.inverse()
        lower = self._model.lowerPositionLimit[self._places]
        upper = self._model.upperPositionLimit[self._places]
        lower[self._continuous], upper[self._continuous] = -np.inf, np.inf
        self.position_lower: Floats = lower + robot.position_margin
        self.position_upper: Floats = upper - robot.position_margin
        self.velocity_limits: Floats = (
            self._model.velocityLimit[self._order] * robot.velocity_scale
        )
        self.acceleration_limits: Floats = np.array(robot.acceleration_limits)
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

    def _frame(self, name: str) -> int:
        if not self._model.existFrame(name):
            raise ConfigError(
                f"link {name!r} of robot {self.robot.name!r} is not in its URDF {self.robot.urdf}"
            )
        return int(self._model.getFrameId(name))

    def _add_tool_frame(self, robot: RobotConfig) -> int:
        parent = self._model.frames[self._frame(robot.tool.parent)]
        tip = pin.SE3(pose_from_xyz_rpy(robot.tool.xyz, robot.tool.rpy))
        frame = pin.Frame(
            "rl100_tool", parent.parentJoint, parent.placement * tip, pin.FrameType.OP_FRAME
        )
        index = int(self._model.addFrame(frame))
        self._data = self._model.createData()
        return index

    def _base_in_root(self) -> pin.SE3:
        pin.framesForwardKinematics(self._model, self._data, pin.neutral(self._model))
        return self._data.oMf[self._base].copy()

    def _ordered(self, q: Floats) -> Floats:
        """Joint positions as pinocchio has them, [nq]."""
        if len(q) != len(self._places):
            raise ValueError(f"expected {len(self._places)} joint positions, got {len(q)}")
        configuration = np.empty(self._model.nq)
        configuration[self._places] = q
        for joint in self._continuous:
            _set_position(configuration, self._places[joint], 2, q[joint])
        return configuration

    def tool_pose(self, q: Floats) -> Floats:
        """Tool frame in the base frame, [4, 4], for joint positions q [n] rad."""
        pin.forwardKinematics(self._model, self._data, self._ordered(q))
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
            pin.computeJointJacobians(self._model, self._data, self._ordered(q))
            placement = pin.updateFramePlacement(self._model, self._data, self._tool)
            error = pin.log6(placement.inverse() * goal).vector
            residual = math.sqrt(error @ error)
            if residual < _CONVERGED:
                return q, residual
            jacobian = pin.getFrameJacobian(self._model, self._data, self._tool, pin.LOCAL)[
                :, self._order
            ]
            step = jacobian.T @ np.linalg.solve(jacobian @ jacobian.T + _DAMPED, error)
            q = np.minimum(np.maximum(q + step, lower), upper)
        return q, float(
            np.linalg.norm(pin.log6(pin.SE3(self.tool_pose(q)).inverse() * pin.SE3(target)).vector)
        )


def _set_position(configuration: Floats, index: int, size: int, value: float) -> None:
    """Write the position of a joint; pinocchio keeps cosine and sine of a continuous one."""
    if size == 1:
        configuration[index] = value
    else:
        configuration[index : index + 2] = np.cos(value), np.sin(value)


def _check_joints(robot: RobotConfig, names: list[str]) -> None:
    """Every URDF joint is either commanded or locked, and every name exists."""
    missing = [name for name in (*robot.joints, *robot.locked_joints) if name not in names]
    if missing:
        raise ConfigError(
            f"joints {missing} of robot {robot.name!r} are not in its URDF {robot.urdf}, "
            f"which has {names}"
        )
    free = [name for name in names if name not in robot.joints and name not in robot.locked_joints]
    if free:
        raise ConfigError(
            f"URDF joints {free} are neither in joints nor in locked_joints "
            f"of robot {robot.name!r}"
        )
