# SPDX-License-Identifier: Apache-2.0
"""What a folder holds: one run, told by a fingerprint of all that decides its bits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from rl100_learner.files import replacing
from rl100_learner.training.settings import flattened
from rl100_policy.core.errors import ConfigError


def fingerprint(*parts: object) -> str:
    """SHA-256 of what decides a run; parts are such as JSON can hold."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def content_key(*parts: object) -> str:
    """Ten digits of a fingerprint, for names of files and folders."""
    return fingerprint(*parts)[:10]


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes from learning in a folder for as long as the context lasts.

    Raises:
        ConfigError: If one is learning there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / _LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise ConfigError(
            f"another process is learning in {folder}; wait until it has ended, or choose another "
            "output folder"
        ) from error
    try:
        yield
    finally:
        lock.release()


_LOCK = ".lock"
"""Of a process that was killed the system lets go."""


def claim(path: Path, identity: str, told: dict[str, Any]) -> None:
    """Write down what is run in the folder of ``path``, or see that it is the same.

    Args:
        path: The file that says so.
        identity: Of :func:`fingerprint`.
        told: What a person would want to read there, such as resolved settings.

    Raises:
        ConfigError: If another run is there, of this kind or of another, or the report of an
            evaluation; nothing is changed then.
    """
    if path.exists():
        try:
            known = dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError):
            known = {}
        if known.pop("fingerprint", None) == identity:
            return
        raise ConfigError(
            f"{path.parent} holds another run: {_differences(known, told)}; choose another output "
            "folder, or give the same again to go on with it"
        )
    others = [name for name in _CLAIMS if (path.parent / name).exists()]
    if others:
        raise ConfigError(
            f"{path.parent} holds something else: {', '.join(others)} and no {path.name}; choose "
            "another output folder"
        )
    with replacing(path) as file:
        file.write((json.dumps({"fingerprint": identity} | told, indent=2) + "\n").encode())


def _differences(there: dict[str, Any], now: dict[str, Any]) -> str:
    """What a person would change to make two runs the same."""
    was, told = flattened(there), flattened(now)
    found = [
        f"{key} was {was.get(key, 'not set')} and is {told.get(key, 'not set')}"
        for key in sorted(was.keys() | told.keys())
        if was.get(key) != told.get(key)
    ]
    rest = f" and {len(found) - _MOST} more" if len(found) > _MOST else ""
    return ", ".join(found[:_MOST]) + rest or "from other episodes or another version"


_MOST = 4
"""Differences that are named."""

RUN, IMITATION, OFFLINE, ONLINE, REPORT = (
    "run.json", "settings.json", "offline.json", "online.json", "report.json"
)  # fmt: skip
_CLAIMS = (RUN, IMITATION, OFFLINE, ONLINE, REPORT)
"""Whose folder it is, by the files that say so."""
