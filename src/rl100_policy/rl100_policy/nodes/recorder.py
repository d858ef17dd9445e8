# SPDX-License-Identifier: Apache-2.0
"""Recorder node: every topic of the robot contract, raw, one MCAP bag per episode.

In: the topics of the ``topics`` parameter, as bytes: joint states and cameras of the robot
description, and what the nodes of this suite decide and do, unless told otherwise. ``feedback``
HumanFeedback is also read for the outcome, ``gate/status`` GateStatus and ``policy/status``
PolicyStatus (LATCHED) for whether executed commands and decisions reach this node: no episode
begins before the commands do, none of a policy before its decisions do. Subscriptions are
made once, reliable unless a publisher is best-effort, 2000 deep, of images and point clouds 200;
messages outside an episode are counted and dropped, but the newest of each latched topic is kept
and begins every bag. Out: ``episode/state`` EpisodeState (LATCHED, on change and at 2 Hz),
``/diagnostics`` DiagnosticArray at 1 Hz. Services: ``episode/check`` CheckRecording,
``episode/start`` StartEpisode, ``episode/stop`` StopEpisode, ``episode/discard`` DiscardEpisode.

Threads: one executor thread, one that writes the running episode, one that waits for the disk, and
one that changes closed episodes.

| thread | serves | may wait |
|---|---|---|
| executor | subscriptions, services, 20 Hz timer | start: for the disk |
| (writer thread) | messages, flushes, end of the running episode | at the end: for the disk |
| (disk thread) | what was flushed, to disk | for the disk |
| (late-changes thread) | copies of closed bags with further judgements | for the disk |

The start service looks at the free space and makes folder and head of the bag; a second thread for
that would buy nothing, since no episode is running. Stop and discard answer when the bag is where
it should be, and nobody waits for that. The timer's clock is steady.

An episode begins only if nothing is missing, and the answer lists all that is: a sensor or
camera's info without publisher, of another type, in another frame, silent or too slow
(``require_data``), commands and decisions that do not reach this node, space for an episode as
long as is expected at the present rates.

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

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.clock import Clock, ClockType
from rclpy.serialization import deserialize_message
from rclpy.task import Future

from rl100_msgs.msg import EpisodeState, GateStatus, HumanFeedback, PolicyStatus, TopicHealth
from rl100_msgs.srv import CheckRecording, DiscardEpisode, StartEpisode, StopEpisode
from rl100_policy.bags.health import (
    disk_problem,
    missing,
    predicted_bytes,
)
from rl100_policy.bags.identity import new_episode_id
from rl100_policy.bags.journal import BagJournal, RawMessage, free_bytes
from rl100_policy.bags.judgement import Judgement, JudgementKind
from rl100_policy.bags.metadata import EpisodeMetadata, config_hash, software_version
from rl100_policy.bags.recording import Ended, EpisodeRecorder, Phase
from rl100_policy.bags.session import STREAM_FORM, Stream, parse_stream
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
from rl100_policy.core.errors import BagError, ConfigError, ObservationError
from rl100_policy.core.usable import content_checks
from rl100_policy.ros.diagnostics import diagnostic_status
from rl100_policy.ros.late_answers import create_late_service
from rl100_policy.ros.managed import ManagedNode
from rl100_policy.ros.parameters import parameter
from rl100_policy.ros.process import run_node
from rl100_policy.ros.qos import LATCHED
from rl100_policy.ros.recorded_topics import RecordedTopics
from rl100_policy.ros.topic_health import topic_health, topic_status

_TICK_S = 0.05
_STATE_PERIOD_S = 0.5
_SHUTDOWN_S = 10.0
_PERIOD_S = 0.1
"""Period of sensors when neither a parameter nor a robot description gives one [s]."""
_APART_NS = 10_000_000_000
"""An end stamp farther ahead of the clock than this is a mistake, and not waited for. So is a
start stamp this far from it, unless the clock is a simulated one, which a reset lets jump."""
_EPISODE_S = 60.0
"""Length of an episode where nothing says how long it may be [s]."""


@dataclass(frozen=True)
class RecorderParameters:
    """Parameters of the recorder node."""

    bags: str = parameter("bags", "folder of the episode bags; made if missing")
    robot_config: str = parameter("", "path of the robot description (YAML); empty: none")
    task_config: str = parameter("", "path of the task description (YAML); empty: none")
    topics: Sequence[str] = parameter(
        [DEFAULT_TOPICS],
        f"{STREAM_FORM} each; 'default' stands for joint states, cameras of the robot "
        "description, and topics of this suite",
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
    require_data: bool = parameter(
        True,
        "refuse to start while a sensor is silent or comes at less than half its rate; false "
        "where the world stands still between episodes",
    )
    expected_episode: float = parameter(
        0.0,
        "longest episode that is expected, for the disk space it takes [s]; 0: the time limit of "
        "the task, or a minute",
        low=0.0,
        high=86400.0,
    )
    min_free_mb: int = parameter(
        200, "no episode begins or goes on with less free disk [MB]", low=0, high=2**30
    )
    queue_mb: int = parameter(
        256, "memory for messages waiting for the disk [MB]", low=1, high=2**16
    )
    sync: bool = parameter(True, "bring data to disk at every flush, against power loss")
    compression: str = parameter("none", "of the bag: none, lz4 or zstd")


class RecorderNode(ManagedNode[RecorderParameters]):
    """Shell around :class:`rl100_policy.bags.recording.EpisodeRecorder`."""

    def __init__(self) -> None:
        """Read the parameters."""
        super().__init__("recorder", RecorderParameters)

    def set_up(self) -> None:
        """Subscribe, offer the services, start the writer thread."""
        p = self.parameters
        robot = load_robot(p.robot_config) if p.robot_config else None
        task = load_task(p.task_config) if p.task_config else None
        self._provenance = _provenance(robot, task)
        period_s = p.expected_period or (robot.control_period if robot else _PERIOD_S)
        topics = all_topics(p.topics, robot, task)
        streams = [parse_stream(text, round(period_s * 1e9)) for text in topics]
        self._expected_s = p.expected_episode or (task.time_limit if task else _EPISODE_S)
        self._closed: Future = Future()
        self._moving: dict[str, Future] = {}
        """Episodes on their way to the trash or back."""
        self._begun_ns, self._start_ns = 0, 0
        self._next_state_s, self._published_reason = 0.0, ""
        self._changed = self.get_clock().now()
        self._recorder = _recorder(p, streams)
        self.at_end(partial(self._recorder.shutdown, _SHUTDOWN_S))
        self._contents = content_checks(robot, task) if robot else {}
        """By topic, what is wrong with a message."""
        self._state = self.create_publisher(EpisodeState, "episode/state", LATCHED)
        self._inputs = RecordedTopics(self, streams, self._on_message, self._recorder.lose)
        self._readers: dict[str, Sequence[str]] = {}
        """Nodes that a topic of this suite reaches, as its publisher knows them."""
        self.create_subscription(GateStatus, "gate/status", self._on_gate_status, LATCHED)
        self.create_subscription(PolicyStatus, "policy/status", self._on_policy_status, LATCHED)
        self.create_service(CheckRecording, "episode/check", self._on_check)
        self.create_service(StartEpisode, "episode/start", self._on_start)
        create_late_service(self, StopEpisode, "episode/stop", self._on_stop)
        create_late_service(self, DiscardEpisode, "episode/discard", self._on_discard)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1.0, self._report, clock=steady)
        self.create_timer(_TICK_S, self._tick, clock=steady)
        self._publish_state()

    # Messages

    def _on_message(
        self, stream: Stream, data: bytes, sequence: int, stamp_ns: int | None, received_ns: int
    ) -> None:
        # What waited for this node when the episode was started was sent before it. Only a topic's
        # first messages can be that; a system clock that is set back makes later ones look so.
        first = not self._inputs.has_begun(stream.topic)
        is_of_before = first and 0 < received_ns < self._begun_ns
        if self._recorder.takes_messages and not is_of_before:
            self._record(stream, data, sequence, stamp_ns)
        if stream.topic == FEEDBACK_TOPIC:
            self._on_feedback(data)

    def _record(self, stream: Stream, data: bytes, sequence: int, stamp_ns: int | None) -> None:
        topic = self._inputs.described(stream.topic)
        raw = RawMessage(topic, data, self._episode_now_ns(), sequence % 2**32)
        self._recorder.record(stream, raw, stamp_ns)
        if self._inputs.is_elsewhere(stream.topic):
            self._recorder.session.misplace(stream.topic)
        if stream.topic == EXECUTED_TOPIC:
            self._recorder.session.commanders.observe_message(data)

    def _episode_now_ns(self) -> int:
        """ROS time, not before the episode began: a simulated clock may not have said so yet."""
        return max(self._start_ns, self.get_clock().now().nanoseconds)

    def _on_feedback(self, data: bytes) -> None:
        """Add a judgement to the running episode, or to the one it names."""
        try:
            message: Any = deserialize_message(data, HumanFeedback)
            judgement = Judgement(
                stamp_ns=messages.stamp_ns(message.header.stamp),
                kind=JudgementKind(message.kind),
                reward=message.reward,
                reaction_delay_s=message.reaction_delay,
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
        self._closed = Future()
        self._inputs.begin_episode()
        self._begun_ns, self._start_ns = time.time_ns(), metadata.start_ns
        for stream, data, sequence in self._inputs.latched():
            self._record(stream, data, sequence, None)
        response.success, response.episode_id = True, metadata.episode_id
        response.message = self._recorder.reason
        self._publish_state()
        return response

    def _on_check(
        self, request: CheckRecording.Request, response: CheckRecording.Response
    ) -> CheckRecording.Response:
        response.problems = self._missing(request.policy_version)
        response.success = not response.problems
        response.message = "; ".join(response.problems) or "nothing is missing"
        return response

    def _missing(self, policy_version: str) -> list[str]:
        """Everything that keeps an episode from beginning, one line each."""
        p, now_s = self.parameters, time.monotonic()
        try:
            free, floor = free_bytes(Path(p.bags)), p.min_free_mb * 10**6
        except BagError as error:
            return [str(error)]
        predicted = predicted_bytes(self._inputs.watches, now_s, self._expected_s)
        found = [disk_problem(p.bags, free, floor, predicted)]
        if p.require_publishers:
            ros_ns = self.get_clock().now().nanoseconds
            facts = self._inputs.facts()
            found += missing(facts, now_s, ros_ns=ros_ns, needs_data=p.require_data)
            found += self._unusable()
            found.append(self._unreached(EXECUTED_TOPIC, "gate/status", "command gate"))
            if policy_version:
                found.append(self._unreached(DECISION_TOPIC, "policy/status", "policy node"))
        return [each for each in found if each]

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
        problems = self._missing(request.policy_version)
        if problems:
            raise BagError("; ".join(problems))

    def _unusable(self) -> list[str]:
        """What the newest messages of joints and camera say that a learner could not use."""
        found = []
        for topic, check in self._contents.items():
            if topic not in self._inputs or self.count_publishers(topic) > 1:
                continue  # of several drivers on one topic another's may be the newest
            message = self._inputs.newest(topic)
            try:
                problem = "" if message is None else check(message)
            except ObservationError as error:
                problem = str(error)
            found += [f"{topic}: {problem}"] if problem else []
        return found

    def _unreached(self, topic: str, told_by: str, publisher: str) -> str:
        """Why the first messages of a publisher would be missed; empty if they would not."""
        me, readers = self.get_fully_qualified_name(), self._readers.get(topic, ())
        if topic not in self._inputs or me in readers:
            return ""
        return (
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
                "expected_periods_s": self._inputs.expected_periods_s(),
                "tags": dict(zip(request.tag_keys, request.tag_values, strict=True)),
            }
        )

    def _on_stop(
        self, request: StopEpisode.Request, response: StopEpisode.Response
    ) -> StopEpisode.Response | Future:
        if self._recorder.phase is not Phase.RECORDING:
            response.message = f"no episode is being recorded ({self._recorder.reason})"
            return response
        deadline_s = time.monotonic() + self.parameters.stop_timeout
        end_ns = messages.stamp_ns(request.end_stamp)
        if end_ns > self._episode_now_ns() + _APART_NS:
            self.get_logger().warning(
                f"end stamp {end_ns} ns is far ahead of the clock; the episode is closed now"
            )
            end_ns = 0
        self._recorder.request_end(end_ns, deadline_s, discard=request.discard)
        self._publish_state()
        answer = Future()
        self._closed.add_done_callback(
            lambda closed: answer.set_result(_stopped(response, closed.result()))
        )
        return answer

    def _on_discard(
        self, request: DiscardEpisode.Request, response: DiscardEpisode.Response
    ) -> DiscardEpisode.Response | Future:
        try:
            about = self._recorder.discard(request.episode_id, restore=request.restore)
        except BagError as error:
            response.message = str(error)
            return response
        self._moving[about] = moved = Future()
        answer = Future()
        moved.add_done_callback(
            lambda done: answer.set_result(self._discarded(response, about, done.result()))
        )
        return answer

    def _discarded(
        self, response: DiscardEpisode.Response, about: str, problem: str
    ) -> DiscardEpisode.Response:
        response.success, response.episode_id = not problem, about
        response.path = str(self._recorder.folder_of(about) or "")
        response.message = problem or self._recorder.reason
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
        for about, problem in self._recorder.moved():
            if waiting := self._moving.pop(about, None):
                waiting.set_result(problem)
        self._inputs.adapt()
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
        state.topics = self._topics_health()
        state.free_bytes = self._free_bytes()
        state.troubles = [f"{each.topic}: {each.trouble}" for each in state.topics if each.trouble]
        if recorder.metadata is not None:
            state.episode_id = recorder.metadata.episode_id
            state.outcome = recorder.metadata.outcome.code
        if recorder.reason != self._published_reason:
            self._changed, self._published_reason = self.get_clock().now(), recorder.reason
        state.header.stamp = self._changed.to_msg()
        self._state.publish(state)

    def _free_bytes(self) -> int:
        """Free space [B]; 0 if the disk cannot be asked, which the answer to a start explains."""
        try:
            return free_bytes(Path(self.parameters.bags))
        except BagError:
            return 0

    def _topics_health(self) -> list[TopicHealth]:
        session, now_s = self._recorder.session, time.monotonic()
        recording = self._recorder.phase is Phase.RECORDING
        return [
            topic_health(each, session, now_s, recording=recording)
            for each in self._inputs.facts()
        ]

    def _report(self) -> None:
        """Tell ``/diagnostics`` how the recorder and its topics are doing."""
        recorder, free_mb = self._recorder, self._free_bytes() // 10**6
        health = self._topics_health()
        troubled = any(each.trouble for each in health)
        short = free_mb < self.parameters.min_free_mb
        status = diagnostic_status(
            "rl100: recorder",
            self.parameters.bags,
            "the disk is nearly full" if short else recorder.reason,
            {
                "phase": recorder.phase.name.lower(),
                "episodes saved": recorder.saved,
                "messages": recorder.session.messages,
                "lost": recorder.session.lost,
                "waiting for the disk [B]": recorder.waiting_bytes,
                "longest wait for the disk [s]": f"{recorder.longest_wait_s:.3f}",
                "free [MB]": free_mb,
            },
            level=(
                DiagnosticStatus.ERROR
                if short
                else DiagnosticStatus.WARN
                if troubled
                else DiagnosticStatus.OK
            ),
        )
        topics = [topic_status(each) for each in health]
        self.diagnose([status, *topics])

    def pause(self) -> None:
        """Refused while an episode is recorded."""
        if self._recorder.takes_messages:
            raise BagError("an episode is being recorded: stop it first (episode/stop)")


def _stopped(response: StopEpisode.Response, ended: Ended) -> StopEpisode.Response:
    response.success, response.message = ended.folder is not None, ended.message
    response.episode_id, response.path = ended.metadata.episode_id, str(ended.folder or "")
    response.outcome = ended.metadata.outcome.code
    response.degraded = ended.metadata.degraded
    return response


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
    return run_node(RecorderNode, args, events=False)


if __name__ == "__main__":
    sys.exit(main())
