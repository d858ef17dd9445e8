# SPDX-License-Identifier: Apache-2.0
"""The topics that a recorder listens to: raw messages, what is known of each, the latched ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from rclpy.node import Node
from rclpy.serialization import deserialize_message

from rl100_policy.bags.definitions import MessageDefinitions
from rl100_policy.bags.health import TopicFacts, TopicWatch
from rl100_policy.bags.session import Stream
from rl100_policy.bags.storage import RecordedTopic
from rl100_policy.core import messages
from rl100_policy.ros.raw_subscription import RawSubscription, has_header, message_class

OnMessage = Callable[[Stream, bytes, int, int | None, int], None]
"""Gets stream, CDR, the publisher's sequence number or 0, the header stamp or None [ns], and the
wall time of reception or 0 [ns]."""

_DEPTH, _DEPTH_LARGE = 2000, 200
"""Messages a subscription holds: bursts of lockstep simulation, and pauses of this process. On a
busy machine these were half a second: too long for 200 joint states at 500 Hz. Of large ones fewer
come and fewer can be held; what does not fit is replaced, which no middleware counts as lost."""
_LARGE = frozenset({"sensor_msgs/msg/Image", "sensor_msgs/msg/PointCloud2"})


class RecordedTopics:
    """Subscriptions of a recorder. Used from the executor's thread only."""

    def __init__(
        self,
        node: Node,
        streams: Sequence[Stream],
        on_message: OnMessage,
        on_lost: Callable[[Stream, int], None],
    ) -> None:
        """Subscribe to every stream.

        Raises:
            BagError: If the definition of a type is not found: now, not at its first message.
            ConfigError: If the Python class of a type is not installed.
        """
        self._node, self._on_message = node, on_message
        self._definitions = MessageDefinitions()
        self._streams = {stream.topic: stream for stream in streams}
        self._watches = {stream.topic: TopicWatch(stream) for stream in streams}
        self._latched: dict[str, tuple[bytes, int]] = {}
        self._newest: dict[str, bytes] = {}
        """Of what no episode begins without."""
        self._described: dict[str, RecordedTopic] = {}
        self._inputs = {
            stream.topic: self._subscribe(stream, partial(on_lost, stream)) for stream in streams
        }

    def __contains__(self, topic: str) -> bool:
        """Whether a topic, named as in its stream, is recorded."""
        return topic in self._streams

    @property
    def watches(self) -> list[TopicWatch]:
        """How every topic is doing."""
        return list(self._watches.values())

    def _subscribe(self, stream: Stream, on_lost: Callable[[int], None]) -> RawSubscription:
        kind = message_class(stream.type_name)
        self._definitions.find(stream.type_name)
        return RawSubscription(
            self._node,
            stream.topic,
            kind,
            latched=stream.latched,
            depth=_DEPTH_LARGE if stream.type_name in _LARGE else _DEPTH,
            on_message=partial(self._take, stream, has_header(kind)),
            on_lost=on_lost,
        )

    def _take(
        self, stream: Stream, stamped: bool, data: bytes, sequence: int, received_ns: int
    ) -> None:
        watch = self._watches[stream.topic]
        watch.arrive(time.monotonic(), len(data))
        if stream.frame:
            watch.frame_id = messages.peek_frame_id(data) or ""
        if stream.latched:
            self._latched[stream.topic] = (data, sequence)
        if stream.is_required:
            self._newest[stream.topic] = data
        watch.stamp_ns = stamp_ns = messages.peek_stamp_ns(data) if stamped else None
        self._on_message(stream, data, sequence, stamp_ns, received_ns)

    def latched(self) -> Iterator[tuple[Stream, bytes, int]]:
        """The newest message of each latched topic that has one: stream, CDR, sequence number."""
        for topic, (data, sequence) in self._latched.items():
            yield self._streams[topic], data, sequence

    def is_elsewhere(self, topic: str) -> bool:
        """Whether the newest message of a topic is in another frame than the one expected."""
        return self._watches[topic].is_elsewhere

    def newest(self, topic: str) -> Any:
        """Newest message of a topic that no episode begins without; None before the first."""
        data = self._newest.get(topic)
        kind = message_class(self._streams[topic].type_name)
        return None if data is None else deserialize_message(data, kind)

    def begin_episode(self) -> None:
        """Describe every topic anew at its first message."""
        self._described = {}

    def has_begun(self, topic: str) -> bool:
        """Whether a message of a topic came in this episode."""
        return topic in self._described

    def described(self, topic: str) -> RecordedTopic:
        """Description of a topic: its publishers' offers at the first message of an episode."""
        found = self._described.get(topic)
        if found is None:
            source = self._inputs[topic]
            definition = self._definitions.find(self._streams[topic].type_name)
            found = self._described[topic] = RecordedTopic(
                source.name, definition, source.offered()
            )
        return found

    def expected_periods_s(self) -> dict[str, float]:
        """Expected time between the header stamps of each sensor, by its resolved name [s]."""
        return {
            self._inputs[topic].name: stream.period_ns * 1e-9
            for topic, stream in self._streams.items()
            if stream.period_ns
        }

    def adapt(self) -> None:
        """Follow publishers whose quality of service does not match."""
        for source in self._inputs.values():
            source.adapt()

    def facts(self) -> list[TopicFacts]:
        """What is known of every topic, in the order of the streams."""
        found = []
        for topic, source in self._inputs.items():
            right, others = source.publishers()
            found.append(TopicFacts(self._watches[topic], right, others, source.is_incompatible))
        return found
