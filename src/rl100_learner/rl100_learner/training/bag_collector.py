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
from rl100_learner.data.decisions import (
    DECISIONS,
    DecisionReader,
    EpisodeDecisions,
    decision_batch,
)
from rl100_learner.data.episode import Episode
from rl100_learner.files import replacing
from rl100_learner.training.collecting import Collected, successes
from rl100_policy.bags.index import IndexEntry, read_index
from rl100_policy.bags.judgement import Outcome
from rl100_policy.bags.reading import read_messages
from rl100_policy.core.config import RobotConfig, TaskConfig
from rl100_policy.core.errors import BagError, ConfigError
from rl100_policy.core.policy import DiffusionPolicy
from rl100_policy.core.policy_version import load_version, read_manifest, write_version

_LOG = logging.getLogger(__name__)

TAKEN = "bags.json"
"""Which bags a request was answered with, and their digests then."""


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

    Episodes count if their metadata name the version, no other one was ever in command, somebody
    has judged them, their decisions were made in the way that is wanted, and no earlier request
    has taken them; others in the folder do not matter. Those that cannot be used are named in the
    log, and others are asked for in their place. A bag that is judged anew before there are enough
    is read anew.
    """

    where = "bags"
    watches = False
    """Nobody plays episodes at a robot that only show what an iterate is worth."""

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
        self._told: set[tuple[str, str]] = set()
        """Keys of bags of which the log has said that they do not count, and why."""

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
        kept, who = folder / TAKEN, read_manifest(version).reference
        if kept.exists():
            bags = json.loads(kept.read_text(encoding="utf-8"))
            self._taken |= set(bags)
            if gone := [bag for bag in bags if not (self._bags / bag).is_dir()]:
                raise ConfigError(
                    f"bags {gone} are not in {self._bags} any more, and {folder} was answered "
                    f"with them; put them back, or delete {folder.parent} and the stages after "
                    "it to learn anew"
                )
            episodes = [self._episode(self._bags / bag, who) for bag in bags]
            changed = [
                bag
                for (bag, digest), episode in zip(bags.items(), episodes, strict=True)
                if episode.digest != digest
            ]
            if changed:
                raise ConfigError(
                    f"bags {changed} are not what they were when {folder} was answered with them "
                    "(judged anew?), and what has learned from them would not come out the same; "
                    f"delete {folder.parent} and the stages after it to learn anew, or choose "
                    "another output folder"
                )
            return episodes
        found = self._gather(
            version, seeds, self._episode, stochastic=stochastic, taken=self._taken
        )
        self._taken |= set(found)
        with replacing(kept) as file:
            digests = {bag: episode.digest for bag, episode in found.items()}
            file.write((json.dumps(digests, indent=2) + "\n").encode())
        return [*found.values()]

    def _episode(self, bag: Path, who: str) -> Episode:
        read = self._episodes.read(bag)
        if read.acted != {who}:
            acted = f"of {sorted(read.acted)}" if read.acted else "of no version"
            raise BagError(f"its commands are {acted}, and its metadata name {who}")
        return _with_its_end(read.episode)

    def _decided(self, bag: Path, who: str) -> EpisodeDecisions:
        read = self._decisions.read(bag)
        if read.policy_version != who:
            raise BagError(
                f"its decisions are of {read.policy_version}, and its metadata name {who}"
            )
        _with_its_end(read.episode)
        return read

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
        found = self._gather(version, seeds, self._decided, stochastic=True, taken=set())
        read, who = [*found.values()], read_manifest(version).reference
        batch = decision_batch(read, who, policy.config.observation.n_obs, self._gamma)
        played = [each.episode for each in read]
        return Collected(
            batch,
            successes=successes(played),
            episodes=len(played),
            periods=sum(map(len, played)),
            recorded=played,
        )

    def success(self, policy: DiffusionPolicy, seeds: range) -> float:  # noqa: ARG002
        """Raises ConfigError."""
        raise ConfigError("episodes that are only watched need the vectorised simulation")

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
        read: Callable[[Path, str], Any],
        *,
        stochastic: bool,
        taken: set[str],
    ) -> dict[str, Any]:
        """What was read of as many bags as wanted, by their folders; none of those taken."""
        who = read_manifest(version).reference
        found: dict[str, _Read] = {}
        while True:
            for entry in read_index(self._bags).entries:
                known = entry.folder in found and found[entry.folder].key == entry.key
                other = entry.metadata.policy_version != who or entry.folder in taken
                if known or other:
                    continue
                found.pop(entry.folder, None)  # what it was before it was judged anew
                if not self._counts(entry, stochastic=stochastic):
                    continue
                content = None
                try:
                    content = read(self._bags / entry.folder, who)
                except (BagError, OSError) as error:
                    _LOG.warning("%s is not used: %s", entry.folder, error)
                found[entry.folder] = _Read(entry.key, content)
            usable = {
                folder: found[folder].content
                for folder in sorted(found)
                if found[folder].content is not None
            }
            if len(usable) >= len(seeds):
                return dict(list(usable.items())[: len(seeds)])
            # An episode that cannot be used has used up its seed all the same.
            first = seeds.start + len(found)
            missing = range(first, first + len(seeds) - len(usable))
            self._ask(Wanted(version, missing, stochastic, len(seeds)))

    def _counts(self, entry: IndexEntry, *, stochastic: bool) -> bool:
        """Whether an episode of the version is of the kind wanted; the log says why not."""
        wanted = f"sampler ddim and stochastic {str(stochastic).lower()}"
        if entry.metadata.outcome == Outcome.UNLABELLED:
            return self._says(entry, "nobody has judged it; judge it, or record another")
        was = self._was_stochastic(entry.folder)
        if was is None:
            reason = f"not all of its decisions were made with {wanted}, or they cannot be read"
            return self._says(entry, reason)
        if was is not stochastic:
            return self._says(entry, f"it is for another request than that with {wanted}")
        return True

    def _says(self, entry: IndexEntry, reason: str) -> bool:
        """Tell once why an episode does not count. False."""
        if (entry.key, reason) not in self._told:
            self._told.add((entry.key, reason))
            _LOG.warning("%s does not count: %s", entry.folder, reason)
        return False

    def _was_stochastic(self, folder: str) -> bool | None:
        if folder not in self._stochastic:
            try:
                decided = read_messages(self._bags / folder, [DECISIONS])[DECISIONS]
            except (BagError, OSError):
                return None  # it may be readable the next time
            known = {
                (message.value.sampler, not message.value.deterministic) for message in decided
            }
            sampler, stochastic = known.pop() if len(known) == 1 else ("", None)
            self._stochastic[folder] = stochastic if sampler == "ddim" else None
        return self._stochastic[folder]


def _with_its_end(episode: Episode) -> Episode:
    """Raises BagError if what was judged is not in the part that can be used."""
    if episode.outcome == "unlabelled":
        raise BagError("the end of the episode, which was judged, cannot be used")
    return episode


@dataclass(frozen=True)
class _Read:
    """A bag as it was when it was read."""

    key: str
    """See ``IndexEntry``."""
    content: Any
    """None if it cannot be used."""
