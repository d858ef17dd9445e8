# SPDX-License-Identifier: Apache-2.0
"""Writer of one episode: into ``<bags>/<id>.partial``, and when closed to ``<bags>/<id>``.

Whatever kills the process, everything up to the last ``flush`` can be recovered, see ``recovery``.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Literal

from mcap.writer import CompressionType, Writer

from rl100_policy.bags.disk_sync import DiskSync
from rl100_policy.bags.identity import PARTIAL, TRASH, free_name
from rl100_policy.bags.metadata import MCAP_RECORD, EpisodeMetadata
from rl100_policy.bags.qos import qos_to_yaml
from rl100_policy.bags.reservation import LOCK_FILE, is_at, reserve
from rl100_policy.bags.storage import (
    SERIALIZATION,
    BagStatistics,
    RecordedTopic,
    bag_information,
    dump_information,
    sync_folder,
    write_metadata_file,
)
from rl100_policy.core.errors import BagError

Compression = Literal["none", "lz4", "zstd"]

_COMPRESSION = {
    "none": CompressionType.NONE,
    "lz4": CompressionType.LZ4,
    "zstd": CompressionType.ZSTD,
}
_LIBRARY = "rl100_policy"


class McapFile:
    """One MCAP file as rosbag2 writes it, with the messages as they came."""

    def __init__(self, path: Path, compression: Compression) -> None:
        """Create the file and write its head; raises OSError."""
        self.path = path
        self.statistics = BagStatistics()
        self.topics: dict[str, RecordedTopic] = {}
        self.bytes_written = 0
        self._stream = path.open("xb")
        self._writer = Writer(self._stream, compression=_COMPRESSION[compression])
        self._writer.start(profile="ros2", library=_LIBRARY)
        self._schemas: dict[str, int] = {}
        self._channels: dict[str, int] = {}

    def write(
        self, topic: RecordedTopic, data: bytes, log_ns: int, publish_ns: int, sequence: int
    ) -> None:
        """Add a message; the first one of a topic also describes the topic."""
        channel = self._channels.get(topic.name)
        if channel is None:
            channel = self._add_topic(topic)
        self._writer.add_message(channel, log_ns, data, publish_ns, sequence)
        self.statistics.add(topic.name, log_ns)
        self.bytes_written += len(data)

    def _add_topic(self, topic: RecordedTopic) -> int:
        definition = topic.definition
        if definition.name not in self._schemas:
            schema = self._writer.register_schema(
                definition.name, "ros2msg", definition.text.encode()
            )
            self._schemas[definition.name] = schema
        described = {
            "offered_qos_profiles": qos_to_yaml(topic.qos),
            "topic_type_hash": definition.type_hash,
        }
        channel = self._writer.register_channel(
            topic.name, SERIALIZATION, self._schemas[definition.name], described
        )
        self._channels[topic.name] = channel
        self.topics[topic.name] = topic
        return channel

    def annotate(self, metadata: EpisodeMetadata) -> None:
        """Write the metadata as they are now; the last ones in the file hold."""
        self._writer.add_metadata(MCAP_RECORD, metadata.to_table())

    def flush(self, disk: DiskSync | None = None) -> None:
        """End the chunk and hand it to the system, and to who brings it to disk, if anybody."""
        self._writer.flush()
        if disk is not None:
            disk.request(self._stream.fileno())

    @property
    def is_in_place(self) -> bool:
        """Whether the file is still where it was made: not removed, not moved with its folder."""
        return is_at(self.path, self._stream.fileno())

    def finish(self, metadata: EpisodeMetadata, name: str = "") -> dict[str, object]:
        """Write metadata and index, bring the file to disk, close it.

        Args:
            metadata: Final metadata.
            name: Name the file will have, its own if empty.

        Returns:
            The rosbag2 information for metadata.yaml.

        Raises:
            OSError: If it cannot be written; the file is closed as it is then.
        """
        try:
            return self._finished(metadata, name or self.path.name)
        except OSError:
            self.abort()
            raise

    def _finished(self, metadata: EpisodeMetadata, name: str) -> dict[str, object]:
        self._writer.flush()
        self.annotate(metadata)
        information = bag_information(
            name, self.topics.values(), self.statistics, metadata.to_table()
        )
        self._writer.add_metadata(
            "rosbag2", {"serialized_metadata": dump_information(information)}
        )
        self._writer.finish()
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        return information

    def abort(self) -> None:
        """Close the file as it is; what is still buffered may be lost."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.close()


class EpisodeWriter:
    """One episode from its first message to its closed folder. One thread at a time may use it."""

    def __init__(
        self, bags: Path, metadata: EpisodeMetadata, *, compression: Compression = "none"
    ) -> None:
        """Reserve a folder and begin the file.

        Args:
            bags: Folder of all episodes; made if missing.
            metadata: What is known at the start; its ``episode_id`` is the one wanted, the one got
                is in ``self.episode_id``.
            compression: Of the chunks; none is fastest.

        Raises:
            BagError: If the folder cannot be written.
        """
        self._bags = bags
        self._folder, self._lock = reserve(bags, metadata.episode_id)
        self.episode_id = self._folder.name.removesuffix(PARTIAL)
        metadata = metadata.with_changes(episode_id=self.episode_id)
        try:
            self._file = McapFile(self._folder / f"{self.episode_id}_0.mcap", compression)
            self._file.annotate(metadata)
            self._file.flush()
        except OSError as error:
            self._lock.abandon()
            raise BagError(f"cannot begin episode {self.episode_id} in {bags}: {error}") from error

    @property
    def messages(self) -> int:
        """Messages written."""
        return self._file.statistics.total

    @property
    def bytes_written(self) -> int:
        """Serialised bytes written [B]."""
        return self._file.bytes_written

    def write(
        self,
        topic: RecordedTopic,
        data: bytes,
        *,
        log_ns: int,
        publish_ns: int | None = None,
        sequence: int = 0,
    ) -> None:
        """Add one serialised message as received; it is not parsed.

        Args:
            topic: Its topic; the description given with the first message of a topic is recorded.
            data: CDR with its four bytes of encapsulation.
            log_ns: ROS time of reception.
            publish_ns: Time of publication, ``log_ns`` if None.
            sequence: Publisher's count, if known.

        Raises:
            BagError: If it cannot be written; the episode should be aborted then.
        """
        try:
            self._file.write(
                topic, data, log_ns, log_ns if publish_ns is None else publish_ns, sequence
            )
        except OSError as error:
            raise self._failed("write to", error) from error

    def annotate(self, metadata: EpisodeMetadata) -> None:
        """Keep metadata that changed, such as a judgement, where a crash leaves them.

        Raises:
            BagError: If they cannot be written.
        """
        try:
            self._file.annotate(metadata.with_changes(episode_id=self.episode_id))
            self._file.flush()
        except OSError as error:
            raise self._failed("write to", error) from error

    def flush(self, disk: DiskSync | None = None) -> None:
        """Make all so far survive the end of the process; with ``disk``, soon of the machine.

        Raises:
            BagError: If it cannot be written, or its folder is no longer there.
        """
        try:
            self._file.flush(disk)
        except OSError as error:
            raise self._failed("flush", error) from error
        self._check_place()

    def close(self, metadata: EpisodeMetadata, *, discard: bool = False) -> Path:
        """End the episode: index, metadata.yaml, disk, rename.

        Args:
            metadata: Final metadata.
            discard: Put the episode into the trash folder.

        Returns:
            The closed folder.

        Raises:
            BagError: If it cannot be written, the folder stays ``.partial`` then and can be
                recovered; or if it is no longer there.
        """
        self._check_place()
        metadata = metadata.with_changes(episode_id=self.episode_id)
        try:
            write_metadata_file(self._folder, self._file.finish(metadata))
            sync_folder(self._folder)
            final = self._final_folder(discard=discard)
            self._folder.rename(final)
            (final / LOCK_FILE).unlink(missing_ok=True)
            sync_folder(self._bags)
        except OSError as error:
            raise self._failed("close", error) from error
        self._lock.abandon()
        return final

    def _final_folder(self, *, discard: bool) -> Path:
        if not discard:
            return self._bags / self.episode_id
        (self._bags / TRASH).mkdir(exist_ok=True)
        return free_name(self._bags / TRASH / self.episode_id)

    def abort(self) -> None:
        """Stop without closing: the folder stays ``.partial`` and can be recovered."""
        self._file.abort()
        self._lock.abandon()

    def _check_place(self) -> None:
        if not self._file.is_in_place:
            raise BagError(
                f"{self._folder} was removed or moved away while episode {self.episode_id} was "
                "being recorded; if it was moved, run `./rl100 bags recover FOLDER` on the "
                "folder that it is in now"
            )

    def _failed(self, what: str, error: OSError) -> BagError:
        return BagError(
            f"cannot {what} episode {self.episode_id}: {error}; what was written stays in "
            f"{self._folder}: free space and run `./rl100 bags recover {self._bags}`"
        )
