# SPDX-License-Identifier: Apache-2.0
"""Algorithm 1 of RL-100 as one run: imitation, offline rounds, online; every stage can be resumed.

    <output>/run.json                  settings of the run
    <output>/imitation/                the first version
    <output>/round_<m>/rollouts/       episodes of the version that the round begins with
    <output>/round_<m>/offline/        critics, model, phase, candidates
    <output>/round_<m>/imitation/      the version re-trained on what succeeded so far
    <output>/round_<m>/trials/<name>/  episodes by which the next version was chosen
    <output>/online/                   the last version, and the trials that chose it
    <output>/stages.json               what every stage ended with, in their order

A round lets the current version act with noise, improves it offline on all episodes so far, and
re-trains imitation from nothing; then the current version and all candidates drive from the same
start states, and the most successful goes on. Online learning ends in the same way. So no stage
can leave a worse version behind than chance lets it, and every episode that was played is learned
from.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from rl100_learner.accelerator import choose_device
from rl100_learner.algorithms.critics import CriticConfig
from rl100_learner.algorithms.distillation import DistillationConfig
from rl100_learner.algorithms.offline import OfflineConfig
from rl100_learner.algorithms.online import OnlineConfig
from rl100_learner.algorithms.transition import TransitionConfig
from rl100_learner.data.episode import Episode
from rl100_learner.files import replacing
from rl100_learner.training.collecting import Collector, successes
from rl100_learner.training.identity import claim, fingerprint
from rl100_learner.training.offline_run import OfflineSettings, improve_offline
from rl100_learner.training.online_run import OnlineSettings, improve_version
from rl100_learner.training.run import Progress, train_imitation
from rl100_learner.training.seeds import BLOCK, Purpose, episode_seeds
from rl100_learner.training.settings import TrainSettings
from rl100_policy.core.config import AnyTask, FrozenModel, RobotConfig
from rl100_policy.core.errors import ConfigError
from rl100_policy.core.policy import DiffusionPolicy
from rl100_policy.core.policy_version import read_manifest

RUN, STAGES = "run.json", "stages.json"
_ROUND_EPISODES = 10_000
"""Start states of a round, of the :data:`BLOCK` that a run has."""
Stage = Literal["imitation", "offline", "online"]
ALL_STAGES: tuple[Stage, ...] = ("imitation", "offline", "online")


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
    rounds: Annotated[int, Field(ge=0, lt=BLOCK // _ROUND_EPISODES)] = 1
    """M, offline rounds; 0 goes from imitation straight to online learning."""
    rollouts: Annotated[int, Field(ge=2, le=_ROUND_EPISODES)] = 300
    """Episodes of the current version per round, drawn with noise."""
    trials: Annotated[int, Field(ge=1, le=_ROUND_EPISODES)] = 60
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
    """Of the student at the end of online learning."""

    @model_validator(mode="after")
    def _refuse_what_would_fail_later(self) -> Self:
        """Before hours of learning, not after them."""
        played = self.online.iterations * self.online.episodes
        if played > BLOCK:
            raise ValueError(
                f"online.iterations * online.episodes is {played}, and a run has {BLOCK} start "
                "states for them"
            )
        if self.transition.elites > self.transition.members:
            raise ValueError(
                f"expected no more elites than members, got transition.elites="
                f"{self.transition.elites} of transition.members={self.transition.members}"
            )
        return self

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


class StageRecord(FrozenModel):
    """What a stage ended with."""

    name: str
    """``imitation``, ``round 1``, ..., ``online``."""
    version: str
    """Folder of the version, relative to that of the run."""
    episodes: int
    """Episodes that were played for it, trials included; demonstrations for imitation."""
    periods: int
    """Control periods of those episodes."""
    seconds: float
    """Wall clock, without what was there already when the run was resumed [s]."""
    trials: dict[str, tuple[int, int]] = Field(default_factory=dict)
    """Successes and trials of the current version (``current``) and of the candidates."""
    chosen: str = ""
    """Which of them goes on."""
    rollouts: tuple[int, int] | None = None
    """Successes and number of a round's roll-outs, drawn with noise."""


def run_algorithm(
    demonstrations: Sequence[Episode],
    task: AnyTask,
    robot: RobotConfig | None,
    output: Path,
    settings: AlgorithmSettings,
    collector: Collector,
    on_progress: Callable[[str, Progress], None],
    stages: Sequence[Stage] = ALL_STAGES,
) -> list[StageRecord]:
    """Run what is not finished yet.

    Args:
        demonstrations: Of a person, or of whatever stands for one; failures are welcome.
        task: What the policy sees and does.
        robot: The arm; None of a benchmark.
        output: Folder of the run.
        settings: Everything else.
        collector: Lets versions act.
        on_progress: Called with the name of the stage; an exception from it ends the run, which
            can be resumed.
        stages: Which kinds of stages to run; what an earlier call has finished is taken from the
            folder either way.

    Returns:
        One record per finished stage, in their order.

    Raises:
        ConfigError: If there is nothing to learn from, a stage is asked for before imitation, a
            round after online learning that went without it, a GPU that is not there, or
            ``output`` holds another run.
    """
    choose_device(settings.device)  # refuses before the folder is claimed
    output.mkdir(parents=True, exist_ok=True)
    _claim(output, demonstrations, settings)
    run = _Run(demonstrations, task, robot, output, settings, collector, on_progress, stages)
    return run.go()


def imitation_stage(output: Path, task: AnyTask) -> tuple[Path, str]:
    """Folder of the imitation stage of the run in ``output``, and the name of its version."""
    return output / "imitation", _version_name(output, task, "imitation")


def _version_name(output: Path, task: AnyTask, stage: str) -> str:
    return f"{task.name}_{output.resolve().name}_{stage}"


def read_stages(output: Path) -> list[StageRecord]:
    """Records of the finished stages of a run, in their order."""
    path = output / STAGES
    if not path.exists():
        return []
    return [StageRecord.model_validate(row) for row in json.loads(path.read_text("utf-8"))]


def _claim(output: Path, demonstrations: Sequence[Episode], settings: AlgorithmSettings) -> None:
    """Raises ConfigError if the folder holds a run with other settings or demonstrations."""
    decisive = settings.model_dump(mode="json", exclude={"checkpoint_seconds"})
    used = fingerprint([episode.digest for episode in demonstrations])
    told = {"settings": decisive, "demonstrations": used}
    claim(output / RUN, fingerprint(decisive, used), told)


@dataclass
class _Run:
    demonstrations: Sequence[Episode]
    task: AnyTask
    robot: RobotConfig | None
    output: Path
    settings: AlgorithmSettings
    collector: Collector
    on_progress: Callable[[str, Progress], None]
    stages: Sequence[Stage]
    records: list[StageRecord] = field(default_factory=list)
    played: list[Episode] = field(default_factory=list)
    """All episodes of all rounds so far."""
    own: list[Episode] = field(default_factory=list)
    """Those of ``played`` in which the current version acted."""

    def go(self) -> list[StageRecord]:
        before = {record.name: record for record in read_stages(self.output)}
        self._stage("imitation", "imitation", before, self._imitate)
        for index in range(1, self.settings.rounds + 1):
            # A finished round is gone through again: it finds everything there, and so tells
            # what comes after it what was played.
            self._stage("offline", f"round {index}", before, partial(self._round, index))
        self._stage("online", "online", before, self._online)
        return self.records

    def _stage(
        self,
        kind: Stage,
        name: str,
        before: dict[str, StageRecord],
        work: Callable[[], StageRecord],
    ) -> None:
        tells_online = kind == "offline" and name in before and "online" in self.stages
        if kind not in self.stages and not tells_online:
            if name in before:
                self.records.append(before[name])
            return
        if kind == "offline" and name not in before and "online" in before:
            raise ConfigError(
                f"online learning in {self.output} went without {name}; choose another output "
                "folder to begin with the rounds"
            )
        began = time.monotonic()
        record = work()
        if name in before:
            record = record.model_copy(update={"seconds": before[name].seconds})
        else:
            record = record.model_copy(update={"seconds": time.monotonic() - began})
        self.records.append(record)
        gone_through = {each.name for each in self.records}
        later = [each for each in before.values() if each.name not in gone_through]
        rows = [each.model_dump(mode="json") for each in [*self.records, *later]]
        with replacing(self.output / STAGES) as file:
            file.write((json.dumps(rows, indent=2) + "\n").encode())

    @property
    def current(self) -> Path:
        """Version that the next stage begins with."""
        if not self.records:
            raise ConfigError(
                f"{self.output} holds no version to begin with; run the stage imitation first"
            )
        return self.output / self.records[-1].version

    def _imitate(self) -> StageRecord:
        folder, name = imitation_stage(self.output, self.task)
        version = train_imitation(
            self.demonstrations, self.task, self.robot, folder, self.settings.imitation_settings,
            self._teller("imitation"), name,
        )  # fmt: skip
        return self._record("imitation", version, self.demonstrations)

    def _round(self, index: int) -> StageRecord:
        name, folder = f"round {index}", self.output / f"round_{index}"
        settings, first = self.settings, (index - 1) * _ROUND_EPISODES
        current, tell = self.current, self._teller(name)
        seeds = episode_seeds(Purpose.ROLLOUTS, settings.seed, first, settings.rollouts)
        rollouts = self.collector.episodes(current, seeds, folder / "rollouts", stochastic=True)
        self.played += rollouts
        self.own += _alone(rollouts)
        known = [*self.demonstrations, *self.played]
        candidates: dict[str, Path] = {}
        if successes(self.own) < len(self.own):  # otherwise there is nothing to improve
            found = improve_offline(
                current, folder / "offline", known, self.own, settings.offline_settings, tell,
                self._name(f"round_{index}"), self._watch if settings.watch else None,
            )  # fmt: skip
            candidates = {f"iterate {each.iteration}": each.version for each in found}
        if settings.retrain != "none":
            again = settings.imitation_settings.model_copy(update={"episodes": settings.retrain})
            candidates["imitation"] = train_imitation(
                known, self.task, self.robot, folder / "imitation", again, tell,
                self._name(f"round_{index}_imitation"),
            )  # fmt: skip
        trials = self._trials(folder / "trials", first, {"current": current} | candidates)
        record = self._chosen(name, {"current": current} | candidates, trials, rollouts)
        record = record.model_copy(update={"rollouts": (successes(rollouts), len(rollouts))})
        tried = [episode for episodes in trials.values() for episode in episodes]
        self.played += tried
        mine = _alone(trials[record.chosen])
        self.own = [*self.own, *mine] if record.chosen == "current" else mine
        return record

    def _chosen(
        self,
        name: str,
        versions: dict[str, Path],
        trials: dict[str, Sequence[Episode]],
        others: Sequence[Episode],
    ) -> StageRecord:
        """Record of a stage whose trials chose, and in which others were played too."""
        won = {each: successes(episodes) for each, episodes in trials.items()}
        chosen = max(trials, key=lambda each: (won[each], -_mean_length(trials[each])))
        tried = [episode for episodes in trials.values() for episode in episodes]
        return self._record(name, versions[chosen], [*others, *tried]).model_copy(
            update={
                "trials": {each: (won[each], len(trials[each])) for each in trials},
                "chosen": chosen,
            }
        )

    def _trials(
        self, folder: Path, first: int, versions: dict[str, Path]
    ) -> dict[str, Sequence[Episode]]:
        settings = self.settings
        seeds = episode_seeds(Purpose.TRIALS, settings.seed, first, settings.trials)
        return {
            name: self.collector.episodes(
                version, seeds, folder / name.replace(" ", "_"), stochastic=False
            )
            for name, version in versions.items()
        }

    def _online(self) -> StageRecord:
        current, folder = self.current, self.output / "online"
        learned = improve_version(
            current, folder, self.settings.online_settings, self.collector,
            self._teller("online"), self._name("online"),
            [*self.demonstrations, *self.played], self.own,
        )  # fmt: skip
        metrics = read_manifest(learned).metrics
        versions = {"current": current, "online": learned}
        first = self.settings.rounds * _ROUND_EPISODES
        record = self._chosen(
            "online", versions, self._trials(folder / "trials", first, versions), ()
        )
        return record.model_copy(
            update={
                "episodes": record.episodes + int(metrics["online_episodes"]),
                "periods": record.periods + int(metrics["online_periods"]),
            }
        )

    def _record(self, name: str, version: Path, episodes: Sequence[Episode]) -> StageRecord:
        return StageRecord(
            name=name,
            version=str(version.resolve().relative_to(self.output.resolve())),
            episodes=len(episodes),
            periods=sum(map(len, episodes)),
            seconds=0.0,
        )

    def _watch(self, policy: DiffusionPolicy) -> float:
        settings = self.settings
        seeds = episode_seeds(Purpose.WATCH, settings.seed, 0, settings.watch)
        return self.collector.success(policy, seeds)

    def _name(self, stage: str) -> str:
        """Of a version: no two runs of a task share one."""
        return _version_name(self.output, self.task, stage)

    def _teller(self, name: str) -> Callable[[Progress], None]:
        return lambda progress: self.on_progress(name, progress)


def _alone(episodes: Sequence[Episode]) -> list[Episode]:
    """Those in which nobody took over: only they tell what the version itself is worth."""
    return [episode for episode in episodes if not episode.taken_over]


def _mean_length(episodes: Sequence[Episode]) -> float:
    """Mean length of the successes [control periods]; settles ties between versions."""
    lengths = [len(each) for each in episodes if each.outcome == "success"]
    return sum(lengths) / len(lengths) if lengths else 0.0
