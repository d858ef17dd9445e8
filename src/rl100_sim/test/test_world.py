# SPDX-License-Identifier: Apache-2.0
"""Physics: the arm follows, the block slides quasi-statically, and all is reproducible."""

import numpy as np
import pytest

from rl100_policy.core.command import CommandGate
from rl100_policy.core.config import ToolConfig
from rl100_policy.core.errors import ActionError, ConfigError
from rl100_policy.core.kinematics import ArmKinematics
from rl100_sim.planar_object import to_base, to_object
from rl100_sim.tasks.push_t import T_BLOCK
from rl100_sim.world import ArmWorld

START = np.array([0.5, 0.0, 0.3])


@pytest.fixture
def world(robot):
    return ArmWorld(robot, T_BLOCK)


def drive(world, robot, task, actions, start=START):
    """Tool velocities through the gate; returns the tool positions reached and those commanded."""
    gate = CommandGate(robot, task)
    world.reset(np.array(robot.home), start)
    gate.reset(world.joint_positions)
    reached, commanded = [], []
    for action in actions:
        command = gate.step(np.array(action), world.joint_positions).joint_command
        world.advance(command)
        reached.append(world.tool_position)
        commanded.append(gate.kinematics.tool_position(command))
    return np.array(reached), np.array(commanded)


def state(world):
    return (
        world.joint_positions.tobytes()
        + world.joint_velocities.tobytes()
        + world.object_pose.tobytes()
    )


def test_the_tool_is_where_the_kinematics_of_the_gate_put_it(world, robot):
    arm = ArmKinematics(robot)
    rng = np.random.default_rng(0)
    for _ in range(5):
        q = rng.uniform(arm.position_lower, arm.position_upper)
        world.reset(q, START)
        np.testing.assert_allclose(world.tool_position, arm.tool_position(q), atol=1e-6)


def test_equal_commands_after_a_reset_give_equal_bits_whatever_came_before(world, robot, task):
    actions = [(0.2, 0.01)] * 12
    drive(world, robot, task, actions)
    first, time = state(world), world.time
    drive(world, robot, task, [(0.25, -0.1)] * 7, start=np.array([0.45, 0.02, -1.0]))
    drive(world, robot, task, actions)
    assert state(world) == first
    assert world.time == time
    fresh = ArmWorld(robot, T_BLOCK)
    drive(fresh, robot, task, actions)
    assert state(fresh) == first


def test_one_command_is_one_control_period(world, robot):
    world.reset(np.array(robot.home), START)
    world.advance(np.array(robot.home))
    assert world.time == pytest.approx(robot.control_period)


def test_the_tool_follows_full_speed_within_two_millimetres(world, robot, task):
    actions = [(0.25, 0.0)] * 8 + [(0.0, -0.25)] * 6 + [(-0.25, 0.25)] * 6
    reached, commanded = drive(world, robot, task, actions, start=np.array([0.5, 0.5, 0.0]))
    assert np.linalg.norm(reached - commanded, axis=1).max() < 0.002


def test_the_block_does_not_move_unless_it_is_touched(world, robot, task):
    start = np.array([0.55, 0.12, 0.4])
    drive(world, robot, task, [(0.0, -0.2)] * 10 + [(0.0, 0.0)] * 20, start=start)
    np.testing.assert_array_equal(world.object_pose, start)


def test_a_push_moves_the_block_and_it_stops_with_the_tool(world, robot, task):
    push = [(0.2, 0.0)] * 10
    drive(world, robot, task, push)
    assert world.object_pose[0] > START[0] + 0.05
    drive(world, robot, task, [*push, (0.0, 0.0)])
    stopped = world.object_pose
    drive(world, robot, task, [*push, *[(0.0, 0.0)] * 6])
    np.testing.assert_allclose(world.object_pose, stopped, atol=1e-4)


def test_the_tool_does_not_enter_the_block_at_full_speed(world, robot, task):
    gate = CommandGate(robot, task)
    world.reset(np.array(robot.home), START)
    gate.reset(world.joint_positions)
    gaps = []
    for _ in range(12):
        world.advance(gate.step(np.array([0.25, 0.0]), world.joint_positions).joint_command)
        gaps.append(float(T_BLOCK.distance(world.object_pose, world.tool_position[:2])))
    assert min(gaps) < robot.tool.radius + 1e-3  # It did touch.
    assert min(gaps) > robot.tool.radius - 1e-3


def test_the_path_of_the_block_does_not_depend_on_the_speed_of_the_push(world, robot, task):
    """Quasi-static: what counts is where the tool went. Twice the time, half the speed."""
    drive(world, robot, task, [(0.16, 0.02)] * 14)
    fast = world.object_pose
    drive(world, robot, task, [(0.08, 0.01)] * 28)
    np.testing.assert_allclose(world.object_pose[:2], fast[:2], atol=1.5e-3)
    assert world.object_pose[2] == pytest.approx(fast[2], abs=0.02)


def test_an_eccentric_push_turns_the_block_as_the_limit_surface_says(world, robot, task):
    """The tool pushes straight at the long face of the bar, a = 3 cm beside the centre.

    Contact at r = (-d, -a) from the centre of mass, d = 4.07 cm. The face slips sideways along the
    tool, so the force is at the edge of the friction cone, f = (1, mu). Twist: (f, tau / L^2) with
    tau = r x f = a - mu d. The contact moves along x by 1 + a tau / L^2; along y by
    mu - d tau / L^2, which is negative: it does slip against the friction assumed.
    """
    bar, mu = T_BLOCK.rectangles[0], T_BLOCK.tool_friction
    a, d, push, gap = 0.03, bar.y + bar.half_y, 0.01, 0.002
    yaw = np.pi / 2  # The outer face of the bar then looks towards the tool.
    spin = (a - mu * d) / T_BLOCK.friction_radius**2
    assert mu - d * spin < 0.0
    start = np.array([0.34 + robot.tool.radius + gap + d, a, yaw])
    drive(world, robot, task, [((gap + push) / 0.5, 0.0)] * 5, start=start)
    expected = push * spin / (1.0 + a * spin)
    assert world.object_pose[2] - yaw == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("command", [np.zeros(6), np.full(7, np.nan)])
def test_a_bad_command_is_refused_and_changes_nothing(world, robot, command):
    world.reset(np.array(robot.home), START)
    before = state(world)
    with pytest.raises(ActionError, match="7 finite joint positions"):
        world.advance(command)
    assert state(world) == before


def test_a_tool_on_a_link_that_is_not_there_is_named(robot):
    tool = ToolConfig(parent="no_such_link", xyz=(0.0, 0.0, 0.1), radius=0.01, length=0.1)
    with pytest.raises(ConfigError, match="no_such_link"):
        ArmWorld(robot.model_copy(update={"tool": tool}), T_BLOCK)


def test_another_base_frame_is_the_world_frame(robot):
    """Link 1 is 33.3 cm above link 0, so the tool at home is that much lower."""
    moved = robot.model_copy(update={"base_frame": "panda_link1"})
    position = ArmWorld(moved, T_BLOCK).tool_position
    original = ArmWorld(robot, T_BLOCK).tool_position
    np.testing.assert_allclose(position, original - (0.0, 0.0, 0.333), atol=1e-9)


def test_frames_of_the_object_and_the_base_agree_with_the_world(world, robot):
    """The simulated block has its corners where the plane geometry says."""
    pose = np.array([0.45, -0.1, 0.8])
    world.reset(np.array(robot.home), pose)
    bar = T_BLOCK.rectangles[0]
    expected = to_base(pose, np.array([bar.x, bar.y]))
    position = world.data.geom_xpos[world.model.body("object").geomadr[0]]
    np.testing.assert_allclose(position[:2], expected, atol=1e-12)
    np.testing.assert_allclose(to_object(pose, position[:2]), [bar.x, bar.y], atol=1e-12)
