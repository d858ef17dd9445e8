# SPDX-License-Identifier: Apache-2.0
"""The model of an arm that pinocchio computes with, from its URDF and description."""

from __future__ import annotations

import numpy as np
import pinocchio as pin
from numpy.typing import NDArray

from rl100_policy.core.config import RobotConfig
from rl100_policy.core.errors import ConfigError
from rl100_policy.core.geometry import pose_from_xyz_rpy
from rl100_policy.core.shares import resolve_uri, share_folders

Floats = NDArray[np.float64]


class ArmModel:
    """An arm whose joints are those of its description; the others are locked where it says.

    Joint vectors are in the order of ``RobotConfig.joints``; of a continuous joint the angle is
    not wrapped.
    """

    def __init__(self, robot: RobotConfig) -> None:
        """Read the URDF.

        Raises:
            ConfigError: If the URDF lacks a joint or link named in the robot description, or a
                joint is neither commanded nor locked.
        """
        self.robot = robot
        self._urdf = str(resolve_uri(robot.urdf))
        self._full = pin.buildModelFromUrdf(self._urdf)
        _check_joints(robot, list(self._full.names)[1:])
        self._rest = pin.neutral(self._full)
        for name, value in robot.locked_joints.items():
            joint = self._full.joints[self._full.getJointId(name)]
            _set_position(self._rest, joint.idx_q, joint.nq, value)
        self._locked = [self._full.getJointId(name) for name in robot.locked_joints]
        self.model = pin.buildReducedModel(self._full, self._locked, self._rest)
        joints = [self.model.joints[self.model.getJointId(name)] for name in robot.joints]
        self.places = np.array([joint.idx_q for joint in joints])
        """Of the joints in a configuration of pinocchio, [n]."""
        self.continuous = [index for index, joint in enumerate(joints) if joint.nq == 2]
        """Joints that turn without end, of which pinocchio keeps cosine and sine."""
        self.order = np.array([joint.idx_v for joint in joints])
        """Of the joints in a velocity of pinocchio, [n]."""
        parent = self.model.frames[self.frame(robot.tool.parent)]
        tip = parent.placement * pin.SE3(pose_from_xyz_rpy(robot.tool.xyz, robot.tool.rpy))
        self.tool = int(
            self.model.addFrame(
                pin.Frame("rl100_tool", parent.parentJoint, tip, pin.FrameType.OP_FRAME)
            )
        )
        """Frame of the tool's tip."""
        self.base = self.frame(robot.base_frame)
        """Frame that poses are given in."""
        data = self.model.createData()
        pin.framesForwardKinematics(self.model, data, pin.neutral(self.model))
        self.t_root_base = data.oMf[self.base].copy()
        """Pose of the base in pinocchio's root."""

    def frame(self, name: str) -> int:
        """Index of a link's frame; raises ConfigError if the URDF has no such link."""
        if not self.model.existFrame(name):
            raise ConfigError(
                f"link {name!r} of robot {self.robot.name!r} is not in its URDF {self.robot.urdf}"
            )
        return int(self.model.getFrameId(name))

    def configuration(self, q: Floats) -> Floats:
        """Joint positions, [n] rad, as pinocchio has them, [nq]."""
        if len(q) != len(self.places):
            raise ValueError(f"expected {len(self.places)} joint positions, got {len(q)}")
        configuration = np.empty(self.model.nq)
        configuration[self.places] = q
        for joint in self.continuous:
            _set_position(configuration, self.places[joint], 2, q[joint])
        return configuration

    def collision_shapes(self) -> pin.GeometryModel:
        """Shapes of the URDF's ``collision`` elements, on the joints of this model; no pairs.

        Raises:
            ConfigError: If a mesh cannot be read.
        """
        folders = [str(folder) for folder in share_folders() if folder.is_dir()]
        try:
            shapes = pin.buildGeomFromUrdf(
                self._full, self._urdf, pin.GeometryType.COLLISION, package_dirs=folders
            )
        except (RuntimeError, ValueError) as error:
            raise ConfigError(
                f"the collision shapes of robot {self.robot.name!r} cannot be read from its URDF "
                f"{self.robot.urdf}: {error}"
            ) from error
        _, (reduced,) = pin.buildReducedModel(self._full, [shapes], self._locked, self._rest)
        return reduced


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
