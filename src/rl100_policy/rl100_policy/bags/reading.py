# SPDX-License-Identifier: Apache-2.0
"""Reading of closed episodes: their metadata and their messages.

Messages are read with the definitions the bag carries: neither ROS nor any message package is
needed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from mcap.reader import make_reader
from mcap.records import Message, Statistics
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore

from rl100_policy.bags.definitions import register_recorded
from rl100_policy.bags.identity import bag_file
from rl100_policy.bags.metadata import MCAP_RECORD, EpisodeMetadata, metadata_from_table
from rl100_policy.bags.scan import DAMAGE, McapScan, TopicTable
from rl100_policy.bags.storage import read_metadata_file
from rl100_policy.core.errors import BagError
from rl100_policy.core.messages import peek_stamp_ns

Definition = tuple[str, str]
"""Message type and its text with all it refers to."""

OnMalformed = Callable[[str, BagError], None]
"""Told the topic, as it was asked for, and what is wrong with a message of it."""

_MAX_SURPLUS = 64
"""Bytes after the end of a message that are forgiven [B]."""


@dataclass(frozen=True)
class BagMessage:
    """One message of a bag, deserialised."""

    log_ns: int
    """ROS time of reception."""
    value: Any
    """The message; fields as in its definition, arrays as numpy arrays."""


def read_metadata(folder: Path) -> EpisodeMetadata:
    """Metadata of a closed episode, from metadata.yaml or, failing that, from the MCAP file.

    Raises:
        BagError: If neither has them.
    """
    try:
        information = read_metadata_file(folder)
        return metadata_from_table(information.get("custom_data") or {}, str(folder))
    except BagError as first:
        try:
            return metadata_from_table(_mcap_table(bag_file(folder)), str(bag_file(folder)))
        except BagError as second:
            raise BagError(f"{first}; and its MCAP file does not help: {second}") from second


def read_statistics(path: Path) -> tuple[float, int]:
    """Duration [s] and number of messages by the summary of a closed MCAP file.

    Raises:
        BagError: If the file is not closed.
    """
    statistics = _statistics(path)
    return (
        statistics.message_end_time - statistics.message_start_time
    ) * 1e-9, statistics.message_count


def read_extent(path: Path) -> tuple[int, int]:
    """ROS times at which the first and the last message of a closed MCAP file were received [ns].

    Raises:
        BagError: If the file is not closed.
    """
    statistics = _statistics(path)
    return statistics.message_start_time, statistics.message_end_time


def _statistics(path: Path) -> Statistics:
    try:
        with path.open("rb") as stream:
            summary = make_reader(stream).get_summary()
    except (OSError, *DAMAGE) as error:
        raise BagError(f"{path} is not a closed MCAP file: {error!r}") from error
    if summary is None or summary.statistics is None:
        raise BagError(f"{path} has no summary; run `./rl100 bags check {path.parent}`")
    return summary.statistics


def _mcap_table(path: Path) -> dict[str, str]:
    """Last metadata record of the suite in a closed MCAP file, found through its index."""
    table: dict[str, str] = {}
    try:
        with path.open("rb") as stream:
            for record in make_reader(stream).iter_metadata():
                table = record.metadata if record.name == MCAP_RECORD else table
    except (OSError, *DAMAGE) as error:
        raise BagError(f"{path} is not a closed MCAP file: {error!r}") from error
    return table


def read_messages(
    folder: Path,
    topics: Collection[str],
    *,
    on_malformed: OnMalformed | None = None,
    stamps_ns: Collection[int] | None = None,
) -> dict[str, list[BagMessage]]:
    """Messages of some topics, by topic, each list in the order of reception.

    A topic matches whether its name in the bag is absolute or in a namespace: ``joint_states``
    finds ``/joint_states``
    and ``/robot1/joint_states``.

    Args:
        folder: A closed episode.
        topics: Names wanted.
        on_malformed: Told of every message that cannot be deserialised, which is then left out;
            None: such a message is an error. A recorder keeps malformed messages as they came.
        stamps_ns: Only messages with these header stamps, which all of the topics have; None: all.

    Returns:
        By the name as given in ``topics``; an empty list for a topic that is not in the bag.

    Raises:
        BagError: If the file is damaged, or a message is malformed and nobody is to be told;
            names topic and time.
    """
    path = bag_file(folder)
    scan = McapScan(path, lambda topic: match_topic(topic, topics) is not None)
    table = TopicTable()
    types: dict[str, Definition] = {}
    raw: dict[str, list[Message]] = {name: [] for name in topics}
    wanted_by_channel: dict[int, str | None] = {}
    try:
        for record in scan:
            if not isinstance(record, Message):
                table.take(record)
                continue
            if record.channel_id not in wanted_by_channel:
                channel, schema = table.described(record.channel_id)
                name = wanted_by_channel[record.channel_id] = match_topic(channel.topic, topics)
                if name is not None:
                    types[name] = (schema.name, schema.data.decode())
            wanted = wanted_by_channel[record.channel_id]
            if wanted is not None and (
                stamps_ns is None or peek_stamp_ns(record.data) in stamps_ns
            ):
                raw[wanted].append(record)
    except OSError as error:
        raise BagError(f"cannot read {path}: {error}") from error
    if scan.problem or not scan.complete:
        raise BagError(
            f"{path} is damaged: {scan.problem or 'it has no end record'}; leave this episode out"
        )
    typestore = _typestore(frozenset(types.values()))
    type_names = {name: type_name for name, (type_name, _) in types.items()}
    return {
        name: list(_readable(typestore, type_names.get(name, ""), name, records, on_malformed))
        for name, records in raw.items()
    }


def match_topic(topic: str, wanted: Collection[str]) -> str | None:
    """The name that a topic is meant by, which is its own or the end of it; None if by none."""
    for name in wanted:
        if topic == name or topic.endswith("/" + name.lstrip("/")):
            return name
    return None


def _readable(
    typestore: Typestore,
    type_name: str,
    topic: str,
    records: Iterable[Message],
    on_malformed: OnMalformed | None,
) -> Iterator[BagMessage]:
    for record in records:
        try:
            yield _deserialised(typestore, type_name, topic, record)
        except BagError as error:
            if on_malformed is None:
                raise
            on_malformed(topic, error)


def _deserialised(typestore: Typestore, type_name: str, topic: str, record: Message) -> BagMessage:
    try:
        return BagMessage(record.log_time, _from_cdr(typestore, type_name, record.data))
    except Exception as error:  # of the bytes, and of the code that rosbags makes for them
        raise BagError(
            f"message on {topic} received at {record.log_time} ns is not a {type_name}: "
            f"{error!r}; leave this episode out"
        ) from error


def _from_cdr(typestore: Typestore, type_name: str, data: bytes) -> Any:
    """Deserialise, forgiving bytes after the end of the message.

    ``rclpy.serialization.serialize_message`` returns a buffer of an estimated size, some bytes
    longer than the message; rosbags 0.11 refuses more than three.
    """
    try:
        return typestore.deserialize_cdr(memoryview(data), type_name)  # bytes would be copied
    except SerdeError:
        for surplus in range(4, min(_MAX_SURPLUS, len(data)), 4):
            with contextlib.suppress(SerdeError):
                return typestore.deserialize_cdr(data[:-surplus], type_name)
        raise


@lru_cache(maxsize=16)
def _typestore(definitions: frozenset[Definition]) -> Typestore:
    """Types of a bag; bags of one recorder share one.

    Raises:
        BagError: If a definition is none.
    """
    typestore = get_typestore(Stores.EMPTY)
    for name, text in sorted(definitions):
        register_recorded(typestore, name, text)
    return typestore
