# SPDX-License-Identifier: Apache-2.0
"""The offline stage as a run: a version and episodes in, versions that the gate let through out.

    encode once -> critics, transition model -> proximal phase under the gate
    -> distil every snapshot that was accepted -> write it as a candidate

Which candidate replaces the version is for roll-outs to say, and so for the caller. The whole
stage takes a minute or two; one that was killed is run again, to the same bits.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from rl100_learner.accelerator import AcceleratorSettings, accelerated, place, threads
from rl100_learner.algorithms import critics, distillation, offline, transition
from rl100_learner.algorithms.batches import EncodedDecisions
from rl100_learner.algorithms.critics import CriticConfig, Critics
from rl100_learner.algorithms.distillation import DistillationConfig
from rl100_learner.algorithms.offline import Iteration, Judge, OfflineConfig
from rl100_learner.algorithms.transition import TransitionConfig
from rl100_learner.data.episode import Episode
from rl100_learner.files import replacing
from rl100_learner.training import identity
from rl100_learner.training.encoding import encode_decisions, rows_of, within_range
from rl100_learner.training.progress import Progress
from rl100_learner.training.records import Records
from rl100_policy.core.config import longest_episode
from rl100_policy.core.errors import LearningError
from rl100_policy.core.policy import DiffusionPolicy
from rl100_policy.core.policy_version import (
    BagReference,
    Manifest,
    load_version,
    write_version,
)

RESOLVED, CANDIDATES = identity.OFFLINE, "candidates.json"
_STEPS_TOLD = 50
"""Optimiser steps between two words of progress."""


def _distillation() -> DistillationConfig:
    return DistillationConfig(steps=400)


class OfflineSettings(AcceleratorSettings):
    """Everything that decides the weights of the offline stage, besides the episodes."""

    seed: int = 0
    threads: Annotated[int, Field(ge=1)] = 1
    """Threads per tensor operation; part of what makes a run repeatable bit for bit."""
    gamma: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.99
    """Discount of one control period."""
    critics: CriticConfig = CriticConfig()
    transition: TransitionConfig = TransitionConfig()
    offline: OfflineConfig = OfflineConfig()
    distillation: DistillationConfig = Field(default_factory=_distillation)
    """Of the student of every candidate, beginning with the student of the version."""


@dataclass(frozen=True)
class Candidate:
    """A snapshot that the gate let through.

    Attributes:
        version: Its folder.
        iteration: Of the phase, from 1.
        j: AM-Q estimate.
        j_snapshot: That of the snapshot it was compared with.
    """

    version: Path
    iteration: int
    j: float
    j_snapshot: float


def improve_offline(
    version: Path,
    output: Path,
    data: Sequence[Episode],
    own: Sequence[Episode],
    settings: OfflineSettings,
    on_progress: Callable[[Progress], None],
    name: str = "",
    watch: Callable[[DiffusionPolicy], float] | None = None,
) -> list[Candidate]:
    """Improve a version on episodes, without acting.

    Args:
        version: Folder of the version to begin with.
        output: Folder of the run: records, resolved settings, and the candidates.
        data: All episodes, of whomever.
        own: Those of them in which this version acted; its value is learned from them.
        settings: Everything else.
        on_progress: Called now and then on this thread; an exception from it ends the run.
        name: Of the candidates, each followed by its iteration; ``<task>_<name of output>`` if
            empty.
        watch: True success share of a policy, recorded beside J of every iterate; it decides
            nothing.

    Returns:
        The candidates in the order of the phase; none if the gate let nothing through.

    Raises:
        ConfigError: If an episode does not fit the policy, or ``output`` holds another run.
        LearningError: If ``own`` holds no success or nothing but successes.
        PolicyVersionError: If the version is damaged.
    """
    policy, parent = load_version(version)
    _require_both_outcomes(own)
    episodes = [[[e.id, e.digest] for e in each] for each in (data, own)]
    told = settings.model_dump(mode="json")
    fingerprint = identity.fingerprint(told, parent.digest, episodes)
    identity.claim(output / RESOLVED, fingerprint, {"settings": told})
    finished = _finished(output)
    if finished is not None:
        return finished
    data, own = (within_range(policy, each) for each in (data, own))
    bags = tuple(BagReference(id=episode.id, sha256=episode.digest) for episode in data)
    with threads(settings.threads), accelerated(settings), Records(output, 0) as records:
        name = name or f"{parent.task.name}_{output.resolve().name}"
        run = _OfflineRun(
            output, name, settings, parent, bags, fingerprint, records, on_progress, watch
        )
        found = run.improve(place(policy), data, own)
    rows = [
        {"version": each.version.name, "iteration": each.iteration, "j": each.j,
         "j_snapshot": each.j_snapshot}
        for each in found
    ]  # fmt: skip
    content = json.dumps(rows, indent=2) + "\n"
    with replacing(output / CANDIDATES) as file:
        file.write(content.encode())
    return found


def _require_both_outcomes(own: Sequence[Episode]) -> None:
    won = sum(episode.outcome == "success" for episode in own)
    if not 0 < won < len(own):
        raise LearningError(
            f"{won} of {len(own)} roll-outs of the policy are labelled a success, so nothing "
            "tells good from bad; look at the labels, go on with --stage online, or begin anew in "
            "another output folder with more roll-outs (rollouts=...) or better demonstrations"
        )


def _finished(output: Path) -> list[Candidate] | None:
    path = output / CANDIDATES
    if not path.exists():
        return None
    return [
        Candidate(output / row["version"], row["iteration"], row["j"], row["j_snapshot"])
        for row in json.loads(path.read_text(encoding="utf-8"))
    ]


def _drawn(data: Sequence[Episode], own: Sequence[Episode], share: float, seed: int) -> set[str]:
    """Digests of a share of the episodes; of ``own`` at least one, and never all."""
    generator = torch.Generator().manual_seed(seed)
    mine = [episode.digest for episode in own]
    others = [episode.digest for episode in data if episode.digest not in set(mine)]
    least = min(max(1, round(share * len(mine))), len(mine) - 1)
    drawn = []
    for digests, count in ((mine, least), (others, round(share * len(others)))):
        order = torch.randperm(len(digests), generator=generator)[:count]
        drawn += [digests[index] for index in order]
    return set(drawn)


@dataclass
class _OfflineRun:
    output: Path
    name: str
    settings: OfflineSettings
    parent: Manifest
    bags: tuple[BagReference, ...]
    fingerprint: str
    records: Records
    on_progress: Callable[[Progress], None]
    watch: Callable[[DiffusionPolicy], float] | None
    seconds: float = 0.0
    rows: int = 0

    def improve(
        self, policy: DiffusionPolicy, data: Sequence[Episode], own: Sequence[Episode]
    ) -> list[Candidate]:
        settings = self.settings
        began = time.perf_counter()
        longest = longest_episode(self.parent.task, self.parent.robot)
        everything = encode_decisions(policy, data, settings.gamma, longest)
        digests = {episode.digest for episode in own}
        own = [episode for episode in data if episode.digest in digests]
        mine = everything.where(rows_of(data, digests))
        self._tell("encoding", 1, 1, began, {"loss": 0.0, "decisions": float(len(everything))})
        generator = torch.Generator().manual_seed(settings.seed)
        improving, judging, judged = self._critics(data, own, everything, mine, generator)
        began = time.perf_counter()
        name, fitting = "transition model", settings.transition
        model, told = transition.fit(
            judged, settings.seed, generator, fitting, self._on_step(name, fitting.steps)
        )
        self._tell(name, fitting.steps, fitting.steps, began, told)
        judge = Judge(judging, model, mine.condition[mine.starts], settings.seed)
        own_only = settings.offline.own_states and settings.offline.method == "proximal"
        states = mine if own_only else everything
        found: list[Candidate] = []
        steps = settings.offline.iterations
        judges = {"j": judge}
        if improving is not judging:
            judges["j_improving"] = dataclasses.replace(judge, critics=improving)
        if self.watch is not None:
            self._tell_start(policy, judges)
        began = time.perf_counter()
        for index, iteration in enumerate(
            offline.phase(policy, improving, judge, states, settings.seed, settings.offline),
            start=1,
        ):
            metrics = iteration.metrics
            if "j_improving" in judges:
                own_j = offline.estimate(iteration.policy, judges["j_improving"], settings.offline)
                metrics = metrics | {"j_improving": own_j}
            if self.watch is not None:
                metrics = metrics | {"success": self.watch(iteration.policy)}
            self._tell("offline", index, steps, began, metrics)
            # without the gate nobody knows of a better one than the last
            if iteration.decision.accepted and (settings.offline.gate.enabled or index == steps):
                found.append(self._candidate(index, iteration, everything, generator))
            began = time.perf_counter()
        if index < steps:  # the gate has ended the phase
            self.on_progress(Progress("offline", index, index, metrics["loss"], self.seconds))
        return found

    def _tell_start(self, policy: DiffusionPolicy, judges: Mapping[str, Judge]) -> None:
        """The policy that the phase begins with, as an iterate before the first."""
        assert self.watch is not None, "who is not watched is not told of"
        began, start = time.perf_counter(), copy.deepcopy(policy).requires_grad_(False)
        told = {"loss": 0.0, "accepted": 0.0, "distance": 0.0}
        for name, judge in judges.items():
            told[name] = offline.estimate(start, judge, self.settings.offline)
        told["j_snapshot"] = told["j"]
        told["success"] = self.watch(start)
        self._tell("offline", 0, self.settings.offline.iterations, began, told)

    def _critics(
        self,
        data: Sequence[Episode],
        own: Sequence[Episode],
        everything: EncodedDecisions,
        mine: EncodedDecisions,
        generator: torch.Generator,
    ) -> tuple[Critics, Critics, EncodedDecisions]:
        """Those that improve, those that judge, and what these have learned from."""
        share = self.settings.offline.gate.held_out
        if share == 0.0:
            fitted = self._fit("critics", everything, mine, generator, self.settings.seed)
            return fitted, fitted, everything
        held = _drawn(data, own, share, self.settings.seed)
        fitted, judging = (
            self._fit(
                name,
                everything.where(rows_of(data, held) == is_held),
                mine.where(rows_of(own, held) == is_held),
                generator,
                self.settings.seed + is_held,  # who judges begins with other weights
            )
            for name, is_held in (("critics", False), ("judging critics", True))
        )
        return fitted, judging, everything.where(rows_of(data, held))

    def _fit(
        self,
        name: str,
        data: EncodedDecisions,
        own: EncodedDecisions,
        generator: torch.Generator,
        seed: int,
    ) -> Critics:
        began = time.perf_counter()
        config = self.settings.critics
        on_step = self._on_step(name, config.steps)
        fitted, told = critics.fit(data, own, seed, generator, config, on_step)
        self._tell(name, config.steps, config.steps, began, told | {"loss": told["q_loss"]})
        return fitted

    def _on_step(self, name: str, steps: int) -> Callable[[int, Tensor], None]:
        """Progress of a fit, which has one record at its end."""

        def tell(step: int, loss: Tensor) -> None:
            if step % _STEPS_TOLD == 0 and step < steps:
                self.on_progress(Progress(name, step, steps, float(loss), self.seconds))

        return tell

    def _candidate(
        self,
        index: int,
        iteration: Iteration,
        data: EncodedDecisions,
        generator: torch.Generator,
    ) -> Candidate:
        folder = self.output / f"{self.name}_{index}"
        self._distil(iteration.policy, index, data.condition, generator)
        decision = iteration.decision
        candidate = Candidate(folder, index, decision.candidate, decision.incumbent)
        if folder.exists():  # of a run that was killed; this one came to the same bits
            return candidate
        write_version(
            folder,
            iteration.policy.requires_grad_(False),
            task=self.parent.task,
            robot=self.parent.robot,
            parents=(self.parent.reference,),
            bags=self.bags,
            metrics=iteration.metrics | {"iteration": float(index), "seconds": self.seconds},
            training={
                "fingerprint": self.fingerprint,
                "settings": self.settings.model_dump(mode="json"),
            },
        )
        return candidate

    def _distil(
        self, policy: DiffusionPolicy, index: int, conditions: Tensor, generator: torch.Generator
    ) -> None:
        config = self.settings.distillation
        state = distillation.init(place(policy), config)
        began = time.perf_counter()
        stage = f"distillation of iterate {index}"
        while state.step < config.steps:
            rows = torch.randint(len(conditions), (config.windows,), generator=generator)
            metrics = distillation.update(state, conditions[rows], generator, config)
            if state.step % _STEPS_TOLD == 0 or state.step == config.steps:
                self._tell(stage, state.step, config.steps, began, metrics)
                began = time.perf_counter()
        policy.student.load_state_dict(state.averaged.state_dict())

    def _tell(
        self, stage: str, step: int, steps: int, began: float, metrics: dict[str, float]
    ) -> None:
        self.seconds += time.perf_counter() - began
        self.rows += 1
        self.records.write(stage, step, self.rows, self.seconds, metrics)
        self.on_progress(Progress(stage, step, steps, metrics["loss"], self.seconds))
