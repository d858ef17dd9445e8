# SPDX-License-Identifier: Apache-2.0
"""Further judgements on a closed episode: the success was none, or the key came late."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rl100_policy.bags.copying import BagCopy
from rl100_policy.bags.identity import bag_file
from rl100_policy.bags.judgement import Judgement
from rl100_policy.bags.metadata import EpisodeMetadata
from rl100_policy.bags.reading import read_metadata
from rl100_policy.bags.scan import McapScan
from rl100_policy.bags.storage import sync_folder, write_metadata_file
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


class Relabeller:
    """Adds judgements to closed episodes on a thread of its own, one bag at a time.

    A whole bag is copied for it, which the writer of a running episode must not wait for.
    """

    def __init__(self) -> None:
        """Start the thread."""
        self._wanted: queue.SimpleQueue[tuple[Path, tuple[Judgement, ...]] | None]
        self._wanted = queue.SimpleQueue()
        self._events: queue.SimpleQueue[Relabelled | NotRelabelled] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="bag relabeller", daemon=True)
        self._thread.start()

    def relabel(self, folder: Path, judgements: Sequence[Judgement]) -> None:
        """Queue judgements on a closed episode; one event follows. Never blocks."""
        self._wanted.put((folder, tuple(judgements)))

    def poll(self) -> list[Relabelled | NotRelabelled]:
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
            self._events.put(_relabelled(*wanted))


def _relabelled(folder: Path, judgements: tuple[Judgement, ...]) -> Relabelled | NotRelabelled:
    try:
        return Relabelled(folder, relabel_episode(folder, *judgements))
    except BagError as error:
        return NotRelabelled(folder, str(error))
    except Exception as error:  # a defect, ours or a library's: the next one must not suffer
        _LOG.exception("relabelling of %s failed", folder)
        return NotRelabelled(folder, f"{type(error).__name__}: {error}")
