# SPDX-License-Identifier: Apache-2.0
"""A graph in real time whose every topic passes through a relay that can be told to misbehave.

The arm is watched where it publishes, behind no relay.
"""

from __future__ import annotations

import os
import random
import tempfile
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
import yaml
from builtin_interfaces.msg import Time as TimeMessage
from driven_graph import descriptions, untrained
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message, serialize_message
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, JointState, PointCloud2
from std_msgs.msg import Header
from trajectory_msgs.msg import JointTrajectory

from rl100_bringup.graph import GraphArguments, NodeDescription, describe
from rl100_bringup.processes import NodeProcess, RunningGraph
from rl100_msgs.msg import ActionChunk, GateCommand, GateStatus, OperatorEvent, PolicyStatus
from rl100_msgs.srv import LoadPolicy, SetCommandSource
from rl100_policy.core.config import RobotConfig, TaskConfig, load_robot, load_task
from rl100_policy.core.kinematics import ArmKinematics
from rl100_policy.core.messages import stamp_ns
from rl100_policy.ros.domain import free_domain
from rl100_policy.ros.process import executor_of
from rl100_policy.ros.qos import COMMAND, EVENT, LATCHED, SENSOR
from rl100_policy.ros.scheduling import DRIVER, ORDINARY, go_first

Floats = NDArray[np.float64]

RATE_HZ = 10.0
PERIOD_S = 1.0 / RATE_HZ
MOVING = 0.03
"""A joint that is faster than this moves [rad/s]."""
_ANSWER_S = 4.0
_ROOM_M = 0.05
"""The tool may be so far beyond the middle and still has room [m]."""
_UNLOADED_S = 2.0
"""An arm that does not move for so long may have lost its version [s]."""
_SPEED = 0.15
"""Of the tool [m/s]."""
_PREFIX = "faulty"


@dataclass(frozen=True)
class Wire:
    """One topic and who publishes it."""

    topic: str
    kind: type
    qos: QoSProfile
    publisher: str


WIRES = (
    Wire("joint_states", JointState, SENSOR, "sim_robot"),
    Wire("camera/depth/image_rect_raw", Image, SENSOR, "sim_robot"),
    Wire("camera/depth/camera_info", CameraInfo, SENSOR, "sim_robot"),
    Wire("/clock", Clock, QoSProfile(depth=10), "sim_robot"),
    Wire("policy/cloud", PointCloud2, SENSOR, "cloud"),
    Wire("policy/action_chunk", ActionChunk, COMMAND, "policy"),
    Wire("policy/alive", Header, COMMAND, "policy"),
    Wire("gate/status", GateStatus, LATCHED, "command_gate"),
    Wire(
        "arm_controller/joint_trajectory", JointTrajectory, COMMAND,
        "command_gate",
    ),
)  # fmt: skip


def _behind(topic: str) -> str:
    """Name under which a node publishes what the relay passes on."""
    return f"/{_PREFIX}/{topic.strip('/')}"


class Relay:
    """Passes one topic on, as it is told to: see the methods."""

    def __init__(self, node: Node, wire: Wire) -> None:
        """Subscribe and advertise."""
        self._node, self._wire = node, wire
        self._out = node.create_publisher(wire.kind, wire.topic, wire.qos)
        qos = replace_depth(wire.qos, 50)
        node.create_subscription(wire.kind, _behind(wire.topic), self._on_message, qos, raw=True)
        self._random = random.Random(0)
        self._sent: bytes | None = None
        """The newest one that was sent on."""
        self.pass_on()

    def pass_on(self) -> None:
        """Every message, at once."""
        self._how: Callable[[bytes], None] = self._send
        self._kept: bytes | None = None

    def be_silent(self) -> None:
        """None."""
        self._how = lambda _: None

    def freeze(self) -> None:
        """The last one that was sent again and again, at the rate of those that come."""
        kept = self._sent

        def send_kept(data: bytes) -> None:
            self._send(kept or data)

        self._how = send_kept

    def delay(self, seconds: float) -> None:
        """Every one so much later."""
        waiting: deque[tuple[float, bytes]] = deque()

        def later(data: bytes) -> None:
            waiting.append((time.monotonic() + seconds, data))
            while waiting and waiting[0][0] <= time.monotonic():
                self._send(waiting.popleft()[1])

        self._how = later

    def duplicate(self) -> None:
        """Every one twice."""

        def twice(data: bytes) -> None:
            self._send(data)
            self._send(data)

        self._how = twice

    def reorder(self) -> None:
        """Two by two, the later one first."""
        self._kept = None

        def swapped(data: bytes) -> None:
            if self._kept is None:
                self._kept = data
                return
            self._send(data)
            self._send(self._kept)
            self._kept = None

        self._how = swapped

    def corrupt(self, share: float = 0.1) -> None:
        """A share of its bytes is anything; the first four say how it is encoded and stay."""

        def garbled(data: bytes) -> None:
            bad = bytearray(data)
            for _ in range(max(1, round(share * len(bad)))):
                bad[self._random.randrange(4, len(bad))] = self._random.randrange(256)
            self._send(bytes(bad))

        self._how = garbled

    def lie(self, off: float) -> None:
        """Of joint states: every joint is elsewhere [rad]."""

        def elsewhere(data: bytes) -> None:
            message = deserialize_message(data, JointState)
            message.position = [each + off for each in message.position]
            self._send(serialize_message(message))

        self._how = elsewhere

    def shift_clock(self, seconds: float) -> None:
        """Of the clock: so much on, or back."""

        def shifted(data: bytes) -> None:
            message = deserialize_message(data, Clock)
            total = max(0, stamp_ns(message.clock) + round(seconds * 1e9))
            message.clock = TimeMessage(sec=total // 10**9, nanosec=total % 10**9)
            self._send(serialize_message(message))

        self._how = shifted

    def _on_message(self, data: bytes) -> None:
        self._how(data)

    def _send(self, data: bytes) -> None:
        self._sent = data
        self._out.publish(data)


def replace_depth(qos: QoSProfile, depth: int) -> QoSProfile:
    """The same profile for another number of messages."""
    return QoSProfile(
        history=qos.history, depth=depth, reliability=qos.reliability, durability=qos.durability
    )


@dataclass
class Watched:
    """What the arm did, and what it was told."""

    places: list[tuple[float, int, Floats]] = field(default_factory=list)
    """Wall time [s, monotonic], stamp [ns] and joint positions, [n], rad."""
    commands: list[tuple[int, Floats, Floats]] = field(default_factory=list)
    """Stamp [ns] of the gate's commands, and all of their points: positions, [p, n], and times
    after the stamp, [p], s."""
    periods: list[tuple[float, GateCommand]] = field(default_factory=list)


class Watcher(Node):
    """Relays, eyes and hands, on a thread of its own."""

    def __init__(self) -> None:
        """Subscribe."""
        super().__init__("watcher")
        self.relays = {wire.topic: Relay(self, wire) for wire in WIRES}
        self.seen, self.status, self.policy = Watched(), GateStatus(), PolicyStatus()
        self.create_subscription(JointState, _behind("joint_states"), self._on_joints, SENSOR)
        self.create_subscription(
            JointTrajectory, _behind("arm_controller/joint_trajectory"), self._on_command, COMMAND
        )
        self.create_subscription(GateCommand, "gate/command", self._on_period, EVENT)
        self.create_subscription(GateStatus, _behind("gate/status"), self._on_status, LATCHED)
        self.create_subscription(PolicyStatus, "policy/status", self._on_policy, LATCHED)
        self.events = self.create_publisher(OperatorEvent, "operator/event", EVENT)
        self._executor, serve = executor_of()
        self._executor.add_node(self)
        self._ends = False
        self._thread = threading.Thread(target=self._spin, args=(serve,), daemon=True)
        self._thread.start()

    def _spin(self, serve: Callable[[], None]) -> None:
        while not self._ends and rclpy.ok():
            try:
                serve()
            except Exception:  # whatever it is: said; without relays every node would be deaf
                traceback.print_exc()

    def end(self) -> None:
        """End the thread and the node."""
        self._ends = True
        self._thread.join(5.0)
        self._executor.shutdown()
        self.destroy_node()

    def _on_joints(self, message: JointState) -> None:
        self.seen.places.append(
            (time.monotonic(), stamp_ns(message.header.stamp), np.array(message.position))
        )

    def _on_command(self, message: JointTrajectory) -> None:
        places = np.array([point.positions for point in message.points])
        times_s = np.array([stamp_ns(point.time_from_start) for point in message.points]) * 1e-9
        self.seen.commands.append((stamp_ns(message.header.stamp), places, times_s))

    def _on_period(self, message: GateCommand) -> None:
        self.seen.periods.append((time.monotonic(), message))

    def _on_status(self, status: GateStatus) -> None:
        self.status = status

    def _on_policy(self, status: PolicyStatus) -> None:
        self.policy = status

    def call(self, kind: Any, name: str, **fields: Any) -> Any:
        """Call a service; its answer, or None if nobody answers in time."""
        client = self.create_client(kind, name)
        try:
            if not client.wait_for_service(_ANSWER_S):
                return None
            answered = threading.Event()
            future = client.call_async(kind.Request(**fields))
            future.add_done_callback(lambda _: answered.set())
            return future.result() if answered.wait(_ANSWER_S) else None
        finally:
            self.destroy_client(client)

    def take_command(self) -> bool:
        """Put the policy in command."""
        answer = self.call(SetCommandSource, "gate/set_command_source", source=GateCommand.POLICY)
        return answer is not None and answer.success


def moves(places: list[tuple[float, int, Floats]]) -> list[tuple[float, float]]:
    """Intervals between joint states in which the arm moved: begin and end, wall time [s].

    An arm that comes to rest between two of them has gone on at its pace until then: of the last
    interval of a motion the share is told that is as long as its way is of the way before.
    """
    found: list[tuple[float, float]] = []
    way = rested = 0.0
    for (begin, stamp, before), (end, later, after) in pairwise(places):
        if later <= stamp:
            continue
        last, way = way, float(np.abs(after - before).max())
        if way > MOVING * (later - stamp) * 1e-9:
            found.append((begin, end))
            rested = begin + (end - begin) * min(1.0, way / last if last else 1.0)
        elif found:
            found[-1] = (found[-1][0], min(found[-1][1], rested))
    return found


class FaultyGraph:
    """The running graph, its watcher and what may be done to it."""

    def __init__(
        self, graph: RunningGraph, watcher: Watcher, folder: Path, robot: RobotConfig,
        task: TaskConfig, versions: dict[tuple[float, bool], Path],
    ) -> None:  # fmt: skip
        """Around what runs; a version for either direction along y."""
        self.graph, self.watcher, self.folder = graph, watcher, folder
        self.robot, self.task, self._versions = robot, task, versions
        self._arm, self._towards = ArmKinematics(robot), 0.0
        self.of_chunks, self._loaded = False, False
        """Whether a policy of chunks is to drive, and whether one does."""

    def process(self, name: str) -> NodeProcess:
        """One node's process."""
        return next(each for each in self.graph.processes if each.node.name == name)

    def load(self) -> bool:
        """Let the policy drive to where there is more room; whether it was taken."""
        places = self.watcher.seen.places
        here = self._arm.tool_position(places[-1][2])[1] if places else 0.0
        self._towards = -1.0 if here > 0.0 else 1.0
        path = str(self._versions[self._towards, self.of_chunks])
        answer = self.watcher.call(LoadPolicy, "policy/load", path=path, sampler="one_step")
        if answer is None or not answer.success:
            return False
        self._loaded = self.of_chunks
        return True

    def has_room(self) -> bool:
        """Whether the arm may go on for a second or two."""
        places = self.watcher.seen.places
        if not places:
            return False
        return self._towards * self._arm.tool_position(places[-1][2])[1] < _ROOM_M

    def is_moving(self, seconds: float = 4 * PERIOD_S) -> bool:
        """Whether the policy is in command and the arm has moved just now."""
        now = time.monotonic()
        recent = [each for each in self.watcher.seen.places if each[0] > now - seconds]
        return self.watcher.status.source == GateCommand.POLICY and len(moves(recent)) >= 2

    def drive(self, patience_s: float = 60.0) -> float:
        """Bring the policy in command and the arm in motion, as a person would; time it took [s].

        Raises:
            RuntimeError: If that does not come about.
        """
        begun, end = time.monotonic(), time.monotonic() + patience_s
        while not (self.is_moving() and self.has_room() and self._loaded is self.of_chunks):
            self.graph.mend()
            other = self._loaded is not self.of_chunks
            if other or not self.has_room() or time.monotonic() - begun > _UNLOADED_S:
                self.load()
            if self.watcher.status.source != GateCommand.POLICY or self.watcher.status.estop:
                self.watcher.take_command()
            wait = time.monotonic() + 1.0
            while not self.is_moving() and time.monotonic() < wait:
                time.sleep(0.02)
            if time.monotonic() > end:
                raise RuntimeError(
                    f"the arm does not move again: {self.watcher.status}; {self.watcher.policy}; "
                    f"{self._ends_of_logs()}"
                )
        return time.monotonic() - begun

    def _ends_of_logs(self, lines: int = 8) -> str:
        """What every node told last; the files are gone with the graph."""
        logs = {
            path.name: path.read_text(errors="replace").splitlines()[-lines:]
            for path in sorted((self.folder / "log").glob("*.log"))
        }
        return "\n".join(f"{name}: {line}" for name, told in logs.items() for line in told)

    def broken_limits(self) -> list[str]:
        """What of the commands since ``forget`` breaks a limit; commands of successive periods."""
        arm, told = self._arm, []
        for stamp, points, _ in list(self.watcher.seen.commands):
            if not (
                np.isfinite(points).all()
                and (points >= arm.position_lower - 1e-9).all()
                and (points <= arm.position_upper + 1e-9).all()
            ):
                told.append(f"{stamp}: positions {points}")
        periods = [
            (stamp_ns(each.header.stamp), np.array(each.joint_command))
            for _, each in list(self.watcher.seen.periods)
        ]
        velocity: Floats | None = None
        for (stamp, before), (later, place) in pairwise(periods):
            apart = (later - stamp) * 1e-9
            if not 0.5 * PERIOD_S < apart < 1.5 * PERIOD_S:
                velocity = None
                continue
            now = (place - before) / PERIOD_S
            if (np.abs(now) > arm.velocity_limits + 1e-6).any():
                told.append(f"{later}: velocities {now}")
            if velocity is not None:
                change = np.abs(now - velocity) / PERIOD_S
                if (change > arm.acceleration_limits + 1e-4).any():
                    told.append(f"{later}: accelerations {change}")
            velocity = now
        return told

    def lag(self) -> float:
        """How much later than a period after its stamp the newest command ends [s]; 0: unknown."""
        seen = self.watcher.seen
        told = {stamp_ns(each.header.stamp): each.joint_command for _, each in list(seen.periods)}
        for stamp, places, times_s in reversed(list(seen.commands)):
            at = [] if stamp not in told else np.abs(places - told[stamp]).max(axis=1) < 1e-9
            if np.any(at):
                return float(times_s[np.argmax(at)]) - PERIOD_S
        return 0.0

    def forget(self) -> None:
        """Watch from now on."""
        self.watcher.seen = Watched()


@contextmanager
def faulty_graph(
    within: Mapping[str, Sequence[str]] | None = None,
) -> Iterator[FaultyGraph]:
    """A graph in real time, in a ROS domain of its own, with policies of one and eight actions.

    Args:
        within: As of :class:`RunningGraph`.
    """
    with tempfile.TemporaryDirectory(prefix="rl100_faults_") as place:
        folder = Path(place)
        robot_path, task_path = descriptions(folder, 128, RATE_HZ)
        robot, task = load_robot(robot_path), load_task(task_path)
        params = folder / "params.yaml"
        params.write_text(
            yaml.safe_dump({"sim_robot": {"ros__parameters": {"free_running": True}}})
        )
        arguments = GraphArguments(
            robot=str(robot_path), task=str(task_path), bags=str(folder / "bags"),
            params_file=str(params),
        )  # fmt: skip
        nodes = [_behind_relays(node) for node in describe(arguments)]
        versions = {
            (sign, n_chunk > 1): untrained(
                folder / f"towards_{name}_{n_chunk}", robot, task, "small", n_chunk,
                bounds=([-0.02, sign * _SPEED - 0.03], [0.02, sign * _SPEED + 0.03]),
            )
            for sign, name in ((1.0, "left"), (-1.0, "right"))
            for n_chunk in (1, 8)
        }  # fmt: skip
        with (
            free_domain() as domain,
            RunningGraph(nodes, folder / "log", domain=domain, within=within) as graph,
        ):
            rclpy.init(domain_id=domain)
            watcher = Watcher()
            if ORDINARY not in os.environ:  # it is the network and the clock: late for nobody
                go_first(DRIVER, alone=True)
            try:
                faulty = FaultyGraph(graph, watcher, folder, robot, task, versions)
                faulty.drive()
                yield faulty
            finally:
                watcher.end()
                rclpy.try_shutdown()


def _behind_relays(node: NodeDescription) -> NodeDescription:
    remaps = [
        word
        for wire in WIRES
        if wire.publisher == node.name
        for word in ("-r", f"{wire.topic}:={_behind(wire.topic)}")
    ]
    return replace(node, arguments=("--ros-args", *remaps)) if remaps else node
