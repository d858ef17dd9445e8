# SPDX-License-Identifier: Apache-2.0
"""Table of the closed episodes of a folder: fast the second time, rebuildable from the bags.

The cache file ``.index.json`` remembers what was read, by size and time of change of each bag's
files. It is never trusted further than that: a missing, damaged or outdated entry is read again
from the bag.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rl100_policy.bags.identity import INDEX, METADATA_FILE, PARTIAL, bag_file, is_episode_folder
from rl100_policy.bags.judgement import Outcome
from rl100_policy.bags.metadata import EpisodeMetadata
from rl100_policy.bags.reading import read_metadata, read_statistics
from rl100_policy.core.config import FrozenModel
from rl100_policy.core.errors import BagError

_FORMAT = 1


class IndexEntry(FrozenModel):
    """One closed episode."""

    folder: str
    """Folder name within the bag folder."""
    key: str
    """Sizes and times of change of its files when it was read."""
    bytes: int
    """Size of its MCAP file [B]."""
    seconds: float
    """From the first to the last message, ROS time [s]."""
    messages: int
    metadata: EpisodeMetadata


@dataclass(frozen=True)
class BagIndex:
    """Closed episodes of a folder in the order of their ids, and what else was found."""

    entries: tuple[IndexEntry, ...]
    damaged: dict[str, str]
    """Folder name to what is wrong with it."""
    unfinished: tuple[str, ...]
    """Names of ``.partial`` folders: being written, or left by a crash."""

    def summary(self) -> BagSummary:
        """Totals."""
        outcomes = Counter(entry.metadata.outcome for entry in self.entries)
        return BagSummary(
            episodes=len(self.entries),
            seconds=sum(entry.seconds for entry in self.entries),
            bytes=sum(entry.bytes for entry in self.entries),
            messages=sum(entry.messages for entry in self.entries),
            outcomes={outcome: outcomes[outcome] for outcome in Outcome},
            degraded=sum(entry.metadata.degraded for entry in self.entries),
            recovered=sum(entry.metadata.recovered for entry in self.entries),
        )


def hint_of_bags(folder: Path) -> str:
    """Where episodes are that somebody looks for in ``folder`` and does not find; or nothing."""
    if not folder.is_dir():
        return f"there is no folder {folder}"
    if is_episode_folder(folder):
        return f"this is one episode; give the folder that it is in, {folder.parent}"
    for each in sorted(folder.iterdir()):
        if each.is_dir() and not each.name.startswith("."):
            with contextlib.suppress(OSError):  # one that may not be read
                if count := sum(map(is_episode_folder, each.iterdir())):
                    return f"there are {count} in {each}"
    return ""


@dataclass(frozen=True)
class BagSummary:
    """Totals over the closed episodes of a folder."""

    episodes: int
    seconds: float
    """Recorded ROS time [s]."""
    bytes: int
    """Size of the MCAP files [B]."""
    messages: int
    outcomes: dict[Outcome, int]
    """Episodes by outcome; every outcome is present."""
    degraded: int
    recovered: int


def read_index(bags: Path, known: BagIndex | None = None) -> BagIndex:
    """List the closed episodes of a folder, reading only those that are new or changed.

    A folder that cannot be written is listed all the same, only not faster the next time.

    Args:
        bags: Folder of all episodes; a missing one is empty.
        known: What was there at an earlier look. It stands for the cache file, which is then
            neither read nor written: who looks twice a second does not read all each time.
    """
    if not bags.is_dir():
        return BagIndex((), {}, ())
    cached = _load(bags / INDEX) if known is None else _by_folder(known.entries)
    entries: list[IndexEntry] = []
    damaged: dict[str, str] = {}
    folders = sorted(folder for folder in bags.iterdir() if folder.is_dir())
    for folder in filter(is_episode_folder, folders):
        try:
            key = _key(folder)
            entry = cached.get(folder.name)
            entries.append(
                entry if entry is not None and entry.key == key else _read_entry(folder, key)
            )
        except (BagError, OSError) as error:
            damaged[folder.name] = str(error)
    if known is None and {entry.folder: entry.key for entry in entries} != {
        name: entry.key for name, entry in cached.items()
    }:
        _store(bags / INDEX, entries)
    unfinished = tuple(folder.name for folder in folders if folder.name.endswith(PARTIAL))
    return BagIndex(tuple(entries), damaged, unfinished)


def _key(folder: Path) -> str:
    """Changes whenever a file of the episode does."""
    parts = []
    for path in (bag_file(folder), folder / METADATA_FILE):
        try:
            status = path.stat()
            parts.append(f"{status.st_size}:{status.st_mtime_ns}")
        except FileNotFoundError:
            parts.append("-")
    return "/".join(parts)


def _read_entry(folder: Path, key: str) -> IndexEntry:
    metadata = read_metadata(folder)
    seconds, messages = read_statistics(bag_file(folder))  # also tells that the file is whole
    size = bag_file(folder).stat().st_size
    return IndexEntry(
        folder=folder.name,
        key=key,
        bytes=size,
        seconds=seconds,
        messages=messages,
        metadata=metadata,
    )


def _load(path: Path) -> dict[str, IndexEntry]:
    """Entries of the cache file by folder; none if it is not readable."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != _FORMAT:
            return {}
        entries = [IndexEntry.model_validate(entry) for entry in content["entries"]]
    except (OSError, ValueError, KeyError, TypeError, ValidationError, RecursionError):
        return {}
    return _by_folder(entries)


def _by_folder(entries: Iterable[IndexEntry]) -> dict[str, IndexEntry]:
    return {entry.folder: entry for entry in entries}


def _store(path: Path, entries: Iterable[IndexEntry]) -> None:
    """Replace the cache file in one step; two processes may do so at once."""
    content = {"format": _FORMAT, "entries": [entry.model_dump(mode="json") for entry in entries]}
    with contextlib.suppress(OSError):
        descriptor, draft = tempfile.mkstemp(prefix=INDEX, suffix=".tmp", dir=path.parent)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                json.dump(content, stream)
            Path(draft).replace(path)
        finally:
            Path(draft).unlink(missing_ok=True)
