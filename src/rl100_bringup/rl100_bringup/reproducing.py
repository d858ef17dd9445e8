# SPDX-License-Identifier: Apache-2.0
"""Claims of the documentation, each reproduced by one command: tasks, seeds, all stages, a table.

Every run of a task and a seed has a folder and a process of its own, is resumed when the command
is given again, and leaves a report; the claim's report is made of theirs.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from rich.console import Console
from rich.table import Table

from rl100_bringup.claims import PUSH_T, SUITE, Variant, find_claim
from rl100_bringup.collecting import evaluate_simulated, simulated_collector
from rl100_bringup.display import Bars, progress_display
from rl100_bringup.graph import config_path
from rl100_bringup.report import (
    REPORT_FILE,
    Report,
    StageResult,
    simulated_result,
    this_machine,
    wilson,
)
from rl100_learner.data.episode import Episode
from rl100_learner.data.store import load_stored_episodes, save_episodes
from rl100_learner.training.algorithm_run import AlgorithmSettings, run_algorithm
from rl100_learner.training.run import Progress, train_imitation
from rl100_learner.training.settings import with_overrides
from rl100_policy.core.config import (
    AnyTask,
    BenchmarkTask,
    RobotConfig,
    TaskConfig,
    load_robot,
    load_task,
)
from rl100_sim.demonstrator import ScriptedPusher
from rl100_sim.env import PushTEnv
from rl100_sim.meta_world.demonstrator import Demonstration, demonstrate
from rl100_sim.meta_world.env import MetaWorldEnv
from rl100_sim.sight import seen

TRIAL_SEED = 100_000
"""Seed of the first evaluation episode: far from those of demonstrations and of learning."""
DEMONSTRATIONS = "demonstrations.npz"
ENVIRONMENTS = 24
"""Episodes of one run at the same time; every environment holds a scene of its own."""
CONTROL = "imitation of successes only"


@dataclass(frozen=True)
class Job:
    """One run of a variant and a seed."""

    variant: Variant
    seed: int
    folder: Path
    trials: int
    overrides: tuple[str, ...]


@dataclass
class Summary:
    """A stage of a variant over all seeds.

    Attributes:
        variant: Its name.
        stage: Its name.
        policy: ``ddim`` or ``one_step``.
        shares: Success share of every seed.
        successes: Of all seeds.
        trials: Of all seeds.
        lengths_s: Mean length of the successes of every seed [s].
        episodes: Played until then, mean over the seeds; demonstrations are not counted.
    """

    variant: str
    stage: str
    policy: str
    shares: list[float] = field(default_factory=list)
    successes: int = 0
    trials: int = 0
    lengths_s: list[float] = field(default_factory=list)
    episodes: list[int] = field(default_factory=list)

    def add(self, result: StageResult, episodes: int) -> None:
        """Count one seed."""
        self.shares.append(result.successes / result.trials)
        self.successes += result.successes
        self.trials += result.trials
        if result.success_seconds is not None:
            self.lengths_s.append(result.success_seconds)
        self.episodes.append(episodes)


def reproduce(
    name: str,
    output: Path,
    variants: Sequence[str],
    seeds: Sequence[int],
    overrides: Sequence[str],
    jobs: int,
    console: Console,
) -> Report:
    """Run what of a claim is not finished, and tell all of it.

    Args:
        name: Of the claim.
        output: Folder; a run is ``<output>/<claim>/<variant>/seed_<seed>``.
        variants: Which of the claim's; empty: all.
        seeds: Which; empty: the claim's.
        overrides: Further changes to the settings, for research; the claim is then another one.
        jobs: Runs at the same time, each on one processor.
        console: Where progress and the table go.

    Raises:
        ConfigError: If there is no such claim or variant, or a setting is invalid.
    """
    begun = time.monotonic()
    claim = find_claim(name)
    chosen = [claim.variant(each) for each in variants] or claim.variants
    planned = [
        Job(
            variant, seed, output / name / variant.folder / f"seed_{seed}", claim.trials,
            (*variant.overrides, *overrides, f"seed={seed}"),
        )
        for seed in seeds or claim.seeds
        for variant in chosen
    ]  # fmt: skip
    for job in planned:  # refused now, not in a process later
        with_overrides(AlgorithmSettings(), job.overrides)
    console.print(claim.text)
    console.print(
        f"{len(planned)} runs in {output / name}, {jobs} at a time; each logs to run.log in its "
        "folder. Interrupted, the same command goes on."
    )
    reports = _run_all(planned, jobs, console)
    summaries = summarise(planned, reports)
    console.print(summary_table(summaries))
    report = Report(
        command=f"reproduce {name}",
        stages=[_pooled(each) for each in summaries],
        wall_seconds=time.monotonic() - begun,
        machine=this_machine(),
    )
    report.write(output / name)
    return report


def _run_all(planned: Sequence[Job], jobs: int, console: Console) -> list[Report]:
    context = multiprocessing.get_context("spawn")  # a fork would copy the threads' locks of torch
    done: dict[int, Report] = {}
    with (
        progress_display(console) as display,
        ProcessPoolExecutor(jobs, mp_context=context) as pool,
    ):
        bar = display.add_task("runs", total=len(planned), note="")
        waiting = {pool.submit(run_job, job): index for index, job in enumerate(planned)}
        try:
            for finished in as_completed(waiting):
                index = waiting[finished]
                done[index] = finished.result()
                job = planned[index]
                last = done[index].stages[-1]
                note = f"{job.variant.name} seed {job.seed}: {last.successes}/{last.trials}"
                display.update(bar, completed=len(done), note=note)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [done[index] for index in range(len(planned))]


def run_job(job: Job) -> Report:
    """Demonstrate, learn, evaluate; what is finished is taken from the folder."""
    path = job.folder / REPORT_FILE
    if path.exists():
        return Report.model_validate_json(path.read_text(encoding="utf-8"))
    begun = time.monotonic()
    job.folder.mkdir(parents=True, exist_ok=True)
    with suppress(OSError):
        os.nice(5)  # the person's own work comes first
    with (job.folder / "run.log").open("a", encoding="utf-8") as log:
        console = Console(file=log, width=100)
        settings = with_overrides(AlgorithmSettings(), job.overrides)
        task, robot = describe_task(job.variant)
        demonstrations = _demonstrations(job, task, robot)
        with (
            Bars.shown(console) as bars,
            simulated_collector(
                task, robot, settings.n_chunk, 1, settings.online.gamma, bars.on_episodes,
                ENVIRONMENTS,
            ) as collector,
        ):  # fmt: skip
            records = run_algorithm(
                demonstrations, task, robot, job.folder / "run", settings, collector,
                bars.on_stage, job.variant.stages,
            )  # fmt: skip
            versions = {record.name: job.folder / "run" / record.version for record in records}
            if job.variant.control and settings.episodes == "all":
                again = settings.imitation_settings.model_copy(update={"episodes": "success"})
                versions[CONTROL] = train_imitation(
                    demonstrations, task, robot, job.folder / "control", again,
                    partial(_tell_control, bars),
                )  # fmt: skip
            seeds = range(TRIAL_SEED, TRIAL_SEED + job.trials)
            stages = [_operator(demonstrations, collector.period_s)]
            for name, version in versions.items():
                stages += evaluate_simulated(collector, version, name, seeds)
    report = Report(
        command="reproduce",
        stages=stages,
        run=records,
        policy_version=records[-1].version,
        wall_seconds=time.monotonic() - begun,
        machine=this_machine(),
    )
    report.write(job.folder)
    return report


def _tell_control(bars: Bars, progress: Progress) -> None:
    bars.on_stage("control", progress)


def describe_task(variant: Variant) -> tuple[AnyTask, RobotConfig | None]:
    """Task and robot of a variant, as the learner takes them."""
    if variant.task == PUSH_T:
        task = load_task(config_path("tasks", PUSH_T))
        return task, load_robot(config_path("robots", "panda"))
    env = _benchmark_env(variant)
    return BenchmarkTask(
        name=variant.task,
        suite=SUITE,
        n_points=variant.n_points,
        proprio_dim=env.observation_space["proprio"].shape[0],  # type: ignore[index]
        action_dim=env.action_space.shape[0],  # type: ignore[index]
        control_period=1.0 / env.metadata["render_fps"],
    ), None


def _benchmark_env(variant: Variant) -> MetaWorldEnv:
    observation: Literal["cloud", "state"] = "cloud" if variant.n_points else "state"
    return MetaWorldEnv(variant.task, observation=observation, n_points=max(variant.n_points, 1))


def _demonstrations(job: Job, task: AnyTask, robot: RobotConfig | None) -> list[Episode]:
    path = job.folder / DEMONSTRATIONS
    if not path.exists():
        first = job.seed * 10_000
        seeds = range(first, first + job.variant.demonstrations)
        if isinstance(task, BenchmarkTask):
            env = _benchmark_env(job.variant)
            shown = [_episode(demonstrate(env, seed)) for seed in seeds]
        else:
            assert robot is not None, "a robot's task comes with one"
            shown = list(scripted_episodes(task, robot, seeds))
        save_episodes(path, shown)
    return load_stored_episodes(path)


def _episode(shown: Demonstration) -> Episode:
    return Episode(
        id=shown.id,
        outcome=shown.outcome,
        visual=shown.visual,
        proprio=shown.proprio,
        actions=shown.actions,
        stamps_ns=shown.stamps_ns,
    )


def scripted_episodes(
    task: TaskConfig, robot: RobotConfig, seeds: range, skill: float = 0.5
) -> Iterator[Episode]:
    """Push-T by the scripted person of the demo, without a graph: observed as on the robot."""
    env, person = PushTEnv(robot, task), ScriptedPusher(robot, task, skill=skill)
    for seed in seeds:
        observation, info = env.reset(seed=seed)
        person.reset(np.random.default_rng((seed, _PERSON_STREAM)))
        frames, actions, over = [observation], [], False
        while not over:
            wish = person.act(info["object_pose"], info["goal_pose"], info["tool_position"])
            observation, _, terminated, truncated, info = env.step(wish)
            frames.append(observation)
            actions.append(info["executed"])
            over = terminated or truncated
        yield Episode(
            id=f"{task.name}_scripted_{seed}",
            outcome="success" if info["success"] else "failure",
            visual=np.stack([seen(frame) for frame in frames]),
            proprio=np.stack([frame["proprio"] for frame in frames]),
            actions=np.array(actions, dtype=np.float32),
            stamps_ns=np.arange(len(frames), dtype=np.int64) * round(robot.control_period * 1e9),
        )


_PERSON_STREAM = 1
"""Beside the seed, so that the person's numbers are not those of the scene."""


def _operator(demonstrations: Sequence[Episode], period_s: float) -> StageResult:
    return simulated_result(
        "demonstrations",
        "operator",
        [episode.outcome == "success" for episode in demonstrations],
        [len(episode) * period_s for episode in demonstrations],
        0.0,
    )


def summarise(planned: Iterable[Job], reports: Iterable[Report]) -> list[Summary]:
    """Every stage of every variant over the seeds, in the order of the stages."""
    found: dict[tuple[str, str, str], Summary] = {}
    for job, report in zip(planned, reports, strict=True):
        played, total = {"demonstrations": 0, CONTROL: 0}, 0
        for record in report.run:
            total += 0 if record.name == "imitation" else record.episodes
            played[record.name] = total
        for result in report.stages:
            key = (job.variant.name, result.name, result.policy)
            found.setdefault(key, Summary(*key)).add(result, played[result.name])
    names = list(dict.fromkeys(each.variant for each in found.values()))
    return sorted(found.values(), key=lambda each: names.index(each.variant))


def _pooled(summary: Summary) -> StageResult:
    low, high = wilson(summary.successes, summary.trials)
    return StageResult(
        name=f"{summary.variant}: {summary.stage}", policy=summary.policy,
        successes=summary.successes, trials=summary.trials, wilson_low=low, wilson_high=high,
        seconds=0.0,
        success_seconds=float(np.mean(summary.lengths_s)) if summary.lengths_s else None,
    )  # fmt: skip


def summary_table(summaries: Sequence[Summary]) -> Table:
    """Success of all seeds, the range of the seeds, length of successes, episodes played."""
    table = Table(
        "variant", "stage", "policy", "success", "95 % interval", "seeds", "length", "episodes"
    )
    for each in summaries:
        low, high = wilson(each.successes, each.trials)
        length = f"{np.mean(each.lengths_s):.2f} s" if each.lengths_s else "-"
        table.add_row(
            each.variant,
            each.stage,
            each.policy,
            f"{each.successes}/{each.trials} = {100 * each.successes / each.trials:.1f} %",
            f"{100 * low:.0f} - {100 * high:.0f} %",
            ", ".join(f"{100 * share:.0f}" for share in each.shares),
            length,
            f"{np.mean(each.episodes):.0f}",
        )
    return table
