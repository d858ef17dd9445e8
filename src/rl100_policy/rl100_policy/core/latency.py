# SPDX-License-Identifier: Apache-2.0
"""From what a sensor saw to the command that came of it: how long each hop of the way took.

Every node on the way says when it dealt with an observation, which is known by its stamp, in marks
of wall time [ns]. Marks of two machines are comparable as far as their clocks are.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Mark(StrEnum):
    """Moments on the way, in its order."""

    SENSOR = "sensor"
    """The observation's stamp, where that is on the wall clock."""
    SIGHT_IN = "sight_in"
    SIGHT_OUT = "sight_out"
    """A frame came, and what the policy sees in it was published."""
    POLICY_IN = "policy_in"
    """The newest frame of the window is complete."""
    BEGUN = "begun"
    ENCODED = "encoded"
    DECIDED = "decided"
    GATE_IN = "gate_in"
    """The chunk came."""
    COMMANDED = "commanded"
    """The first command of it was published."""
    ARRIVED = "arrived"


@dataclass(frozen=True)
class Hop:
    """A part of the way between two marks."""

    name: str
    begin: Mark
    end: Mark


HOPS = (
    Hop("camera", Mark.SENSOR, Mark.SIGHT_IN),
    Hop("sight", Mark.SIGHT_IN, Mark.SIGHT_OUT),
    Hop("to policy", Mark.SIGHT_OUT, Mark.POLICY_IN),
    Hop("window", Mark.POLICY_IN, Mark.BEGUN),
    Hop("encode", Mark.BEGUN, Mark.ENCODED),
    Hop("denoise", Mark.ENCODED, Mark.DECIDED),
    Hop("to gate", Mark.DECIDED, Mark.GATE_IN),
    Hop("gate", Mark.GATE_IN, Mark.COMMANDED),
    Hop("to controller", Mark.COMMANDED, Mark.ARRIVED),
)
"""Parts that follow each other. *camera*: exposure, driver and middleware, of a stamp on the wall
clock. *window*: until the worker is free. *gate*: until the first control period that the chunk is
due in is answered, so up to a period of it is waiting for the arm."""
TOTALS = (
    Hop("observation to chunk", Mark.POLICY_IN, Mark.DECIDED),
    Hop("sensor to command", Mark.SENSOR, Mark.ARRIVED),
)
"""Ways over several parts."""

_OPEN = 256
"""Observations and commands that are remembered until the rest of their way is told."""
_LATER = 16
"""Decisions after which the command of an earlier one is not expected any more."""
_VERSIONS = 8
"""Whose journeys are kept; online learning makes a new one every few minutes."""


@dataclass
class Journey:
    """One observation on its way."""

    stamp_ns: int
    """Time of the newest frame of the window."""
    version: str = ""
    """Policy version that decided on it."""
    marks: dict[Mark, int] = field(default_factory=dict)
    """Wall time [ns] by mark."""

    def duration_s(self, hop: Hop) -> float:
        """Seconds between two marks; NaN if one is missing."""
        if hop.begin not in self.marks or hop.end not in self.marks:
            return float("nan")
        return (self.marks[hop.end] - self.marks[hop.begin]) * 1e-9


class JourneyLog:
    """Joins what the nodes tell into journeys that are over.

    Told in any order. A journey is over when its command has arrived. One that was decided and
    whose command never arrives (the policy is not in command, or it was too late) is over when
    some later ones were decided: it counts, too.
    """

    def __init__(self) -> None:
        """Begin with none on its way."""
        self._open: OrderedDict[int, Journey] = OrderedDict()
        self._commands: OrderedDict[int, int] = OrderedDict()
        self._arrivals: OrderedDict[int, int] = OrderedDict()

    def tell(
        self,
        stamp_ns: int,
        marks: Mapping[Mark, int],
        *,
        version: str = "",
        command_ns: int = 0,
    ) -> list[Journey]:
        """Take the marks of one node.

        Args:
            stamp_ns: Of the observation.
            marks: Wall time [ns] by mark.
            version: Of the policy, from the node that decides.
            command_ns: Stamp of the command that came of it, from the node that commands.

        Returns:
            The journeys that are over now.
        """
        journey = self._open.setdefault(stamp_ns, Journey(stamp_ns))
        journey.marks.update(marks)
        journey.version = version or journey.version
        if command_ns:
            self._commands[command_ns] = stamp_ns
            if command_ns in self._arrivals:
                journey.marks[Mark.ARRIVED] = self._arrivals.pop(command_ns)
        _forget_old(self._open)
        _forget_old(self._commands)
        return self._over(journey) + self._given_up()

    def arrive(self, command_ns: int, wall_ns: int) -> list[Journey]:
        """Take the arrival of a command by its stamp; returns the journeys that are over now."""
        stamp_ns = self._commands.pop(command_ns, None)
        journey = self._open.get(stamp_ns) if stamp_ns is not None else None
        if journey is None:
            self._arrivals[command_ns] = wall_ns
            _forget_old(self._arrivals)
            return []
        journey.marks[Mark.ARRIVED] = wall_ns
        return self._over(journey)

    def _over(self, journey: Journey) -> list[Journey]:
        if not {Mark.DECIDED, Mark.COMMANDED, Mark.ARRIVED} <= journey.marks.keys():
            return []
        return [self._open.pop(journey.stamp_ns)]

    def _given_up(self) -> list[Journey]:
        """Decisions that wait for their command while enough later ones were made."""
        decided = [stamp for stamp, each in self._open.items() if Mark.DECIDED in each.marks]
        return [self._open.pop(stamp) for stamp in decided[:-_LATER]]


def _forget_old(kept: OrderedDict[int, Any]) -> None:
    while len(kept) > _OPEN:
        kept.popitem(last=False)


@dataclass(frozen=True)
class HopLatency:
    """How long one hop took; seconds."""

    hop: str
    count: int
    p50_s: float
    p99_s: float
    max_s: float
    jitter_s: float
    """Mean difference between one time and the next."""


@dataclass(frozen=True)
class LatencySummary:
    """What the journeys of one policy version took."""

    version: str
    journeys: int
    misses: int
    """Decisions that took longer than a control period, from the observation to the chunk."""
    hops: tuple[HopLatency, ...]
    """In the order of the way, the totals last; those that no journey has are left out."""


class LatencyWindow:
    """The newest journeys of every version, and what they took."""

    def __init__(self, period_ns: int, length: int = 1000) -> None:
        """Begin empty.

        Args:
            period_ns: Control period.
            length: Journeys of a version that count.
        """
        self._period_s, self._length = period_ns * 1e-9, length
        self._journeys: dict[str, deque[Journey]] = {}

    def add(self, journey: Journey) -> None:
        """Take one that is over."""
        of_version = self._journeys.pop(journey.version, deque(maxlen=self._length))
        of_version.append(journey)
        self._journeys[journey.version] = of_version
        if len(self._journeys) > _VERSIONS:
            del self._journeys[next(iter(self._journeys))]

    @property
    def versions(self) -> tuple[str, ...]:
        """Whose journeys are known, the one that drove last at the end."""
        return tuple(self._journeys)

    def summary(self, version: str) -> LatencySummary:
        """Of one version."""
        return summarise(version, list(self._journeys.get(version, ())), self._period_s)


def summarise(version: str, journeys: Sequence[Journey], period_s: float) -> LatencySummary:
    """What some journeys of a version took, in the order in which they ended."""
    deciding = np.array([each.duration_s(TOTALS[0]) for each in journeys])
    return LatencySummary(
        version, len(journeys), int((deciding > period_s).sum()), hop_latencies(journeys)
    )


def hop_latencies(journeys: Sequence[Journey]) -> tuple[HopLatency, ...]:
    """Of every hop that is known of any journey, in the order of the way, the totals last."""
    found = (
        hop_latency(hop.name, [each.duration_s(hop) for each in journeys])
        for hop in (*HOPS, *TOTALS)
    )
    return tuple(each for each in found if each.count)


def hop_latency(name: str, durations_s: Iterable[float]) -> HopLatency:
    """Percentiles of the durations that are known; NaN where none is."""
    known: NDArray[np.float64] = np.array([each for each in durations_s if not np.isnan(each)])
    if not len(known):
        return HopLatency(name, 0, *([float("nan")] * 4))
    p50, p99 = np.percentile(known, [50, 99])
    jitter = float(np.abs(np.diff(known)).mean()) if len(known) > 1 else 0.0
    return HopLatency(name, len(known), float(p50), float(p99), float(known.max()), jitter)
