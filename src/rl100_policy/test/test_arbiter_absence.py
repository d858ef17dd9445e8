# SPDX-License-Identifier: Apache-2.0
"""Whom the arm did not follow for a while loses it: the arbiter without ROS."""

import numpy as np
import pytest
from arm_cell import HOME, PANDA, PERIOD_NS, PERIOD_S, Cell, commanded_by, moved, standing

from rl100_policy.core.arbiter import Answer, LeftAlone
from rl100_policy.core.config import Obstacle
from rl100_policy.core.errors import ObservationError
from rl100_policy.core.gate_result import CommandSource, GateFlag


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


def barely_beyond(cell) -> np.ndarray:
    """A place where no arm can be, as far as its limits say, [n] rad."""
    place = HOME.copy()
    place[3] = cell.gate.kinematics.position_lower[3] - 0.17
    return place


@pytest.mark.parametrize("source", [CommandSource.POLICY, CommandSource.HOME])
def test_who_acts_alone_on_an_arm_beyond_its_limits_loses_the_command(source):
    """Regression: a minute later it was pushed back by hand, and moved .3 rad by itself."""
    cell = Cell()
    cell.places = [barely_beyond(cell)] * 3
    cell.stand()
    cell.take(source)
    for _ in range(round(1.0 / PERIOD_S)):
        assert cell.arbiter.source is source
        with pytest.raises(ObservationError, match="outside the limits"):
            cell.period()
    assert cell.arbiter.source is CommandSource.HOLD
    assert "outside the limits" in cell.arbiter.notices[-1]


def blocked() -> tuple[Cell, np.ndarray]:
    """An arm .6 rad beside its home with a wall in between."""
    away = HOME.copy()
    away[0] += 0.6
    cell = Cell()
    arm = cell.gate.kinematics
    between = (arm.tool_position(away) + arm.tool_position(HOME))[1] / 2.0 - 0.02
    wall = Obstacle(name="wall", kind="box", size=(1.2, 0.02, 1.0), xyz=(0.75, between, 0.5))
    cell.gate.surround([*PANDA.obstacles, wall])
    cell.places = [away] * 3
    cell.stand()
    return cell, away


def test_home_that_something_stands_in_the_way_of_is_given_up():
    """Regression: ten minutes later that was taken away, and the arm moved .6 rad by itself."""
    cell, away = blocked()
    cell.take(CommandSource.HOME)
    for _ in range(60):
        cell.period()
    assert np.abs(cell.places[-1] - away).max() > 0.01, "it went as far as it could"
    assert cell.arbiter.source is CommandSource.HOLD
    assert "would touch something" in cell.arbiter.notices[-1]
    stands = cell.places[-1]
    cell.gate.surround(PANDA.obstacles)
    for _ in range(30):
        cell.period()
    np.testing.assert_allclose(cell.places[-1], stands, atol=1e-9)


def test_a_person_who_pushes_against_something_stays_in_command():
    cell, _ = blocked()
    cell.take(CommandSource.TELEOP)
    for _ in range(60):
        ask = np.array([-0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
        cell.arbiter.ask((cell.now + 1) * PERIOD_NS, ask, cell.gate.jog, cell.now_ns)
        result = cell.period().result
    assert GateFlag.CLIPPED_COLLISION in result.flags
    assert cell.arbiter.source is CommandSource.TELEOP


def test_a_policy_that_pushes_against_its_workspace_stays_in_command():
    cell = commanded_by(CommandSource.POLICY)
    for _ in range(60):
        cell.decide(*[(0.25, 0.0)] * 3, ahead=0)
        cell.see(cell.now + 1, later_s=0.9 * PERIOD_S)
        flags = cell.period().result.flags
    assert GateFlag.CLIPPED_WORKSPACE in flags
    assert cell.arbiter.source is CommandSource.POLICY


def test_silences_and_hands_that_hold_the_arm_add_up():
    """Regression: nine periods of silence and eight of a hand, and it moved by itself."""
    cell = commanded_by(CommandSource.HOME)
    cell.period()
    cell.now += 8
    for _ in range(3):
        cell.off[0] = 0.6
        cell.period()
    assert cell.arbiter.source is CommandSource.HOLD


def test_a_latched_stop_takes_the_command_from_nobody_and_says_nothing_of_absence():
    cell = commanded_by(CommandSource.HOME)
    cell.period()
    cell.arbiter.stop()
    for _ in range(30):
        cell.period()
    assert cell.arbiter.source is CommandSource.HOME
    assert not cell.arbiter.notices


def test_a_hand_and_then_a_silence_add_up_too():
    """Regression: 1.9 s after it was last followed the way home went on by itself."""
    cell = commanded_by(CommandSource.HOME)
    cell.period()
    cell.off[0] = 0.3
    for _ in range(9):
        cell.period()
    assert cell.arbiter.source is CommandSource.HOME
    cell.off[0] = 0.0
    cell.now += 8
    answer = cell.period()
    assert cell.arbiter.source is CommandSource.HOLD
    assert not isinstance(answer, Answer) or moved(answer, cell) < 1e-9


def test_time_that_jumps_ahead_is_no_absence():
    cell = commanded_by(CommandSource.HOME)
    cell.period()
    for _ in range(3):
        cell.period(jump=50)
    assert cell.arbiter.source is CommandSource.HOME


def test_time_that_jumps_back_begins_no_new_second():
    cell = commanded_by(CommandSource.HOME)
    cell.period()
    cell.off[0] = 0.3
    for _ in range(6):
        cell.period()
    for _ in range(5):
        assert cell.arbiter.source is CommandSource.HOME
        cell.off[0] += 0.05  # it does not come to rest
        assert isinstance(cell.period(jump=-500), LeftAlone)
    assert cell.arbiter.source is CommandSource.HOLD
