# SPDX-License-Identifier: Apache-2.0
"""The recorder node in this process, on a domain of its own."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
import yaml
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import TransformStamped, Twist
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, JointState

from rl100_msgs.msg import EpisodeState, GateStatus, HumanFeedback, PolicyStatus
from rl100_msgs.srv import CheckRecording, DiscardEpisode, StartEpisode, StopEpisode
from rl100_policy.bags.identity import TRASH, bag_file
from rl100_policy.bags.judgement import Outcome
from rl100_policy.bags.reading import read_messages, read_metadata
from rl100_policy.bags.recovery import check_episode
from rl100_policy.core.config import load_robot
from rl100_policy.core.messages import stamp_ns
from rl100_policy.nodes.recorder import RecorderNode
from rl100_policy.ros.conversions import depth_message, header, time_message
from rl100_policy.ros.qos import EVENT, LATCHED, SENSOR
from rl100_policy.ros.testing import isolated_ros, spinning

pytestmark = pytest.mark.ros

PERIOD_NS = 100_000_000
PANDA = Path(__file__).parents[2] / "rl100_bringup" / "config" / "robots" / "panda.yaml"
TOPICS = [
    "joint_states sensor_msgs/msg/JointState sensor",
    "camera/extrinsics geometry_msgs/msg/TransformStamped latched",
    "feedback rl100_msgs/msg/HumanFeedback",
]
SpinUntil = Callable[[Callable[[], bool]], bool]


class Robot(Node):
    """Publishes what a robot and a person would, on command."""

    def __init__(self, joint_qos: QoSProfile = SENSOR) -> None:
        super().__init__("robot")
        self.joints = self.create_publisher(JointState, "joint_states", joint_qos)
        self.extrinsics = self.create_publisher(TransformStamped, "camera/extrinsics", LATCHED)
        self.feedback = self.create_publisher(HumanFeedback, "feedback", EVENT)
        self.states: list[EpisodeState] = []
        self.create_subscription(EpisodeState, "episode/state", self.states.append, LATCHED)
        self.start = self.create_client(StartEpisode, "episode/start")
        self.stop = self.create_client(StopEpisode, "episode/stop")

    def move(self, step: int) -> None:
        message = JointState(header=header(step * PERIOD_NS), name=["a"], position=[float(step)])
        self.joints.publish(message)

    def judge(self, kind: int, episode_id: str = "") -> None:
        message = HumanFeedback(header=header(1), episode_id=episode_id, kind=kind, source="test")
        self.feedback.publish(message)


class Session:
    """Recorder, robot and the spinner of one test."""

    def __init__(self, robot: Robot, spin_until: SpinUntil) -> None:
        self.robot, self.spin_until = robot, spin_until

    def ready(self) -> "Session":
        robot = self.robot
        publishers = (robot.joints, robot.feedback, robot.extrinsics)
        assert self.spin_until(
            lambda: (
                all(publisher.get_subscription_count() for publisher in publishers)
                and robot.start.service_is_ready()
                and robot.stop.service_is_ready()
            )
        )
        return self

    def call(self, client: Any, request: Any) -> Any:
        future = client.call_async(request)
        assert self.spin_until(future.done)
        return future.result()

    def begin(self, **fields: Any) -> str:
        response = self.call(self.robot.start, StartEpisode.Request(task="push_t", **fields))
        assert response.success, response.message
        return response.episode_id

    def end(self, end_step: int = 0, **fields: Any) -> Any:
        stamp = time_message(end_step * PERIOD_NS)
        return self.call(self.robot.stop, StopEpisode.Request(end_stamp=stamp, **fields))

    def state_is(self, accept: Callable[[EpisodeState], bool]) -> bool:
        return self.spin_until(lambda: bool(self.robot.states) and accept(self.robot.states[-1]))


@pytest.fixture
def session(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Session]:
    more = getattr(request, "param", {})
    with isolated_ros(bags=tmp_path, topics=TOPICS, require_data=False, sync=False, **more):
        robot = Robot()
        with spinning(RecorderNode(), robot, events=False) as spin_until:
            yield Session(robot, spin_until).ready()


def steps(folder: Path) -> list[int]:
    read = read_messages(folder, ["joint_states"])["joint_states"]
    return [stamp_ns(message.value.header.stamp) // PERIOD_NS for message in read]


def test_a_bag_says_how_often_its_sensors_were_expected(session):
    session.begin()
    session.robot.move(1)
    stopped = session.end(end_step=1)
    assert read_metadata(Path(stopped.path)).expected_periods_s == {"/joint_states": 0.1}


def test_an_episode_holds_exactly_what_came_between_start_and_its_end_stamp(session, tmp_path):
    session.robot.move(1)  # before the episode: not part of it
    session.begin(operator_name="ann", tag_keys=["seed"], tag_values=["7"])
    for step in range(10, 15):
        session.robot.move(step)
    stopped = session.end(end_step=14)
    assert stopped.success, stopped.message
    folder = Path(stopped.path)
    assert folder == tmp_path / stopped.episode_id
    assert steps(folder) == [10, 11, 12, 13, 14]
    assert check_episode(folder) == []
    metadata = read_metadata(folder)
    assert (metadata.task, metadata.operator, metadata.tags) == ("push_t", "ann", {"seed": "7"})
    assert metadata.end_ns == 14 * PERIOD_NS
    assert not stopped.degraded


def test_what_was_sent_before_the_start_and_is_taken_after_it_is_not_recorded(session):
    """Regression: the last frames of another epoch of the clock counted as hundreds of losses."""
    for step in range(1, 7):
        session.robot.move(step)
    time.sleep(0.2)  # all of them wait for the recorder, which takes one at a time
    session.begin()
    session.robot.move(1000)
    stopped = session.end(end_step=1000)
    assert steps(Path(stopped.path)) == [1000]
    assert not stopped.degraded


def test_an_episode_begins_when_the_caller_says_though_the_simulated_clock_is_late(tmp_path):
    """Regression: it began at the end of the one before, a hundred seconds too early."""
    late, start, first = 2804, 2900, 2900 * 10**9 // PERIOD_NS
    given = {"bags": tmp_path, "topics": TOPICS, "require_data": False, "sync": False}
    with isolated_ros(**given, use_sim_time=True):
        robot, recorder = Robot(), RecorderNode()
        clock = robot.create_publisher(Clock, "/clock", 10)
        with spinning(recorder, robot, events=False) as spin_until:
            session = Session(robot, spin_until).ready()
            assert spin_until(lambda: clock.get_subscription_count() > 0)
            clock.publish(Clock(clock=time_message(late * 10**9)))
            assert spin_until(lambda: recorder.get_clock().now().nanoseconds == late * 10**9)
            session.begin(start_stamp=time_message(start * 10**9))
            robot.move(first)
            stopped = session.end(end_step=first)
    metadata = read_metadata(Path(stopped.path))
    assert metadata.start_ns == metadata.end_ns == start * 10**9
    found = read_messages(Path(stopped.path), ["joint_states"])["joint_states"]
    assert [message.log_ns for message in found] == [start * 10**9]


def test_a_start_far_from_the_clock_is_refused(session):
    request = StartEpisode.Request(task="push_t", start_stamp=time_message(7 * 10**9))
    response = session.call(session.robot.start, request)
    assert not response.success
    assert "synchronise the clocks" in response.message


def test_an_end_far_in_the_future_closes_the_bag_now_and_counts_nothing(session):
    session.begin()
    session.robot.move(1)
    session.spin_until(lambda: False, 0.2)
    stopped = session.end(end_step=round(2.1e9 * 1e9 / PERIOD_NS))
    assert stopped.success
    assert steps(Path(stopped.path)) == [1]
    assert not stopped.degraded


def test_the_bag_is_closed_only_when_the_sensors_have_reached_the_end(session):
    session.begin()
    session.robot.move(1)
    future = session.robot.stop.call_async(
        StopEpisode.Request(end_stamp=time_message(2 * PERIOD_NS))
    )
    assert session.state_is(lambda state: state.state == EpisodeState.CLOSING)
    assert not future.done()
    session.robot.move(2)
    assert session.spin_until(future.done)
    assert steps(Path(future.result().path)) == [1, 2]


def test_a_lost_frame_makes_the_episode_degraded_and_is_counted(session):
    session.begin()
    for step in (1, 2, 5):
        session.robot.move(step)
    stopped = session.end(end_step=5)
    assert stopped.degraded
    assert read_metadata(Path(stopped.path)).lost["joint_states"].gaps == 2  # steps 3 and 4
    assert "joint_states" in stopped.message


@pytest.mark.parametrize("session", [{"stop_timeout": 20.0}], indirect=True)
def test_a_pause_of_the_recorder_loses_no_joint_state(session):
    """Regression: of 500 Hz only the last 0.4 s were held, and half a second did occur."""
    session.begin()
    for step in range(10, 1010):  # two seconds, in which nothing is taken
        session.robot.move(step)
    stopped = session.end(end_step=1009)
    assert steps(Path(stopped.path)) == list(range(10, 1010))
    assert not stopped.degraded


def test_latched_messages_from_before_the_episode_begin_every_bag(session):
    message = TransformStamped(child_frame_id="optical")
    session.robot.extrinsics.publish(message)
    for _ in range(2):
        session.begin()
        session.robot.move(1)
        folder = Path(session.end(end_step=1).path)
        kept = read_messages(folder, ["camera/extrinsics", "joint_states"])
        assert [each.value.child_frame_id for each in kept["camera/extrinsics"]] == ["optical"]
        assert kept["camera/extrinsics"][0].log_ns <= kept["joint_states"][0].log_ns


def test_the_newest_judgement_still_standing_is_the_outcome(session):
    session.begin()
    session.robot.move(1)
    session.robot.judge(HumanFeedback.FAILURE)
    assert session.state_is(lambda state: state.outcome == EpisodeState.FAILURE)
    session.robot.judge(HumanFeedback.UNDO)
    assert session.state_is(lambda state: state.outcome == EpisodeState.UNLABELLED)
    session.robot.judge(HumanFeedback.SUCCESS)
    assert session.state_is(lambda state: state.outcome == EpisodeState.SUCCESS)
    stopped = session.end(end_step=1)
    assert stopped.outcome == EpisodeState.SUCCESS
    assert read_metadata(Path(stopped.path)).outcome is Outcome.SUCCESS


def test_an_undo_that_names_the_closed_episode_changes_its_label(session):
    session.begin()
    session.robot.move(1)
    session.robot.judge(HumanFeedback.SUCCESS)
    assert session.state_is(lambda state: state.outcome == EpisodeState.SUCCESS)
    stopped = session.end(end_step=1)
    session.robot.judge(HumanFeedback.UNDO, stopped.episode_id)
    assert session.state_is(lambda state: state.outcome == EpisodeState.UNLABELLED)
    assert read_metadata(Path(stopped.path)).outcome is Outcome.UNLABELLED
    assert check_episode(Path(stopped.path)) == []


def test_a_judgement_that_names_an_earlier_episode_reaches_it_while_the_next_one_runs(session):
    session.begin()
    session.robot.move(1)
    first = session.end(end_step=1)
    session.begin()
    session.robot.judge(HumanFeedback.SUCCESS, first.episode_id)
    assert session.state_is(lambda state: state.reason == f"{first.episode_id} is now success")
    session.robot.move(2)
    assert session.end(end_step=2).outcome == EpisodeState.UNLABELLED
    assert read_metadata(Path(first.path)).outcome is Outcome.SUCCESS


def test_a_malformed_message_is_recorded_as_it_is(session):
    session.begin()
    malformed = bytes(range(7))
    session.robot.joints.publish(malformed)
    session.robot.feedback.publish(malformed)
    session.robot.move(1)
    stopped = session.end(end_step=1)
    assert stopped.success
    assert malformed in bag_file(Path(stopped.path)).read_bytes()


def test_a_discarded_episode_goes_to_the_trash(session, tmp_path):
    session.begin()
    session.robot.move(1)
    stopped = session.end(discard=True)
    assert stopped.path == str(tmp_path / TRASH / stopped.episode_id)
    assert not (tmp_path / stopped.episode_id).exists()


def test_a_second_start_and_a_stop_without_episode_are_refused(session):
    assert not session.end().success
    first = session.begin()
    second = session.call(session.robot.start, StartEpisode.Request())
    assert not second.success
    assert first in second.message


def test_the_state_tells_what_the_recorder_does(session):
    episode_id = session.begin()
    for step in range(3):
        session.robot.move(step)
    assert session.state_is(lambda state: state.messages == 3 and state.bytes > 0)
    assert session.robot.states[-1].state == EpisodeState.RECORDING
    assert session.robot.states[-1].episode_id == episode_id
    session.end(end_step=2)
    assert session.state_is(
        lambda state: state.state == EpisodeState.IDLE and state.episodes_saved == 1
    )


def test_a_best_effort_publisher_that_appears_later_is_recorded_too(tmp_path):
    with isolated_ros(bags=tmp_path, topics=TOPICS, require_data=False, sync=False):
        recorder = RecorderNode()
        recorder.start()  # subscribes reliably: nobody publishes yet
        best_effort = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
        robot = Robot(best_effort)
        with spinning(recorder, robot, events=False) as spin_until:
            session = Session(robot, spin_until).ready()
            session.begin()
            session.robot.move(1)
            assert session.state_is(lambda state: state.messages == 1)
            stopped = session.end(end_step=1)
    described = (Path(stopped.path) / "metadata.yaml").read_text()
    assert "reliability: best_effort" in described


def test_nothing_starts_while_a_sensor_has_no_publisher(tmp_path):
    with isolated_ros(bags=tmp_path, topics=TOPICS, require_data=False, sync=False):
        robot = Robot()
        robot.destroy_publisher(robot.joints)
        with spinning(RecorderNode(), robot, events=False) as spin_until:
            assert spin_until(robot.start.service_is_ready)
            response = Session(robot, spin_until).call(robot.start, StartEpisode.Request())
    assert not response.success
    assert "joint_states" in response.message
    assert list(tmp_path.iterdir()) == []


def decisions_reach(readers: list[str]) -> PolicyStatus:
    return PolicyStatus(decision_readers=readers)


def commands_reach(readers: list[str]) -> GateStatus:
    return GateStatus(command_readers=readers)


def described_robot(folder: Path, **camera: object) -> Path:
    """Description of the shipped robot with another camera."""
    tree = yaml.safe_load(PANDA.read_text())
    tree["cameras"][0] |= camera
    (folder / "robot.yaml").write_text(yaml.safe_dump(tree))
    return folder / "robot.yaml"


def test_the_camera_of_the_robot_description_is_recorded(tmp_path):
    """Regression: the topics of the shipped robot's camera were asked for, whatever was given."""
    path = described_robot(tmp_path, topic="front/depth/image")
    with isolated_ros(bags=tmp_path / "bags", robot_config=path, require_data=False, sync=False):
        robot = Robot()
        image = robot.create_publisher(Image, "front/depth/image", SENSOR)
        info = robot.create_publisher(CameraInfo, "front/depth/camera_info", SENSOR)
        gate = robot.create_publisher(GateStatus, "gate/status", LATCHED)
        gate.publish(commands_reach(["/recorder"]))
        with spinning(RecorderNode(), robot, events=False) as spin_until:
            session = Session(robot, spin_until).ready()
            assert spin_until(lambda: image.get_subscription_count() > 0)
            assert spin_until(lambda: info.get_subscription_count() > 0)
            assert spin_until(lambda: gate.get_subscription_count() > 0)
            spin_until(lambda: False, 0.2)
            session.begin()
            image.publish(Image(header=header(PERIOD_NS)))
            info.publish(CameraInfo(header=header(PERIOD_NS)))
            robot.move(1)
            assert session.state_is(lambda state: state.messages == 3)
            folder = Path(session.end(end_step=1).path)
    read = read_messages(folder, ["front/depth/image", "front/depth/camera_info"])
    assert [len(messages) for messages in read.values()] == [1, 1]
    assert read_metadata(folder).setup == load_robot(path).setup


@pytest.mark.parametrize(
    ("topic", "told_by", "status", "of_policies_only"),
    [
        ("policy/decision rl100_msgs/msg/DecisionRecord", "policy/status", decisions_reach, True),
        ("gate/command rl100_msgs/msg/GateCommand", "gate/status", commands_reach, False),
    ],
)
def test_an_episode_waits_until_what_it_is_about_reaches_the_recorder(
    tmp_path, topic, told_by, status, of_policies_only
):
    """Regression: first episodes after a start lacked their first decisions, or all commands."""
    with isolated_ros(bags=tmp_path, topics=[*TOPICS, topic], require_data=False, sync=False):
        robot = Robot()
        tells = robot.create_publisher(type(status([])), told_by, LATCHED)
        with spinning(RecorderNode(), robot, events=False) as spin_until:
            session = Session(robot, spin_until).ready()

            def start(version):
                request = StartEpisode.Request(task="push_t", policy_version=version)
                return session.call(robot.start, request)

            def tell(*readers):
                tells.publish(status(list(readers)))
                spin_until(lambda: False, 0.2)

            refused = start("first@12345678")
            assert not refused.success
            name = topic.split()[0]
            assert (
                f"{name} does not reach /recorder yet ({told_by} names nobody)" in refused.message
            )
            assert spin_until(lambda: tells.get_subscription_count() > 0)
            tell("/monitor")
            assert "names /monitor)" in start("first@12345678").message
            tell("/monitor", "/recorder")
            assert start("first@12345678").success
            session.end()
            tell()
            assert not start("first@12345678").success
            assert start("").success is of_policies_only, "a person's episode needs no policy"


def test_a_stopped_node_closes_its_episode(tmp_path):
    with isolated_ros(bags=tmp_path, topics=TOPICS, require_data=False, sync=False):
        robot = Robot()
        with spinning(RecorderNode(), robot, events=False) as spin_until:
            session = Session(robot, spin_until).ready()
            episode_id = session.begin()
            session.robot.move(3)
            assert session.state_is(lambda state: state.messages == 1)
    assert steps(tmp_path / episode_id) == [3]
    assert "stopped" in read_metadata(tmp_path / episode_id).end_reason


def test_a_check_lists_everything_that_is_missing_and_starts_nothing(tmp_path):
    topics = [
        *TOPICS,
        "camera/image sensor_msgs/msg/Image sensor",
        "camera/camera_info sensor_msgs/msg/CameraInfo latched required",
        "wrench geometry_msgs/msg/WrenchStamped",
    ]
    with isolated_ros(bags=tmp_path, topics=topics, sync=False):
        robot = Robot()
        elsewhere = rclpy.Context()
        rclpy.init(context=elsewhere, domain_id=robot.context.get_domain_id())
        other = Node("other", context=elsewhere)  # in one process DDS has one type for a name
        other.create_publisher(Twist, "wrench", 10)
        check = robot.create_client(CheckRecording, "episode/check")
        with spinning(RecorderNode(), robot, events=False) as spin_until:
            session = Session(robot, spin_until).ready()
            assert spin_until(lambda: check.service_is_ready())
            spin_until(lambda: False, 1.0)
            answer = session.call(check, CheckRecording.Request(policy_version="v1"))
            assert not answer.success
            told = "\n".join(answer.problems)
            assert "joint_states has a publisher, but no message of it has come" in told
            assert "nobody publishes camera/image (sensor_msgs/msg/Image)" in told
            assert "nobody publishes camera/camera_info" in told
            assert "wrench is published as geometry_msgs/msg/Twist" in told
            refused = session.call(robot.start, StartEpisode.Request(task="push_t"))
            assert not refused.success
            assert all(each in refused.message for each in answer.problems)
        other.destroy_node()
        rclpy.shutdown(context=elsewhere)
    assert list(tmp_path.iterdir()) == []


def test_an_episode_begins_once_its_sensors_come_at_their_rate(tmp_path):
    with isolated_ros(bags=tmp_path, topics=TOPICS, sync=False):
        robot = Robot()
        check = robot.create_client(CheckRecording, "episode/check")
        robot.create_timer(0.1, lambda: robot.move(time.time_ns() // PERIOD_NS))
        with spinning(RecorderNode(), robot, events=False) as spin_until:
            session = Session(robot, spin_until).ready()
            assert spin_until(lambda: check.service_is_ready())
            spin_until(lambda: False, 0.5)
            answer = session.call(check, CheckRecording.Request())
            assert answer.success, answer.message
            session.begin()
            assert session.state_is(lambda state: state.topics[0].rate_hz > 0.0)
            health = session.robot.states[-1].topics[0]
            assert (health.topic, health.trouble) == ("joint_states", "")
            assert health.rate_hz == pytest.approx(10.0, abs=2.0)
            session.end()


def test_trouble_is_told_while_the_episode_can_still_be_redone(session):
    diagnostics: list[DiagnosticArray] = []
    session.robot.create_subscription(DiagnosticArray, "/diagnostics", diagnostics.append, 10)
    session.begin()
    for step in (10, 11, 14):
        session.robot.move(step)
    assert session.state_is(lambda state: state.topics[0].lost_gaps == 2)
    health = session.robot.states[-1].topics[0]
    assert health.worst_gap_s == pytest.approx(0.3)
    assert "2 missing by their stamps" in session.robot.states[-1].troubles[0]
    assert session.state_is(lambda state: "silent" in state.troubles[0])

    def warned():
        return any(
            status.name == "rl100: recorder: joint_states"
            and status.level == DiagnosticStatus.WARN
            for array in diagnostics
            for status in array.status
        )

    assert session.spin_until(warned)
    assert session.end().degraded


def test_a_closed_episode_goes_to_the_trash_and_back_with_its_label(session, tmp_path):
    discard = session.robot.create_client(DiscardEpisode, "episode/discard")
    assert session.spin_until(discard.service_is_ready)
    name = session.begin()
    session.robot.move(10)
    session.robot.judge(HumanFeedback.SUCCESS)
    assert session.state_is(lambda state: state.outcome == EpisodeState.SUCCESS)
    session.end()
    gone = session.call(discard, DiscardEpisode.Request())
    assert (gone.success, gone.episode_id) == (True, name)
    assert Path(gone.path) == tmp_path / "trash" / name
    assert not (tmp_path / name).exists()
    again = session.call(discard, DiscardEpisode.Request(episode_id=name))
    assert not again.success
    assert "already" in again.message
    back = session.call(discard, DiscardEpisode.Request(episode_id=name, restore=True))
    assert (back.success, Path(back.path)) == (True, tmp_path / name)
    assert read_metadata(tmp_path / name).outcome is Outcome.SUCCESS
    assert check_episode(tmp_path / name) == []


def test_an_episode_that_this_recorder_did_not_close_is_not_moved(session, tmp_path):
    discard = session.robot.create_client(DiscardEpisode, "episode/discard")
    assert session.spin_until(discard.service_is_ready)
    (tmp_path / "other").mkdir()
    refused = session.call(discard, DiscardEpisode.Request(episode_id="other"))
    assert not refused.success
    assert (tmp_path / "other").is_dir()


def test_joints_and_images_that_no_learner_could_use_are_told_before_an_episode(tmp_path):
    robot_config = load_robot(PANDA)
    camera = robot_config.camera()
    task = PANDA.parents[1] / "tasks" / "push_t.yaml"
    given = {"robot_config": PANDA, "task_config": task, "bags": tmp_path, "require_data": False}
    with isolated_ros(**given, sync=False):
        robot = Robot()
        images = robot.create_publisher(Image, camera.topic, SENSOR)
        check = robot.create_client(CheckRecording, "episode/check")
        with spinning(RecorderNode(), robot, events=False) as spin_until:
            session = Session(robot, spin_until).ready()
            assert spin_until(
                lambda: check.service_is_ready() and images.get_subscription_count() > 0
            )
            robot.move(1)  # of a joint "a"
            wrong = np.zeros((48, 64), np.uint16)
            images.publish(depth_message(wrong, PERIOD_NS, camera.optical_frame))
            spin_until(lambda: False, 0.3)
            told = session.call(check, CheckRecording.Request()).message
    assert "none of the joints" in told
    assert "images are 64 x 48, expected 128 x 96" in told
