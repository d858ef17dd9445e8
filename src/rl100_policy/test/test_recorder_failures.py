# SPDX-License-Identifier: Apache-2.0
"""What goes wrong around a recorder ends in a stated way: docs/recording.md has the table."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rclpy.node import Node
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState

from rl100_msgs.msg import EpisodeState
from rl100_msgs.srv import StartEpisode, StopEpisode
from rl100_policy.bags.reading import read_messages, read_metadata
from rl100_policy.bags.recovery import RecoveryStatus, check_episode, recover_all
from rl100_policy.core.errors import BagError
from rl100_policy.core.messages import stamp_ns
from rl100_policy.nodes.recorder import RecorderNode
from rl100_policy.ros.conversions import header, time_message
from rl100_policy.ros.qos import LATCHED, SENSOR
from rl100_policy.ros.testing import isolated_ros, spinning

pytestmark = pytest.mark.ros

PERIOD_S = 0.05
PERIOD_NS = 50_000_000
JOINTS_ONLY = ["/joint_states sensor_msgs/msg/JointState sensor=0.05"]
TOPICS = [*JOINTS_ONLY, "/depth sensor_msgs/msg/Image sensor=0.05"]
IMAGE_BYTES = 2 * 128 * 96
CAMERA = """
import sys, time
import rclpy
from sensor_msgs.msg import Image
from rl100_policy.ros.conversions import header
from rl100_policy.ros.qos import SENSOR

rclpy.init()
depth = rclpy.create_node("camera").create_publisher(Image, "/depth", SENSOR)
while True:
    depth.publish(Image(header=header(time.time_ns()), height=96, width=128, data=bytes(24576)))
    time.sleep(0.05)
"""
SpinUntil = Callable[..., bool]


class Person(Node):
    """A robot's sensors, and the person that records them with the recorder of a namespace."""

    def __init__(self, namespace: str = "") -> None:
        super().__init__("person", namespace=namespace)
        self.joints = self.create_publisher(JointState, "/joint_states", SENSOR)
        self.states: list[EpisodeState] = []
        self.create_subscription(EpisodeState, "episode/state", self.states.append, LATCHED)
        self.start = self.create_client(StartEpisode, "episode/start")
        self.stop = self.create_client(StopEpisode, "episode/stop")
        self.sent_ns: list[int] = []
        self.spin_until: SpinUntil

    def move(self, stamp: int = 0) -> bool:
        self.sent_ns.append(stamp or time.time_ns())
        self.joints.publish(JointState(header=header(self.sent_ns[-1]), name=["a"]))
        return False

    def move_for(self, seconds: float) -> None:
        self.create_timer(PERIOD_S, self.move)
        self.spin_until(lambda: False, seconds)

    def ready(self, spin_until: SpinUntil) -> None:
        self.spin_until = spin_until
        assert spin_until(
            lambda: (
                self.start.service_is_ready()
                and self.stop.service_is_ready()
                and self.joints.get_subscription_count() > 0
                and bool(self.states)
            )
        )

    def call(self, client: Any, request: Any) -> Any:
        future = client.call_async(request)
        assert self.spin_until(future.done)
        return future.result()

    def begin(self) -> str:
        answer = self.call(self.start, StartEpisode.Request(task="push_t"))
        assert answer.success, answer.message
        return answer.episode_id

    def end(self, end_ns: int = 0) -> Any:
        return self.call(self.stop, StopEpisode.Request(end_stamp=time_message(end_ns)))

    def reason_with(self, text: str) -> bool:
        return self.spin_until(lambda: text in self.states[-1].reason)


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A disk of five megabytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=5m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a disk of five megabytes needs root")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


@contextmanager
def process(*arguments: str, domain: object) -> Iterator[subprocess.Popen]:
    running = subprocess.Popen(
        [sys.executable, *arguments], env=os.environ | {"ROS_DOMAIN_ID": str(domain)}
    )
    try:
        yield running
    finally:
        running.kill()
        running.wait()


def recorder_process(bags: Path, person: Node, namespace: str = "/", **parameters: object) -> Any:
    given = {"bags": bags, "topics": JOINTS_ONLY} | parameters
    given = {"require_data": "false", **given}
    words = [word for key, value in given.items() for word in ("-p", f"{key}:={value}")]
    arguments = ("--ros-args", "-r", f"__ns:={namespace}", *words)
    domain = person.context.get_domain_id()
    return process("-m", "rl100_policy.nodes.recorder", *arguments, domain=domain)


def stamps(folder: Path, topic: str = "/joint_states") -> list[int]:
    found = read_messages(folder, [topic])[topic]
    return [stamp_ns(message.value.header.stamp) for message in found]


def test_a_full_disk_ends_the_episode_and_what_was_flushed_is_recovered_once_there_is_space(
    small_disk,
):
    bags, filler = small_disk / "bags", small_disk / "filler"
    filler.write_bytes(bytes(3_000_000))
    with isolated_ros(
        bags=bags, topics=TOPICS, min_free_mb=0, require_data=False, expected_episode=0.001
    ):
        person, recorder = Person(), RecorderNode()
        depth = person.create_publisher(Image, "/depth", SENSOR)
        sent: list[int] = []

        def send() -> None:
            sent.append(time.time_ns())
            depth.publish(Image(header=header(sent[-1]), data=bytes(IMAGE_BYTES)))
            person.move(sent[-1])

        with spinning(recorder, person, events=False) as spin_until:
            person.ready(spin_until)
            assert spin_until(lambda: depth.get_subscription_count() > 0)
            name = person.begin()
            person.create_timer(0.02, send)
            assert person.reason_with("No space left on device")
            failed_ns, reason = time.time_ns(), person.states[-1].reason
            assert person.states[-1].state == EpisodeState.IDLE
            assert "bags recover" in reason
            with pytest.raises(BagError, match="check rights and space"):
                recover_all(bags)
            assert [path.name for path in bags.iterdir()] == [f"{name}.partial"]
            filler.unlink()
            (result,) = recover_all(bags)
            person.begin()
            person.spin_until(lambda: False, 0.3)
            assert person.end().success
    assert result.status is RecoveryStatus.RECOVERED
    assert check_episode(result.path) == []
    kept = stamps(result.path, "/depth")
    assert kept == sent[: len(kept)]
    assert kept[-1] > failed_ns - 1_000_000_000  # a flush period, and half a second to say so


@pytest.mark.parametrize("has_end_stamp", [True, False])
def test_a_camera_that_dies_is_named_and_its_episode_ends_in_time(tmp_path, has_end_stamp):
    topics = ["/joint_states sensor_msgs/msg/JointState", TOPICS[1]]
    with isolated_ros(
        bags=tmp_path, topics=topics, stop_timeout=1.0, sync=False, require_data=False
    ):
        person, recorder = Person(), RecorderNode()
        domain = person.context.get_domain_id()
        with (
            spinning(recorder, person, events=False) as spin_until,
            process("-c", CAMERA, domain=domain) as camera,
        ):
            person.ready(spin_until)
            assert spin_until(lambda: person.count_publishers("/depth") > 0)
            spin_until(lambda: False, 0.5)
            person.begin()
            person.move_for(0.5)
            camera.kill()
            spin_until(lambda: False, 1.5)
            begun_s = time.monotonic()
            stopped = person.end(time.time_ns() if has_end_stamp else 0)
            took_s = time.monotonic() - begun_s
    assert stopped.success
    assert took_s < 3.0
    assert stopped.degraded
    reasons = read_metadata(Path(stopped.path)).degraded_reasons
    # A late process beside it may have left a gap in the stamps too.
    assert {reason.split(":")[0] for reason in reasons} == {"/depth"}
    told = "messages lost" if has_end_stamp else "no message in the last"
    assert any(told in reason for reason in reasons)
    assert "/depth" in stopped.message
    assert check_episode(Path(stopped.path)) == []


def test_a_clock_that_jumps_back_keeps_every_message_and_degrades_the_episode(tmp_path):
    with isolated_ros(
        bags=tmp_path, topics=JOINTS_ONLY, use_sim_time=True, sync=False, require_data=False
    ):
        person, recorder = Person(), RecorderNode()
        clock = person.create_publisher(Clock, "/clock", 10)

        def tick(now: int) -> None:
            clock.publish(Clock(clock=time_message(now)))
            assert person.spin_until(lambda: recorder.get_clock().now().nanoseconds == now)
            person.move(now)

        with spinning(recorder, person, events=False) as spin_until:
            person.ready(spin_until)
            assert spin_until(lambda: clock.get_subscription_count() > 0)
            tick(100 * 10**9)
            person.begin()
            forth = [100 * 10**9 + step * PERIOD_NS for step in range(1, 4)]
            back = [7 * 10**9 + step * PERIOD_NS for step in range(3)]
            for now in (*forth, *back):
                tick(now)
            stopped = person.end(back[-1])
    folder = Path(stopped.path)
    assert stamps(folder) == [*forth, *back]
    assert check_episode(folder) == []
    (reason,) = read_metadata(folder).degraded_reasons
    assert reason == "/joint_states: stamps went back 1 times, by up to 93.150 s"


def test_a_system_clock_that_is_set_back_loses_no_message(tmp_path):
    """Regression: what came then was taken for what had waited since before the episode."""
    with isolated_ros(bags=tmp_path, topics=JOINTS_ONLY, sync=False, require_data=False):
        person, recorder = Person(), RecorderNode()
        with spinning(recorder, person, events=False) as spin_until:
            person.ready(spin_until)
            person.begin()
            person.move()
            assert spin_until(lambda: person.states[-1].messages == 1)
            # the clock of the middleware is the system's, which a test cannot set: an episode that
            # began an hour ahead of it is the same
            recorder._begun_ns += 3600 * 10**9
            person.move()
            stopped = person.end(person.sent_ns[-1])
    assert stamps(Path(stopped.path)) == person.sent_ns


def test_two_recorders_share_a_folder_and_a_recovery_leaves_both_alone(tmp_path):
    with isolated_ros():
        one, two = Person("/one"), Person("/two")
        with (
            recorder_process(tmp_path, one, "/one"),
            recorder_process(tmp_path, two, "/two"),
            spinning(one, two, events=False) as spin_until,
        ):
            one.ready(spin_until)
            two.ready(spin_until)
            assert spin_until(lambda: one.joints.get_subscription_count() == 2)
            one.create_timer(PERIOD_S, one.move)
            requests = [
                each.start.call_async(StartEpisode.Request(task="t")) for each in (one, two)
            ]
            assert spin_until(lambda: all(request.done() for request in requests))
            names = [request.result().episode_id for request in requests]
            spin_until(lambda: False, 0.5)
            found = {result.episode_id: result.status for result in recover_all(tmp_path)}
            spin_until(lambda: False, 0.5)
            stopped = [each.end(one.sent_ns[-1]) for each in (one, two)]
    assert found == dict.fromkeys(names, RecoveryStatus.IN_USE)
    assert len(set(names)) == 2
    for answer in stopped:
        assert answer.success, answer.message
        assert check_episode(Path(answer.path)) == []
        kept = stamps(Path(answer.path))
        first = one.sent_ns.index(kept[0])
        assert kept == one.sent_ns[first : first + len(kept)]
        assert len(kept) >= 10


def test_a_read_only_folder_refuses_the_start_by_name(small_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with isolated_ros(bags=small_disk, topics=JOINTS_ONLY, min_free_mb=0, require_data=False):
        person = Person()
        with spinning(RecorderNode(), person, events=False) as spin_until:
            person.ready(spin_until)
            answer = person.call(person.start, StartEpisode.Request(task="push_t"))
            assert person.states[-1].state == EpisodeState.IDLE
    assert not answer.success
    assert "Read-only file system" in answer.message
    assert str(small_disk) in answer.message


def test_a_folder_that_cannot_be_looked_at_refuses_the_start(tmp_path):
    """Regression: the request was never answered."""
    with isolated_ros(bags=tmp_path / ("a" * 300), topics=JOINTS_ONLY, require_data=False):
        person = Person()
        with spinning(RecorderNode(), person, events=False) as spin_until:
            person.ready(spin_until)
            answer = person.call(person.start, StartEpisode.Request(task="push_t"))
    assert not answer.success
    assert "File name too long" in answer.message


@pytest.mark.parametrize("action", ["removed", "moved"])
def test_a_folder_that_goes_away_while_recording_ends_the_episode_at_once(tmp_path, action):
    """Regression: the episode went on into a file that had no name, and failed when closed."""
    bags, elsewhere = tmp_path / "bags", tmp_path / "elsewhere"
    with isolated_ros(bags=bags, topics=JOINTS_ONLY, require_data=False):
        person = Person()
        with spinning(RecorderNode(), person, events=False) as spin_until:
            person.ready(spin_until)
            person.begin()
            person.move_for(0.6)
            if action == "removed":
                shutil.rmtree(bags)
            else:
                bags.rename(elsewhere)
            assert person.reason_with("was removed or moved away")
            assert person.states[-1].state == EpisodeState.IDLE
            person.begin()
            person.spin_until(lambda: False, 0.2)
            stopped = person.end()
    assert check_episode(Path(stopped.path)) == []
    if action == "moved":
        (result,) = recover_all(elsewhere)
        assert stamps(result.path) == person.sent_ns[: result.messages]


@pytest.mark.parametrize("phase", ["recording", "closing", "impatient"])
def test_a_recorder_that_is_asked_to_end_closes_its_bag(tmp_path, phase):
    with isolated_ros():
        person = Person()
        with (
            recorder_process(tmp_path, person, stop_timeout=30.0) as recorder,
            spinning(person) as spin_until,
        ):
            person.ready(spin_until)
            name = person.begin()
            person.move_for(0.7)
            if phase == "closing":  # it waits for a stamp that does not come
                end = time_message(time.time_ns() + 5 * 10**9)
                person.stop.call_async(StopEpisode.Request(end_stamp=end))
                closing = EpisodeState.CLOSING
                assert spin_until(lambda: person.states[-1].state == closing)
            for _ in range(20 if phase == "impatient" else 1):
                recorder.send_signal(signal.SIGTERM)
                time.sleep(0.005)
            ended = threading.Thread(target=recorder.wait)
            ended.start()
            assert spin_until(lambda: not ended.is_alive())
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert check_episode(tmp_path / name) == []
    assert read_metadata(tmp_path / name).end_reason == "the recorder was stopped"
    assert len(stamps(tmp_path / name)) >= 10
