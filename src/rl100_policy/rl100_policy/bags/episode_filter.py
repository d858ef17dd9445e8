# SPDX-License-Identifier: Apache-2.0
"""Which episodes of a folder are meant: by outcome, driver, task, time and so on."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from rl100_policy.bags.index import IndexEntry
from rl100_policy.bags.judgement import Outcome
from rl100_policy.bags.metadata import EpisodeMetadata
from rl100_policy.core.errors import BagError

PERSON = "person"
POLICY = "policy"

_MOMENT = re.compile(
    r"^(\d{4})-?(\d\d)-?(\d\d)(?:[T ](\d\d):?(\d\d)(?::?(\d\d)(?:[_.](\d{3}))?)?)?Z?(?:_.*)?$"
)


@dataclass(frozen=True)
class Moment:
    """A time as a person gives it, which is as long as its last unit.

    Attributes:
        begin: UTC.
        end: UTC, the first instant that is no longer part of it.
    """

    begin: datetime
    end: datetime


def parse_moment(text: str) -> Moment:
    """A UTC date or time, or the time that an episode's id begins with.

    Args:
        text: ``2026-11-21`` is the whole day, ``2026-11-21T02:08`` the minute;
            ``20261121T020813_042Z_push_t`` the millisecond.

    Raises:
        BagError: If it is none of them.
    """
    match = _MOMENT.match(text)
    try:
        if match is None:
            raise ValueError(text)
        year, month, day, hour, minute, second, milli = (int(part or 0) for part in match.groups())
        begin = datetime(year, month, day, hour, minute, second, milli * 1000, UTC)
    except ValueError as error:
        raise BagError(
            "expected a UTC date such as 2026-11-21, a time such as 2026-11-21T02:08, or the id "
            f"of an episode, got {text!r}"
        ) from error
    units = ("days", "minutes", "seconds", "milliseconds")
    given = (match[4], match[6], match[7])
    unit = units[sum(part is not None for part in given)]
    return Moment(begin, begin + timedelta(**{unit: 1}))


def time_of_episode(metadata: EpisodeMetadata) -> datetime | None:
    """UTC wall time that an episode's id begins with; None where it begins with something else."""
    try:
        return parse_moment(metadata.episode_id).begin
    except BagError:
        return None


def driver_of(metadata: EpisodeMetadata) -> str:
    """Version of the policy that was in command, or ``PERSON``."""
    return metadata.policy_version or PERSON


@dataclass(frozen=True)
class EpisodeFilter:
    """Conditions that an episode has to meet, all of them; the default is met by every one.

    Attributes:
        outcomes: Any of these; empty: any at all.
        driver: ``PERSON``, ``POLICY`` for any policy, or the beginning of a policy version.
        task: Exactly this task; empty: any.
        operator: Exactly this operator; empty: any.
        degraded: True: messages are known to be missing; False: none; None: either.
        since: Not begun before this moment does.
        until: Not begun after this moment is over.
        tags: Each of these tags with this value.
        longer_s: Lasts at least as long [s].
        shorter_s: Lasts at most as long [s].
    """

    outcomes: frozenset[Outcome] = frozenset()
    driver: str = ""
    task: str = ""
    operator: str = ""
    degraded: bool | None = None
    since: Moment | None = None
    until: Moment | None = None
    tags: dict[str, str] = field(default_factory=dict)
    longer_s: float | None = None
    shorter_s: float | None = None

    def accepts(self, entry: IndexEntry) -> bool:
        """Whether an episode meets every condition."""
        meta = entry.metadata
        return (
            (not self.outcomes or meta.outcome in self.outcomes)
            and self._is_driven(meta)
            and self.task in ("", meta.task)
            and self.operator in ("", meta.operator)
            and self.degraded in (None, meta.degraded)
            and self._is_in_time(meta)
            and self.tags.items() <= meta.tags.items()
            and (self.longer_s is None or entry.seconds >= self.longer_s)
            and (self.shorter_s is None or entry.seconds <= self.shorter_s)
        )

    def chosen(self, entries: Iterable[IndexEntry]) -> tuple[IndexEntry, ...]:
        """Those that are accepted, in their order."""
        return tuple(entry for entry in entries if self.accepts(entry))

    def _is_driven(self, metadata: EpisodeMetadata) -> bool:
        if self.driver == PERSON:
            return not metadata.policy_version
        if self.driver == POLICY:
            return bool(metadata.policy_version)
        return metadata.policy_version.startswith(self.driver)

    def _is_in_time(self, metadata: EpisodeMetadata) -> bool:
        if self.since is None and self.until is None:
            return True
        begun = time_of_episode(metadata)
        return (
            begun is not None
            and (self.since is None or begun >= self.since.begin)
            and (self.until is None or begun < self.until.end)
        )


def parse_tags(items: Iterable[str]) -> dict[str, str]:
    """Tags from ``key=value`` each.

    Raises:
        BagError: If one has no ``=`` or no key.
    """
    found: dict[str, str] = {}
    for item in items:
        key, separator, value = item.partition("=")
        if not separator or not key:
            raise BagError(f"expected a tag as key=value, got {item!r}")
        found[key] = value
    return found
