# SPDX-License-Identifier: Apache-2.0
"""All demonstrations of a folder of bags, read once and then only what is new.

A bag that cannot be used (damaged, of another task or robot, recorded with another tool or control
period, without a usable action) is left out and reported, never fatal. A degraded bag is used as
far as it goes, see ``bag_episode``, and reported too. Unfinished bags are ignored.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from rl100_learner.data.bag_episode import EpisodeReader, read_episode
from rl100_learner.data.cache import EpisodeCache
from rl100_learner.data.episode import Episode
from rl100_policy.bags.index import hint_of_bags, read_index
from rl100_policy.core.config import RobotConfig, TaskConfig
from rl100_policy.core.errors import BagError

__all__ = ["BagReport", "BagStatus", "load_demonstrations", "read_episode"]

_LOG = logging.getLogger(__name__)

_TOLD = 5
"""Bags whose reason is told when none can be used."""

OnProgress = Callable[[int, int], None]
"""Called with the number of bags dealt with and their total."""


class BagStatus(StrEnum):
    """What became of one bag."""

    READ = "read"
    CACHED = "cached"
    LEFT_OUT = "left out"


@dataclass(frozen=True)
class BagReport:
    """What became of one bag, and why."""

    folder: str
    status: BagStatus
    notes: tuple[str, ...] = ()
    """Why it was left out, or what is missing from it; empty for a whole bag."""


def load_demonstrations(
    bags: Path,
    task: TaskConfig,
    robot: RobotConfig,
    on_progress: OnProgress | None = None,
    *,
    on_report: Callable[[BagReport], None] | None = None,
    accept_other_setup: bool = False,
) -> list[Episode]:
    """Read every usable demonstration of a folder, in the order of their ids.

    Args:
        bags: Folder of all episodes.
        task: Bags of other tasks are left out.
        robot: Bags of other robots are left out.
        on_progress: Told after every bag; what it raises ends the reading and is passed on.
        on_report: Told what became of each bag; losses are also logged as warnings.
        accept_other_setup: Also use bags recorded with another ``RobotConfig.setup``.

    Returns:
        The episodes; those in which a policy version acted are passed over.

    Raises:
        BagError: If there is no usable demonstration at all; says why for each bag.
        ConfigError: If the robot has no camera that the task can be seen with.
    """
    index = read_index(bags)
    entries = [entry.folder for entry in index.entries if not entry.metadata.policy_version]
    passed_over = len(index.entries) - len(entries)
    names = sorted([*entries, *index.damaged])
    source = _Source(bags, task, robot, accept_other_setup=accept_other_setup)
    episodes: list[Episode] = []
    reports: list[BagReport] = []
    for done, name in enumerate(names, start=1):
        episode, report = source.get(name, index.damaged.get(name, ""))
        episodes += [episode] if episode is not None else []
        reports.append(report)
        if report.notes:
            _LOG.warning("%s %s: %s", name, report.status, "; ".join(report.notes))
        if on_report is not None:
            on_report(report)
        if on_progress is not None:
            on_progress(done, len(names))
    if not episodes:
        reasons = _reasons(reports)
        if passed_over:
            reasons += f"{'; ' if reasons else ''}in {passed_over} a policy acted, not a person"
        reasons = reasons or hint_of_bags(bags) or "there are no bags"
        raise BagError(
            f"no usable demonstration of task {task.name!r} on {robot.name!r} in {bags}: "
            f"{reasons}; record some, or give another folder"
        )
    return episodes


def _reasons(reports: Sequence[BagReport]) -> str:
    """Why bags were left out: the first few of them, and how many more there are."""
    told = [f"{report.folder}: {' '.join(report.notes)}" for report in reports[:_TOLD]]
    more = len(reports) - len(told)
    return "; ".join([*told, *([f"and {more} more"] if more > 0 else [])])


class _Source:
    """Episodes of one folder, from the cache or from their bags."""

    def __init__(
        self, bags: Path, task: TaskConfig, robot: RobotConfig, *, accept_other_setup: bool
    ) -> None:
        self._bags = bags
        self._cache = EpisodeCache(bags, task, robot, accept_other_setup=accept_other_setup)
        self._reader = EpisodeReader(task, robot, accept_other_setup=accept_other_setup)

    def get(self, name: str, damage: str) -> tuple[Episode | None, BagReport]:
        """Episode of one bag if it is usable, and what became of it."""
        if damage:
            return None, BagReport(name, BagStatus.LEFT_OUT, (damage,))
        folder = self._bags / name
        cached = self._cache.load(folder)
        if cached is not None:
            return cached.episode, BagReport(name, BagStatus.CACHED, cached.notes)
        try:
            read = self._reader.read(folder)
        except (BagError, OSError) as error:
            return None, BagReport(name, BagStatus.LEFT_OUT, (str(error),))
        self._cache.store(folder, read)
        return read.episode, BagReport(name, BagStatus.READ, read.notes)
