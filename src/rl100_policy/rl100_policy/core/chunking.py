# SPDX-License-Identifier: Apache-2.0
"""Chunks of actions and which of them is due at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rl100_policy.core.config import ActionConfig
from rl100_policy.core.errors import ActionError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Chunk:
    """n_c consecutive actions of one decision.

    Action j is due in [stamp + j period, stamp + (j + 1) period).

    Raises:
        ActionError: If it is empty, not finite, or its period is not positive.
    """

    stamp_ns: int
    period_ns: int
    action_space: str
    names: tuple[str, ...]
    actions: Floats
    """[n_c, d_a], SI units."""
    policy_version: str

    def __post_init__(self) -> None:
        """Refuse what cannot be executed."""
        if (
            self.actions.ndim != 2
            or self.actions.shape[1] != len(self.names)
            or len(self.actions) == 0
        ):
            raise ActionError(
                f"expected actions [n_chunk > 0, {len(self.names)}], got {self.actions.shape}"
            )
        if not np.isfinite(self.actions).all():
            raise ActionError("chunk holds NaN or infinite actions; it is not executed")
        if self.period_ns <= 0:
            raise ActionError(f"expected a positive action period, got {self.period_ns} ns")

    @staticmethod
    def shaped(flat: Sequence[float], n_chunk: int, dim: int) -> Floats:
        """Row-major [n_chunk, dim] from a flat sequence.

        Raises:
            ActionError: If the length is not n_chunk * dim.
        """
        values = np.asarray(flat, dtype=float)
        if values.shape != (n_chunk * dim,):
            raise ActionError(f"expected {n_chunk} x {dim} values, got {values.size}")
        return values.reshape(n_chunk, dim)

    def check(self, action: ActionConfig, period_ns: int, longest_ns: int) -> None:
        """Refuse a chunk made for another action space, or a longer plan than may be executed.

        Args:
            action: What the task commands.
            period_ns: Control period of the robot.
            longest_ns: Longest time that the arm may act on one observation.

        Raises:
            ActionError: Names what was expected and what came.
        """
        if (self.action_space, self.names) != (action.space, action.names):
            raise ActionError(
                f"expected {action.space} {list(action.names)}, "
                f"got {self.action_space} {list(self.names)}; "
                "is this policy made for this task?"
            )
        if self.period_ns != period_ns:
            raise ActionError(
                f"expected an action period of {period_ns} ns, got {self.period_ns} ns"
            )
        if self.end_ns - self.stamp_ns > longest_ns:
            raise ActionError(
                f"{len(self.actions)} actions last {(self.end_ns - self.stamp_ns) * 1e-9:.1f} s; "
                f"at most {longest_ns * 1e-9:.1f} s of one decision are executed "
                "(parameter longest_chunk of the command gate)"
            )

    @property
    def end_ns(self) -> int:
        """Time at which the last action is over."""
        return self.stamp_ns + len(self.actions) * self.period_ns

    def action_at(self, time_ns: int) -> Floats | None:
        """Action due at a time, [d_a]; None before the chunk begins or after it has ended."""
        index = (time_ns - self.stamp_ns) // self.period_ns
        return self.actions[index] if 0 <= index < len(self.actions) else None


class ChunkSchedule:
    """Which action is due: that of the newest chunk that covers the time.

    A newer decision overrides an older one.
    """

    def __init__(self) -> None:
        """Begin without chunks."""
        self._chunks: list[Chunk] = []

    def clear(self) -> None:
        """Forget all chunks."""
        self._chunks.clear()

    def push(self, chunk: Chunk) -> None:
        """Add a decision.

        Raises:
            ActionError: If it is not newer than the newest one (duplicated or out of order).
        """
        if self._chunks and chunk.stamp_ns <= self._chunks[-1].stamp_ns:
            raise ActionError(
                f"chunk of {chunk.stamp_ns} ns is not newer than that of "
                f"{self._chunks[-1].stamp_ns} ns; it is ignored"
            )
        self._chunks = [*self._chunks[-1:], chunk]

    def due(self, time_ns: int) -> tuple[Floats, Chunk] | None:
        """Action due at a time and the chunk it is from, or None."""
        for chunk in reversed(self._chunks):
            action = chunk.action_at(time_ns)
            if action is not None:
                return action, chunk
        return None
