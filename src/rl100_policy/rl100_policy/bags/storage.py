# SPDX-License-Identifier: Apache-2.0
"""The rosbag2 side of a bag: metadata.yaml of version 9 (ROS 2 Jazzy) and its fields."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rl100_policy.bags.definitions import TypeDefinition
from rl100_policy.bags.identity import METADATA_FILE
from rl100_policy.bags.qos import OfferedQos
from rl100_policy.core.errors import BagError

ROSBAG2_VERSION = 9
SERIALIZATION = "cdr"
INFORMATION = "rosbag2_bagfile_information"
_SAFE_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml where PyYAML was built with it: ten times faster."""


@dataclass(frozen=True)
class RecordedTopic:
    """One topic of a bag."""

    name: str
    definition: TypeDefinition
    qos: tuple[OfferedQos, ...] = ()
    """Profiles its publishers offered; empty: unknown."""


@dataclass
class BagStatistics:
    """Counts and times of the messages in one bag file."""

    counts: dict[str, int] = field(default_factory=dict)
    """Messages by topic."""
    start_ns: int | None = None
    """Smallest log time, ROS time."""
    end_ns: int | None = None
    """Largest log time, ROS time."""

    def add(self, topic: str, log_ns: int) -> None:
        """Count one message."""
        self.counts[topic] = self.counts.get(topic, 0) + 1
        self.start_ns = log_ns if self.start_ns is None else min(self.start_ns, log_ns)
        self.end_ns = log_ns if self.end_ns is None else max(self.end_ns, log_ns)

    @property
    def total(self) -> int:
        """Messages of all topics."""
        return sum(self.counts.values())


def bag_information(
    file_name: str,
    topics: Iterable[RecordedTopic],
    statistics: BagStatistics,
    custom_data: Mapping[str, str],
) -> dict[str, Any]:
    """Content of ``rosbag2_bagfile_information`` for a bag of one file."""
    return {
        "version": ROSBAG2_VERSION,
        "storage_identifier": "mcap",
        **_extent(statistics),
        "topics_with_message_count": [_topic_entry(topic, statistics) for topic in topics],
        "compression_format": "",
        "compression_mode": "",
        "relative_file_paths": [file_name],
        "files": [{"path": file_name, **_extent(statistics)}],
        "custom_data": dict(custom_data),
        "ros_distro": os.environ.get("ROS_DISTRO", "jazzy"),
    }


def _extent(statistics: BagStatistics) -> dict[str, Any]:
    start, end = statistics.start_ns or 0, statistics.end_ns or 0
    return {
        "duration": {"nanoseconds": end - start},
        "starting_time": {"nanoseconds_since_epoch": start},
        "message_count": statistics.total,
    }


def _topic_entry(topic: RecordedTopic, statistics: BagStatistics) -> dict[str, Any]:
    return {
        "topic_metadata": {
            "name": topic.name,
            "type": topic.definition.name,
            "serialization_format": SERIALIZATION,
            "offered_qos_profiles": [profile.to_entry() for profile in topic.qos],
            "type_description_hash": topic.definition.type_hash,
        },
        "message_count": statistics.counts.get(topic.name, 0),
    }


def dump_information(information: Mapping[str, Any]) -> str:
    """YAML text of the information, keys in order."""
    return yaml.safe_dump(dict(information), sort_keys=False, allow_unicode=True)


def write_metadata_file(folder: Path, information: Mapping[str, Any]) -> None:
    """Write metadata.yaml into an episode folder so that it is on disk, or not there at all."""
    target = folder / METADATA_FILE
    draft = target.with_suffix(".yaml.tmp")
    with draft.open("w", encoding="utf-8") as stream:
        stream.write(dump_information({INFORMATION: dict(information)}))
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(target)


def read_metadata_file(folder: Path) -> dict[str, Any]:
    """Content of ``rosbag2_bagfile_information`` in a folder.

    Raises:
        BagError: If metadata.yaml is missing or not of rosbag2.
    """
    path = folder / METADATA_FILE
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_SAFE_LOADER)
        information = content[INFORMATION]
        if not isinstance(information, dict):
            raise TypeError(f"{INFORMATION} is a {type(information).__name__}")
    except FileNotFoundError as error:
        raise BagError(f"{path} does not exist; expected a rosbag2 folder") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError) as error:
        raise BagError(
            f"{path} is not a rosbag2 metadata file: {error!r}; "
            "`./rl100 bags check FOLDER` says what else is wrong with it"
        ) from error
    return information


def sync_folder(folder: Path) -> None:
    """Bring a folder's list of names to disk, so that a rename survives a power loss."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
