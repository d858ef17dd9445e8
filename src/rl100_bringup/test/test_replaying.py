# SPDX-License-Identifier: Apache-2.0
"""An episode is replayed by the command, a process of its own, or refused for what else runs."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import rclpy
from geometry_msgs.msg import TransformStamped, TwistStamped
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory

from rl100_policy.bags.metadata import EpisodeMetadata
from rl100_policy.bags.playback import playback_messages
from rl100_policy.bags.qos import OfferedQos
from rl100_policy.bags.storage import RecordedTopic
from rl100_policy.bags.testing import MessageFactory
from rl100_policy.bags.writer import EpisodeWriter
from rl100_policy.core.messages import peek_stamp_ns
from rl100_policy.ros.qos import EVENT, LATCHED
from rl100_policy.ros.testing import isolated_ros, spinning

pytestmark = [pytest.mark.ros, pytest.mark.slow]

FACTORY = MessageFactory()
SECOND = 10**9
BEGIN = 100 * SECOND
MESSAGES = 30
JOINTS, TEACHING, EXTRINSICS = "/joint_states", "/teleop/delta_twist_cmds", "/camera/extrinsics"
TYPES = {JOINTS: JointState, TEACHING: TwistStamped, EXTRINSICS: TransformStamped}
SpinUntil = Callable[[Callable[[], bool]], bool]


def described(name: str, type_name: str, **qos: str) -> RecordedTopic:
    return RecordedTopic(name, FACTORY.definitions.find(type_name), (OfferedQos(**qos),))


@pytest.fixture(scope="module")
def episode(tmp_path_factory) -> Path:
    """1.5 s at 20 Hz, each joint state stamped 10 ms before it was received."""
    meta = EpisodeMetadata(episode_id="e", task="push_t", start_ns=BEGIN)
    writer = EpisodeWriter(tmp_path_factory.mktemp("bags"), meta)
    joints = described(JOINTS, "sensor_msgs/msg/JointState")
    teaching = described(TEACHING, "geometry_msgs/msg/TwistStamped")
    pose = described(
        EXTRINSICS, "geometry_msgs/msg/TransformStamped", durability="transient_local"
    )
    writer.write(pose, extrinsics(), log_ns=BEGIN)
    for step in range(MESSAGES):
        log_ns = BEGIN + step * SECOND // 20
        data = FACTORY.joint_state(log_ns - SECOND // 100, ["a", "b"], [float(step), 0.25])
        writer.write(joints, data, log_ns=log_ns)
        writer.write(teaching, twist(log_ns), log_ns=log_ns)
    return writer.close(meta)


def extrinsics() -> bytes:
    return FACTORY.serialise(
        "geometry_msgs/msg/TransformStamped",
        header=FACTORY.header(0, "base"),
        child_frame_id="camera",
        transform=FACTORY.make(
            "geometry_msgs/msg/Transform",
            translation=FACTORY.make("geometry_msgs/msg/Vector3", x=1.0, y=2.0, z=3.0),
            rotation=FACTORY.make("geometry_msgs/msg/Quaternion", x=0.0, y=0.0, z=0.0, w=1.0),
        ),
    )


def twist(stamp_ns: int) -> bytes:
    zero = FACTORY.make("geometry_msgs/msg/Vector3", x=0.0, y=0.0, z=0.0)
    value = FACTORY.make("geometry_msgs/msg/Twist", linear=zero, angular=zero)
    return FACTORY.serialise(
        "geometry_msgs/msg/TwistStamped", header=FACTORY.header(stamp_ns), twist=value
    )


class Watcher(Node):
    """Keeps the bytes of what comes, and the ROS time at which it came."""

    def __init__(self, *, simulated: bool = False) -> None:
        given = [Parameter("use_sim_time", value=True)] if simulated else []
        super().__init__("watcher", parameter_overrides=given)
        self.seen: dict[str, list[bytes]] = {name: [] for name in TYPES}
        self.times_ns: list[int] = []
        for name, kind in TYPES.items():
            profile = LATCHED if name == EXTRINSICS else EVENT
            self.create_subscription(kind, name, self._keep(name), profile, raw=True)

    def _keep(self, name: str) -> Callable[[bytes], None]:
        def keep(data: bytes) -> None:
            self.seen[name].append(bytes(data))
            self.times_ns.append(self.get_clock().now().nanoseconds)

        return keep


@contextmanager
def replaying(episode: Path, *options: str) -> Iterator[subprocess.Popen]:
    """The command, in the domain of this test."""
    domain = rclpy.get_default_context().get_domain_id()
    command = [sys.executable, "-m", "rl100_bringup.cli", "bags", "replay", str(episode), *options]
    with subprocess.Popen(
        command,
        env=os.environ | {"ROS_DOMAIN_ID": str(domain), "COLUMNS": "300"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def finished(process: subprocess.Popen, spin_until: SpinUntil) -> tuple[int, str]:
    """Exit status and what was told, while the nodes of this test go on."""
    assert spin_until(lambda: process.poll() is not None)
    return process.returncode, process.stdout.read()


@contextmanager
def watching(*others: Node, **options: bool) -> Iterator[tuple[Watcher, SpinUntil]]:
    watcher = Watcher(**options)
    with spinning(watcher, *others) as spin_until:
        yield watcher, spin_until


@pytest.fixture
def ros() -> Iterator[None]:
    with isolated_ros():
        yield


@pytest.mark.usefixtures("ros")
def test_sensors_arrive_byte_for_byte_and_no_command_does(episode):
    recorded = [each.data for each in playback_messages(episode, [JOINTS])]
    with watching() as (watcher, spin_until), replaying(episode) as process:
        status, output = finished(process, spin_until)
        assert status == 0, output
        assert spin_until(lambda: len(watcher.seen[JOINTS]) == MESSAGES)
    assert watcher.seen[JOINTS] == recorded
    assert watcher.seen[EXTRINSICS] == [extrinsics()]
    assert watcher.seen[TEACHING] == []
    assert f"replayed {MESSAGES + 1} messages on 2 topics" in output
    assert "no: somebody could act on it" in output


@pytest.mark.usefixtures("ros")
def test_whoever_runs_on_simulated_time_lives_in_the_time_of_the_recording(episode):
    with watching(simulated=True) as (watcher, spin_until), replaying(episode) as process:
        assert spin_until(lambda: len(watcher.seen[JOINTS]) == MESSAGES)
        finished(process, spin_until)
    end = BEGIN + (MESSAGES - 1) * SECOND // 20
    assert all(BEGIN <= time_ns <= end for time_ns in watcher.times_ns if time_ns)
    assert max(watcher.times_ns) > BEGIN + SECOND


@pytest.mark.usefixtures("ros")
def test_stamps_of_now_are_of_the_replay_and_keep_their_distances(episode):
    before_ns = time.time_ns()
    with (
        watching() as (watcher, spin_until),
        replaying(episode, "--now", "--rate", "2") as process,
    ):
        assert spin_until(lambda: len(watcher.seen[JOINTS]) == MESSAGES)
        finished(process, spin_until)
    stamps = np.array([peek_stamp_ns(data) for data in watcher.seen[JOINTS]])
    assert before_ns < stamps[0] < stamps[-1] < time.time_ns()
    assert np.diff(stamps[1:]) == pytest.approx(SECOND / 40, abs=2)
    recorded = next(iter(playback_messages(episode, [JOINTS]))).data
    assert watcher.seen[JOINTS][0][12:] == recorded[12:]


@pytest.mark.usefixtures("ros")
def test_commands_of_a_person_are_replayed_if_named_with_a_warning_even_where_an_arm_listens(
    episode,
):
    """They are no recorded joint states, which a gate would take for those of the arm."""
    gate, arm = Node("gate"), Node("arm")
    gate.create_publisher(JointTrajectory, "arm_controller/joint_trajectory", EVENT)
    arm.create_subscription(
        JointTrajectory, "arm_controller/joint_trajectory", lambda _: None, EVENT
    )
    with (
        watching(gate, arm) as (watcher, spin_until),
        replaying(episode, "--topics", TEACHING) as process,
    ):
        assert spin_until(lambda: len(watcher.seen[TEACHING]) == MESSAGES)
        _, output = finished(process, spin_until)
    assert "warning" in output
    assert "whatever listens to it acts on it" in output
    assert watcher.seen[JOINTS] == []


@pytest.mark.usefixtures("ros")
def test_nothing_is_replayed_beside_a_driver(episode):
    driver = Node("driver")
    driver.create_publisher(JointState, JOINTS, EVENT)
    with watching(driver) as (watcher, spin_until), replaying(episode) as process:
        status, output = finished(process, spin_until)
    assert status == 1
    assert "publishes /joint_states: a driver" in output
    assert not any(watcher.seen.values())


@pytest.mark.usefixtures("ros")
def test_a_driver_that_comes_later_ends_the_replay(episode):
    driver = Node("driver")
    with (
        watching(driver) as (watcher, spin_until),
        replaying(episode, "--loop") as process,
    ):
        assert spin_until(lambda: len(watcher.seen[JOINTS]) > 1)
        driver.create_publisher(JointState, JOINTS, EVENT)
        status, output = finished(process, spin_until)
    assert status == 1
    assert "publishes /joint_states: a driver" in output


@pytest.mark.usefixtures("ros")
def test_nothing_is_replayed_where_an_arm_listens_to_a_gate(episode):
    gate, arm = Node("gate"), Node("arm")
    gate.create_publisher(JointTrajectory, "arm_controller/joint_trajectory", EVENT)
    arm.create_subscription(
        JointTrajectory, "arm_controller/joint_trajectory", lambda _: None, EVENT
    )
    with watching(gate, arm) as (watcher, spin_until), replaying(episode) as process:
        status, output = finished(process, spin_until)
    assert status == 1
    assert "an arm listens on /arm_controller/joint_trajectory to " in output
    assert not any(watcher.seen.values())


@pytest.mark.usefixtures("ros")
def test_a_loop_goes_on_until_it_is_stopped(episode):
    with (
        watching() as (watcher, spin_until),
        replaying(episode, "--loop", "--rate", "10") as process,
    ):
        assert spin_until(lambda: len(watcher.seen[JOINTS]) > 2 * MESSAGES)
        process.send_signal(signal.SIGINT)
        status, output = finished(process, spin_until)
    assert status == 130
    assert "Traceback" not in output
