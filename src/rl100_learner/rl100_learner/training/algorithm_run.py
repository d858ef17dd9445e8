# SPDX-License-Identifier: Apache-2.0
"""Algorithm 1 of RL-100 as one run: imitation, offline rounds, online; every stage can be resumed.

    <output>/run.json                  settings of the run
    <output>/acted_in.txt              where its policies act: simulation or bags
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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rl100_learner.accelerator import choose_device
from rl100_learner.data.episode import Episode
from rl100_learner.files import replacing
from rl100_learner.training import identity
from rl100_learner.training.algorithm_settings import ROUND_EPISODES, AlgorithmSettings
from rl100_learner.training.collecting import Collector, successes
from rl100_learner.training.identity import alone_in, claim, fingerprint
from rl100_learner.training.imitation_run import imitated, policy_config_for, train_imitation
from rl100_learner.training.offline_run import improve_offline
from rl100_learner.training.online_run import improve_version
from rl100_learner.training.progress import Progress
from rl100_learner.training.seeds import Purpose, episode_seeds
from rl100_learner.training.stages import (
    ALL_STAGES,
    CURRENT,
    STAGES,
    Stage,
    StageRecord,
    read_stages,
)
from rl100_policy.core.config import AnyTask, RobotConfig
from rl100_policy.core.errors import ConfigError
from rl100_policy.core.policy import DiffusionPolicy
from rl100_policy.core.policy_version import read_manifest

RUN = identity.RUN
COLLECTOR = "acted_in.txt"
"""Where policies act: :attr:`.Collector.where`."""


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
            round after online learning that went without it, episodes to be watched of a collector
            that plays none, a GPU that is not there, or ``output`` holds another run or another
            process is learning in it.
    """
    _refuse(demonstrations, task, robot, settings, collector, stages, output)
    with alone_in(output):
        _claim(output, demonstrations, task, robot, settings)
        run = _AlgorithmRun(
            demonstrations, task, robot, output, settings, collector, on_progress, stages
        )
        return run.go()


def _refuse(
    demonstrations: Sequence[Episode],
    task: AnyTask,
    robot: RobotConfig | None,
    settings: AlgorithmSettings,
    collector: Collector,
    stages: Sequence[Stage],
    output: Path,
) -> None:
    """Raises ConfigError if the run would fail later, before a folder is claimed for it."""
    choose_device(settings.device)
    policy_config_for(task, robot, settings.imitation_settings)
    if "imitation" in stages:
        imitated(demonstrations, settings.episodes)
    elif not read_stages(output):
        raise ConfigError(
            f"{output} holds no version to begin with; run the stage imitation first"
        )
    if "offline" in stages and settings.rounds and settings.watch and not collector.watches:
        raise ConfigError(
            f"watch={settings.watch} plays episodes that are only shown, for which there is the "
            "vectorised simulation and no robot; leave it out, or set watch=0"
        )


def imitation_stage(output: Path, task: AnyTask) -> tuple[Path, str]:
    """Folder of the imitation stage of the run in ``output``, and the name of its version."""
    return output / "imitation", _version_name(output, task, "imitation")


def _version_name(output: Path, task: AnyTask, stage: str) -> str:
    return f"{task.name}_{output.resolve().name}_{stage}"


def _claim(
    output: Path,
    demonstrations: Sequence[Episode],
    task: AnyTask,
    robot: RobotConfig | None,
    settings: AlgorithmSettings,
) -> None:
    """Raises ConfigError if the folder holds a run with other settings or demonstrations.

    Or with other descriptions: the versions of later stages would state the bounds and the crop of
    the first one, and have learned from others.
    """
    decisive = settings.model_dump(mode="json", exclude={"checkpoint_seconds"})
    used = fingerprint([episode.digest for episode in demonstrations])
    shown = f"{len(demonstrations)} episodes ({used[:8]})"
    described = {
        "task": task.model_dump(mode="json"),
        "robot": robot and robot.model_dump(mode="json"),
    }
    told = {"settings": decisive, "demonstrations": shown} | described
    claim(output / RUN, fingerprint(decisive, used, described), told)


def _claim_collector(output: Path, where: str) -> None:
    """Raises ConfigError if policies of the run have acted elsewhere so far."""
    path = output / COLLECTOR
    told = path.read_text("utf-8").strip() if path.exists() else where
    if told != where:
        raise ConfigError(
            f"policies of the run in {output} have acted in {told!r} so far and would go on in "
            f"{where!r} (--collect of ./rl100 train; bags are the graph's or a robot's); give the "
            "same again, or choose another output folder"
        )
    with replacing(path) as file:
        file.write(f"{where}\n".encode())


@dataclass
class _AlgorithmRun:
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
        return self.output / self.records[-1].version

    def _imitate(self) -> StageRecord:
        folder, name = imitation_stage(self.output, self.task)
        version = train_imitation(
            self.demonstrations, self.task, self.robot, folder, self.settings.imitation_settings,
            self._teller("imitation"), name,
        )  # fmt: skip
        return self._record("imitation", version, self.demonstrations)

    def _round(self, index: int) -> StageRecord:
        _claim_collector(self.output, self.collector.where)
        name, folder = f"round {index}", self.output / f"round_{index}"
        settings, first = self.settings, (index - 1) * ROUND_EPISODES
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
        trials = self._trials(folder / "trials", first, {CURRENT: current} | candidates)
        record = self._chosen(name, {CURRENT: current} | candidates, trials, rollouts)
        record = record.model_copy(update={"rollouts": (successes(rollouts), len(rollouts))})
        tried = [episode for episodes in trials.values() for episode in episodes]
        self.played += tried
        mine = _alone(trials[record.chosen])
        self.own = [*self.own, *mine] if record.chosen == CURRENT else mine
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
        _claim_collector(self.output, self.collector.where)
        learned = improve_version(
            current, folder, self.settings.online_settings, self.collector,
            self._teller("online"), self._name("online"),
            [*self.demonstrations, *self.played], self.own,
        )  # fmt: skip
        metrics = read_manifest(learned).metrics
        versions = {CURRENT: current, "online": learned}
        first = self.settings.rounds * ROUND_EPISODES
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
        """Of a version; runs whose folders are called alike share it, and digests differ."""
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
