# SPDX-License-Identifier: Apache-2.0
"""Motion from held keys: which are held, and what velocity that asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rl100_policy.core.key_bindings import (
    FASTER_KEY,
    JOINT_DIGITS,
    JOINT_KEYS,
    MODE_KEY,
    SLOWER_KEY,
    TOOL_KEYS,
    UNSHIFTED,
)
from rl100_policy.core.key_decoder import KeyAction, KeyEvent

Floats = NDArray[np.float64]

_UNTIL_REPEAT_S, _BETWEEN_REPEATS_S = 0.75, 0.25
"""Where releases are told: longest time from a press to its first repeat, and between repeats
[s]."""
SCALES = (0.1, 0.2, 0.35, 0.5, 0.7, 1.0)
"""Step sizes, as shares of the largest velocity."""


@dataclass
class KeyMotion:
    """The state of the motion keys. Times are monotonic, in seconds.

    A key that was pressed moves the arm for ``lease_s``, and longer as long as it is repeated.
    Where the terminal tells releases it moves the arm until then; but a release may get lost with
    the focus or the link, so repeats must keep coming all the same.
    """

    joints: Sequence[str]
    lease_s: float
    """As long as a press moves the arm [s]; must be longer than the repeat of the terminal."""
    tells_releases: bool = False
    by_joint: bool = False
    """Single joints are steered, otherwise the tool."""
    joint: int = 0
    """The chosen one."""
    scale: int = 2
    """Place in ``SCALES``."""
    _held: dict[str, float] = field(default_factory=dict)
    """Key to the time until which it moves the arm."""

    def take(self, event: KeyEvent, now_s: float) -> bool:
        """Note a key event; whether it is one of motion."""
        keys = JOINT_KEYS if self.by_joint else TOOL_KEYS
        if event.key in keys:
            self._hold(event, now_s)
            return True
        if event.key in TOOL_KEYS:
            return True  # a tool's key that means nothing to a joint
        return event.action is not KeyAction.RELEASE and self._set(event.key)

    def _hold(self, event: KeyEvent, now_s: float) -> None:
        if event.action is KeyAction.RELEASE:
            self._held.pop(event.key, None)
        elif not self.tells_releases:
            self._held[event.key] = now_s + self.lease_s
        elif event.action is KeyAction.PRESS:
            self._held[event.key] = now_s + _UNTIL_REPEAT_S
        else:  # only the newest of several held keys is repeated
            self._held[event.key] = 0.0
            self._held = dict.fromkeys(self._held, now_s + _BETWEEN_REPEATS_S)

    def _set(self, key: str) -> bool:
        key = UNSHIFTED.get(key, key)
        if key == MODE_KEY:
            self.by_joint = not self.by_joint
        elif key in (FASTER_KEY, SLOWER_KEY):
            change = 1 if key == FASTER_KEY else -1
            self.scale = min(max(self.scale + change, 0), len(SCALES) - 1)
        elif key in JOINT_DIGITS:
            if JOINT_DIGITS.index(key) >= len(self.joints):
                return False
            self.joint = JOINT_DIGITS.index(key)
        else:
            return False
        self.release()
        return True

    def release(self) -> None:
        """Let go of everything, as when the terminal loses its focus or command changes."""
        self._held.clear()

    def is_moving(self, now_s: float) -> bool:
        """Whether a motion key is held."""
        self._held = {key: until for key, until in self._held.items() if until > now_s}
        return bool(self._held)

    def tool_velocity(self, now_s: float, fastest: Floats) -> Floats:
        """Twist that is asked for, [6], m/s and rad/s.

        Args:
            now_s: Monotonic time.
            fastest: Largest velocity of each component, [6].
        """
        twist = np.zeros(6)
        if self.is_moving(now_s) and not self.by_joint:
            for key in self._held:
                component, sign = TOOL_KEYS[key]
                twist[component] += sign * fastest[component]
        return twist * SCALES[self.scale]

    def joint_velocity(self, now_s: float, fastest: Floats) -> Floats:
        """Joint velocities that are asked for, [n], rad/s; ``fastest`` of each joint, [n]."""
        velocities = np.zeros(len(self.joints))
        if self.is_moving(now_s) and self.by_joint:
            sign = float(np.sign(sum(JOINT_KEYS[key] for key in self._held)))
            velocities[self.joint] = sign * fastest[self.joint]
        return velocities * SCALES[self.scale]
