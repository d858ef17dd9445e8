# SPDX-License-Identifier: Apache-2.0
"""The online stage as a run: a version in, roll-outs, a better version with its student out.

Where the roll-outs come from is the caller's: anything that lets the current policy drive and
tells what it decided and what came of it. A run that was killed goes on from its last iteration
when called again with the same arguments. A policy that turns out clearly worse than the best one
so far is given up, and learning goes on from the best with smaller steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from rl100_learner.accelerator import AcceleratorSettings, accelerated, moved, place, threads
from rl100_learner.algorithms import distillation, online
from rl100_learner.algorithms.distillation import DistillationConfig, DistillationState
from rl100_learner.algorithms.online import OnlineConfig, OnlineState, Seen
from rl100_learner.algorithms.proximal import encode_windows
from rl100_learner.data.episode import Episode
from rl100_learner.objectives.evaluation import clearly_worse
from rl100_learner.training import identity
from rl100_learner.training.checkpoint import CHECKPOINT, load_checkpoint, save_checkpoint
from rl100_learner.training.collecting import Collected, Collector
from rl100_learner.training.encoding import encode_decisions, rows_of, within_range
from rl100_learner.training.progress import Progress
from rl100_learner.training.records import Records
from rl100_learner.training.seeds import Purpose, episode_seeds
from rl100_learner.training.windows import build_windows
from rl100_policy.core.config import longest_episode
from rl100_policy.core.errors import LearningError
from rl100_policy.core.policy import DiffusionPolicy
from rl100_policy.core.policy_version import (
    BagReference,
    Manifest,
    load_version,
    write_version,
)

RESOLVED = identity.ONLINE
_AT_THE_END = 0.6
"""Share of ``return_deviations`` that is evidence enough after the last iteration."""
_HOPELESS = 3
"""Iterations without any success, after none before either, that end the stage."""
_STEPS_PER_ROW = 100
"""Steps of the student between two rows of records after the last iteration."""


class OnlineSettings(AcceleratorSettings):
    """Everything that decides the weights of the online stage, besides the roll-outs."""

    seed: int = 0
    threads: Annotated[int, Field(ge=1)] = 1
    """Threads per tensor operation; part of what makes a run repeatable bit for bit."""
    gamma: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.99
    """Discount of one control period."""
    online: OnlineConfig = OnlineConfig()
    distillation: DistillationConfig = DistillationConfig()
    """Of the one-step student, beginning with the one that the version has."""


def improve_version(
    version: Path,
    output: Path,
    settings: OnlineSettings,
    collector: Collector,
    on_progress: Callable[[Progress], None],
    name: str = "",
    data: Sequence[Episode] = (),
    own: Sequence[Episode] = (),
) -> Path:
    """Improve a version by online reinforcement learning.

    Args:
        version: Folder of the version to begin with.
        output: Folder of the run: records, checkpoint, resolved settings, and the new version.
        settings: Everything else.
        collector: Lets the policy act.
        on_progress: Called after every iteration and now and then while distilling.
        name: Of the new version; ``<task>_<name of output>`` if empty.
        data: Episodes that there are already, of whomever; Q learns from them too.
        own: Those of them in which this version acted; its value is learned from them before it
            begins.

    Returns:
        Folder of the new version, in ``output``.

    Raises:
        ConfigError: If ``output`` holds another run.
        LearningError: If no episode ever succeeds, or a loss is not a number.
        PolicyVersionError: If the version is damaged.
    """
    policy, parent = load_version(version)
    fingerprint = claim_run(parent, output, settings, data, own)
    result = output / (name or f"{parent.task.name}_{output.resolve().name}")
    if result.exists():
        return result
    hope = any(episode.outcome == "success" for episode in data)
    data = within_range(policy, data if settings.online.replay.states > 0 else own)
    with threads(settings.threads), accelerated(settings):
        longest = longest_episode(parent.task, parent.robot)
        run = _OnlineRun(
            output, parent.name, longest, settings, fingerprint, collector, on_progress, hope
        )
        metrics = run.improve(place(policy), data, own)
    known = [(episode.id, episode.digest) for episode in data]
    bags = {id: BagReference(id=id, sha256=sha256) for id, sha256 in [*known, *run.bags]}
    write_version(
        result,
        policy.requires_grad_(False),
        task=parent.task,
        robot=parent.robot,
        parents=(parent.reference,),
        bags=tuple(({bag.id: bag for bag in parent.bags} | bags).values()),
        metrics=metrics,
        training={"fingerprint": fingerprint, "settings": settings.model_dump(mode="json")},
    )
    (output / CHECKPOINT).unlink(missing_ok=True)
    return result


def claim_run(
    parent: Manifest,
    output: Path,
    settings: OnlineSettings,
    data: Sequence[Episode] = (),
    own: Sequence[Episode] = (),
) -> str:
    """Take a folder for a run, as :func:`improve_version` does when it begins.

    Args:
        parent: Of the version to begin with.
        output: Folder of the run.
        settings: Of the run.
        data: See there.
        own: See there.

    Returns:
        The run's fingerprint.

    Raises:
        ConfigError: If ``output`` holds another run.
    """
    used = [[[each.id, each.digest] for each in known] for known in (data, own)]
    told = settings.model_dump(mode="json")
    fingerprint = identity.fingerprint(told, parent.digest, used)
    identity.claim(output / RESOLVED, fingerprint, {"settings": told})
    return fingerprint


@dataclass
class _Best:
    """The most successful policy so far, with all that was seen of it."""

    weights: dict[str, Tensor]
    won: int
    of: int
    acts: bool = False
    """It has just come back, and acts again."""


@dataclass
class _OnlineRun:
    output: Path
    parent: str
    longest: int | None
    """Control periods until the time limit."""
    settings: OnlineSettings
    fingerprint: str
    collector: Collector
    on_progress: Callable[[Progress], None]
    hope: bool
    """Whether an episode has ever succeeded; without one there is nothing to prefer."""
    seconds: float = 0.0
    episodes: int = 0
    periods: int = 0
    latest: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)
    """Observation windows of the latest iterations: what was seen, and proprioception."""
    best: _Best | None = None
    returned: int = 0
    """Times that learning went back to the best policy."""
    success: float = 0.0
    """Share of the successes of the policy that acted last, or came back after it."""
    bags: list[tuple[str, str]] = field(default_factory=list)
    """Ids and digests of the bags that the iterations have learned from."""
    played: list[tuple[int, int]] = field(default_factory=list)
    """Successes and episodes of every iteration."""

    def improve(
        self, policy: DiffusionPolicy, data: Sequence[Episode], own: Sequence[Episode]
    ) -> dict[str, float]:
        config = self.settings.online
        state = online.init(policy, config, self.settings.seed)
        student = distillation.init(policy, self.settings.distillation)
        generator = torch.Generator().manual_seed(self.settings.seed)
        self._begin(state, data, own)
        self._restore(state, student, generator)
        self._refuse_to_go_on_without_hope()  # a run that had ended so is not gone on with
        with Records(self.output, state.iteration) as records:
            while state.iteration < config.iterations and not self._is_enough():
                began = time.perf_counter()
                first = config.episodes_before(state.iteration)
                count = config.episodes_of(state.iteration)
                seeds = episode_seeds(Purpose.ONLINE, self.settings.seed, first, count)
                replays = config.replay.states > 0
                found = self.collector.decisions(
                    policy, self.parent, seeds, generator, every_frame=replays
                )
                seen = self._seen(state, found, generator) if replays else None
                played = found.successes / max(1, found.episodes)
                metrics = self._learn(state, found, seen, generator)
                best = self.best
                self.success = best.won / best.of if best is not None and best.acts else played
                self._remember(found)
                metrics |= {
                    "success": played,
                    "episodes": float(self.episodes),
                    "periods": float(self.periods),
                    "returned": float(self.returned),
                }
                share = self.settings.online.distil_jointly * state.iteration / config.iterations
                told = self._distil(student, share, generator)
                metrics |= {f"student_{key}": number for key, number in told.items()}
                self.seconds += time.perf_counter() - began
                records.write("online", state.iteration, state.iteration, self.seconds, metrics)
                self._save(state, student, generator)
                self.on_progress(
                    Progress(
                        "online",
                        state.iteration,
                        config.iterations,
                        metrics.get("loss", float("nan")),
                        self.seconds,
                        played,
                    )
                )
                self._refuse_to_go_on_without_hope()
            self._end_with_the_average_or_the_best(state)
            self._finish(student, generator, records)
        policy.student.load_state_dict(student.averaged.state_dict())
        return {
            "online_success": self.success,
            "online_episodes": float(self.episodes),
            "online_periods": float(self.periods),
            "seconds": self.seconds,
        }

    def _refuse_to_go_on_without_hope(self) -> None:
        if not self.hope and len(self.played) >= _HOPELESS:
            raise LearningError(
                f"none of {self.episodes} episodes succeeded, so nothing tells good from bad and "
                "the policy is as it was; begin with a version that sometimes succeeds: more or "
                "better demonstrations, or an easier start"
            )

    def _is_enough(self) -> bool:
        """Whether the latest policies hardly fail any more."""
        config, won, of = self.settings.online, 0, 0
        for successes, episodes in reversed(self.played):
            won, of = won + successes, of + episodes
            if of >= config.enough_episodes:
                return won >= config.enough * of
        return False

    def _begin(self, state: OnlineState, data: Sequence[Episode], own: Sequence[Episode]) -> None:
        """What the episodes before tell; after a kill their encoding is the same again."""
        config = self.settings.online
        digests = {episode.digest for episode in own}
        known = mine = None
        if data:
            known = encode_decisions(state.features, data, self.settings.gamma, self.longest)
            rows = rows_of(data, digests)
            mine = known.where(rows) if rows.any() else None
        if config.replay.states == 0:
            known = None
        generator = torch.Generator().manual_seed(self.settings.seed)
        online.begin_with(state, known, mine, generator, config)

    def _seen(
        self, state: OnlineState, found: Collected, generator: torch.Generator
    ) -> Seen | None:
        """Of the episodes in which nobody took over; None if there are none."""
        config = self.settings.online
        alone = [episode for episode in found.recorded if not episode.taken_over]
        if not alone:
            return None
        played = within_range(state.features, alone)
        windows = build_windows(played, state.features.config)
        some = windows.sample(config.replay.states, windows.visual.shape[1], generator)
        gamma = self.settings.gamma
        decisions = encode_decisions(state.features, played, gamma, self.longest)
        device = state.policy.device
        return Seen(decisions, some.visual.to(device), some.proprio.to(device))

    def _learn(
        self,
        state: OnlineState,
        found: Collected,
        seen: Seen | None,
        generator: torch.Generator,
    ) -> dict[str, float]:
        """Improve the policy that has just acted, keep it, or give it up for the best one."""
        best, won, of = self.best, found.successes, found.episodes
        worse = best is not None and clearly_worse(
            won, of, best.won, best.of, self.settings.online.return_deviations
        )
        if best is not None and best.acts:
            self.best = _Best(best.weights, best.won + won, best.of + of)
        elif best is not None and worse:
            self.returned += 1
            online.forget_steps(state, best.weights, seen, self.settings.online)
            self.best = replace(best, acts=True)
            return {}
        elif best is None or won / of >= best.won / best.of:
            self.best = _Best(online.weights(state), won, of)
        self.hope = self.hope or won > 0
        if won >= self.settings.online.enough * of or not self.hope:
            online.remember(state, seen, self.settings.online)
            return {}
        batch = moved(found.batch, state.policy.device)
        return online.update(state, batch, seen, generator, self.settings.online)

    def _end_with_the_average_or_the_best(self, state: OnlineState) -> None:
        """Give up the last policy for the best one on less evidence: it cannot recover any more.

        Otherwise the average of the latest remains. The student's remaining steps follow it.
        """
        best, share = self.best, self.settings.online.return_deviations * _AT_THE_END
        won, of = self.played[-1] if self.played else (0, 0)
        acts = best is None or best.acts
        if best is not None and not acts and clearly_worse(won, of, best.won, best.of, share):
            self.returned += 1
            self.success = best.won / best.of
            state.policy.load_state_dict(best.weights, strict=False)
        elif state.averaged:
            state.policy.load_state_dict(state.averaged, strict=False)

    def _distil(
        self, student: DistillationState, share: float, generator: torch.Generator
    ) -> dict[str, float]:
        """Take the student's steps up to a share of them all; what the last one told."""
        config = self.settings.distillation
        metrics: dict[str, float] = {}
        if student.step >= int(share * config.steps):
            return metrics
        visual, proprio = (torch.cat(parts) for parts in zip(*self.latest, strict=True))
        conditions = encode_windows(student.policy, visual, proprio)
        while student.step < int(share * config.steps):
            rows = torch.randint(len(conditions), (config.windows,), generator=generator)
            metrics = distillation.update(student, conditions[rows], generator, config)
        return metrics

    def _finish(
        self, student: DistillationState, generator: torch.Generator, records: Records
    ) -> None:
        """The student's remaining steps."""
        config, before = self.settings.distillation, len(self.played)
        while student.step < config.steps:
            began = time.perf_counter()
            share = min(1.0, (student.step + _STEPS_PER_ROW) / config.steps)
            metrics = self._distil(student, share, generator)
            self.seconds += time.perf_counter() - began
            step, loss = student.step, metrics["loss"]
            records.write("distillation", step, before + step, self.seconds, metrics)
            self.on_progress(Progress("distillation", step, config.steps, loss, self.seconds))

    def _remember(self, found: Collected) -> None:
        self.played.append((found.successes, found.episodes))
        self.episodes += found.episodes
        self.periods += found.periods
        recorded = [each for each in found.recorded if each.source_sha256]
        self.bags += [(each.id, each.source_sha256) for each in recorded]
        newest = (found.batch.visual, found.batch.proprio)
        self.latest = [*self.latest, newest][-self.settings.online.distil_on :]

    def _save(
        self, state: OnlineState, student: DistillationState, generator: torch.Generator
    ) -> None:
        content = {
            "online": online.state_dict(state),
            "student": distillation.state_dict(student),
            "generator": generator.get_state(),
            "seconds": self.seconds,
            "episodes": self.episodes,
            "periods": self.periods,
            "latest": [list(pair) for pair in self.latest],
            "best": None if self.best is None else asdict(self.best),
            "returned": self.returned,
            "success": self.success,
            "bags": self.bags,
            "played": self.played,
        }
        save_checkpoint(self.output / CHECKPOINT, self.fingerprint, content)

    def _restore(
        self, state: OnlineState, student: DistillationState, generator: torch.Generator
    ) -> None:
        saved = load_checkpoint(self.output / CHECKPOINT, self.fingerprint)
        if saved is None:
            return
        online.load_state_dict(state, saved["online"])
        distillation.load_state_dict(student, saved["student"])
        generator.set_state(saved["generator"])
        self.seconds, self.episodes = saved["seconds"], saved["episodes"]
        self.periods = saved["periods"]
        self.latest = [(visual, proprio) for visual, proprio in saved["latest"]]
        self.best = None if saved["best"] is None else _Best(**saved["best"])
        self.returned, self.success = saved["returned"], saved["success"]
        self.bags, self.played = saved["bags"], saved["played"]
        self.hope = self.hope or any(won for won, _ in self.played)
