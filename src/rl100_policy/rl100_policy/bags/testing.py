# SPDX-License-Identifier: Apache-2.0
"""Synthetic episodes for tests and benchmarks: real bags with known contents, made without ROS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rosbags.interfaces import Nodetype
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from rl100_policy.bags.definitions import MessageDefinitions
from rl100_policy.bags.identity import new_episode_id
from rl100_policy.bags.judgement import Judgement
from rl100_policy.bags.metadata import EpisodeMetadata
from rl100_policy.bags.storage import RecordedTopic
from rl100_policy.bags.writer import EpisodeWriter
from rl100_policy.core.config import CameraConfig, RobotConfig, TaskConfig
from rl100_policy.core.gate_result import CommandSource
from rl100_policy.core.geometry import pose_from_xyz_rpy, quaternion_from_pose
from rl100_policy.core.point_cloud import Intrinsics, deproject

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
            found = get_types_from_msg(self.definitions.find(type_name).text, type_name)
            self._types.register({k: v for k, v in found.items() if k not in self._types.types})
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

    def serialise(self, type_name: str, **fields: Any) -> bytes:
        """CDR of a message."""
        return bytes(self._types.serialize_cdr(self.make(type_name, **fields), type_name))

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
            position=np.asarray(positions, dtype=np.float64),
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
        x, y, z = map(float, pose[:3, 3])
        qx, qy, qz, qw = map(float, quaternion_from_pose(pose))
        transform = self.make(
            "geometry_msgs/msg/Transform",
            translation=self.make("geometry_msgs/msg/Vector3", x=x, y=y, z=z),
            rotation=self.make("geometry_msgs/msg/Quaternion", x=qx, y=qy, z=qz, w=qw),
        )
        return self.serialise(
            TYPES["extrinsics"],
            header=self.header(stamp_ns, base_frame),
            child_frame_id=camera.optical_frame,
            transform=transform,
        )

    def command(
        self,
        stamp_ns: int,
        task: TaskConfig,
        executed: Sequence[float] | NDArray[np.float32],
        source: CommandSource = CommandSource.TELEOP,
        version: str = "",
        requested: Sequence[float] | NDArray[np.float32] | None = None,
        flags: int = 0,
    ) -> bytes:
        """rl100_msgs/GateCommand with an executed action; ``version`` if a policy's.

        What was requested is what was executed unless it is given.
        """
        return self.serialise(
            TYPES["command"],
            header=self.header(stamp_ns),
            source=int(source),
            policy_version=version,
            action_space=task.action.space,
            names=list(task.action.names),
            requested=np.asarray(executed if requested is None else requested, np.float64),
            executed=np.asarray(executed, dtype=np.float64),
            joint_names=[],
            joint_command=np.zeros(0),
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


@dataclass(frozen=True)
class SyntheticEpisode:
    """What a synthetic bag is to hold. Lockstep: one stamp per control period for everything."""

    task: TaskConfig
    robot: RobotConfig
    depth_mm: NDArray[np.uint16]
    """[T + 1, H, W]."""
    positions: NDArray[np.float64]
    """[T + 1, n_joints], rad."""
    actions: NDArray[np.float32]
    """[T, d_a], SI units."""
    pixels: NDArray[np.uint8] | None = None
    """Images of the robot's first colour camera, [T + 1, H, W, 3]; None: it has none."""
    start_ns: int = 1_000_000_000
    missing: Mapping[str, frozenset[int]] = field(default_factory=dict)
    """Steps at which a stream has no message; keys as in ``TYPES``."""
    extra: Sequence[tuple[str, int, bytes]] = ()
    """Further messages: stream, step, bytes; each is recorded before the others of its step."""
    hold: frozenset[int] = frozenset()
    """Steps at which nobody was in command."""
    policy: Mapping[int, str] = field(default_factory=dict)
    """Version by step at which a policy was in command, empty where it had no action for the step;
    a person is in the others."""
    judgements: tuple[Judgement, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of the episode metadata."""

    def stamp_ns(self, step: int) -> int:
        """Stamp of a step."""
        return self.start_ns + step * round(self.robot.control_period * 1e9)

    def write(self, bags: Path, factory: MessageFactory | None = None) -> Path:
        """Write the bag; returns its folder."""
        factory = factory or MessageFactory()
        metadata = EpisodeMetadata.model_validate(
            {
                "episode_id": new_episode_id(self.task.name),
                "task": self.task.name,
                "robot": self.robot.name,
                "setup": self.robot.setup,
                "judgements": self.judgements,
                "start_ns": self.start_ns,
            }
            | dict(self.metadata)
        )
        writer = EpisodeWriter(bags, metadata)
        for name, stamp_ns, data in self._messages(factory):
            writer.write(factory.topic(self._topic(name), TYPES[name]), data, log_ns=stamp_ns)
        return writer.close(metadata)

    def _topic(self, name: str) -> str:
        camera = self.robot.camera()
        names = {
            "joint_states": "joint_states",
            "depth": camera.topic,
            "points": camera.topic,
            "camera_info": camera.info_topic,
            "extrinsics": "camera/extrinsics",
            "command": "gate/command",
            "decision": "policy/decision",
        }
        if name == "color":
            return "/" + self.robot.camera(kinds=("color",)).topic
        return "/" + names[name]

    def _messages(self, factory: MessageFactory) -> list[tuple[str, int, bytes]]:
        """Stream, stamp and bytes of everything, in order of time."""
        camera, start = self.robot.camera(), self.start_ns
        made = [
            ("extrinsics", start, factory.extrinsics(0, camera, self.robot.base_frame)),
            ("camera_info", start, factory.camera_info(start, camera)),
        ]
        intrinsics = Intrinsics(
            camera.width, camera.height, camera.fx, camera.fy, camera.cx, camera.cy
        )
        for step, (image, q) in enumerate(zip(self.depth_mm, self.positions, strict=True)):
            stamp = self.stamp_ns(step)
            if camera.kind == "points":
                points = deproject(image.astype(np.float32) * np.float32(0.001), intrinsics)
                made.append(("points", stamp, factory.points(stamp, points, camera.optical_frame)))
            else:
                made.append(("depth", stamp, factory.depth(stamp, image, camera.optical_frame)))
            if self.pixels is not None:
                frame_id = self.robot.camera(kinds=("color",)).optical_frame
                data = factory.colour(stamp, self.pixels[step], frame_id)
                made.append(("color", stamp, data))
            made.append(("joint_states", stamp, factory.joint_state(stamp, self.robot.joints, q)))
            if step < len(self.actions):
                source = CommandSource.HOLD if step in self.hold else CommandSource.TELEOP
                version = self.policy.get(step, "")
                if step in self.policy:
                    source = CommandSource.POLICY
                command = factory.command(stamp, self.task, self.actions[step], source, version)
                made.append(("command", stamp, command))
        kept = [each for each in made if not self._is_missing(*each[:2])]
        extra = [(name, self.stamp_ns(step), data) for name, step, data in self.extra]
        return sorted(extra + kept, key=lambda each: each[1])

    def _is_missing(self, name: str, stamp_ns: int) -> bool:
        return any(stamp_ns == self.stamp_ns(step) for step in self.missing.get(name, ()))
