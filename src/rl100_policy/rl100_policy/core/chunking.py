# SPDX-License-Identifier: Apache-2.0
"""Chunks of actions and which of them is due at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rl100_policy.core.config import ActionConfig
from rl100_policy.core.errors import ActionError

Floats = NDArray[np.float64]

_EARLY = 10
"""Of a period, the part by which an action may begin before its time."""


@dataclass(frozen=True)
class Chunk:
    """n_c consecutive actions of one decision.

    Action j is due for about a period from stamp + j period on; see :meth:`index_at`.

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
    fresh: int = 0
    """Actions before the next decision is meant to be there; those after it are for when it is
    late. 0: all of them."""
    shadow: bool = False
    """Only told, never executed."""

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

    @property
    def n_fresh(self) -> int:
        """Actions before the next decision is meant to be there."""
        return self.fresh or len(self.actions)

    def index_at(self, time_ns: int) -> int:
        """Number of the action due at a time: below 0 before the chunk begins.

        An action begins a tenth of a period early, so that stamps which differ by little from one
        period to the next make none due twice.
        """
        return (time_ns - self.stamp_ns + self.period_ns // _EARLY) // self.period_ns


@dataclass(frozen=True)
class Due:
    """What the policy wants in a period.

    Attributes:
        action: [d_a], SI units.
        chunk: The newest decision that it is from.
        fresh: No newer decision is meant to be there; otherwise it is late.
    """

    action: Floats
    chunk: Chunk
    fresh: bool


class ChunkSchedule:
    """Which action is due: that of the newest chunk that covers the time.

    Where the next decision is meant to be there, its first action is due, too, if it is of an
    observation that was made up to half a period later: cameras and arms have clocks of their own.
    Once a chunk is due, its actions follow one another, a period each, whatever stamps jitter by.

    A newer decision overrides older ones, at once or over some periods: in the k-th period in
    which it is due (from 1) its action counts k / (blend + 1), and the rest is what would be due
    without it, as long as any other that was due covers the time, too.
    """

    def __init__(self, blend: int = 0) -> None:
        """Begin without chunks.

        Args:
            blend: Periods over which a newer chunk takes over.
        """
        self._blend = blend
        self._turns: list[_Turn] = []
        """Oldest first."""

    def clear(self) -> None:
        """Forget all chunks."""
        self._turns.clear()

    def push(self, chunk: Chunk) -> None:
        """Add a decision.

        Raises:
            ActionError: If it is not newer than the newest one (duplicated or out of order).
        """
        if self._turns and chunk.stamp_ns <= self._turns[-1].chunk.stamp_ns:
            raise ActionError(
                f"chunk of {chunk.stamp_ns} ns is not newer than that of "
                f"{self._turns[-1].chunk.stamp_ns} ns; it is ignored"
            )
        self._turns = [*self._turns[-self._blend - 1 :], _Turn(chunk)]

    def due(self, time_ns: int) -> Due | None:
        """What is due at a time, or None.

        Ask for times that do not go back, one or more in each period.
        """
        covering = [turn for turn in self._turns if turn.covers(time_ns)]
        if not covering or not covering[-1].is_fresh_at(time_ns):
            newest = self._turns[-1] if self._turns else None
            if newest and not newest.was_due and newest.begins_soon_after(time_ns):
                newest.begin(time_ns, 0)
                covering.append(newest)
        if not covering:
            return None
        current = covering[-1]
        current.begin(time_ns, current.index_at(time_ns))
        blended: Floats | None = None
        for turn in covering:
            if turn.was_due:
                weight, action = turn.weight(time_ns, self._blend), turn.action_at(time_ns)
                blended = action if blended is None else weight * action + (1 - weight) * blended
        assert blended is not None, "the current one is due"
        return Due(blended, current.chunk, current.is_fresh_at(time_ns))


@dataclass
class _Turn:
    """A chunk, when it was first due and with which action.

    From then on its actions are due one after the other, a period each.
    """

    chunk: Chunk
    began_ns: int | None = None
    first: int = 0

    @property
    def was_due(self) -> bool:
        return self.began_ns is not None

    def begin(self, time_ns: int, first: int) -> None:
        if self.began_ns is None:
            self.began_ns, self.first = time_ns, first

    def index_at(self, time_ns: int) -> int:
        if self.began_ns is None:
            return self.chunk.index_at(time_ns)
        return self.first + self._periods_since(time_ns, self.began_ns)

    def _periods_since(self, time_ns: int, began_ns: int) -> int:
        return (time_ns - began_ns + self.chunk.period_ns // 2) // self.chunk.period_ns

    def covers(self, time_ns: int) -> bool:
        return 0 <= self.index_at(time_ns) < len(self.chunk.actions)

    def is_fresh_at(self, time_ns: int) -> bool:
        """Whether no newer decision is meant to be there at a time."""
        return self.index_at(time_ns) < self.chunk.n_fresh

    def begins_soon_after(self, time_ns: int) -> bool:
        return 0 < self.chunk.stamp_ns - time_ns <= self.chunk.period_ns // 2

    def action_at(self, time_ns: int) -> Floats:
        action: Floats = self.chunk.actions[self.index_at(time_ns)]
        return action

    def weight(self, time_ns: int, blend: int) -> float:
        """Share of its action in a period."""
        since = 0 if self.began_ns is None else self._periods_since(time_ns, self.began_ns)
        return min(1.0, (1 + max(0, since)) / (blend + 1))


def lead(reach_s: float, patience_s: float, period_s: float) -> int:
    """Control periods before the end of a chunk at which the next decision must be begun.

    A period whose action is not there yet is answered ``patience_s`` late at most. If decisions
    reach the gate in time for that, the next one may wait for the observation with which its first
    action is due, as in training; otherwise it is begun earlier, and its first actions, whose time
    is over when it comes, are left out.

    Args:
        reach_s: From the stamp of an observation until its chunk is at the gate, at worst [s].
        patience_s: How late a period may be answered [s].
        period_s: Control period [s].
    """
    return max(0, math.ceil((reach_s - patience_s) / period_s))
