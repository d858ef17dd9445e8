# SPDX-License-Identifier: Apache-2.0
"""Settings of all stages of Algorithm 1 together."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from rl100_learner.algorithms.critics import CriticConfig
from rl100_learner.algorithms.distillation import DistillationConfig
from rl100_learner.algorithms.offline import OfflineConfig
from rl100_learner.algorithms.online import OnlineConfig
from rl100_learner.algorithms.transition import TransitionConfig
from rl100_learner.training.offline_run import OfflineSettings
from rl100_learner.training.online_run import OnlineSettings
from rl100_learner.training.seeds import BLOCK
from rl100_learner.training.settings import TrainSettings, with_overrides
from rl100_policy.core.config import TaskConfig
from rl100_policy.core.errors import ConfigError

ROUND_EPISODES = 10_000
"""Start states of a round, of the :data:`BLOCK` that a run has."""


class AlgorithmSettings(TrainSettings):
    """Everything that decides a run, besides the demonstrations and how policies act."""

    SIZES: ClassVar[Mapping[str, Sequence[str]]] = {
        "paper": (
            "critics.width=1024", "critics.layers=1", "critics.members=2",
            "critics.returns.width=512", "transition.widths=[1024, 1024, 512, 512]",
            "transition.members=7", "transition.elites=5", "online.value.width=512",
            "online.replay.width=1024", "online.replay.layers=1", "online.replay.members=2",
        ),
        "paper_single": (
            "critics.width=512", "critics.layers=1", "critics.members=2",
            "critics.returns.width=512", "transition.widths=[400, 400, 400, 400]",
            "transition.members=7", "transition.elites=5", "online.value.width=512",
            "online.replay.width=512", "online.replay.layers=1", "online.replay.members=2",
        ),
    }  # fmt: skip
    """Of critics and model, by preset. Source: the published code of RL-100."""
    rounds: Annotated[int, Field(ge=0, lt=BLOCK // ROUND_EPISODES)] = 1
    """M, offline rounds; 0 goes from imitation straight to online learning."""
    rollouts: Annotated[int, Field(ge=2, le=ROUND_EPISODES)] = 300
    """Episodes of the current version per round, drawn with noise."""
    trials: Annotated[int, Field(ge=1, le=ROUND_EPISODES)] = 60
    """Episodes without noise, of the current version and of each candidate, that choose after
    every round and after online learning."""
    watch: Annotated[int, Field(ge=0)] = 0
    """Episodes that every offline iterate plays only to be shown beside the estimate J; they
    choose nothing and are not learned from."""
    retrain: Literal["none", "success", "all"] = "success"
    """Re-train imitation in every round, on the successful or on all episodes so far."""
    gamma: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.99
    """Discount of one control period, in all rounds and online."""
    critics: CriticConfig = CriticConfig()
    transition: TransitionConfig = TransitionConfig()
    offline: OfflineConfig = OfflineConfig()
    candidate_distillation: DistillationConfig = OfflineSettings().distillation
    """Of the student of every offline candidate, beginning with the student it has."""
    online: OnlineConfig = OnlineConfig()
    online_distillation: DistillationConfig = DistillationConfig()
    """Of the student of online learning; ``online.distil_jointly`` of its steps are taken while
    the policy learns."""

    @model_validator(mode="after")
    def _refuse_what_would_fail_later(self) -> Self:
        """Before hours of learning, not after them."""
        played = self.online.episodes_before(self.online.iterations)
        if played > BLOCK:
            raise ValueError(
                f"online.iterations, online.episodes and online.last_episodes make {played} "
                f"episodes, and a run has {BLOCK} start states for them"
            )
        return self

    @classmethod
    def implied(cls, said: Mapping[str, str]) -> list[str]:
        """What some changes imply: sizes of a preset, a tenth of imitation's weights online.

        Args:
            said: Values by the keys that are changed, as a person writes them.
        """
        tenths = []
        for term in ("chamfer", "proprio", "bottleneck"):
            with suppress(KeyError, ValueError):  # not said, or refused where it is read
                tenth = 0.1 * float(said[f"imitation.{term}_weight"])
                tenths.append(f"online.proximal.auxiliary.{term}={tenth!r}")
        return [*cls.SIZES.get(said.get("preset", "").strip("'\""), ()), *tenths]

    @property
    def imitation_settings(self) -> TrainSettings:
        """What the imitation stage takes of them."""
        return TrainSettings(**{key: getattr(self, key) for key in TrainSettings.model_fields})

    @property
    def offline_settings(self) -> OfflineSettings:
        """What an offline stage takes of them."""
        return OfflineSettings(
            **self.acceleration,
            seed=self.seed,
            threads=self.threads,
            gamma=self.gamma,
            critics=self.critics,
            transition=self.transition,
            offline=self.offline,
            distillation=self.candidate_distillation,
        )

    @property
    def online_settings(self) -> OnlineSettings:
        """What the online stage takes of them."""
        return OnlineSettings(
            **self.acceleration,
            seed=self.seed,
            threads=self.threads,
            gamma=self.gamma,
            online=self.online,
            distillation=self.online_distillation,
        )


def settings_for(task: TaskConfig, overrides: Sequence[str] = ()) -> AlgorithmSettings:
    """Settings of a run: the defaults, what suits the task, then what a person changes.

    Args:
        task: Its section ``learning`` is what suits it.
        overrides: Changes as ``key=value``.

    Raises:
        ConfigError: If a key or a value is not valid; says whether the task's or the person's.
    """
    suits = [f"{key}={json.dumps(value)}" for key, value in task.learning.items()]
    try:
        with_overrides(AlgorithmSettings(), suits)
    except ConfigError as error:
        raise ConfigError(f"section learning of task {task.name!r}: {error}") from error
    return with_overrides(AlgorithmSettings(), (*suits, *overrides))
