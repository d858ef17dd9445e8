# SPDX-License-Identifier: Apache-2.0
"""A recorder that is killed in the middle of an episode loses less than half a second."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rclpy.node import Node
from sensor_msgs.msg import JointState

from rl100_msgs.msg import EpisodeState, HumanFeedback
from rl100_msgs.srv import StartEpisode
from rl100_policy.bags.identity import QUARANTINE
from rl100_policy.bags.judgement import Outcome
from rl100_policy.bags.reading import read_messages, read_metadata
from rl100_policy.bags.recovery import RecoveryStatus, check_episode, recover_all
from rl100_policy.ros.conversions import header
from rl100_policy.ros.qos import EVENT, LATCHED
from rl100_policy.ros.testing import isolated_ros, spinning

pytestmark = [pytest.mark.launch, pytest.mark.slow]

PERIOD_S = 0.02
LOST_S = 0.5
"""What a crash may cost [s]."""
TOPICS = [
    "joint_states sensor_msgs/msg/JointState sensor=0.02",
    "feedback rl100_msgs/msg/HumanFeedback",
]


def killed_recorder(bags: Path, domain: str) -> subprocess.Popen:
    settings = [f"bags:={bags}", f"topics:={TOPICS}", "require_data:=false"]
    arguments = ["--ros-args", *(word for each in settings for word in ("-p", each))]
    return subprocess.Popen(
        [sys.executable, "-m", "rl100_policy.nodes.recorder", *arguments],
        env=os.environ | {"ROS_DOMAIN_ID": domain},
    )


class Robot(Node):
    """Moves at 50 Hz and remembers when it sent what."""

    def __init__(self) -> None:
        super().__init__("robot")
        self.joints = self.create_publisher(JointState, "joint_states", 500)
        self.feedback = self.create_publisher(HumanFeedback, "feedback", EVENT)
        self.start = self.create_client(StartEpisode, "episode/start")
        self.states: list[EpisodeState] = []
        self.create_subscription(EpisodeState, "episode/state", self.states.append, LATCHED)
        self.sent_s: list[float] = []
        self.create_timer(PERIOD_S, self.move)

    def move(self) -> None:
        step = len(self.sent_s)
        self.joints.publish(JointState(header=header(round(step * PERIOD_S * 1e9)), name=["a"]))
        self.sent_s.append(time.monotonic())


def test_a_killed_recorder_loses_less_than_half_a_second(tmp_path):
    with isolated_ros():
        robot = Robot()
        domain = str(robot.context.get_domain_id())
        recorder = killed_recorder(tmp_path, domain)
        with spinning(robot) as spin_until:
            try:
                assert spin_until(robot.start.service_is_ready)
                assert spin_until(lambda: robot.joints.get_subscription_count() > 0)
                future = robot.start.call_async(StartEpisode.Request(task="push_t"))
                assert spin_until(future.done)
                started = future.result()
                assert started.success, started.message
                first = len(robot.sent_s)
                robot.feedback.publish(HumanFeedback(header=header(1), kind=HumanFeedback.SUCCESS))
                assert spin_until(lambda: len(robot.sent_s) > first + round(2.0 / PERIOD_S))
                recorder.send_signal(signal.SIGKILL)
                killed_s = time.monotonic()
                recorder.wait(10.0)
            finally:
                recorder.kill()
    (result,) = recover_all(tmp_path)
    assert result.status is RecoveryStatus.RECOVERED
    assert result.path == tmp_path / started.episode_id
    assert check_episode(result.path) == []
    assert (tmp_path / QUARANTINE / f"{started.episode_id}.partial").is_dir()
    metadata = read_metadata(result.path)
    assert metadata.recovered
    assert metadata.outcome is Outcome.SUCCESS
    kept = kept_steps(result.path)
    expected = [s for s, at in enumerate(robot.sent_s) if s > first and at < killed_s - LOST_S]
    assert set(expected) <= set(kept)
    assert kept == list(range(kept[0], kept[-1] + 1))  # a prefix: no hole before the end


def kept_steps(folder: Path) -> list[int]:
    read = read_messages(folder, ["joint_states"])["joint_states"]
    stamps = [message.value.header.stamp for message in read]
    return [round((stamp.sec + stamp.nanosec * 1e-9) / PERIOD_S) for stamp in stamps]
