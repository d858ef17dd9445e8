# SPDX-License-Identifier: Apache-2.0
"""Roll-outs from bags: whoever lets a version act records it, and the learner reads.

The same for a robot with a person, who sees what is wanted, and for a simulated graph that is
driven by a script. Learner and robot share two folders, of versions and of bags, and nothing else.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rl100_learner.data.bag_episode import EpisodeReader
from rl100_learner.data.decisions import DECISIONS, DecisionReader, decision_batch
from rl100_learner.data.episode import Episode
from rl100_learner.files import replacing
from rl100_learner.training.collecting import Collected, successes
from rl100_policy.bags.index import read_index
from rl100_policy.bags.reading import read_messages
from rl100_policy.core.config import RobotConfig, TaskConfig
from rl100_policy.core.errors import BagError, ConfigError
from rl100_policy.core.policy import DiffusionPolicy
from rl100_policy.core.policy_version import load_version, read_manifest, write_version

_LOG = logging.getLogger(__name__)

TAKEN = "bags.json"
"""Which bags a request was answered with."""


@dataclass(frozen=True)
class Wanted:
    """Episodes that are missing.

    Attributes:
        version: Folder of the version that is to act, by its K-step sampler.
        seeds: Of the start states of the missing episodes, where start states have seeds.
        stochastic: With every transition drawn, or as on the robot.
        total: How many there will be.
    """

    version: Path
    seeds: range
    stochastic: bool
    total: int


Ask = Callable[[Wanted], None]
"""Sees to it that more episodes come, or waits for a while; called until there are enough. What it
raises ends the waiting."""


class BagCollector:
    """Takes roll-outs from a folder of bags; see ``rl100_learner.training.collecting.Collector``.

    Episodes count if their metadata name the version, their decisions were made in the way that is
    wanted, and no earlier request has taken them; others in the folder do not matter. Those that
    cannot be used are named in the log, and others are asked for in their place.
    """

    def __init__(
        self,
        bags: Path,
        versions: Path,
        task: TaskConfig,
        robot: RobotConfig,
        gamma: float,
        ask: Ask,
    ) -> None:
        """Begin.

        Args:
            bags: Folder of bags.
            versions: Folder for the versions of online iterations.
            task: The task.
            robot: The arm.
            gamma: Discount of one control period.
            ask: Sees to more episodes.
        """
        self._bags, self._versions, self._ask = bags, versions, ask
        self._task, self._robot, self._gamma = task, robot, gamma
        self._episodes = EpisodeReader(task, robot)
        self._decisions = DecisionReader(task, robot)
        self._taken: set[str] = set()
        """Bags that earlier requests were answered with."""
        self._stochastic: dict[str, bool | None] = {}
        """By bag: whether its decisions were drawn; None if that cannot be told, or they were the
        student's."""

    def episodes(
        self,
        version: Path,
        seeds: range,
        folder: Path,
        *,
        stochastic: bool,
    ) -> list[Episode]:
        """See ``Collector``; of more episodes than wanted the first ones are taken.

        The folder keeps which bags they were in.
        """
        kept = folder / TAKEN
        if kept.exists():
            bags = json.loads(kept.read_text(encoding="utf-8"))
            self._taken |= set(bags)
            return [self._episode(self._bags / bag) for bag in bags]
        found = self._gather(
            version, seeds, self._episode, stochastic=stochastic, taken=self._taken
        )
        self._taken |= set(found)
        with replacing(kept) as file:
            file.write((json.dumps([*found], indent=2) + "\n").encode())
        return [*found.values()]

    def _episode(self, bag: Path) -> Episode:
        return self._episodes.read(bag).episode

    def decisions(
        self,
        policy: DiffusionPolicy,
        parent: str,
        seeds: range,
        generator: torch.Generator,  # noqa: ARG002  # the policy node draws
        *,
        every_frame: bool,  # noqa: ARG002  # a bag has them
    ) -> Collected:
        """See ``Collector``; the policy is written as a version of its own first."""
        version = self._write(policy, parent, seeds.start)
        found = self._gather(version, seeds, self._decisions.read, stochastic=True, taken=set())
        read = [*found.values()]
        batch = decision_batch(read, version.name, policy.config.observation.n_obs, self._gamma)
        played = [each.episode for each in read]
        return Collected(
            batch,
            successes=successes(played),
            episodes=len(played),
            periods=sum(map(len, played)),
            recorded=played,
        )

    def success(self, policy: DiffusionPolicy, seeds: range) -> float:  # noqa: ARG002
        """Raises ConfigError: nobody plays episodes that are only watched."""
        raise ConfigError(
            "episodes that are only watched need the vectorised simulation; set watch=0"
        )

    def _write(self, policy: DiffusionPolicy, parent: str, first_seed: int) -> Path:
        folder = self._versions / f"{parent}_online_{first_seed}"
        if folder.exists():  # of a run that was killed
            written, _ = load_version(folder)
            mine = policy.state_dict()
            stored = written.state_dict().items()
            if any(not torch.equal(mine[key].cpu(), each) for key, each in stored):
                raise ConfigError(
                    f"{folder} holds another policy than this run has come to; its bags cannot be "
                    "used: move the folder away and collect again"
                )
            return folder
        self._versions.mkdir(parents=True, exist_ok=True)
        write_version(
            folder, policy, task=self._task, robot=self._robot, parents=(parent,),
            bags=(), metrics={"first_seed": float(first_seed)}, training={},
        )  # fmt: skip
        return folder

    def _gather(
        self,
        version: Path,
        seeds: range,
        read: Callable[[Path], Any],
        *,
        stochastic: bool,
        taken: set[str],
    ) -> dict[str, Any]:
        """What was read of as many bags as wanted, by their folders; none of those taken."""
        name = read_manifest(version).name
        found: dict[str, Any] = {}
        while True:
            for entry in read_index(self._bags).entries:
                known = entry.folder in found or entry.folder in taken
                other = entry.metadata.policy_version != name
                if known or other or self._was_stochastic(entry.folder) is not stochastic:
                    continue
                try:
                    found[entry.folder] = read(self._bags / entry.folder)
                except (BagError, OSError) as error:
                    found[entry.folder] = None
                    _LOG.warning("%s is not used: %s", entry.folder, error)
            usable = [folder for folder in sorted(found) if found[folder] is not None]
            if len(usable) >= len(seeds):
                return {folder: found[folder] for folder in usable[: len(seeds)]}
            # An episode that cannot be used has used up its seed all the same.
            first = seeds.start + len(found)
            missing = range(first, first + len(seeds) - len(usable))
            self._ask(Wanted(version, missing, stochastic, len(seeds)))

    def _was_stochastic(self, folder: str) -> bool | None:
        if folder not in self._stochastic:
            try:
                decided = read_messages(self._bags / folder, [DECISIONS])[DECISIONS]
            except (BagError, OSError):
                decided = []
            known = {
                (message.value.sampler, not message.value.deterministic) for message in decided
            }
            sampler, stochastic = known.pop() if len(known) == 1 else ("", None)
            self._stochastic[folder] = stochastic if sampler == "ddim" else None
        return self._stochastic[folder]
