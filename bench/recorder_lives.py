# SPDX-License-Identifier: Apache-2.0
"""Recorder processes, and what a person does with each until it dies; see ``kill_recorder``."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rclpy
from kill_accounts import SENSORS, Episode, Phase, Published
from rclpy.node import Node
from sensor_msgs.msg import Image, JointState

from rl100_msgs.msg import EpisodeState, HumanFeedback
from rl100_msgs.srv import StartEpisode, StopEpisode
from rl100_policy.bags.reading import read_messages
from rl100_policy.ros.conversions import header, time_message
from rl100_policy.ros.qos import EVENT, LATCHED, SENSOR

JOINT_HZ, DEPTH_HZ = 200, 20
WIDTH, HEIGHT = 128, 96
TOPICS = [
    f"/joint_states sensor_msgs/msg/JointState sensor={1 / JOINT_HZ}",
    f"/depth sensor_msgs/msg/Image sensor={1 / DEPTH_HZ}",
    "feedback rl100_msgs/msg/HumanFeedback",
]
CYCLE_S = 2.5
"""From the start of an episode to its second judgement, at most, and something more [s]."""
_PATIENCE_S = 30.0
SpinUntil = Callable[..., bool]


def publish(folder: Path, domain: int) -> None:
    """Publish both sensors until the process is ended, and note each stamp after its message."""
    rclpy.init(args=[], domain_id=domain)
    node = Node("robot")
    ledger = Published(folder)
    joints = node.create_publisher(JointState, "/joint_states", SENSOR)
    depth = node.create_publisher(Image, "/depth", SENSOR)
    image = Image(height=HEIGHT, width=WIDTH, encoding="16UC1", step=2 * WIDTH)
    data = bytes(2 * WIDTH * HEIGHT)
    names, begun_s = [f"joint_{number}" for number in range(7)], time.monotonic()
    for count in range(sys.maxsize):
        time.sleep(max(0.0, begun_s + count / JOINT_HZ - time.monotonic()))
        stamp_ns = time.time_ns()
        joints.publish(JointState(header=header(stamp_ns), name=names, position=[0.5] * 7))
        ledger.note("/joint_states", stamp_ns)
        if count % (JOINT_HZ // DEPTH_HZ) == 0:
            image.header, image.data = header(stamp_ns), data
            depth.publish(image)
            ledger.note("/depth", stamp_ns)


def mapped_segments(process: int) -> set[str]:
    """Shared memory of the middleware that a process uses; 2 MB of each outlive a SIGKILL."""
    try:
        maps = Path(f"/proc/{process}/maps").read_text()
    except OSError:  # it ended just now, or is somebody else's
        return set()
    return set(re.findall(r"/dev/shm/fastrtps_[0-9a-f]{16}\b", maps))


def remove_unused(segments: set[str], *, ignoring: int = 0) -> None:
    """Remove the shared memory among these that no process uses, but perhaps the one ignored."""
    processes = {int(each.name) for each in Path("/proc").glob("[0-9]*")} - {ignoring}
    for segment in segments - set().union(*map(mapped_segments, processes)):
        for name in (segment, f"{segment}_el"):  # the memory, and its lock
            Path(name).unlink(missing_ok=True)


class Recorder:
    """A recorder process in a namespace of its own, so that no answer is another one's."""

    def __init__(self, bags: Path, number: int, domain: int) -> None:
        """Start it."""
        self.namespace = f"/life_{number}"
        given = [f"bags:={bags}", f"topics:={TOPICS}", "stop_timeout:=2.0"]
        words = [word for each in given for word in ("-p", each)]
        self.segments: set[str] = set()
        """Shared memory that it used."""
        self._log = (bags.parent / "recorder.log").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rl100_policy.nodes.recorder", "--ros-args",
             "-r", f"__ns:={self.namespace}", *words],
            env=os.environ | {"ROS_DOMAIN_ID": str(domain)},
            stdout=self._log,
            stderr=self._log,
        )  # fmt: skip

    def kill(self) -> int:
        """SIGKILL; the wall time just before [ns]."""
        self.segments |= mapped_segments(self.process.pid)
        now_ns = time.time_ns()
        self.process.kill()
        return now_ns

    def reap(self) -> None:
        """Wait for the end of a killed process."""
        self.process.wait(_PATIENCE_S)
        self._log.close()


class KilledError(Exception):
    """The recorder of this life is dead."""


class Life:
    """What a person does with one recorder process until it is killed."""

    def __init__(self, node: Node, recorder: Recorder, spin_until: SpinUntil, number: int) -> None:
        """Make clients for it."""
        self._node, self._recorder, self._spin_until = node, recorder, spin_until
        self._number, self._patience_s = number, _PATIENCE_S
        self.phase, self.killed_ns, self.killed_in = Phase.IDLE, 0, Phase.IDLE
        self.episodes: list[Episode] = []
        self._states: list[EpisodeState] = []
        name = recorder.namespace
        self._start = node.create_client(StartEpisode, f"{name}/episode/start")
        self._stop = node.create_client(StopEpisode, f"{name}/episode/stop")
        self._feedback = node.create_publisher(HumanFeedback, f"{name}/feedback", EVENT)
        self._state = node.create_subscription(
            EpisodeState, f"{name}/episode/state", self._states.append, LATCHED
        )
        self._timer: threading.Timer | None = None

    def end(self) -> None:
        """Reap the process; forget its clients."""
        if self._timer is not None:
            self._timer.cancel()
        self._recorder.kill()
        self._recorder.reap()
        for destroy, entity in (
            (self._node.destroy_client, self._start),
            (self._node.destroy_client, self._stop),
            (self._node.destroy_publisher, self._feedback),
            (self._node.destroy_subscription, self._state),
        ):
            destroy(entity)

    def kill_in(self, delay_s: float) -> None:
        """Kill from another thread, whatever this one is doing then."""
        self._timer = threading.Timer(delay_s, self._kill)
        self._timer.start()

    def _kill(self) -> None:
        self.killed_in = self.phase
        self.killed_ns = self._recorder.kill()

    def wait(self, condition: Callable[[], Any]) -> None:
        """Spin until a condition holds; KilledError if the process is, TimeoutError if late."""
        reached = self._spin_until(lambda: self.killed_ns or condition(), self._patience_s)
        if self.killed_ns:
            raise KilledError
        if not reached:
            raise TimeoutError(f"{self._recorder.namespace} did not answer while {self.phase}")

    def pause(self, seconds: float) -> None:
        """Let time pass."""
        self._spin_until(lambda: self.killed_ns, seconds)
        if self.killed_ns:
            raise KilledError

    def get_ready(self) -> None:
        """Wait until the recorder hears everybody."""
        self.wait(lambda: self._states and self._start.service_is_ready())
        self.wait(
            lambda: self._stop.service_is_ready() and self._feedback.get_subscription_count()
        )
        self._patience_s = 3.0
        while not self._hears_all():
            self.episodes.clear()
        self.episodes.clear()
        self._patience_s = _PATIENCE_S

    def _hears_all(self) -> bool:
        """Throw an episode away: whether all nodes have found each other.

        Until then messages, and answers of services, may be lost on the way.
        """
        try:
            self.begin()
            self.pause(0.12)
            future = self.ask_to_stop(discard=True)
            self.close(future)
        except TimeoutError:
            self._stop.call_async(StopEpisode.Request(discard=True))
            self.pause(1.0)
            return False
        return all(read_messages(Path(future.result().path), SENSORS).values())

    def begin(self) -> None:
        """Start an episode; again while the recorder does not see the publishers yet."""
        request = StartEpisode.Request(task=f"life_{self._number}")
        self.phase = Phase.STARTING
        while True:
            future = self._start.call_async(request)
            self.wait(future.done)
            answer = future.result()
            if answer.success:
                break
            if "publishe" not in answer.message:  # a sensor that is not heard yet
                raise RuntimeError(answer.message)
            self.pause(0.1)
        self.episodes.append(Episode(answer.episode_id, begun_ns=time.time_ns()))
        self.phase = Phase.RECORDING

    def judge(self, kind: int) -> None:
        """Judge the newest episode."""
        episode = self.episodes[-1]
        now_ns = time.time_ns()
        self._feedback.publish(
            HumanFeedback(
                header=header(now_ns), episode_id=episode.episode_id, kind=kind, source="bench"
            )
        )
        episode.judgements.append((now_ns, kind))

    def ask_to_stop(self, *, discard: bool = False) -> Any:
        """Send the request; its future."""
        episode = self.episodes[-1]
        episode.end_ns = time.time_ns()
        self.phase = Phase.CLOSING
        return self._stop.call_async(
            StopEpisode.Request(end_stamp=time_message(episode.end_ns), discard=discard)
        )

    def close(self, future: Any) -> float:
        """Wait for the closed episode; how long it took [s]."""
        begun_s = time.monotonic()
        self.wait(future.done)
        answer = future.result()
        if not answer.success:
            raise RuntimeError(answer.message)
        self.episodes[-1].closed_ns = time.time_ns()
        self.phase = Phase.IDLE
        return time.monotonic() - begun_s

    def await_label(self) -> float:
        """Wait until a closed episode has its new label; how long it took [s]."""
        begun_s, name = time.monotonic(), self.episodes[-1].episode_id
        self.wait(lambda: self._states[-1].reason.startswith(f"{name} is now"))
        self.phase = Phase.IDLE
        return time.monotonic() - begun_s
