# SPDX-License-Identifier: Apache-2.0
"""How the recorded topics are doing, before an episode and while it lasts; and what is missing.

Pure: no ROS, no disk, no clock of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from rl100_policy.bags.session import Stream

WINDOW_S = 3
"""Whole seconds over which rates are measured."""
_SLOW = 0.5
"""Share of the expected rate below which a sensor is too slow."""
_SILENT_PERIODS = 5
_SILENT_S = 0.5
"""A sensor is silent after this many periods, but not before this time [s]."""
_APART_S = 1.0
"""Stamps of a sensor farther from now than this are of another clock [s]."""
_RESERVE = 1.2
"""Of the disk space that an episode is expected to take."""


class TopicWatch:
    """Rate, age and frame of one topic. One call per message, a few operations each."""

    def __init__(self, stream: Stream) -> None:
        """Begin without a message."""
        self.stream = stream
        self.frame_id = ""
        """Of the newest message, where the stream says which is expected."""
        self.stamp_ns: int | None = None
        """Of its header."""
        self._first_s = self._last_s = math.nan
        self._seconds: dict[int, tuple[int, int]] = {}
        """Messages and bytes by whole second."""

    def arrive(self, now_s: float, size: int) -> None:
        """Note a message.

        Args:
            now_s: Monotonic time [s].
            size: Serialised size [B].
        """
        if not self.seen:
            self._first_s = now_s
        self._last_s = now_s
        second = int(now_s)
        count, total = self._seconds.get(second, (0, 0))
        self._seconds[second] = (count + 1, total + size)
        if len(self._seconds) > WINDOW_S + 1:
            for old in [each for each in self._seconds if each < second - WINDOW_S]:
                del self._seconds[old]

    @property
    def is_elsewhere(self) -> bool:
        """Whether its newest message is in another frame than the one expected."""
        expected = self.stream.frame
        return bool(expected and self.frame_id) and self.frame_id != expected

    @property
    def seen(self) -> bool:
        """Whether a message ever came."""
        return not math.isnan(self._last_s)

    def age_s(self, now_s: float) -> float:
        """Since the last message [s]; NaN before the first."""
        return now_s - self._last_s

    def rates(self, now_s: float) -> tuple[float, float]:
        """Messages and bytes per second over the last whole seconds since the first message."""
        seconds = self._whole_seconds(now_s)
        if not seconds:
            return 0.0, 0.0
        window = [self._seconds.get(each, (0, 0)) for each in seconds]
        counts, totals = zip(*window, strict=True)
        return sum(counts) / len(seconds), sum(totals) / len(seconds)

    def _whole_seconds(self, now_s: float) -> range:
        if not self.seen:
            return range(0)
        return range(max(int(now_s) - WINDOW_S, int(self._first_s) + 1), int(now_s))

    def is_slow(self, now_s: float) -> bool:
        """Whether a sensor comes at much less than its rate, as soon as that can be told."""
        expected = self.stream.expected_hz
        known = bool(expected) and bool(self._whole_seconds(now_s))
        return known and self.rates(now_s)[0] < _SLOW * expected

    def is_silent(self, now_s: float) -> bool:
        """Whether a sensor has not been heard of for some periods."""
        if not self.stream.expected_hz:
            return False
        patience = max(_SILENT_S, _SILENT_PERIODS / self.stream.expected_hz)
        return not self.age_s(now_s) <= patience


@dataclass(frozen=True)
class TopicFacts:
    """What is known of one topic when an episode is to begin."""

    watch: TopicWatch
    published: bool
    other_types: tuple[str, ...] = ()
    """Types that somebody publishes under its name and that are not the expected one."""
    incompatible: bool = False
    """Its publisher offers a quality of service that cannot be matched yet."""


def missing(
    facts: Iterable[TopicFacts], now_s: float, *, ros_ns: int = 0, needs_data: bool
) -> list[str]:
    """What keeps an episode from beginning, one line each, for people.

    Args:
        facts: Of every recorded topic.
        now_s: Monotonic time [s].
        ros_ns: ROS time, to which stamps have to be near; 0: not looked at.
        needs_data: Sensors must be heard at their rate already; otherwise a publisher is enough.
    """
    found = [_problem(each, now_s, ros_ns, needs_data=needs_data) for each in facts]
    return [problem for problem in found if problem]


def _problem(facts: TopicFacts, now_s: float, ros_ns: int, *, needs_data: bool) -> str:
    watch, stream = facts.watch, facts.watch.stream
    if facts.other_types:
        return (
            f"{stream.topic} is published as {', '.join(facts.other_types)}, expected "
            f"{stream.type_name}: rename one of the two, or record it with its type"
        )
    if not stream.is_required:
        return ""
    if not facts.published:
        return f"nobody publishes {stream.topic} ({stream.type_name}); start its driver"
    if facts.incompatible:
        return f"{stream.topic}: its quality of service is being matched; try again in a second"
    if watch.is_elsewhere:
        return (
            f"{stream.topic} comes in frame {watch.frame_id!r}, the robot description has "
            f"{stream.frame!r}: correct one of the two"
        )
    if not needs_data:
        return ""
    return _no_data(watch, now_s) or _other_clock(watch, ros_ns)


def _other_clock(watch: TopicWatch, ros_ns: int) -> str:
    if not (ros_ns and watch.stamp_ns and watch.stream.is_sensor):
        return ""
    apart_s = (watch.stamp_ns - ros_ns) / 1e9
    if abs(apart_s) <= _APART_S:
        return ""
    return (
        f"{watch.stream.topic} is stamped {apart_s:+.1f} s from this node's clock; synchronise "
        "the machines, or give both the same clock (use_sim_time)"
    )


def _no_data(watch: TopicWatch, now_s: float) -> str:
    stream = watch.stream
    if not watch.seen:
        return f"{stream.topic} has a publisher, but no message of it has come; is it paused?"
    if watch.is_silent(now_s):
        return f"{stream.topic} has been silent for {watch.age_s(now_s):.1f} s"
    if watch.is_slow(now_s):
        return (
            f"{stream.topic} comes at {watch.rates(now_s)[0]:.1f} Hz, "
            f"{stream.expected_hz:.1f} Hz are expected"
        )
    return ""


def predicted_bytes(watches: Iterable[TopicWatch], now_s: float, episode_s: float) -> int:
    """Disk space that an episode is expected to take [B], from what the topics take now."""
    per_second = sum(watch.rates(now_s)[1] for watch in watches)
    return round(_RESERVE * per_second * episode_s)


def disk_problem(folder: str, free: int, floor: int, predicted: int) -> str:
    """Why there is not enough space for an episode; empty if there is.

    Args:
        folder: Of the bags.
        free: Space [B].
        floor: What must stay free [B].
        predicted: What the episode is expected to take [B].
    """
    if free >= floor + predicted:
        return ""
    return (
        f"{free / 1e6:.0f} MB are free in {folder}, {(floor + predicted) / 1e6:.0f} MB are needed "
        f"({predicted / 1e6:.0f} for the episode, {floor / 1e6:.0f} to stay free); free space"
    )
