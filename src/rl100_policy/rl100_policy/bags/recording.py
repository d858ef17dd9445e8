# SPDX-License-Identifier: Apache-2.0
"""Life of an episode in a recorder: begin, messages, judgements, end, closed bag. No ROS.

All calls come from one thread and do not wait for the bag: the journal's thread writes it, that
of the late changes adds judgements to closed bags and moves them. Time is given by the
caller (monotonic, s), so that tests need not wait for it either.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from rl100_policy.bags.identity import TRASH
from rl100_policy.bags.journal import BagJournal, Closed, Event, Failed, RawMessage
from rl100_policy.bags.judgement import Judgement
from rl100_policy.bags.late_changes import (
    LateChanges,
    LateEvent,
    Moved,
    NotMoved,
    NotRelabelled,
    Relabelled,
)
from rl100_policy.bags.metadata import EpisodeMetadata
from rl100_policy.bags.session import EpisodeSession, Stream
from rl100_policy.bags.writer import Compression, EpisodeWriter
from rl100_policy.core.errors import BagError

REMEMBERED = 100
"""Closed episodes that a judgement may still name."""


class Phase(IntEnum):
    """What a recorder is doing; values are those of rl100_msgs/EpisodeState."""

    IDLE = 0
    RECORDING = 1
    CLOSING = 2


@dataclass(frozen=True)
class Ended:
    """How an episode ended."""

    metadata: EpisodeMetadata
    folder: Path | None
    """The closed bag; None if it could not be closed and was left for a recovery."""
    message: str
    """For people."""


class EpisodeRecorder:
    """Records one episode after the other into a folder."""

    def __init__(
        self, bags: Path, streams: Sequence[Stream], journal: BagJournal, compression: Compression
    ) -> None:
        """Begin idle."""
        self._bags, self._streams = bags, streams
        self._journal, self._compression = journal, compression
        self._late_changes = LateChanges()
        self._session = EpisodeSession(streams)
        self._folders: dict[str, Path] = {}
        """Of the episodes closed last, by id, oldest first."""
        self._moving: dict[Path, str] = {}
        """Ids of the episodes on their way to the trash or back, by the folder they leave."""
        self._told: list[tuple[str, str]] = []
        self._late: list[Judgement] = []
        """Judgements that came while the bag was being closed."""
        self._deadline_s = float("inf")
        self._discard = False
        self._handed_over = False
        self.metadata: EpisodeMetadata | None = None
        """Of the running episode, or of the last one; None before the first."""
        self.phase = Phase.IDLE
        self.saved = 0
        """Episodes closed and kept so far."""
        self.reason = "ready"
        """Why the last change happened, for people."""

    @property
    def takes_messages(self) -> bool:
        """Whether messages belong to an episode now."""
        return self.phase is not Phase.IDLE and not self._handed_over

    @property
    def session(self) -> EpisodeSession:
        """Counts of the running episode, or of the last one."""
        return self._session

    def begin(self, metadata: EpisodeMetadata) -> EpisodeMetadata:
        """Start an episode; returns its metadata with the id it got.

        Raises:
            BagError: If one is running, or the folder cannot be written.
        """
        if self.phase is not Phase.IDLE:
            running = self.metadata.episode_id if self.metadata else ""
            raise BagError(f"episode {running} is still being recorded; stop it first")
        writer = EpisodeWriter(self._bags, metadata, compression=self._compression)
        self.metadata = metadata.with_changes(episode_id=writer.episode_id)
        self._session = EpisodeSession(self._streams, metadata.start_ns)
        self._deadline_s = float("inf")
        self._discard, self._handed_over = False, False
        self._journal.start(writer)
        self.phase = Phase.RECORDING
        self.reason = f"recording {self.metadata.episode_id}"
        return self.metadata

    def record(self, stream: Stream, message: RawMessage, stamp_ns: int | None) -> None:
        """Write one message of the running episode.

        Args:
            stream: Its stream.
            message: As received.
            stamp_ns: Its header stamp, None if it has none.
        """
        written = self._journal.write(message)
        self._session.observe(stream.topic, stamp_ns, len(message.data), written=written)

    def lose(self, stream: Stream, count: int) -> None:
        """Count messages the middleware lost."""
        if self.takes_messages:
            self._session.lose(stream.topic, count)

    def judge(self, episode_id: str, judgement: Judgement) -> None:
        """Take a judgement about the running episode, or about one of the last ones.

        A running episode has it in its bag at once. One that is being closed gets it as soon as it
        is closed, and ends only then; one that was closed gets it too, whatever runs now.

        Args:
            episode_id: The episode it is about; empty: the one not ended yet.
            judgement: What was said.

        Raises:
            BagError: If no episode is running, or the one named is not among the last
                ``REMEMBERED`` of this recorder.
        """
        current = self.metadata if self.phase is not Phase.IDLE else None
        about = episode_id or (current.episode_id if current else "")
        if about in self._folders:
            self._late_changes.relabel(self._folders[about], [judgement])
        elif current is None or about != current.episode_id:
            what = f"episode {episode_id}" if episode_id else "the running episode"
            raise BagError(f"a judgement about {what} came, which is not recorded here; refused")
        elif self._handed_over:
            self._late.append(judgement)
        else:
            self._session.judgements.append(judgement)
            self.metadata = current.with_changes(judgements=(*current.judgements, judgement))
            self._journal.annotate(self.metadata)
        name = judgement.kind.name.lower()
        self.reason = f"judged {name} by {judgement.source or 'unknown'}"

    def discard(self, episode_id: str, *, restore: bool = False) -> str:
        """Move a closed episode to the trash folder, or back; ``poll`` tells when it is done.

        Args:
            episode_id: The episode; empty: the one that was closed last.
            restore: Back from the trash.

        Returns:
            Its id.

        Raises:
            BagError: If it is not among the last ``REMEMBERED`` that this recorder closed, is
                where it should go already, or on its way.
        """
        about = episode_id or next(reversed(self._folders), "")
        folder = self._folders.get(about)
        if folder is None:
            raise BagError(
                f"episode {about or '(none)'} was not closed by this recorder; "
                "`./rl100 bags` moves others"
            )
        if (folder.parent.name == TRASH) != restore:
            raise BagError(f"episode {about} is in {folder.parent} already")
        if folder in self._moving:
            raise BagError(f"episode {about} is being moved already")
        self._moving[folder] = about
        self._late_changes.move(folder, restore=restore)
        return about

    def moved(self) -> list[tuple[str, str]]:
        """Episodes that were moved since the last call, and why not; empty: they were."""
        told, self._told = self._told, []
        return told

    @property
    def waiting_bytes(self) -> int:
        """Messages waiting for the disk [B]."""
        return self._journal.waiting_bytes

    @property
    def longest_wait_s(self) -> float:
        """Longest time that one write of the running or last episode took [s]."""
        return self._journal.longest_wait_s

    def folder_of(self, episode_id: str) -> Path | None:
        """Where a closed episode is; None if this recorder does not know it any more."""
        return self._folders.get(episode_id)

    def request_end(self, end_ns: int, deadline_s: float, *, discard: bool) -> None:
        """End the episode once its sensors have come to the end, or at the deadline.

        Args:
            end_ns: ROS time of the last wanted observation; 0: end now.
            deadline_s: Monotonic time after which nothing is waited for.
            discard: Put the episode into the trash folder.
        """
        self._session.end_ns, self._discard = end_ns, discard
        self._deadline_s = deadline_s if end_ns else float("-inf")
        self.phase = Phase.CLOSING
        self.reason = "waiting for the last messages"

    def poll(self, now_s: float) -> Ended | None:
        """Do what is due and take over what the writer did; returns an episode that ended."""
        ended = None
        for event in (*self._journal.poll(), *self._late_changes.poll()):
            ended = self._take(event) or ended
        if self.takes_messages:
            self._session.look(now_s)
        closing = self.phase is Phase.CLOSING and not self._handed_over
        if closing and (self._session.reached_end or now_s >= self._deadline_s):
            self._hand_over("stopped on request")
        return ended

    def shutdown(self, timeout_s: float) -> None:
        """Close a running episode and end both threads. Waits for the disk."""
        deadline_s = time.monotonic() + timeout_s
        if self.takes_messages:
            self._hand_over("the recorder was stopped")
        self._journal.shutdown(timeout_s)
        self.poll(time.monotonic())  # a bag closed just now may have judgements waiting for it
        self._late_changes.shutdown(max(0.0, deadline_s - time.monotonic()))

    def _hand_over(self, reason: str) -> None:
        assert self.metadata is not None  # an episode is running
        self.metadata = self._session.complete(self.metadata, reason)
        self._handed_over = True
        self._journal.close(self.metadata, discard=self._discard)

    def _take(self, event: Event | LateEvent) -> Ended | None:
        match event:
            case Closed(path):
                return self._closed(path)
            case Failed(reason):
                lost = f"; judgements lost: {len(self._late)}" if self._late else ""
                return self._end(None, f"recording ended: {reason}{lost}")
            case Relabelled(folder, metadata):
                if self._is_current(folder):
                    self.metadata = metadata
                self.reason = f"{metadata.episode_id} is now {metadata.outcome.value}"
                return self._end_closed(folder)
            case Moved(source, target):
                self._moved(source, target)
                return None
            case NotMoved(folder, reason):
                self._not_moved(folder, reason)
                return None
            case NotRelabelled(folder, reason):
                self.reason = f"judgement not kept: {reason}"
                return self._end_closed(folder, f"; {self.reason}")

    def _closed(self, folder: Path) -> Ended | None:
        """End the episode, or first add the judgements that came while it was being closed."""
        assert self.metadata is not None  # an episode was running
        self._folders[self.metadata.episode_id] = folder
        while len(self._folders) > REMEMBERED:
            del self._folders[next(iter(self._folders))]
        if not self._late:
            return self._end_closed(folder)
        self._late_changes.relabel(folder, self._late)
        return None

    def _moved(self, source: Path, target: Path) -> None:
        about = self._moving.pop(source)
        if about in self._folders:
            self._folders[about] = target
        discarded = target.parent.name == TRASH
        self.saved += -1 if discarded else 1
        self.reason = f"{about} is now {'in the trash' if discarded else 'back'}: {target}"
        self._told.append((about, ""))

    def _not_moved(self, folder: Path, reason: str) -> None:
        self.reason = reason
        self._told.append((self._moving.pop(folder), reason))

    def _is_current(self, folder: Path) -> bool:
        """Whether a closed folder is that of the newest episode."""
        known = self.metadata
        return known is not None and self._folders.get(known.episode_id) == folder

    def _end_closed(self, folder: Path, addition: str = "") -> Ended | None:
        if not self._is_current(folder):
            return None
        return self._end(folder, self._summary(folder) + addition)

    def _summary(self, path: Path) -> str:
        verb = "discarded to" if self._discard else "saved to"
        reasons = self.metadata.degraded_reasons if self.metadata else ()
        return f"{verb} {path}" + (f"; degraded: {'; '.join(reasons)}" if reasons else "")

    def _end(self, folder: Path | None, message: str) -> Ended | None:
        if self.phase is Phase.IDLE or self.metadata is None:
            return None
        self.phase, self.reason, self._late = Phase.IDLE, message, []
        self.saved += folder is not None and not self._discard
        return Ended(self.metadata, folder, message)
