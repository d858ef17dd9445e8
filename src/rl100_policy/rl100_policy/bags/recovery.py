# SPDX-License-Identifier: Apache-2.0
"""What becomes of episodes that a crash left unfinished.

Every ``<id>.partial`` that no living process writes is read up to where it is torn. If there are
messages, they become the closed episode ``<id>``, flagged ``recovered``; what was found goes to
``<bags>/quarantine/`` either way, with a file that says why. Nothing is deleted. Where a closed
episode was being relabelled, its MCAP file is brought in line with its metadata.yaml, which has
the judgement already.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from mcap.records import Message

from rl100_policy.bags.copying import BagCopy
from rl100_policy.bags.identity import (
    METADATA_FILE,
    PARTIAL,
    QUARANTINE,
    bag_file,
    free_name,
    is_episode_folder,
)
from rl100_policy.bags.metadata import EpisodeMetadata
from rl100_policy.bags.reading import read_metadata, read_statistics
from rl100_policy.bags.relabel import finish_relabelling, is_relabelling_unfinished
from rl100_policy.bags.reservation import LOCK_FILE, FolderLock
from rl100_policy.bags.scan import McapScan
from rl100_policy.bags.storage import read_metadata_file, sync_folder, write_metadata_file
from rl100_policy.core.errors import BagError

REASON_FILE = "reason.txt"
_WORK_PREFIX = ".recovering-"
"""Folder of a recovery in progress; one left by a crash is made anew."""


class RecoveryStatus(StrEnum):
    """What happened to one unfinished episode."""

    RECOVERED = "recovered"
    QUARANTINED = "quarantined"
    IN_USE = "in use"
    """A living process is writing it; it was left alone."""


@dataclass(frozen=True)
class RecoveryResult:
    """Outcome of one recovery."""

    episode_id: str
    status: RecoveryStatus
    path: Path
    """The closed episode, or where the remains lie."""
    messages: int
    detail: str
    """For people."""


def recover_all(bags: Path) -> list[RecoveryResult]:
    """Deal with everything a crash left in a folder; episodes being written are reported too.

    One that cannot be dealt with does not keep the others from it.

    Args:
        bags: Folder of all episodes; a missing one has none.

    Raises:
        BagError: If something could not be recovered, after all else was.
    """
    if not bags.is_dir():
        return []
    results: list[RecoveryResult] = []
    errors: list[str] = []
    folders = sorted(folder for folder in bags.iterdir() if folder.is_dir())
    for folder in folders:
        try:
            result = _recover_any(folder)
        except BagError as error:
            errors.append(str(error))
        else:
            results += [result] if result is not None else []
    if errors:
        done = "".join(f"; {each.episode_id} is {each.status.value}" for each in results)
        raise BagError("; ".join(errors) + done)
    return results


def _recover_any(folder: Path) -> RecoveryResult | None:
    """Deal with one folder of whatever kind; None if nothing is wrong with it."""
    if folder.name.endswith(PARTIAL):
        return recover(folder)
    if not is_episode_folder(folder) or not is_relabelling_unfinished(folder):
        return None
    if not finish_relabelling(folder):
        return None
    outcome = read_metadata(folder).outcome.value
    detail = f"its relabelling was interrupted and is finished now: {outcome}"
    messages = read_statistics(bag_file(folder))[1]
    return RecoveryResult(folder.name, RecoveryStatus.RECOVERED, folder, messages, detail)


def recover(partial: Path) -> RecoveryResult | None:
    """Turn one ``<id>.partial`` into a closed episode, or put it into quarantine.

    Returns:
        What became of it; None if it is gone, because its recorder closed it just now, or another
        process recovered it.

    Raises:
        BagError: If the bag folder cannot be written.
    """
    episode_id = partial.name.removesuffix(PARTIAL)
    try:
        lock = FolderLock(partial)
    except BlockingIOError:
        detail = "a living process is writing it"
        return RecoveryResult(episode_id, RecoveryStatus.IN_USE, partial, 0, detail)
    except OSError as error:
        if not partial.exists():
            return None
        raise BagError(f"cannot lock {partial}: {error}; check its rights") from error
    try:
        return _recover_locked(partial, episode_id)
    except OSError as error:
        raise BagError(
            f"cannot recover {partial}: {error}; check rights and space, "
            f"then run `./rl100 bags recover {partial.parent}` again"
        ) from error
    finally:
        lock.release()


def _recover_locked(partial: Path, episode_id: str) -> RecoveryResult:
    final = partial.with_name(episode_id)
    if final.exists():
        detail = f"the closed episode {final.name} already exists; it was recovered from these"
        return _quarantined(partial, episode_id, 0, detail)
    complete = _messages_if_closed(partial)
    if complete is not None:
        partial.rename(final)
        (final / LOCK_FILE).unlink(missing_ok=True)
        sync_folder(final.parent)
        return RecoveryResult(
            episode_id,
            RecoveryStatus.RECOVERED,
            final,
            complete,
            "it was complete, only not renamed",
        )
    work = partial.with_name(_WORK_PREFIX + episode_id)
    try:
        messages, detail = _rebuild(bag_file(partial), work, episode_id)
        if messages:
            sync_folder(work)
            work.rename(final)
            sync_folder(final.parent)
    finally:
        # this module's own product, which would fill a disk that is full already
        shutil.rmtree(work, ignore_errors=True)
    if not messages:
        return _quarantined(partial, episode_id, 0, f"nothing to recover: {detail}")
    _quarantined(
        partial,
        episode_id,
        messages,
        f"recovered as {final.name} with {messages} messages; {detail}",
    )
    return RecoveryResult(episode_id, RecoveryStatus.RECOVERED, final, messages, detail)


def _messages_if_closed(folder: Path) -> int | None:
    """Number of messages if everything was written and only the rename is missing, else None."""
    if not (folder / METADATA_FILE).is_file() or not bag_file(folder).is_file():
        return None
    scan = McapScan(bag_file(folder))
    messages = sum(isinstance(record, Message) for record in scan)
    return messages if scan.complete and not scan.problem else None


def _rebuild(torn: Path, work: Path, episode_id: str) -> tuple[int, str]:
    """Copy what is readable of a torn file into a whole one; returns messages and detail."""
    if not torn.is_file():
        return 0, "there is no MCAP file"
    shutil.rmtree(work, ignore_errors=True)  # of an earlier recovery that was interrupted
    work.mkdir()
    scan = McapScan(torn)
    copy = BagCopy(scan, work / f"{episode_id}_0.mcap")
    if copy.file.statistics.total == 0:
        copy.file.abort()
        return 0, scan.problem or "there are no messages"
    detail = _loss_detail(scan, copy)
    known = copy.metadata or EpisodeMetadata(episode_id=episode_id, task="")
    # The end's reason is written after the last message: where it is, all before it is there.
    lost_nothing = known.end_reason and not (scan.damaged_chunks or copy.undescribed)
    reasons = [] if lost_nothing else [f"recovered after a crash ({detail})"]
    metadata = known.with_changes(
        **copy.commanders.as_metadata(),
        episode_id=episode_id,
        recovered=True,
        degraded_reasons=(*known.degraded_reasons, *reasons),
        end_reason=known.end_reason or "crash",
    )
    write_metadata_file(work, copy.file.finish(metadata))
    return copy.file.statistics.total, detail


def _loss_detail(scan: McapScan, copy: BagCopy) -> str:
    """What is known of the loss, for people."""
    parts = [f"read up to: {scan.problem or 'the end'}"]
    if scan.damaged_chunks:
        parts.append(f"{scan.damaged_chunks} damaged chunks left out")
    if copy.undescribed:
        parts.append(f"{copy.undescribed} messages of unknown topics left out")
    return "; ".join(parts)


def _quarantined(partial: Path, episode_id: str, messages: int, detail: str) -> RecoveryResult:
    quarantine = partial.parent / QUARANTINE
    quarantine.mkdir(exist_ok=True)
    target = free_name(quarantine / partial.name)
    (partial / REASON_FILE).write_text(detail + "\n", encoding="utf-8")
    partial.rename(target)  # after the reason: nothing lies there without one
    sync_folder(partial.parent)
    return RecoveryResult(episode_id, RecoveryStatus.QUARANTINED, target, messages, detail)


def check_episode(folder: Path) -> list[str]:
    """Read a closed episode to its end and say what is wrong with it, for people.

    Checksums of all chunks, the end record, and the message counts of metadata.yaml are checked.
    """
    if not is_episode_folder(folder):
        return [f"{folder} is not a closed episode"]
    problems: list[str] = []
    try:
        read_metadata(folder)
        scan, total = McapScan(bag_file(folder)), 0
        for record in scan:
            total += isinstance(record, Message)
        if scan.problem or not scan.complete:
            problems.append(f"{bag_file(folder)}: {scan.problem or 'no end record'}")
        problems += _count_problems(folder, total)
    except (BagError, OSError) as error:
        problems.append(str(error))
    return problems


def _count_problems(folder: Path, total: int) -> list[str]:
    try:
        stated = int(read_metadata_file(folder)["message_count"])
    except (BagError, KeyError, TypeError, ValueError) as error:
        return [f"{folder / METADATA_FILE}: {error}"]
    return (
        []
        if stated == total
        else [f"{folder}: metadata.yaml states {stated} messages, the file has {total}"]
    )
