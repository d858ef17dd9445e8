# SPDX-License-Identifier: Apache-2.0
"""Who commands, what is waited for, where the arm goes on from: the arbiter without ROS."""

from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from arm_cell import (
    HOME,
    PANDA,
    PERIOD_NS,
    PERIOD_S,
    SOFT,
    Cell,
    chunk,
    commanded_by,
    lag,
    moved,
    standing,
    swung,
    twist,
)

from rl100_policy.core.arbiter import Answer, Arbiter, LeftAlone, Timeouts, Wait
from rl100_policy.core.errors import ActionError, ObservationError
from rl100_policy.core.gate_result import CommandSource, GateFlag

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


def test_in_lockstep_who_is_put_in_command_again_has_asked_already():
    cell = commanded_by(CommandSource.TELEOP, lockstep=True)
    cell.steer(0.1)
    cell.take(CommandSource.TELEOP)
    assert moved(cell.period(at_last=False), cell) > 0.0


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


def test_people_are_told_of_requests_that_are_too_old_to_be_followed():
    cell = commanded_by(CommandSource.TELEOP)
    with pytest.raises(
        ActionError, match=r"0\.300 s behind this node's clock, 0\.12 s are usable"
    ):
        cell.steer(0.2, stamp=cell.now - 3)
    assert moved(cell.period(), cell) < 1e-9


def test_a_device_may_be_slow_and_its_clock_apart_where_periods_are_short():
    """Regression: at 100 Hz one that is 12 ms behind did nothing, and nobody was told."""
    assert Timeouts().resolved(0.01).teleop_s == 0.05
    assert Timeouts().resolved(PERIOD_S).teleop_s == pytest.approx(1.2 * PERIOD_S)


def test_a_device_that_is_ahead_moves_the_arm_no_longer_when_it_dies():
    cell = commanded_by(CommandSource.TELEOP)
    cell.steer(0.2, stamp=cell.now + 1)
    assert moved(cell.period(), cell) > 0.0
    assert cell.period().result.flags & GateFlag.HELD_STALE


def test_requests_that_share_the_clock_of_the_joint_states_are_followed():
    """Regression: both were 150 ms behind the gate's clock, and every request was refused."""
    cell = commanded_by(CommandSource.TELEOP)
    for _ in range(5):
        stamp = (cell.now + 1) * PERIOD_NS
        cell.arbiter.ask(stamp, twist(0.2), cell.gate.steer, stamp + 3 * PERIOD_NS // 2)
        answer = cell.period(age=1.5)
    assert moved(answer, cell) > 0.0


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
