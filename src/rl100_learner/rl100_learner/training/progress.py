# SPDX-License-Identifier: Apache-2.0
"""What a run tells while it goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """Where a run stands: step of steps, latest mean loss, seconds of training so far.

    Attributes:
        success: Share of the latest episodes that succeeded; None where none were played. The loss
            may then be NaN: nothing was changed.
    """

    stage: str
    step: int
    steps: int
    loss: float
    seconds: float
    success: float | None = None


OnProgress = Callable[[Progress], None]
