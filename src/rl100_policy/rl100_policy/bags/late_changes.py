# SPDX-License-Identifier: Apache-2.0
"""What a recorder changes of closed episodes: a judgement that came late, the way to the trash."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rl100_policy.bags import trash
from rl100_policy.bags.judgement import Judgement
from rl100_policy.bags.metadata import EpisodeMetadata
from rl100_policy.bags.relabel import relabel_episode
from rl100_policy.bags.trash import TrashNote
from rl100_policy.core.errors import BagError

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Relabelled:
    """A closed episode got further judgements."""

    folder: Path
    metadata: EpisodeMetadata


@dataclass(frozen=True)
class NotRelabelled:
    """Judgements about a closed episode could not be kept."""

    folder: Path
    reason: str


@dataclass(frozen=True)
class Moved:
    """A closed episode went to the trash or came back."""

    source: Path
    target: Path
    """Where it is now."""


@dataclass(frozen=True)
class NotMoved:
    """A closed episode is where it was."""

    folder: Path
    reason: str


@dataclass(frozen=True)
class _Judge:
    folder: Path
    judgements: tuple[Judgement, ...]

    def __call__(self) -> Relabelled:
        return Relabelled(self.folder, relabel_episode(self.folder, *self.judgements))

    def failed(self, reason: str) -> NotRelabelled:
        return NotRelabelled(self.folder, reason)


@dataclass(frozen=True)
class _Move:
    folder: Path
    restore: bool

    def __call__(self) -> Moved:
        if self.restore:
            return Moved(self.folder, trash.restore(self.folder.parent.parent, self.folder.name))
        note = TrashNote(when=datetime.now(UTC), why="discarded while recording")
        return Moved(self.folder, trash.discard(self.folder, note).folder)

    def failed(self, reason: str) -> NotMoved:
        return NotMoved(self.folder, reason)


_Change = _Judge | _Move
LateEvent = Relabelled | NotRelabelled | Moved | NotMoved


class LateChanges:
    """Changes closed episodes on a thread of its own, one at a time, in the order asked.

    For a judgement a whole bag is copied, which the writer of a running episode must not wait for.
    """

    def __init__(self) -> None:
        """Start the thread."""
        self._wanted: queue.SimpleQueue[_Change | None] = queue.SimpleQueue()
        self._events: queue.SimpleQueue[LateEvent] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="late changes", daemon=True)
        self._thread.start()

    def relabel(self, folder: Path, judgements: Sequence[Judgement]) -> None:
        """Queue judgements on a closed episode; one event follows. Never blocks."""
        self._wanted.put(_Judge(folder, tuple(judgements)))

    def move(self, folder: Path, *, restore: bool) -> None:
        """Queue the way of an episode to the trash or back; one event follows. Never blocks."""
        self._wanted.put(_Move(folder, restore))

    def poll(self) -> list[LateEvent]:
        """What happened since the last call, in order. Never blocks."""
        events = []
        while not self._events.empty():
            events.append(self._events.get())
        return events

    def shutdown(self, timeout_s: float) -> None:
        """Finish everything queued and end the thread; waits for the disk."""
        self._wanted.put(None)
        self._thread.join(timeout_s)

    def _work(self) -> None:
        while (change := self._wanted.get()) is not None:
            self._events.put(_made(change))


def _made(change: _Change) -> LateEvent:
    try:
        return change()
    except BagError as error:
        return change.failed(str(error))
    except Exception as error:  # a defect, ours or a library's: the next one must not suffer
        _LOG.exception("a change of %s failed", change.folder)
        return change.failed(f"{type(error).__name__}: {error}")
