# SPDX-License-Identifier: Apache-2.0
"""Recorder node: every topic of the robot contract, raw, one MCAP bag per episode.

In: the topics of the ``topics`` parameter, as bytes; ``feedback`` HumanFeedback is also read for
the outcome. Subscriptions are made once, reliable unless a publisher is best-effort, 200 deep;
messages outside an episode are dropped, but the newest of each latched topic is kept and begins
every bag. Out: ``episode/state`` EpisodeState (LATCHED, on change and at 2 Hz). Services:
``episode/start`` StartEpisode, ``episode/stop`` StopEpisode.

Threads: one executor thread and one writer thread.

| callback group | entities | may wait |
|---|---|---|
| default, mutually exclusive | subscriptions, start service, 20 Hz timer (steady clock) | never |
| stop, mutually exclusive | stop service, a coroutine awaiting the closed bag | without a thread |
| (writer thread) | everything that touches the disk | for the disk |

Messages are stamped in the bag with the ROS time of their reception (``/clock`` in simulation), as
rosbag2 does; their header stamps are untouched. An episode ends when every sensor seen in it has
reached the end stamp, or ``stop_timeout`` after the request.

Failure policy: a message that is malformed is recorded as it is. A message that cannot be recorded
is counted and makes the episode degraded. A disk that is full or fails ends the episode: what
there
is stays recoverable, the state goes to IDLE with the reason, and the node goes on. A stopped node
closes its episode.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from rclpy.task import Future

from rl100_msgs.msg import EpisodeState, HumanFeedback
from rl100_msgs.srv import StartEpisode, StopEpisode
from rl100_policy.bags.definitions import MessageDefinitions
from rl100_policy.bags.identity import new_episode_id
from rl100_policy.bags.journal import (
    BagJournal,
    Closed,
    Event,
    Failed,
    NotRelabelled,
    RawMessage,
    Relabelled,
    free_bytes,
)
from rl100_policy.bags.judgement import Judgement, JudgementKind
from rl100_policy.bags.metadata import EpisodeMetadata, config_hash, software_version
from rl100_policy.bags.session import EpisodeSession, Stream, parse_stream
from rl100_policy.bags.storage import RecordedTopic
from rl100_policy.bags.writer import EpisodeWriter
from rl100_policy.core import messages
from rl100_policy.core.config import load_robot, load_task
from rl100_policy.core.errors import BagError, ConfigError
from rl100_policy.ros.parameters import parameter, read_parameters
from rl100_policy.ros.process import run_node
from rl100_policy.ros.qos import LATCHED
from rl100_policy.ros.raw_subscription import RawSubscription, has_header, message_class

FEEDBACK_TOPIC = "feedback"

DEFAULT_TOPICS = [
    "joint_states sensor_msgs/msg/JointState sensor",
    "camera/depth/image_rect_raw sensor_msgs/msg/Image sensor",
    "camera/depth/camera_info sensor_msgs/msg/CameraInfo latched",
    "camera/extrinsics geometry_msgs/msg/TransformStamped latched",
    "teleop/delta_twist_cmds geometry_msgs/msg/TwistStamped",
    "policy/action_chunk rl100_msgs/msg/ActionChunk",
    "policy/decision rl100_msgs/msg/DecisionRecord",
    "gate/command rl100_msgs/msg/GateCommand",
    f"{FEEDBACK_TOPIC} rl100_msgs/msg/HumanFeedback",
]

_TICK_S = 0.05
_STATE_PERIOD_S = 0.5
_SHUTDOWN_S = 10.0
_DEPTH = 200
"""Messages a subscription holds: bursts of lockstep simulation, and pauses of this process."""


@dataclass(frozen=True)
class RecorderParameters:
    """Parameters of the recorder node."""

    bags: str = parameter("bags", "folder of the episode bags; made if missing")
    robot_config: str = parameter("", "path of the robot description (YAML); empty: none")
    task_config: str = parameter("", "path of the task description (YAML); empty: none")
    topics: list[str] = parameter(
        DEFAULT_TOPICS, "'<topic> <package/msg/Name> [latched] [sensor[=<period in s>]]' each"
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
        True, "refuse to start while a sensor topic has no publisher"
    )
    min_free_mb: int = parameter(
        200, "no episode begins or goes on with less free disk [MB]", low=0, high=2**30
    )
    queue_mb: int = parameter(
        256, "memory for messages waiting for the disk [MB]", low=1, high=2**16
    )
    sync: bool = parameter(True, "bring data to disk at every flush, against power loss")
    compression: str = parameter("none", "of the bag: none, lz4 or zstd")


@dataclass
class _Running:
    """The episode being recorded, as the executor's thread sees it."""

    metadata: EpisodeMetadata
    session: EpisodeSession
    topics: dict[str, RecordedTopic] = field(default_factory=dict)
    deadline_s: float | None = None
    """Monotonic time at which closing no longer waits; None while nobody asked for the end."""
    discard: bool = False
    handed_over: bool = False
    """The writer has been told to close: nothing more is recorded."""
    closed: Future = field(default_factory=Future)
    """Gets the event that ended the episode."""


class RecorderNode(Node):
    """Shell around :class:`EpisodeSession` and :class:`BagJournal`."""

    def __init__(self) -> None:
        """Read parameters, subscribe, offer the services, start the writer thread."""
        super().__init__("recorder")
        self._parameters = p = read_parameters(self, RecorderParameters)
        if p.compression not in ("none", "lz4", "zstd"):
            raise ConfigError(f"compression must be none, lz4 or zstd, got {p.compression!r}")
        robot = load_robot(p.robot_config) if p.robot_config else None
        task = load_task(p.task_config) if p.task_config else None
        self._robot, self._task = (robot.name if robot else ""), (task.name if task else "")
        self._config_hash = config_hash(*(config for config in (robot, task) if config))
        period_s = p.expected_period or (robot.control_period if robot else 0.1)
        self._streams = [parse_stream(text, round(period_s * 1e9)) for text in p.topics]
        self._bags = Path(p.bags)
        self._definitions = MessageDefinitions()
        self._running: _Running | None = None
        self._last = EpisodeState()
        self._last_folder: Path | None = None
        self._saved = 0
        self._latched: dict[str, tuple[bytes, int]] = {}
        self._next_state_s = 0.0
        self._journal = BagJournal(
            self._bags,
            capacity_bytes=p.queue_mb * 10**6,
            min_free_bytes=p.min_free_mb * 10**6,
            sync=p.sync,
        )
        self._state = self.create_publisher(EpisodeState, "episode/state", LATCHED)
        self._subscriptions_by_topic = {
            stream.topic: self._subscribe(stream) for stream in self._streams
        }
        self.create_service(StartEpisode, "episode/start", self._on_start)
        waits = MutuallyExclusiveCallbackGroup()
        self.create_service(StopEpisode, "episode/stop", self._on_stop, callback_group=waits)
        self.create_timer(_TICK_S, self._tick, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._change("ready")

    def _subscribe(self, stream: Stream) -> RawSubscription:
        kind = message_class(stream.type_name)
        self._definitions.find(stream.type_name)
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

    def _on_message(self, stream: Stream, stamped: bool, data: bytes, sequence: int) -> None:
        if stream.latched:
            self._latched[stream.topic] = (data, sequence)
        if self._running is not None and not self._running.handed_over:
            self._record(self._running, stream, data, sequence, stamped=stamped)
        if stream.topic == FEEDBACK_TOPIC:
            self._on_feedback(data)

    def _record(
        self, running: _Running, stream: Stream, data: bytes, sequence: int, *, stamped: bool
    ) -> None:
        topic = running.topics.get(stream.topic)
        if topic is None:
            topic = running.topics[stream.topic] = self._described(stream)
        log_ns = self.get_clock().now().nanoseconds
        written = self._journal.write(RawMessage(topic, data, log_ns, sequence % 2**32))
        stamp_ns = messages.peek_stamp_ns(data) if stamped else None
        running.session.observe(stream.topic, stamp_ns, len(data), written=written)

    def _described(self, stream: Stream) -> RecordedTopic:
        subscription = self._subscriptions_by_topic[stream.topic]
        definition = self._definitions.find(stream.type_name)
        return RecordedTopic(subscription.name, definition, subscription.offered())

    def _on_lost(self, stream: Stream, count: int) -> None:
        if self._running is not None and not self._running.handed_over:
            self._running.session.lose(stream.topic, count)
            self.get_logger().warning(
                f"{stream.topic}: the middleware lost {count} messages", throttle_duration_sec=2.0
            )

    # Judgements

    def _on_feedback(self, data: bytes) -> None:
        """Add a judgement to the running episode, or to the closed one it names."""
        try:
            message: Any = deserialize_message(data, HumanFeedback)
            judgement = Judgement(
                stamp_ns=messages.stamp_ns(message.header.stamp),
                kind=JudgementKind(message.kind),
                reward=message.reward,
                source=message.source,
            )
        except (RuntimeError, ValueError) as error:
            self.get_logger().error(f"feedback refused: {error}")
            return
        running = self._running
        if running is not None and message.episode_id in ("", running.metadata.episode_id):
            self._judge_running(running, judgement)
        elif (
            message.episode_id
            and message.episode_id == self._last.episode_id
            and self._last_folder
        ):
            self._journal.relabel(self._last_folder, judgement)
        else:
            about = message.episode_id or "the running episode"
            self.get_logger().warning(f"feedback about {about} refused: it is not recorded here")

    def _judge_running(self, running: _Running, judgement: Judgement) -> None:
        running.session.judgements.append(judgement)
        running.metadata = running.metadata.with_changes(
            judgements=tuple(running.session.judgements)
        )
        if not running.handed_over:
            self._journal.annotate(running.metadata)
        self._change(f"judged {judgement.kind.name.lower()} by {judgement.source or 'unknown'}")

    # Start and stop

    def _on_start(
        self, request: StartEpisode.Request, response: StartEpisode.Response
    ) -> StartEpisode.Response:
        refusal = self._refusal(request)
        if refusal:
            response.message = refusal
            self.get_logger().error(f"episode not started: {refusal}")
            return response
        try:
            running = self._begin(request)
        except BagError as error:
            response.message = str(error)
            return response
        response.success = True
        response.episode_id = running.metadata.episode_id
        response.message = f"recording {len(self._streams)} topics into {self._bags}"
        self._change(response.message)
        return response

    def _refusal(self, request: StartEpisode.Request) -> str:
        """Why an episode cannot start now; empty if it can."""
        if self._running is not None:
            return f"episode {self._running.metadata.episode_id} is still being recorded; stop it first"
        if len(request.tag_keys) != len(request.tag_values):
            return f"{len(request.tag_keys)} tag keys but {len(request.tag_values)} tag values"
        free = free_bytes(self._bags)
        if free < self._parameters.min_free_mb * 10**6:
            return (
                f"{free // 10**6} MB are free in {self._bags}, at least "
                f"{self._parameters.min_free_mb} MB are needed; free space or lower min_free_mb"
            )
        silent = [
            stream.topic
            for stream in self._streams
            if stream.is_sensor and not self._subscriptions_by_topic[stream.topic].has_publisher()
        ]
        if silent and self._parameters.require_publishers:
            return f"nobody publishes {', '.join(silent)}; start the driver"
        return ""

    def _begin(self, request: StartEpisode.Request) -> _Running:
        task = request.task or self._task
        metadata = EpisodeMetadata(
            episode_id=new_episode_id(task),
            task=task,
            robot=self._robot,
            operator=request.operator_name,
            policy_version=request.policy_version,
            start_ns=self.get_clock().now().nanoseconds,
            config_hash=self._config_hash,
            software_version=software_version(),
            tags=dict(zip(request.tag_keys, request.tag_values, strict=True)),
        )
        compression: Any = self._parameters.compression
        writer = EpisodeWriter(self._bags, metadata, compression=compression)
        running = _Running(
            metadata.with_changes(episode_id=writer.episode_id), EpisodeSession(self._streams)
        )
        self._journal.start(writer)
        self._running = running
        for stream in self._streams:
            if stream.topic in self._latched:
                self._record(running, stream, *self._latched[stream.topic], stamped=False)
        return running

    async def _on_stop(
        self, request: StopEpisode.Request, response: StopEpisode.Response
    ) -> StopEpisode.Response:
        running = self._running
        if running is None:
            response.message = "no episode is being recorded"
            return response
        running.session.end_ns = messages.stamp_ns(request.end_stamp)
        running.discard = request.discard
        wait_s = self._parameters.stop_timeout if running.session.end_ns else 0.0
        running.deadline_s = time.monotonic() + wait_s
        self._change("waiting for the last messages")
        event = await running.closed
        response.episode_id = running.metadata.episode_id
        response.outcome = running.metadata.outcome.code
        response.degraded = running.metadata.degraded
        response.success = isinstance(event, Closed)
        response.path = str(event.path) if isinstance(event, Closed) else ""
        response.message = self._last.reason
        return response

    # The clock of the node

    def _tick(self) -> None:
        """Close what is due, take over what the writer did, publish the state."""
        for event in self._journal.poll():
            self._take(event)
        running = self._running
        if running is not None and running.deadline_s is not None and not running.handed_over:
            if running.session.reached_end or time.monotonic() >= running.deadline_s:
                self._hand_over(running, "stopped on request")
        for subscription in self._subscriptions_by_topic.values():
            subscription.adapt()
        if time.monotonic() >= self._next_state_s:
            self._publish_state()

    def _hand_over(self, running: _Running, reason: str) -> None:
        running.metadata = running.session.complete(running.metadata, reason)
        running.handed_over = True
        self._journal.close(running.metadata, discard=running.discard)

    def _take(self, event: Event) -> None:
        match event:
            case Closed(path):
                self._finish(event, path, self._summary(path))
            case Failed(reason):
                self.get_logger().error(f"recording ended: {reason}")
                self._finish(event, None, reason)
            case Relabelled(metadata):
                if metadata.episode_id == self._last.episode_id and self._running is None:
                    self._last.outcome = metadata.outcome.code
                self._change(f"{metadata.episode_id} is now {metadata.outcome.value}")
            case NotRelabelled(reason):
                self.get_logger().error(f"judgement not kept: {reason}")

    def _summary(self, path: Path) -> str:
        running = self._running
        assert running is not None  # only a running episode is closed
        bad = "; ".join(running.metadata.degraded_reasons)
        where = "discarded to" if running.discard else "saved to"
        return f"{where} {path}" + (f"; degraded: {bad}" if bad else "")

    def _finish(self, event: Event, folder: Path | None, reason: str) -> None:
        running, self._running = self._running, None
        if running is None:
            return
        self._last_folder = folder
        self._saved += folder is not None and not running.discard
        self._last = self._describe(running)
        self._last.state = EpisodeState.IDLE
        self._change(reason)
        running.closed.set_result(event)

    # State

    def _describe(self, running: _Running) -> EpisodeState:
        session = running.session
        state = EpisodeState(
            episode_id=running.metadata.episode_id,
            outcome=running.metadata.outcome.code,
            messages=session.messages,
            bytes=session.bytes,
            lost=session.lost,
        )
        closing = running.deadline_s is not None
        state.state = EpisodeState.CLOSING if closing else EpisodeState.RECORDING
        return state

    def _change(self, reason: str) -> None:
        self._last.reason = reason
        self._last.header.stamp = self.get_clock().now().to_msg()
        self._publish_state()

    def _publish_state(self) -> None:
        self._next_state_s = time.monotonic() + _STATE_PERIOD_S
        state = self._last if self._running is None else self._describe(self._running)
        state.header.stamp, state.reason = self._last.header.stamp, self._last.reason
        state.episodes_saved = self._saved
        self._state.publish(state)

    def destroy_node(self) -> None:
        """Close the episode, end the writer thread, then the node."""
        running = self._running
        if running is not None and not running.handed_over:
            self._hand_over(running, "the recorder was stopped")
        self._journal.shutdown(_SHUTDOWN_S)
        super().destroy_node()


def main(args: Sequence[str] | None = None) -> int:
    """Run the node."""
    return run_node(RecorderNode, args)


if __name__ == "__main__":
    sys.exit(main())
