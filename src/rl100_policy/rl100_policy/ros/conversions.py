# SPDX-License-Identifier: Apache-2.0
"""Construction of messages from arrays.

Reading them is in ``core.messages``, which also serves bags.
"""

from __future__ import annotations

import array
from collections.abc import Sequence

import numpy as np
from builtin_interfaces.msg import Duration, Time
from geometry_msgs.msg import Point, TransformStamped, TwistStamped
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, Image, JointState, PointCloud2, PointField
from std_msgs.msg import Header
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint
from visualization_msgs.msg import Marker

from rl100_msgs.msg import ActionChunk, GateCommand
from rl100_policy.core.chunking import Chunk, Due
from rl100_policy.core.config import TWIST_COMPONENTS, ActionConfig, CameraConfig, RobotConfig
from rl100_policy.core.gate_result import CommandSource, GateResult
from rl100_policy.core.geometry import pose_from_xyz_rpy, quaternion_from_pose

Floats = NDArray[np.float64]

_XYZ_FIELDS = [
    PointField(name=name, offset=4 * index, datatype=PointField.FLOAT32, count=1)
    for index, name in enumerate("xyz")
]


def time_message(stamp_ns: int) -> Time:
    """Time message from nanoseconds."""
    return Time(sec=stamp_ns // 1_000_000_000, nanosec=stamp_ns % 1_000_000_000)


def duration_message(seconds: float) -> Duration:
    """Duration message from seconds, rounded to nanoseconds."""
    total = round(seconds * 1e9)
    return Duration(sec=total // 1_000_000_000, nanosec=total % 1_000_000_000)


def header(stamp_ns: int, frame_id: str = "") -> Header:
    """Header from nanoseconds and a frame."""
    return Header(stamp=time_message(stamp_ns), frame_id=frame_id)


def cloud_message(points: NDArray[np.float32], stamp_ns: int, frame_id: str) -> PointCloud2:
    """PointCloud2 with float32 x, y, z [m] from [N, 3]."""
    message = PointCloud2(
        header=header(stamp_ns, frame_id), height=1, width=len(points), fields=_XYZ_FIELDS
    )
    message.point_step, message.row_step = 12, 12 * len(points)
    message.is_dense = True
    message.data = array.array("B", np.ascontiguousarray(points, dtype=np.float32).tobytes())
    return message


def depth_message(depth_mm: NDArray[np.uint16], stamp_ns: int, frame_id: str) -> Image:
    """Depth image in millimetres, encoding 16UC1, from [H, W]."""
    height, width = depth_mm.shape
    message = Image(
        header=header(stamp_ns, frame_id),
        height=height,
        width=width,
        encoding="16UC1",
        step=2 * width,
    )
    message.data = array.array("B", np.ascontiguousarray(depth_mm).tobytes())
    return message


def colour_message(pixels: NDArray[np.uint8], stamp_ns: int, frame_id: str) -> Image:
    """Colour image, encoding rgb8, from [H, W, 3] red, green, blue."""
    height, width, _ = pixels.shape
    message = Image(
        header=header(stamp_ns, frame_id),
        height=height,
        width=width,
        encoding="rgb8",
        step=3 * width,
    )
    message.data = array.array("B", np.ascontiguousarray(pixels).tobytes())
    return message


def camera_info_message(camera: CameraConfig, stamp_ns: int) -> CameraInfo:
    """CameraInfo of an undistorted pinhole camera."""
    message = CameraInfo(
        header=header(stamp_ns, camera.optical_frame), height=camera.height, width=camera.width
    )
    message.distortion_model = "plumb_bob"
    message.d = [0.0] * 5
    message.k = [camera.fx, 0.0, camera.cx, 0.0, camera.fy, camera.cy, 0.0, 0.0, 1.0]
    message.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    message.p = [
        camera.fx,
        0.0,
        camera.cx,
        0.0,
        0.0,
        camera.fy,
        camera.cy,
        0.0,
        0.0,
        0.0,
        1.0,
        0.0,
    ]
    return message


def extrinsics_message(camera: CameraConfig, base_frame: str, stamp_ns: int) -> TransformStamped:
    """Pose of the camera's optical frame in the robot base frame."""
    message = TransformStamped(
        header=header(stamp_ns, base_frame), child_frame_id=camera.optical_frame
    )
    pose = pose_from_xyz_rpy(camera.xyz, camera.rpy)
    translation, rotation = message.transform.translation, message.transform.rotation
    translation.x, translation.y, translation.z = map(float, pose[:3, 3])
    rotation.x, rotation.y, rotation.z, rotation.w = map(float, quaternion_from_pose(pose))
    return message


def joint_state_message(
    names: Sequence[str], positions: Floats, velocities: Floats, stamp_ns: int
) -> JointState:
    """JointState with positions [rad] and velocities [rad/s]."""
    return JointState(
        header=header(stamp_ns),
        name=list(names),
        position=positions.tolist(),
        velocity=velocities.tolist(),
    )


def trajectory_message(
    names: Sequence[str], positions: Floats, times_ns: Sequence[int], stamp_ns: int
) -> JointTrajectory:
    """Trajectory of some points.

    Args:
        names: Of the joints.
        positions: Where to be, one after the other, [p, n], rad; the arm rests at the last.
        times_ns: When.
        stamp_ns: Time from which these are counted in the message.
    """
    points = [
        JointTrajectoryPoint(
            positions=each.tolist(), time_from_start=duration_message((time_ns - stamp_ns) * 1e-9)
        )
        for each, time_ns in zip(positions, times_ns, strict=True)
    ]
    return JointTrajectory(header=header(stamp_ns), joint_names=list(names), points=points)


def gate_command_message(
    result: GateResult,
    proposal: Due | None,
    source: CommandSource,
    action: ActionConfig,
    robot: RobotConfig,
    *,
    stamp_ns: int,
    latency_s: float,
) -> GateCommand:
    """What the gate made of a control period, beside what the policy proposed for it."""
    record = GateCommand(
        header=header(stamp_ns, robot.base_frame),
        source=int(source),
        action_space=action.space,
        names=list(action.names),
        requested=[] if result.requested is None else result.requested.tolist(),
        executed=result.executed.tolist(),
        joint_names=list(robot.joints),
        joint_command=result.joint_command.tolist(),
        flags=int(result.flags),
        latency_s=latency_s,
    )
    if proposal is not None:
        record.proposed = proposal.action.tolist()
        record.proposed_version = proposal.chunk.policy_version
    if source is CommandSource.POLICY:
        record.policy_version = record.proposed_version
    return record


def twist_message(twist: Floats, stamp_ns: int, frame_id: str) -> TwistStamped:
    """TwistStamped from a twist, [6], in the order of ``TWIST_COMPONENTS``, m/s and rad/s."""
    message = TwistStamped(header=header(stamp_ns, frame_id))
    for value, name in zip(twist, TWIST_COMPONENTS, strict=True):
        part, axis = name.split(".")
        setattr(getattr(message.twist, part), axis, float(value))
    return message


def twist_components(message: TwistStamped) -> Floats:
    """A twist, [6], in the order of ``TWIST_COMPONENTS``, m/s and rad/s."""
    parts = [name.split(".") for name in TWIST_COMPONENTS]
    return np.array([getattr(getattr(message.twist, part), axis) for part, axis in parts])


def outline_marker(corners: Floats, frame_id: str) -> Marker:
    """A closed line through the corners, [N, 2], m, on the plane z = 0 of a frame."""
    marker = Marker(header=header(0, frame_id), ns="outline", type=Marker.LINE_STRIP)
    marker.pose.orientation.w, marker.scale.x = 1.0, 0.004
    marker.color.g = marker.color.a = 1.0
    marker.points = [
        Point(x=float(x), y=float(y)) for x, y in np.vstack([corners, corners[:1]])[:, :2]
    ]
    return marker


def chunk_message(chunk: Chunk, frame_id: str) -> ActionChunk:
    """ActionChunk from a chunk of actions."""
    return ActionChunk(
        header=header(chunk.stamp_ns, frame_id),
        policy_version=chunk.policy_version,
        action_space=chunk.action_space,
        names=list(chunk.names),
        period=duration_message(chunk.period_ns * 1e-9),
        n_chunk=len(chunk.actions),
        n_fresh=chunk.fresh,
        shadow=chunk.shadow,
        actions=chunk.actions.astype(np.float32).ravel().tolist(),
    )


def chunk_from_message(message: ActionChunk) -> Chunk:
    """Chunk of actions from a message.

    Raises:
        ActionError: If sizes disagree or a value is not finite, see :class:`Chunk`.
    """
    stamp = message.header.stamp
    return Chunk(
        stamp_ns=stamp.sec * 1_000_000_000 + stamp.nanosec,
        period_ns=message.period.sec * 1_000_000_000 + message.period.nanosec,
        action_space=message.action_space,
        names=tuple(message.names),
        actions=Chunk.shaped(message.actions, message.n_chunk, len(message.names)),
        policy_version=message.policy_version,
        fresh=message.n_fresh,
        shadow=message.shadow,
    )
