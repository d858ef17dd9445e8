# SPDX-License-Identifier: Apache-2.0
"""Who commands, what is waited for, where the arm goes on from: the arbiter without ROS."""

from contextlib import suppress
from dataclasses import replace
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

    @property
    def now_s(self) -> float:
        return self.now * PERIOD_S

    def go_on(self) -> None:
        """To the next period; the controller follows the last command, and then stays."""
        self.now += 1
        here = self.planned.pop(0) if self.planned else self.places[-1]
        self.places = [*self.places[1:], here]

    def period(
        self, *, at_last: bool = True, age: float = 0.0
    ) -> Answer | Wait | LeftAlone | None:
        """One more, from its joint state, so many periods old, to its answer."""
        self.go_on()
        heard_ns = self.now_ns + round(age * PERIOD_NS)
        assert self.arbiter.begins_period(self.now_ns, self.measured, heard_ns, self.now_s)
        self.arbiter.await_answer(self.now_ns, self.measured, self.now_s)
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


# Who is put in command


def test_a_policy_is_put_in_command_while_it_gives_signs_of_life():
    """Regression: right after a start it did not hear that it is, and lost it after a second."""
    cell = standing()
    with pytest.raises(ActionError, match="the policy is not ready"):
        cell.arbiter.take(CommandSource.POLICY, cell.now_s)
    assert cell.arbiter.source is CommandSource.HOLD
    cell.see(cell.now)
    cell.arbiter.take(CommandSource.POLICY, cell.now_s + 1.4)
    assert cell.arbiter.source is CommandSource.POLICY
    with pytest.raises(ActionError, match="no sign of life"):
        cell.arbiter.take(CommandSource.POLICY, cell.now_s + 1.6)


def test_frames_told_while_the_stop_is_latched_do_not_make_a_slow_camera():
    """It is not in command then, and tells of some only."""
    cell = commanded_by(CommandSource.POLICY)
    for _ in range(5):
        cell.period()
        cell.see(cell.now)
    usual = list(cell.arbiter._sights_s)
    assert usual
    cell.arbiter.stop()
    for _ in range(3):
        cell.period()
        cell.period()
        cell.see(cell.now)
    assert list(cell.arbiter._sights_s) == usual


def test_in_lockstep_a_policy_is_waited_for():
    cell = standing(lockstep=True)
    cell.arbiter.take(CommandSource.POLICY, cell.now_s)
    assert cell.arbiter.source is CommandSource.POLICY


# Nobody in command


def test_nobody_is_in_command_at_first_and_the_arm_is_left_to_its_controller():
    cell = standing()
    cell.steer(0.1)
    assert isinstance(cell.period(), LeftAlone)
    assert cell.arbiter.at_home


def test_in_lockstep_every_period_is_answered():
    cell = Cell(lockstep=True)
    answer = cell.period()
    assert answer.source is CommandSource.HOLD
    assert moved(answer, cell) == 0.0


def test_an_arm_that_is_moved_while_nobody_commands_is_left_alone_until_somebody_does():
    cell = swung(PANDA)
    cell.take(CommandSource.HOLD)
    assert isinstance(cell.period(), Answer)
    cell.off = np.full(7, 0.2)
    for _ in range(4):
        assert isinstance(cell.period(), LeftAlone)
    cell.off[:] = 0.03  # near its last command again: it is not told to go back there
    assert cell.gate.tracks(cell.measured)
    for _ in range(4):
        assert isinstance(cell.period(), LeftAlone)
    cell.take(CommandSource.HOME)
    answer = cell.period()
    assert np.abs(answer.result.joint_command - cell.measured).max() < 0.1


def test_who_takes_an_arm_that_was_left_alone_begins_where_it_is_measured():
    """Also when it is near its last command again, where it would be told to jump back to it."""
    cell = swung(PANDA)
    cell.take(CommandSource.HOLD)
    cell.period()
    cell.off[0] = 0.3
    for _ in range(4):
        assert isinstance(cell.period(), LeftAlone)
    cell.take(CommandSource.TELEOP)
    cell.off[0] = 0.03
    assert cell.gate.tracks(cell.measured)
    told = [cell.period() for _ in range(3)]
    assert [type(each) for each in told] == [LeftAlone, LeftAlone, Answer]
    np.testing.assert_allclose(told[-1].result.joint_command, cell.measured, atol=1e-9)


@pytest.mark.parametrize("end", [Arbiter.pause, Arbiter.release])
def test_after_a_pause_or_a_release_the_arm_is_left_alone_and_command_begins_where_it_is(end):
    cell = swung(PANDA)
    cell.take(CommandSource.HOLD)
    cell.period()
    cell.period()
    cell.off[0] = 0.03
    assert cell.gate.tracks(cell.measured)
    assert moved(cell.period(), cell) == 0.0, "a hold does not follow a push"
    end(cell.arbiter)
    cell.stand()
    cell.take(CommandSource.TELEOP)
    answer = cell.period()
    np.testing.assert_allclose(answer.result.joint_command, cell.measured, atol=1e-9)


# Wrong joint states


@pytest.mark.parametrize("wrong", [1, 2])
@pytest.mark.parametrize("silent", [0, 12])
@pytest.mark.parametrize("then", ["nothing", "stop", "stop and hold", "release", "pause"])
def test_wrong_joint_states_command_nothing_while_nobody_is_in_command(wrong, silent, then):
    cell = swung(PANDA)
    cell.take(CommandSource.HOLD)
    if then.startswith("stop"):
        cell.arbiter.stop()
    for _ in range(4):
        cell.period()
    if then in ("release", "pause"):
        getattr(cell.arbiter, then)()
    for _ in range(silent):
        cell.go_on()
    cell.off[0] = 1.2
    for turn in range(wrong):
        if then == "stop and hold" and turn == 0:
            cell.take(CommandSource.HOLD)
        with suppress(ObservationError):
            assert isinstance(cell.period(), LeftAlone)
    cell.off[0] = 0.0
    with suppress(ObservationError):
        told = cell.period()
        assert isinstance(told, LeftAlone) or moved(told, cell) == 0.0


@pytest.mark.parametrize("wrong", [1, 2])
def test_command_is_not_taken_at_wrong_joint_states(wrong):
    cell = standing()
    cell.take(CommandSource.TELEOP)
    cell.off[0] = 1.2
    for _ in range(wrong):
        cell.steer(0.1)
        with suppress(ObservationError):
            assert isinstance(cell.period(), LeftAlone)
    cell.off[0] = 0.0
    told = None
    while not isinstance(told, Answer):
        cell.steer(0.0)
        with suppress(ObservationError):
            told = cell.period()
    assert moved(told, cell) < 0.01


def test_a_driver_that_begins_with_a_wrong_joint_state_moves_nothing():
    cell = Cell()
    cell.take(CommandSource.TELEOP)
    cell.off = -HOME
    assert isinstance(cell.period(), LeftAlone)
    cell.off = np.zeros(7)
    with pytest.raises(ObservationError, match="jumped"):
        cell.period()
    told = [cell.period() for _ in range(3)]
    np.testing.assert_allclose(told[-1].result.joint_command, HOME, atol=1e-9)


# Waiting


def test_a_period_waits_for_the_policy_once_and_is_answered_at_last():
    cell = commanded_by(CommandSource.POLICY)
    assert cell.period(at_last=False) == Wait(patience_begins=True)
    assert cell.answer() == Wait(patience_begins=False)
    patience_s = cell.arbiter.patience_s
    assert not cell.arbiter.is_out_of_patience(cell.now_s)
    assert cell.arbiter.is_out_of_patience(cell.now_s + 1.01 * patience_s)
    assert cell.answer(at_last=True).result.flags & GateFlag.HELD_STALE
    assert cell.answer() is None
    assert not cell.arbiter.is_out_of_patience(cell.now_s + 10.0)


def test_a_decision_that_comes_while_its_period_waits_is_executed():
    cell = commanded_by(CommandSource.POLICY)
    cell.period(at_last=False)
    cell.decide((0.1, 0.0), ahead=0)
    answer = cell.answer()
    assert moved(answer, cell) > 0.0
    np.testing.assert_allclose(answer.proposal.action, (0.1, 0.0))


def test_without_patience_a_missing_action_holds_at_once():
    cell = commanded_by(CommandSource.POLICY, patience=0.0)
    assert cell.period(at_last=False).result.flags & GateFlag.HELD_STALE


@pytest.mark.parametrize("source", [CommandSource.POLICY, CommandSource.TELEOP])
def test_in_lockstep_a_period_waits_for_its_request_however_long(source):
    cell = commanded_by(source, lockstep=True)
    assert cell.period(at_last=True) == Wait(patience_begins=False)
    cell.decide((0.1, 0.0), ahead=0)
    cell.steer(0.1, cell.now)
    assert moved(cell.answer(later_s=100.0), cell) > 0.0


@pytest.mark.parametrize("stopped", [False, True], ids=["", "stopped"])
@pytest.mark.parametrize(
    "source", [CommandSource.POLICY, CommandSource.HOME, CommandSource.TELEOP]
)
def test_after_a_long_silence_nobody_is_in_command_and_nothing_is_told_to_the_arm(source, stopped):
    """Regression: it was sent back to where it was a minute ago, at twice its fastest."""
    cell = commanded_by(source)
    cell.decide((0.0, 0.0))
    cell.steer(0.0)
    assert isinstance(cell.period(), Answer)
    if stopped:
        cell.arbiter.stop()
    for _ in range(600):
        cell.go_on()
    cell.off[6] = 0.45
    assert cell.gate.tracks(cell.measured)
    for _ in range(6):
        cell.see(cell.now)
        assert isinstance(cell.period(), LeftAlone)
    assert cell.arbiter.source is CommandSource.HOLD
    assert "no joint state to go by for 60.1 s" in cell.arbiter.notices[-1]


def test_who_takes_command_in_a_silence_has_it_if_that_ends_soon():
    """Regression: home that was pressed while the driver was dead moved the arm a minute later."""
    for later, source in ((600, CommandSource.HOLD), (5, CommandSource.HOME)):
        cell = standing()
        for _ in range(300):
            cell.go_on()
        cell.take(CommandSource.HOME)
        for _ in range(later):
            cell.go_on()
        cell.period()
        assert cell.arbiter.source is source


@pytest.mark.parametrize("before", [True, False])
def test_neither_a_jump_of_time_nor_a_slow_simulation_is_a_silence(before):
    cell = commanded_by(CommandSource.HOME)
    now_ns, now_s, q = cell.now_ns, cell.now_s, cell.measured
    for at in range(1, 4):
        stamp_ns, then_s = (
            (1000 * at * PERIOD_NS, 0.1 * at) if before else (at * PERIOD_NS, 9 * at)
        )
        assert cell.arbiter.begins_period(now_ns + stamp_ns, q, now_ns + stamp_ns, now_s + then_s)
    assert cell.arbiter.source is CommandSource.HOME


def test_in_lockstep_who_commands_goes_on_after_whatever_time():
    cell = commanded_by(CommandSource.TELEOP, lockstep=True)
    cell.steer(0.0)
    told = cell.period()
    for _ in range(600):
        cell.go_on()
    cell.off[6] = 0.05
    cell.steer(0.0)
    answer = cell.period()
    assert answer.source is CommandSource.TELEOP
    np.testing.assert_allclose(answer.result.joint_command, told.result.joint_command, atol=1e-9)


# When the arm is to be where it is told


def test_the_arm_has_a_period_for_a_command_however_late_that_comes():
    """Regression: the age of a joint state did not count, and the arm was to make up for it."""
    cell = commanded_by(CommandSource.HOME)
    assert lag(cell.period(), cell) == 0.0
    assert lag(cell.period(age=0.5), cell) == 0.5
    assert lag(cell.period(), cell) == 0.5, "those after it are as late"


def test_what_is_waited_for_in_the_gate_adds_to_that():
    cell = commanded_by(CommandSource.POLICY)
    assert isinstance(cell.period(at_last=False, age=0.25), Wait)
    assert lag(cell.answer(0.25 * PERIOD_S, at_last=True), cell) == 0.5


def test_the_age_by_another_clock_is_none():
    cell = commanded_by(CommandSource.HOME, joint_state_s=1e9)
    assert lag(cell.period(age=1e6), cell) == 0.0


def test_in_lockstep_nothing_is_late():
    cell = commanded_by(CommandSource.POLICY, lockstep=True)
    assert isinstance(cell.period(age=0.5), Wait)
    cell.decide((0.1, 0.0), ahead=0)
    assert cell.answer(later_s=0.3).way.end_ns == cell.now_ns + PERIOD_NS, "to the nanosecond"
    cell.take(CommandSource.HOME)
    for _ in range(60):
        cell.period(age=0.9)
    assert not cell.arbiter.notices


def test_people_are_told_where_joint_states_are_always_old():
    cell = standing()
    for age in [0.6] * 100:
        cell.period(age=age)
    assert [told for told in cell.arbiter.notices if "0.060 s old when they come" in told]
    assert len(cell.arbiter.notices) == 1
    cell = standing()
    for age in [0.9, 0.9, 0.9, 0.4] * 25:
        cell.period(age=age)
    assert not cell.arbiter.notices


def test_a_period_that_is_over_is_not_answered_and_the_next_one_is_in_time():
    """Regression: a gate that stood still for .9 s commanded the arm as late for ten seconds."""
    cell = commanded_by(CommandSource.POLICY)
    cell.period()
    assert isinstance(cell.period(at_last=False), Wait)
    assert isinstance(cell.answer(0.9, at_last=True), LeftAlone)
    for _ in range(9):
        cell.go_on()
    cell.decide((0.1, 0.0))
    assert lag(cell.period(), cell) == 0.0


def test_an_arm_that_rests_forgets_how_late_it_was():
    cell = commanded_by(CommandSource.TELEOP)
    cell.period()
    cell.period(age=1.9)
    cell.steer(0.1)
    assert lag(cell.period(), cell) == 0.0


def test_an_arm_that_brakes_past_where_a_late_command_begins_is_not_told_to_turn_back():
    cell = swung(SOFT)
    cell.take(CommandSource.HOLD)
    on_its_way = cell.planned[2]
    told = cell.period(age=1.5)
    assert isinstance(told, LeftAlone)
    assert "answered 0.150 s after it began" in told.reason
    np.testing.assert_allclose(cell.period().result.joint_command, on_its_way)


# The policy


def test_what_a_policy_wants_while_another_commands_is_told_and_never_executed():
    cell = commanded_by(CommandSource.TELEOP)
    only_told = replace(chunk(cell.now + 1, (0.1, 0.0), (0.1, 0.0)), shadow=True)
    cell.arbiter.decide(only_told, cell.now_ns, cell.now_s)
    cell.steer(0.0)
    answer = cell.period()
    np.testing.assert_allclose(answer.proposal.action, (0.1, 0.0))
    assert moved(answer, cell) == 0.0
    cell.take(CommandSource.POLICY)
    cell.arbiter.decide(only_told, cell.now_ns, cell.now_s)  # it has not heard of it yet
    assert cell.period(at_last=False) == Wait(patience_begins=True)
    cell.decide((0.1, 0.0), ahead=0)
    assert moved(cell.answer(), cell) > 0.0


def test_a_plan_is_followed_as_long_as_its_policy_lives():
    cell = commanded_by(CommandSource.POLICY, missing_frames=100)
    cell.decide(*[(0.1, 0.0)] * 8)
    for _ in range(3):
        cell.see(cell.now, later_s=0.9 * PERIOD_S)
        assert moved(cell.period(), cell) > 0.0
    assert cell.period(at_last=False) == Wait(patience_begins=True), "it may be a little late"
    cell.see(cell.now - 3)
    assert moved(cell.answer(), cell) > 0.0
    answer = cell.period()
    assert answer.result.flags & GateFlag.HELD_STALE
    assert answer.proposal is not None
    assert "no sign of life" in answer.why_held


@pytest.mark.parametrize("at", [0.05, 0.2, 0.4, 0.6, 0.8, 0.95])
def test_a_plan_is_followed_while_its_policy_sees_and_for_less_than_two_periods_after(at):
    """Whenever in a period frames arrive: how old they are then does not matter."""
    cell = commanded_by(CommandSource.POLICY)
    cell.decide(*[(0.1, 0.0)] * 30)
    seen = cell.now

    def frame(later: float) -> None:  # as old as that of a slow camera
        nonlocal seen
        seen += 1
        cell.arbiter.hear_policy(seen * PERIOD_NS, cell.now_ns, cell.now_s + later * PERIOD_S)

    frame(at)
    for _ in range(10):
        answer = cell.period(at_last=False)
        if isinstance(answer, Wait):
            frame(at)
            answer = cell.answer(at * PERIOD_S)
        else:
            frame(at)
        assert moved(answer, cell) > 0.0
    lost = cell.now + at  # right after the last one came
    answer = cell.period(at_last=False)
    if isinstance(answer, Wait):
        cell.arbiter.hear_policy(seen * PERIOD_NS, cell.now_ns, cell.now_s)  # it lives
        answer = cell.answer(0.5 * PERIOD_S, at_last=True)
    while not answer.result.flags & GateFlag.HELD_STALE:
        cell.arbiter.hear_policy(seen * PERIOD_NS, cell.now_ns, cell.now_s + 0.5 * PERIOD_S)
        answer = cell.period()
    assert cell.now - lost < 2.0, "the last command that moves ends here"
    assert "has seen nothing new for" in answer.why_held


def seeing_every(periods: float, cell: Cell, count: int) -> list[bool]:
    """Which periods move the arm where frames come so far apart and decisions last."""
    cell.decide(*[(0.1, 0.0)] * 30)
    first, frames, moves = cell.now, 0, []

    def sees_until(when: float) -> None:
        nonlocal frames
        while first + (frames + 1) * periods <= when:
            frames += 1
            when_s = (first + frames * periods) * PERIOD_S
            cell.arbiter.hear_policy(round(when_s * 1e9), round(when_s * 1e9), when_s)
        cell.arbiter.hear_policy(0, cell.now_ns, when * PERIOD_S)

    for _ in range(count):
        sees_until(cell.now + 0.9)
        answer = cell.period(at_last=False)
        if isinstance(answer, Wait):
            sees_until(cell.now + 0.5)
            answer = cell.answer(0.5 * PERIOD_S, at_last=True)
        moves.append(not answer.result.flags & GateFlag.HELD_STALE)
    return moves


def test_a_camera_that_is_slower_than_the_arm_is_waited_for_once_it_is_known():
    moves = seeing_every(1.67, commanded_by(CommandSource.POLICY), 25)
    assert all(moves[12:]), moves


def test_one_that_is_too_slow_to_be_told_from_one_that_is_lost_is_not():
    moves = seeing_every(4.0, commanded_by(CommandSource.POLICY), 25)
    assert sum(moves) <= 13, moves


def test_rare_decisions_in_shadow_mode_do_not_pass_for_a_slow_camera():
    """Regression: the arm moved for up to six periods after the camera had died."""
    cell = commanded_by(CommandSource.HOME)
    for _ in range(12):
        cell.period()
        cell.period()
        cell.arbiter.decide(
            replace(chunk(cell.now, (0.0, 0.0)), shadow=True), cell.now_ns, cell.now_s
        )
    cell.take(CommandSource.POLICY)
    assert isinstance(cell.period(at_last=False), Wait)
    cell.decide(*[(0.1, 0.0)] * 8, ahead=0)
    assert moved(cell.answer(), cell) > 0.0
    for _ in range(3):
        cell.see(0, later_s=0.9 * PERIOD_S)  # it lives
        assert cell.period().result.flags & GateFlag.HELD_STALE


def test_a_policy_that_takes_command_is_followed_with_what_it_saw_before():
    cell = commanded_by(CommandSource.HOME)
    cell.period()
    shadow = replace(chunk(cell.now, (0.1, 0.0), (0.1, 0.0)), shadow=True)
    cell.arbiter.decide(shadow, cell.now_ns, cell.now_s)
    cell.take(CommandSource.POLICY)
    assert isinstance(cell.period(at_last=False), Wait)
    cell.decide((0.1, 0.0), (0.1, 0.0), ahead=-1)
    assert moved(cell.answer(), cell) > 0.0


def test_where_it_is_allowed_a_plan_bridges_missing_frames():
    cell = commanded_by(CommandSource.POLICY, missing_frames=2)
    assert any("missing_frames" in told for told in cell.arbiter.relaxed_timeouts())
    cell.decide(*[(0.1, 0.0)] * 8)
    for _ in range(3):
        cell.see(cell.now, later_s=0.9 * PERIOD_S)
        assert moved(cell.period(), cell) > 0.0
    held = []
    for _ in range(4):
        cell.see(cell.now - 5, later_s=0.9 * PERIOD_S)  # older ones are nothing new
        held.append(bool(cell.period().result.flags & GateFlag.HELD_STALE))
    assert held == [False, False, True, True]


def test_what_is_seen_in_the_future_is_no_sign_of_life():
    cell = commanded_by(CommandSource.POLICY)
    cell.decide(*[(0.1, 0.0)] * 8, ahead=0)
    cell.see(cell.now + 1, later_s=0.9 * PERIOD_S)
    assert moved(cell.period(), cell) > 0.0
    with pytest.raises(ActionError, match="one clock"):
        cell.see(cell.now + 2)
    assert cell.period().result.flags & GateFlag.HELD_STALE


def test_in_lockstep_a_plan_needs_no_sign_of_life():
    cell = commanded_by(CommandSource.POLICY, lockstep=True)
    cell.decide(*[(0.1, 0.0)] * 8)
    for _ in range(8):
        assert moved(cell.period(), cell) > 0.0


def test_what_was_decided_before_the_policy_took_command_is_refused():
    cell = standing()
    cell.take(CommandSource.POLICY)
    with pytest.raises(ActionError, match="before the policy took command"):
        cell.decide(*[(0.1, 0.0)] * 20, ahead=-9)
    cell.decide((0.1, 0.0), (0.1, 0.0), (0.1, 0.0), ahead=-1)  # what it saw just then


def test_in_lockstep_a_policy_that_is_behind_when_it_takes_command_is_followed():
    """What it decided covers the period that waits; refused, it would decide after that."""
    cell = commanded_by(CommandSource.TELEOP, lockstep=True)
    cell.steer(0.1)
    cell.period()
    cell.take(CommandSource.POLICY)
    assert isinstance(cell.period(), Wait)
    cell.decide(*[(0.1, 0.0)] * 8, ahead=-4)
    assert moved(cell.answer(), cell) > 0.0


@pytest.mark.parametrize("lockstep", [False, True])
def test_a_policy_that_is_put_in_command_again_begins_anew(lockstep):
    """Regression: what it had decided before a silence or a push was executed after it."""
    cell = commanded_by(CommandSource.POLICY, lockstep=lockstep)
    cell.decide(*[(0.1, 0.0)] * 8, ahead=0)
    cell.see(cell.now + 1, later_s=0.9 * PERIOD_S)
    assert moved(cell.period(), cell) > 0.0
    before = cell.arbiter.taken
    cell.take(CommandSource.POLICY)
    assert cell.arbiter.taken == before + 1, "which tells it to decide anew"
    assert isinstance(cell.period(at_last=False), Wait)
    cell.decide(*[(0.1, 0.0)] * 8, ahead=0)
    assert moved(cell.answer(), cell) > 0.0


def test_who_is_in_command_of_a_pushed_arm_may_take_it_anew_where_it_rests():
    cell = commanded_by(CommandSource.TELEOP)
    cell.period()
    for pushed in (0.2, 0.4, 0.6, 0.6, 0.6, 0.6):
        cell.off[0] = pushed
        cell.steer(0.1)
        held = cell.period().result.flags & GateFlag.HELD_STATE
    assert held
    cell.take(CommandSource.TELEOP)
    cell.steer(0.1)
    command = cell.period().result.joint_command
    assert 0.0 < np.abs(command - cell.places[-1] - cell.off).max() < 0.1


def test_a_policy_that_decides_nothing_for_a_second_loses_the_command_and_people_are_told():
    cell = commanded_by(CommandSource.POLICY)
    for _ in range(round(1.0 / PERIOD_S)):
        assert cell.arbiter.source is CommandSource.POLICY
        cell.period()
    assert cell.arbiter.source is CommandSource.HOLD
    (notice,) = cell.arbiter.notices
    assert "not followed for a second; the policy has decided nothing" in notice


@pytest.mark.parametrize("source", [CommandSource.POLICY, CommandSource.HOME])
def test_who_acts_alone_and_cannot_begin_for_a_second_loses_the_command(source):
    """Regression: a hand that held the arm for a minute let go, and the arm moved."""
    cell = commanded_by(source)
    for period in range(round(1.0 / PERIOD_S)):
        assert cell.arbiter.source is source
        cell.off[0] = 0.02 * (period + 1)  # moved by hand
        assert isinstance(cell.period(), LeftAlone)
    (notice,) = cell.arbiter.notices
    assert "not followed for a second; who is in command begins when" in notice
    assert cell.arbiter.source is CommandSource.HOLD
    for _ in range(4):
        assert isinstance(cell.period(), LeftAlone)


def test_that_second_passes_also_where_joint_states_are_rare():
    cell = commanded_by(CommandSource.HOME)
    cell.period()
    for _ in range(6):
        cell.off[0] = 0.3
        cell.go_on()
        cell.go_on()
        cell.period()
    assert cell.arbiter.source is CommandSource.HOLD


def test_in_lockstep_who_is_put_in_command_again_has_asked_already():
    cell = commanded_by(CommandSource.TELEOP, lockstep=True)
    cell.steer(0.1)
    cell.take(CommandSource.TELEOP)
    assert moved(cell.period(at_last=False), cell) > 0.0


@pytest.mark.parametrize("source", [CommandSource.POLICY, CommandSource.HOME])
def test_who_acts_alone_on_an_arm_that_is_held_elsewhere_for_a_second_loses_the_command(source):
    cell = commanded_by(source)
    cell.decide(*[(0.0, 0.0)] * 30, ahead=0)
    for period in range(20):
        cell.off[0] = min(0.2 * period, 0.6)
        cell.see(cell.now + 1, later_s=0.9 * PERIOD_S)
        cell.period()
    assert cell.arbiter.source is CommandSource.HOLD
    assert "not where it was told to be" in cell.arbiter.notices[-1]
    for back in (0.4, 0.2, 0.0, 0.0, 0.0):
        cell.off[0] = back
        answer = cell.period()
        assert not isinstance(answer, Answer) or moved(answer, cell) < 1e-6


def test_a_decision_of_the_future_is_refused():
    cell = standing()
    with pytest.raises(ActionError, match="clock"):
        cell.decide((0.1, 0.0), ahead=3)


# The person


@pytest.mark.parametrize("off", [-40, 40])
def test_a_request_of_another_clock_is_refused(off):
    cell = standing()
    with pytest.raises(ActionError, match="use_sim_time"):
        cell.steer(0.1, cell.now + off)


def test_of_requests_out_of_order_the_newest_counts():
    cell = commanded_by(CommandSource.TELEOP)
    cell.steer(0.0, cell.now + 1)
    with pytest.raises(ActionError, match="older"):
        cell.steer(0.2, cell.now)
    assert moved(cell.period(), cell) == 0.0
    cell.steer(0.2, cell.now)
    assert moved(cell.period(), cell) > 0.0


def test_a_request_of_the_future_is_refused_and_not_kept_for_later():
    """Regression: of a device whose clock is ahead the arm moved after the person had let go."""
    cell = commanded_by(CommandSource.TELEOP)
    for _ in range(8):
        with pytest.raises(ActionError, match="ahead of this node's clock"):
            cell.steer(0.2, stamp=cell.now + 9)
        assert moved(cell.period(), cell) < 1e-9
    for _ in range(12):
        assert moved(cell.period(), cell) < 1e-9


def test_a_request_of_the_future_locks_out_none_of_now():
    cell = commanded_by(CommandSource.TELEOP)
    with pytest.raises(ActionError, match="ahead of this node's clock"):
        cell.steer(0.0, cell.now + 8)
    cell.steer(0.2)
    assert moved(cell.period(), cell) > 0.0


# The emergency stop, and who goes on from where


def test_the_emergency_stop_holds_and_nobody_takes_command_before_its_release():
    cell = swung(SOFT)
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
    assert isinstance(cell.period(), LeftAlone), "nobody is in command"
    cell.take(CommandSource.TELEOP)
    told = [cell.steer(0.2) or cell.period() for _ in range(4)]
    assert moved(told[-1], cell) > 0.0


def test_a_period_that_waits_for_the_policy_is_answered_by_an_emergency_stop():
    cell = standing()
    cell.take(CommandSource.TELEOP)
    cell.steer(0.1)
    cell.period()
    cell.take(CommandSource.POLICY)
    assert isinstance(cell.period(at_last=False), Wait)
    cell.arbiter.stop()
    assert cell.answer().result.flags & GateFlag.HELD_ESTOP


@pytest.mark.parametrize("robot", [PANDA, SOFT], ids=["stops in a period", "in several"])
@pytest.mark.parametrize("how", ["hold", "stop and release", "release", "pause"])
def test_whatever_ends_command_a_moving_arm_brakes_from_where_it_was_told_to_be(robot, how):
    """Also where the measured arm lags behind, and the arm could stop within one period."""
    cell = swung(robot)
    cell.off = cell.places[-2] - cell.places[-1]
    going_to = cell.planned[1] if len(cell.planned) > 1 else cell.planned[0]
    if how == "hold":
        cell.take(CommandSource.HOLD)
    elif how == "pause":
        cell.arbiter.pause()
    else:
        if how == "stop and release":
            cell.arbiter.stop()
        cell.arbiter.release()
    np.testing.assert_allclose(cell.period().result.joint_command, going_to, atol=1e-9)


def test_a_pause_forgets_what_was_asked():
    cell = commanded_by(CommandSource.POLICY)
    cell.period(at_last=False)
    cell.decide((0.1, 0.0), (0.1, 0.0))
    cell.arbiter.pause()
    assert cell.answer(at_last=True) is None
    assert cell.arbiter.source is CommandSource.HOLD
    assert isinstance(cell.period(), LeftAlone)


# Time


def test_time_that_jumps_back_makes_nothing_due_that_came_before():
    cell = commanded_by(CommandSource.POLICY, lockstep=True)
    cell.decide(*[(0.1, 0.0)] * 8)
    assert moved(cell.period(), cell) > 0.0
    cell.now -= 500
    assert isinstance(cell.period(), Wait)
    assert "jumped back" in cell.arbiter.notices[0]


def test_after_time_has_jumped_back_the_arm_does_not_go_on_with_its_old_motion():
    cell = swung(SOFT)
    for _ in range(len(cell.planned) + 1):
        cell.go_on()
    cell.now -= 500
    told = cell.period()
    assert isinstance(told, LeftAlone) or moved(told, cell) < 1e-9


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
        self.believed, self.unknown = self.cell.now, False
        """The newest period with a joint state; whether the arm may be anywhere since."""

    @initialize()
    def begin(self) -> None:
        self.cell.go_on()

    @rule(source=st.sampled_from(CommandSource))
    def take(self, source: CommandSource) -> None:
        arbiter, was = self.cell.arbiter, self.cell.arbiter.source
        heard_s = arbiter._policy_heard_s
        try:
            arbiter.take(source, self.cell.now_s)
        except ActionError:
            unheard = source is CommandSource.POLICY and self.cell.now_s - heard_s > 1.5
            assert arbiter.estop or unheard
            assert arbiter.source is was

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
        with suppress(ActionError):  # of another clock, or older than the one before
            self.cell.steer(speed, self.cell.now + off)

    @rule(
        actions=st.lists(st.tuples(SPEEDS, SPEEDS), min_size=1, max_size=6),
        ahead=st.sampled_from([-5, -1, 0, 1, 1, 1, 2, 30]),
    )
    def decide(self, actions: list[tuple[float, float]], ahead: int) -> None:
        with suppress(ActionError):  # not finite, of the future, or not newer than the last
            self.cell.decide(*actions, ahead=ahead)

    @rule(of=st.sampled_from([-3, -1, 0, 0, 1, 1, 1, 20]))
    def live_sign(self, of: int) -> None:
        with suppress(ActionError):  # of the future
            self.cell.see(self.cell.now + of, later_s=0.9 * PERIOD_S)

    @rule(joint=st.integers(0, 6), angle=st.floats(-0.3, 0.3))
    def push(self, joint: int, angle: float) -> None:
        self.cell.off[joint] = angle

    @rule()
    def let_go(self) -> None:
        self.cell.off[:] = 0.0

    @rule(periods=st.sampled_from([1, 2, 3, 5, 8, 11, 14, 30]))
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
            now_ns, now_s = cell.now_ns, cell.now_s
            assert cell.arbiter.begins_period(now_ns, cell.measured, now_ns, now_s)
        except ObservationError:
            return
        self.unknown |= cell.now - self.believed > 10
        self.believed = cell.now
        cell.arbiter.await_answer(cell.now_ns, cell.measured, cell.now_s)
        planned, stands = list(cell.planned), cell.places[-1]
        rests = all(np.allclose(each, stands, atol=1e-9) for each in planned)
        may_move = not cell.arbiter.estop and cell.arbiter.source is not CommandSource.HOLD
        try:
            answer = cell.answer(at_last=at_last)
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
        goes_on = self._keeps_limits(cell.places, answer) and not self.unknown
        self.unknown = False
        anew = self._keeps_limits([cell.measured] * 3, answer)
        assert goes_on or anew, "faster than the arm may be"
        if not rests and cell.gate.tracks(cell.measured):
            assert goes_on, "a moving arm was stopped dead, or told to jump"
        on_its_way = planned[0] if planned else cell.places[-1]
        if not may_move:
            np.testing.assert_allclose(command, on_its_way, atol=1e-9)
        elif answer.result.flags & HELD:
            ends = [on_its_way, cell.measured]
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
