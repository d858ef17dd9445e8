# SPDX-License-Identifier: Apache-2.0
"""Reading of an MCAP file from front to back, whole or torn."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import zstandard
from mcap.data_stream import ReadDataStream
from mcap.exceptions import EndOfFile, McapError
from mcap.opcode import Opcode
from mcap.records import Channel, Chunk, DataEnd, Footer, McapRecord, Message, Metadata, Schema
from mcap.stream_reader import CRCValidationError, StreamReader, get_chunk_data_stream

from rl100_policy.bags.definitions import TypeDefinition
from rl100_policy.bags.qos import qos_from_yaml
from rl100_policy.bags.storage import RecordedTopic
from rl100_policy.core.errors import BagError

DAMAGE = (
    McapError,
    CRCValidationError,
    zstandard.ZstdError,
    struct.error,
    ValueError,
    KeyError,
    RuntimeError,
    OverflowError,
)
"""What the MCAP library and its decompressors raise on bytes that are not what they should be."""

_RECORD_LIMIT = 2**30
"""Longer records are taken for damage [B]."""
_RECORD = struct.Struct("<BQ")
"""Head of a record: kind, length."""
_MESSAGE = struct.Struct("<HIQQ")
"""Head of a message: channel, sequence number, times of reception and of publication."""


class McapScan:
    """One pass over a file: yields schemas, channels, messages and metadata in file order.

    Nothing of the summary at the end of the file is needed. A chunk that fails its checksum is
    left out; the pass ends at the first place where the structure of the file is lost.

    Attributes:
        complete: After the pass: the file has its end record, that is, it was closed.
        damaged_chunks: Chunks left out.
        problem: Why the pass ended early; empty if it did not.
    """

    def __init__(self, path: Path, wants: Callable[[str], bool] | None = None) -> None:
        """Prepare a pass over a file, which need not be valid.

        Args:
            path: The file.
            wants: Says of a topic whether its messages are yielded; None: all are. Those that are
                not wanted are not copied, images of other cameras for example.
        """
        self._path, self._wants = path, wants
        self._unwanted: set[int] = set()
        """Channels."""
        self.complete = False
        self.damaged_chunks = 0
        self.problem = ""

    def __iter__(self) -> Iterator[McapRecord]:
        """One pass; raises OSError if the file cannot be opened."""
        with self._path.open("rb") as stream:
            reader = StreamReader(
                stream, emit_chunks=True, record_size_limit=_RECORD_LIMIT
            ).records
            while True:
                try:
                    record = next(reader, None)
                except (*DAMAGE, MemoryError) as error:
                    self.problem = f"{type(error).__name__} at byte {stream.tell()}: {error}"
                    return
                if record is None or isinstance(record, Footer):
                    self.complete = self.complete and record is not None
                    return
                if isinstance(record, Chunk):
                    yield from self._unpack(record)
                elif isinstance(record, DataEnd):
                    self.complete = True
                elif not self.complete and isinstance(
                    record, Schema | Channel | Message | Metadata
                ):
                    yield record

    def _unpack(self, chunk: Chunk) -> list[McapRecord]:
        try:
            stream, size = get_chunk_data_stream(chunk, validate_crc=True)
            return list(self._records(memoryview(stream.read(size))))
        except DAMAGE as error:
            self.damaged_chunks += 1
            self.problem = f"chunk left out: {error}"
            return []

    def _records(self, data: memoryview) -> Iterator[McapRecord]:
        """Schemas, channels and wanted messages of a chunk that is not compressed any more."""
        end = 0
        while end < len(data):
            kind, length = _RECORD.unpack_from(data, end)
            begin, end = end + _RECORD.size, end + _RECORD.size + length
            if end > len(data):
                raise EndOfFile
            if kind == Opcode.MESSAGE:
                channel, sequence, log_ns, publish_ns = _MESSAGE.unpack_from(data, begin)
                if channel not in self._unwanted:
                    content = bytes(data[begin + _MESSAGE.size : end])
                    yield Message(channel, log_ns, content, publish_ns, sequence)
            elif kind == Opcode.SCHEMA:
                yield Schema.read(ReadDataStream(BytesIO(data[begin:end])))
            elif kind == Opcode.CHANNEL:
                described = Channel.read(ReadDataStream(BytesIO(data[begin:end])))
                if self._wants is not None and not self._wants(described.topic):
                    self._unwanted.add(described.id)
                yield described


class TopicTable:
    """Topics of a file by channel, filled from its schema and channel records as they pass."""

    def __init__(self) -> None:
        """Begin empty."""
        self._schemas: dict[int, Schema] = {}
        self._channels: dict[int, Channel] = {}

    def take(self, record: McapRecord) -> None:
        """Remember a schema or channel; anything else is ignored."""
        if isinstance(record, Schema):
            self._schemas[record.id] = record
        elif isinstance(record, Channel):
            self._channels[record.id] = record

    def described(self, channel_id: int) -> tuple[Channel, Schema]:
        """Channel and schema of a message.

        Raises:
            BagError: If they are not in the file, or were in a damaged part of it.
        """
        channel = self._channels.get(channel_id)
        schema = self._schemas.get(channel.schema_id) if channel else None
        if channel is None or schema is None:
            raise BagError(
                f"channel {channel_id} is not described in the file; "
                "run `./rl100 bags check FOLDER`"
            )
        return channel, schema


def recorded_topic(channel: Channel, schema: Schema) -> RecordedTopic:
    """Description of a topic as the file has it.

    Raises:
        BagError: If its QoS profiles are not readable.
    """
    definition = TypeDefinition(
        schema.name, schema.data.decode(), channel.metadata.get("topic_type_hash", "")
    )
    return RecordedTopic(
        channel.topic, definition, qos_from_yaml(channel.metadata.get("offered_qos_profiles", ""))
    )
