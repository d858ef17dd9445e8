# SPDX-License-Identifier: Apache-2.0
"""What a run asks of whoever lets policies act: the ROS graph, a robot, or a simulation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from rl100_learner.algorithms.batches import DecisionBatch
from rl100_learner.data.episode import Episode
from rl100_policy.core.policy import DiffusionPolicy


@dataclass(frozen=True)
class Collected:
    """What roll-outs of one online iteration gave."""

    batch: DecisionBatch
    successes: int
    episodes: int
    periods: int
    """Control periods of all episodes."""
    recorded: Sequence[Episode] = ()
    """The episodes with every frame, if they were asked for or are there anyway."""


class Collector(Protocol):
    """Lets policies act and brings back what came of it."""

    @property
    def where(self) -> str:
        """Where policies act, in a word that a person would give; a run does not change it."""

    @property
    def watches(self) -> bool:
        """Whether it plays episodes that are only watched, see :meth:`success`."""

    def episodes(
        self, version: Path, seeds: range, folder: Path, *, stochastic: bool
    ) -> Sequence[Episode]:
        """Roll-outs of a version by its K-step sampler, one per seed, with every frame.

        Args:
            version: Folder of the policy version.
            seeds: Of the start states.
            folder: Where the episodes are kept; what is there already is not played again.
            stochastic: Draw every transition; otherwise take its mean, as on the robot.
        """

    def decisions(
        self,
        policy: DiffusionPolicy,
        parent: str,
        seeds: range,
        generator: torch.Generator,
        *,
        every_frame: bool,
    ) -> Collected:
        """Decisions of a policy, one episode per seed, every transition drawn.

        Args:
            policy: As it is now, on any device; the batch that comes back is on the CPU.
            parent: Name of the version that online learning began with.
            seeds: Of the start states.
            generator: Of the transitions, where the policy acts in this process.
            every_frame: Bring the episodes back too, not only what was decided on.
        """

    def success(self, policy: DiffusionPolicy, seeds: range) -> float:
        """Success share of a policy without noise, one episode per seed; nothing is kept.

        Raises:
            ConfigError: If it does not play such episodes.
        """


def successes(episodes: Sequence[Episode]) -> int:
    """How many of the episodes a policy ended in success, without anybody taking over."""
    return sum(each.outcome == "success" and not each.taken_over for each in episodes)
