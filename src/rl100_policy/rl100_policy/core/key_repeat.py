# SPDX-License-Identifier: Apache-2.0
"""A held key is one press, also where the terminal only repeats it."""

from __future__ import annotations

from rl100_policy.core.key_decoder import KeyAction, KeyEvent

REPEAT_S = 0.75
"""A terminal repeats a held key first after .25 to .66 s, then faster; what comes later is another
press [s]."""


class KeyRepeat:
    """Tells presses from repeats of keys that are held."""

    def __init__(self) -> None:
        """Begin with no key pressed."""
        self._last_s: dict[str, float] = {}

    def is_press(self, event: KeyEvent, now_s: float) -> bool:
        """Whether an event is a press of its own; call for every event of a key, in order.

        Args:
            event: Of a key.
            now_s: Monotonic time [s].
        """
        if event.action is KeyAction.RELEASE:
            self._last_s.pop(event.key, None)
            return False
        before = self._last_s.get(event.key)
        self._last_s[event.key] = now_s
        repeats = before is not None and now_s - before < REPEAT_S
        return event.action is KeyAction.PRESS and not repeats
