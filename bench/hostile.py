# SPDX-License-Identifier: Apache-2.0
"""A million hostile inputs to the command gate: does a command ever leave that breaks a limit?

Requests and measurements are drawn from what a broken policy, a wrong device and a bad sensor
could send: not finite, of other sizes, enormous, tiny, constant, alternating; sources change at
any moment, the arm is pushed, and the gate is told to hold. Every command is judged against the
limits by code that shares none with the gate but the kinematics and the shapes.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing import Pool
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from rl100_bringup.graph import config_path
from rl100_policy.core.collision import ArmCollision
from rl100_policy.core.command import CommandGate
from rl100_policy.core.config import Obstacle, RobotConfig, TaskConfig, load_robot, load_task
from rl100_policy.core.errors import ObservationError
from rl100_policy.core.gate_result import GateFlag, GateResult
from rl100_policy.core.kinematics import ArmKinematics
from rl100_policy.ros.transport import keep_on_this_machine

Floats = NDArray[np.float64]

_FROM_EARLIER = 3
"""Commands whose second differences a judge needs."""


@dataclass
class Tally:
    """What came of it."""

    inputs: int = 0
    flags: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Both together."""
        self.inputs += other.inputs
        self.flags += other.flags
        self.broken += other.broken


class Judge:
    """Compares each command with those before it and with the limits of the descriptions."""

    def __init__(self, robot: RobotConfig, task: TaskConfig) -> None:
        """By the limits of these descriptions."""
        self._robot, self._task, self._arm = robot, task, ArmKinematics(robot)
        self._shapes = ArmCollision(self._arm.arm)
        self._last: list[Floats] = []
        self._allowed = np.zeros(0)
        self._axis = self._arm.tool_pose(np.array(robot.home))[:3, 2].copy()

    def restart(self, command: Floats) -> None:
        """The gate begins anew, at rest, where the arm is measured."""
        self._last = [command] * _FROM_EARLIER
        self._allowed = np.minimum(self._robot.collision.margin, self._found(command))

    def judge(self, result: GateResult) -> list[str]:
        """What a command breaks."""
        command = result.joint_command
        if not (np.isfinite(command).all() and np.isfinite(result.executed).all()):
            return [f"not finite: {command}"]
        arm = self._arm
        path = np.vstack([*self._last, command, result.stopping, *[_end(result)] * 2])
        velocity = np.diff(path, axis=0) / self._robot.control_period
        acceleration = np.diff(velocity, axis=0) / self._robot.control_period
        jerk = np.diff(acceleration, axis=0) / self._robot.control_period
        places, before = path[len(self._last) :], path[len(self._last) - 1 : -1]
        low = np.minimum(arm.position_lower, before) - 1e-9
        high = np.maximum(arm.position_upper, before) + 1e-9
        checks = {
            "position": ((places >= low) & (places <= high)).all(),
            "velocity": (np.abs(velocity[2:]) <= arm.velocity_limits + 1e-8).all(),
            "acceleration": (np.abs(acceleration[1:]) <= arm.acceleration_limits + 1e-6).all(),
            "jerk": (np.abs(jerk) <= arm.jerk_limits + 1e-4).all(),
            "box": self._inside(before, places),
            "tilt": self._upright(before, places),
            "distance": self._clear(before, places),
        }
        told = [f"{name} after {before[0].tolist()}" for name, kept in checks.items() if not kept]
        self._last = [*self._last[1:], command]
        return told

    def _inside(self, before: Floats, places: Floats) -> bool:
        """In the box, but for 1.3 mm; a tool that is outside comes no farther out."""
        box = self._task.tool_workspace

        def out(q: Floats) -> Floats:
            tool = self._arm.tool_position(q)
            return np.maximum(np.array(box.low) - tool, tool - np.array(box.high))

        return all(
            (out(each) <= np.maximum(out(begin), 0.0) + 1.31e-3).all()
            for begin, end in zip(before, places, strict=True)
            for each in _between(begin, end)
        )

    def _upright(self, before: Floats, places: Floats) -> bool:
        """Not tilted farther than the task allows; a tool that is comes no farther."""
        if self._task.tool_tilt is None:
            return True
        least = np.cos(self._task.tool_tilt)

        def cosine(q: Floats) -> float:
            return float(self._axis @ self._arm.tool_pose(q)[:3, 2])

        return all(
            cosine(each) >= min(least, cosine(begin)) - 2e-3
            for begin, end in zip(before, places, strict=True)
            for each in _between(begin, end)
        )

    def _clear(self, before: Floats, places: Floats) -> bool:
        """No pair nearer than three quarters of the margin, or than it has been."""
        margin = self._robot.collision.margin
        self._allowed = np.minimum(margin, np.maximum(self._allowed, self._found(before[0])))
        return all(
            (self._found(each) >= self._allowed - 0.26 * margin).all()
            for begin, end in zip(before, places, strict=True)
            for each in _between(begin, end)
        )

    def _found(self, q: Floats) -> Floats:
        return self._shapes.distances(q)


def _end(result: GateResult) -> Floats:
    """Where the arm is to come to rest."""
    return result.stopping[-1] if len(result.stopping) else result.joint_command


def _between(begin: Floats, end: Floats) -> Iterator[Floats]:
    """Places on the way, the end among them."""
    return (begin + share * (end - begin) for share in (0.35, 0.7, 1.0))


def _number(rng: np.random.Generator) -> float:
    """Anything that fits in a double; most of it is about as large as a real request."""
    match rng.integers(8):
        case 0:
            return float(rng.choice([np.nan, np.inf, -np.inf, 0.0, -0.0]))
        case 1:
            return float(10.0 ** rng.uniform(-300, 300) * rng.choice([-1.0, 1.0]))
        case _:
            return float(rng.uniform(-2.5, 2.5))


def _request(rng: np.random.Generator, size: int) -> Floats | None:
    match rng.integers(40):
        case 0:
            return None
        case 1:
            return np.zeros(rng.integers(0, 12))
        case 2:
            return np.zeros((size, 1))
        case 3 | 4 | 5:
            return np.array([_number(rng) for _ in range(size)])
        case _:
            return rng.uniform(-1.0, 1.0, size) * 10.0 ** rng.uniform(-2, 0.5)


def _measured(rng: np.random.Generator, gate: CommandGate) -> Floats:
    """Mostly where the arm was told to be; now and then somebody else takes command, too."""
    arm, command = gate.kinematics, gate.joint_command
    match rng.integers(30):
        case 0:
            return np.array([_number(rng) for _ in command])
        case 1:
            return rng.uniform(arm.position_lower, arm.position_upper)
        case 2:
            gate.hand_over()
    return command


def _answer(gate: CommandGate, what: str, request: Floats | None, measured: Floats) -> GateResult:
    match what:
        case "home":
            return gate.go_home(measured)
        case "hold":
            return gate.hold(GateFlag.HELD_ESTOP)
        case "step":
            return gate.step(request, measured)
        case "steer":
            return gate.steer(request, measured)
        case _:
            return gate.jog(request, measured)


def torture(
    robot: RobotConfig,
    task: TaskConfig,
    inputs: int,
    seed: int,
    judged_as: RobotConfig | None = None,
    judged_by: TaskConfig | None = None,
) -> Tally:
    """Send hostile inputs to one gate; each kind of request goes on for some periods.

    ``judged_as`` and ``judged_by`` have other limits than the gate keeps, to try the judge.
    """
    gate, rng = CommandGate(robot, task), np.random.default_rng(seed)
    judge, tally = Judge(judged_as or robot, judged_by or task), Tally()
    home = np.array(robot.home)
    gate.reset(home)
    judge.restart(home)
    n = len(robot.joints)
    sizes = {"step": task.action.dim, "steer": 6, "jog": n}
    while tally.inputs < inputs:
        what = rng.choice(["step", "step", "step", "steer", "jog", "home", "hold", "restart"])
        request = _request(rng, sizes.get(what, 0))
        if what == "restart":
            start = gate.joint_command + rng.normal(0.0, 0.05, n) * (rng.random() < 0.3)
            try:
                gate.reset(start)
            except ObservationError:
                continue
            judge.restart(start)
            continue
        for _ in range(rng.integers(1, 20)):
            result = _answer(gate, what, request, _measured(rng, gate))
            tally.inputs += 1
            tally.flags.update(flag.name or "" for flag in GateFlag if flag & result.flags)
            tally.broken += judge.judge(result)
            if rng.random() < 0.2:
                request = _request(rng, sizes.get(what, 0))
    return tally


def settings() -> list[tuple[RobotConfig, TaskConfig]]:
    """Arms and tasks that bind different limits."""
    panda = load_robot(config_path("robots", "panda"))
    tasks = [load_task(config_path("tasks", name)) for name in ("push_t", "push_t_joint")]
    post = Obstacle(name="post", kind="cylinder", size=(0.04, 0.6), xyz=(0.48, 0.1, 0.3))
    changes: list[dict[str, object]] = [
        {},
        {"acceleration_limits": (3.0,) * 7, "jerk_limits": (12.0,) * 7},
        {"control_period": 0.02, "velocity_scale": 0.3, "jerk_limits": (300.0,) * 7},
        {"obstacles": (*panda.obstacles, post)},
    ]
    return [(panda.model_copy(update=change), task) for change in changes for task in tasks]


def _one(given: tuple[RobotConfig, TaskConfig, int, int]) -> Tally:
    return torture(*given)


def main(
    inputs: Annotated[
        int, typer.Option(help="all together, rounded up; a million take half an hour")
    ] = 1_000_000,
    processes: Annotated[int, typer.Option(help="at once")] = 2,
    seed: Annotated[int, typer.Option(help="of the inputs")] = 0,
) -> None:
    """Send and print; status 1 if a limit was broken."""
    keep_on_this_machine()
    begun = time.monotonic()
    kinds = settings()
    each = -(-inputs // (len(kinds) * processes))
    jobs = [(*kind, each, seed + turn) for turn in range(processes) for kind in kinds]
    tally = Tally()
    with Pool(processes) as pool:
        for done, part in enumerate(pool.imap_unordered(_one, jobs), 1):
            tally.add(part)
            print(f"{done} of {len(jobs)} gates: {tally.inputs} inputs", flush=True)
    print(
        f"{tally.inputs} inputs in {time.monotonic() - begun:.0f} s: "
        f"{len(tally.broken)} broke a limit"
    )
    for name, count in tally.flags.most_common():
        print(f"  {name.lower()}: {count}")
    for told in tally.broken[:20]:
        print(told)
    sys.exit(bool(tally.broken))


if __name__ == "__main__":
    typer.run(main)
