# SPDX-License-Identifier: Apache-2.0
"""Publishing a recorded episode into the running graph, for whoever watches.

Raw bytes, with the quality of service they were recorded with. Nothing is published while somebody
else publishes a sensor, tells the time, or could move an arm by what is replayed: that is asked
before the first message and every second after it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSProfile,
    ReliabilityPolicy,
)
from rosgraph_msgs.msg import Clock

from rl100_policy.bags.definitions import MessageDefinitions
from rl100_policy.bags.playback import (
    TRAJECTORY,
    Permission,
    PlaybackMessage,
    PlaybackTopic,
    playback_messages,
    restamped,
)
from rl100_policy.bags.qos import INFINITE_NS, OfferedQos
from rl100_policy.core.errors import BagError, ConfigError, Rl100Error
from rl100_policy.ros.conversions import time_message
from rl100_policy.ros.raw_subscription import has_header, message_class

_DISCOVERY_S = 1.5
"""Time to find out who is there before it is believed that nobody is [s]."""
_SETTLING_S, _MATCHING_S = 0.5, 5.0
"""Time for readers to find the publishers, at least, and at most [s]."""
_UNKNOWN = "_NODE_NAME_UNKNOWN_"
_LOOK_PERIOD_S = 1.0
_CLOCK_PERIOD_S = 0.01
_ACKNOWLEDGED_S = 2.0
_DEPTH = 50
"""Messages a publisher keeps for readers that lag, where the recorded profile does not say."""


class ReplayError(Rl100Error):
    """An episode is not replayed, or no further, because of what else runs."""


@dataclass(frozen=True)
class ReplaySettings:
    """How an episode is replayed.

    Attributes:
        rate: Speed; 1 is as recorded.
        loop: Again and again.
        topics: These instead of what was sensed and decided.
        stamps_of_now: Header stamps are moved to the wall time of the replay, equal ones staying
            equal, and no clock is published.
    """

    rate: float = 1.0
    loop: bool = False
    topics: tuple[str, ...] = ()
    stamps_of_now: bool = False


@dataclass
class Replayed:
    """What has been published so far."""

    messages: dict[str, int] = field(default_factory=dict)
    """By topic."""
    late_s: float = 0.0
    """Most that a message came after it was due [s]."""


class EpisodeReplay:
    """One episode on its way into the graph. Used by one thread; publishing needs no executor."""

    def __init__(
        self, node: Node, folder: Path, topics: Sequence[PlaybackTopic], settings: ReplaySettings
    ) -> None:
        """Look who is there, then offer the topics.

        Args:
            node: Whose publishers they are.
            folder: The closed episode.
            topics: What is to be published.
            settings: How.

        Raises:
            ReplayError: If the graph is not one to replay into, or no topic is left.
        """
        self._node, self._folder, self._settings = node, folder, settings
        self._me = (node.get_name(), node.get_namespace())
        self.left_out: dict[str, str] = {}
        """Topics that are not published, and why not, for people."""
        usable = [each for each in topics if not self._is_unknown(each)]
        time.sleep(_DISCOVERY_S)
        self._sensors = [each.name for each in usable if each.permission is Permission.SENSOR]
        self._refuse_others()
        self._publishers = self._offer(usable)
        if not self._publishers:
            raise ReplayError(
                f"no topic of {folder} is left to be replayed: {self.left_out or 'there is none'}"
            )
        self._clock = (
            None if settings.stamps_of_now else node.create_publisher(Clock, "/clock", 10)
        )
        self._stamped = {
            each.name
            for each in usable
            if has_header(message_class(each.recorded.definition.name))
        }
        self._next_look_s, self._told_ns = 0.0, -1
        self.done = Replayed()

    def run(self) -> Replayed:
        """Publish everything at its time; returns what was, at the end.

        Raises:
            ReplayError: If somebody else appears whom this must not disturb.
            BagError: If the bag is damaged.
        """
        self._wait_for_readers()
        self._look_around(time.monotonic())
        self._play()
        while self._settings.loop:
            self._play()
        for publisher in self._publishers.values():
            publisher.wait_for_all_acked(Duration(seconds=_ACKNOWLEDGED_S))
        return self.done

    # Before

    def _wait_for_readers(self) -> None:
        """Wait until whoever is known to listen is reached; who comes later misses what was."""
        time.sleep(_SETTLING_S)
        deadline_s = time.monotonic() + _MATCHING_S
        while time.monotonic() < deadline_s and any(
            publisher.get_subscription_count() < self._node.count_subscribers(name)
            for name, publisher in self._publishers.items()
        ):
            time.sleep(_CLOCK_PERIOD_S)

    def _is_unknown(self, topic: PlaybackTopic) -> bool:
        """Whether messages of this topic cannot be what nodes of this installation expect."""
        definition = topic.recorded.definition
        try:
            message_class(definition.name)
            installed = MessageDefinitions().find(definition.name)
        except (ConfigError, BagError) as error:
            self.left_out[topic.name] = str(error)
            return True
        if definition.type_hash not in ("", installed.type_hash):
            self.left_out[topic.name] = f"recorded with another definition of {definition.name}"
            return True
        return False

    def _offer(self, topics: Sequence[PlaybackTopic]) -> Mapping[str, Publisher]:
        found = {}
        for each in topics:
            others = self._others(each.name)
            if others:  # of a sensor that was refused already
                self.left_out[each.name] = f"{', '.join(others)} publishes it"
                continue
            kind = message_class(each.recorded.definition.name)
            found[each.name] = self._node.create_publisher(
                kind, each.name, profile_of(each.recorded.qos)
            )
        return found

    def _others(self, topic: str) -> list[str]:
        """Nodes other than this one that publish a topic."""
        found = self._node.get_publishers_info_by_topic(topic)
        names = {(each.node_name, each.node_namespace) for each in found} - {self._me}
        return sorted(
            "a node of unknown name" if name == _UNKNOWN else f"{namespace.rstrip('/')}/{name}"
            for name, namespace in names
        )

    def _refuse_others(self) -> None:
        """Raise ReplayError if this would disturb somebody, or could move an arm."""
        for topic in self._sensors:
            if others := self._others(topic):
                raise ReplayError(
                    f"{', '.join(others)} publishes {topic}: a driver or simulated robot runs. "
                    "Two robots on one topic would be taken for one; stop it, or use another "
                    "ROS_DOMAIN_ID"
                )
        if not self._settings.stamps_of_now and (others := self._others("/clock")):
            raise ReplayError(
                f"{', '.join(others)} publishes /clock, and the replay has a time of its own; "
                "stop it, or replay with --now"
            )
        for topic, types in self._node.get_topic_names_and_types():
            if TRAJECTORY in types and self._others(topic) and self._node.count_subscribers(topic):
                raise ReplayError(
                    f"an arm listens on {topic} to {', '.join(self._others(topic))}, which could "
                    "answer the recorded sensors with commands; stop one of the two"
                )

    # While it runs

    def _play(self) -> None:
        begin_s, begin_ns = time.monotonic(), time.time_ns()
        first_ns: int | None = None
        for message in playback_messages(self._folder, self._publishers.keys()):
            first_ns = message.log_ns if first_ns is None else first_ns
            since_s = (message.log_ns - first_ns) * 1e-9
            self._wait_until(begin_s + since_s / self._settings.rate, message.log_ns)
            self._publish(message, partial(self._moved, begin_ns=begin_ns, first_ns=first_ns))

    def _wait_until(self, due_s: float, log_ns: int) -> None:
        """Wait for the time of a message, telling the time that passes in the recording."""
        while (now_s := time.monotonic()) < due_s:
            self._look_around(now_s)
            self._tell_time(log_ns - round((due_s - now_s) * self._settings.rate * 1e9))
            time.sleep(min(_CLOCK_PERIOD_S, due_s - now_s))
        self.done.late_s = max(self.done.late_s, now_s - due_s)
        self._look_around(now_s)
        self._tell_time(log_ns)

    def _look_around(self, now_s: float) -> None:
        if now_s >= self._next_look_s:
            self._next_look_s = now_s + _LOOK_PERIOD_S
            self._refuse_others()

    def _tell_time(self, log_ns: int) -> None:
        if self._clock is None or log_ns == self._told_ns:
            return
        self._told_ns = log_ns
        if self._clock.get_subscription_count():  # of nodes with use_sim_time
            self._clock.publish(Clock(clock=time_message(log_ns)))

    def _publish(self, message: PlaybackMessage, moved: Callable[[int], int]) -> None:
        data = message.data
        if self._settings.stamps_of_now and message.topic in self._stamped:
            data = restamped(data, moved)
        self._publishers[message.topic].publish(data)
        counts = self.done.messages
        counts[message.topic] = counts.get(message.topic, 0) + 1

    def _moved(self, stamp_ns: int, *, begin_ns: int, first_ns: int) -> int:
        """Wall time of a stamp; one of before the episode stays as long before it."""
        after_ns = stamp_ns - first_ns
        return begin_ns + (round(after_ns / self._settings.rate) if after_ns > 0 else after_ns)


def profile_of(offered: Sequence[OfferedQos]) -> QoSProfile:
    """The profile to publish with: what the recorded publishers all offered, at least.

    Args:
        offered: As recorded; empty: unknown, which is taken for reliable and volatile.
    """
    profiles = offered or (OfferedQos(),)
    first = profiles[0]
    reliable = all(each.reliability != "best_effort" for each in profiles)
    latched = all(each.durability == "transient_local" for each in profiles)
    known = max(each.depth for each in profiles)
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=known or (1 if latched else _DEPTH),
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=(DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE),
        deadline=_duration(first.deadline_ns),
        lifespan=_duration(first.lifespan_ns),
    )


def _duration(duration_ns: int) -> Duration:
    """A duration of a profile; zero, which is none, for what rmw calls infinite."""
    return Duration(nanoseconds=0 if duration_ns >= INFINITE_NS else duration_ns)
