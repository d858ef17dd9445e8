# SPDX-License-Identifier: Apache-2.0
"""Peak resident memory of the learner, stage by stage, on episodes of the demo task's shape.

Every stage runs in a process of its own on made-up episodes: half of them successes, clouds and
actions random. Steps are few, since memory does not depend on how many there are; what does not
leave memory while learning (episodes, buffers, windows) has its real size.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from rl100_bringup.collecting import environment
from rl100_bringup.graph import config_path
from rl100_learner.algorithms.batches import DecisionBatch
from rl100_learner.algorithms.critics import CriticConfig
from rl100_learner.algorithms.distillation import DistillationConfig, FramesDistillationConfig
from rl100_learner.algorithms.imitation import ImitationConfig
from rl100_learner.algorithms.offline import GateConfig, OfflineConfig
from rl100_learner.algorithms.online import OnlineConfig, ReplayConfig
from rl100_learner.algorithms.transition import TransitionConfig
from rl100_learner.algorithms.value import ValueConfig
from rl100_learner.data.episode import Episode
from rl100_learner.data.store import load_stored_episodes, save_episodes
from rl100_learner.training.algorithm_run import run_algorithm
from rl100_learner.training.algorithm_settings import AlgorithmSettings
from rl100_learner.training.collecting import Collected
from rl100_learner.training.imitation_run import train_imitation
from rl100_learner.training.offline_run import improve_offline
from rl100_learner.training.online_run import improve_version
from rl100_learner.training.stages import ALL_STAGES
from rl100_policy.core.config import TaskConfig, load_robot, load_task
from rl100_policy.core.policy import DiffusionPolicy
from rl100_sim.rollouts import rollout_pool

PERIODS, DEMONSTRATIONS_OF_TEN = 60, 4
DECISIONS = 8
"""Of an episode of that length, with chunks of 8."""
STAGES = ("nothing", "episodes", "imitation", "offline", "online", "whole run", "simulation")
LIMIT_GIB = 4.0
_ROBOT = load_robot(config_path("robots", "panda"))


def task_of(points: int) -> TaskConfig:
    """Push-T, seen with so many points."""
    task = load_task(config_path("tasks", "push_t"))
    return task.model_copy(
        update={"observation": task.observation.model_copy(update={"n_points": points})}
    )


def make_episodes(count: int, points: int, first: int = 0) -> list[Episode]:
    """Random episodes; every second one is a success."""
    rng = np.random.default_rng(first)
    return [
        Episode(
            id=f"episode_{first + index}",
            outcome="success" if index % 2 else "failure",
            visual=rng.random((PERIODS + 1, points, 3), dtype=np.float32),
            proprio=rng.random((PERIODS + 1, 3), dtype=np.float32),
            actions=rng.random((PERIODS, 2), dtype=np.float32),
            stamps_ns=np.arange(PERIODS + 1, dtype=np.int64) * 100_000_000,
        )
        for index in range(count)
    ]


def settings_of(preset: str, episodes: int) -> AlgorithmSettings:
    """The defaults with few steps; roll-outs and demonstrations together are ``episodes``."""
    few = DistillationConfig(steps=2)
    value = replace(ValueConfig(), first_sweeps=1, sweeps=1, epochs=1)
    replay = ReplayConfig(first_steps=5, steps=5)
    online = replace(
        OnlineConfig(), iterations=max(value.buffers, replay.buffers) + 1, value=value,
        proximal=replace(OnlineConfig().proximal, epochs=1), replay=replay,
    )  # fmt: skip
    changes = {
        "preset": preset,
        "episodes": "all",
        "rollouts": episodes - episodes * DEMONSTRATIONS_OF_TEN // 10,
        "imitation": ImitationConfig(steps=3),
        "distillation": FramesDistillationConfig(steps=2),
        "critics": CriticConfig(steps=10),
        "transition": TransitionConfig(steps=10),
        "offline": OfflineConfig(iterations=2, gate=GateConfig(enabled=False)),
        "candidate_distillation": few,
        "online": online,
        "online_distillation": few,
        "checkpoint_seconds": 0.0,
    }
    return AlgorithmSettings().model_copy(update=changes)


class MadeUp:
    """Stands for policies that act: random episodes, and random decisions with their chains."""

    def __init__(self, points: int) -> None:
        """See clouds of so many points."""
        self._points = points

    def episodes(
        self,
        version: Path,  # noqa: ARG002
        seeds: range,
        folder: Path,
        *,
        stochastic: bool,  # noqa: ARG002
    ) -> Sequence[Episode]:
        """By way of the file that roll-outs are kept in."""
        path = folder / "episodes.npz"
        made = make_episodes(len(seeds), self._points, seeds.start)
        save_episodes(path, made)
        return load_stored_episodes(path)

    def decisions(
        self,
        policy: DiffusionPolicy,
        parent: str,  # noqa: ARG002
        seeds: range,
        generator: torch.Generator,
        *,
        every_frame: bool,
    ) -> Collected:
        """Of all episodes of an iteration, drawn from the policy."""
        count, size = len(seeds) * DECISIONS, policy.config
        cloud, following = (
            torch.rand((count, size.observation.n_obs, self._points, 3)) for _ in range(2)
        )
        proprio = torch.rand((count, size.observation.n_obs, 3))
        made = [
            policy.decide(c, p, sampler="ddim", noise_seed=generator, deterministic=False)
            for c, p in zip(cloud.split(64), proprio.split(64), strict=True)
        ]
        ends = torch.arange(count) % DECISIONS == DECISIONS - 1
        batch = DecisionBatch(
            cloud, proprio, following, proprio.clone(),
            torch.cat([each.latents for each in made]),
            torch.cat([each.log_probs for each in made]),
            torch.rand(count) * ends, torch.full((count,), 0.9), ends,
        )  # fmt: skip
        recorded = make_episodes(len(seeds), self._points, seeds.start) if every_frame else ()
        return Collected(batch, len(seeds) // 2, len(seeds), len(seeds) * PERIODS, recorded)

    def success(self, policy: DiffusionPolicy, seeds: range) -> float:  # noqa: ARG002
        """Asked for by nobody here."""
        return 0.0


def run_stage(stage: str, points: int, episodes: int, preset: str) -> list[float]:
    """Go through a stage in this process.

    Returns:
        Peak resident memory of this process and of each of its children [GiB].
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    settings, task = settings_of(preset, episodes), task_of(points)
    demonstrations = episodes * DEMONSTRATIONS_OF_TEN // 10
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder)
        match stage:
            case "episodes" | "imitation":
                made = make_episodes(episodes, points)
                if stage == "imitation":
                    train_imitation(made, task, _ROBOT, output, settings.imitation_settings, _mute)
            case "offline" | "online":
                version = output / "version"
                _write_version(version, points, preset)
                made = make_episodes(episodes, points)
                own = made[demonstrations:]
                if stage == "offline":
                    improve_offline(
                        version, output / "run", made, own, settings.offline_settings, _mute
                    )
                else:
                    improve_version(
                        version, output / "run", settings.online_settings, MadeUp(points), _mute,
                        data=made, own=own,
                    )  # fmt: skip
            case "whole run":
                made = make_episodes(demonstrations, points)
                run_algorithm(
                    made, task, _ROBOT, output, settings, MadeUp(points), _mute, ALL_STAGES
                )
            case "simulation":
                return [own_peak(), *_simulate(task)]
    return [own_peak()]


def _mute(*_: object) -> None:
    pass


def _write_version(folder: Path, points: int, preset: str) -> None:
    """In another process, so that making it is not measured."""
    program = (
        "import sys, pathlib; sys.path.insert(0, sys.argv[1]); import memory;"
        "memory.write_fresh(pathlib.Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4])"
    )
    here = str(Path(__file__).parent)
    subprocess.run(
        [sys.executable, "-c", program, here, str(folder), str(points), preset], check=True
    )


def write_fresh(folder: Path, points: int, preset: str) -> None:
    """An untrained version."""
    from rl100_learner.training.imitation_run import policy_config_for
    from rl100_policy.core.policy_version import write_version

    task = task_of(points)
    policy = DiffusionPolicy(policy_config_for(task, _ROBOT, settings_of(preset, 10)))
    write_version(
        folder, policy, task=task, robot=_ROBOT, parents=(), bags=(), metrics={}, training={}
    )


def _simulate(task: TaskConfig) -> list[float]:
    """Peaks of the processes that simulate, after an episode of random actions in all of them."""
    from multiprocessing import active_children

    rng = np.random.default_rng(0)

    def decide(windows: object) -> tuple[np.ndarray, list[None]]:
        count = len(windows.visual)  # type: ignore[attr-defined]
        return rng.uniform(-0.1, 0.1, (count, 8, 2)), [None] * count

    make = environment(task, _ROBOT)
    with rollout_pool(make, envs=64, processes=2, n_obs=2, n_chunk=8) as pool:
        list(pool.run(range(64), decide, every_frame=True))
        return [peak(child.pid) for child in active_children() if child.pid is not None]


def own_peak() -> float:
    """Of this process [GiB]."""
    return peak("self")


def peak(process: int | str) -> float:
    """Largest resident memory that a process has had [GiB]."""
    for line in Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 2**20
    raise RuntimeError(f"/proc/{process}/status tells no VmHWM; this needs Linux")


def measure(stage: str, points: int, episodes: int, preset: str) -> list[float]:
    """:func:`run_stage` in a process of its own."""
    command = [
        sys.executable, __file__, "--only", stage, "--points", str(points),
        "--episodes", str(episodes), "--preset", preset,
    ]  # fmt: skip
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: list[float] = json.loads(told.splitlines()[-1])
    return found


def main(
    points: Annotated[list[int] | None, typer.Option(help="points per cloud")] = None,
    episodes: Annotated[int, typer.Option(help="episodes of a run, at least 20")] = 500,
    preset: Annotated[str, typer.Option(help="sizes of the networks")] = "small",
    only: Annotated[str, typer.Option(help="one stage, in this process, as JSON")] = "",
) -> None:
    """Measure every stage and print a table; exit status 1 if one needs more than 4 GiB."""
    sizes = points or [128, 512]
    if only:
        sys.stdout.write(json.dumps(run_stage(only, sizes[0], episodes, preset)) + "\n")
        return
    title = (
        f"Peak resident memory [GiB], {episodes} episodes of {PERIODS} periods, preset {preset}"
    )
    table = Table("stage", *(f"{each} points" for each in sizes), title=title)
    largest = 0.0
    for stage in STAGES:
        found = [measure(stage, each, episodes, preset) for each in sizes]
        largest = max(largest, *map(sum, found))
        table.add_row(stage, *(" + ".join(f"{each:.2f}" for each in peaks) for peaks in found))
    Console().print(table)
    raise typer.Exit(largest > LIMIT_GIB)


if __name__ == "__main__":
    typer.run(main)
