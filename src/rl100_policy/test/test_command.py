# SPDX-License-Identifier: Apache-2.0
"""The command gate: whatever is asked, no limit is broken."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl100_policy.core.command import HELD, CommandGate, GateFlag, MeasurementCheck
from rl100_policy.core.config import load_robot, load_task
from rl100_policy.core.errors import ObservationError

CONFIG = Path(__file__).parents[2] / "rl100_bringup" / "config"
ROBOT = load_robot(CONFIG / "robots" / "panda.yaml")
TASK = load_task(CONFIG / "tasks" / "push_t.yaml")
HOME = np.array(ROBOT.home)


@pytest.fixture(scope="module")
def gate() -> CommandGate:
    return CommandGate(ROBOT, TASK)


@pytest.fixture(autouse=True)
def _at_home(gate):
    gate.reset(HOME)


def test_an_action_within_limits_is_executed_as_asked(gate):
    action = np.array([0.1, -0.05])
    result = gate.step(action, HOME)
    np.testing.assert_allclose(result.executed, action, atol=1e-4)
    assert result.flags == GateFlag.NONE
    moved = gate.kinematics.tool_position(result.joint_command) - gate.kinematics.tool_position(
        HOME
    )
    np.testing.assert_allclose(moved, [0.01, -0.005, 0.0], atol=2e-5)


def test_height_and_orientation_are_kept_over_a_long_path(gate):
    q, start = HOME, gate.kinematics.tool_pose(HOME)
    for step in range(150):
        q = gate.step(
            np.array([0.15 * np.cos(step / 15), 0.2 * np.sin(step / 11)]), q
        ).joint_command
    pose = gate.kinematics.tool_pose(q)
    assert abs(pose[2, 3] - start[2, 3]) < 1e-4
    np.testing.assert_allclose(pose[:3, :3], start[:3, :3], atol=1e-3)


def test_an_action_beyond_its_bounds_is_clipped_to_them(gate):
    result = gate.step(np.array([5.0, 0.0]), HOME)
    assert result.flags & GateFlag.CLIPPED_ACTION
    assert result.executed[0] <= TASK.action.high[0] + 1e-6


def test_the_tool_stops_at_the_wall_of_the_workspace(gate):
    q = HOME
    for _ in range(40):
        result = gate.step(np.array([0.0, 0.25]), q)
        q = result.joint_command
    assert gate.kinematics.tool_position(q)[1] <= TASK.tool_workspace.high[1] + 1e-4
    assert result.flags & GateFlag.CLIPPED_WORKSPACE
    np.testing.assert_allclose(result.executed, 0.0, atol=1e-3)


@pytest.mark.parametrize(
    ("action", "flag"),
    [
        (None, GateFlag.HELD_STALE),
        (np.zeros(3), GateFlag.HELD_MALFORMED),
        (np.zeros((2, 1)), GateFlag.HELD_MALFORMED),
        (np.array([np.nan, 0.0]), GateFlag.HELD_NON_FINITE),
        (np.array([0.0, np.inf]), GateFlag.HELD_NON_FINITE),
    ],
)
def test_what_cannot_be_executed_holds_the_arm(gate, action, flag):
    result = gate.step(action, HOME)
    assert result.flags & flag
    np.testing.assert_allclose(result.joint_command, HOME, atol=1e-9)
    np.testing.assert_allclose(result.executed, 0.0, atol=1e-9)


def test_measured_positions_that_are_not_finite_hold_the_arm(gate):
    result = gate.step(np.array([0.1, 0.0]), np.full(7, np.nan))
    assert result.flags & GateFlag.HELD_NON_FINITE
    np.testing.assert_allclose(result.joint_command, HOME)


@pytest.mark.parametrize("lag", [0.4, 2.0, -1.0])
def test_an_arm_that_is_not_where_it_was_told_to_be_holds_and_does_not_jump(gate, lag):
    """Regression: one wrong measurement became the next command."""
    before = gate.step(np.array([0.05, 0.0]), HOME).joint_command
    elsewhere = before + lag * np.eye(7)[0]
    result = gate.step(np.array([0.05, 0.0]), elsewhere)
    assert result.flags & GateFlag.HELD_STATE
    assert not gate.tracks(elsewhere)
    assert np.abs(result.joint_command - before).max() < 0.05
    again = gate.step(np.array([0.05, 0.0]), result.joint_command)
    assert not again.flags & HELD


def test_a_joint_that_turned_without_moving_the_tip_is_noticed(gate):
    turned = HOME + 0.6 * np.eye(7)[6]
    np.testing.assert_allclose(
        gate.kinematics.tool_position(turned), gate.kinematics.tool_position(HOME), atol=0.05
    )
    assert not gate.tracks(turned)


@pytest.mark.parametrize("q", [np.full(7, 50.0), np.full(7, np.nan), HOME + 3.5 * np.eye(7)[0]])
def test_command_is_not_taken_where_no_arm_can_be(gate, q):
    with pytest.raises(ObservationError, match="outside the limits"):
        gate.reset(q)
    np.testing.assert_array_equal(gate.joint_command, HOME)


def test_a_measurement_that_jumped_is_refused_once(gate):
    check, step = MeasurementCheck(gate.kinematics), np.eye(7)[2]
    check.check(0, HOME)
    check.check(10_000_000, HOME + 0.04 * step)
    with pytest.raises(ObservationError, match=r"joint 2 jumped .* within 0\.010 s"):
        check.check(20_000_000, HOME + 0.9 * step)
    check.check(30_000_000, HOME + 0.9 * step)
    check.check(9_000_000_000, HOME)


def test_a_hold_after_motion_stops_within_the_acceleration_limits(gate):
    q = HOME
    for _ in range(5):
        q = gate.step(np.array([0.2, 0.0]), q).joint_command
    commands = [q] + [gate.hold(GateFlag.HELD_STALE).joint_command for _ in range(5)]
    np.testing.assert_allclose(commands[-1], commands[-2], atol=1e-12)


_number = st.one_of(st.floats(-2, 2), st.floats(allow_nan=True, allow_infinity=True))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(_number, _number, st.sampled_from(["told", "told", "stuck", "zeros", "any"])),
        min_size=1,
        max_size=25,
    ),
    st.integers(0, 2**32 - 1),
    st.booleans(),
)
def test_no_sequence_of_requests_and_measurements_breaks_a_joint_limit(steps, seed, slow):
    gate, rng = _SLOW if slow else _SHARED, np.random.default_rng(seed)
    gate.reset(HOME)
    arm, before, velocity, period = gate.kinematics, HOME, np.zeros(7), ROBOT.control_period
    for *action, kind in steps:
        measured = {
            "told": before,
            "stuck": HOME,
            "zeros": np.zeros(7),
            "any": rng.uniform(arm.position_lower, arm.position_upper),
        }[kind]
        result = gate.step(np.array(action), measured)
        command = result.joint_command
        new_velocity = (command - before) / period
        assert np.isfinite(command).all()
        assert (command >= arm.position_lower - 1e-9).all()
        assert (command <= arm.position_upper + 1e-9).all()
        assert (np.abs(new_velocity) <= arm.velocity_limits + 1e-9).all()
        assert (np.abs(new_velocity - velocity) <= arm.acceleration_limits * period + 1e-9).all()
        assert np.isfinite(result.executed).all()
        if not np.isfinite(action).all():
            assert result.flags & HELD
        before, velocity = command, new_velocity


_SHARED = CommandGate(ROBOT, TASK)
_SLOW = CommandGate(ROBOT.model_copy(update={"velocity_scale": 0.02}), TASK)
"""Of an arm whose velocity limits the task's actions exceed."""


def test_an_action_faster_than_the_joints_is_slowed_down_and_keeps_its_direction():
    _SLOW.reset(HOME)
    result = _SLOW.step(np.array([0.2, 0.1]), HOME)
    assert result.flags & GateFlag.CLIPPED_VELOCITY
    speeds = np.abs(result.joint_command - HOME) / ROBOT.control_period
    np.testing.assert_allclose(np.max(speeds / _SLOW.kinematics.velocity_limits), 1.0, rtol=1e-6)
    turned = np.arctan2(result.executed[1], result.executed[0]) - np.arctan2(0.1, 0.2)
    assert abs(turned) < np.deg2rad(5.0)
