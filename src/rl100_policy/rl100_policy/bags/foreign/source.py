# SPDX-License-Identifier: Apache-2.0
"""One recording of somebody else: rosbag2 in MCAP or sqlite3, split or not, zstd or not."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rosbags.interfaces import MessageDefinitionFormat
from rosbags.rosbag2 import Reader, ReaderError
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, TypesysError, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from rl100_policy.bags.definitions import MessageDefinitions, register_recorded
from rl100_policy.bags.foreign.mapping import absolute
from rl100_policy.core.errors import BagError

_OURS = ("rl100_msgs/msg/GateCommand", "rl100_msgs/msg/HumanFeedback")
_STORAGE = (".mcap", ".db3", ".zstd")
_UNREADABLE = (
    ReaderError, TypesysError, SerdeError, OSError, sqlite3.Error, ValueError,
    AssertionError, KeyError, IndexError,
)  # fmt: skip
"""What the library raises at a damaged recording."""


@dataclass(frozen=True)
class ForeignMessage:
    """One message as recorded."""

    topic: str
    type_name: str
    log_ns: int
    """When it was received."""
    data: bytes
    """CDR."""


class ForeignBag:
    """A recording that is open for reading, for as long as its context lasts."""

    def __init__(self, source: Path) -> None:
        """Remember where it is.

        Args:
            source: Folder with metadata.yaml, or one ``.mcap`` or ``.db3`` file.

        Raises:
            BagError: If there is no recording.
        """
        if source.is_dir() and not (source / "metadata.yaml").is_file():
            raise BagError(
                f"{source} has no metadata.yaml: expected the folder of a finished `ros2 bag "
                f"record`; `ros2 bag reindex {source}` makes it, or give the one file in it"
            )
        if not source.exists():
            raise BagError(f"{source} does not exist; give a folder of `ros2 bag record`")
        self.path = source
        self._stack = ExitStack()
        self._reader: Reader
        self._types = get_typestore(Stores.EMPTY)

    def __enter__(self) -> Self:
        """Open; raises BagError."""
        try:
            self._reader = Reader(self.path)
            self._reader.open()
        except _UNREADABLE as error:
            raise self._unreadable(error) from error
        self._stack.callback(self._reader.close)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""
        self._stack.__exit__(kind, error, trace)

    @cached_property
    def topics(self) -> dict[str, str]:
        """Type by topic, of those that have messages."""
        return {
            absolute(each.topic): each.msgtype
            for each in self._reader.connections
            if each.msgcount
        }

    def messages(
        self, topics: Collection[str], between: tuple[int, int] | None = None
    ) -> Iterator[ForeignMessage]:
        """Messages of some topics in the order of the recording.

        Args:
            topics: Names.
            between: First and last time of reception [ns]; None: all.

        Raises:
            BagError: If the recording is damaged; what came before has been given.
        """
        wanted = {absolute(topic) for topic in topics}
        connections = [each for each in self._reader.connections if absolute(each.topic) in wanted]
        if not connections:
            return
        start, stop = (between[0], between[1] + 1) if between else (None, None)
        try:
            for connection, log_ns, data in self._reader.messages(connections, start, stop):
                yield ForeignMessage(
                    absolute(connection.topic), connection.msgtype, log_ns, bytes(data)
                )
        except _UNREADABLE as error:
            raise self._unreadable(error) from error

    def parse(self, message: ForeignMessage) -> Any:
        """The message by its fields; raises BagError if it is malformed."""
        try:
            self._register(message.type_name)
            return self._types.deserialize_cdr(message.data, message.type_name)
        except BagError:
            raise
        except Exception as error:  # of the bytes, and of the code that rosbags makes for them
            raise BagError(
                f"message on {message.topic} received at {message.log_ns} ns is not a "
                f"{message.type_name}: {error!r}"
            ) from error

    def _register(self, type_name: str) -> None:
        """Make a type known, as the recording defines it, or else as it is installed.

        Only types that are needed: what drivers of their own define need not be understood.
        """
        if type_name in self._types.types:
            return
        for each in self._reader.connections:
            if each.msgtype == type_name and each.msgdef.format == MessageDefinitionFormat.MSG:
                register_recorded(self._types, type_name, each.msgdef.data)
        known, installed = self._types.types, _installed_types().fielddefs
        if type_name not in known:
            self._types.register(
                {key: each for key, each in installed.items() if key not in known}
            )

    def serialise(self, value: Any, type_name: str) -> bytes:
        """CDR of a message of this bag that was changed."""
        self._register(type_name)
        return bytes(self._types.serialize_cdr(value, type_name))

    @cached_property
    def sha256(self) -> str:
        """Of its storage files, in the order of their names."""
        files = [self.path]
        if self.path.is_dir():
            files = sorted(each for each in self.path.iterdir() if each.suffix in _STORAGE)
        sha = hashlib.sha256()
        for file in files:
            with file.open("rb") as stream:
                sha.update(hashlib.file_digest(stream, "sha256").digest())
        return sha.hexdigest()

    def _unreadable(self, error: Exception) -> BagError:
        return BagError(
            f"{self.path} cannot be read as a rosbag2 recording: {error}; was the recording "
            "ended properly? `ros2 bag reindex` or `ros2 bag convert` may repair it"
        )


@cache
def _installed_types() -> Typestore:
    """Types of a stock ROS 2 and of this suite, for recordings that do not carry them."""
    store = get_typestore(Stores.ROS2_JAZZY)
    definitions = MessageDefinitions()
    for name in _OURS:
        found = get_types_from_msg(definitions.find(name).text, name)
        store.register({key: value for key, value in found.items() if key not in store.types})
    return store
