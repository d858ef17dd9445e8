# SPDX-License-Identifier: Apache-2.0
"""What a recorder knows about the running episode: counts, losses, judgements, its end.

Pure: no ROS, no disk, no clock of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rl100_policy.bags.judgement import Judgement
from rl100_policy.bags.metadata import EpisodeMetadata, TopicLoss
from rl100_policy.core.errors import ConfigError
from rl100_policy.core.interventions import Interventions

STREAM_FORM = (
    "'<topic> <package/msg/Name> [latched] [sensor[=<period in s>] | watched] [required] "
    "[frame=<frame>]'"
)

_BACK_NS = 100_000_000
"""Stamps may go back by this much, or by a period if that is longer: two drivers on one topic are
not in step."""
_SILENT_S = 1.0
"""An episode that ends at no stamp lacks nothing of a sensor that was heard this lately [s]; of a
slow one, within three periods."""
_ON_ITS_WAY = 5
"""Messages by which one that is only watched may be behind at the end."""
_LATE_NS = 200_000_000
"""The first message of a sensor may come this much after the start, or two periods."""


@dataclass(frozen=True)
class Stream:
    """One topic to record."""

    topic: str
    type_name: str
    """``package/msg/Name``."""
    latched: bool = False
    """The newest message is kept between episodes and begins every bag."""
    period_ns: int = 0
    """Expected time between header stamps; 0: not a periodic sensor."""
    required: bool = False
    """No episode begins without a publisher of it, though it is no sensor."""
    frame: str = ""
    """Frame that its header must name; empty: any."""
    awaited: bool = True
    """Of a periodic one: no episode begins without it, and each waits for its end on it. Otherwise
    it is only watched."""

    @property
    def is_sensor(self) -> bool:
        """Its stamps are expected at a fixed period, and an episode waits for its end on it."""
        return self.period_ns > 0 and self.awaited

    @property
    def is_required(self) -> bool:
        """No episode begins without it."""
        return self.is_sensor or self.required

    @property
    def expected_hz(self) -> float:
        """Messages per second of what is periodic; 0 of others."""
        return 1e9 / self.period_ns if self.period_ns else 0.0


def parse_stream(text: str, default_period_ns: int) -> Stream:
    """Stream from one entry of the recorder's ``topics`` parameter.

    Entries are ``<topic> <package/msg/Name>``, optionally followed by ``latched``, ``sensor`` (a
    periodic sensor at the control period) or ``sensor=<period in s>``, ``watched`` (at the control
    period; gaps and silence degrade an episode, which neither needs it to begin nor waits for it),
    ``required`` (no episode begins without it, as without a sensor), ``frame=<frame>``.

    Raises:
        ConfigError: If the entry is malformed; shows it and the form expected.
    """
    words = text.split()
    expected = STREAM_FORM
    if len(words) < 2 or words[1].count("/") != 2:
        raise ConfigError(f"topics: expected {expected}, got {text!r}")
    told: dict[str, Any] = {}
    for word in words[2:]:
        name, _, value = word.partition("=")
        if word in ("latched", "required"):
            told[word] = True
        elif word in ("sensor", "watched"):
            told |= {"period_ns": default_period_ns, "awaited": word == "sensor"}
        elif name == "sensor" and value.replace(".", "", 1).isdigit() and float(value) > 0:
            told["period_ns"] = round(float(value) * 1e9)
        elif name == "frame" and value:
            told["frame"] = value
        else:
            raise ConfigError(f"topics: expected {expected}, got {word!r} in {text!r}")
    return Stream(words[0], words[1], **told)


@dataclass
class TopicTally:
    """What came on one topic."""

    messages: int = 0
    first_ns: int | None = None
    """First header stamp."""
    newest_ns: int | None = None
    """Newest header stamp."""
    middleware: int = 0
    gaps: int = 0
    recorder: int = 0
    backward: int = 0
    """Header stamps that went back."""
    repeated: int = 0
    """Header stamps that were those of the message before."""
    elsewhere: int = 0
    """Messages in another frame than the one expected."""
    back_ns: int = 0
    """Farthest that a header stamp lay before the one before it."""
    worst_gap_ns: int = 0
    """Longest time between two header stamps."""
    looked_at: int = 0
    """Messages at the last look."""
    heard_s: float = 0.0
    """Monotonic time of the first look that showed the newest message."""


@dataclass
class EpisodeSession:
    """The running episode. Changed by one thread only."""

    streams: Sequence[Stream]
    start_ns: int = 0
    """ROS time of the first wanted observation, 0 if it is not known."""
    judgements: list[Judgement] = field(default_factory=list)
    messages: int = 0
    """Messages handed to the writer."""
    bytes: int = 0
    """Their size [B]."""
    commanders: Interventions = field(default_factory=Interventions)
    """Who commanded."""
    end_ns: int = 0
    """ROS time of the last wanted observation, 0 until the episode is stopped with one."""
    _looked_s: float = 0.0
    _tallies: dict[str, TopicTally] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """One tally per topic."""
        self._tallies = {stream.topic: TopicTally() for stream in self.streams}
        self._cameras = {stream.topic for stream in self.streams if stream.frame}
        """Of one driver each; two drivers of joints may well have equal stamps."""
        self._periods = {stream.topic: stream.period_ns for stream in self.streams}

    def observe(self, topic: str, stamp_ns: int | None, size: int, *, written: bool) -> None:
        """Count one message.

        Args:
            topic: As in the stream.
            stamp_ns: Header stamp, None if the type has none or the message is malformed.
            size: Serialised size [B].
            written: False if the writer could not take it.
        """
        tally = self._tallies[topic]
        if not written:
            tally.recorder += 1
            return
        tally.messages += 1
        self.messages += 1
        self.bytes += size
        if stamp_ns is not None:
            period_ns = self._periods[topic]
            tally.gaps += missing_between(tally.newest_ns, stamp_ns, period_ns)
            since_ns = 0 if tally.newest_ns is None else stamp_ns - tally.newest_ns
            tally.worst_gap_ns = max(tally.worst_gap_ns, since_ns)
            if period_ns and -since_ns > max(period_ns, _BACK_NS):
                tally.backward += 1
                tally.back_ns = max(tally.back_ns, -since_ns)
            tally.repeated += topic in self._cameras and stamp_ns == tally.newest_ns
            tally.newest_ns = stamp_ns
            tally.first_ns = stamp_ns if tally.first_ns is None else tally.first_ns

    def look(self, now_s: float) -> None:
        """Note which topics have spoken since the last look.

        Args:
            now_s: Monotonic time: that of messages may jump.
        """
        self._looked_s = now_s
        for tally in self._tallies.values():
            if tally.messages != tally.looked_at:
                tally.looked_at, tally.heard_s = tally.messages, now_s

    def misplace(self, topic: str) -> None:
        """Count a message in another frame than the one expected."""
        self._tallies[topic].elsewhere += 1

    def lose(self, topic: str, count: int) -> None:
        """Count messages that the middleware reported lost."""
        self._tallies[topic].middleware += count

    @property
    def reached_end(self) -> bool:
        """Whether every sensor seen in this episode has come to its end stamp."""
        return all(
            tally.newest_ns is None or tally.newest_ns >= self.end_ns
            for tally in self._sensor_tallies().values()
        )

    def tally(self, topic: str) -> TopicTally:
        """What came on one topic so far, and what is known to be missing of it."""
        return self._tallies[topic]

    @property
    def losses(self) -> dict[str, TopicLoss]:
        """Known losses by topic; topics without loss are left out."""
        found = {}
        for topic, tally in self._tallies.items():
            loss = TopicLoss(
                middleware=tally.middleware,
                gaps=tally.gaps
                + self._missing_at_start(topic, tally)
                + self._missing_at_end(topic, tally),
                recorder=tally.recorder,
            )
            if loss.total:
                found[topic] = loss
        return found

    @property
    def lost(self) -> int:
        """Messages known to be missing over all topics."""
        return sum(loss.total for loss in self.losses.values())

    @property
    def degraded_reasons(self) -> tuple[str, ...]:
        """Why the episode is incomplete, for people; empty if nothing is known to be missing."""
        reasons = [
            f"{topic}: {loss.total} messages lost (middleware {loss.middleware}, "
            f"stamp gaps {loss.gaps}, recorder {loss.recorder})"
            for topic, loss in self.losses.items()
        ]
        for topic, tally in self._periodic_tallies().items():
            if tally.repeated:
                reasons.append(f"{topic}: {tally.repeated} stamps repeated; is it frozen?")
            if tally.elsewhere:
                reasons.append(f"{topic}: {tally.elsewhere} messages in another frame")
            if tally.backward:
                reasons.append(
                    f"{topic}: stamps went back {tally.backward} times, by up to "
                    f"{tally.back_ns / 1e9:.3f} s"
                )
            if not tally.messages:
                reasons.append(f"{topic}: no message during the episode")
            elif silent_s := self._silent_at_end_s(topic, tally):
                reasons.append(f"{topic}: no message in the last {silent_s:.1f} s")
        return tuple(reasons)

    def complete(self, metadata: EpisodeMetadata, end_reason: str) -> EpisodeMetadata:
        """Metadata with everything this session found out."""
        return metadata.with_changes(
            judgements=tuple(self.judgements),
            **self.commanders.as_metadata(),
            end_ns=self.end_ns,
            end_reason=end_reason,
            lost=self.losses,
            degraded_reasons=self.degraded_reasons,
        )

    def _periodic_tallies(self) -> dict[str, TopicTally]:
        return {
            stream.topic: self._tallies[stream.topic]
            for stream in self.streams
            if stream.period_ns
        }

    def _sensor_tallies(self) -> dict[str, TopicTally]:
        return {
            stream.topic: self._tallies[stream.topic]
            for stream in self.streams
            if stream.is_sensor
        }

    def _missing_at_start(self, topic: str, tally: TopicTally) -> int:
        """Messages of a sensor that should have come between the start and its first one."""
        period_ns = self._periods[topic]
        if not period_ns or not self.start_ns or tally.first_ns is None:
            return 0
        late_ns = tally.first_ns - self.start_ns
        return round(late_ns / period_ns) if late_ns > max(2 * period_ns, _LATE_NS) else 0

    def _missing_at_end(self, topic: str, tally: TopicTally) -> int:
        """Messages of a sensor that should have come between its newest one and the end."""
        period_ns = self._periods[topic]
        if not period_ns or not self.end_ns or tally.newest_ns is None:
            return 0
        if tally.back_ns:  # how the end lies to a clock that jumped is not known
            return 0
        missed = max(0, round((self.end_ns - tally.newest_ns) / period_ns))
        # What nobody waits for may still be on its way.
        return missed if topic in self._sensor_tallies() or missed > _ON_ITS_WAY else 0

    def _silent_at_end_s(self, topic: str, tally: TopicTally) -> float:
        """How long a sensor had said nothing when an episode without an end stamp ended, or 0."""
        silent_s = self._looked_s - tally.heard_s
        allowed_s = max(_SILENT_S, 3 * self._periods[topic] / 1e9)
        return 0.0 if self.end_ns or not tally.looked_at or silent_s < allowed_s else silent_s


def missing_between(before_ns: int | None, stamp_ns: int, period_ns: int) -> int:
    """Messages missing between two stamps: the number of whole periods between, less one.

    Stamps that jitter by less than half a period give no loss; stamps that repeat or go back
    (a restarted simulation) give none either.
    """
    if before_ns is None or not period_ns:
        return 0
    return max(0, round((stamp_ns - before_ns) / period_ns) - 1)
