# SPDX-License-Identifier: Apache-2.0
"""What the page of an episode shows, read from its bag."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl100_policy.bags.closed import closed_episode
from rl100_policy.bags.command_record import CommandRecord, read_commands
from rl100_policy.bags.metadata import EpisodeMetadata
from rl100_policy.bags.reading import BagMessage, read_messages, read_metadata
from rl100_policy.bags.traffic import JOINT_TOPIC, TopicTraffic, Traffic, read_traffic
from rl100_policy.core.errors import BagError, ObservationError
from rl100_policy.core.messages import colour_image, depth_image, joint_positions, stamp_ns

Floats = NDArray[np.float64]

MOMENTS = 6
"""Images of each camera."""
_CAMERAS = 2
"""Most cameras shown."""
_IMAGE = "sensor_msgs/msg/Image"


@dataclass(frozen=True)
class EpisodePage:
    """What the page shows.

    Attributes:
        metadata: Of the episode.
        traffic: What came on its topics.
        commands: What the gate did; None if it is not recorded.
        joint_stamps_ns: [J].
        positions: [J, n_joints] measured, rad.
        joint_names: Of the positions.
        images: By topic: stamp [ns] and the image, [H, W] m or [H, W, 3].
    """

    metadata: EpisodeMetadata
    traffic: Traffic
    commands: CommandRecord | None
    joint_stamps_ns: NDArray[np.int64]
    positions: Floats
    joint_names: tuple[str, ...]
    images: Mapping[str, Sequence[tuple[int, NDArray[Any]]]]

    @classmethod
    def read(cls, episode: Path) -> EpisodePage:
        """Read a closed episode.

        Raises:
            BagError: If it is none, or is damaged.
        """
        folder = closed_episode(episode)
        metadata = read_metadata(folder)
        traffic, commands = read_traffic(folder, metadata), read_commands(folder)
        names = _joint_names(metadata, commands)
        joints = read_messages(folder, [JOINT_TOPIC], on_malformed=_left_out)[JOINT_TOPIC]
        stamps, positions = _positions(joints, names)
        images = {topic.name: _images(folder, topic) for topic in _cameras(traffic)}
        return cls(metadata, traffic, commands, stamps, positions, names, images)

    def seconds(self, stamps_ns: NDArray[np.int64]) -> Floats:
        """Times in the episode [s]."""
        return (stamps_ns - self.traffic.begin_ns).astype(np.float64) * 1e-9

    @property
    def end_s(self) -> float:
        """When the last message came, whatever its topic [s]."""
        return max(float(self.seconds(topic.stamps_ns[-1:])[0]) for topic in self.traffic.topics)


def _left_out(topic: str, error: BagError) -> None:
    """A message that cannot be read leaves a gap in the picture, nothing else."""


def _joint_names(metadata: EpisodeMetadata, commands: CommandRecord | None) -> tuple[str, ...]:
    """The arm's joints as the bag names them."""
    return tuple(metadata.setup.get("joints", ())) or (commands.joint_names if commands else ())


def _positions(
    joints: Sequence[BagMessage], names: tuple[str, ...]
) -> tuple[NDArray[np.int64], Floats]:
    stamps: list[int] = []
    found: list[Floats] = []
    for each in joints:
        try:
            positions = joint_positions(each.value, names or tuple(each.value.name))
        except ObservationError:
            continue
        if positions is not None:
            stamps.append(stamp_ns(each.value.header.stamp))
            found.append(positions)
    return np.array(stamps, dtype=np.int64), np.array(found).reshape(len(found), -1)


def _cameras(traffic: Traffic) -> list[TopicTraffic]:
    found = [topic for topic in traffic.topics if topic.type_name == _IMAGE]
    return sorted(found, key=lambda topic: -topic.messages)[:_CAMERAS]


def _images(folder: Path, topic: TopicTraffic) -> list[tuple[int, NDArray[Any]]]:
    """Some images of a camera, evenly spread over the episode."""
    chosen = np.unique(np.linspace(0, topic.messages - 1, MOMENTS).round().astype(int))
    wanted = set(topic.stamps_ns[chosen].tolist())
    found: dict[int, NDArray[Any]] = {}
    messages = read_messages(folder, [topic.name], on_malformed=_left_out, stamps_ns=wanted)
    for each in messages[topic.name]:
        try:
            image = _image(each.value)
        except ObservationError:
            continue
        found.setdefault(stamp_ns(each.value.header.stamp), image)
    return sorted(found.items(), key=lambda item: item[0])


def _image(message: Any) -> NDArray[Any]:
    """Colour [H, W, 3] or depth [H, W], m, NaN where there is no reading."""
    if message.encoding in ("rgb8", "bgr8"):
        return colour_image(message)
    depth = depth_image(message)
    return np.where(depth > 0, depth, np.nan)
