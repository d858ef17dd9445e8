# SPDX-License-Identifier: Apache-2.0
"""One MuJoCo world: an arm under joint commands, a table with its top at z = 0, an object."""

from __future__ import annotations

import mujoco
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from rl100_policy.core.config import CameraConfig, RobotConfig
from rl100_policy.core.errors import ActionError
from rl100_policy.core.geometry import pose_from_xyz_rpy
from rl100_sim.arm_model import (
    GROUP_DECORATION,
    GROUP_OBJECT,
    GROUP_STATIC,
    TOOL_SITE,
    arm_spec,
)
from rl100_sim.planar_object import PlanarObject

Floats = NDArray[np.float64]

TIME_STEP = 0.004
"""Longest physics step [s]; the control period is cut into equal steps of at most this."""
_CONTACT_TIME = 0.01
"""Time constant of the tool-object contact [s]; MuJoCo wants at least two physics steps."""
_TABLE_LOW, _TABLE_HIGH = np.array([-0.30, -0.70, -0.04]), np.array([1.10, 0.70, 0.0])
"""Table in the base frame [m]."""
_FLOOR_Z = -0.75
_OBJECT = "object"
_OBJECT_COLOUR = (0.93, 0.45, 0.13, 1.0)
_GOAL_COLOUR = (0.20, 0.65, 0.32, 0.6)
_GOAL_THICKNESS = 0.0005


def world_model(
    robot: RobotConfig, item: PlanarObject, goal: Floats | None = None
) -> mujoco.MjModel:
    """Compile the world: arm, table, floor, object, lights, one MuJoCo camera per configured one.

    The object has three joints (x, y, yaw) instead of table contacts: sliding resistance is
    viscous, drag * (1, 1, L^2), which for a pusher that is much stiffer than the friction gives
    the motion of quasi-static pushing on an ellipsoidal limit surface, does not creep at rest, and
    costs no constraint rows.

    Args:
        robot: The arm; cameras are placed from it.
        item: The object.
        goal: Pose (x, y, yaw) drawn on the table for pictures; no sensor sees it.
    """
    spec = arm_spec(robot)
    spec.option.timestep = robot.control_period / np.ceil(robot.control_period / TIME_STEP - 1e-9)
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    _add_surroundings(spec)
    _add_object(spec, item)
    if goal is not None:
        _add_goal(spec, item, goal)
    for camera in robot.cameras:
        _add_camera(spec, camera)
    return spec.compile()


def _add_surroundings(spec: mujoco.MjSpec) -> None:
    world = spec.worldbody
    world.add_geom(
        name="table",
        type=mujoco.mjtGeom.mjGEOM_BOX,
        pos=0.5 * (_TABLE_LOW + _TABLE_HIGH),
        size=0.5 * (_TABLE_HIGH - _TABLE_LOW),
        contype=0,
        conaffinity=0,
        group=GROUP_STATIC,
        rgba=(0.55, 0.50, 0.45, 1.0),
    )
    world.add_geom(
        name="floor",
        type=mujoco.mjtGeom.mjGEOM_PLANE,
        pos=(0.0, 0.0, _FLOOR_Z),
        size=(4.0, 4.0, 0.1),
        contype=0,
        conaffinity=0,
        group=GROUP_STATIC,
        rgba=(0.35, 0.37, 0.40, 1.0),
    )
    world.add_light(
        pos=(0.6, -0.6, 2.0), dir=(0.0, 0.3, -1.0), diffuse=(0.7, 0.7, 0.7), castshadow=True
    )
    world.add_light(
        pos=(1.2, 0.8, 1.6), dir=(-0.5, -0.4, -1.0), diffuse=(0.3, 0.3, 0.3), castshadow=False
    )


def _add_object(spec: mujoco.MjSpec, item: PlanarObject) -> None:
    turning = item.friction_radius**2
    area = sum(rectangle.area for rectangle in item.rectangles)
    body = spec.worldbody.add_body(name=_OBJECT)
    slide, hinge = mujoco.mjtJoint.mjJNT_SLIDE, mujoco.mjtJoint.mjJNT_HINGE
    body.add_joint(name=f"{_OBJECT}_x", type=slide, axis=(1, 0, 0), damping=item.drag)
    body.add_joint(name=f"{_OBJECT}_y", type=slide, axis=(0, 1, 0), damping=item.drag)
    body.add_joint(name=f"{_OBJECT}_yaw", type=hinge, axis=(0, 0, 1), damping=item.drag * turning)
    for rectangle in item.rectangles:
        body.add_geom(
            type=mujoco.mjtGeom.mjGEOM_BOX,
            pos=(rectangle.x, rectangle.y, 0.5 * item.height),
            size=(rectangle.half_x, rectangle.half_y, 0.5 * item.height),
            mass=item.mass * rectangle.area / area,
            contype=0,
            conaffinity=1,
            condim=3,
            friction=(item.tool_friction, 0.0, 0.0),
            priority=1,
            solref=(_CONTACT_TIME, 1.0),
            group=GROUP_OBJECT,
            rgba=_OBJECT_COLOUR,
        )


def _add_goal(spec: mujoco.MjSpec, item: PlanarObject, goal: Floats) -> None:
    body = spec.worldbody.add_body(name="goal", pos=(goal[0], goal[1], 0.0))
    body.quat = (np.cos(0.5 * goal[2]), 0.0, 0.0, np.sin(0.5 * goal[2]))
    for rectangle in item.rectangles:
        body.add_geom(
            type=mujoco.mjtGeom.mjGEOM_BOX,
            pos=(rectangle.x, rectangle.y, _GOAL_THICKNESS),
            size=(rectangle.half_x, rectangle.half_y, _GOAL_THICKNESS),
            contype=0,
            conaffinity=0,
            group=GROUP_DECORATION,
            rgba=_GOAL_COLOUR,
        )


def _add_camera(spec: mujoco.MjSpec, camera: CameraConfig) -> None:
    """MuJoCo cameras look along -z with y up: the optical frame turned half about x."""
    pose = pose_from_xyz_rpy(camera.xyz, camera.rpy)
    matrix = pose[:3, :3] @ np.diag([1.0, -1.0, -1.0])
    spec.worldbody.add_camera(
        name=camera.name,
        pos=pose[:3, 3],
        quat=np.roll(Rotation.from_matrix(matrix).as_quat(), 1),
        fovy=np.degrees(2.0 * np.arctan(0.5 * camera.height / camera.fy)),
    )


class ArmWorld:
    """The running world.

    Deterministic: equal calls give equal bits, and ``reset`` forgets everything before it.
    """

    def __init__(self, robot: RobotConfig, item: PlanarObject, goal: Floats | None = None) -> None:
        """Build the model; arm at home and object at the origin until ``reset``.

        Raises:
            ConfigError: If the robot description and its URDF disagree.
        """
        self.model = world_model(robot, item, goal)
        self.data = mujoco.MjData(self.model)
        self._steps = round(robot.control_period / self.model.opt.timestep)
        self._period = robot.control_period
        self._elapsed = (np.arange(self._steps) / self._steps)[:, None]
        """Share of the control period that is over when a physics step begins, [steps, 1]."""
        joints = [self.model.joint(name) for name in robot.joints]
        self._arm_q = np.array([int(joint.qposadr[0]) for joint in joints])
        self._arm_v = np.array([int(joint.dofadr[0]) for joint in joints])
        self._object_q = int(self.model.joint(f"{_OBJECT}_x").qposadr[0])
        self._tool = self.model.site(TOOL_SITE).id
        kp = self.model.actuator_gainprm[:, 0]
        self._damping_time = -self.model.actuator_biasprm[:, 2] / kp
        self._reference = np.array(robot.home)
        self.reset(self._reference, np.zeros(3))

    def reset(self, q_start: Floats, object_pose: Floats) -> None:
        """Arm at rest at q_start [n] rad, object at rest at (x, y, yaw) [3], time zero."""
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[self._arm_q] = q_start
        self.data.qpos[self._object_q : self._object_q + 3] = object_pose
        self._reference = np.array(q_start, dtype=float)
        self.data.ctrl[:] = self._reference
        mujoco.mj_forward(self.model, self.data)

    def advance(self, joint_command: Floats) -> None:
        """Simulate one control period while the joint reference moves linearly to a command.

        That is what ros2_control's joint_trajectory_controller does with a single point at the end
        of the period.

        Args:
            joint_command: Joint positions at the end of the period, [n], rad.

        Raises:
            ActionError: If the command has the wrong length or is not finite; the world is left as
                it was.
        """
        command = np.asarray(joint_command, dtype=float)
        if command.shape != self._reference.shape or not np.isfinite(command).all():
            raise ActionError(
                f"expected {len(self._reference)} finite joint positions, got {joint_command}; "
                "repeat the last command to hold"
            )
        change = command - self._reference
        lead = self._damping_time * change / self._period
        model, data, ctrl = self.model, self.data, self.data.ctrl
        for reference in self._reference + change * self._elapsed + lead:
            ctrl[:] = reference
            mujoco.mj_step(model, data)
        self._reference = command.copy()
        mujoco.mj_kinematics(model, data)

    @property
    def time(self) -> float:
        """Simulated time since ``reset`` [s]."""
        return float(self.data.time)

    @property
    def joint_positions(self) -> Floats:
        """Measured joint positions, [n], rad."""
        return self.data.qpos[self._arm_q].copy()

    @property
    def joint_velocities(self) -> Floats:
        """Measured joint velocities, [n], rad/s."""
        return self.data.qvel[self._arm_v].copy()

    @property
    def tool_position(self) -> Floats:
        """Tool tip in the base frame, [3], m."""
        return self.data.site_xpos[self._tool].copy()

    @property
    def object_pose(self) -> Floats:
        """(x, y, yaw) of the object in the base frame, [3], m and rad; yaw is not wrapped."""
        return self.data.qpos[self._object_q : self._object_q + 3].copy()
