# SPDX-License-Identifier: Apache-2.0
"""The command gate: whatever is asked, no limit is broken."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl100_policy.core.arbiter import Arbiter, Timeouts
from rl100_policy.core.collision import ArmCollision
from rl100_policy.core.command import CommandGate
from rl100_policy.core.config import (
    CollisionConfig,
    Obstacle,
    RobotConfig,
    WorkspaceBox,
    load_robot,
    load_task,
)
from rl100_policy.core.errors import ConfigError, ObservationError
from rl100_policy.core.gate_result import HELD, GateFlag
from rl100_policy.core.measurement import MeasurementCheck
from rl100_policy.core.relaxed import relaxed_limits

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


@pytest.mark.parametrize("gentle", [(None, None), (2.0, None), (0.5, None), (3.0, 8.0)])
@pytest.mark.parametrize(
    "direction", [(0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, 1), (-1, -1), (0.3, 1)]
)
def test_the_tool_stops_at_every_wall_of_the_workspace(direction, gentle):
    """Regression: an arm that could not stop in time was told to go through the wall."""
    gate = CommandGate(accelerating(*gentle), TASK)
    q = HOME
    for step in range(150):
        result = gate.step(0.25 * np.array(direction, dtype=float), q)
        q = result.joint_command
        tool = gate.kinematics.tool_position(q)[:2]
        assert (tool >= np.array(TASK.tool_workspace.low)[:2] - 1.1e-3).all(), step
        assert (tool <= np.array(TASK.tool_workspace.high)[:2] + 1.1e-3).all(), step
    assert result.flags & GateFlag.CLIPPED_WORKSPACE
    np.testing.assert_allclose(result.executed, 0.0, atol=2e-3)
    walls = np.where(
        np.array(direction) > 0, TASK.tool_workspace.high[:2], TASK.tool_workspace.low[:2]
    )
    reached = np.abs(tool - walls)[np.array(direction) != 0]
    assert (reached < 0.01).all()


def test_a_tool_that_starts_outside_the_workspace_comes_in_and_stays(gate):
    small = TASK.model_copy(
        update={"tool_workspace": WorkspaceBox(low=(0.40, -0.1, 0.0), high=(0.6, 0.1, 0.2))}
    )
    gate, q = CommandGate(ROBOT, small), HOME
    start = gate.kinematics.tool_position(HOME)[0]
    assert start < 0.40
    farther = gate.step(np.array([-0.2, 0.0]), q)
    assert gate.kinematics.tool_position(farther.joint_command)[0] >= start - 1.1e-3
    q = farther.joint_command
    for _ in range(20):
        q = gate.step(np.array([0.2, 0.0]), q).joint_command
    for _ in range(40):
        q = gate.step(np.array([-0.2, 0.0]), q).joint_command
    assert gate.kinematics.tool_position(q)[0] >= 0.40 - 1.1e-3


def accelerating(limit: float | None, jerk: float | None = None) -> RobotConfig:
    """The arm with other limits of all joints, of acceleration [rad/s^2] and jerk [rad/s^3]."""
    changed = {"acceleration_limits": limit, "jerk_limits": jerk}
    return ROBOT.model_copy(update={key: (each,) * 7 for key, each in changed.items() if each})


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


@pytest.mark.parametrize("limits", [(2.0, None), (2.0, 6.0)])
def test_every_command_says_how_the_arm_comes_to_rest_after_it(limits):
    gate, q = CommandGate(accelerating(*limits), TASK), HOME
    for _ in range(8):
        result = gate.step(np.array([0.1, 0.25]), q)
        q = result.joint_command
    told = result.stopping
    assert len(told) > 0
    held = [gate.hold(GateFlag.HELD_STALE) for _ in range(len(told) + 2)]
    commands = np.array([each.joint_command for each in held])
    np.testing.assert_allclose(commands[: len(told)], told, atol=1e-12)
    np.testing.assert_allclose(commands[len(told) :], told[-1:].repeat(2, axis=0), atol=1e-12)
    assert held[0].flags == GateFlag.HELD_STALE | GateFlag.CLIPPED_ACCELERATION
    assert held[-1].flags == GateFlag.HELD_STALE


_number = st.one_of(st.floats(-2, 2), st.floats(allow_nan=True, allow_infinity=True))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(_number, _number, st.sampled_from(["told", "told", "stuck", "zeros", "any"])),
        min_size=1,
        max_size=25,
    ),
    st.integers(0, 2**32 - 1),
    st.sampled_from(["as it is", "slow", "gentle", "narrow", "smooth", "soft"]),
)
def test_no_sequence_of_requests_and_measurements_breaks_a_limit(steps, seed, arm_is):
    gate, rng = _GATES[arm_is], np.random.default_rng(seed)
    gate.reset(HOME)
    arm, before, period = gate.kinematics, HOME, ROBOT.control_period
    velocity = acceleration = np.zeros(7)
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
        new_acceleration = (new_velocity - velocity) / period
        assert (np.abs(new_acceleration) <= arm.acceleration_limits + 1e-7).all()
        jerk = (new_acceleration - acceleration) / period
        assert (np.abs(jerk) <= arm.jerk_limits + 1e-6).all()
        tool = arm.tool_position(command)
        assert (tool >= np.array(TASK.tool_workspace.low) - 1.1e-3).all()
        assert (tool <= np.array(TASK.tool_workspace.high) + 1.1e-3).all()
        assert np.isfinite(result.executed).all()
        if not np.isfinite(action).all():
            assert result.flags & HELD
        before, velocity, acceleration = command, new_velocity, new_acceleration


_SLOW = CommandGate(ROBOT.model_copy(update={"velocity_scale": 0.02}), TASK)
"""Of an arm whose velocity limits the task's actions exceed."""
_GATES = {
    "as it is": CommandGate(ROBOT, TASK),
    "slow": _SLOW,
    "gentle": CommandGate(accelerating(0.5), TASK),
    "smooth": CommandGate(accelerating(5.0, jerk=15.0), TASK),
    "soft": CommandGate(accelerating(1.0, jerk=3.0), TASK),
    "narrow": CommandGate(
        ROBOT.model_copy(update={"acceleration_limits": (1.0,) * 7, "position_margin": 0.25}),
        TASK,
    ),
}


def test_an_action_faster_than_the_joints_is_slowed_down_and_keeps_its_direction():
    _SLOW.reset(HOME)
    result = _SLOW.step(np.array([0.2, 0.1]), HOME)
    assert result.flags & GateFlag.CLIPPED_VELOCITY
    speeds = np.abs(result.joint_command - HOME) / ROBOT.control_period
    np.testing.assert_allclose(np.max(speeds / _SLOW.kinematics.velocity_limits), 1.0, rtol=1e-6)
    turned = np.arctan2(result.executed[1], result.executed[0]) - np.arctan2(0.1, 0.2)
    assert abs(turned) < np.deg2rad(5.0)


# Actions that are joint velocities

JOINT_TASK = load_task(CONFIG / "tasks" / "push_t_joint.yaml")


def of_joints(robot: RobotConfig = ROBOT, **changes: object) -> CommandGate:
    """A gate of joint velocities with other bounds of the action, or another workspace."""
    about_action = {key: changes.pop(key) for key in ("low", "high", "names") if key in changes}
    action = JOINT_TASK.action.model_copy(update=about_action)
    return CommandGate(robot, JOINT_TASK.model_copy(update={"action": action, **changes}))


_JOINT = of_joints()
_JOINT_NARROW = of_joints(accelerating(2.0), low=(-0.1,) * 7, high=(0.3,) * 7)
_JOINT_FAST = of_joints(accelerating(4.0), low=(-9.0,) * 7, high=(9.0,) * 7)
_JOINT_SMOOTH = of_joints(accelerating(4.0, jerk=16.0))
_BOUNDS = {
    _JOINT: (-1.0, 1.0),
    _JOINT_NARROW: (-0.1, 0.3),
    _JOINT_FAST: (-9.0, 9.0),
    _JOINT_SMOOTH: (-1.0, 1.0),
}


def test_joint_velocities_within_limits_are_executed_as_asked():
    _JOINT.reset(HOME)
    action = np.array([0.1, -0.02, 0.03, 0.02, 0.0, 0.05, -0.2])
    result = _JOINT.step(action, HOME)
    np.testing.assert_allclose(result.executed, action, atol=1e-12)
    np.testing.assert_allclose(result.joint_command, HOME + 0.1 * action, atol=1e-12)
    assert result.flags == GateFlag.NONE


def test_joint_velocities_beyond_their_bounds_are_clipped_to_them():
    _JOINT.reset(HOME)
    asked = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 9.0])
    result = _JOINT.step(asked, HOME)
    assert result.flags == GateFlag.CLIPPED_ACTION
    np.testing.assert_allclose(result.executed, [0, 0, 0, 0, 0, 0, 1.0], atol=1e-12)
    np.testing.assert_array_equal(result.requested, asked)


def test_joint_velocities_above_what_the_urdf_allows_are_slowed_down_together():
    _JOINT_FAST.reset(HOME)
    limits = _JOINT_FAST.kinematics.velocity_limits
    asked, q = np.array([0.0, 0.0, 0.0, 0.0, 0.5, 0.0, 8.0]), HOME
    for _ in range(12):
        result = _JOINT_FAST.step(asked, q)
        q = result.joint_command
        assert (np.abs(result.executed) <= limits + 1e-9).all()
        if result.flags & GateFlag.CLIPPED_VELOCITY:
            break
    assert result.flags & GateFlag.CLIPPED_VELOCITY
    assert result.executed[4] / result.executed[6] == pytest.approx(0.5 / 8.0, rel=1e-6)


@pytest.mark.parametrize("acceleration", [None, 5.0, 2.0, 0.5])
def test_a_person_moves_the_tool_alike_whatever_an_action_is(acceleration):
    """Regression: a stick that was let go while the tool coasted drove the arm back.

    Also with turns of direction and periods without a twist, and the height is kept.
    """
    robot = accelerating(acceleration)
    by_tool, by_joints = CommandGate(robot, TASK), of_joints(robot)
    q, height = HOME, by_tool.kinematics.tool_position(HOME)[2]
    twists = [[0.0, 0.25]] * 8 + [[0.1, 0.0]] * 6 + [[0.0, 0.0]] * 10 + [None] * 3
    twists += [
        [0.15 * np.cos(step / 5), 0.2 * np.sin(step / 4)] if step % 3 else None
        for step in range(100)
    ]
    for each in twists:
        twist = None if each is None else np.pad(np.array(each), (0, 4))
        one, other = by_tool.steer(twist, q), by_joints.steer(twist, q)
        np.testing.assert_allclose(other.joint_command, one.joint_command, atol=1e-9)
        assert other.flags == one.flags
        q = one.joint_command
        assert abs(by_joints.kinematics.tool_position(q)[2] - height) < 2e-3


def test_what_a_person_did_in_joint_velocities_leads_the_same_way_again():
    _JOINT.reset(HOME)
    q, done = HOME, []
    for step in range(60):
        done.append(_JOINT.steer(np.array([0.1, 0.2 * np.cos(step / 9), 0, 0, 0, 0]), q))
        q = done[-1].joint_command
    assert any(each.flags & GateFlag.CLIPPED_WORKSPACE for each in done)
    _JOINT.reset(HOME)
    again = HOME
    for each in done:
        again = _JOINT.step(each.executed, again).joint_command
    np.testing.assert_allclose(again, q, atol=1e-9)


def test_a_persons_twist_is_slowed_down_to_the_bounds_of_the_joints_and_what_it_asked_is_told():
    _JOINT_NARROW.reset(HOME)
    q = HOME
    for _ in range(3):
        result = _JOINT_NARROW.steer(np.array([0.0, 0.2, 0, 0, 0, 0]), q)
        q = result.joint_command
    assert result.flags & GateFlag.CLIPPED_VELOCITY
    assert np.max(np.maximum(result.executed / 0.3, -result.executed / 0.1)) == pytest.approx(1)
    assert result.requested is not None
    assert np.max(np.maximum(result.requested / 0.3, -result.requested / 0.1)) > 1.2
    arm = _JOINT_NARROW.kinematics
    moved = arm.tool_position(q) - arm.tool_position(HOME)
    assert moved[1] > 0.005
    np.testing.assert_allclose(moved[[0, 2]], 0.0, atol=1e-3)


def test_a_person_moves_only_what_the_task_says_and_as_fast():
    _JOINT.reset(HOME)
    plain = _JOINT.steer(np.array([0.25, 0.0, 0, 0, 0, 0]), HOME)
    _JOINT.reset(HOME)
    wild = _JOINT.steer(np.array([7.0, 0.0, 1.0, 2.0, -3.0, 1e9]), HOME)
    np.testing.assert_array_equal(wild.joint_command, plain.joint_command)
    assert wild.flags == plain.flags | GateFlag.CLIPPED_ACTION
    assert not plain.flags & GateFlag.CLIPPED_ACTION


def test_the_components_of_a_twist_are_those_that_the_task_names():
    swapped = TASK.action.model_copy(update={"names": ("linear.y", "linear.x")})
    gate = CommandGate(ROBOT, TASK.model_copy(update={"action": swapped}))
    result = gate.steer(np.array([0.1, -0.05, 9.0, 0, 0, 0]), HOME)
    np.testing.assert_allclose(result.executed, [-0.05, 0.1], atol=1e-4)


@pytest.mark.parametrize("task", [TASK, JOINT_TASK], ids=["ee_twist", "joint_velocity"])
@pytest.mark.parametrize(
    ("twist", "elsewhere", "flag"),
    [
        (None, 0.0, GateFlag.HELD_STALE),
        (np.zeros(2), 0.0, GateFlag.HELD_MALFORMED),
        (np.zeros(7), 0.0, GateFlag.HELD_MALFORMED),
        (np.array([np.nan, 0, 0, 0, 0, 0]), 0.0, GateFlag.HELD_NON_FINITE),
        (np.array([0.1, 0, 0, 0, 0, 0]), np.nan, GateFlag.HELD_NON_FINITE),
        (np.array([0.1, 0, 0, 0, 0, 0]), 0.6, GateFlag.HELD_STATE),
    ],
)
def test_a_person_without_a_good_twist_holds_the_arm(task, twist, elsewhere, flag):
    gate = CommandGate(ROBOT, task)
    result = gate.steer(twist, HOME + elsewhere)
    assert result.flags == flag
    np.testing.assert_array_equal(result.joint_command, HOME)


@pytest.mark.parametrize(
    ("bound", "acceleration", "start", "direction", "wall"),
    [
        (2.1, 4.0, [0.39, -0.58, -0.25, -2.64, -0.02, 2.35, 0.98], [0, -1, 1, 1, 0, 1, 0], 1.1727),
        (
            2.1, None, [-0.05, -0.68, -0.34, -2.41, -0.01, 2.21, 0.81], [-1, -1, 0, 1, 1, 0, -1],
            1.1903,
        ),
        (
            1.0, 2.0, [-0.05, -0.68, -0.34, -2.41, -0.01, 2.21, 0.81], [-1, -1, 0, 1, 1, 0, -1],
            1.1904,
        ),
    ],
)  # fmt: skip
def test_the_arc_of_a_fast_swing_stays_inside(bound, acceleration, start, direction, wall):
    """Regression: between the places that were looked at, an arc went 10 mm through a ceiling."""
    ceiling = WorkspaceBox(low=(-2.0, -2.0, -2.0), high=(2.0, 2.0, wall))
    robot = accelerating(acceleration)
    gate = of_joints(
        robot, low=(-bound,) * 7, high=(bound,) * 7, tool_workspace=ceiling, tool_tilt=None
    )
    q, arm = np.array(start), gate.kinematics
    gate.reset(q)
    highest = wall
    for _ in range(15):
        after = gate.step(bound * np.array(direction, dtype=float), q).joint_command
        heights = [arm.tool_position(q + s * (after - q))[2] for s in np.linspace(0.1, 1, 10)]
        highest, q = max(highest, *heights), after
    assert highest <= wall + 1.3e-3


def test_the_tool_does_not_tilt_farther_than_the_task_allows():
    """The tip may stay where it is while the hand goes around it, and below the table."""
    room = WorkspaceBox(low=(0.0, -1.0, -1.0), high=(1.0, 1.0, 1.0))
    gate = of_joints(tool_workspace=room)
    q, arm = HOME, gate.kinematics
    axis = arm.tool_pose(HOME)[:3, 2]
    towards = np.zeros(7)
    towards[5] = -0.5
    for _ in range(30):
        result = gate.step(towards, q)
        q = result.joint_command
        assert axis @ arm.tool_pose(q)[:3, 2] >= np.cos(JOINT_TASK.tool_tilt + 1e-3)
    assert result.flags & GateFlag.CLIPPED_WORKSPACE


def test_a_tool_that_is_tilted_too_far_may_only_turn_back_however_often_command_is_taken():
    gate = of_joints(tool_workspace=WorkspaceBox(low=(0.0, -1.0, -1.0), high=(1.0, 1.0, 1.0)))
    arm, axis = gate.kinematics, gate.kinematics.tool_pose(HOME)[:3, 2]
    q = HOME - np.array([0, 0, 0, 0, 0, 0.5, 0])
    away = np.array([0, 0, 0, 0, 0, -0.5, 0])
    for _ in range(3):
        gate.reset(q)
        np.testing.assert_allclose(gate.step(away, q).executed, 0.0, atol=1e-9)
    back = gate.step(-away, q)
    np.testing.assert_allclose(back.executed, -away, atol=1e-9)
    tilts = [axis @ arm.tool_pose(each)[:3, 2] for each in (q, back.joint_command)]
    assert tilts[0] < tilts[1] < np.cos(JOINT_TASK.tool_tilt)


def test_joint_velocities_of_another_arm_are_refused():
    with pytest.raises(ConfigError, match="velocities of \\['other'"):
        of_joints(names=("other", *ROBOT.joints[1:]))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.lists(_number, min_size=7, max_size=7),
            st.booleans(),
            st.sampled_from(["told", "told", "told", "stuck", "any"]),
        ),
        min_size=1,
        max_size=25,
    ),
    st.integers(0, 2**32 - 1),
    st.sampled_from(list(_BOUNDS)),
)
def test_no_joint_velocities_and_twists_break_a_limit(steps, seed, gate):
    rng, kinematics = np.random.default_rng(seed), gate.kinematics
    gate.reset(HOME)
    low, high = _BOUNDS[gate]
    before, period = HOME, ROBOT.control_period
    velocity = acceleration = np.zeros(7)
    for numbers, is_person, kind in steps:
        anywhere = rng.uniform(kinematics.position_lower, kinematics.position_upper)
        measured = {"told": before, "stuck": HOME, "any": anywhere}[kind]
        request = np.array(numbers)
        result = gate.steer(request[:6], measured) if is_person else gate.step(request, measured)
        command = result.joint_command
        new_velocity = (command - before) / period
        assert (command >= kinematics.position_lower - 1e-9).all()
        assert (command <= kinematics.position_upper + 1e-9).all()
        assert (new_velocity >= low - 1e-9).all()
        assert (new_velocity <= high + 1e-9).all()
        assert (np.abs(new_velocity) <= kinematics.velocity_limits + 1e-9).all()
        new_acceleration = (new_velocity - velocity) / period
        assert (np.abs(new_acceleration) <= kinematics.acceleration_limits + 1e-7).all()
        jerk = (new_acceleration - acceleration) / period
        assert (np.abs(jerk) <= kinematics.jerk_limits + 1e-6).all()
        tool = kinematics.tool_position(command)
        assert (tool >= np.array(JOINT_TASK.tool_workspace.low) - 1.31e-3).all()
        assert (tool <= np.array(JOINT_TASK.tool_workspace.high) + 1.31e-3).all()
        np.testing.assert_allclose(result.executed, new_velocity, atol=1e-9)
        if not np.isfinite(request[:2] if is_person else request).all():
            assert result.flags & HELD
        before, velocity, acceleration = command, new_velocity, new_acceleration


def moved_by(request, periods, q=HOME):
    """Joint commands of some periods of one request, each tracked perfectly, [periods + 1, n]."""
    found = [q]
    for _ in range(periods):
        found.append(request(found[-1]).joint_command)
    return np.array(found)


@pytest.mark.parametrize("back", [False, True], ids=["take over", "hand back"])
def test_a_handover_changes_the_command_no_faster_than_any_other_step(gate, back):
    """Bound of both handovers: a_max T^2 between two steps of the command, each joint."""
    person = np.array([-0.25, 0.25, 0.0, 0.0, 0.0, 0.0])
    sources = [lambda q: gate.step(np.array([0.25, -0.25]), q), lambda q: gate.steer(person, q)]
    before, after = sources[::-1] if back else sources
    first = moved_by(before, 6)
    assert np.abs(first[-1] - first[-2]).max() > 5e-3, "the arm moves when it is handed over"
    gate.hand_over()
    path = np.vstack([first, moved_by(after, 10, first[-1])[1:]])
    change = np.abs(np.diff(path, n=2, axis=0))
    bound = gate.kinematics.acceleration_limits * ROBOT.control_period**2
    assert (change <= bound + 1e-9).all()


def test_a_handover_to_a_still_hand_brakes_and_stays(gate):
    first = moved_by(lambda q: gate.step(np.array([0.25, 0.0]), q), 6)
    gate.hand_over()
    after = moved_by(lambda q: gate.steer(None, q), 6, first[-1])
    np.testing.assert_array_equal(after[-1], after[-2])
    gone = gate.kinematics.tool_position(after[-1]) - gate.kinematics.tool_position(first[-1])
    assert np.linalg.norm(gone) < 0.03


def test_a_person_can_turn_one_joint_and_the_record_says_it_is_more_than_an_action(gate):
    velocities = np.zeros(7)
    velocities[6] = 0.5
    result = gate.jog(velocities, HOME)
    np.testing.assert_allclose(result.joint_command - HOME, [0] * 6 + [0.05], atol=1e-9)
    assert result.flags == GateFlag.BEYOND_ACTION


def test_a_joint_request_is_kept_within_limits_and_workspace(gate):
    path = moved_by(lambda q: gate.jog(np.full(7, 50.0), q), 40)
    steps = np.diff(path, axis=0) / ROBOT.control_period
    assert (np.abs(steps) <= gate.kinematics.velocity_limits + 1e-9).all()
    heights = np.array([gate.kinematics.tool_position(q)[2] for q in path])
    assert (heights > TASK.tool_workspace.low[2] - 1.5e-3).all()


@pytest.mark.parametrize("wrong", [np.full(7, np.nan), np.zeros(6)], ids=["not finite", "short"])
def test_a_joint_request_that_is_none_holds(gate, wrong):
    result = gate.jog(wrong, HOME)
    assert result.flags & HELD
    np.testing.assert_array_equal(result.joint_command, HOME)


@pytest.mark.parametrize(
    "direction", [(0.25, 0.2), (0.25, -0.25), (0.0, 0.25), (-0.2, -0.25), (0.1, 0.0)]
)
def test_the_way_home_ends_there_and_sweeps_nothing_off_the_table(gate, direction):
    away = moved_by(lambda q: gate.step(np.array(direction), q), 14)[-1]
    gate.reset(away)
    path = moved_by(gate.go_home, 150, away)
    assert gate.at_home(path[-1])
    np.testing.assert_allclose(path[-1], HOME, atol=2e-3)
    tools = np.array([gate.kinematics.tool_position(q) for q in path])
    home = gate.kinematics.tool_position(HOME)
    across = np.linalg.norm(tools[:, :2] - home[:2], axis=1) > 0.01
    low = tools[:, 2] < TASK.crop.high[2] + 0.03
    start = np.linalg.norm(tools[:, :2] - tools[0, :2], axis=1) < 0.01
    assert not (across & low & ~start).any(), "moves across the table only above it"


def test_an_arm_that_is_stretched_on_its_way_up_goes_across_at_the_height_it_has():
    low, high = TASK.tool_workspace.low, TASK.tool_workspace.high
    box = WorkspaceBox(low=low, high=(*high[:2], 0.9))
    gate = CommandGate(ROBOT, TASK.model_copy(update={"tool_workspace": box}))
    gate.reset(HOME)
    away = moved_by(lambda q: gate.step(np.array([0.25, 0.2]), q), 12)[-1]
    gate.reset(away)
    path = moved_by(gate.go_home, 250, away)
    assert gate.at_home(path[-1])
    tools = np.array([gate.kinematics.tool_position(q) for q in path])
    assert 0.1 < tools[:, 2].max() < 0.5, "it went up, and not to the end of its reach"
    sideways = np.linalg.norm(np.diff(tools[:, :2], axis=0), axis=1) > 2e-3
    beside = np.linalg.norm(tools[:-1, :2] - tools[-1, :2], axis=1) > 0.02
    assert tools[:-1, 2][sideways & beside].min() > tools[:, 2].max() - 0.03


def test_an_arm_that_is_held_back_stops_on_its_way_home(gate):
    moved = moved_by(lambda q: gate.step(np.array([0.25, 0.1]), q), 10)[-1]
    gate.reset(moved)
    for _ in range(60):
        result = gate.go_home(moved)  # the measured arm does not follow
    assert result.flags & GateFlag.HELD_STATE


def test_after_a_handover_what_the_new_source_does_not_move_stays_where_it_is(gate):
    """The tool's target is where the command has it, not where the old source held it."""
    turned = np.zeros(7)
    turned[1] = -0.3
    moved = moved_by(lambda q: gate.jog(turned, q), 5)[-1]
    gate.hand_over()
    height = gate.kinematics.tool_position(moved)[2]
    still = np.array([0.0, 0.05, 0.0, 0.0, 0.0, 0.0])
    after = moved_by(lambda q: gate.steer(still, q), 6, moved)[-1]
    assert abs(gate.kinematics.tool_position(after)[2] - height) < 0.012, "it braked, no more"


def test_a_way_home_begins_anew_after_somebody_else_moved_the_arm(gate):
    away = moved_by(lambda q: gate.step(np.array([0.25, 0.0]), q), 8)[-1]
    gate.hand_over()
    at_home = moved_by(gate.go_home, 120, away)[-1]
    moved = moved_by(lambda q: gate.step(np.array([0.25, 0.0]), q), 8, at_home)[-1]
    gate.hand_over()
    path = moved_by(gate.go_home, 12, moved)
    heights = [gate.kinematics.tool_position(q)[2] for q in path]
    assert max(heights) > heights[0] + 0.05, "up first"


@pytest.mark.parametrize("limits", [(2.0, None), (3.0, 10.0), (1.0, 2.0)])
def test_an_arm_that_starts_and_stops_slowly_gets_home_too(limits):
    gate = CommandGate(accelerating(*limits), TASK)
    away = moved_by(lambda q: gate.step(np.array([0.15, 0.2]), q), 20)[-1]
    gate.reset(away)
    path = moved_by(gate.go_home, 500, away)
    np.testing.assert_allclose(path[-1], HOME, atol=2e-3)
    np.testing.assert_allclose(path[-1], path[-20], atol=2e-3)


def test_joints_turn_slowly_on_the_way_home(gate):
    q = HOME + np.array([1.2, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    gate.reset(q)
    steps = np.diff(moved_by(gate.go_home, 60, q), axis=0) / ROBOT.control_period
    assert np.abs(steps / gate.kinematics.velocity_limits).max() < 0.5


# Collisions

_ANYWHERE = WorkspaceBox(low=(-2.0, -2.0, -2.0), high=(2.0, 2.0, 2.0))
_WALL = Obstacle(name="wall", size=(0.1, 1.0, 1.0), xyz=(0.2, 0.36, 0.5), rpy=(0.0, 0.0, 1.2))
_POST = Obstacle(name="post", kind="cylinder", size=(0.05, 1.0), xyz=(0.45, -0.4, 0.5))
_BALL = Obstacle(name="ball", kind="sphere", size=(0.1,), xyz=(0.6, 0.0, 0.75))


def crowded(robot: RobotConfig = ROBOT) -> RobotConfig:
    """The arm between obstacles."""
    return robot.model_copy(update={"obstacles": (*robot.obstacles, _WALL, _POST, _BALL)})


def swinging(robot: RobotConfig) -> CommandGate:
    """A gate whose actions swing the arm anywhere."""
    return of_joints(
        robot, low=(-2.0,) * 7, high=(2.0,) * 7, tool_workspace=_ANYWHERE, tool_tilt=None
    )


@pytest.mark.parametrize("limits", [(None, None), (4.0, None), (4.0, 20.0)])
@pytest.mark.parametrize("seed", range(4))
def test_no_link_comes_too_near_to_another_or_to_an_obstacle(limits, seed):
    gate, rng = swinging(crowded(accelerating(*limits))), np.random.default_rng(seed)
    judge, q, seen = ArmCollision(gate.kinematics.arm), HOME, GateFlag.NONE
    for _ in range(60):
        wanted = rng.uniform(-2.0, 2.0, 7)
        for _ in range(rng.integers(1, 12)):
            result = gate.step(wanted, q)
            after = result.joint_command
            for share in np.linspace(0.2, 1.0, 5):
                near = judge.clearance(q + share * (after - q))
                assert near.distance >= 0.7 * judge.margin, near
            q, seen = after, seen | result.flags
            for each in result.stopping:
                assert judge.clearance(each).distance >= 0.7 * judge.margin
    assert seen & GateFlag.CLIPPED_COLLISION


def test_an_arm_that_starts_too_near_may_only_go_away():
    gate = swinging(crowded())
    turns = (HOME + turn * np.eye(7)[0] for turn in np.arange(0.0, 2.0, 2e-4))
    near = next(q for q in turns if gate.collision.clearance(q).distance < 0.003)
    assert "wall" in gate.collision.clearance(near).between
    gate.reset(near)
    towards = gate.step(0.1 * np.eye(7)[0], near)
    assert towards.flags & GateFlag.CLIPPED_COLLISION
    np.testing.assert_allclose(towards.joint_command, near, atol=1e-9)
    away = gate.step(-0.1 * np.eye(7)[0], near)
    np.testing.assert_allclose(away.executed[0], -0.1, atol=1e-9)
    q = away.joint_command
    for _ in range(5):
        q = gate.step(-0.2 * np.eye(7)[0], q).joint_command
    for _ in range(20):
        q = gate.step(0.2 * np.eye(7)[0], q).joint_command
    assert gate.collision.clearance(q).distance >= 0.7 * gate.collision.margin


def test_one_pair_that_is_too_near_lets_no_other_come_as_near():
    """Regression: what one pair was allowed, all were."""
    gate, axis = swinging(ROBOT), np.eye(7)[0]
    beside = Obstacle(name="beside", kind="sphere", size=(0.05,), xyz=(0.34, -0.2, 0.4))
    gate.surround([_WALL, beside])
    turns = (HOME + turn * axis for turn in np.arange(0.0, -2.0, -2e-4))
    near = next(q for q in turns if gate.collision.clearance(q).distance < -0.02)
    assert "beside" in gate.collision.clearance(near).between
    gate.reset(near)
    q, judge = near, ArmCollision(gate.kinematics.arm, [_WALL])
    for _ in range(60):
        q = gate.step(0.5 * axis, q).joint_command
    assert 0.7 * judge.margin < judge.clearance(q).distance < 0.05
    for _ in range(60):
        q = gate.step(-0.5 * axis, q).joint_command
    assert ArmCollision(gate.kinematics.arm, [beside]).clearance(q).distance >= 0.7 * judge.margin


def test_an_arm_that_is_too_near_at_home_is_refused():
    at_hand = Obstacle(name="crate", kind="sphere", size=(0.1,), xyz=(0.34, 0.0, 0.4))
    with pytest.raises(ConfigError, match=r"at home is nearer than .*panda_hand and crate \("):
        CommandGate(ROBOT.model_copy(update={"obstacles": (at_hand,)}), TASK)


def test_unknown_names_of_what_may_touch_are_refused():
    some = CollisionConfig(ignore=(("panda_link1", "panda_lnik5"),))
    with pytest.raises(ConfigError, match=r"names \['panda_lnik5'\]; there are"):
        CommandGate(ROBOT.model_copy(update={"collision": some}), TASK)


def test_pairs_that_are_ignored_may_touch():
    ignoring = CollisionConfig(
        srdf=ROBOT.collision.srdf,
        ignore=tuple(
            (link, "crate") for link in ("panda_hand", "tool", "panda_link6", "panda_link7")
        ),
    )
    robot = ROBOT.model_copy(
        update={
            "collision": ignoring,
            "obstacles": (Obstacle(name="crate", size=(0.05,) * 3, xyz=(0.34, 0.0, 0.4)),),
        }
    )
    gate = CommandGate(robot, TASK)
    judge = ArmCollision(gate.kinematics.arm)
    assert judge.clearance(HOME).between == ("panda_link5", "crate"), "which may not"
    assert not judge.too_near(HOME)


def test_what_appears_around_the_arm_is_kept_clear_of_and_what_is_gone_is_not():
    gate = swinging(ROBOT)
    turn = 0.5 * np.eye(7)[0]

    def swing(periods):
        q = gate.joint_command
        for _ in range(periods):
            q = gate.step(turn, q).joint_command
        return q

    gate.reset(HOME)
    free = swing(16)
    gate.reset(HOME)
    gate.surround([_WALL])
    stopped = swing(16)
    judge = ArmCollision(gate.kinematics.arm, [_WALL])
    assert judge.clearance(free).distance < 0.0
    assert 0.7 * judge.margin < judge.clearance(stopped).distance < 0.05
    gate.surround([])
    np.testing.assert_allclose(swing(20)[0], stopped[0] + 20 * 0.05, atol=0.05)


def test_a_limit_that_is_relaxed_is_told():
    def told(robot=ROBOT, task=TASK):
        gate = CommandGate(robot, task)
        return relaxed_limits(robot, task, gate.collision, gate.kinematics)

    usual = told()
    assert [line.split()[0] for line in usual] == ["table", "pairs"]
    weaker = ROBOT.model_copy(
        update={
            "position_margin": 0.0,
            "obstacles": (),
            "collision": CollisionConfig(margin=0.002, ignore=(("panda_hand", "panda_link2"),)),
        }
    )
    lines = " / ".join(told(weaker, JOINT_TASK.model_copy(update={"tool_tilt": None})))
    for part in (
        "position_margin is 0.0, usually 0.02", "collision.margin is 0.002 m, usually 0.01",
        "panda_hand and panda_link2 may touch", "no obstacles", "tool may point anywhere",
    ):  # fmt: skip
        assert part in lines


def test_a_limit_that_binds_nothing_is_told():
    robot = ROBOT.model_copy(update={"acceleration_limits": (1e9,) * 7, "jerk_limits": (1e9,) * 7})
    gate = CommandGate(ROBOT, TASK)
    box = TASK.tool_workspace.model_copy(update={"high": (1e6, 0.5, 0.5)})
    task = TASK.model_copy(update={"tool_workspace": box})
    lines = " / ".join(relaxed_limits(robot, task, gate.collision, gate.kinematics))
    for part in ("never binds", "no arm is that abrupt", "ends nowhere on that side"):
        assert part in lines
    usual = Arbiter(gate, TASK.action, 0.1, Timeouts())
    assert usual.relaxed_timeouts() == []
    patient = Timeouts(teleop_s=2.0, joint_state_s=1e10, longest_chunk_s=60.0, patience=0.9)
    told = Arbiter(gate, TASK.action, 0.1, patient).relaxed_timeouts()
    assert [line.split()[0] for line in told] == [
        "teleop_timeout", "joint_state_timeout", "longest_chunk", "patience",
    ]  # fmt: skip


def test_an_arm_that_cannot_brake_is_refused():
    with pytest.raises(ConfigError, match="cannot brake from its velocity limits"):
        CommandGate(accelerating(1e-4, jerk=1e-6), TASK)
