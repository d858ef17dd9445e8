# SPDX-License-Identifier: Apache-2.0
"""Recorder node: every topic of the robot contract, raw, one MCAP bag per episode.

In: the topics of the ``topics`` parameter, as bytes: joint states and cameras of the robot
description, and what the nodes of this suite decide and do, unless told otherwise. ``feedback``
HumanFeedback is also read for the outcome, ``gate/status`` GateStatus and ``policy/status``
PolicyStatus (LATCHED) for whether executed commands and decisions reach this node: no episode
begins before the commands do, none of a policy before its decisions do. Subscriptions are
made once, reliable unless a publisher is best-effort, 200 deep; messages outside an episode are
dropped, but the newest of each latched topic is kept and begins every bag. Out: ``episode/state``
EpisodeState (LATCHED, on change and at 2 Hz). Services: ``episode/start`` StartEpisode,
``episode/stop`` StopEpisode.

Threads: one executor thread, one that writes the running episode, one that waits for the disk, and
one that adds judgements to closed episodes.

| callback group | entities | may wait |
|---|---|---|
| default, mutually exclusive | subscriptions, start service, 20 Hz timer | start: for the disk |
| stop, mutually exclusive | stop service, a coroutine awaiting the closed bag | without a thread |
| (writer thread) | messages, flushes, end of the running episode | at the end: for the disk |
| (disk thread) | what was flushed, to disk | for the disk |
| (relabeller thread) | copies of closed bags with further judgements | for the disk |

The start service looks at the free space and makes folder and head of the bag; a second thread for
that would buy nothing, since no episode is running. The timer's clock is steady.

Messages are stamped in the bag with the ROS time of their reception (``/clock`` in simulation), as
rosbag2 does; their header stamps are untouched. An episode ends when every sensor seen in it has
reached the end stamp, or ``stop_timeout`` after the request.

Failure policy: a message that is malformed is recorded as it is. A message that cannot be recorded
is counted and makes the episode degraded. A disk that is full or fails ends the episode: what is
there stays recoverable, the state goes to IDLE with the reason, and the node goes on. So does a
folder that is removed or moved away. A stopped node closes its episode.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from rclpy.task import Future

from rl100_msgs.msg import EpisodeState, GateStatus, HumanFeedback, PolicyStatus
from rl100_msgs.srv import StartEpisode, StopEpisode
from rl100_policy.bags.definitions import MessageDefinitions
from rl100_policy.bags.identity import new_episode_id
from rl100_policy.bags.journal import BagJournal, RawMessage, free_bytes
from rl100_policy.bags.judgement import Judgement, JudgementKind
from rl100_policy.bags.metadata import EpisodeMetadata, config_hash, software_version
from rl100_policy.bags.recording import Ended, EpisodeRecorder, Phase
from rl100_policy.bags.session import Stream, parse_stream
from rl100_policy.bags.storage import RecordedTopic
from rl100_policy.bags.topics import (
    DECISION_TOPIC,
    DEFAULT_TOPICS,
    EXECUTED_TOPIC,
    FEEDBACK_TOPIC,
    all_topics,
)
from rl100_policy.bags.writer import Compression
from rl100_policy.core import messages
from rl100_policy.core.config import RobotConfig, TaskConfig, load_robot, load_task
from rl100_policy.core.errors import BagError, ConfigError
from rl100_policy.ros.parameters import parameter, read_parameters
from rl100_policy.ros.process import run_node
from rl100_policy.ros.qos import LATCHED
from rl100_policy.ros.raw_subscription import RawSubscription, has_header, message_class

_TICK_S = 0.05
_STATE_PERIOD_S = 0.5
_SHUTDOWN_S = 10.0
_PERIOD_S = 0.1
"""Period of sensors when neither a parameter nor a robot description gives one [s]."""
_APART_NS = 10_000_000_000
"""An end stamp farther ahead of the clock than this is a mistake, and not waited for. So is a
start stamp this far from it, unless the clock is a simulated one, which a reset lets jump."""
_DEPTH = 200
"""Messages a subscription holds: bursts of lockstep simulation, and pauses of this process."""


@dataclass(frozen=True)
class RecorderParameters:
    """Parameters of the recorder node."""

    bags: str = parameter("bags", "folder of the episode bags; made if missing")
    robot_config: str = parameter("", "path of the robot description (YAML); empty: none")
    task_config: str = parameter("", "path of the task description (YAML); empty: none")
    topics: Sequence[str] = parameter(
        [DEFAULT_TOPICS],
        "'<topic> <package/msg/Name> [latched] [sensor[=<period in s>]]' each; 'default' stands "
        "for joint states, cameras of the robot description, and topics of this suite",
    )
    expected_period: float = parameter(
        0.0,
        "period of sensors without one of their own [s]; 0: the robot's control period",
        low=0.0,
        high=60.0,
    )
    stop_timeout: float = parameter(
        2.0, "longest wait for the last messages of an episode [s]", low=0.0, high=60.0
    )
    require_publishers: bool = parameter(
        True,
        "refuse to start while a sensor topic has no publisher, or while executed commands or a "
        "policy's decisions would not reach this node",
    )
    min_free_mb: int = parameter(
        200, "no episode begins or goes on with less free disk [MB]", low=0, high=2**30
    )
    queue_mb: int = parameter(
        256, "memory for messages waiting for the disk [MB]", low=1, high=2**16
    )
    sync: bool = parameter(True, "bring data to disk at every flush, against power loss")
    compression: str = parameter("none", "of the bag: none, lz4 or zstd")


class RecorderNode(Node):
    """Shell around :class:`rl100_policy.bags.recording.EpisodeRecorder`."""

    def __init__(self) -> None:
        """Read parameters, subscribe, offer the services, start the writer thread."""
        super().__init__("recorder")
        self._settings = p = read_parameters(self, RecorderParameters)
        robot = load_robot(p.robot_config) if p.robot_config else None
        task = load_task(p.task_config) if p.task_config else None
        self._provenance = _provenance(robot, task)
        period_s = p.expected_period or (robot.control_period if robot else _PERIOD_S)
        topics = all_topics(p.topics, robot, task)
        self._streams = [parse_stream(text, round(period_s * 1e9)) for text in topics]
        self._definitions = MessageDefinitions()
        self._latched: dict[str, tuple[bytes, int]] = {}
        self._topics: dict[str, RecordedTopic] = {}
        self._closed: Future = Future()
        self._begun_ns, self._start_ns = 0, 0
        self._next_state_s, self._published_reason = 0.0, ""
        self._changed = self.get_clock().now()
        self._recorder = _recorder(p, self._streams)
        self._state = self.create_publisher(EpisodeState, "episode/state", LATCHED)
        self._inputs = {stream.topic: self._subscribe(stream) for stream in self._streams}
        self._readers: dict[str, Sequence[str]] = {}
        """Nodes that a topic of this suite reaches, as its publisher knows them."""
        self.create_subscription(GateStatus, "gate/status", self._on_gate_status, LATCHED)
        self.create_subscription(PolicyStatus, "policy/status", self._on_policy_status, LATCHED)
        self.create_service(StartEpisode, "episode/start", self._on_start)
        waits = MutuallyExclusiveCallbackGroup()
        self.create_service(StopEpisode, "episode/stop", self._on_stop, callback_group=waits)
        self.create_timer(_TICK_S, self._tick, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._publish_state()

    def _subscribe(self, stream: Stream) -> RawSubscription:
        kind = message_class(stream.type_name)
        self._definitions.find(stream.type_name)  # refuse a type without definition now, not later
        return RawSubscription(
            self,
            stream.topic,
            kind,
            latched=stream.latched,
            depth=_DEPTH,
            on_message=partial(self._on_message, stream, has_header(kind)),
            on_lost=partial(self._on_lost, stream),
        )

    # Messages

    def _on_message(
        self, stream: Stream, stamped: bool, data: bytes, sequence: int, received_ns: int
    ) -> None:
        if stream.latched:
            self._latched[stream.topic] = (data, sequence)
        # What waited for this node when the episode was started was sent before it. Only a topic's
        # first messages can be that; a system clock that is set back makes later ones look so.
        is_of_before = stream.topic not in self._topics and 0 < received_ns < self._begun_ns
        if self._recorder.takes_messages and not is_of_before:
            self._record(stream, data, sequence, messages.peek_stamp_ns(data) if stamped else None)
        if stream.topic == FEEDBACK_TOPIC:
            self._on_feedback(data)

    def _record(self, stream: Stream, data: bytes, sequence: int, stamp_ns: int | None) -> None:
        topic = self._topics.get(stream.topic)
        if topic is None:  # first message of the episode: what its publishers offer is known now
            source, definition = (
                self._inputs[stream.topic],
                self._definitions.find(stream.type_name),
            )
            topic = RecordedTopic(source.name, definition, source.offered())
            self._topics[stream.topic] = topic
        raw = RawMessage(topic, data, self._episode_now_ns(), sequence % 2**32)
        self._recorder.record(stream, raw, stamp_ns)

    def _episode_now_ns(self) -> int:
        """ROS time, not before the episode began: a simulated clock may not have said so yet."""
        return max(self._start_ns, self.get_clock().now().nanoseconds)

    def _on_lost(self, stream: Stream, count: int) -> None:
        self._recorder.lose(stream, count)

    def _on_feedback(self, data: bytes) -> None:
        """Add a judgement to the running episode, or to the one it names."""
        try:
            message: Any = deserialize_message(data, HumanFeedback)
            judgement = Judgement(
                stamp_ns=messages.stamp_ns(message.header.stamp),
                kind=JudgementKind(message.kind),
                reward=message.reward,
                source=message.source,
            )
            self._recorder.judge(message.episode_id, judgement)
        except (BagError, RuntimeError, ValueError) as error:
            self.get_logger().error(f"feedback refused: {error}")
        self._publish_state()

    def _on_gate_status(self, status: GateStatus) -> None:
        self._readers[EXECUTED_TOPIC] = status.command_readers

    def _on_policy_status(self, status: PolicyStatus) -> None:
        self._readers[DECISION_TOPIC] = status.decision_readers

    # Start and stop

    def _on_start(
        self, request: StartEpisode.Request, response: StartEpisode.Response
    ) -> StartEpisode.Response:
        try:
            self._check_start(request)
            metadata = self._recorder.begin(self._metadata(request))
        except BagError as error:
            response.message = str(error)
            self.get_logger().error(f"episode not started: {error}")
            return response
        self._topics, self._closed = {}, Future()
        self._begun_ns, self._start_ns = time.time_ns(), metadata.start_ns
        for stream in self._streams:
            if stream.topic in self._latched:
                self._record(stream, *self._latched[stream.topic], None)
        response.success, response.episode_id = True, metadata.episode_id
        response.message = self._recorder.reason
        self._publish_state()
        return response

    def _check_start(self, request: StartEpisode.Request) -> None:
        """Refuse what would make a bad episode; raises BagError."""
        if len(request.tag_keys) != len(request.tag_values):
            raise BagError(
                f"{len(request.tag_keys)} tag keys but {len(request.tag_values)} tag values"
            )
        apart_s = (self._start_ns_of(request) - self.get_clock().now().nanoseconds) / 1e9
        is_simulated = self.get_parameter("use_sim_time").get_parameter_value().bool_value
        if abs(apart_s) > _APART_NS / 1e9 and not is_simulated:
            raise BagError(
                f"the start stamp is {apart_s:+.1f} s from this node's clock; synchronise the "
                "clocks of the machines, or leave the stamp zero, which is now"
            )
        bags, needed = self._settings.bags, self._settings.min_free_mb
        free = free_bytes(Path(bags)) // 10**6
        if free < needed:
            raise BagError(f"{free} MB are free in {bags}, {needed} MB are needed; free space")
        if not self._settings.require_publishers:
            return
        silent = [
            stream.topic
            for stream in self._streams
            if stream.is_sensor and not self._inputs[stream.topic].has_publisher()
        ]
        if silent:
            raise BagError(f"nobody publishes {', '.join(silent)}; start the driver")
        self._check_reached(EXECUTED_TOPIC, "gate/status", "command gate")
        if request.policy_version:
            self._check_reached(DECISION_TOPIC, "policy/status", "policy node")

    def _check_reached(self, topic: str, told_by: str, publisher: str) -> None:
        """Refuse to miss the first messages of a publisher that has not found this node yet."""
        me, readers = self.get_fully_qualified_name(), self._readers.get(topic, ())
        if topic in self._inputs and me not in readers:
            raise BagError(
                f"{topic} does not reach {me} yet ({told_by} names "
                f"{', '.join(readers) or 'nobody'}); start the {publisher}, try again in a "
                "second, or record other topics"
            )

    def _start_ns_of(self, request: StartEpisode.Request) -> int:
        return messages.stamp_ns(request.start_stamp) or self.get_clock().now().nanoseconds

    def _metadata(self, request: StartEpisode.Request) -> EpisodeMetadata:
        task = request.task or self._provenance["task"]
        return EpisodeMetadata(
            **self._provenance
            | {
                "episode_id": new_episode_id(task),
                "task": task,
                "operator": request.operator_name,
                "policy_version": request.policy_version,
                "start_ns": self._start_ns_of(request),
                "tags": dict(zip(request.tag_keys, request.tag_values, strict=True)),
            }
        )

    async def _on_stop(
        self, request: StopEpisode.Request, response: StopEpisode.Response
    ) -> StopEpisode.Response:
        if self._recorder.phase is not Phase.RECORDING:
            response.message = f"no episode is being recorded ({self._recorder.reason})"
            return response
        deadline_s = time.monotonic() + self._settings.stop_timeout
        end_ns = messages.stamp_ns(request.end_stamp)
        if end_ns > self._episode_now_ns() + _APART_NS:
            self.get_logger().warning(
                f"end stamp {end_ns} ns is far ahead of the clock; the episode is closed now"
            )
            end_ns = 0
        self._recorder.request_end(end_ns, deadline_s, discard=request.discard)
        self._publish_state()
        ended: Ended = await self._closed
        response.success, response.message = ended.folder is not None, ended.message
        response.episode_id, response.path = ended.metadata.episode_id, str(ended.folder or "")
        response.outcome = ended.metadata.outcome.code
        response.degraded = ended.metadata.degraded
        return response

    # The clock of the node

    def _tick(self) -> None:
        """Close what is due, publish the state, follow the publishers."""
        now_s = time.monotonic()
        ended = self._recorder.poll(now_s)
        if ended is not None:
            self._closed.set_result(ended)
            if ended.folder:
                self.get_logger().info(ended.message)
            else:  # on a line of its own: rclpy raises when one line changes its severity
                self.get_logger().error(ended.message)
        for source in self._inputs.values():
            source.adapt()
        if now_s >= self._next_state_s or self._recorder.reason != self._published_reason:
            self._publish_state()

    def _publish_state(self) -> None:
        recorder, session = self._recorder, self._recorder.session
        self._next_state_s = time.monotonic() + _STATE_PERIOD_S
        state = EpisodeState(
            state=int(recorder.phase),
            episodes_saved=recorder.saved,
            messages=session.messages,
            bytes=session.bytes,
            lost=session.lost,
            reason=recorder.reason,
        )
        if recorder.metadata is not None:
            state.episode_id = recorder.metadata.episode_id
            state.outcome = recorder.metadata.outcome.code
        if recorder.reason != self._published_reason:
            self._changed, self._published_reason = self.get_clock().now(), recorder.reason
        state.header.stamp = self._changed.to_msg()
        self._state.publish(state)

    def destroy_node(self) -> None:
        """Close a running episode, end the writer thread, then the node."""
        self._recorder.shutdown(_SHUTDOWN_S)
        super().destroy_node()


def _provenance(robot: RobotConfig | None, task: TaskConfig | None) -> dict[str, Any]:
    """What every episode of this process has in common."""
    return {
        "robot": robot.name if robot else "",
        "setup": robot.setup if robot else {},
        "task": task.name if task else "",
        "config_hash": config_hash(*(config for config in (robot, task) if config)),
        "software_version": software_version(),
    }


def _recorder(p: RecorderParameters, streams: Sequence[Stream]) -> EpisodeRecorder:
    compressions: dict[str, Compression] = {"none": "none", "lz4": "lz4", "zstd": "zstd"}
    if p.compression not in compressions:
        raise ConfigError(
            f"compression must be one of {list(compressions)}, got {p.compression!r}"
        )
    bags = Path(p.bags)
    journal = BagJournal(
        bags,
        capacity_bytes=p.queue_mb * 10**6,
        min_free_bytes=p.min_free_mb * 10**6,
        sync=p.sync,
    )
    return EpisodeRecorder(bags, streams, journal, compressions[p.compression])


def main(args: Sequence[str] | None = None) -> int:
    """Run the node."""
    return run_node(RecorderNode, args, coroutines=True)


if __name__ == "__main__":
    sys.exit(main())
