# SPDX-License-Identifier: Apache-2.0
"""Which recorded topics may be published again, and their messages in the order of reception.

By default what was sensed and what was decided, for whoever watches. What a node could take for a
command or a judgement only if it is named, and what moves an arm never.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

from mcap.reader import make_reader

from rl100_policy.bags.identity import bag_file
from rl100_policy.bags.reading import match_topic
from rl100_policy.bags.scan import DAMAGE, recorded_topic
from rl100_policy.bags.storage import RecordedTopic
from rl100_policy.bags.topics import DECISION_TOPIC, EXECUTED_TOPIC
from rl100_policy.core.errors import BagError
from rl100_policy.core.messages import peek_stamp_ns

TRAJECTORY = "trajectory_msgs/msg/JointTrajectory"
_ARM_TYPES = ("trajectory_msgs/", "control_msgs/", "std_msgs/msg/Float64MultiArray")
"""Beginnings of the types by which controllers are commanded."""
_SENSOR_TYPES = (
    "sensor_msgs/msg/Image",
    "sensor_msgs/msg/CompressedImage",
    "sensor_msgs/msg/CameraInfo",
    "sensor_msgs/msg/PointCloud2",
    "sensor_msgs/msg/LaserScan",
    "sensor_msgs/msg/Imu",
    "geometry_msgs/msg/WrenchStamped",
    "tf2_msgs/msg/TFMessage",
)
_SENSOR_TOPICS = ("joint_states", "camera/extrinsics")
"""Of types that may also be commands."""


class Permission(Enum):
    """Whether a topic may be published again."""

    SENSOR = auto()
    """Yes; a driver that publishes it too must not run."""
    DECISION = auto()
    """Yes."""
    NAMED = auto()
    """Only if a person names it: a node could act on it."""
    NEVER = auto()
    """No: an arm could move."""


@dataclass(frozen=True)
class PlaybackTopic:
    """One topic of a bag."""

    recorded: RecordedTopic
    messages: int
    permission: Permission

    @property
    def name(self) -> str:
        """Absolute name."""
        return self.recorded.name


@dataclass(frozen=True)
class PlaybackMessage:
    """One message, as it was recorded."""

    topic: str
    data: bytes
    log_ns: int
    """ROS time of reception."""


def permission_of(topic: str, type_name: str, sensors: Collection[str] = ()) -> Permission:
    """Whether a topic may be published again.

    Args:
        topic: Its name.
        type_name: ``package/msg/Name``.
        sensors: Topics that the recorder knew to be sensors.
    """
    if type_name.startswith(_ARM_TYPES):
        return Permission.NEVER
    if match_topic(topic, (DECISION_TOPIC, EXECUTED_TOPIC)):
        return Permission.DECISION
    if type_name in _SENSOR_TYPES or topic in sensors or match_topic(topic, _SENSOR_TOPICS):
        return Permission.SENSOR
    return Permission.NAMED


def playback_topics(folder: Path, sensors: Collection[str] = ()) -> tuple[PlaybackTopic, ...]:
    """Topics of a closed episode, in the order of names.

    Args:
        folder: The episode.
        sensors: Topics that the recorder knew to be sensors.

    Raises:
        BagError: If the file cannot be read.
    """
    path = bag_file(folder)
    try:
        with path.open("rb") as stream:
            summary = make_reader(stream).get_summary()
    except (OSError, *DAMAGE) as error:
        raise _unreadable(folder, error) from error
    if summary is None or summary.statistics is None:
        raise BagError(f"{path} has no summary; run `./rl100 bags check {folder}`")
    counts = summary.statistics.channel_message_counts
    found = []
    for channel in summary.channels.values():
        recorded = recorded_topic(channel, summary.schemas[channel.schema_id])
        permission = permission_of(channel.topic, recorded.definition.name, sensors)
        found.append(PlaybackTopic(recorded, counts.get(channel.id, 0), permission))
    return tuple(sorted(found, key=lambda each: each.name))


def chosen_topics(
    topics: Sequence[PlaybackTopic], named: Collection[str]
) -> tuple[PlaybackTopic, ...]:
    """Those to be published: the ones named, or what was sensed and decided.

    Raises:
        BagError: If a name is not in the bag, or an arm could move by it.
    """
    if not named:
        may = (Permission.SENSOR, Permission.DECISION)
        return tuple(each for each in topics if each.permission in may)
    chosen = tuple(each for each in topics if match_topic(each.name, named))
    missing = [
        name for name in named if not any(match_topic(each.name, [name]) for each in topics)
    ]
    if missing:
        raise BagError(
            f"{', '.join(missing)} is not in this bag; there are "
            f"{', '.join(each.name for each in topics)}"
        )
    never = [each.name for each in chosen if each.permission is Permission.NEVER]
    if never:
        raise BagError(f"{', '.join(never)} moves an arm, which a replay never does; leave it out")
    return chosen


def playback_messages(folder: Path, names: Collection[str]) -> Iterator[PlaybackMessage]:
    """Messages of some topics by the time of reception, read as they are needed.

    Raises:
        BagError: If the file is damaged; what comes before the damage has been given then.
    """
    try:
        with bag_file(folder).open("rb") as stream:
            for _, channel, message in make_reader(stream, validate_crcs=True).iter_messages(
                topics=list(names), log_time_order=True
            ):
                yield PlaybackMessage(channel.topic, message.data, message.log_time)
    except (OSError, *DAMAGE) as error:
        raise _unreadable(folder, error) from error


def restamped(data: bytes, moved: Callable[[int], int]) -> bytes:
    """A message with its header stamp moved.

    Args:
        data: CDR of a message that begins with a header.
        moved: The new stamp for the old one [ns].

    Returns:
        The message; as it was if its bytes cannot begin with a header.
    """
    stamp_ns = peek_stamp_ns(data)
    if stamp_ns is None:
        return data
    order = "<" if data[1] else ">"
    return data[:4] + struct.pack(f"{order}iI", *divmod(moved(stamp_ns), 10**9)) + data[12:]


def _unreadable(folder: Path, error: Exception) -> BagError:
    return BagError(
        f"{bag_file(folder)} cannot be read: {error!r}; "
        f"`./rl100 bags check {folder}` says what is wrong with it"
    )
