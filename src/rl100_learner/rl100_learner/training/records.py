# SPDX-License-Identifier: Apache-2.0
"""Records of a run: loss curves as JSON lines and for TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from torch.utils.tensorboard import SummaryWriter

from rl100_learner.files import replacing
from rl100_policy.core.errors import StorageError

METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"


class Records:
    """Writes rows ``{"stage", "step", "global_step", "seconds", <metric>: value, ...}``."""

    def __init__(self, folder: Path, resume_at: int) -> None:
        """Open the files and drop rows after global step ``resume_at``: they will be run again."""
        self._path = folder / METRICS
        kept = [row for row in read_metrics(folder) if int(row["global_step"]) <= resume_at]
        with replacing(self._path) as file:
            file.write("".join(json.dumps(row) + "\n" for row in kept).encode())
        self._file = self._path.open("a", encoding="utf-8")
        self._board = SummaryWriter(
            str(folder / TENSORBOARD), purge_step=resume_at + 1 if resume_at else None
        )

    def write(
        self, stage: str, step: int, global_step: int, seconds: float, metrics: Mapping[str, float]
    ) -> None:
        """Add one row; ``seconds``: of the folder's stages so far, as its run counts them.

        Raises:
            StorageError: If it cannot be written.
        """
        row = {
            "stage": stage,
            "step": step,
            "global_step": global_step,
            "seconds": round(seconds, 3),
            **metrics,
        }
        try:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
            for key, value in metrics.items():
                self._board.add_scalar(f"{stage}/{key}", value, global_step)
        except OSError as error:
            raise StorageError(
                f"cannot write {self._path.parent}: {error.strerror or error}; make room, then "
                "the same command goes on from the last checkpoint"
            ) from error

    def __enter__(self) -> Self:
        """Open already."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the files."""
        # every row was flushed when it was written, and said then what could not be
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            self._board.close()


def read_metrics(folder: Path) -> list[dict[str, float | str]]:
    """Rows of a run in order; a row cut short by a kill is left out."""
    path = folder / METRICS
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
