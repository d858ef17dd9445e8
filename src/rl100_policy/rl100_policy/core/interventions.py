# SPDX-License-Identifier: Apache-2.0
"""How much of an episode a person had to do for the policy."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from rl100_policy.core import messages
from rl100_policy.core.gate_result import CommandSource

_SOURCES = set(CommandSource)


@dataclass
class Interventions:
    """Counts who commanded, one control period after the other.

    An intervention begins in the period in which a person has command and the policy had it
    before, and lasts until somebody else has it; a pause of nobody does not end it. A
    demonstration has none.
    """

    periods: Counter[CommandSource] = field(default_factory=Counter)
    """By who was in command."""
    count: int = 0
    """How often a person took over from the policy."""
    intervened: int = 0
    """Control periods in interventions."""
    _before: CommandSource = CommandSource.HOLD
    """Who was in command last, a pause of nobody not counted."""
    _lasts: bool = False
    """An intervention is going on."""

    def observe(self, source: CommandSource) -> None:
        """Note who was in command in the next period."""
        self.periods[source] += 1
        if source is CommandSource.HOLD:
            return
        begins = source is CommandSource.TELEOP and self._before is CommandSource.POLICY
        self._lasts = begins or (self._lasts and source is CommandSource.TELEOP)
        self.count += begins
        self.intervened += self._lasts
        self._before = source

    def observe_message(self, data: bytes) -> None:
        """Note a serialised rl100_msgs/GateCommand; one that cannot be one is passed over."""
        source = messages.peek_source(data)
        if source in _SOURCES:
            self.observe(CommandSource(source))

    def __add__(self, later: Interventions) -> Interventions:
        """Counts of both together, of which none goes on."""
        return Interventions(
            periods=self.periods + later.periods,
            count=self.count + later.count,
            intervened=self.intervened + later.intervened,
        )

    def as_metadata(self) -> dict[str, Any]:
        """Fields of the metadata of an episode."""
        return {
            "commanded": {source.name.lower(): count for source, count in self.periods.items()},
            "interventions": self.count,
            "intervened": self.intervened,
        }

    @property
    def share(self) -> float:
        """Of the periods in which somebody was in command, those in interventions; 0 of none."""
        acting = self.periods[CommandSource.TELEOP] + self.periods[CommandSource.POLICY]
        return self.intervened / acting if acting else 0.0

    def mean_s(self, period_s: float) -> float:
        """Mean length of an intervention [s]; NaN if there was none."""
        return self.intervened * period_s / self.count if self.count else math.nan
