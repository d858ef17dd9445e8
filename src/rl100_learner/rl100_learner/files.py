# SPDX-License-Identifier: Apache-2.0
"""Files that are complete or absent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from rl100_policy.core.errors import StorageError


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of ``path`` when the context ends without an error.

    What is there already stays as it was until then, also when the disk is full, and nothing is
    left of a file that could not be written. Blocks until the data is on disk.

    Raises:
        StorageError: If it cannot be written.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}; what was there before is still "
            "there: make room or give the right to write, then the same command goes on from it"
        ) from error
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
