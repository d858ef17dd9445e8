# SPDX-License-Identifier: Apache-2.0
"""Closed episodes from one folder into another: copied, linked or moved, each whole or not at all.

A copy is made under a hidden name, brought to disk, and renamed. Nothing is ever written over.
"""

from __future__ import annotations

import contextlib
import errno
import filecmp
import os
import shutil
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from rl100_policy.bags.closed import closed_episode
from rl100_policy.bags.identity import is_episode_folder
from rl100_policy.bags.reservation import LOCK_FILE, FolderLock
from rl100_policy.bags.storage import sync_folder
from rl100_policy.core.errors import BagError

_WORK_PREFIX = ".copying-"
"""Folder of a copy in progress; one left by a crash is made anew."""
_LEAVING_PREFIX = ".moved-"
"""Folder of an episode that is already where it was moved to."""


class TransferMode(StrEnum):
    """How an episode comes into the other folder."""

    COPY = "copy"
    LINK = "link"
    """Hard links where the file system allows, which take no space; otherwise a copy."""
    MOVE = "move"


class TransferStatus(StrEnum):
    """What happened to one episode."""

    COPIED = "copied"
    LINKED = "linked"
    MOVED = "moved"
    ALREADY_THERE = "already there"
    """The same episode, byte for byte, was there; nothing was changed."""
    REFUSED = "refused"
    """Another episode of this name was there; nothing was changed."""


@dataclass(frozen=True)
class Transfer:
    """Outcome of one transfer."""

    source: Path
    target: Path
    status: TransferStatus
    detail: str = ""
    """For people; empty where the status says all."""


def transfer_episode(episode: Path, into: Path, mode: TransferMode) -> Transfer:
    """Bring one closed episode into a folder, under the name it has.

    Args:
        episode: Its folder; with ``TransferMode.MOVE`` it is gone afterwards.
        into: Folder of episodes; made if missing.
        mode: How.

    Raises:
        BagError: If it is no closed episode, ``into`` is no folder for episodes, or it cannot be
            written; the episode is where it was then, and ``into`` as it was.
    """
    source = closed_episode(episode)
    target = into.absolute() / source.name
    if into.is_dir() and (is_episode_folder(into) or into.samefile(source.parent)):
        raise BagError(f"{into} is an episode, or where {episode} is already; give another folder")
    if target.exists():
        return _beside(source, target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        return _transferred(source, target, mode)
    except OSError as error:
        raise BagError(
            f"cannot {mode.value} {episode} into {into}: {error}; check rights and space, then "
            "run the same command again: what is there is passed over"
        ) from error


def _beside(source: Path, target: Path) -> Transfer:
    """Nothing is done where the name is taken; what is said depends on by what."""
    difference = _difference(source, target)
    if not difference:
        return Transfer(source, target, TransferStatus.ALREADY_THERE)
    detail = f"{target} is there and differs: {difference}; rename or delete one of the two"
    return Transfer(source, target, TransferStatus.REFUSED, detail)


def _difference(first: Path, second: Path) -> str:
    """What differs between two episodes, for people; empty if they are equal byte for byte."""
    names = _file_names(first)
    if names != _file_names(second):
        return f"{sorted(names)} here, {sorted(_file_names(second))} there"
    unequal = [
        name
        for name in sorted(names)
        if not filecmp.cmp(first / name, second / name, shallow=False)
    ]
    return f"other bytes in {', '.join(unequal)} (judged anew?)" if unequal else ""


def _file_names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {LOCK_FILE} if folder.is_dir() else set()


def _transferred(source: Path, target: Path, mode: TransferMode) -> Transfer:
    if mode is TransferMode.MOVE:
        try:
            source.rename(target)  # within one file system: at once
            sync_folder(target.parent)
            sync_folder(source.parent)
            return Transfer(source, target, TransferStatus.MOVED)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
    linked = _copy(source, target, link=mode is TransferMode.LINK)
    if mode is TransferMode.MOVE:
        leaving = source.with_name(_LEAVING_PREFIX + source.name)
        source.rename(leaving)  # at no moment is half of it an episode
        shutil.rmtree(leaving)
        return Transfer(source, target, TransferStatus.MOVED)
    return Transfer(source, target, TransferStatus.LINKED if linked else TransferStatus.COPIED)


def _copy(source: Path, target: Path, *, link: bool) -> bool:
    """Copy into a hidden folder and rename it; returns whether every file could be linked."""
    work = target.with_name(_WORK_PREFIX + target.name)
    work.mkdir(exist_ok=True)
    try:
        lock = FolderLock(work)
    except BlockingIOError as error:
        raise BagError(f"{target} is being copied by another process; let it finish") from error
    try:
        for rest in work.iterdir():  # of a copy that a crash ended
            if rest.name != LOCK_FILE:
                rest.unlink()
        linked = [
            _placed(source / name, work / name, link=link) for name in sorted(_file_names(source))
        ]
        sync_folder(work)
        work.rename(target)  # fails where another process has made it meanwhile
        (target / LOCK_FILE).unlink(missing_ok=True)
        sync_folder(target.parent)
    finally:
        lock.abandon()
    return all(linked)


def _placed(file: Path, target: Path, *, link: bool) -> bool:
    """Link one file, or copy it to disk where that cannot be; returns whether it is a link."""
    if link:
        with contextlib.suppress(OSError):  # another file system, or one without hard links
            os.link(file, target)
            return True
    shutil.copy2(file, target)
    with target.open("rb") as stream:
        os.fsync(stream.fileno())
    return False
