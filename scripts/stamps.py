# SPDX-License-Identifier: Apache-2.0
"""Stamps: what a finished step was made from, so that it runs again only when that changed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


def fingerprint(parts: Iterable[str | Path]) -> str:
    """One hash of strings and of files (name and content; a missing file counts as missing)."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            content = part.read_bytes() if part.is_file() else b"missing"
            label = b"file:" + part.name.encode()
        else:
            content, label = part.encode(), b"text"
        digest.update(b"%d:%s%d:" % (len(label), label, len(content)))
        digest.update(content)
    return digest.hexdigest()


class Stamp:
    """The record of one step. A step that was begun and not finished is never current."""

    def __init__(self, directory: Path, name: str) -> None:
        """Use the files `name` and `name.begun` in `directory`."""
        self._done = directory / name
        self._begun = directory / f"{name}.begun"

    def is_current(self, wanted: str) -> bool:
        """Whether the step finished with exactly these inputs."""
        return (
            not self._begun.exists() and self._done.is_file() and self._done.read_text() == wanted
        )

    @property
    def was_interrupted(self) -> bool:
        """Whether the step was begun and never finished."""
        return self._begun.exists()

    @property
    def has_finished(self) -> bool:
        """Whether the step finished once, with these or other inputs."""
        return self._done.is_file() and not self.was_interrupted

    @contextmanager
    def running(self, inputs: str) -> Iterator[None]:
        """Mark the step begun; mark it finished only when the block ends without an exception."""
        self._done.parent.mkdir(parents=True, exist_ok=True)
        self._done.unlink(missing_ok=True)
        self._begun.touch()
        yield
        self._done.write_text(inputs)
        self._begun.unlink()
