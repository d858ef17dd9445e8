# SPDX-License-Identifier: Apache-2.0
"""Imitation as a run: episodes in, policy version out, with its one-step student.

A run that was killed goes on from its last checkpoint when called again with the same arguments,
and ends with the same weights, bit for bit, as if it had not been.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from rl100_learner.accelerator import accelerated, moved, place, threads
from rl100_learner.algorithms import distillation, imitation
from rl100_learner.data.episode import Episode
from rl100_learner.training import identity
from rl100_learner.training.checkpoint import CHECKPOINT, load_checkpoint, save_checkpoint
from rl100_learner.training.processes import ALONE, Processes, local_rank, require_connected
from rl100_learner.training.progress import OnProgress, Progress
from rl100_learner.training.records import Records
from rl100_learner.training.settings import TrainSettings
from rl100_learner.training.windows import WindowSet, build_windows, encode_frames
from rl100_policy.core.config import AnyTask, BenchmarkTask, RobotConfig
from rl100_policy.core.errors import ConfigError, LearningError
from rl100_policy.core.policy import DiffusionPolicy
from rl100_policy.core.policy_config import ActionSize, ObservationSize, PolicyConfig
from rl100_policy.core.policy_version import BagReference, read_manifest, write_version
from rl100_policy.core.presets import choose, preset
from rl100_policy.core.sight import observation_size

RESOLVED = identity.IMITATION


def policy_config_for(
    task: AnyTask, robot: RobotConfig | None, settings: TrainSettings
) -> PolicyConfig:
    """Sizes of the policy that ``settings`` ask for on this task and robot.

    Raises:
        ConfigError: If a robot's task comes without a robot, or the settings contradict each
            other.
    """
    if isinstance(task, BenchmarkTask):
        observation = ObservationSize(
            n_obs=task.n_obs, n_points=task.n_points, proprio_dim=task.proprio_dim
        )
        dim = task.action_dim
    else:
        if robot is None:
            raise ConfigError(
                f"task {task.name!r} needs the description of the robot that does it"
            )
        observation = observation_size(task, robot)
        dim = task.action.dim
    made = preset(settings.preset, observation, ActionSize(n_chunk=settings.n_chunk, dim=dim))
    return choose(made, settings.diffusion, settings.network)


def imitated(episodes: Sequence[Episode], which: Literal["all", "success"]) -> list[Episode]:
    """Those of the episodes that are imitated.

    Raises:
        ConfigError: If none of them is.
    """
    used = [each for each in episodes if which == "all" or each.outcome == "success"]
    if episodes and not used:
        raise ConfigError(
            f"none of {len(episodes)} episodes is labelled a success, and only those are "
            "imitated; look at the labels, record more, or relax the outcome filter with "
            "episodes=all"
        )
    return used


def train_imitation(
    episodes: Sequence[Episode],
    task: AnyTask,
    robot: RobotConfig | None,
    output: Path,
    settings: TrainSettings,
    on_progress: OnProgress,
    name: str = "",
    processes: Processes = ALONE,
) -> Path:
    """Learn a policy version from demonstrations.

    Args:
        episodes: Demonstrations; which of them are used, ``settings.episodes`` decides.
        task: What the policy sees and does.
        robot: The arm it was recorded on; None of a benchmark.
        output: Folder of the run: records, checkpoint, resolved settings, and the version.
        settings: Everything else.
        on_progress: Called after every ``log_every`` steps on this thread; an exception from it
            ends the run, which can be resumed.
        name: Of the version; ``<task>_<name of output>`` if empty.
        processes: Those that learn together. Each calls this with the same arguments; the first
            one writes and tells.

    Returns:
        Folder of the policy version, in ``output``.

    Raises:
        ConfigError: If there is nothing to learn from, ``output`` holds another run, a GPU or a
            compiler that is asked for is not there, or the processes cannot share a minibatch.
        LearningError: If the loss is not finite any more; the last checkpoint is from before.
    """
    require_connected(processes)
    used = imitated(episodes, settings.episodes)
    bags = tuple(BagReference(id=e.id, sha256=e.digest) for e in used)
    fingerprint = _fingerprint(task, robot, settings, bags)
    version = output / (name or f"{task.name}_{output.resolve().name}")
    if version.exists():
        _require_same_run(version, fingerprint, bags)
        return version
    config = policy_config_for(task, robot, settings)
    windows = build_windows(used, config)
    processes.wait()  # before the first one writes, all others have looked
    with threads(settings.threads), accelerated(settings, local_rank()):
        if processes.leads:
            told = _resolved(task, robot, settings, config)
            identity.claim(output / RESOLVED, fingerprint, told)
        run = _ImitationRun(output, settings, fingerprint, windows, config, on_progress, processes)
        policy, metrics = run.train()
    if not processes.leads:
        processes.wait()
        return version
    training = {"fingerprint": fingerprint, "settings": settings.model_dump(mode="json")}
    metrics |= {"episodes": float(len(used)), "windows": float(len(windows))}
    write_version(
        version,
        policy,
        task=task,
        robot=robot,
        parents=(),
        bags=bags,
        metrics=metrics,
        training=training,
    )
    (output / CHECKPOINT).unlink(missing_ok=True)
    processes.wait()
    return version


@dataclass
class _ImitationRun:
    output: Path
    settings: TrainSettings
    fingerprint: str
    windows: WindowSet
    config: PolicyConfig
    on_progress: OnProgress
    processes: Processes
    seconds: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)

    def train(self) -> tuple[DiffusionPolicy, dict[str, float]]:
        processes = self.processes
        saved = load_checkpoint(self.output / CHECKPOINT, self._shared_fingerprint())
        processes.wait()  # before the first one writes, all others have read
        policy = place(_fresh_policy(self.config, self.windows, self.settings.seed))
        generator = torch.Generator().manual_seed(processes.seed(self.settings.seed))
        done = 0
        if saved is not None:
            done, self.seconds, self.metrics = (
                saved["global_step"],
                saved["seconds"],
                saved["metrics"],
            )
            generator.set_state(saved["generators"][processes.rank])
        with Records(self.output, done) if processes.leads else nullcontext() as records:
            policy = self._imitate(policy, generator, records, saved)
            policy = self._distil(policy, generator, records, saved)
        return policy, self.metrics | {"seconds": self.seconds}

    def _imitate(
        self,
        policy: DiffusionPolicy,
        generator: torch.Generator,
        records: Records | None,
        saved: dict[str, Any] | None,
    ) -> DiffusionPolicy:
        config = self.settings.imitation
        windows = self.processes.share(config.windows, "imitation.windows")
        if saved is not None and saved["stage"] != "imitation":
            return policy
        state = imitation.init(policy, config, self.processes.parallel)
        if saved is not None:
            imitation.load_state_dict(state, saved["state"])

        def one() -> dict[str, float]:
            batch = self.windows.sample(windows, config.points, generator)
            return imitation.update(state, moved(batch, policy.device), generator, config)

        self._loop(
            "imitation",
            state,
            config.steps,
            0,
            one,
            lambda: {"state": imitation.state_dict(state)},
            generator,
            records,
        )
        return state.averaged

    def _distil(
        self,
        policy: DiffusionPolicy,
        generator: torch.Generator,
        records: Records | None,
        saved: dict[str, Any] | None,
    ) -> DiffusionPolicy:
        config = self.settings.distillation
        windows = self.processes.share(config.windows, "distillation.windows")
        resumed = saved if saved is not None and saved["stage"] == "distillation" else None
        if resumed is not None:
            policy.load_state_dict(resumed["policy"])
        state = distillation.init(place(policy), config, self.processes.parallel)
        if resumed is not None:
            distillation.load_state_dict(state, resumed["state"])
        # Its own generator: a resumed run must encode the same point draws again.
        encoding = torch.Generator().manual_seed(self.settings.seed + 1)
        features = encode_frames(
            policy, self.windows, self.settings.imitation.points, config.copies, encoding
        )

        def one() -> dict[str, float]:
            condition = self.windows.sample_features(features, windows, generator)
            return distillation.update(state, condition, generator, config)

        self._loop(
            "distillation",
            state,
            config.steps,
            self.settings.imitation.steps,
            one,
            lambda: {"policy": policy.state_dict(), "state": distillation.state_dict(state)},
            generator,
            records,
        )
        policy.student.load_state_dict(state.averaged.state_dict())
        return policy.requires_grad_(False)

    def _loop(
        self,
        stage: str,
        state: imitation.ImitationState | distillation.DistillationState,
        steps: int,
        steps_before: int,
        one: Callable[[], dict[str, float]],
        learned: Callable[[], dict[str, Any]],
        generator: torch.Generator,
        records: Records | None,
    ) -> None:
        means = _RunningMeans()
        saved_at = time.perf_counter()
        while state.step < steps:
            began = time.perf_counter()
            means.add(one())
            self.seconds += time.perf_counter() - began
            if state.step % self.settings.log_every and state.step < steps:
                continue
            row = self.processes.means(means.take())
            _refuse_divergence(stage, state.step, row["loss"])
            self.metrics[f"{stage}_loss"] = row["loss"]
            if records is not None:
                records.write(stage, state.step, steps_before + state.step, self.seconds, row)
            due = time.perf_counter() - saved_at >= self.settings.checkpoint_seconds
            if self.processes.decide(yes=due or state.step == steps):
                self._save(stage, learned, steps_before + state.step, generator)
                saved_at = time.perf_counter()
            if records is not None:
                self.on_progress(Progress(stage, state.step, steps, row["loss"], self.seconds))

    def _save(
        self,
        stage: str,
        learned: Callable[[], dict[str, Any]],
        global_step: int,
        generator: torch.Generator,
    ) -> None:
        generators = self.processes.gather(generator.get_state())
        if not self.processes.leads:
            return
        content = {
            "stage": stage,
            "global_step": global_step,
            "seconds": self.seconds,
            "metrics": self.metrics,
            "generators": generators,
            **learned(),
        }
        save_checkpoint(self.output / CHECKPOINT, self._shared_fingerprint(), content)

    def _shared_fingerprint(self) -> str:
        """Of the run as these processes do it: another number of them draws other minibatches."""
        count = self.processes.count
        return self.fingerprint if count == 1 else f"{self.fingerprint} by {count} processes"


def _refuse_divergence(stage: str, step: int, loss: float) -> None:
    """Raises LearningError before what has diverged is written over the last checkpoint."""
    if not math.isfinite(loss):
        raise LearningError(
            f"{stage} has diverged: the loss is {loss} at step {step}; choose another output "
            f"folder and lower rates ({stage}.optimizer in docs/settings.md), and look whether "
            "the demonstrations hold implausible values (./rl100 bags check FOLDER)"
        )


class _RunningMeans:
    def __init__(self) -> None:
        self._values: dict[str, list[float]] = defaultdict(list)

    def add(self, metrics: Mapping[str, float]) -> None:
        for key, value in metrics.items():
            self._values[key].append(value)

    def take(self) -> dict[str, float]:
        means = {key: sum(values) / len(values) for key, values in self._values.items()}
        self._values.clear()
        return means


def _fresh_policy(config: PolicyConfig, windows: WindowSet, seed: int) -> DiffusionPolicy:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(
            seed
        )  # layers initialise themselves from the global generator; it is restored afterwards
        policy = DiffusionPolicy(config)
    policy.normalizer.fit(actions=windows.actions, proprio=windows.proprio, clouds=windows.visual)
    return policy


def _resolved(
    task: AnyTask, robot: RobotConfig | None, settings: TrainSettings, config: PolicyConfig
) -> dict[str, Any]:
    parts = {"settings": settings, "policy": config, "task": task, "robot": robot}
    return {key: part and part.model_dump(mode="json") for key, part in parts.items()}


def _fingerprint(
    task: AnyTask,
    robot: RobotConfig | None,
    settings: TrainSettings,
    bags: Sequence[BagReference],
) -> str:
    return identity.fingerprint(
        settings.model_dump(mode="json", exclude={"checkpoint_seconds"}),
        task.model_dump(mode="json"),
        robot and robot.model_dump(mode="json"),
        [b.model_dump() for b in bags],
    )


def _require_same_run(version: Path, fingerprint: str, bags: Sequence[BagReference]) -> None:
    manifest = read_manifest(version)
    if manifest.training.get("fingerprint") != fingerprint:
        used, now = set(manifest.bags), set(bags)
        what = (
            "other settings or descriptions"
            if used == now
            else f"other episodes ({len(now - used)} are new, {len(used - now)} are gone)"
        )
        raise ConfigError(f"{version} was trained with {what}; choose another output folder")
