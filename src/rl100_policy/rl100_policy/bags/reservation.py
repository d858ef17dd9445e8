# SPDX-License-Identifier: Apache-2.0
"""Who may write an unfinished episode: a file lock that the kernel releases when its process dies.

A lock of the kernel, not a process number in a file: it cannot be mistaken for the lock of a later
process with the same number, and it works between containers that share the folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from pathlib import Path

from rl100_policy.bags.identity import PARTIAL, QUARANTINE, TRASH
from rl100_policy.core.errors import BagError

LOCK_FILE = "writer.lock"
_ATTEMPTS = 100


class FolderLock:
    """Exclusive lock on an unfinished episode, given up at the latest by the process's end."""

    def __init__(self, folder: Path) -> None:
        """Take the lock.

        Raises:
            BlockingIOError: If a living process holds it.
            OSError: If the folder is gone or not writable.
        """
        self._path = folder / LOCK_FILE
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not is_at(self._path, self._descriptor):
                # the folder was moved away before it was locked, or an earlier holder removed
                # this file and another process has made the next one
                raise FileNotFoundError(f"{self._path} was moved away")
        except OSError:
            os.close(self._descriptor)
            raise
        os.truncate(self._descriptor, 0)
        os.write(self._descriptor, f"pid {os.getpid()} on {socket.gethostname()}\n".encode())

    def release(self) -> None:
        """Remove the lock file, if it is still there, and give up the lock."""
        if is_at(self._path, self._descriptor):
            self._path.unlink(missing_ok=True)
        os.close(self._descriptor)

    def abandon(self) -> None:
        """Give up the lock and leave the file, as a crash would."""
        os.close(self._descriptor)


def is_locked(folder: Path) -> bool:
    """Whether a living process writes an unfinished episode now; changes nothing."""
    try:
        descriptor = os.open(folder / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def is_at(path: Path, descriptor: int) -> bool:
    """Whether an open file is still the one with this name."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except OSError:
        return False


def reserve(bags: Path, episode_id: str) -> tuple[Path, FolderLock]:
    """New folder ``<id>.partial`` and its lock; a taken id becomes ``<id>_2`` and so on.

    Processes that share the folder never get the same id, nor one of an episode that was closed,
    discarded, or put into quarantine.

    Raises:
        BagError: If the folder cannot be made.
    """
    try:
        bags.mkdir(parents=True, exist_ok=True)
        for attempt in range(1, _ATTEMPTS):
            name = episode_id if attempt == 1 else f"{episode_id}_{attempt}"
            folder = bags / (name + PARTIAL)
            if _is_taken(bags, name):
                continue
            try:
                folder.mkdir()
                lock = FolderLock(folder)
            except (FileExistsError, FileNotFoundError, BlockingIOError):
                continue  # another process was faster, or a recovery took the folder for a crash's
            if not _is_taken(bags, name):
                return folder, lock
            lock.release()  # the other process has begun and closed its episode in between
            with contextlib.suppress(OSError):  # a recovery has taken it for a crash's
                folder.rmdir()
    except OSError as error:
        raise BagError(
            f"cannot make an episode folder in {bags}: {error}; check the path, rights and space"
        ) from error
    raise BagError(f"no free name for episode {episode_id} in {bags} after {_ATTEMPTS} attempts")


def _is_taken(bags: Path, name: str) -> bool:
    """Whether an episode that is not being written has this id."""
    ended = (bags / name, bags / TRASH / name, bags / QUARANTINE / (name + PARTIAL))
    return any(folder.exists() for folder in ended)
