# SPDX-License-Identifier: Apache-2.0
"""The episode flow node with the real command gate and recorder, and an arm that obeys."""

from pathlib import Path

import numpy as np
import pytest
from geometry_msgs.msg import TransformStamped, TwistStamped
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import Header
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from rl100_msgs.msg import (
    ActionChunk,
    EpisodeState,
    GateCommand,
    OperatorEvent,
    OperatorState,
    PolicyStatus,
)
from rl100_policy.bags.judgement import Outcome
from rl100_policy.bags.reading import read_messages, read_metadata
from rl100_policy.core.chunking import Chunk
from rl100_policy.core.config import load_robot, load_task
from rl100_policy.nodes.command_gate import CommandGateNode
from rl100_policy.nodes.episode_flow import EpisodeFlowNode
from rl100_policy.nodes.recorder import RecorderNode
from rl100_policy.ros.conversions import (
    camera_info_message,
    chunk_message,
    depth_message,
    extrinsics_message,
    header,
    joint_state_message,
    time_message,
    twist_message,
)
from rl100_policy.ros.qos import COMMAND, EVENT, LATCHED, SENSOR
from rl100_policy.ros.testing import isolated_ros, spinning

pytestmark = pytest.mark.ros

CONFIG = Path(__file__).parents[2] / "rl100_bringup" / "config"
PATHS = {
    "robot_config": CONFIG / "robots" / "panda.yaml",
    "task_config": CONFIG / "tasks" / "push_t.yaml",
}
ROBOT, TASK = load_robot(PATHS["robot_config"]), load_task(PATHS["task_config"])
CAMERA = ROBOT.camera()
PERIOD_NS = round(ROBOT.control_period * 1e9)


class Robot(Node):
    """An arm that obeys, a camera, and a policy that always pushes the same way."""

    def __init__(self) -> None:
        super().__init__("robot")
        self.q, self.steers, self.policy_acts = np.array(ROBOT.home), None, False
        self.joints = self.create_publisher(JointState, "joint_states", SENSOR)
        self.image = self.create_publisher(Image, CAMERA.topic, SENSOR)
        self.info = self.create_publisher(CameraInfo, CAMERA.info_topic, SENSOR)
        self.extrinsics = self.create_publisher(TransformStamped, "camera/extrinsics", LATCHED)
        self.extrinsics.publish(extrinsics_message(CAMERA, ROBOT.base_frame, 0))
        self.twists = self.create_publisher(TwistStamped, "teleop/delta_twist_cmds", COMMAND)
        self.chunks = self.create_publisher(ActionChunk, "policy/action_chunk", COMMAND)
        self.alive = self.create_publisher(Header, "policy/alive", COMMAND)
        self.status = self.create_publisher(PolicyStatus, "policy/status", LATCHED)
        self.events = self.create_publisher(OperatorEvent, "operator/event", EVENT)
        self.states: list[OperatorState] = []
        self.create_subscription(OperatorState, "operator/state", self.states.append, LATCHED)
        self.create_subscription(JointTrajectory, ROBOT.command_topic, self.obey, COMMAND)
        self.create_timer(ROBOT.control_period, self.tick)
        self.create_timer(0.03, self.steer)
        self.status_told = PolicyStatus(
            policy_version="v1@0", state=PolicyStatus.READY, decision_readers=["/recorder"]
        )

    def obey(self, command: JointTrajectory) -> None:
        self.q = np.array(command.points[0].positions)

    def steer(self) -> None:
        if self.steers is not None:
            now = self.get_clock().now().nanoseconds
            self.twists.publish(twist_message(np.array(self.steers), now, ROBOT.base_frame))

    def tick(self) -> None:
        now = self.get_clock().now().nanoseconds
        self.alive.publish(Header(stamp=time_message(now)))
        if self.policy_acts:
            actions = np.tile([0.0, 0.1], (3, 1))
            space, names = TASK.action.space, TASK.action.names
            chunk = Chunk(now, PERIOD_NS, space, names, actions, "v1@0")
            self.chunks.publish(chunk_message(chunk, ROBOT.base_frame))
        self.status.publish(self.status_told)
        depth = np.full((CAMERA.height, CAMERA.width), 600, np.uint16)
        self.info.publish(camera_info_message(CAMERA, now))
        self.image.publish(depth_message(depth, now, CAMERA.optical_frame))
        self.joints.publish(joint_state_message(ROBOT.joints, self.q, np.zeros(7), now))


class Session:
    def __init__(self, robot: Robot, spin_until) -> None:
        self.robot, self.spin_until = robot, spin_until

    @property
    def told(self) -> OperatorState:
        return self.robot.states[-1]

    def press(self, kind: int) -> None:
        now = self.robot.get_clock().now().nanoseconds
        self.robot.events.publish(OperatorEvent(header=header(now), kind=kind, source="test"))

    def wait_for(self, state: int, timeout_s=20.0) -> OperatorState:
        reached = self.spin_until(
            lambda: bool(self.robot.states) and self.told.state == state, timeout_s
        )
        assert reached, (self.told.state, self.told.message)
        return self.told

    def last(self, seconds: float) -> None:
        self.spin_until(lambda: False, seconds)

    def start(self) -> None:
        """From anywhere to a running episode."""
        self.press(OperatorEvent.NEXT)
        self.wait_for(OperatorState.SCENE)
        self.press(OperatorEvent.NEXT)
        self.wait_for(OperatorState.ARMED)
        self.press(OperatorEvent.NEXT)
        self.wait_for(OperatorState.RECORDING)


def _session(tmp_path, **parameters):
    given = PATHS | {"bags": tmp_path, "sync": False} | parameters
    with isolated_ros(**given):
        robot = Robot()
        recorder = RecorderNode()
        nodes = (CommandGateNode(), recorder, EpisodeFlowNode(), robot)
        with spinning(*nodes, events=False) as spin_until:
            session = Session(robot, spin_until)
            session.recorder = recorder
            assert spin_until(
                lambda: (
                    bool(robot.states)
                    and robot.events.get_subscription_count() == 3  # flow, gate and recorder
                    and robot.joints.get_subscription_count() == 2
                )
            )
            session.last(4.5)  # until the rates of the sensors are known
            yield session


@pytest.fixture
def person(tmp_path):
    yield from _session(tmp_path, driver="person", operator="ann", reaction_delay=0.25)


@pytest.fixture
def policy(tmp_path):
    yield from _session(tmp_path, driver="policy")


def bag_of(tmp_path, told):
    folder = tmp_path / told.episode_id
    commands = [each.value for each in read_messages(folder, ["gate/command"])["gate/command"]]
    return read_metadata(folder), commands


def test_a_demonstration_from_home_to_the_labelled_bag(person, tmp_path):
    person.start()
    person.robot.steers = [0.1, 0.0, 0.0, 0.0, 0.0, 0.0]
    person.last(1.0)
    person.press(OperatorEvent.SUCCESS)
    told = person.wait_for(OperatorState.REVIEW)
    assert (told.outcome, told.successes) == (EpisodeState.SUCCESS, 1)
    metadata, commands = bag_of(tmp_path, told)
    assert (metadata.outcome, metadata.operator) == (Outcome.SUCCESS, "ann")
    assert metadata.judgements[0].reaction_delay_s == pytest.approx(0.25)
    assert metadata.end_ns - metadata.verdict.moment_ns == 250_000_000
    acting = [each for each in commands if each.source == GateCommand.TELEOP]
    assert len(acting) >= 8
    assert acting[5].executed[0] == pytest.approx(0.1, abs=0.02)
    assert metadata.commanded["teleop"] == len(acting)


def test_a_takeover_is_recorded_step_by_step_and_counted_live(policy, tmp_path):
    policy.robot.policy_acts = True
    policy.start()
    policy.last(1.0)
    policy.press(OperatorEvent.TAKE_OVER)
    assert policy.spin_until(lambda: policy.told.taken_over)
    policy.robot.steers = [0.1, 0.0, 0.0, 0.0, 0.0, 0.0]
    policy.last(1.0)
    policy.press(OperatorEvent.HAND_BACK)
    assert policy.spin_until(lambda: not policy.told.taken_over)
    policy.last(0.5)
    policy.press(OperatorEvent.FAILURE)
    told = policy.wait_for(OperatorState.REVIEW)
    assert told.interventions == 1
    assert 0.25 < told.intervention_share < 0.6
    assert told.intervention_mean_s == pytest.approx(1.0, abs=0.35)
    metadata, commands = bag_of(tmp_path, told)
    assert (metadata.outcome, metadata.interventions) == (Outcome.FAILURE, 1)
    assert metadata.policy_version == "v1@0"
    assert metadata.intervened == metadata.commanded["teleop"]
    by_person = [each for each in commands if each.source == GateCommand.TELEOP]
    kept = [each for each in by_person if len(each.proposed)]
    assert len(kept) >= len(by_person) - 2
    np.testing.assert_allclose(kept[-1].proposed, [0.0, 0.1], atol=1e-6)
    assert np.median([each.executed[0] for each in kept]) > 0.05
    path = np.array([each.joint_command for each in commands if each.source])
    change = np.abs(np.diff(path, n=2, axis=0))
    bound = np.array(ROBOT.acceleration_limits) * ROBOT.control_period**2
    assert (change <= bound + 1e-6).all(), "no handover is a jump"


def test_keys_services_and_buttons_do_the_same(person):
    client = person.robot.create_client(Trigger, "operator/next")
    assert person.spin_until(client.service_is_ready)
    future = client.call_async(Trigger.Request())
    assert person.spin_until(future.done)
    assert future.result().success
    told = person.wait_for(OperatorState.SCENE)
    assert (told.last_event, told.last_source) == (OperatorEvent.NEXT, "service")


def test_discarding_and_taking_it_back_moves_the_bag(person, tmp_path):
    person.start()
    person.last(0.5)
    person.press(OperatorEvent.DISCARD)
    person.wait_for(OperatorState.REVIEW)
    assert person.spin_until(lambda: person.told.discarded)
    name = person.told.episode_id
    assert (tmp_path / "trash" / name).is_dir()
    assert person.told.trashed == 1
    person.press(OperatorEvent.UNDO)
    assert person.spin_until(lambda: not person.told.discarded)
    assert (tmp_path / name).is_dir()
    assert person.told.unlabelled == 1


def test_a_wrong_key_is_corrected_and_leaves_a_trace(person, tmp_path):
    person.start()
    person.last(0.5)
    person.press(OperatorEvent.SUCCESS)
    person.wait_for(OperatorState.REVIEW)
    person.press(OperatorEvent.UNDO)
    person.press(OperatorEvent.FAILURE)
    assert person.spin_until(lambda: person.told.outcome == EpisodeState.FAILURE)
    metadata, _ = bag_of(tmp_path, person.told)
    assert metadata.outcome is Outcome.FAILURE
    assert [each.kind.name for each in metadata.judgements] == ["SUCCESS", "UNDO", "FAILURE"]


def test_an_emergency_stop_holds_the_arm_and_keeps_the_episode(policy, tmp_path):
    policy.robot.policy_acts = True
    policy.start()
    policy.last(0.5)
    policy.press(OperatorEvent.ESTOP)
    told = policy.wait_for(OperatorState.STOPPED)
    policy.last(0.5)
    still = policy.robot.q.copy()
    policy.press(OperatorEvent.NEXT)
    policy.last(0.5)
    np.testing.assert_array_equal(policy.robot.q, still)
    policy.press(OperatorEvent.RELEASE)
    policy.wait_for(OperatorState.REVIEW)
    metadata, _ = bag_of(tmp_path, told)
    assert metadata.outcome is Outcome.UNLABELLED


def test_without_a_policy_no_episode_of_one_begins(policy):
    policy.robot.status_told = PolicyStatus(state=PolicyStatus.NO_POLICY)
    policy.last(0.3)
    policy.press(OperatorEvent.NEXT)
    policy.wait_for(OperatorState.SCENE)
    policy.press(OperatorEvent.NEXT)
    assert policy.spin_until(lambda: "no policy version is loaded" in policy.told.message)
    assert policy.told.state == OperatorState.SCENE


def test_quitting_closes_the_episode_and_ends_the_session(person, tmp_path):
    person.start()
    person.last(0.3)
    person.press(OperatorEvent.QUIT)
    told = person.wait_for(OperatorState.OVER)
    assert (tmp_path / told.episode_id).is_dir()
    assert told.unlabelled == 1


def test_presses_of_two_clocks_count_in_the_order_in_which_they_came(person, tmp_path):
    """Regression: a gamepad on wall time judged last for ever, whatever was corrected later."""
    person.start()
    person.last(0.5)
    ahead = person.robot.get_clock().now().nanoseconds + 3600 * 10**9
    person.robot.events.publish(
        OperatorEvent(header=header(ahead), kind=OperatorEvent.SUCCESS, source="joystick")
    )
    person.wait_for(OperatorState.REVIEW)
    person.press(OperatorEvent.UNDO)
    person.press(OperatorEvent.FAILURE)
    assert person.spin_until(lambda: person.told.outcome == EpisodeState.FAILURE)
    metadata, _ = bag_of(tmp_path, person.told)
    assert not metadata.degraded, metadata.degraded_reasons
    stamps = [each.stamp_ns for each in metadata.judgements]
    assert stamps == sorted(stamps)
    assert max(stamps) < ahead


def test_the_end_of_a_recorder_ends_the_episode_and_the_arm_holds(policy):
    policy.robot.policy_acts = True
    policy.start()
    policy.last(0.5)
    policy.recorder.destroy_node()
    told = policy.wait_for(OperatorState.REVIEW, 30.0)
    assert "gone" in told.message or "not there" in told.message, told.message
    policy.last(0.5)
    still = policy.robot.q.copy()
    policy.last(0.5)
    np.testing.assert_array_equal(policy.robot.q, still)
