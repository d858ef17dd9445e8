# SPDX-License-Identifier: Apache-2.0
"""An arm that follows its commands in front of an arbiter, period by period."""

from pathlib import Path

import numpy as np

from rl100_policy.core.arbiter import Answer, Arbiter, LeftAlone, Timeouts, Wait
from rl100_policy.core.chunking import Chunk
from rl100_policy.core.command import CommandGate
from rl100_policy.core.config import load_robot, load_task
from rl100_policy.core.gate_result import CommandSource

CONFIG = Path(__file__).parents[2] / "rl100_bringup" / "config"
TASK = load_task(CONFIG / "tasks" / "push_t.yaml")
PANDA = load_robot(CONFIG / "robots" / "panda.yaml")
SOFT = PANDA.model_copy(update={"acceleration_limits": (3.0,) * 7, "jerk_limits": (12.0,) * 7})
"""One that takes several periods to stop."""
PERIOD_S = PANDA.control_period
PERIOD_NS = round(PERIOD_S * 1e9)
HOME = np.array(PANDA.home)
START = 1000
"""Number of the first control period."""


def twist(speed: float) -> np.ndarray:
    """Along x [m/s], [6]."""
    return np.array([speed, 0.0, 0.0, 0.0, 0.0, 0.0])


class Cell:
    """An arm that follows its commands, in front of an arbiter; time is told in periods."""

    def __init__(self, robot=PANDA, **timeouts) -> None:
        self.robot, self.gate = robot, CommandGate(robot, TASK)
        self.arbiter = Arbiter(self.gate, TASK.action, PERIOD_S, Timeouts(**timeouts))
        self.now = START
        self.planned: list[np.ndarray] = []
        """Where the controller is in this and the next periods."""
        self.places = [HOME] * 3
        """Where the controller was in the periods before and is in this one."""
        self.off = np.zeros(len(HOME))
        """How far somebody pushes the arm from there."""

    @property
    def now_ns(self) -> int:
        return self.now * PERIOD_NS

    @property
    def measured(self) -> np.ndarray:
        return self.places[-1] + self.off

    @property
    def now_s(self) -> float:
        return self.now * PERIOD_S

    def go_on(self) -> None:
        """To the next period; the controller follows the last command, and then stays."""
        self.now += 1
        here = self.planned.pop(0) if self.planned else self.places[-1]
        self.places = [*self.places[1:], here]

    def period(
        self, *, at_last: bool = True, age: float = 0.0, jump: int = 0
    ) -> Answer | Wait | LeftAlone | None:
        """One more, from its joint state, so many periods old, to its answer.

        Time has jumped by so many periods for the stamps, and for nobody else.
        """
        self.go_on()
        stamp_ns = self.now_ns + jump * PERIOD_NS
        heard_ns = stamp_ns + round(age * PERIOD_NS)
        assert self.arbiter.begins_period(stamp_ns, self.measured, heard_ns, self.now_s)
        self.arbiter.await_answer(stamp_ns, self.measured, self.now_s)
        return self.answer(at_last=at_last)

    def answer(self, later_s: float = 0.0, *, at_last: bool = False):
        return self.follow(self.arbiter.answer(self.now_s + later_s, at_last=at_last))

    def stand(self, periods: int = 4) -> None:
        """Until the arbiter knows where the arm is."""
        for _ in range(periods):
            assert isinstance(self.period(), LeftAlone)

    def follow(self, answer):
        if isinstance(answer, Answer):
            self.planned = [answer.result.joint_command, *answer.result.stopping]
        return answer

    def take(self, source: CommandSource) -> None:
        if source is CommandSource.POLICY:
            self.see(self.now)
        self.arbiter.take(source, self.now_s)

    def steer(self, speed: float, stamp: int | None = None) -> None:
        """As a person would for the next period."""
        when = self.now + 1 if stamp is None else stamp
        self.arbiter.ask(when * PERIOD_NS, twist(speed), self.gate.steer, self.now_ns)

    def decide(self, *actions: tuple[float, float], ahead: int = 1) -> None:
        """As a policy would for the next periods."""
        self.arbiter.decide(chunk(self.now + ahead, *actions), self.now_ns, self.now_s)

    def see(self, period: int, later_s: float = 0.0) -> None:
        """As a policy that lives would, of what it saw in a period."""
        self.arbiter.hear_policy(period * PERIOD_NS, self.now_ns, self.now_s + later_s)


def chunk(period: int, *actions: tuple[float, float]) -> Chunk:
    return Chunk(
        period * PERIOD_NS,
        PERIOD_NS,
        TASK.action.space,
        TASK.action.names,
        np.array(actions, dtype=float),
        "v7",
    )


def lag(answer: Answer, cell: Cell) -> float:
    """How much more than a period after its begin a command ends, but for its way, periods."""
    late_s = (answer.way.end_ns - cell.now_ns) * 1e-9 - PERIOD_S - 0.002
    return round(late_s / PERIOD_S, 6)


def moved(answer: Answer, cell: Cell) -> float:
    """How far a command leads from where the controller is, rad."""
    assert isinstance(answer, Answer), answer
    return float(np.abs(answer.result.joint_command - cell.places[-1]).max())


def standing(robot=PANDA, **timeouts) -> Cell:
    """A cell whose arm has been seen to rest."""
    cell = Cell(robot, **timeouts)
    if not cell.arbiter.lockstep:
        cell.stand()
    return cell


def commanded_by(source: CommandSource, robot=PANDA, **timeouts) -> Cell:
    cell = standing(robot, **timeouts)
    cell.take(source)
    return cell


def swung(robot, periods: int = 6) -> Cell:
    """A person has moved the arm for some periods, and it moves."""
    cell = commanded_by(CommandSource.TELEOP, robot)
    for _ in range(periods):
        cell.steer(0.2)
        answer = cell.period()
    assert moved(answer, cell) > 0.0
    return cell
