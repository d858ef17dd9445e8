# SPDX-License-Identifier: Apache-2.0
"""Serialised messages from plain values, made without ROS: for imports, tests and benchmarks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rosbags.interfaces import Nodetype
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from rl100_policy.bags.definitions import MessageDefinitions
from rl100_policy.bags.storage import RecordedTopic
from rl100_policy.core.config import CameraConfig, TaskConfig
from rl100_policy.core.gate_result import CommandSource
from rl100_policy.core.geometry import pose_from_xyz_rpy, quaternion_from_pose

TYPES = {
    "joint_states": "sensor_msgs/msg/JointState",
    "depth": "sensor_msgs/msg/Image",
    "color": "sensor_msgs/msg/Image",
    "points": "sensor_msgs/msg/PointCloud2",
    "camera_info": "sensor_msgs/msg/CameraInfo",
    "extrinsics": "geometry_msgs/msg/TransformStamped",
    "command": "rl100_msgs/msg/GateCommand",
    "decision": "rl100_msgs/msg/DecisionRecord",
}


class MessageFactory:
    """Serialises messages from plain values, by the installed definitions."""

    def __init__(self) -> None:
        """Begin with no type known."""
        self.definitions = MessageDefinitions()
        self._types = get_typestore(Stores.EMPTY)

    def topic(self, name: str, type_name: str) -> RecordedTopic:
        """Description of a topic."""
        return RecordedTopic(name, self.definitions.find(type_name))

    def make(self, type_name: str, **fields: Any) -> Any:
        """Message of a type; fields that are left out are zero or empty, as ROS has them."""
        if type_name not in self._types.types:
            self._register(type_name)
        _, described = self._types.fielddefs[type_name]
        zeros = {name: self._zero(kind) for name, kind in described if name not in fields}
        return self._types.types[type_name](**zeros, **fields)

    def _zero(self, kind: Any) -> Any:
        """Value of a field that nobody set."""
        node, told = kind
        match node:
            case Nodetype.NAME:
                return self.make(told)
            case Nodetype.BASE:
                return "" if told[0] == "string" else False if told[0] == "bool" else 0
            case Nodetype.SEQUENCE if told[0][0] is Nodetype.BASE and told[0][1][0] != "string":
                return np.zeros(0, dtype=told[0][1][0])
        return []

    def _register(self, type_name: str) -> None:
        found = get_types_from_msg(self.definitions.find(type_name).text, type_name)
        self._types.register({k: v for k, v in found.items() if k not in self._types.types})

    def serialise(self, type_name: str, **fields: Any) -> bytes:
        """CDR of a message."""
        return bytes(self._types.serialize_cdr(self.make(type_name, **fields), type_name))

    def parse(self, type_name: str, data: bytes) -> Any:
        """Message object from its CDR."""
        if type_name not in self._types.types:
            self._register(type_name)
        return self._types.deserialize_cdr(data, type_name)

    def header(self, stamp_ns: int, frame_id: str = "") -> Any:
        """std_msgs/Header."""
        sec, nanosec = divmod(stamp_ns, 1_000_000_000)
        stamp = self.make("builtin_interfaces/msg/Time", sec=sec, nanosec=nanosec)
        return self.make("std_msgs/msg/Header", stamp=stamp, frame_id=frame_id)

    def joint_state(
        self, stamp_ns: int, names: Sequence[str], positions: Sequence[float] | NDArray[np.float64]
    ) -> bytes:
        """sensor_msgs/JointState with positions only."""
        return self.serialise(
            TYPES["joint_states"],
            header=self.header(stamp_ns),
            name=list(names),
            position=np.ascontiguousarray(positions, dtype=np.float64),
            velocity=np.zeros(0),
            effort=np.zeros(0),
        )

    def depth(self, stamp_ns: int, depth_mm: NDArray[np.uint16], frame_id: str = "") -> bytes:
        """sensor_msgs/Image, 16UC1, [H, W] mm."""
        height, width = depth_mm.shape
        data = np.ascontiguousarray(depth_mm).view(np.uint8).reshape(-1)
        return self._image(self.header(stamp_ns, frame_id), height, width, "16UC1", data)

    def colour(self, stamp_ns: int, pixels: NDArray[np.uint8], frame_id: str = "") -> bytes:
        """sensor_msgs/Image, rgb8, [H, W, 3]."""
        height, width, _ = pixels.shape
        data = np.ascontiguousarray(pixels).reshape(-1)
        return self._image(self.header(stamp_ns, frame_id), height, width, "rgb8", data)

    def _image(
        self, header: Any, height: int, width: int, encoding: str, data: NDArray[np.uint8]
    ) -> bytes:
        return self.serialise(
            TYPES["depth"],
            header=header,
            height=height,
            width=width,
            encoding=encoding,
            is_bigendian=0,
            step=len(data) // height,
            data=data,
        )

    def points(self, stamp_ns: int, points: NDArray[np.float32], frame_id: str) -> bytes:
        """sensor_msgs/PointCloud2 with float32 x, y, z from [N, 3] m."""
        fields = [
            self.make(
                "sensor_msgs/msg/PointField", name=name, offset=4 * index, datatype=7, count=1
            )
            for index, name in enumerate("xyz")
        ]
        return self.serialise(
            TYPES["points"],
            header=self.header(stamp_ns, frame_id),
            height=1,
            width=len(points),
            fields=fields,
            is_bigendian=False,
            point_step=12,
            row_step=12 * len(points),
            data=np.ascontiguousarray(points, dtype=np.float32).view(np.uint8).reshape(-1),
            is_dense=True,
        )

    def camera_info(self, stamp_ns: int, camera: CameraConfig) -> bytes:
        """sensor_msgs/CameraInfo of an undistorted pinhole camera."""
        k = [camera.fx, 0.0, camera.cx, 0.0, camera.fy, camera.cy, 0.0, 0.0, 1.0]
        p = [*k[:3], 0.0, *k[3:6], 0.0, *k[6:], 0.0]
        region = self.make(
            "sensor_msgs/msg/RegionOfInterest",
            x_offset=0,
            y_offset=0,
            height=0,
            width=0,
            do_rectify=False,
        )
        return self.serialise(
            TYPES["camera_info"],
            header=self.header(stamp_ns, camera.optical_frame),
            height=camera.height,
            width=camera.width,
            distortion_model="plumb_bob",
            d=np.zeros(5),
            k=np.array(k),
            r=np.eye(3).reshape(-1),
            p=np.array(p),
            binning_x=0,
            binning_y=0,
            roi=region,
        )

    def extrinsics(self, stamp_ns: int, camera: CameraConfig, base_frame: str) -> bytes:
        """geometry_msgs/TransformStamped of the optical frame in the base frame."""
        pose = pose_from_xyz_rpy(camera.xyz, camera.rpy)
        return self.transform(stamp_ns, pose, base_frame, camera.optical_frame)

    def transform(
        self, stamp_ns: int, pose: NDArray[np.float64], parent: str, child: str
    ) -> bytes:
        """geometry_msgs/TransformStamped of a child frame in its parent, [4, 4], m."""
        x, y, z = map(float, pose[:3, 3])
        qx, qy, qz, qw = map(float, quaternion_from_pose(pose))
        transform = self.make(
            "geometry_msgs/msg/Transform",
            translation=self.make("geometry_msgs/msg/Vector3", x=x, y=y, z=z),
            rotation=self.make("geometry_msgs/msg/Quaternion", x=qx, y=qy, z=qz, w=qw),
        )
        return self.serialise(
            TYPES["extrinsics"],
            header=self.header(stamp_ns, parent),
            child_frame_id=child,
            transform=transform,
        )

    def command(
        self,
        stamp_ns: int,
        task: TaskConfig,
        executed: Sequence[float] | NDArray[Any],
        source: CommandSource = CommandSource.TELEOP,
        version: str = "",
        *,
        requested: Sequence[float] | NDArray[Any] | None = None,
        flags: int = 0,
        joints: Mapping[str, float] | None = None,
        frame_id: str = "",
    ) -> bytes:
        """rl100_msgs/GateCommand with an executed action.

        Args:
            stamp_ns: Of the joint state it answers.
            task: Whose actions they are.
            executed: [d_a], SI units.
            source: Who was in command.
            version: The policy's, if one was.
            requested: [d_a], SI units; None: what was executed.
            flags: Of the gate.
            joints: Commanded positions by joint [rad]; None: not told.
            frame_id: Frame of the action.
        """
        positions = joints or {}
        return self.serialise(
            TYPES["command"],
            header=self.header(stamp_ns, frame_id),
            source=int(source),
            policy_version=version,
            action_space=task.action.space,
            names=list(task.action.names),
            requested=np.ascontiguousarray(
                executed if requested is None else requested, dtype=np.float64
            ),
            executed=np.ascontiguousarray(executed, dtype=np.float64),
            joint_names=list(positions),
            joint_command=np.array(list(positions.values()), dtype=np.float64),
            flags=flags,
            latency_s=0.0,
        )

    def decision(
        self,
        stamp_ns: int,
        version: str,
        latents: NDArray[np.float32],
        log_probs: NDArray[np.float32],
        seen_ns: Sequence[int] = (),
        sampler: str = "ddim",
    ) -> bytes:
        """rl100_msgs/DecisionRecord of a chain [K + 1, n_c, d_a] with its log-densities [K]."""
        _, n_chunk, d_a = latents.shape
        return self.serialise(
            TYPES["decision"],
            header=self.header(stamp_ns),
            observation_stamps=[self.header(each).stamp for each in seen_ns],
            policy_version=version,
            sampler=sampler,
            deterministic=len(log_probs) == 0,
            noise_seed=0,
            n_chunk=n_chunk,
            d_a=d_a,
            timesteps=np.zeros(len(log_probs), np.uint32),
            sigmas=np.zeros(len(log_probs), np.float32),
            latents=latents.astype(np.float32).ravel(),
            log_probs=log_probs.astype(np.float32),
            actions=latents[-1].astype(np.float32).ravel(),
            value=0.0,
            inference_s=0.0,
            observation_age_s=0.0,
            deadline_missed=False,
        )
