# SPDX-License-Identifier: Apache-2.0
"""Recordings as somebody else makes them, for tests: other names, either storage, splits, zstd."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

from rl100_policy.bags.definitions import TypeDefinition
from rl100_policy.bags.factory import MessageFactory
from rl100_policy.bags.foreign.recorded import JOINT_STATE, TRAJECTORY
from rl100_policy.bags.foreign.source import ForeignBag
from rl100_policy.bags.storage import INFORMATION
from rl100_policy.bags.testing import SyntheticEpisode
from rl100_policy.core.config import RobotConfig
from rl100_policy.core.messages import stamp_ns

Floats = NDArray[np.float64]
Recording = list[tuple[str, str, int, bytes]]
"""Topic, type, time of reception [ns], bytes."""


@dataclass(frozen=True)
class ForeignNames:
    """How somebody else calls what we record."""

    joints: Mapping[str, str]
    """Our joint name to theirs."""
    joint_states: str = "/arm/measured"
    image: str = "/realsense/depth/image"
    info: str = "/realsense/depth/camera_info"
    frame: str = "their_optical_frame"
    base: str = "world"
    command: str = "/arm/trajectory"
    array: str = "/arm/positions"
    leader: str = "/leader/joint_states"
    outcome: str = "/button/success"
    marker: str = "/button/episode"


@dataclass
class ForeignRecorder:
    """Collects messages of an episode under other names, and writes them as rosbag2 does."""

    names: ForeignNames
    factory: MessageFactory = field(default_factory=MessageFactory)
    recording: Recording = field(default_factory=list)
    definitions: dict[str, TypeDefinition] = field(default_factory=dict)
    """Of types that are not installed."""

    def add(self, topic: str, type_name: str, log_ns: int, data: bytes) -> None:
        """Any message."""
        self.recording.append((topic, type_name, log_ns, data))

    def add_sensors(self, episode: SyntheticEpisode) -> None:
        """Joint states, depth images, CameraInfo and extrinsics of an episode."""
        names, make = self.names, self.factory
        joints = [names.joints[name] for name in episode.robot.joints]
        camera = episode.robot.camera().model_copy(update={"optical_frame": names.frame})
        start = episode.start_ns
        for step, (depth, where) in enumerate(
            zip(episode.depth_mm, episode.positions, strict=True)
        ):
            stamp = episode.stamp_ns(step)
            data = make.joint_state(stamp, joints, where)
            self.add(names.joint_states, "sensor_msgs/msg/JointState", stamp, data)
            data = make.depth(stamp, depth, names.frame)
            self.add(names.image, "sensor_msgs/msg/Image", stamp, data)
        info = make.camera_info(start, camera)
        self.add(names.info, "sensor_msgs/msg/CameraInfo", start, info)
        pose = make.extrinsics(start, camera, names.base)
        self.add("/camera_pose", "geometry_msgs/msg/TransformStamped", start, pose)

    def add_trajectories(
        self, stamps: Sequence[int], positions: Floats, joints: Sequence[str], after_s: float
    ) -> None:
        """One JointTrajectory of one point for each row of positions, [C, n]."""
        for stamp, where in zip(stamps, positions, strict=True):
            data = self.trajectory(stamp, [(after_s, where)], joints)
            topic = self.names.command
            self.add(topic, TRAJECTORY, stamp, data)

    def add_bag(self, folder: Path, robot: RobotConfig) -> None:
        """Everything in a bag of ours as others would have it, their topics below ``/theirs``.

        Joints have their names; instead of the gate's commands there are the trajectories that it
        sends to the arm.
        """
        with ForeignBag(folder) as bag:
            for message in bag.messages(bag.topics):
                topic, type_name, data = message.topic, message.type_name, message.data
                if topic == "/gate/command":
                    value, type_name = bag.parse(message), TRAJECTORY
                    stamp, topic = stamp_ns(value.header.stamp), self.names.command
                    points = [(robot.control_period, value.joint_command)]
                    data = self.trajectory(stamp, points, value.joint_names)
                elif type_name == JOINT_STATE:
                    value = bag.parse(message)
                    value.name = [self.names.joints.get(name, name) for name in value.name]
                    data = bag.serialise(value, type_name)
                self.add("/theirs" + topic, type_name, message.log_ns, data)

    def trajectory(
        self, stamp: int, points: Sequence[tuple[float, Floats]], joints: Sequence[str]
    ) -> bytes:
        """trajectory_msgs/JointTrajectory of points: time from its start [s], and [n] rad."""
        make = self.factory
        made = [
            make.make(
                "trajectory_msgs/msg/JointTrajectoryPoint",
                positions=np.asarray(where, dtype=np.float64),
                velocities=np.zeros(0),
                accelerations=np.zeros(0),
                effort=np.zeros(0),
                time_from_start=make.make(
                    "builtin_interfaces/msg/Duration", sec=int(after),
                    nanosec=round((after - int(after)) * 1e9),
                ),
            )
            for after, where in points
        ]  # fmt: skip
        return make.serialise(
            TRAJECTORY,
            header=make.header(stamp),
            joint_names=[self.names.joints[name] for name in joints],
            points=made,
        )

    def add_array(self, log_ns: int, values: Sequence[float] | Floats) -> None:
        """std_msgs/Float64MultiArray, which has no stamp."""
        layout = self.factory.make("std_msgs/msg/MultiArrayLayout", dim=[], data_offset=0)
        data = self.factory.serialise(
            "std_msgs/msg/Float64MultiArray",
            layout=layout,
            data=np.ascontiguousarray(values, float),
        )
        self.add(self.names.array, "std_msgs/msg/Float64MultiArray", log_ns, data)

    def add_bool(self, topic: str, log_ns: int, *, value: bool) -> None:
        """std_msgs/Bool."""
        data = self.factory.serialise("std_msgs/msg/Bool", data=value)
        self.add(topic, "std_msgs/msg/Bool", log_ns, data)

    def write(
        self,
        folder: Path,
        storage: Literal["mcap", "sqlite3"] = "mcap",
        *,
        compression: Literal["", "file", "message"] = "",
        splits: int = 1,
    ) -> Path:
        """Write everything added, in the order of reception; returns the folder.

        Args:
            folder: Must not exist.
            storage: Plugin of rosbag2.
            compression: By zstd, of what.
            splits: Number of files, as ``--max-bag-size`` makes them.
        """
        ordered = sorted(self.recording, key=lambda each: each[2])
        ends = np.linspace(0, len(ordered), splits + 1).astype(int)
        parts = [
            self._part(folder.with_name(f"{folder.name}_{index}"), part, storage, compression)
            for index, part in enumerate(ordered[first:last] for first, last in pairwise(ends))
        ]
        if splits == 1:
            return parts[0].rename(folder)
        return _joined(folder, parts)

    def _part(self, folder: Path, recording: Recording, storage: str, compression: str) -> Path:
        writer = Writer(folder, version=9, storage_plugin=StoragePlugin[storage.upper()])
        if compression:
            writer.set_compression(CompressionMode[compression.upper()], CompressionFormat.ZSTD)
        with writer:
            connections: dict[str, Any] = {}
            for topic, type_name, log_ns, data in recording:
                if topic not in connections:
                    found = self.definitions.get(type_name)
                    found = found or self.factory.definitions.find(type_name)
                    connections[topic] = writer.add_connection(
                        topic, type_name, msgdef=found.text, rihs01=found.type_hash
                    )
                writer.write(connections[topic], log_ns, data)
        return folder


def _joined(folder: Path, parts: Sequence[Path]) -> Path:
    """One recording of several files from recordings of one each."""
    folder.mkdir()
    told = [
        yaml.safe_load((part / "metadata.yaml").read_text(encoding="utf-8"))[INFORMATION]
        for part in parts
    ]
    whole = dict(told[0])
    counts: dict[str, Any] = {}
    for each in told:
        for topic in each["topics_with_message_count"]:
            name = topic["topic_metadata"]["name"]
            counts.setdefault(name, topic | {"message_count": 0})
            counts[name]["message_count"] += topic["message_count"]
    whole["topics_with_message_count"] = list(counts.values())
    for key in ("relative_file_paths", "files"):
        whole[key] = [entry for each in told for entry in each[key]]
    whole["message_count"] = sum(each["message_count"] for each in told)
    for part in parts:
        for path in part.iterdir():
            if path.name != "metadata.yaml":
                path.rename(folder / path.name)
            else:
                path.unlink()
        part.rmdir()
    (folder / "metadata.yaml").write_text(yaml.safe_dump({INFORMATION: whole}), encoding="utf-8")
    return folder
