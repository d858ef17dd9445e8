# SPDX-License-Identifier: Apache-2.0
"""What the keys of a terminal do, in one table: for the node, its screen and the documentation."""

from __future__ import annotations

from dataclasses import dataclass

from rl100_policy.core.presses import MEANING, Press

PRESS_KEYS: dict[str, Press] = {
    "space": Press.NEXT,
    "s": Press.SUCCESS,
    "f": Press.FAILURE,
    "e": Press.STOP,
    "d": Press.DISCARD,
    "u": Press.UNDO,
    "r": Press.RESET,
    "t": Press.TAKE_OVER,
    "x": Press.ESTOP,
    "escape": Press.ESTOP,
    "l": Press.RELEASE,
    "q": Press.QUIT,
}
"""Key to press. ``t`` takes over, and hands back when the person is in command."""

TOOL_KEYS: dict[str, tuple[int, float]] = {
    "up": (0, 1.0),
    "down": (0, -1.0),
    "left": (1, 1.0),
    "right": (1, -1.0),
    "page_up": (2, 1.0),
    "page_down": (2, -1.0),
    ",": (3, -1.0),
    ".": (3, 1.0),
    "insert": (4, 1.0),
    "delete": (4, -1.0),
    "home": (5, 1.0),
    "end": (5, -1.0),
}
"""Key to component of a twist in the base frame (REP-103: x forward, y left, z up) and sign."""

JOINT_KEYS: dict[str, float] = {"up": 1.0, "down": -1.0, "left": 1.0, "right": -1.0}
"""Key to the sign in which the chosen joint turns."""

MODE_KEY, FASTER_KEY, SLOWER_KEY, GRIPPER_KEY = "m", "+", "-", "g"
UNSHIFTED = {"=": "+", "_": "-"}
"""What these keys are where they need shift, or need none, on some keyboards."""
JOINT_DIGITS = "123456789"


@dataclass(frozen=True)
class Binding:
    """One line of the table of keys."""

    keys: str
    what: str


def bindings() -> list[Binding]:
    """Every key and what it does, for people."""
    by_press: dict[Press, list[str]] = {}
    for key, press in PRESS_KEYS.items():
        by_press.setdefault(press, []).append(key)
    presses = [Binding(" ".join(keys), MEANING[press]) for press, keys in by_press.items()]
    return [
        *presses,
        Binding("up down", "forward, back (x); or turn the joint"),
        Binding("left right", "left, right (y); or turn the joint"),
        Binding("page_up page_down", "up, down (z)"),
        Binding("home end", "turn about z"),
        Binding("insert delete", "turn about y"),
        Binding(". ,", "turn about x"),
        Binding(MODE_KEY, "steer the tool, or single joints"),
        Binding("1 to 9", "choose a joint"),
        Binding(f"{FASTER_KEY} {SLOWER_KEY}", "larger and smaller steps"),
        Binding(GRIPPER_KEY, "open and close the gripper"),
    ]
