# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of an unfinished run: complete or absent, and refused by any other run."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

from rl100_learner.files import replacing
from rl100_policy.core.errors import ConfigError

CHECKPOINT = "checkpoint.pt"
"""Of a run that is not finished, in its folder."""


def save_checkpoint(path: Path, fingerprint: str, state: dict[str, Any]) -> None:
    """Replace the checkpoint atomically.

    ``state`` holds tensors, numbers, strings and containers of them; tensors are written from the
    CPU, so that a run can go on on a machine with other devices.
    Blocks until the data is on disk; a kill at any moment leaves the old or the new one.

    Raises:
        StorageError: If it cannot be written.
    """
    # Straight into the file: a copy in memory would be as large as networks and optimisers.
    with replacing(path) as file:
        watched = _Watched(file)
        content = {"fingerprint": fingerprint, "state": _on_cpu(state)}
        try:
            torch.save(content, cast("BinaryIO", watched))  # it calls write and flush only
        except RuntimeError as error:
            # torch's own, about the end of a file that could not be written
            raise watched.failure or error from None


class _Watched:
    """A file that remembers why it could not be written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.failure: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.failure = error
            raise

    def flush(self) -> None:
        self._file.flush()


def load_checkpoint(path: Path, fingerprint: str) -> dict[str, Any] | None:
    """State of the run that ``fingerprint`` identifies, or None if there is no checkpoint.

    Executes no code from the file.

    Raises:
        ConfigError: If the checkpoint is damaged or belongs to other settings or episodes.
    """
    if not path.exists():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise ConfigError(
            f"checkpoint {path} is damaged ({error}); delete it to start the run again"
        ) from error
    if content["fingerprint"] != fingerprint:
        raise ConfigError(
            f"checkpoint {path} belongs to a run with other settings or episodes; choose another "
            "output folder, or delete it to start again"
        )
    return content["state"]


def _on_cpu(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.cpu()
    if isinstance(value, dict):
        return {key: _on_cpu(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_on_cpu(each) for each in value)
    return value
