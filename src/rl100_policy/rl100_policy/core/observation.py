# SPDX-License-Identifier: Apache-2.0
"""Frames and windows of observation: what one decision sees."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rl100_policy.core.config import ObservationConfig, StateObservation
from rl100_policy.core.errors import ObservationError
from rl100_policy.core.messages import nearest

Floats = NDArray[np.float32]
Visual = NDArray[np.float32 | np.uint8]
"""What is seen: [..., N, 3] float32 points, base frame [m], N = 0 where there is nothing to see;
or [..., H, W, 3] uint8 pixels, red, green, blue."""

_JOINT_STATES_KEPT = 512
"""A second of joint states at 500 Hz."""
_VISUALS_KEPT = 8
_NOTHING: Visual = np.zeros((0, 3), np.float32)
_SET_BACK_PERIODS = 10
"""A frame this much older than the newest is no straggler: the clock was set back."""


@dataclass(frozen=True)
class Frame:
    """One time step of observation."""

    stamp_ns: int
    visual: Visual
    """[N, 3] or [H, W, 3]."""
    proprio: Floats
    """[d_q], SI units, see :func:`proprioception`."""


def proprioception(
    config: ObservationConfig,
    q: NDArray[np.float64],
    tool_position: Callable[[NDArray[np.float64]], NDArray[np.float64]],
) -> Floats:
    """Proprioception vector from joint positions.

    Args:
        config: Which parts, in order.
        q: Joint positions, [n], rad.
        tool_position: Forward kinematics, [n] -> [3], m, base frame.

    Returns:
        [d_q], float32: tool position first.
    """
    parts = [tool_position(q) if item == "tool_position" else q for item in config.proprio]
    return np.concatenate(parts).astype(np.float32)


class ObservationWindow:
    """The newest frame and those one, two, ... control periods before it, as in training.

    The camera may be faster than the control rate: of each earlier time the nearest frame within
    half a period is taken. At the start of an episode the oldest frame found stands in for those
    before it.
    """

    def __init__(self, n_obs: int, period_ns: int) -> None:
        """Begin empty."""
        self._n_obs, self._period_ns = n_obs, period_ns
        self._frames: deque[Frame] = deque()

    def clear(self) -> None:
        """Forget all frames."""
        self._frames.clear()

    def push(self, frame: Frame) -> None:
        """Add the next frame.

        A gap of more than one and a half periods, or a clock set back, begins a new window.

        Raises:
            ObservationError: If the frame is not newer than the newest one, or holds values that
                are not finite.
        """
        if not (np.isfinite(frame.visual).all() and np.isfinite(frame.proprio).all()):
            raise ObservationError(
                f"frame of {frame.stamp_ns} ns holds NaN or infinity; it is not used"
            )
        if self._frames:
            gap = frame.stamp_ns - self._frames[-1].stamp_ns
            if gap < -_SET_BACK_PERIODS * self._period_ns:
                self._frames.clear()
            elif gap <= 0:
                raise ObservationError(
                    f"frame of {frame.stamp_ns} ns is not newer than the last ({-gap} ns older)"
                )
            elif 2 * gap > 3 * self._period_ns:
                self._frames.clear()
        self._frames.append(frame)
        while frame.stamp_ns - self._frames[0].stamp_ns > self._n_obs * self._period_ns:
            self._frames.popleft()

    @property
    def newest_ns(self) -> int | None:
        """Stamp of the newest frame, or None."""
        return self._frames[-1].stamp_ns if self._frames else None

    @property
    def interval_ns(self) -> int:
        """Time between the two newest frames [ns], at most one period."""
        if len(self._frames) < 2:
            return self._period_ns
        return min(self._frames[-1].stamp_ns - self._frames[-2].stamp_ns, self._period_ns)

    def frames(self) -> list[Frame]:
        """Exactly n_obs frames, oldest first.

        Raises:
            ObservationError: If there is no frame yet.
        """
        if not self._frames:
            raise ObservationError("no frame yet: do the sensors and the cloud node publish?")
        chosen = [self._frames[-1]]
        for periods in range(1, self._n_obs):
            wanted = self._frames[-1].stamp_ns - periods * self._period_ns
            older = [f for f in self._frames if f.stamp_ns < chosen[0].stamp_ns]
            best = min(older, key=lambda f: abs(f.stamp_ns - wanted), default=chosen[0])
            near = 2 * abs(best.stamp_ns - wanted) <= self._period_ns
            chosen.insert(0, best if near else chosen[0])
        return chosen


class FrameAssembler:
    """Joins what is seen and joint states of the same time into frames, in the order of sight.

    What is seen waits for a joint state that is near enough; one that can no longer get any is
    given up. Where there is nothing to see every joint state is a frame.
    """

    def __init__(
        self,
        config: ObservationConfig,
        tool_position: Callable[[NDArray[np.float64]], NDArray[np.float64]],
        *,
        period_ns: int,
        tolerance_ns: int,
    ) -> None:
        """Begin empty.

        Args:
            config: What a frame holds.
            tool_position: Forward kinematics, [n] -> [3], m, base frame.
            period_ns: Control period; a cloud or image this much older than the newest joint state
                is given up.
            tolerance_ns: How far apart it and its joint state may be; 0 asks for equal stamps.
        """
        self._config, self._tool_position = config, tool_position
        self._is_blind = isinstance(config, StateObservation)
        self._period_ns, self._tolerance_ns = period_ns, tolerance_ns
        self._joints: deque[tuple[int, NDArray[np.float64]]] = deque(maxlen=_JOINT_STATES_KEPT)
        self._visuals: deque[tuple[int, Visual]] = deque(maxlen=_VISUALS_KEPT)
        self.given_up = 0
        """Clouds or images that found no joint state."""

    def add_joint_state(self, stamp_ns: int, q: NDArray[np.float64]) -> list[Frame]:
        """Add joint positions [n] rad; returns the frames that are complete now, oldest first."""
        if self._is_blind:
            return [self._frame(stamp_ns, _NOTHING, q)]
        if self._joints and stamp_ns < self._joints[-1][0] - self._period_ns:
            self._joints.clear()  # the clock was set back: nothing from before matches any more
            self._visuals.clear()
        self._joints.append((stamp_ns, q))
        return self._complete()

    def add_visual(self, stamp_ns: int, visual: Visual) -> list[Frame]:
        """Add a cloud or image; returns the frames that are complete now, oldest first."""
        self._visuals.append((stamp_ns, visual))
        return self._complete()

    def _frame(self, stamp_ns: int, visual: Visual, q: NDArray[np.float64]) -> Frame:
        return Frame(stamp_ns, visual, proprioception(self._config, q, self._tool_position))

    def _complete(self) -> list[Frame]:
        frames = []
        while self._visuals:
            stamp_ns, visual = self._visuals[0]
            q = nearest(self._joints, stamp_ns, tolerance_ns=self._tolerance_ns)
            if q is not None:
                frames.append(self._frame(stamp_ns, visual, q))
            elif self._joints and self._joints[-1][0] > stamp_ns + self._period_ns:
                self.given_up += 1
            else:
                break
            self._visuals.popleft()
        return frames


def stack(frames: list[Frame]) -> tuple[Visual, Floats]:
    """Arrays of a window: what is seen, [n_obs, ...], and proprioception [n_obs, d_q]."""
    return np.stack([frame.visual for frame in frames]), np.stack(
        [frame.proprio for frame in frames]
    )
