# SPDX-License-Identifier: Apache-2.0
"""Stages of a run, and what each that is finished has ended with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import Field

from rl100_policy.core.config import FrozenModel
from rl100_policy.core.errors import ConfigError

STAGES = "stages.json"
Stage = Literal["imitation", "offline", "online"]
ALL_STAGES: tuple[Stage, ...] = ("imitation", "offline", "online")
CURRENT = "current"
"""Among those that are tried after a stage: the version from before it."""


class StageRecord(FrozenModel):
    """What a stage ended with."""

    name: str
    """``imitation``, ``round 1``, ..., ``online``."""
    version: str
    """Folder of the version, relative to that of the run."""
    episodes: int
    """Episodes that were played for it, trials included; demonstrations for imitation."""
    periods: int
    """Control periods of those episodes."""
    seconds: float
    """Wall clock, without what was there already when the run was resumed [s]."""
    trials: dict[str, tuple[int, int]] = Field(default_factory=dict)
    """Successes and trials of the version from before (``CURRENT``) and of the candidates."""
    chosen: str = ""
    """Which of them goes on."""
    rollouts: tuple[int, int] | None = None
    """Successes and number of a round's roll-outs, drawn with noise."""


def read_stages(output: Path) -> list[StageRecord]:
    """Records of the finished stages of a run, in their order.

    Raises:
        ConfigError: If they are damaged.
    """
    path = output / STAGES
    if not path.exists():
        return []
    try:
        return [StageRecord.model_validate(row) for row in json.loads(path.read_text("utf-8"))]
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{path} is damaged ({error}); bring it back from a copy, or choose another output "
            "folder"
        ) from error
