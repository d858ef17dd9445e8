# SPDX-License-Identifier: Apache-2.0
"""Names of episodes and of the folders in a bag folder.

``<bags>/<id>/`` is a closed episode, ``<bags>/<id>.partial/`` one that is being written or was
left by a crash, ``<bags>/quarantine/`` holds what could not be used as it was, ``<bags>/trash/``
what a person discarded.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

PARTIAL = ".partial"
QUARANTINE = "quarantine"
TRASH = "trash"
CACHE = ".cache"
INDEX = ".index.json"
METADATA_FILE = "metadata.yaml"

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")


def new_episode_id(task: str, now: datetime | None = None) -> str:
    """Sortable name such as ``20261121T020813_042Z_push_t``: UTC wall time, then the task.

    Args:
        task: Task name; characters outside ``A-Za-z0-9_-`` become ``_``.
        now: Wall time with a time zone, the present if None. Simulated time starts at zero, so it
            would not be unique.
    """
    moment = (now or datetime.now(UTC)).astimezone(UTC)
    stamp = f"{moment:%Y%m%dT%H%M%S}_{moment.microsecond // 1000:03d}Z"
    name = _UNSAFE.sub("_", task).strip("_")
    return f"{stamp}_{name}" if name else stamp


def is_episode_folder(folder: Path) -> bool:
    """Whether a folder is a closed episode by name and contents; it may still be damaged."""
    if (
        folder.name.startswith(".")
        or folder.name.endswith(PARTIAL)
        or folder.name in (QUARANTINE, TRASH)
    ):
        return False
    return (folder / METADATA_FILE).is_file() or bag_file(folder).is_file()


def bag_file(folder: Path) -> Path:
    """MCAP file of an episode folder; in a renamed folder the first MCAP file."""
    name = folder.name.removesuffix(PARTIAL)
    expected = folder / f"{name}_0.mcap"
    if expected.is_file():
        return expected
    return next(iter(sorted(folder.glob("*.mcap"))), expected)


def free_name(folder: Path) -> Path:
    """The folder, or the first of ``<folder>_2``, ``<folder>_3``, ... that does not exist."""
    candidate, number = folder, 2
    while candidate.exists():
        candidate, number = folder.with_name(f"{folder.name}_{number}"), number + 1
    return candidate
