# SPDX-License-Identifier: Apache-2.0
"""What the axes and buttons of a joystick mean (sensor_msgs/Joy): gamepads, SpaceMouse, others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rl100_policy.core.config import TWIST_COMPONENTS
from rl100_policy.core.errors import ConfigError
from rl100_policy.core.presses import Press

Floats = NDArray[np.float64]

PROFILES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    # An Xbox-like pad as joy_node numbers it: left stick, right stick; A, B, X, Y, shoulders, ...
    "gamepad": (
        ("linear.x=1", "linear.y=0", "linear.z=4", "angular.z=3"),
        (
            "success=0", "failure=1", "take_over=2", "next=3", "undo=4", "estop=5", "discard=6",
            "reset=7", "stop=9", "release=10",
        ),
    ),
    # As spacenav publishes it on spacenav/joy: six axes in the frame of REP-103, two buttons.
    "spacemouse": (
        (
            "linear.x=0", "linear.y=1", "linear.z=2", "angular.x=3", "angular.y=4", "angular.z=5",
        ),
        ("take_over=0", "success=1"),
    ),
    "custom": ((), ()),
}  # fmt: skip
"""Name to entries of axes and of buttons."""


@dataclass(frozen=True)
class Axis:
    """One axis of a joystick and what it moves."""

    component: int
    """Of a twist."""
    number: int
    sign: float


@dataclass(frozen=True)
class JoystickMap:
    """Meaning of axes and buttons."""

    axes: tuple[Axis, ...]
    buttons: dict[int, Press]
    enable: int = -1
    """Button that must be held to move the arm; -1: none."""
    dead_zone: float = 0.1
    """Deflection that counts as none."""

    @classmethod
    def parse(
        cls,
        axes: Sequence[str],
        buttons: Sequence[str],
        *,
        enable: int = -1,
        dead_zone: float = 0.1,
    ) -> JoystickMap:
        """From entries ``<component of a twist>=[-]<axis>`` and ``<press>=<button>``.

        Raises:
            ConfigError: If an entry is malformed, or a button has two meanings; shows what there
                is to choose from.
        """
        meaning: dict[int, Press] = {}
        for entry in buttons:
            name, number = _entry(entry, "buttons", [press.name.lower() for press in Press])
            if int(number) in meaning or int(number) == enable:
                raise ConfigError(f"buttons: button {number} has two meanings, {entry!r} is one")
            meaning[int(number)] = Press[name.upper()]
        moved = []
        for entry in axes:
            name, number = _entry(entry, "axes", TWIST_COMPONENTS)
            sign = -1.0 if number.startswith("-") else 1.0
            moved.append(Axis(TWIST_COMPONENTS.index(name), int(number.lstrip("-")), sign))
        return cls(tuple(moved), meaning, enable, dead_zone)

    def velocity(self, axes: Sequence[float], buttons: Sequence[int], fastest: Floats) -> Floats:
        """Twist that is asked for, [6], m/s and rad/s.

        An axis that the device does not have, or that is not finite, asks for nothing.

        Args:
            axes: Deflections, -1 to 1.
            buttons: 1 where pressed.
            fastest: Largest velocity of each component, [6].
        """
        twist = np.zeros(len(TWIST_COMPONENTS))
        held = self.enable < 0 or (self.enable < len(buttons) and buttons[self.enable])
        for axis in self.axes if held else ():
            deflection = axes[axis.number] if axis.number < len(axes) else 0.0
            if np.isfinite(deflection) and abs(deflection) > self.dead_zone:
                beyond = (abs(deflection) - self.dead_zone) / (1.0 - self.dead_zone)
                share = np.sign(deflection) * min(beyond, 1.0)
                twist[axis.component] += axis.sign * share * fastest[axis.component]
        return twist

    def presses(self, before: Sequence[int], after: Sequence[int]) -> list[Press]:
        """What was pressed between two messages; a button that is held is pressed once."""
        return [
            press for number, press in self.buttons.items() if newly_pressed(number, before, after)
        ]


def newly_pressed(number: int, before: Sequence[int], after: Sequence[int]) -> bool:
    """Whether a button is pressed that was not before."""
    was = number < len(before) and bool(before[number])
    return number < len(after) and bool(after[number]) and not was


def _entry(entry: str, what: str, names: Sequence[str]) -> tuple[str, str]:
    name, _, number = entry.partition("=")
    digits = number.removeprefix("-") if what == "axes" else number
    if name not in names or not digits.isdigit():
        raise ConfigError(
            f"{what}: expected '<name>=<number>' with a name of {', '.join(names)}; got {entry!r}"
        )
    return name, number
