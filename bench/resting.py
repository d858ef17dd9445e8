# SPDX-License-Identifier: Apache-2.0
"""Which arms pass for resting, and how far beside them command would begin."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from rl100_bringup.graph import config_path
from rl100_policy.core.config import load_robot
from rl100_policy.core.errors import ObservationError
from rl100_policy.core.joint_stream import JointStream
from rl100_policy.core.kinematics import ArmKinematics

Floats = NDArray[np.float64]

_SECONDS = 4.0
_RATES = (10.0, 100.0, 1000.0)


def _swing(hertz: float, size: float) -> Callable[[Floats], Floats]:
    return lambda times: size * np.sin(2.0 * np.pi * hertz * times + 0.3)


def _settle(times: Floats) -> Floats:
    """A soft arm: 3 Hz, damping .05, 60 mrad."""
    pace = 2.0 * np.pi * 3.0
    return 0.06 * np.exp(-0.05 * pace * times) * np.cos(pace * times)


MOTIONS: dict[str, Callable[[Floats], Floats]] = {
    "rests": np.zeros_like,
    "hand, 2 Hz, 30 mrad": _swing(2.0, 0.03),
    "hand, 1.5 Hz, 50 mrad": _swing(1.5, 0.05),
    "hand, 1 Hz, 100 mrad": _swing(1.0, 0.1),
    "vibrates, 10 Hz, 10 mrad": _swing(10.0, 0.01),
    "settles": _settle,
}


def passes(
    motion: Callable[[Floats], Floats], rate_hz: float, noise: float
) -> tuple[float, float, float]:
    """How an arm that moves by ``motion`` passes for resting.

    Args:
        motion: Of every joint beside home at times [s], rad.
        rate_hz: Of the joint states.
        noise: Of each, standard deviation [rad].

    Returns:
        Share of the joint states at which it does; then, of these, how far beside it command
        would begin [rad], and how fast it is [rad/s], at the most.
    """
    robot = load_robot(config_path("robots", "panda"))
    joints = JointStream(ArmKinematics(robot), round(robot.control_period * 1e9), None)
    home, rng = np.array(robot.home), np.random.default_rng(0)
    times = np.arange(round(_SECONDS * rate_hz)) / rate_hz
    off, speeds = motion(times), np.abs(motion(times + 1e-4) - motion(times - 1e-4)) / 2e-4
    found: list[tuple[float, float]] = []
    for time, here, speed in zip(times, off, speeds, strict=True):
        stamp = round((1.0 + time) * 1e9)
        joints.arrives(stamp, 0)
        with suppress(ObservationError):
            joints.begins_period(stamp, home + here + rng.normal(0.0, noise, len(home)))
        if (place := joints.resting_place()) is not None:
            found.append((float(np.abs(place - home - here).max()), float(speed)))
    beside, fast = np.max(found, axis=0) if found else (0.0, 0.0)
    return len(found) / len(times), float(beside), float(fast)


def main() -> None:
    """Measure and print."""
    table = Table(
        "arm", "noise", *(f"{rate:.0f} Hz" for rate in _RATES),
        title="share that passes for rest; command beside it, and its speed, at the most",
    )  # fmt: skip
    for name, motion in MOTIONS.items():
        for noise in (0.0, 0.002, 0.005) if name == "rests" else (0.0,):
            cells = []
            for rate in _RATES:
                share, beside, speed = passes(motion, rate, noise)
                shown = f"{share:.2f}; {1e3 * beside:.1f} mrad, {speed:.2f} rad/s"
                cells.append(shown if share else "never")
            table.add_row(name, f"{1e3 * noise:.0f} mrad", *cells)
    Console(width=130).print(table)


if __name__ == "__main__":
    typer.run(main)
