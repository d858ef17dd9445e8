# SPDX-License-Identifier: Apache-2.0
"""The command gate node: who commands, what is refused, and that the arm holds otherwise."""

import re
import time
from pathlib import Path

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import TwistStamped
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import JointState
from std_msgs.msg import Header
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from rl100_msgs.msg import ActionChunk, GateCommand, GateStatus, OperatorEvent
from rl100_msgs.srv import SetCommandSource
from rl100_policy.core import messages
from rl100_policy.core.chunking import Chunk
from rl100_policy.core.config import load_robot, load_task
from rl100_policy.core.gate_result import GateFlag
from rl100_policy.nodes.command_gate import CommandGateNode
from rl100_policy.ros.conversions import (
    chunk_message,
    joint_state_message,
    time_message,
    twist_message,
)
from rl100_policy.ros.latch import forget_stops
from rl100_policy.ros.qos import COMMAND, EVENT, LATCHED, SENSOR
from rl100_policy.ros.testing import isolated_ros, spinning

pytestmark = pytest.mark.ros

CONFIG = Path(__file__).parents[2] / "rl100_bringup" / "config"
PATHS = {
    "robot_config": CONFIG / "robots" / "panda.yaml",
    "task_config": CONFIG / "tasks" / "push_t.yaml",
}
ROBOT, TASK = load_robot(PATHS["robot_config"]), load_task(PATHS["task_config"])
PERIOD_NS = round(ROBOT.control_period * 1e9)
HOME = np.array(ROBOT.home)
START = 20
"""Number of the control period that the tests count from."""


def at(step: float) -> int:
    """Stamp of a joint state [ns]."""
    return round((START + step) * PERIOD_NS)


def along_x(speed: float) -> np.ndarray:
    """A twist, [6], along x [m/s]."""
    return np.array([speed, 0.0, 0.0, 0.0, 0.0, 0.0])


def replace_depth(profile: QoSProfile, depth: int) -> QoSProfile:
    return QoSProfile(
        history=profile.history,
        depth=depth,
        reliability=profile.reliability,
        durability=profile.durability,
    )


class Bench(Node):
    """Arm, teleop device, policy and person in one."""

    def __init__(self) -> None:
        super().__init__("bench")
        self.joints = self.create_publisher(JointState, "joint_states", SENSOR)
        self.twists = self.create_publisher(TwistStamped, "teleop/delta_twist_cmds", COMMAND)
        self.chunks = self.create_publisher(ActionChunk, "policy/action_chunk", COMMAND)
        self.alive = self.create_publisher(Header, "policy/alive", COMMAND)
        self.commands: list[JointTrajectory] = []
        self.records: list[GateCommand] = []
        self.status: list[GateStatus] = []
        self.create_subscription(
            JointTrajectory, ROBOT.command_topic, self.commands.append, COMMAND
        )
        self.create_subscription(GateCommand, "gate/command", self.records.append, EVENT)
        self.create_subscription(GateStatus, "gate/status", self.status.append, LATCHED)
        self.source = self.create_client(SetCommandSource, "gate/set_command_source")
        self.estop = self.create_client(Trigger, "gate/estop")
        self.release = self.create_client(Trigger, "gate/release")

    def state(self, step: float, q: np.ndarray = HOME) -> None:
        stamp = at(step)
        self.joints.publish(joint_state_message(ROBOT.joints, q, np.zeros(7), stamp))

    def chunk(self, step: int, actions: np.ndarray, **changes) -> None:
        values = {
            "stamp_ns": at(step),
            "period_ns": PERIOD_NS,
            "action_space": TASK.action.space,
            "names": TASK.action.names,
            "actions": actions,
            "policy_version": "v7",
        }
        self.chunks.publish(chunk_message(Chunk(**(values | changes)), ROBOT.base_frame))


@pytest.fixture(params=[True, False], ids=["lockstep", "real time"])
def rig(request):
    yield from _rig(lockstep=request.param)


@pytest.fixture
def lockstep():
    yield from _rig(lockstep=True)


@pytest.fixture
def real_time():
    yield from _rig(lockstep=False)


@pytest.fixture
def lively():
    yield from _rig(lockstep=False, policy_timeout=0.0)


@pytest.fixture
def sim_time():
    yield from _rig(lockstep=True, use_sim_time=True)


@pytest.fixture
def by_joints():
    yield from _rig(lockstep=True, task_config=CONFIG / "tasks" / "push_t_joint.yaml")


def _rig(*, lockstep: bool, rests: bool | None = None, **more):
    rests = not lockstep if rests is None else rests
    # Joint states have stamps of their own here: without a clock they are of now. A test takes
    # longer than a policy may be silent.
    given = {"policy_timeout": 10.0, "use_sim_time": not lockstep, **PATHS, **more}
    with isolated_ros(**given, lockstep=lockstep):
        bench = Bench()
        gate = CommandGateNode()
        with spinning(gate, bench) as spin_until:

            def connected():
                return (
                    bench.joints.get_subscription_count()
                    and bench.chunks.get_subscription_count()
                    and bench.alive.get_subscription_count()
                    and bench.count_publishers("gate/command")
                    and bench.source.service_is_ready()
                    and bool(bench.status)
                )

            assert spin_until(connected)
            rig = bench, spin_until, gate
            if rests:
                come_to_rest(rig, range(-4, 1))
            yield rig


def come_to_rest(rig, steps, q=HOME):
    """Let the gate see that the arm rests."""
    bench, spin_until, gate = rig
    for step in steps:
        stamp = at(step)
        bench.state(step, q)
        assert spin_until(lambda stamp=stamp: gate._arbiter._joints.newest_ns == stamp)


def call(rig, client, request):
    _, spin_until, _ = rig
    future = client.call_async(request)
    assert spin_until(future.done)
    return future.result()


def live(rig, saw_step: float = 0) -> None:
    """Be a policy that could be in command."""
    bench, spin_until, gate = rig
    begun = time.perf_counter()
    bench.alive.publish(Header(stamp=time_message(at(saw_step))))
    assert spin_until(lambda: gate._arbiter._policy_heard_s > begun)


def take_command(rig, source):
    if source == GateCommand.POLICY and not rig[2]._arbiter.lockstep:
        live(rig)
    assert call(rig, rig[0].source, SetCommandSource.Request(source=source)).success


def answers(rig, count):
    bench, spin_until, _ = rig
    assert spin_until(lambda: len(bench.records) >= count and len(bench.commands) >= count), [
        r.flags for r in bench.records
    ]
    return bench.records[-1]


def test_in_lockstep_nobody_in_command_holds_the_measured_position(lockstep):
    lockstep[0].state(1)
    record = answers(lockstep, 1)
    assert record.source == GateCommand.HOLD
    np.testing.assert_allclose(lockstep[0].commands[-1].points[0].positions, HOME, atol=1e-9)


def test_in_real_time_nobody_in_command_commands_nothing_and_home_is_noticed(real_time):
    bench, spin_until, _ = real_time
    bench.state(1)
    assert spin_until(lambda: bench.status[-1].at_home)
    assert not bench.commands
    assert "left to its controller" in bench.status[-1].last_reason


def test_its_status_names_whom_its_commands_reach(rig):
    bench, spin_until, _ = rig
    me = bench.get_fully_qualified_name()
    assert spin_until(lambda: bench.status[-1].command_readers == [me])


def test_its_status_says_what_it_waits_for_and_how_long_a_chunk_it_executes(rig):
    bench, spin_until, gate = rig
    assert spin_until(lambda: bool(bench.status))
    assert bench.status[-1].patience_s == pytest.approx(0.5 * ROBOT.control_period)
    assert bench.status[-1].longest_chunk_s == gate.parameters.longest_chunk == 4.0


def test_its_status_counts_who_is_put_in_command_also_who_was_there(rig):
    """By it a policy knows that it has to decide anew."""
    bench, spin_until, _ = rig
    for count in (1, 2):
        take_command(rig, GateCommand.POLICY)
        assert spin_until(lambda count=count: bench.status[-1].taken == count)


def test_teleop_moves_the_arm_by_its_twist_and_the_command_carries_the_stamp(rig):
    take_command(rig, GateCommand.TELEOP)
    rig[0].twists.publish(twist_message(along_x(0.1), at(1), ROBOT.base_frame))
    rig[1](lambda: False, 0.2)
    rig[0].state(1)
    record = answers(rig, 1)
    np.testing.assert_allclose(record.executed, [0.1, 0.0], atol=1e-4)
    command = rig[0].commands[-1]
    assert messages.stamp_ns(command.header.stamp) == at(1)
    after_ns = messages.stamp_ns(command.points[0].time_from_start)
    assert PERIOD_NS <= after_ns < 1.5 * PERIOD_NS, "one period after it is commanded"


def test_a_teleop_command_in_another_frame_does_not_move_the_arm(real_time):
    take_command(real_time, GateCommand.TELEOP)
    bench, spin_until, _ = real_time
    bench.twists.publish(twist_message(along_x(0.1), at(2), "camera"))
    assert spin_until(lambda: bench.status[-1].malformed == 1)
    bench.state(2)
    record = answers(real_time, 1)
    assert record.flags & GateCommand.HELD_STALE
    np.testing.assert_allclose(record.executed, 0.0, atol=1e-9)


def test_a_chunk_from_before_the_policy_took_command_is_not_executed(real_time):
    bench, spin_until, _ = real_time
    take_command(real_time, GateCommand.POLICY)
    bench.chunk(1, np.full((8, 2), 0.1))
    spin_until(lambda: False, 0.2)
    for source in (GateCommand.TELEOP, GateCommand.POLICY):
        take_command(real_time, source)
    bench.state(2)
    record = answers(real_time, 1)
    assert record.flags & GateCommand.HELD_STALE


def test_the_policys_chunk_is_executed_action_by_action(rig):
    take_command(rig, GateCommand.POLICY)
    actions = np.array([[0.1, 0.0], [0.0, 0.1], [-0.1, 0.0]])
    rig[0].chunk(1, actions)
    rig[1](lambda: False, 0.2)
    q = HOME
    for step in range(3):
        rig[0].state(1 + step, q)
        record = answers(rig, 1 + step)
        q = np.array(record.joint_command)
        np.testing.assert_allclose(record.executed, actions[step], atol=1e-4)
        assert record.policy_version == "v7"


def test_in_lockstep_the_answer_waits_for_the_action_of_that_stamp(lockstep):
    take_command(lockstep, GateCommand.POLICY)
    bench, spin_until, _ = lockstep
    bench.state(5)
    spin_until(lambda: False, 0.3)
    assert not bench.records
    bench.chunk(5, np.full((2, 2), 0.05))
    record = answers(lockstep, 1)
    np.testing.assert_allclose(record.executed, 0.05, atol=1e-4)


def test_in_real_time_a_missing_action_holds_at_once(real_time):
    take_command(real_time, GateCommand.POLICY)
    real_time[0].state(2)
    record = answers(real_time, 1)
    assert record.flags & GateCommand.HELD_STALE
    np.testing.assert_allclose(record.joint_command, HOME, atol=1e-9)


def malformed(kind: str) -> ActionChunk:
    good = Chunk(at(1), PERIOD_NS, TASK.action.space, TASK.action.names, np.zeros((2, 2)), "v")
    message = chunk_message(good, ROBOT.base_frame)
    match kind:
        case "nan":
            message.actions[1] = float("nan")
        case "short":
            message.actions = message.actions[:3]
        case "names":
            message.names = ["linear.x", "linear.z"]
        case "frame":
            message.header.frame_id = "camera"
        case "space":
            message.action_space = "joint_delta"
        case "period":
            message.period.nanosec = 7
        case "huge":
            message.n_chunk = 4_000_000_000
        case "empty":
            message.n_chunk, message.actions = 0, []
    return message


def test_in_real_time_a_period_waits_for_the_action_of_its_own_observation(real_time):
    """Regression: an action was due before it could be there, so single steps were never made."""
    bench, spin_until, _ = real_time
    take_command(real_time, GateCommand.POLICY)
    for step in range(1, 6):
        bench.state(step)
        spin_until(lambda: False, 0.01)
        assert len(bench.commands) == step - 1
        bench.chunk(step, np.full((1, 2), 0.05))
        record = answers(real_time, step)
        assert (record.flags, record.policy_version) == (0, "v7")
    np.testing.assert_allclose(record.executed, 0.05, atol=1e-4)
    way = bench.commands[-1].points
    at = [np.allclose(each.positions, record.joint_command) for each in way].index(True)
    after_ns = messages.stamp_ns(way[at].time_from_start)
    assert after_ns > PERIOD_NS + 10**7, "it is reached as much later as it was waited for"


def test_a_period_without_an_action_is_held_before_the_next_one_begins(real_time):
    bench, spin_until, _ = real_time
    take_command(real_time, GateCommand.POLICY)
    begun = time.monotonic()
    bench.state(1)
    assert spin_until(lambda: bool(bench.records))
    assert time.monotonic() - begun >= 0.4 * ROBOT.control_period
    assert bench.records[0].flags == GateCommand.HELD_STALE
    bench.chunk(1, np.full((1, 2), 0.05))
    spin_until(lambda: False, 0.2)
    assert len(bench.commands) == 1, "what comes after that is too late for it"


def test_what_comes_while_a_period_waits_gives_it_no_more_time(real_time):
    bench, spin_until, _ = real_time
    take_command(real_time, GateCommand.POLICY)
    bench.state(1)
    begun = time.monotonic()
    while not bench.records:
        assert time.monotonic() - begun < 20.0
        bench.twists.publish(twist_message(along_x(0.1), 0, ROBOT.base_frame))
        spin_until(lambda: bool(bench.records), 0.02)
    assert bench.records[0].flags == GateCommand.HELD_STALE


def test_a_period_that_waits_is_answered_when_the_next_one_begins(real_time):
    bench, spin_until, _ = real_time
    take_command(real_time, GateCommand.POLICY)
    bench.state(1)
    bench.state(2)
    bench.chunk(2, np.full((1, 2), 0.05))
    assert spin_until(lambda: len(bench.records) == 2)
    assert [record.flags for record in bench.records] == [GateCommand.HELD_STALE, 0]


@pytest.fixture
def blending():
    yield from _rig(lockstep=True, blend=1)


def test_a_newer_chunk_takes_over_as_smoothly_as_asked_for(blending):
    bench, *_ = blending
    take_command(blending, GateCommand.POLICY)
    bench.chunk(1, np.full((4, 2), 0.02))
    bench.state(1)
    answers(blending, 1)
    bench.chunk(2, np.full((4, 2), 0.06))
    for step in (2, 3):
        bench.state(step)
        answers(blending, step)
    requested = [record.requested[0] for record in bench.records]
    np.testing.assert_allclose(requested, [0.02, 0.04, 0.06], atol=1e-6)


@pytest.mark.parametrize(
    "kind", ["nan", "short", "names", "frame", "space", "period", "huge", "empty"]
)
def test_a_malformed_chunk_is_refused_counted_and_the_next_good_one_is_executed(lockstep, kind):
    take_command(lockstep, GateCommand.POLICY)
    bench, spin_until, _ = lockstep
    before = bench.status[-1].malformed
    bench.chunks.publish(malformed(kind))
    assert spin_until(lambda: bench.status[-1].malformed > before)
    assert not bench.commands
    bench.state(2)
    bench.chunk(2, np.full((2, 2), 0.02))
    np.testing.assert_allclose(answers(lockstep, 1).executed, 0.02, atol=1e-4)


@pytest.mark.parametrize("kind", ["missing joint", "nan", "sizes"])
def test_a_malformed_joint_state_is_refused_and_nothing_is_commanded(lockstep, kind):
    bench, spin_until, _ = lockstep
    message = joint_state_message(ROBOT.joints, HOME, np.zeros(7), at(1))
    if kind == "missing joint":
        message.name[0] = "elbow"
    elif kind == "nan":
        message.position[3] = float("nan")
    else:
        message.position = message.position[:4]
    bench.joints.publish(message)
    assert spin_until(lambda: bench.status[-1].malformed == 1)
    assert not bench.commands


def test_a_second_commander_that_appears_later_takes_the_command_away(real_time):
    take_command(real_time, GateCommand.TELEOP)
    bench, spin_until, _ = real_time
    intruder = bench.create_publisher(JointTrajectory, ROBOT.command_topic, COMMAND)
    assert spin_until(lambda: bench.status[-1].source == GateCommand.HOLD)
    assert "other publishers" in bench.status[-1].last_reason
    bench.destroy_publisher(intruder)


def test_in_lockstep_a_twist_of_another_period_is_not_executed(lockstep):
    take_command(lockstep, GateCommand.TELEOP)
    bench, spin_until, _ = lockstep
    old = twist_message(along_x(0.1), at(2), ROBOT.base_frame)
    bench.twists.publish(old)
    spin_until(lambda: False, 0.2)
    bench.state(3)
    spin_until(lambda: False, 0.3)
    assert not bench.commands


def test_nobody_takes_command_while_the_emergency_stop_is_latched(real_time):
    bench = real_time[0]
    assert call(real_time, bench.estop, Trigger.Request()).success
    answer = call(real_time, bench.source, SetCommandSource.Request(source=GateCommand.TELEOP))
    assert not answer.success
    assert "gate/release" in answer.message
    assert call(real_time, bench.release, Trigger.Request()).success
    take_command(real_time, GateCommand.TELEOP)


def test_a_plan_of_minutes_is_refused(lockstep):
    take_command(lockstep, GateCommand.POLICY)
    bench, spin_until, _ = lockstep
    bench.chunk(1, np.full((600, 2), 0.02))
    assert spin_until(lambda: bench.status[-1].malformed == 1)
    assert "longest_chunk" in bench.status[-1].last_reason
    assert not bench.commands


def test_the_joint_states_of_a_gripper_on_the_same_topic_are_let_pass(lockstep):
    bench = lockstep[0]
    bench.joints.publish(joint_state_message(["finger"], np.zeros(1), np.zeros(1), at(1)))
    bench.state(2)
    answers(lockstep, 1)
    assert bench.status[-1].malformed == 0
    assert messages.stamp_ns(bench.commands[-1].header.stamp) == at(2)


def test_a_teleop_command_that_is_not_finite_holds(lockstep):
    take_command(lockstep, GateCommand.TELEOP)
    bench, *_ = lockstep
    bench.twists.publish(twist_message(along_x(np.nan), at(1), ROBOT.base_frame))
    bench.state(1)
    record = answers(lockstep, 1)
    assert record.flags & GateCommand.HELD_NON_FINITE
    np.testing.assert_allclose(record.joint_command, HOME, atol=1e-9)


def test_the_emergency_stop_latches_until_it_is_released(lockstep):
    take_command(lockstep, GateCommand.POLICY)
    bench, *_ = lockstep
    bench.chunk(1, np.full((8, 2), 0.1))
    assert call(lockstep, bench.estop, Trigger.Request()).success
    bench.state(1)
    assert answers(lockstep, 1).flags & GateCommand.HELD_ESTOP
    bench.state(2)
    assert answers(lockstep, 2).flags & GateCommand.HELD_ESTOP
    assert call(lockstep, bench.release, Trigger.Request()).success
    bench.state(3)
    record = answers(lockstep, 3)
    assert record.flags == 0
    assert record.source == GateCommand.HOLD


def test_an_unknown_source_is_refused(lockstep):
    answer = call(lockstep, lockstep[0].source, SetCommandSource.Request(source=9))
    assert not answer.success
    assert "9" in answer.message


def test_a_faster_joint_state_stream_is_answered_once_a_period(lockstep):
    """Regression: states at 100 Hz were answered every 90 ms with commands for 100 ms."""
    bench, spin_until, _ = lockstep
    for tenth in range(51):
        bench.state(1 + tenth / 10)
        spin_until(lambda: False, 0.005)
    answers(lockstep, 6)
    found = [
        messages.stamp_ns(record.header.stamp) / PERIOD_NS - START for record in bench.records
    ]
    assert found == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("ahead", [4, 1000])
def test_in_real_time_a_teleop_command_from_the_future_is_not_used(ahead, real_time):
    """Regression: a device with a clock ahead of the robot's kept the arm moving for ever."""
    take_command(real_time, GateCommand.TELEOP)
    real_time[0].twists.publish(twist_message(along_x(0.1), at(ahead), ROBOT.base_frame))
    real_time[1](lambda: False, 0.2)
    real_time[0].state(1)
    assert answers(real_time, 1).flags & GateCommand.HELD_STALE


def test_a_chunk_from_the_future_does_not_lock_out_those_that_are_due(sim_time):
    bench, spin_until, _ = sim_time
    take_command(sim_time, GateCommand.POLICY)
    bench.chunk(500, np.full((2, 2), 0.1))
    assert spin_until(lambda: bench.status[-1].malformed == 1)
    assert "clock" in bench.status[-1].last_reason
    bench.state(1)
    bench.chunk(1, np.full((2, 2), 0.03))
    np.testing.assert_allclose(answers(sim_time, 1).executed, 0.03, atol=1e-4)


def test_one_wrong_joint_state_is_refused_and_the_next_good_one_is_answered(lockstep):
    bench, spin_until, _ = lockstep
    bench.state(1)
    answers(lockstep, 1)
    bench.state(2, np.zeros(7))
    assert spin_until(lambda: bench.status[-1].malformed == 1)
    assert "jumped" in bench.status[-1].last_reason
    bench.state(200)
    record = answers(lockstep, 2)
    np.testing.assert_allclose(record.joint_command, HOME, atol=1e-9)


def test_an_arm_that_somebody_else_moved_is_left_alone_until_somebody_takes_command(real_time):
    bench, spin_until, _ = real_time
    take_command(real_time, GateCommand.TELEOP)
    bench.state(1)
    answers(real_time, 1)
    take_command(real_time, GateCommand.HOLD)
    moved = HOME.copy()
    for step in range(2, 8):
        moved = HOME + (step - 1) * 0.1 * np.eye(7)[0]
        bench.state(step, moved)
        spin_until(lambda: False, 0.05)
    spin_until(lambda: False, 0.2)
    assert all(np.abs(np.array(c.points[0].positions) - HOME).max() < 1e-6 for c in bench.commands)
    before = len(bench.commands)
    assert before < 7
    take_command(real_time, GateCommand.POLICY)
    come_to_rest(real_time, range(8, 11), moved)
    record = answers(real_time, before + 1)
    np.testing.assert_allclose(record.joint_command, moved, atol=1e-9)


def test_nobody_is_put_in_command_while_another_node_commands_the_arm(lockstep):
    bench, spin_until, _ = lockstep
    other = bench.create_publisher(JointTrajectory, ROBOT.command_topic, COMMAND)
    assert spin_until(lambda: bench.count_publishers(ROBOT.command_topic) == 2)
    answer = call(lockstep, bench.source, SetCommandSource.Request(source=GateCommand.TELEOP))
    assert not answer.success
    assert ROBOT.command_topic in answer.message
    assert call(lockstep, bench.source, SetCommandSource.Request(source=GateCommand.HOLD)).success
    bench.destroy_publisher(other)
    assert spin_until(lambda: bench.count_publishers(ROBOT.command_topic) == 1)
    take_command(lockstep, GateCommand.TELEOP)


def test_actions_may_be_joint_velocities_and_a_person_still_moves_the_tool(by_joints):
    take_command(by_joints, GateCommand.TELEOP)
    bench, spin_until, _ = by_joints
    bench.state(1)
    bench.twists.publish(twist_message(along_x(0.1), at(1), ROBOT.base_frame))
    record = answers(by_joints, 1)
    assert (record.action_space, tuple(record.names)) == ("joint_velocity", ROBOT.joints)
    np.testing.assert_allclose(record.executed, record.requested, atol=1e-9)
    moved = np.array(record.joint_command) - HOME
    np.testing.assert_allclose(moved, 0.1 * np.array(record.executed), atol=1e-9)
    assert abs(moved).max() > 1e-3
    take_command(by_joints, GateCommand.POLICY)
    bench.state(2)
    velocity = np.full(7, 0.02)
    bench.chunk(2, np.zeros((1, 2)))
    # the tool's velocity is no action of this task
    assert spin_until(lambda: bench.status[-1].malformed == 1)
    bench.chunk(2, velocity[None], action_space="joint_velocity", names=ROBOT.joints)
    record = answers(by_joints, 2)
    np.testing.assert_allclose(record.executed, velocity, atol=1e-6)


def drive(rig, first, count, q, *, ask):
    """Some periods in which the arm follows its commands; joint commands [count, n]."""
    bench, *_ = rig
    found = []
    for step in range(first, first + count):
        ask(step)
        rig[1](lambda: False, 0.03)
        bench.state(step, q)
        answers(rig, len(bench.records) + 1)
        q = np.array(bench.records[-1].joint_command)
        found.append(q)
    return np.array(found)


def test_a_takeover_and_the_way_back_are_no_jump_and_each_period_says_who_commanded(real_time):
    bench = real_time[0]
    take_command(real_time, GateCommand.POLICY)

    def propose(step):
        bench.chunk(step, np.full((2, 2), 0.2))

    def steer(step):
        propose(step)
        bench.twists.publish(twist_message(along_x(-0.2), at(step), ""))

    path = [drive(real_time, 1, 4, HOME, ask=propose)]
    take_command(real_time, GateCommand.TELEOP)
    path.append(drive(real_time, 5, 4, path[-1][-1], ask=steer))
    take_command(real_time, GateCommand.POLICY)
    path.append(drive(real_time, 9, 4, path[-1][-1], ask=propose))
    assert [r.source for r in bench.records] == [2] * 4 + [1] * 4 + [2] * 4
    change = np.abs(np.diff(np.vstack(path), n=2, axis=0))
    assert (change <= np.array(ROBOT.acceleration_limits) * ROBOT.control_period**2 + 1e-9).all()


@pytest.fixture
def soft_robot(tmp_path):
    """An arm that needs several periods to brake."""
    text = PATHS["robot_config"].read_text(encoding="utf-8")
    limits = re.search(r"acceleration_limits: (.*?) *#", text).group(1)
    robot = tmp_path / "soft.yaml"
    robot.write_text(text.replace(limits, str([2.0] * 7)), encoding="utf-8")
    return robot


@pytest.fixture
def soft(soft_robot):
    """Its gate, in lockstep."""
    yield from _rig(lockstep=True, robot_config=soft_robot)


@pytest.fixture
def soft_real_time(soft_robot):
    """Its gate, in real time."""
    yield from _rig(lockstep=False, robot_config=soft_robot)


def test_the_last_command_of_a_gate_that_ends_is_one_to_rest(soft):
    """Whatever ends it: every command goes on to where the arm rests, within its limits."""
    bench, q = soft[0], HOME
    take_command(soft, GateCommand.POLICY)
    for step in range(1, 6):
        q = drive(soft, step, 1, q, ask=lambda at: bench.chunk(at, np.full((1, 2), 0.25)))[-1]
    command = bench.commands[-1]
    rest = np.array([point.positions for point in command.points])
    assert len(rest) >= 3
    times = [each.time_from_start for each in command.points]
    apart = np.diff([each.sec + each.nanosec * 1e-9 for each in times])
    np.testing.assert_allclose(apart, ROBOT.control_period, atol=1e-6)
    way = [HOME, *(each.points[0].positions for each in bench.commands)]
    steps = np.diff(np.vstack([np.array(way), rest[1:], rest[-1:]]), axis=0)
    changes = np.abs(np.diff(steps, axis=0))
    assert (changes <= 2.0 * ROBOT.control_period**2 + 1e-9).all()


@pytest.fixture
def on_the_clock():
    yield from _rig(lockstep=False, rests=False, use_sim_time=False)


@pytest.mark.parametrize("off_s", [-0.5, 0.5, -3600.0])
def test_a_joint_state_that_is_not_of_now_is_not_answered(on_the_clock, off_s):
    bench, spin_until, gate = on_the_clock

    def state(off=0.0):
        bench.state((gate.get_clock().now().nanoseconds + off * 1e9) / PERIOD_NS - START)

    def commanded(times):
        take_command(on_the_clock, GateCommand.TELEOP)
        for _ in range(20):  # until the arm is seen to rest
            state(0.1 if off_s > 0 else 0.0)
            if spin_until(lambda: len(bench.commands) >= times, timeout_s=0.1):
                return
        answers(on_the_clock, times)

    commanded(1)
    state(off_s)
    if off_s > -1.0:
        told = r"joint state stamped [+-]0\.\d+ s from this node's clock"
        assert spin_until(lambda: re.search(told, bench.status[-1].last_reason) is not None)
    assert not spin_until(lambda: len(bench.commands) > 1, timeout_s=0.3)
    commanded(2)


def test_an_emergency_stop_outlives_its_gate_until_it_is_released_or_the_graph_ends(on_the_clock):
    bench, spin_until, _ = on_the_clock

    def comes_up_latched():
        gate = CommandGateNode()
        gate.start()
        gate.destroy_node()
        return gate._arbiter.estop

    assert not comes_up_latched()
    bench.estop.call_async(Trigger.Request())
    assert spin_until(lambda: bench.status[-1].estop)
    assert comes_up_latched()
    assert comes_up_latched(), "also after one that ended in order"
    bench.release.call_async(Trigger.Request())
    assert spin_until(lambda: not bench.status[-1].estop)
    assert not comes_up_latched()
    bench.estop.call_async(Trigger.Request())
    assert spin_until(lambda: bench.status[-1].estop)
    domain = bench.context.get_domain_id()
    forget_stops(domain, "other/command_gate")
    assert comes_up_latched(), "another arm's graph was begun"
    forget_stops(domain)
    assert spin_until(comes_up_latched), "a gate that runs remembers"


def test_a_policy_that_decides_nothing_for_a_second_loses_the_command(real_time):
    """Or else one that was killed would move the arm by itself when it is started anew."""
    bench, spin_until, _ = real_time
    take_command(real_time, GateCommand.POLICY)
    bench.chunk(1, np.full((1, 2), 0.1))
    for step in range(1, 10):
        bench.state(step)
        answers(real_time, step)
        assert bench.records[-1].source == GateCommand.POLICY
    time.sleep(1.1)  # nor is a second over before it is by a clock that nobody sets
    for step in range(10, 13):
        bench.state(step)
        answers(real_time, step)
    assert bench.records[-1].source == GateCommand.HOLD
    assert spin_until(lambda: bench.status[-1].source == GateCommand.HOLD)
    assert "not followed for a second" in bench.status[-1].last_reason


def test_after_periods_without_a_joint_state_the_gate_goes_on_where_the_controller_is(soft):
    """Regression: it went on from its last command, though the arm had come to rest meanwhile."""
    bench, q = soft[0], HOME
    take_command(soft, GateCommand.POLICY)
    for step in range(1, 6):
        q = drive(soft, step, 1, q, ask=lambda at: bench.chunk(at, np.full((1, 2), 0.25)))[-1]
    told = np.array([point.positions for point in bench.commands[-1].points])
    assert len(told) >= 3
    bench.chunk(7, np.zeros((1, 2)))
    soft[1](lambda: False, 0.05)
    bench.state(7, told[1])  # the joint state of period 6 was lost
    record = answers(soft, 6)
    np.testing.assert_allclose(record.joint_command, told[2], atol=0.02)
    step = np.array(record.joint_command) - told[1]
    before = told[1] - told[0]
    assert (np.abs(step - before) <= 2.0 * ROBOT.control_period**2 + 1e-9).all()


@pytest.mark.parametrize("how", ["takeover", "release"])
def test_who_takes_command_of_a_moving_arm_goes_on_from_its_motion(soft_real_time, how):
    """Regression: it began at rest where the arm was measured, though the arm moved.

    While a period waits for the policy, and after a stop that is released while the arm brakes.
    """
    bench, spin_until, _ = soft_real_time
    take_command(soft_real_time, GateCommand.POLICY)

    def propose(step):
        bench.chunk(step, np.full((1, 2), 0.25))

    path = drive(soft_real_time, 1, 5, HOME, ask=propose)
    if how == "release":
        for client in (bench.estop, bench.release):
            called = client.call_async(Trigger.Request())
            assert spin_until(called.done)
    else:
        bench.state(6, path[-1])  # the decision for it is late
        soft_real_time[1](lambda: False, 0.01)
    take_command(soft_real_time, GateCommand.TELEOP)
    if how == "release":
        bench.state(6, path[-1])
    assert spin_until(lambda: len(bench.records) >= 6)
    after = np.array(bench.records[5].joint_command)
    steps = np.diff(np.vstack([HOME, path, after]), axis=0)
    assert np.abs(steps[-2]).max() > 2.0 * ROBOT.control_period**2, "too fast to stop at once"
    changes = np.abs(np.diff(steps, axis=0))
    assert (changes <= 2.0 * ROBOT.control_period**2 + 1e-9).all()


def test_diagnostics_count_each_limit_and_each_reason_to_hold(lockstep):
    bench, spin_until, _ = lockstep
    told: list[DiagnosticStatus] = []
    bench.create_subscription(
        DiagnosticArray, "/diagnostics", lambda array: told.extend(array.status), 10
    )
    take_command(lockstep, GateCommand.POLICY)
    bench.chunk(1, np.full((1, 2), 3.0))
    bench.state(1)
    answers(lockstep, 1)
    call = bench.estop.call_async(Trigger.Request())
    assert spin_until(call.done)
    bench.state(2)
    answers(lockstep, 2)

    def counted():
        limits = [each for each in told if each.name == "rl100: command_gate: limits"]
        values = {each.key: each.value for each in limits[-1].values} if limits else {}
        return values.get("CLIPPED_ACTION") == values.get("HELD_ESTOP") == "1"

    assert spin_until(counted)
    stopped = "the emergency stop is latched"
    assert any(each.message == stopped and each.level == DiagnosticStatus.WARN for each in told)


def test_a_gate_that_is_deactivated_commands_nothing_and_still_takes_the_emergency_stop(rig):
    bench, spin_until, gate = rig
    take_command(rig, GateCommand.TELEOP)
    assert gate.trigger_deactivate() is TransitionCallbackReturn.SUCCESS
    assert spin_until(lambda: bench.status[-1].source == GateCommand.HOLD)
    bench.state(1)
    assert not spin_until(lambda: bool(bench.commands), timeout_s=0.3)
    asked = bench.source.call_async(SetCommandSource.Request(source=GateCommand.TELEOP))
    assert spin_until(asked.done)
    assert "is inactive, not active" in asked.result().message
    stopped = bench.estop.call_async(Trigger.Request())
    assert spin_until(stopped.done)
    assert stopped.result().success
    assert gate.trigger_activate() is TransitionCallbackReturn.SUCCESS
    bench.state(2)
    assert spin_until(lambda: bench.status[-1].estop)
    if gate.parameters.lockstep:
        record = answers(rig, 1)
        assert record.flags & GateFlag.HELD_ESTOP
        assert record.source == GateCommand.HOLD
    else:
        assert not spin_until(lambda: bool(bench.commands), timeout_s=0.3)
    refused = bench.source.call_async(SetCommandSource.Request(source=GateCommand.TELEOP))
    assert spin_until(refused.done)
    assert "gate/release" in refused.result().message


def test_what_the_policy_proposes_is_kept_beside_what_the_person_did(real_time):
    bench = real_time[0]
    take_command(real_time, GateCommand.TELEOP)
    bench.chunk(1, np.full((2, 2), 0.2))
    bench.twists.publish(twist_message(along_x(-0.1), at(1), ""))
    real_time[1](lambda: False, 0.2)
    bench.state(1)
    record = answers(real_time, 1)
    np.testing.assert_allclose(record.proposed, 0.2, rtol=1e-6)
    assert (record.proposed_version, record.policy_version) == ("v7", "")
    np.testing.assert_allclose(record.requested, [-0.1, 0.0])
    assert record.executed[0] < -0.05


def test_the_gate_takes_the_arm_home_by_itself_and_says_when_it_is_there(real_time):
    bench, spin_until, _ = real_time
    take_command(real_time, GateCommand.HOME)
    q, step = HOME + np.array([0.1, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]), 4
    come_to_rest(real_time, range(1, step + 1), q)
    answers(real_time, 1)
    while not bench.status[-1].at_home and step < 200:
        q, step = np.array(bench.records[-1].joint_command), step + 1
        bench.state(step, q)
        answers(real_time, len(bench.records) + 1)
    assert spin_until(lambda: bench.status[-1].at_home)
    assert np.abs(q - HOME).max() < 0.02
    assert {r.source for r in bench.records} == {GateCommand.HOME}


def test_joints_that_a_person_names_turn_and_unknown_ones_are_refused(real_time):
    bench, spin_until, _ = real_time
    jogs = bench.create_publisher(JointState, "teleop/joint_cmds", COMMAND)
    assert spin_until(lambda: jogs.get_subscription_count() == 1)
    take_command(real_time, GateCommand.TELEOP)
    wrong = JointState(name=["elbow"], velocity=[0.3])
    jogs.publish(wrong)
    assert spin_until(lambda: bench.status[-1].malformed == 1)
    right = JointState(name=[ROBOT.joints[3]], velocity=[0.3])
    right.header.stamp.sec, right.header.stamp.nanosec = divmod(at(1), 10**9)
    jogs.publish(right)
    spin_until(lambda: False, 0.1)
    bench.state(1)
    record = answers(real_time, 1)
    np.testing.assert_allclose(np.array(record.joint_command) - HOME, [0, 0, 0, 0.03, 0, 0, 0])
    assert record.flags == GateCommand.BEYOND_ACTION


def test_a_device_that_falls_silent_stops_the_arm_within_two_periods(real_time):
    bench = real_time[0]
    take_command(real_time, GateCommand.TELEOP)

    def steer(step):
        bench.twists.publish(twist_message(along_x(0.05), at(step), ""))

    moving = drive(real_time, 1, 3, HOME, ask=steer)
    silent = drive(real_time, 4, 3, moving[-1], ask=lambda _: None)
    np.testing.assert_allclose(silent[1], silent[0], atol=1e-9)
    np.testing.assert_allclose(silent[2], silent[1], atol=1e-9)


def test_a_pressed_emergency_stop_needs_no_other_node(real_time):
    bench, spin_until, _ = real_time
    events = bench.create_publisher(OperatorEvent, "operator/event", EVENT)
    assert spin_until(lambda: events.get_subscription_count() == 1)
    take_command(real_time, GateCommand.TELEOP)
    bench.state(1)
    answers(real_time, 1)
    events.publish(OperatorEvent(kind=OperatorEvent.SUCCESS))
    spin_until(lambda: False, 0.1)
    assert not bench.status[-1].estop
    events.publish(OperatorEvent(kind=OperatorEvent.ESTOP))
    assert spin_until(lambda: bench.status[-1].estop)
    bench.state(2)
    assert answers(real_time, 2).flags & GateCommand.HELD_ESTOP


def test_an_emergency_stop_among_thousands_of_other_presses_is_not_lost(real_time):
    """Regression: 50 later presses displaced it before the gate had looked."""
    bench, spin_until, _ = real_time
    many = replace_depth(EVENT, 2000)
    flood = bench.create_publisher(OperatorEvent, "operator/event", many)
    events = bench.create_publisher(OperatorEvent, "operator/event", EVENT)
    assert spin_until(lambda: events.get_subscription_count() == 1)
    assert spin_until(lambda: flood.get_subscription_count() == 1)
    events.publish(OperatorEvent(kind=OperatorEvent.ESTOP))
    for _ in range(1500):
        flood.publish(OperatorEvent(kind=OperatorEvent.SUCCESS))
    assert spin_until(lambda: bench.status[-1].estop)


@pytest.mark.parametrize("how", ["press", "service"])
def test_an_emergency_stop_before_the_gate_is_set_up_is_in_force_afterwards(how):
    with isolated_ros(**PATHS):
        bench, gate = Bench(), CommandGateNode()
        with spinning(gate, bench, start=False) as spin_until:
            events = bench.create_publisher(OperatorEvent, "operator/event", EVENT)
            assert spin_until(lambda: events.get_subscription_count() == 1)
            assert spin_until(bench.estop.service_is_ready)
            for _ in range(2):  # also of one that was cleaned up
                if how == "press":
                    events.publish(OperatorEvent(kind=OperatorEvent.ESTOP))
                    spin_until(lambda: False, 0.3)
                else:
                    stopped = bench.estop.call_async(Trigger.Request())
                    assert spin_until(stopped.done)
                gate.start()
                assert spin_until(lambda: bool(bench.status) and bench.status[-1].estop)
                released = bench.release.call_async(Trigger.Request())
                assert spin_until(released.done)
                assert not gate._arbiter.estop
                gate.trigger_deactivate()
                gate.trigger_cleanup()
                bench.status.clear()


@pytest.mark.parametrize("last", ["nothing", "a sign of life with nothing new"])
def test_a_plan_is_followed_while_its_policy_lives_and_sees(lively, last):
    bench, spin_until, _ = lively
    take_command(lively, GateCommand.POLICY)
    bench.chunk(1, np.full((8, 2), 0.1))
    bench.state(1)
    assert answers(lively, 1).executed[0] > 0.05
    spin_until(lambda: False, 0.2)

    live(lively, 2)
    bench.state(2, np.array(bench.records[-1].joint_command))
    assert answers(lively, 2).executed[0] > 0.05
    spin_until(lambda: False, 0.2)
    why = "no sign of life"
    if last != "nothing":
        live(lively, 2)
        why = "has seen nothing new for"
    bench.state(3, np.array(bench.records[-1].joint_command))
    assert answers(lively, 3).flags & GateFlag.HELD_STALE
    assert spin_until(lambda: why in bench.status[-1].last_reason), bench.status[-1].last_reason


def test_a_policy_that_gives_no_sign_of_life_is_not_put_in_command(real_time):
    bench = real_time[0]
    request = SetCommandSource.Request(source=GateCommand.POLICY)
    answer = call(real_time, bench.source, request)
    assert not answer.success
    assert "the policy is not ready" in answer.message
    live(real_time)
    assert call(real_time, bench.source, request).success


def test_after_a_pause_command_is_taken_where_the_arm_is_measured(real_time):
    """Whoever takes over from nobody that commanded a moment ago has nothing to go on from."""
    take_command(real_time, GateCommand.TELEOP)
    path = drive(real_time, 1, 3, HOME, ask=lambda _: None)
    moved = path[-1] + np.array([0.03, 0, 0, 0, 0, 0, 0])
    take_command(real_time, GateCommand.TELEOP)
    come_to_rest(real_time, range(30, 34), moved)  # nothing was heard of the arm for 2.6 s
    answers(real_time, 4)
    np.testing.assert_allclose(real_time[0].records[-1].joint_command, moved, atol=1e-6)


@pytest.mark.parametrize("stamp", [0, 10**15], ids=["none", "of another clock"])
def test_a_device_of_another_clock_is_told_and_one_without_stamps_is_followed(real_time, stamp):
    bench, spin_until, _ = real_time
    take_command(real_time, GateCommand.TELEOP)
    now = START + 1000
    come_to_rest(real_time, now + np.arange(-3, 1))
    bench.twists.publish(twist_message(along_x(0.1), stamp, ""))
    spin_until(lambda: False, 0.1)
    bench.records.clear()
    bench.state(now + 1)
    moved = answers(real_time, 1).executed[0] > 0.05
    assert moved == (stamp == 0)
    assert stamp == 0 or spin_until(lambda: "clock" in bench.status[-1].last_reason)
