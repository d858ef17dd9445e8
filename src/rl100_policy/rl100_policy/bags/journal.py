# SPDX-License-Identifier: Apache-2.0
"""The writer thread of a recorder: whoever receives messages never waits for the disk.

Calls come from one thread; the work is done in order on another, which hands all it has to the
system ten times a second, and a third one sees that it gets to disk. What happened comes back
through ``poll``.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from rl100_policy.bags.disk_sync import DiskSync
from rl100_policy.bags.metadata import EpisodeMetadata
from rl100_policy.bags.storage import RecordedTopic
from rl100_policy.bags.writer import EpisodeWriter
from rl100_policy.core.errors import BagError

_LOG = logging.getLogger(__name__)

FLUSH_PERIOD_S = 0.1
"""Time between two flushes. A crash loses no more than this and what a busy machine is late: less
than half a second."""


@dataclass(frozen=True)
class RawMessage:
    """One message on its way to the bag."""

    topic: RecordedTopic
    data: bytes
    log_ns: int
    sequence: int


@dataclass(frozen=True)
class Closed:
    """An episode was closed."""

    path: Path


@dataclass(frozen=True)
class Failed:
    """An episode could not be written on; what there is of it stays recoverable."""

    reason: str


Event = Closed | Failed


@dataclass(frozen=True)
class _Start:
    writer: EpisodeWriter


@dataclass(frozen=True)
class _Annotate:
    metadata: EpisodeMetadata


@dataclass(frozen=True)
class _Close:
    metadata: EpisodeMetadata
    discard: bool


class _Quit:
    """Ends the thread."""


_Command = RawMessage | _Start | _Annotate | _Close | _Quit


class BagJournal:
    """Owns the episode being written, on its own thread."""

    def __init__(
        self, bags: Path, *, capacity_bytes: int, min_free_bytes: int, sync: bool
    ) -> None:
        """Start the thread.

        Args:
            bags: Folder of all episodes.
            capacity_bytes: Messages waiting for the disk may take this much memory; more are
                refused.
            min_free_bytes: An episode ends when less is free on the disk.
            sync: Every flush is brought to disk, so that a power loss loses no more than a crash
                and what the disk is late.
        """
        self._bags = bags
        self._capacity_bytes = capacity_bytes
        self._min_free_bytes = min_free_bytes
        self._disk = DiskSync() if sync else None
        self._commands: queue.SimpleQueue[_Command] = queue.SimpleQueue()
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._taken_bytes = 0
        self._written_bytes = 0
        self._writer: EpisodeWriter | None = None
        self._next_flush_s = 0.0
        self._longest_wait_s = 0.0
        self._thread = threading.Thread(target=self._work, name="bag writer", daemon=True)
        self._thread.start()

    def start(self, writer: EpisodeWriter) -> None:
        """Hand over a new episode."""
        self._commands.put(_Start(writer))

    def write(self, message: RawMessage) -> bool:
        """Queue a message; False if too much is waiting and it was refused. Never blocks."""
        # Two counters, each changed by one thread only, so that none needs a lock.
        if self.waiting_bytes + len(message.data) > self._capacity_bytes:
            return False
        self._taken_bytes += len(message.data)
        self._commands.put(message)
        return True

    @property
    def waiting_bytes(self) -> int:
        """Messages waiting for the disk [B]."""
        return self._taken_bytes - self._written_bytes

    @property
    def longest_wait_s(self) -> float:
        """Longest time that one message, or the flush after it, of the episode took [s]."""
        return self._longest_wait_s

    def annotate(self, metadata: EpisodeMetadata) -> None:
        """Queue metadata that a crash must not lose."""
        self._commands.put(_Annotate(metadata))

    def close(self, metadata: EpisodeMetadata, *, discard: bool = False) -> None:
        """Queue the end of the episode; ``Closed`` or ``Failed`` follows."""
        self._commands.put(_Close(metadata, discard))

    def poll(self) -> list[Event]:
        """What happened since the last call, in order. Never blocks."""
        events = []
        while not self._events.empty():
            events.append(self._events.get())
        return events

    def shutdown(self, timeout_s: float) -> None:
        """Finish everything queued and end the thread; an episode still open stays recoverable."""
        self._commands.put(_Quit())
        self._thread.join(timeout_s)
        if self._disk is not None:
            self._disk.shutdown(0.0)

    # The writer thread

    def _work(self) -> None:
        while True:
            try:
                command = self._commands.get(timeout=FLUSH_PERIOD_S)
            except queue.Empty:
                command = None
            if isinstance(command, _Quit):
                break
            begun_s = time.monotonic()
            try:
                self._carry_out(command)
                self._flush_if_due()
            except BagError as error:
                self._fail(str(error))
            except Exception as error:  # a defect, ours or a library's: the episode must end
                _LOG.exception("the bag writer failed")
                self._fail(f"{type(error).__name__}: {error}")
            if self._writer is not None and not isinstance(command, _Start):
                waited_s = time.monotonic() - begun_s
                self._longest_wait_s = max(self._longest_wait_s, waited_s)
        if self._writer is not None:
            self._writer.abort()

    def _carry_out(self, command: _Command | None) -> None:
        match command:
            case RawMessage(topic, data, log_ns, sequence):
                self._written_bytes += len(data)
                if self._writer is not None:
                    self._writer.write(topic, data, log_ns=log_ns, sequence=sequence)
            case _Start(writer):
                self._writer = writer
                if self._disk is not None:
                    self._disk.forget()
                self._longest_wait_s = 0.0
                self._next_flush_s = time.monotonic() + FLUSH_PERIOD_S
            case _Annotate(metadata) if self._writer is not None:
                self._writer.annotate(metadata)
            case _Close(metadata, discard) if self._writer is not None:
                path = self._writer.close(metadata, discard=discard)
                self._writer = None
                self._events.put(Closed(path))

    def _flush_if_due(self) -> None:
        now_s = time.monotonic()
        if self._writer is None or now_s < self._next_flush_s:
            return
        self._next_flush_s = now_s + FLUSH_PERIOD_S
        self._writer.flush(self._disk)
        if free_bytes(self._bags) < self._min_free_bytes:
            raise BagError(
                f"less than {self._min_free_bytes} bytes are free in {self._bags}; free space, "
                f"then run `./rl100 bags recover {self._bags}`"
            )

    def _fail(self, reason: str) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            with contextlib.suppress(OSError):
                writer.abort()
        self._events.put(Failed(reason))


def free_bytes(folder: Path) -> int:
    """Free space on the disk of a folder, or of the nearest parent that exists [B].

    Raises:
        BagError: If the disk cannot be asked.
    """
    try:
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        return shutil.disk_usage(folder).free
    except OSError as error:
        raise BagError(
            f"cannot tell how much is free in {folder}: {error}; check path and disk"
        ) from error
