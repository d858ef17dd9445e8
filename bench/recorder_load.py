# SPDX-License-Identifier: Apache-2.0
"""Processes of ``bench/recording.py``: the recorder, a cell that publishes, and who judges."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from bag_contents import Span, TopicContents, compare_bag
from cell import JOINT_TOPIC, cell_camera, read_counts
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node

from rl100_msgs.msg import EpisodeState, HumanFeedback
from rl100_msgs.srv import CheckRecording, StartEpisode, StopEpisode
from rl100_policy.ros.conversions import header, time_message
from rl100_policy.ros.diagnostics import DIAGNOSTICS_TOPIC
from rl100_policy.ros.qos import EVENT, LATCHED

_HERE = Path(__file__).parent
_READY_S, _ANSWER_S, _END_S = 60.0, 120.0, 30.0
"""Longest waits: for the graph, for a service, for the end of a process [s]."""
_WAITING = "waiting for the disk [B]"
_LONGEST_WAIT = "longest wait for the disk [s]"
_OTHERS = (
    "camera/extrinsics geometry_msgs/msg/TransformStamped latched",
    "teleop/delta_twist_cmds geometry_msgs/msg/TwistStamped",
    "teleop/joint_cmds sensor_msgs/msg/JointState",
    "operator/event rl100_msgs/msg/OperatorEvent",
    "policy/action_chunk rl100_msgs/msg/ActionChunk",
    "policy/decision rl100_msgs/msg/DecisionRecord",
    "feedback rl100_msgs/msg/HumanFeedback",
)
"""What a recorder listens to as well; the feedback of this process comes on the last."""


_CAMERAS = tuple(map(cell_camera, ("depth", "color")))
CELL_TOPICS = (
    JOINT_TOPIC,
    *(topic for camera in _CAMERAS for topic in (camera.topic, camera.info_topic)),
)
"""What is compared."""


def recorded_topics(joints_hz: float, images_hz: float) -> list[str]:
    """Entries of the recorder's ``topics`` parameter."""
    found = [f"{JOINT_TOPIC} sensor_msgs/msg/JointState sensor={1.0 / joints_hz:.9f}"]
    for camera in _CAMERAS:
        sensor = f"sensor={1.0 / images_hz:.9f} frame={camera.optical_frame}"
        found.append(f"{camera.topic} sensor_msgs/msg/Image {sensor}")
        found.append(f"{camera.info_topic} sensor_msgs/msg/CameraInfo latched required")
    return [*found, *_OTHERS]


@dataclass
class Samples:
    """Taken every second of two processes, while an episode is recorded or not."""

    recording: list[bool] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    recorder_cpu: list[float] = field(default_factory=list)
    """Share of one core."""
    cell_cpu: list[float] = field(default_factory=list)
    memory_mb: list[float] = field(default_factory=list)
    """Resident memory of the recorder."""


class Sampler:
    """Measures recorder and cell every second, on a thread of its own."""

    def __init__(self, recorder: int, cell: int) -> None:
        """Begin; arguments are process ids."""
        self.samples, self.recording = Samples(), False
        self._processes = psutil.Process(recorder), psutil.Process(cell)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="sampler", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        before = self._read()
        begun = before[0]
        while not self._ended.wait(1.0):
            was_recording = self.recording
            now = self._read()
            taken = self.samples
            taken.recording.append(was_recording)
            taken.seconds.append(now[0] - begun)
            taken.recorder_cpu.append((now[1] - before[1]) / (now[0] - before[0]))
            taken.cell_cpu.append((now[2] - before[2]) / (now[0] - before[0]))
            taken.memory_mb.append(self._processes[0].memory_info().rss / 1e6)
            before = now

    def _read(self) -> tuple[float, float, float]:
        """Monotonic time, and processor time of both [s]."""
        spent = [process.cpu_times() for process in self._processes]
        return time.monotonic(), *(each.user + each.system for each in spent)

    def close(self) -> None:
        """End the thread."""
        self._ended.set()
        self._thread.join()


class Judge(Node):
    """Starts, judges and stops episodes, and remembers the worst that the recorder said."""

    def __init__(self) -> None:
        """Subscribe."""
        super().__init__("judge")
        self.start = self.create_client(StartEpisode, "episode/start")
        self.stop = self.create_client(StopEpisode, "episode/stop")
        self.check = self.create_client(CheckRecording, "episode/check")
        self.feedback = self.create_publisher(HumanFeedback, "feedback", EVENT)
        self.state = EpisodeState()
        self.waiting_mb = self.longest_wait_s = 0.0
        self.create_subscription(EpisodeState, "episode/state", self._on_state, LATCHED)
        self.create_subscription(DiagnosticArray, DIAGNOSTICS_TOPIC, self._on_diagnostics, 10)

    def _on_state(self, state: EpisodeState) -> None:
        self.state = state

    def _on_diagnostics(self, told: DiagnosticArray) -> None:
        for status in told.status:
            values = {each.key: each.value for each in status.values}
            waiting, wait = values.get(_WAITING, "0"), values.get(_LONGEST_WAIT, "0")
            self.waiting_mb = max(self.waiting_mb, int(waiting) / 1e6)
            self.longest_wait_s = max(self.longest_wait_s, float(wait))


@dataclass(frozen=True)
class EpisodeResult:
    """What became of one episode."""

    seconds: float
    bytes: int
    contents: dict[str, TopicContents]
    lost: dict[str, dict[str, int]]
    """What the recorder itself says is missing, by topic and cause."""
    degraded: bool
    message: str


class Load:
    """A running cell and recorder, and the episodes of this process."""

    def __init__(self, judge: Judge, spin_until: Callable[..., bool], counts: Path) -> None:
        """Nothing is asked for yet; ``counts`` is where the cell counts what it sends."""
        self._judge, self._spin_until, self._counts = judge, spin_until, counts

    def wait_until_ready(self) -> None:
        """Wait until nothing is missing; raises RuntimeError with what is."""
        judge, problems = self._judge, ["the recorder did not come up"]
        clients = (judge.start, judge.stop, judge.check)
        deadline = time.monotonic() + _READY_S
        while problems and time.monotonic() < deadline:
            if self._spin_until(lambda: all(each.service_is_ready() for each in clients), 1.0):
                problems = self._call(judge.check, CheckRecording.Request()).problems
                self._spin_until(lambda: False, 0.5)
        if problems:
            raise RuntimeError(f"not ready after {_READY_S:.0f} s: {'; '.join(problems)}")

    def _call(self, client: Any, request: Any) -> Any:
        future = client.call_async(request)
        if not self._spin_until(future.done, _ANSWER_S):
            raise RuntimeError(f"no answer of {client.srv_name} within {_ANSWER_S:.0f} s")
        return future.result()

    def record(self, seconds: float, sampler: Sampler, *, keep: bool) -> EpisodeResult:
        """Record one episode, judge it, compare it with what was sent, delete it."""
        asked_ns = time.time_ns()
        started = self._call(self._judge.start, StartEpisode.Request(task="load"))
        answered_ns = time.time_ns()
        if not started.success:
            raise RuntimeError(f"the episode did not start: {started.message}")
        sampler.recording = True
        self._spin_until(lambda: False, seconds)
        success = HumanFeedback(header=header(time.time_ns()), kind=HumanFeedback.SUCCESS)
        self._judge.feedback.publish(success)
        sampler.recording, end_ns = False, time.time_ns()
        stopped = self._call(self._judge.stop, StopEpisode.Request(end_stamp=time_message(end_ns)))
        self._spin_until(lambda: self._judge.state.state == EpisodeState.IDLE, 5.0)
        if not stopped.success:
            raise RuntimeError(f"the episode was not saved: {stopped.message}")
        folder = Path(stopped.path)
        counted = {name: read_counts(self._counts, name) for name in CELL_TOPICS}
        span = Span(asked_ns, answered_ns, end_ns)
        result = EpisodeResult(
            seconds=(end_ns - answered_ns) * 1e-9,
            bytes=self._judge.state.bytes,
            contents=compare_bag(folder, counted, span),
            lost=_lost(self._judge.state),
            degraded=stopped.degraded,
            message=stopped.message,
        )
        if not keep:
            shutil.rmtree(folder)
        return result


def _lost(state: EpisodeState) -> dict[str, dict[str, int]]:
    return {
        each.topic: {
            "middleware": each.lost_middleware,
            "stamps": each.lost_gaps,
            "recorder": each.lost_recorder,
        }
        for each in state.topics
    }


@contextmanager
def started(command: list[str], variables: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process of its own, ended by SIGTERM; raises RuntimeError if it ends badly."""
    process = subprocess.Popen(command, env=variables)
    try:
        yield process
    finally:
        process.terminate()
        try:
            status = process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
    if status != 0:
        raise RuntimeError(f"{command[:3]} ended with status {status}")
