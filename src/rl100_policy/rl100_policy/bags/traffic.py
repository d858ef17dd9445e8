# SPDX-License-Identifier: Apache-2.0
"""What came on each topic of a closed episode: how much, how often, and where it paused."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from mcap.records import Channel, Message, Schema
from numpy.typing import NDArray

from rl100_policy.bags.identity import bag_file
from rl100_policy.bags.metadata import EpisodeMetadata
from rl100_policy.bags.scan import McapScan, TopicTable
from rl100_policy.bags.topics import EXECUTED_TOPIC
from rl100_policy.core.errors import BagError
from rl100_policy.core.messages import peek_stamp_ns

JOINT_TOPIC = "joint_states"
_HEADER = "std_msgs/Header"


@dataclass(frozen=True)
class TopicTraffic:
    """Messages of one topic.

    Attributes:
        name: As in the bag.
        type_name: ``package/msg/Name``.
        bytes: Serialised size of all messages [B].
        stamps_ns: [M] in order; header stamps where the messages have one, else ROS times of
            reception. Those of latched messages may be of long before the episode.
        start_ns: Start of the episode, ROS time, 0 if not known; rate and gap count what is not
            older.
        is_stamped: Whether these are header stamps.
        expected_period_s: Time between two messages, None if not known.
    """

    name: str
    type_name: str
    bytes: int
    stamps_ns: NDArray[np.int64]
    start_ns: int
    is_stamped: bool
    expected_period_s: float | None

    @property
    def messages(self) -> int:
        """How many there are."""
        return len(self.stamps_ns)

    @property
    def rate_hz(self) -> float | None:
        """Messages per second of the episode; None of fewer than two times."""
        during_ns = self.during_ns
        span_ns = int(during_ns[-1] - during_ns[0]) if len(during_ns) else 0
        return (len(during_ns) - 1) * 1e9 / span_ns if span_ns else None

    @property
    def largest_gap_s(self) -> float | None:
        """Longest time between a message and the next; None of fewer than two."""
        during_ns = self.during_ns
        return float(np.diff(during_ns).max()) * 1e-9 if len(during_ns) > 1 else None

    @property
    def during_ns(self) -> NDArray[np.int64]:
        """Stamps that are not of before the episode."""
        return self.stamps_ns[self.stamps_ns >= self.start_ns]


@dataclass(frozen=True)
class Traffic:
    """Messages of an episode by topic, in the order of names."""

    topics: tuple[TopicTraffic, ...]
    begin_ns: int
    """ROS time that times in the episode count from: its start, or the first message received."""


@dataclass
class _Tally:
    channel: Channel
    schema: Schema
    is_stamped: bool
    bytes: int = 0
    stamps_ns: list[int] = field(default_factory=list)


def read_traffic(folder: Path, metadata: EpisodeMetadata) -> Traffic:
    """Read a closed episode once and count.

    Args:
        folder: The episode.
        metadata: Its metadata.

    Raises:
        BagError: If the file cannot be read, is damaged, or has no messages.
    """
    path = bag_file(folder)
    scan, table = McapScan(path), TopicTable()
    tallies: dict[str, _Tally] = {}
    first_ns: int | None = None
    try:
        for record in scan:
            if isinstance(record, Message):
                _count(tallies, table, record)
                first_ns = record.log_time if first_ns is None else min(first_ns, record.log_time)
            else:
                table.take(record)
    except OSError as error:
        raise BagError(f"cannot read {path}: {error}; check its rights") from error
    if scan.problem or not scan.complete:
        raise BagError(
            f"{path} is damaged: {scan.problem or 'it has no end record'}; "
            f"`./rl100 bags check {folder}` says what is wrong with it"
        )
    if first_ns is None:
        raise BagError(f"{path} holds no messages; there is nothing to show")
    topics = tuple(_traffic(tallies[name], metadata) for name in sorted(tallies))
    return Traffic(topics, metadata.start_ns or first_ns)


def _count(tallies: dict[str, _Tally], table: TopicTable, message: Message) -> None:
    channel, schema = table.described(message.channel_id)
    tally = tallies.get(channel.topic)
    if tally is None:
        tally = tallies[channel.topic] = _Tally(channel, schema, _begins_with_header(schema))
    stamp_ns = peek_stamp_ns(message.data) if tally.is_stamped else None
    tally.bytes += len(message.data)
    tally.stamps_ns.append(message.log_time if stamp_ns is None else stamp_ns)


def _begins_with_header(schema: Schema) -> bool:
    """Whether the first field of a type is a std_msgs/Header; constants are no fields."""
    for line in schema.data.decode().splitlines():
        words = line.split("#", 1)[0].split()
        if words and "=" not in "".join(words[1:]):
            return words[0] == _HEADER
    return False


def _traffic(tally: _Tally, metadata: EpisodeMetadata) -> TopicTraffic:
    return TopicTraffic(
        name=tally.channel.topic,
        type_name=tally.schema.name,
        bytes=tally.bytes,
        stamps_ns=np.sort(np.array(tally.stamps_ns, dtype=np.int64)),
        start_ns=metadata.start_ns,
        is_stamped=tally.is_stamped,
        expected_period_s=_expected_period_s(tally.channel.topic, metadata),
    )


def _expected_period_s(topic: str, metadata: EpisodeMetadata) -> float | None:
    """As the recorder expected it; of an older bag, what its control period says."""
    if topic in metadata.expected_periods_s:
        return metadata.expected_periods_s[topic]
    follows = topic.endswith((f"/{JOINT_TOPIC}", f"/{EXECUTED_TOPIC}"))
    period = metadata.setup.get("control_period")
    return float(period) if follows and isinstance(period, int | float) else None
