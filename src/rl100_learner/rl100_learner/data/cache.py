# SPDX-License-Identifier: Apache-2.0
"""Tensors of episodes read before, so that only new bags cost anything.

One safetensors file per episode and description lies in ``<bags>/.cache/``. It holds as long as
the bag, the task, the robot (with its URDF) and the code that made it are the same; anything else,
or damage, and it is made anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from rl100_learner import data
from rl100_learner.data.bag_episode import ReadEpisode
from rl100_learner.data.episode import Episode
from rl100_policy import bags as policy_bags
from rl100_policy import core
from rl100_policy.bags.identity import CACHE, METADATA_FILE, bag_file
from rl100_policy.bags.metadata import config_hash
from rl100_policy.core.config import RobotConfig, TaskConfig
from rl100_policy.core.errors import BagError
from rl100_policy.core.shares import resolve_uri

_CODE: tuple[ModuleType, ...] = (data, policy_bags, core)
"""Packages in which a change may change tensors or outcomes."""

_TAIL_BYTES = 65536
"""The end of an MCAP file holds its index: times, sizes and counts of everything in it."""

_ARRAYS = ("visual", "proprio", "actions", "stamps_ns")


class EpisodeCache:
    """Cache of one bag folder for one task on one arm."""

    def __init__(
        self, bags: Path, task: TaskConfig, robot: RobotConfig, *, accept_other_setup: bool
    ) -> None:
        """Compute what all entries depend on; nothing is written yet."""
        self._folder = bags / CACHE
        urdf = hashlib.sha256(resolve_uri(robot.urdf).read_bytes()).hexdigest()
        self._description = hashlib.sha256(
            f"{config_hash(task, robot)} {urdf} {accept_other_setup}".encode()
        ).hexdigest()
        sources = [
            path for package in _CODE for path in sorted(Path(package.__path__[0]).glob("*.py"))
        ]
        self._code = hashlib.sha256(b"".join(map(Path.read_bytes, sources))).hexdigest()

    def load(self, bag: Path) -> ReadEpisode | None:
        """Entry of a bag, or None if there is none that holds."""
        path = self._path(bag)
        try:
            with safe_open(path, framework="numpy") as stored:
                described = stored.metadata() or {}
                if described.get("key") != self._key(bag):
                    return None
                arrays = {name: stored.get_tensor(name) for name in _ARRAYS}
            episode = Episode(
                id=described["id"],
                outcome=described["outcome"],
                source_sha256=described["source_sha256"],
                lasted=int(described["lasted"]),
                taken_over=bool(int(described["taken_over"])),
                **arrays,
            )
            return ReadEpisode(episode, tuple(filter(None, described["notes"].split("\n"))))
        except (OSError, SafetensorError, KeyError, BagError, ValueError):
            return None  # missing or damaged: the bag is read instead

    def store(self, bag: Path, read: ReadEpisode) -> None:
        """Keep an entry; a folder that cannot be written is left as it is."""
        episode = read.episode
        described = {
            "key": self._key(bag),
            "id": episode.id,
            "outcome": episode.outcome,
            "source_sha256": episode.source_sha256,
            "lasted": str(episode.lasted),
            "taken_over": str(int(episode.taken_over)),
            "notes": "\n".join(note.replace("\n", " ") for note in read.notes),
        }
        arrays = {name: np.ascontiguousarray(getattr(episode, name)) for name in _ARRAYS}
        # a full disk is a SafetensorError where the library writes
        with contextlib.suppress(OSError, SafetensorError):
            self._folder.mkdir(exist_ok=True)
            descriptor, draft = tempfile.mkstemp(dir=self._folder, suffix=".tmp")
            os.close(descriptor)
            try:
                save_file(arrays, draft, metadata=described)
                Path(draft).replace(self._path(bag))
            finally:
                Path(draft).unlink(missing_ok=True)

    def _path(self, bag: Path) -> Path:
        return self._folder / f"{bag.name}.{self._description[:12]}.safetensors"

    def _key(self, bag: Path) -> str:
        return hashlib.sha256(
            f"{_fingerprint(bag)} {self._description} {self._code}".encode()
        ).hexdigest()


def _fingerprint(bag: Path) -> str:
    """Identity of a bag without reading all of it: size, time of change, index, metadata."""
    path = bag_file(bag)
    with path.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - _TAIL_BYTES))
        digest = hashlib.sha256(stream.read())
    digest.update(f"{bag.name} {size} {path.stat().st_mtime_ns}".encode())
    with contextlib.suppress(FileNotFoundError):
        digest.update((bag / METADATA_FILE).read_bytes())
    return digest.hexdigest()


__all__: Sequence[str] = ("EpisodeCache",)
