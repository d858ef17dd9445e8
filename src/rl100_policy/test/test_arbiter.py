# SPDX-License-Identifier: Apache-2.0
"""Who commands, what is waited for, where the arm goes on from: the arbiter without ROS."""

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from rl100_policy.core.arbiter import Answer, Arbiter, LeftAlone, Timeouts, Wait
from rl100_policy.core.chunking import Chunk
from rl100_policy.core.command import CommandGate
from rl100_policy.core.config import load_robot, load_task
from rl100_policy.core.errors import ActionError, ObservationError
from rl100_policy.core.gate_result import HELD, CommandSource, GateFlag

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

    def go_on(self) -> None:
        """To the next period; the controller follows the last command, and then stays."""
        self.now += 1
        here = self.planned.pop(0) if self.planned else self.places[-1]
        self.places = [*self.places[1:], here]

    def period(self, *, at_last: bool = True) -> Answer | Wait | LeftAlone | None:
        """One more, from its joint state to its answer."""
        self.go_on()
        assert self.arbiter.begins_period(self.now_ns, self.measured, self.now_ns)
        self.arbiter.await_answer(self.now_ns, self.measured, float(self.now))
        return self.follow(self.arbiter.answer(at_last=at_last))

    def follow(self, answer):
        if isinstance(answer, Answer):
            self.planned = [answer.result.joint_command, *answer.result.stopping]
        return answer

    def take(self, source: CommandSource) -> None:
        self.arbiter.take(source)

    def steer(self, speed: float, stamp: int | None = None) -> None:
        """As a person would for the next period."""
        when = self.now + 1 if stamp is None else stamp
        self.arbiter.ask(when * PERIOD_NS, twist(speed), self.gate.steer, self.now_ns)

    def decide(self, *actions: tuple[float, float], ahead: int = 1) -> None:
        """As a policy would for the next periods."""
        self.arbiter.decide(chunk(self.now + ahead, *actions), self.now_ns)


def chunk(period: int, *actions: tuple[float, float]) -> Chunk:
    return Chunk(
        period * PERIOD_NS,
        PERIOD_NS,
        TASK.action.space,
        TASK.action.names,
        np.array(actions, dtype=float),
        "v7",
    )


def moved(answer: Answer, cell: Cell) -> float:
    """How far a command leads from where the controller is, rad."""
    assert isinstance(answer, Answer), answer
    return float(np.abs(answer.result.joint_command - cell.places[-1]).max())


def test_nobody_is_in_command_at_first_and_the_arm_stays():
    cell = Cell()
    cell.steer(0.1)
    answer = cell.period()
    assert answer.source is CommandSource.HOLD
    assert moved(answer, cell) == 0.0


def test_a_period_waits_for_the_policy_once_and_is_answered_at_last():
    cell = Cell()
    cell.take(CommandSource.POLICY)
    assert cell.period(at_last=False) == Wait(patience_begins=True)
    assert cell.arbiter.answer() == Wait(patience_begins=False)
    waits_since = float(cell.now)
    assert not cell.arbiter.is_out_of_patience(waits_since)
    assert cell.arbiter.is_out_of_patience(waits_since + 1.01 * cell.arbiter.patience_s)
    answer = cell.arbiter.answer(at_last=True)
    assert answer.result.flags & GateFlag.HELD_STALE
    assert cell.arbiter.answer() is None
    assert not cell.arbiter.is_out_of_patience(waits_since + 10.0)


def test_a_decision_that_comes_while_its_period_waits_is_executed():
    cell = Cell()
    cell.take(CommandSource.POLICY)
    cell.period(at_last=False)
    cell.decide((0.1, 0.0), ahead=0)
    answer = cell.arbiter.answer()
    assert moved(answer, cell) > 0.0
    np.testing.assert_allclose(answer.proposal.action, (0.1, 0.0))


def test_without_patience_a_missing_action_holds_at_once():
    cell = Cell(patience=0.0)
    cell.take(CommandSource.POLICY)
    assert cell.period(at_last=False).result.flags & GateFlag.HELD_STALE


@pytest.mark.parametrize("source", [CommandSource.POLICY, CommandSource.TELEOP])
def test_in_lockstep_a_period_waits_for_its_request_however_long(source):
    cell = Cell(lockstep=True)
    cell.take(source)
    assert cell.period(at_last=True) == Wait(patience_begins=False)
    cell.decide((0.1, 0.0), ahead=0)
    cell.steer(0.1, cell.now)
    assert moved(cell.arbiter.answer(), cell) > 0.0


def test_the_emergency_stop_holds_and_nobody_takes_command_before_its_release():
    cell = Cell(SOFT)
    cell.take(CommandSource.TELEOP)
    for _ in range(5):
        cell.steer(0.2)
        cell.period()
    cell.arbiter.stop()
    with pytest.raises(ActionError, match="gate/release"):
        cell.take(CommandSource.TELEOP)
    cell.take(CommandSource.HOLD)  # may always be asked for
    for _ in range(10):
        cell.steer(0.2)
        answer = cell.period()
        assert answer.result.flags & GateFlag.HELD_ESTOP
    assert moved(answer, cell) == 0.0
    cell.arbiter.release()
    cell.steer(0.2)
    assert moved(cell.period(), cell) == 0.0, "nobody is in command"
    cell.take(CommandSource.TELEOP)
    cell.steer(0.2)
    assert moved(cell.period(), cell) > 0.0


def test_a_period_that_waits_for_the_policy_is_answered_by_an_emergency_stop():
    cell = Cell()
    cell.take(CommandSource.POLICY)
    cell.period(at_last=False)
    cell.arbiter.stop()
    assert cell.arbiter.answer().result.flags & GateFlag.HELD_ESTOP


def test_an_arm_that_is_moved_while_nobody_commands_is_left_alone_until_somebody_does():
    cell = Cell()
    cell.period()
    cell.off = np.full(7, 0.2)
    assert isinstance(cell.period(), LeftAlone)
    cell.take(CommandSource.HOME)
    answer = cell.period()
    assert np.abs(answer.result.joint_command - cell.measured).max() < 0.1


def test_who_takes_an_arm_that_was_left_alone_begins_where_it_is_measured():
    """Also when it is near its last command again, where it would be told to jump back to it."""
    cell = Cell()
    cell.period()
    cell.off = np.full(7, 0.04)
    cell.off[0] = 0.2
    for _ in range(4):
        assert isinstance(cell.period(), LeftAlone)
    cell.take(CommandSource.TELEOP)
    cell.off = np.zeros(7)
    cell.off[0] = 0.03
    assert cell.gate.tracks(cell.measured)
    answer = cell.period()
    np.testing.assert_allclose(answer.result.joint_command, cell.measured, atol=1e-9)


@pytest.mark.parametrize("end", [Arbiter.pause, Arbiter.release])
def test_who_takes_an_arm_at_rest_after_a_pause_or_a_release_begins_where_it_is_measured(end):
    cell = Cell()
    cell.period()
    cell.off[0] = 0.03
    assert cell.gate.tracks(cell.measured)
    assert moved(cell.period(), cell) == 0.0, "a hold does not follow a push"
    end(cell.arbiter)
    cell.take(CommandSource.TELEOP)
    answer = cell.period()
    np.testing.assert_allclose(answer.result.joint_command, cell.measured, atol=1e-9)


def test_who_takes_command_of_a_moving_arm_goes_on_from_its_motion():
    cell = Cell(SOFT)
    cell.take(CommandSource.TELEOP)
    for _ in range(6):
        cell.steer(0.2)
        answer = cell.period()
    going_to = answer.result.stopping[0]
    cell.take(CommandSource.HOLD)
    np.testing.assert_allclose(cell.period().result.joint_command, going_to, atol=1e-9)


def test_a_pause_leaves_nobody_in_command_and_forgets_what_was_asked():
    cell = Cell()
    cell.take(CommandSource.POLICY)
    cell.period(at_last=False)
    cell.decide((0.1, 0.0), (0.1, 0.0))
    cell.arbiter.pause()
    assert cell.arbiter.answer(at_last=True) is None
    assert cell.arbiter.source is CommandSource.HOLD
    assert cell.period().proposal is None


def test_a_policy_that_decides_nothing_for_a_second_loses_the_command_and_people_are_told():
    cell = Cell()
    cell.take(CommandSource.POLICY)
    for _ in range(round(1.0 / PERIOD_S)):
        assert cell.arbiter.source is CommandSource.POLICY
        cell.period()
    assert cell.arbiter.source is CommandSource.HOLD
    assert cell.arbiter.notices == [
        "command given up: the policy has decided nothing for a second"
    ]


def test_time_that_jumps_back_makes_nothing_due_that_came_before():
    cell = Cell(lockstep=True)
    cell.take(CommandSource.POLICY)
    cell.decide(*[(0.1, 0.0)] * 8)
    assert moved(cell.period(), cell) > 0.0
    cell.now -= 500
    assert isinstance(cell.period(), Wait)
    assert "jumped back" in cell.arbiter.notices[0]


@pytest.mark.parametrize("off", [-40, 40])
def test_a_request_of_another_clock_is_refused(off):
    cell = Cell()
    cell.period()
    with pytest.raises(ActionError, match="use_sim_time"):
        cell.steer(0.1, cell.now + off)


def test_a_decision_of_the_future_is_refused():
    cell = Cell()
    cell.period()
    with pytest.raises(ActionError, match="clock"):
        cell.decide((0.1, 0.0), ahead=3)


SPEEDS = st.one_of(
    st.floats(-0.5, 0.5), st.sampled_from([np.nan, np.inf, -np.inf, 0.0, 1e300, -1e300, 1e-300])
)


class AnyOrder(RuleBasedStateMachine):
    """Whatever comes, in any order: commands keep the limits, and move the arm for its master."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = Cell(SOFT)
        self.answered_ns = -1
        self.before: Answer | None = None

    @initialize()
    def begin(self) -> None:
        self.cell.go_on()

    @rule(source=st.sampled_from(CommandSource))
    def take(self, source: CommandSource) -> None:
        was = self.cell.arbiter.source
        try:
            self.cell.take(source)
        except ActionError:
            assert self.cell.arbiter.estop
            assert self.cell.arbiter.source is was

    @precondition(lambda self: not self.cell.arbiter.estop)
    @rule()
    def stop(self) -> None:
        self.cell.arbiter.stop()

    @precondition(lambda self: self.cell.arbiter.estop)
    @rule()
    def release(self) -> None:
        self.cell.arbiter.release()
        assert self.cell.arbiter.source is CommandSource.HOLD

    @rule()
    def pause(self) -> None:
        self.cell.arbiter.pause()

    @rule(reason=st.just("somebody else commands"))
    def give_up(self, reason: str) -> None:
        self.cell.arbiter.give_up(reason)
        assert self.cell.arbiter.source is CommandSource.HOLD

    @rule(speed=SPEEDS, off=st.sampled_from([-20, -2, 0, 1, 1, 1, 1, 3, 20]))
    def steer(self, speed: float, off: int) -> None:
        try:
            self.cell.steer(speed, self.cell.now + off)
        except ActionError:
            assert abs(off) * PERIOD_S > 1.0

    @rule(
        actions=st.lists(st.tuples(SPEEDS, SPEEDS), min_size=1, max_size=6),
        ahead=st.sampled_from([-5, -1, 0, 1, 1, 1, 2, 30]),
    )
    def decide(self, actions: list[tuple[float, float]], ahead: int) -> None:
        with suppress(ActionError):  # not finite, of the future, or not newer than the last
            self.cell.decide(*actions, ahead=ahead)

    @rule(joint=st.integers(0, 6), angle=st.floats(-0.3, 0.3))
    def push(self, joint: int, angle: float) -> None:
        self.cell.off[joint] = angle

    @rule()
    def let_go(self) -> None:
        self.cell.off[:] = 0.0

    @rule(periods=st.integers(1, 14))
    def silence(self, periods: int) -> None:
        for _ in range(periods):
            self.cell.go_on()

    @rule(at_last=st.booleans(), periods=st.integers(1, 6))
    def live(self, at_last: bool, periods: int) -> None:
        for _ in range(periods):
            self._period(at_last=at_last)

    def _period(self, *, at_last: bool) -> None:
        cell = self.cell
        cell.go_on()
        try:
            assert cell.arbiter.begins_period(cell.now_ns, cell.measured, cell.now_ns)
        except ObservationError:
            return
        cell.arbiter.await_answer(cell.now_ns, cell.measured, float(cell.now))
        planned, stands = list(cell.planned), cell.places[-1]
        rests = all(np.allclose(each, stands, atol=1e-9) for each in planned)
        may_move = not cell.arbiter.estop and cell.arbiter.source is not CommandSource.HOLD
        try:
            answer = cell.arbiter.answer(at_last=at_last)
        except ObservationError:
            return
        if not isinstance(answer, Answer):
            assert may_move or isinstance(answer, LeftAlone)
            return
        self._judge(answer, planned, may_move=may_move, rests=rests)
        cell.follow(answer)

    def _judge(
        self, answer: Answer, planned: list[np.ndarray], *, may_move: bool, rests: bool
    ) -> None:
        cell, command = self.cell, answer.result.joint_command
        assert self.answered_ns < answer.stamp_ns == cell.now_ns
        self.answered_ns = answer.stamp_ns
        assert np.isfinite(command).all()
        if cell.arbiter.estop:
            assert answer.result.flags & GateFlag.HELD_ESTOP
        goes_on = self._keeps_limits(cell.places, answer)
        anew = self._keeps_limits([cell.measured] * 3, answer)
        assert goes_on or anew, "faster than the arm may be"
        if not rests and cell.gate.tracks(cell.measured):
            assert goes_on, "a moving arm was stopped dead, or told to jump"
        if not may_move or answer.result.flags & HELD:
            ends = [planned[0] if planned else cell.places[-1], cell.measured]
            assert any(np.allclose(command, end, atol=1e-9) for end in ends)
        if anew and not goes_on:
            cell.places = [cell.measured] * 3
            cell.off[:] = 0.0

    def _keeps_limits(self, places: list[np.ndarray], answer: Answer) -> bool:
        arm = self.cell.gate.kinematics
        path = np.vstack([*places, answer.result.joint_command, *answer.result.stopping])
        path = np.vstack([path, path[-1:], path[-1:]])  # and stays there
        velocity = np.diff(path, axis=0) / PERIOD_S
        acceleration = np.diff(velocity, axis=0) / PERIOD_S
        jerk = np.diff(acceleration, axis=0) / PERIOD_S
        return bool(
            (np.abs(velocity[2:]) <= arm.velocity_limits + 1e-8).all()
            and (np.abs(acceleration[1:]) <= arm.acceleration_limits + 1e-6).all()
            and (np.abs(jerk) <= arm.jerk_limits + 1e-4).all()
        )


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
