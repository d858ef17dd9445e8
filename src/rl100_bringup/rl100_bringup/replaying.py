# SPDX-License-Identifier: Apache-2.0
"""Publishing a recorded episode into the running graph, for whoever watches.

Raw bytes, with the quality of service they were recorded with. Nothing is published while somebody
else publishes a sensor, tells the time, or could move an arm by it (``ReplayGuard``).
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
from rosgraph_msgs.msg import Clock

from rl100_bringup.replay_guard import ReplayError, ReplayGuard
from rl100_policy.bags.definitions import MessageDefinitions
from rl100_policy.bags.playback import (
    Permission,
    PlaybackMessage,
    PlaybackTopic,
    playback_messages,
    restamped,
)
from rl100_policy.core.errors import BagError, ConfigError
from rl100_policy.ros.conversions import time_message
from rl100_policy.ros.raw_subscription import has_header, message_class
from rl100_policy.ros.republishing import profile_of

_DISCOVERY_S = 5.0
"""Time to find out who is there before it is believed that nobody is [s]. Processes announce
themselves every 3 s; where first announcements are not heard, a graph of this suite was seen to be
known 3.5 s after a newcomer had started."""
_SETTLING_S, _MATCHING_S = 0.5, 5.0
"""Time for readers to find the publishers, at least, and at most [s]."""
_CLOCK_PERIOD_S = 0.01
_ACKNOWLEDGED_S = 2.0


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
        self.left_out: dict[str, str] = {}
        """Topics that are not published, and why not, for people."""
        usable = [each for each in topics if not self._is_unknown(each)]
        time.sleep(_DISCOVERY_S)
        sensors = [each.name for each in usable if each.permission is Permission.SENSOR]
        self._guard = ReplayGuard(node, sensors, tells_time=not settings.stamps_of_now)
        self._guard.refuse_others()
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
        self._told_ns = -1
        self.done = Replayed()

    def run(self) -> Replayed:
        """Publish everything at its time; returns what was, at the end.

        Raises:
            ReplayError: If somebody else appears whom this must not disturb.
            BagError: If the bag is damaged.
        """
        self._wait_for_readers()
        self._play()
        while self._settings.loop:
            self._play()
        for publisher in self._publishers.values():
            publisher.wait_for_all_acked(Duration(seconds=_ACKNOWLEDGED_S))
        return self.done

    # Before

    def _wait_for_readers(self) -> None:
        """Wait for somebody who listens, and until all who are known to do are reached."""
        time.sleep(_SETTLING_S)
        deadline_s = time.monotonic() + _MATCHING_S
        while time.monotonic() < deadline_s:
            reached = {
                name: publisher.get_subscription_count()
                for name, publisher in self._publishers.items()
            }
            if any(reached.values()) and all(
                count >= self._node.count_subscribers(name) for name, count in reached.items()
            ):
                return
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
            others = self._guard.others(each.name)
            if others:  # of a sensor that was refused already
                self.left_out[each.name] = f"{', '.join(others)} publishes it"
                continue
            kind = message_class(each.recorded.definition.name)
            found[each.name] = self._node.create_publisher(
                kind, each.name, profile_of(each.recorded.qos)
            )
        return found

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
            self._guard.look_around(now_s)
            self._tell_time(log_ns - round((due_s - now_s) * self._settings.rate * 1e9))
            time.sleep(min(_CLOCK_PERIOD_S, due_s - now_s))
        self.done.late_s = max(self.done.late_s, now_s - due_s)
        self._guard.look_around(now_s)
        self._tell_time(log_ns)

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
