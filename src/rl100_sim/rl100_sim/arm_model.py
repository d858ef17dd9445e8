# SPDX-License-Identifier: Apache-2.0
"""From a robot description to an editable MuJoCo model of the arm with its tool and servos."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import mujoco
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from rl100_policy.core.config import RobotConfig
from rl100_policy.core.errors import ConfigError
from rl100_policy.core.geometry import pose_from_xyz_rpy
from rl100_policy.core.shares import resolve_uri

Floats = NDArray[np.float64]

SERVO_BANDWIDTH = 100.0
"""Undamped natural frequency of every joint servo at the home position [rad/s]."""
SERVO_DAMPING_RATIO = 1.0
ARMATURE = 0.1
"""Rotor inertia seen at every joint [kg m^2]; also keeps the smallest joints well conditioned."""
GROUP_STATIC, GROUP_ARM, GROUP_OBJECT, GROUP_DECORATION = 0, 1, 2, 4
"""MuJoCo geom groups: what never moves; the moving links and the tool; the
object; and marks that no sensor sees."""
TOOL_SITE = "rl100_tool"
TOOL_GEOM = "rl100_tool"
_ARM_COLOUR = (0.86, 0.87, 0.88, 1.0)
_TOOL_COLOUR = (0.15, 0.15, 0.17, 1.0)


def arm_spec(robot: RobotConfig) -> mujoco.MjSpec:
    """MuJoCo specification of the arm with its tool; the base frame is the world frame.

    What is seen are the collision shapes of the URDF.
    Nothing collides except the tool geom (``contype`` 1), which meets geoms of ``conaffinity`` 1.
    Gravity is compensated on every link. A servo tau = kp (q_ref - q) + kv (dq_ref - dq) acts on
    each commanded joint; kp and kv follow from the joint-space inertia at home.

    Raises:
        ConfigError: If the URDF or one of its meshes is missing, or it lacks a link or joint of
            the description.
    """
    spec = mujoco.MjSpec.from_string(_prepared_urdf(robot))
    _place_base(spec, robot)
    for body in spec.bodies[1:]:
        body.gravcomp = 1.0
    for geom in spec.geoms:
        geom.contype, geom.conaffinity = 0, 0
        geom.rgba = _ARM_COLOUR
    _group_links(spec)
    _add_tool(spec, robot)
    _add_servos(spec, robot)
    return spec


def _prepared_urdf(robot: RobotConfig) -> str:
    """URDF text that MuJoCo reads: collision shapes only, meshes as files, locked joints fixed."""
    root = ET.parse(resolve_uri(robot.urdf)).getroot()
    known = {joint.get("name", "") for joint in root.findall("joint")}
    missing = [name for name in (*robot.joints, *robot.locked_joints) if name not in known]
    if missing:
        raise ConfigError(
            f"joints {missing} of robot {robot.name!r} are not in its URDF {robot.urdf}, "
            f"which has {sorted(known)}"
        )
    for link in root.findall("link"):
        for visual in link.findall("visual"):
            link.remove(visual)
        for index, collision in enumerate(link.findall("collision")):
            collision.set("name", f"{link.get('name')}_{index}")
    for mesh in root.iter("mesh"):
        mesh.set(
            "filename", str(resolve_uri(mesh.get("filename", ""), resolve_uri(robot.urdf).parent))
        )
    for joint in root.findall("joint"):
        name = joint.get("name", "")
        if name in robot.locked_joints:
            _weld(joint, robot.locked_joints[name])
    options = ET.SubElement(root, "mujoco")
    ET.SubElement(
        options,
        "compiler",
        discardvisual="false",
        fusestatic="false",
        strippath="false",
        balanceinertia="true",
    )
    return ET.tostring(root, encoding="unicode")


def _numbers(element: ET.Element | None, key: str, default: str) -> list[float]:
    text = default if element is None else element.get(key, default)
    return [float(number) for number in text.split()]


def _weld(joint: ET.Element, value: float) -> None:
    """Turn a URDF joint into a fixed one at a joint position [rad or m]."""
    origin = joint.find("origin")
    pose = pose_from_xyz_rpy(_numbers(origin, "xyz", "0 0 0"), _numbers(origin, "rpy", "0 0 0"))
    axis = np.array(_numbers(joint.find("axis"), "xyz", "1 0 0"))
    moved = np.eye(4)
    if joint.get("type") == "prismatic":
        moved[:3, 3] = axis * value
    else:
        moved[:3, :3] = Rotation.from_rotvec(axis * value).as_matrix()
    pose = pose @ moved
    for child in [c for c in joint if c.tag not in ("parent", "child")]:
        joint.remove(child)
    joint.set("type", "fixed")
    rpy = Rotation.from_matrix(pose[:3, :3]).as_euler("xyz")
    ET.SubElement(
        joint, "origin", xyz=" ".join(map(str, pose[:3, 3])), rpy=" ".join(map(str, rpy))
    )


def _place_base(spec: mujoco.MjSpec, robot: RobotConfig) -> None:
    """Move the URDF root so that the base link is the world frame."""
    model = spec.compile()
    base = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, robot.base_frame)
    if base < 0:
        raise ConfigError(
            f"base_frame {robot.base_frame!r} of robot {robot.name!r} is not a link of its URDF "
            f"{robot.urdf}"
        )
    data = mujoco.MjData(model)
    mujoco.mj_kinematics(model, data)
    t_root_base = _pose(data.xpos[base], data.xmat[base])
    root = spec.worldbody.first_body()
    t_world_root = np.linalg.inv(t_root_base) @ _pose(data.xpos[1], data.xmat[1])
    root.pos = t_world_root[:3, 3]
    root.quat = _quaternion(t_world_root[:3, :3])


def _pose(position: Floats, matrix: Floats) -> Floats:
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = matrix.reshape(3, 3), position
    return pose


def _quaternion(matrix: Floats) -> Floats:
    """MuJoCo order (w, x, y, z)."""
    return np.roll(Rotation.from_matrix(matrix).as_quat(), 1)


def _group_links(spec: mujoco.MjSpec) -> None:
    """Tell the moving links from those that never move, for the camera."""
    model = spec.compile()
    for geom in spec.geoms:
        body = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, geom.parent.name)
        geom.group = GROUP_STATIC if model.body_weldid[body] == 0 else GROUP_ARM


def _add_tool(spec: mujoco.MjSpec, robot: RobotConfig) -> None:
    parent = spec.body(robot.tool.parent)
    if parent is None:
        raise ConfigError(
            f"tool parent {robot.tool.parent!r} of robot {robot.name!r} is not a link of its URDF "
            f"{robot.urdf}"
        )
    tip = pose_from_xyz_rpy(robot.tool.xyz, robot.tool.rpy)
    middle = tip @ pose_from_xyz_rpy((0.0, 0.0, -0.5 * robot.tool.length), (0.0, 0.0, 0.0))
    quaternion = _quaternion(tip[:3, :3])
    parent.add_site(name=TOOL_SITE, pos=tip[:3, 3], quat=quaternion)
    parent.add_geom(
        name=TOOL_GEOM,
        type=mujoco.mjtGeom.mjGEOM_CYLINDER,
        size=[robot.tool.radius, 0.5 * robot.tool.length, 0.0],
        pos=middle[:3, 3],
        quat=quaternion,
        contype=1,
        conaffinity=0,
        group=GROUP_ARM,
        mass=0.0,
        rgba=_TOOL_COLOUR,
    )


def _add_servos(spec: mujoco.MjSpec, robot: RobotConfig) -> None:
    for name in robot.joints:
        joint = spec.joint(name)
        joint.armature = ARMATURE
        joint.damping, joint.frictionloss = 0.0, 0.0
    inertia = _inertia_at_home(spec, robot)
    for name, value in zip(robot.joints, inertia, strict=True):
        kp = value * SERVO_BANDWIDTH**2
        kv = 2.0 * SERVO_DAMPING_RATIO * value * SERVO_BANDWIDTH
        actuator = spec.add_actuator(name=name, target=name, trntype=mujoco.mjtTrn.mjTRN_JOINT)
        actuator.gaintype, actuator.biastype = (
            mujoco.mjtGain.mjGAIN_FIXED,
            mujoco.mjtBias.mjBIAS_AFFINE,
        )
        actuator.gainprm[0] = kp
        actuator.biasprm[1], actuator.biasprm[2] = -kp, -kv


def _inertia_at_home(spec: mujoco.MjSpec, robot: RobotConfig) -> Floats:
    """Diagonal of the joint-space inertia at home, [n], kg m^2."""
    model = spec.compile()
    data = mujoco.MjData(model)
    joints = [model.joint(name) for name in robot.joints]
    data.qpos[[int(joint.qposadr[0]) for joint in joints]] = robot.home
    mujoco.mj_forward(model, data)
    full = np.zeros((model.nv, model.nv))
    mujoco.mj_fullM(model, full, data.qM)
    return np.diag(full)[[int(joint.dofadr[0]) for joint in joints]].copy()
