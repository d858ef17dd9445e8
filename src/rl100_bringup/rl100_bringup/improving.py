# SPDX-License-Identifier: Apache-2.0
"""Online reinforcement learning of a version in the vectorised simulation, and its report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import TaskID
from torch import Tensor

from rl100_bringup.display import progress_display
from rl100_bringup.graph import config_path
from rl100_bringup.report import Report, StageResult, this_machine, wilson
from rl100_bringup.training import training_results
from rl100_learner.algorithms.batches import DecisionBatch
from rl100_learner.objectives.returns import bootstrap_discount, chunk_reward
from rl100_learner.training.online_run import Collected, OnlineSettings, improve_version
from rl100_learner.training.run import Progress
from rl100_policy.core.config import RobotConfig, TaskConfig, load_robot, load_task
from rl100_policy.core.policy import DiffusionPolicy, Sampler
from rl100_policy.core.policy_version import check_fits, load_version, read_manifest
from rl100_sim.env import PushTEnv
from rl100_sim.rollouts import Decide, Rollout, RolloutPool, Windows, rollout_pool

ENVIRONMENTS = 64
"""Episodes that run at the same time."""
TRAINING_SEED = 1_000_000
"""Seed of the first training episode: far from those of demonstrations and trials."""
_SAMPLERS: tuple[Sampler, ...] = ("ddim", "one_step")

Chain = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Latents [K + 1, n_c, d_a] and log-densities [K] of one decision."""


@dataclass(frozen=True)
class ImproveSettings:
    """What a person may choose about the online stage."""

    version: Path
    output: Path
    trials: int
    first_seed: int
    processes: int
    robot: str
    task: str
    learning: OnlineSettings


def improve_and_report(settings: ImproveSettings, console: Console) -> tuple[Path, Report]:
    """Improve a version, evaluate it before and after on the same start states.

    Returns:
        Folder of the new version, and everything measured.

    Raises:
        Rl100Error: If the version does not fit robot and task, or the folder holds another run.
    """
    begun = time.monotonic()
    robot = load_robot(config_path("robots", settings.robot))
    task = load_task(config_path("tasks", settings.task))
    manifest = read_manifest(settings.version)
    check_fits(manifest, task, robot)
    before, _ = load_version(settings.version)
    with _pool(robot, task, before, settings.processes) as pool:
        stages = _evaluate(pool, before, "before", settings, console)
        with progress_display(console) as display:
            bars: dict[str, TaskID] = {}

            def on_progress(progress: Progress) -> None:
                if progress.stage not in bars:
                    bars[progress.stage] = display.add_task(
                        progress.stage, total=progress.steps, note=""
                    )
                what = "success" if progress.stage == "online" else "loss"
                note = f"{what} {progress.loss:.3f}"
                display.update(bars[progress.stage], completed=progress.step, note=note)

            version = improve_version(
                settings.version,
                settings.output,
                settings.learning,
                partial(_collect, pool, settings.learning.online.gamma),
                on_progress,
            )
        after, improved = load_version(version)
        stages += _evaluate(pool, after, "online", settings, console)
    report = Report(
        command="improve",
        stages=stages,
        training=training_results(settings.output),
        policy_version=improved.name,
        wall_seconds=time.monotonic() - begun,
        machine=this_machine(),
    )
    return version, report


def rollout_batch(rollouts: Sequence[Rollout[Chain]], gamma: float) -> DecisionBatch:
    """Decisions of some episodes, one after the other, as the learner takes them."""
    periods = torch.from_numpy(np.concatenate([each.periods for each in rollouts]))
    last = [np.arange(len(each.periods)) == len(each.periods) - 1 for each in rollouts]
    terminated = [rows & each.terminated for rows, each in zip(last, rollouts, strict=True)]
    chains = [chain for each in rollouts for chain in each.extras]
    return DecisionBatch(
        cloud=_joined([each.clouds[:-1] for each in rollouts]),
        proprio=_joined([each.proprio[:-1] for each in rollouts]),
        next_cloud=_joined([each.clouds[1:] for each in rollouts]),
        next_proprio=_joined([each.proprio[1:] for each in rollouts]),
        latents=torch.from_numpy(np.stack([latents for latents, _ in chains])),
        log_probs=torch.from_numpy(np.stack([log_probs for _, log_probs in chains])),
        rewards=chunk_reward(_joined([each.rewards for each in rollouts]), periods, gamma),
        discounts=bootstrap_discount(periods, _joined(terminated), gamma),
        ends=_joined(last),
    )


def _joined(arrays: Sequence[NDArray[np.generic]]) -> Tensor:
    return torch.from_numpy(np.concatenate(arrays))


def _pool(
    robot: RobotConfig, task: TaskConfig, policy: DiffusionPolicy, processes: int
) -> AbstractContextManager[RolloutPool]:
    n_obs, n_chunk = policy.config.observation.n_obs, policy.config.action.n_chunk
    make_env = partial(PushTEnv, robot, task, render_every=n_chunk)
    return rollout_pool(
        make_env, envs=ENVIRONMENTS, processes=processes, n_obs=n_obs, n_chunk=n_chunk
    )


def _decider(
    policy: DiffusionPolicy, sampler: Sampler, generator: torch.Generator, *, deterministic: bool
) -> Decide[Chain]:
    def decide(windows: Windows) -> tuple[NDArray[np.float64], list[Chain]]:
        made = policy.decide(
            torch.from_numpy(windows.clouds),
            torch.from_numpy(windows.proprio),
            sampler=sampler,
            noise_seed=generator,
            deterministic=deterministic,
        )
        chains = zip(made.latents.numpy(), made.log_probs.numpy(), strict=True)
        return made.actions.numpy().astype(np.float64), list(chains)

    return decide


def _collect(
    pool: RolloutPool,
    gamma: float,
    policy: DiffusionPolicy,
    seeds: range,
    generator: torch.Generator,
) -> Collected:
    """Episodes of the current policy in the order of their seeds."""
    decide = _decider(policy, "ddim", generator, deterministic=False)
    played = pool.run([TRAINING_SEED + seed for seed in seeds], decide)
    rollouts = sorted(played, key=lambda each: each.seed)
    return Collected(
        rollout_batch(rollouts, gamma),
        successes=sum(each.success for each in rollouts),
        episodes=len(rollouts),
        periods=sum(each.steps for each in rollouts),
    )


def _evaluate(
    pool: RolloutPool,
    policy: DiffusionPolicy,
    stage: str,
    settings: ImproveSettings,
    console: Console,
) -> list[StageResult]:
    """Teacher and student, without noise, from the same start states."""
    results = []
    seeds = range(settings.first_seed, settings.first_seed + settings.trials)
    with progress_display(console) as display:
        for sampler in _SAMPLERS:
            bar = display.add_task(f"{stage}: {sampler}", total=settings.trials, note="")
            begun, successes = time.monotonic(), 0
            generator = torch.Generator().manual_seed(settings.first_seed)
            decide = _decider(policy, sampler, generator, deterministic=True)
            for done, rollout in enumerate(pool.run(seeds, decide), start=1):
                successes += rollout.success
                display.update(bar, completed=done, note=f"{successes} successes")
            low, high = wilson(successes, settings.trials)
            results.append(
                StageResult(
                    name=stage, policy=sampler, successes=successes, trials=settings.trials,
                    wilson_low=low, wilson_high=high, seconds=time.monotonic() - begun,
                )
            )  # fmt: skip
    return results
