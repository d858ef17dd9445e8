# SPDX-License-Identifier: Apache-2.0
"""Which policy version drives, which one drove well before it, and when that one comes back."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

_LINE = 3
"""Versions that drove well before the present one and are kept ready."""
_ROUNDING = 1e-9


@dataclass(frozen=True)
class SuccessionRules:
    """When a version has to give way to the one before. 0 switches a rule off."""

    trips: int = 3
    """Decisions in a row that failed, or took longer than the actions until the next one."""
    episodes: int = 20
    """Newest judged episodes of either version that are compared."""
    drop: float = 0.3
    """The present one's success share may be below that of the one before by this much."""


class Succession:
    """Versions one after the other, by names; knows nothing of what they are."""

    def __init__(self, rules: SuccessionRules) -> None:
        """Begin with none."""
        self._rules = rules
        self._line: deque[str] = deque(maxlen=_LINE)
        self._trips, self._proved = 0, False
        self._outcomes: dict[str, deque[bool]] = {}
        self.current = ""
        """Who drives; empty at first."""

    @property
    def before(self) -> str:
        """Who comes back if the present one has to give way; empty if nobody."""
        return self._line[-1] if self._line else ""

    @property
    def kept(self) -> tuple[str, ...]:
        """Who may drive again without being loaded, the present one last."""
        return (*self._line, self.current)

    def take_over(self, version: str) -> None:
        """A version drives from now on; the one before may come back if it has decided well."""
        if version in self._line:
            self._line.remove(version)
        if version != self.current and self._proved:
            self._line.append(self.current)
        self.current, self._trips, self._proved = version, 0, False

    def decided(self, *, in_time: bool) -> None:
        """The present version has decided."""
        self._trips = 0 if in_time else self._trips + 1
        self._proved = self._proved or in_time

    def failed(self) -> None:
        """The present version could not decide."""
        self._trips += 1

    def judged(self, *, success: bool) -> None:
        """An episode that the present version drove was judged."""
        size = max(1, self._rules.episodes)
        self._outcomes.setdefault(self.current, deque(maxlen=size)).append(success)

    def why_back(self) -> str:
        """Why the version before has to come back, for people; empty if it has not."""
        rules = self._rules
        if not self.before:
            return ""
        if rules.trips and self._trips >= rules.trips:
            return f"{self._trips} decisions in a row failed or were too late"
        now, then = self._outcomes.get(self.current, ()), self._outcomes.get(self.before, ())
        if not rules.episodes or min(len(now), len(then)) < rules.episodes:
            return ""
        share, share_before = sum(now) / len(now), sum(then) / len(then)
        if not rules.drop or share_before - share < rules.drop + _ROUNDING:
            return ""
        return (
            f"success fell from {share_before:.0%} to {share:.0%} of the newest "
            f"{rules.episodes} episodes each"
        )

    def go_back(self) -> str:
        """Put the version before in command again and return it; the present one is forgotten.

        Raises:
            LookupError: If there is none.
        """
        if not self._line:
            raise LookupError("no version drove well before the present one")
        self._outcomes.pop(self.current, None)
        self.current, self._trips, self._proved = self._line.pop(), 0, True
        return self.current
