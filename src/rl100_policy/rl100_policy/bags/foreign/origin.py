# SPDX-License-Identifier: Apache-2.0
"""Where an imported episode comes from, as its tags tell it."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rl100_policy.bags.index import read_index
from rl100_policy.core.errors import BagError

TAG = "import."
"""Begin of the tags that say where an episode comes from."""
_WALL_NS = 10**18
"""Earlier times, before 2001, are simulated ones and not unique."""


def hash_of(*told: Any) -> str:
    """SHA-256 of JSON values: equal for equal values, however a file was written."""
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def imported_before(into: Path, source: Path, sha256: str, mapping_sha256: str) -> list[str]:
    """Episodes of a folder that came from the same source by the same mapping.

    Raises:
        BagError: If some came from it by another mapping: it would be learned from twice.
    """
    entries = [
        entry
        for entry in read_index(into).entries
        if entry.metadata.tags.get(f"{TAG}source_sha256") == sha256
    ]
    other = [
        each.folder
        for each in entries
        if each.metadata.tags.get(f"{TAG}mapping_sha256") != mapping_sha256
    ]
    if other:
        raise BagError(
            f"{source} is in {into} already, imported by another mapping: {other}; remove those "
            "episodes, or give another folder"
        )
    return [each.folder for each in entries]


def wall_time(stamp_ns: int) -> datetime:
    """When something was recorded; now, if its stamps are not wall time."""
    if stamp_ns < _WALL_NS:
        return datetime.now(UTC)
    return datetime.fromtimestamp(stamp_ns * 1e-9, UTC)
