# SPDX-License-Identifier: Apache-2.0
"""Roll-outs in the vectorised simulation, as the learner takes them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rl100_bringup.report import StageResult, simulated_result
from rl100_learner.accelerator import threads
from rl100_learner.algorithms.batches import DecisionBatch
from rl100_learner.data.episode import Episode
from rl100_learner.data.store import load_stored_episodes, save_episodes
from rl100_learner.objectives.returns import bootstrap_discount, chunk_reward
from rl100_learner.training.collecting import Collected
from rl100_policy.core.config import AnyTask, BenchmarkTask, RobotConfig
from rl100_policy.core.errors import ConfigError
from rl100_policy.core.policy import DiffusionPolicy, Sampler
from rl100_policy.core.policy_version import load_version
from rl100_sim.env import PushTEnv
from rl100_sim.episode import SIMULATED_TASKS
from rl100_sim.meta_world.env import MetaWorldEnv
from rl100_sim.rollouts import Decide, MakeEnv, Rollout, RolloutPool, Windows, rollout_pool

ENVIRONMENTS = 64
"""Episodes that run at the same time."""
EPISODES = "episodes.npz"
SAMPLERS: tuple[Sampler, ...] = ("ddim", "one_step")

Chain = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Latents [K + 1, n_c, d_a] and log-densities [K] of one decision."""
OnEpisodes = Callable[[str, int, int, int], None]
"""What is collected, episodes so far, how many there will be, successes so far."""


def environment(task: AnyTask, robot: RobotConfig | None) -> MakeEnv:
    """What makes an environment of a task.

    Raises:
        ConfigError: If the task has no simulation.
    """
    if isinstance(task, BenchmarkTask):
        return partial(
            MetaWorldEnv,
            task.name,
            observation="cloud" if task.n_points else "state",
            n_points=max(task.n_points, 1),
            n_obs=task.n_obs,
        )
    if task.name not in SIMULATED_TASKS or robot is None:
        raise ConfigError(
            f"task {task.name!r} has no simulation to roll out in (there is one of "
            f"{', '.join(SIMULATED_TASKS)}); run the stage imitation alone"
        )
    return partial(PushTEnv, robot, task)


class SimulatedCollector:
    """Lets policies act in the vectorised simulation; made by :func:`simulated_collector`."""

    where = "simulation"
    watches = True

    def __init__(
        self, pool: RolloutPool, task: str, period_s: float, gamma: float, on_episodes: OnEpisodes
    ) -> None:
        """Take over a pool.

        Args:
            pool: Environments of the task.
            task: Its name.
            period_s: Control period [s].
            gamma: Discount of one control period.
            on_episodes: Told after every episode.
        """
        self._pool, self._gamma, self._task, self.period_s = pool, gamma, task, period_s
        self._on_episodes = on_episodes

    def episodes(
        self, version: Path, seeds: range, folder: Path, *, stochastic: bool
    ) -> list[Episode]:
        """See ``rl100_learner.training.collecting.Collector``."""
        path = folder / EPISODES
        if path.exists():
            return load_stored_episodes(path)
        policy, manifest = load_version(version)
        generator = torch.Generator().manual_seed(seeds.start) if stochastic else None
        decide = decider(policy, "ddim", generator)
        what = f"{folder.parent.name}/{folder.name}"
        played = sorted(
            self._count(what, len(seeds), self._pool.run(seeds, decide, every_frame=True)),
            key=lambda each: each.seed,
        )
        found = [self._episode(manifest.name, each) for each in played]
        save_episodes(path, found)
        return found

    def decisions(
        self,
        policy: DiffusionPolicy,
        parent: str,
        seeds: range,
        generator: torch.Generator,
        *,
        every_frame: bool,
    ) -> Collected:
        """See ``rl100_learner.training.collecting.Collector``."""
        decide = decider(policy, "ddim", generator)
        played = self._pool.run(seeds, decide, every_frame=every_frame)
        rollouts = sorted(self._count("online", len(seeds), played), key=lambda each: each.seed)
        return Collected(
            rollout_batch(rollouts, self._gamma),
            successes=sum(each.success for each in rollouts),
            episodes=len(rollouts),
            periods=sum(each.steps for each in rollouts),
            recorded=[self._episode(parent, each) for each in rollouts] if every_frame else (),
        )

    def success(self, policy: DiffusionPolicy, seeds: range) -> float:
        """See ``rl100_learner.training.collecting.Collector``."""
        played = self.evaluate(policy, "ddim", seeds, "watched")
        return sum(each.success for each in played) / len(played)

    def evaluate(
        self, policy: DiffusionPolicy, sampler: Sampler, seeds: range, what: str
    ) -> list[Rollout[Chain]]:
        """Episodes without noise; equal seeds give equal start states and equal x_T."""
        decide = decider(policy, sampler, None)
        return list(self._count(what, len(seeds), self._pool.run(seeds, decide)))

    def _count(
        self, what: str, total: int, played: Iterator[Rollout[Chain]]
    ) -> Iterator[Rollout[Chain]]:
        won = 0
        for done, each in enumerate(played, start=1):
            won += each.success
            self._on_episodes(what, done, total, won)
            yield each

    def _episode(self, version: str, rollout: Rollout[Chain]) -> Episode:
        """A roll-out as if it had been recorded: what was executed, period by period."""
        frames = rollout.frames
        assert frames is not None, "asked for with every_frame"
        executed = [
            chunk[:count] for chunk, count in zip(rollout.executed, rollout.periods, strict=True)
        ]
        return Episode(
            id=f"{self._task}_{version}_{rollout.seed}",
            outcome="success" if rollout.success else "failure",
            visual=frames.visual,
            proprio=frames.proprio,
            actions=np.concatenate(executed).astype(np.float32),
            stamps_ns=np.arange(len(frames.visual), dtype=np.int64) * round(self.period_s * 1e9),
        )


class NobodyActs:
    """Stands where a collector is not needed: imitation asks nobody to act."""

    where = "nowhere"
    watches = False

    def episodes(self, *_: object, **__: object) -> list[Episode]:
        """Raises ConfigError."""
        raise ConfigError(_NOBODY_ACTS)

    def decisions(self, *_: object, **__: object) -> Collected:
        """Raises ConfigError."""
        raise ConfigError(_NOBODY_ACTS)

    def success(self, *_: object) -> float:
        """Raises ConfigError."""
        raise ConfigError(_NOBODY_ACTS)


_NOBODY_ACTS = "this stage needs episodes of the policy, and nothing here lets it act"


@contextmanager
def simulated_collector(
    task: AnyTask,
    robot: RobotConfig | None,
    n_chunk: int,
    processes: int,
    gamma: float,
    on_episodes: OnEpisodes,
    environments: int = ENVIRONMENTS,
    *,
    decision_threads: int = 1,
) -> Iterator[SimulatedCollector]:
    """A collector for as long as the context lasts.

    Args:
        task: With a simulation.
        robot: The arm; None of a benchmark.
        n_chunk: Actions per decision.
        processes: That the environments are spread over.
        gamma: Discount of one control period.
        on_episodes: Told after every episode.
        environments: Episodes that run at the same time.
        decision_threads: Per tensor operation of the policy that acts. Small networks gain
            nothing from a second one, and on a busy machine threads wait for each other: 24
            decisions at once took 28 instead of 4 ms there (mean of 200, a scratch script).

    Raises:
        ConfigError: If the task has no simulation.
    """
    make_env = environment(task, robot)
    if isinstance(task, BenchmarkTask):
        n_obs, period_s = task.n_obs, task.control_period
    else:
        assert robot is not None, "environment() has asked for it"
        n_obs, period_s = task.observation.n_obs, robot.control_period
    with (
        threads(decision_threads),
        rollout_pool(
            make_env, envs=environments, processes=processes, n_obs=n_obs, n_chunk=n_chunk
        ) as pool,
    ):
        yield SimulatedCollector(pool, task.name, period_s, gamma, on_episodes)


def evaluate_simulated(
    collector: SimulatedCollector, version: Path, stage: str, trials: range
) -> list[StageResult]:
    """Teacher and student of a version, without noise, from the same start states."""
    policy, _ = load_version(version)
    results = []
    for sampler in SAMPLERS:
        begun = time.monotonic()
        played = collector.evaluate(policy, sampler, trials, f"{stage}: {sampler}")
        results.append(
            simulated_result(
                stage,
                sampler,
                [each.success for each in played],
                [each.steps * collector.period_s for each in played],
                time.monotonic() - begun,
            )
        )
    return results


def evaluate_stages(
    collector: SimulatedCollector, versions: Mapping[str, Path], trials: range
) -> list[StageResult]:
    """As :func:`evaluate_simulated`, of the versions that some stages ended with, by their names.

    A version that several stages ended with drives once.
    """
    done: dict[Path, list[StageResult]] = {}
    results = []
    for stage, version in versions.items():
        if version not in done:
            done[version] = evaluate_simulated(collector, version, stage, trials)
        results += [each.model_copy(update={"name": stage}) for each in done[version]]
    return results


def rollout_batch(rollouts: Sequence[Rollout[Chain]], gamma: float) -> DecisionBatch:
    """Decisions of some episodes, one after the other, as the learner takes them."""
    periods = torch.from_numpy(np.concatenate([each.periods for each in rollouts]))
    last = [np.arange(len(each.periods)) == len(each.periods) - 1 for each in rollouts]
    terminated = [rows & each.terminated for rows, each in zip(last, rollouts, strict=True)]
    chains = [chain for each in rollouts for chain in each.extras]
    return DecisionBatch(
        visual=_joined([each.visual[:-1] for each in rollouts]),
        proprio=_joined([each.proprio[:-1] for each in rollouts]),
        next_visual=_joined([each.visual[1:] for each in rollouts]),
        next_proprio=_joined([each.proprio[1:] for each in rollouts]),
        latents=torch.from_numpy(np.stack([latents for latents, _ in chains])),
        log_probs=torch.from_numpy(np.stack([log_probs for _, log_probs in chains])),
        rewards=chunk_reward(_joined([each.rewards for each in rollouts]), periods, gamma),
        discounts=bootstrap_discount(periods, _joined(terminated), gamma),
        ends=_joined(last),
    )


def _joined(arrays: Sequence[NDArray[np.generic]]) -> Tensor:
    return torch.from_numpy(np.concatenate(arrays))


_DECISIONS = 1000
"""More than an episode has."""


def decider(
    policy: DiffusionPolicy, sampler: Sampler, generator: torch.Generator | None
) -> Decide[Chain]:
    """Decisions of a policy for all environments at once, with the chains that they came from.

    Args:
        policy: Decides on whatever device it is on.
        sampler: How.
        generator: Of all noise; None: without noise in the transitions, and x_T is a function of
            the episode's seed and of how many decisions it has had, whatever else is played.
    """

    def decide(windows: Windows) -> tuple[NDArray[np.float64], list[Chain]]:
        made = policy.decide(
            torch.from_numpy(windows.visual).to(policy.device),
            torch.from_numpy(windows.proprio).to(policy.device),
            sampler=sampler,
            noise_seed=generator or _starts(windows),
            deterministic=generator is None,
        )
        chains = zip(made.latents.cpu().numpy(), made.log_probs.cpu().numpy(), strict=True)
        return made.actions.cpu().numpy().astype(np.float64), list(chains)

    return decide


def _starts(windows: Windows) -> tuple[int, ...]:
    """Seeds of x_T."""
    counted = zip(windows.seeds, windows.decisions, strict=True)
    return tuple(seed * _DECISIONS + decisions for seed, decisions in counted)
