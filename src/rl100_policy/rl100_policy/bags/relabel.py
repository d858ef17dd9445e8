# SPDX-License-Identifier: Apache-2.0
"""What changes of a closed episode: a judgement that came late, or its way to the trash."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rl100_policy.bags import trash
from rl100_policy.bags.copying import BagCopy
from rl100_policy.bags.identity import bag_file
from rl100_policy.bags.judgement import Judgement
from rl100_policy.bags.metadata import EpisodeMetadata
from rl100_policy.bags.reading import read_metadata
from rl100_policy.bags.scan import McapScan
from rl100_policy.bags.storage import sync_folder, write_metadata_file
from rl100_policy.bags.trash import TrashNote
from rl100_policy.bags.writer import McapFile
from rl100_policy.core.errors import BagError

_LOG = logging.getLogger(__name__)


def relabel_episode(folder: Path, *judgements: Judgement) -> EpisodeMetadata:
    """Add judgements to a closed episode; its messages stay as they are.

    The file is written anew beside the old one and takes its place in one step.

    Args:
        folder: A closed episode.
        judgements: The further judgements.

    Returns:
        The metadata now in the bag.

    Raises:
        BagError: If the episode cannot be read or written; it is as before then.
    """
    metadata = read_metadata(folder)
    metadata = metadata.with_changes(judgements=(*metadata.judgements, *judgements))
    path = bag_file(folder)
    draft = path.with_suffix(".relabel")
    try:
        draft.unlink(missing_ok=True)
        information = _copied(path, draft).finish(metadata, name=path.name)
        draft.replace(path)
        write_metadata_file(folder, information)
        sync_folder(folder)
    except OSError as error:
        raise BagError(f"cannot relabel {folder}: {error}; check rights and space") from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
    return metadata


def _copied(source: Path, target: Path) -> McapFile:
    """New file, still open, with all messages of a whole one."""
    scan = McapScan(source)
    copy = BagCopy(scan, target)
    if scan.problem or not scan.complete or copy.undescribed:
        copy.file.abort()
        raise BagError(
            f"{source} is damaged: {scan.problem or 'no end record'}; "
            "`./rl100 bags check FOLDER` says what is wrong with it"
        )
    return copy.file


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
    """A closed episode went to the trash or came back, or could not."""

    source: Path
    target: Path | None = None
    """Where it is now; None if it was not moved."""
    problem: str = ""
    """Why it was not moved."""


@dataclass(frozen=True)
class _Move:
    folder: Path
    restore: bool


@dataclass(frozen=True)
class _Judged:
    folder: Path
    judgements: tuple[Judgement, ...]


_Job = _Judged | _Move
LateEvent = Relabelled | NotRelabelled | Moved


class Relabeller:
    """Changes closed episodes on a thread of its own, one bag at a time, in the order asked.

    For a judgement a whole bag is copied, which the writer of a running episode must not wait for.
    """

    def __init__(self) -> None:
        """Start the thread."""
        self._wanted: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._events: queue.SimpleQueue[LateEvent] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="bag relabeller", daemon=True)
        self._thread.start()

    def relabel(self, folder: Path, judgements: Sequence[Judgement]) -> None:
        """Queue judgements on a closed episode; one event follows. Never blocks."""
        self._wanted.put(_Judged(folder, tuple(judgements)))

    def move(self, folder: Path, *, restore: bool) -> None:
        """Queue the way of an episode to the trash or back; ``Moved`` follows. Never blocks."""
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
        while (wanted := self._wanted.get()) is not None:
            match wanted:
                case _Judged(folder, judgements):
                    self._events.put(_relabelled(folder, judgements))
                case _Move(folder, restore):
                    self._events.put(_moved(folder, restore=restore))


def _moved(folder: Path, *, restore: bool) -> Moved:
    try:
        if restore:
            return Moved(folder, trash.restore(folder.parent.parent, folder.name))
        note = TrashNote(when=datetime.now(UTC), why="discarded while recording")
        return Moved(folder, trash.discard(folder, note).folder)
    except BagError as error:
        return Moved(folder, problem=str(error))


def _relabelled(folder: Path, judgements: tuple[Judgement, ...]) -> Relabelled | NotRelabelled:
    try:
        return Relabelled(folder, relabel_episode(folder, *judgements))
    except BagError as error:
        return NotRelabelled(folder, str(error))
    except Exception as error:  # a defect, ours or a library's: the next one must not suffer
        _LOG.exception("relabelling of %s failed", folder)
        return NotRelabelled(folder, f"{type(error).__name__}: {error}")
