# SPDX-License-Identifier: Apache-2.0
"""The command gate: whatever is asked, no limit is broken."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl100_policy.core.command import HELD, CommandGate, GateFlag
from rl100_policy.core.config import load_robot, load_task

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


def test_a_displaced_arm_restarts_from_where_it_is(gate):
    elsewhere = HOME + np.array([0.4, 0, 0, 0, 0, 0, 0])
    result = gate.step(np.zeros(2), elsewhere)
    np.testing.assert_allclose(result.joint_command, elsewhere, atol=1e-6)


def test_a_hold_after_motion_stops_within_the_acceleration_limits(gate):
    q = HOME
    for _ in range(5):
        q = gate.step(np.array([0.2, 0.0]), q).joint_command
    commands = [q] + [gate.hold(GateFlag.HELD_STALE).joint_command for _ in range(5)]
    np.testing.assert_allclose(commands[-1], commands[-2], atol=1e-12)


_number = st.one_of(st.floats(-2, 2), st.floats(allow_nan=True, allow_infinity=True))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(_number, _number), min_size=1, max_size=25))
def test_no_sequence_of_requests_breaks_a_joint_limit(actions):
    gate = _SHARED
    gate.reset(HOME)
    arm, q, velocity, period = gate.kinematics, HOME, np.zeros(7), ROBOT.control_period
    for action in actions:
        result = gate.step(np.array(action), q)
        command = result.joint_command
        new_velocity = (command - q) / period
        assert np.isfinite(command).all()
        assert (command >= arm.position_lower - 1e-9).all()
        assert (command <= arm.position_upper + 1e-9).all()
        assert (np.abs(new_velocity) <= arm.velocity_limits + 1e-9).all()
        assert (np.abs(new_velocity - velocity) <= arm.acceleration_limits * period + 1e-9).all()
        assert np.isfinite(result.executed).all()
        if not np.isfinite(action).all():
            assert result.flags & HELD
        q, velocity = command, new_velocity


_SHARED = CommandGate(ROBOT, TASK)
