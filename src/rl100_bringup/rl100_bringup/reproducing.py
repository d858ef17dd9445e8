# SPDX-License-Identifier: Apache-2.0
"""Claims of the documentation, each reproduced by one command: tasks, seeds, all stages, a table.

Every run of a task and a seed has a folder and a process of its own, is resumed when the command
is given again, and leaves a report; the claim's report is made of theirs.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from rl100_bringup.collecting import evaluate_simulated, simulated_collector
from rl100_bringup.display import Bars, progress_display
from rl100_bringup.report import REPORT_FILE, Report, StageResult, this_machine, wilson
from rl100_learner.data.episode import Episode
from rl100_learner.data.store import load_stored_episodes, save_episodes
from rl100_learner.training.algorithm_run import AlgorithmSettings, run_algorithm
from rl100_learner.training.run import Progress, train_imitation
from rl100_learner.training.settings import with_overrides
from rl100_policy.core.config import BenchmarkTask
from rl100_policy.core.errors import ConfigError
from rl100_sim.meta_world.demonstrator import demonstrate
from rl100_sim.meta_world.env import MetaWorldEnv

TRIAL_SEED = 100_000
"""Seed of the first evaluation episode: far from those of demonstrations and of learning."""
DEMONSTRATIONS = "demonstrations.npz"
ENVIRONMENTS = 24
"""Episodes of one run at the same time; every environment holds a scene of its own."""
CONTROL = "imitation of successes only"


@dataclass(frozen=True)
class Claim:
    """What is to be reproduced.

    Attributes:
        text: What it says.
        tasks: Of Meta-World; each with changes to the settings of its own.
        seeds: Of demonstrations, learning and roll-outs; settings were chosen on others.
        demonstrations: Per run.
        trials: Evaluation episodes per stage and policy.
        overrides: Changes to the settings for all tasks.
    """

    text: str
    tasks: dict[str, tuple[str, ...]]
    seeds: tuple[int, ...]
    demonstrations: int
    trials: int
    overrides: tuple[str, ...]


CLAIMS = {
    "meta_world": Claim(
        text="From imperfect demonstrations of three Meta-World tasks, state observations: "
        "imitation, two offline rounds, online learning, one-step student.",
        tasks={"push-v3": (), "pick-place-v3": (), "peg-insert-side-v3": ()},
        seeds=(0, 1, 2, 3, 4),
        demonstrations=100,
        trials=100,
        overrides=(
            "episodes=all", "rounds=2", "imitation.steps=3000", "diffusion.sigma_min=0.05",
            "online.iterations=10", "online.episodes=100", "network.width=128",
        ),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One run of a task and a seed."""

    task: str
    seed: int
    folder: Path
    demonstrations: int
    trials: int
    overrides: tuple[str, ...]


@dataclass
class Summary:
    """A stage of a task over all seeds.

    Attributes:
        task: Its name.
        stage: Its name.
        policy: ``ddim`` or ``one_step``.
        shares: Success share of every seed.
        successes: Of all seeds.
        trials: Of all seeds.
        lengths_s: Mean length of the successes of every seed [s].
        episodes: Played until then, mean over the seeds; demonstrations are not counted.
    """

    task: str
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
    tasks: Sequence[str],
    seeds: Sequence[int],
    overrides: Sequence[str],
    jobs: int,
    console: Console,
) -> Report:
    """Run what of a claim is not finished, and tell all of it.

    Args:
        name: Of the claim.
        output: Folder; a run of a task and seed is ``<output>/<claim>/<task>/seed_<seed>``.
        tasks: Which of the claim's; empty: all.
        seeds: Which; empty: the claim's.
        overrides: Further changes to the settings, for research; the claim is then another one.
        jobs: Runs at the same time, each on one processor.
        console: Where progress and the table go.

    Raises:
        ConfigError: If there is no such claim or task, or a setting is invalid.
    """
    begun = time.monotonic()
    claim = _find(name, tasks)
    for task in claim.tasks:  # refused now, not in a process later
        with_overrides(AlgorithmSettings(), (*claim.overrides, *claim.tasks[task], *overrides))
    planned = [
        Job(
            task, seed, output / name / task / f"seed_{seed}", claim.demonstrations, claim.trials,
            (*claim.overrides, *claim.tasks[task], *overrides, f"seed={seed}"),
        )
        for seed in seeds or claim.seeds
        for task in tasks or claim.tasks
    ]  # fmt: skip
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


def _find(name: str, tasks: Sequence[str]) -> Claim:
    if name not in CLAIMS:
        raise ConfigError(f"expected one of the claims {', '.join(CLAIMS)}, got {name!r}")
    claim = CLAIMS[name]
    for task in tasks:
        if task not in claim.tasks:
            raise ConfigError(
                f"claim {name!r} has the tasks {', '.join(claim.tasks)}, got {task!r}"
            )
    return claim


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
                note = f"{job.task} seed {job.seed}: {last.successes}/{last.trials}"
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
        task = benchmark_task(job.task)
        demonstrations = _demonstrations(job, task)
        with (
            progress_display(console) as display,
            simulated_collector(
                task, None, settings.n_chunk, 1, settings.gamma, ENVIRONMENTS
            ) as collector,
        ):
            bars = Bars(display)
            collector.on_episodes = bars.on_episodes
            records = run_algorithm(
                demonstrations, task, None, job.folder / "run", settings, collector, bars.on_stage
            )
            versions = {record.name: job.folder / "run" / record.version for record in records}
            if settings.episodes == "all":
                again = settings.imitation_settings.model_copy(update={"episodes": "success"})
                versions[CONTROL] = train_imitation(
                    demonstrations, task, None, job.folder / "control", again,
                    partial(_tell_control, bars),
                )  # fmt: skip
            seeds = range(TRIAL_SEED, TRIAL_SEED + job.trials)
            stages = [_operator(demonstrations, task)]
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


def benchmark_task(name: str, n_points: int = 0) -> BenchmarkTask:
    """Description of a Meta-World task for the learner; without points its state is observed."""
    env = MetaWorldEnv(
        name, observation="cloud" if n_points else "state", n_points=max(n_points, 1)
    )
    space = env.observation_space["proprio"]  # type: ignore[index]
    return BenchmarkTask(
        name=name,
        suite="Meta-World 3.1.1",
        n_points=n_points,
        proprio_dim=space.shape[0],
        action_dim=env.action_space.shape[0],  # type: ignore[index]
        control_period=1.0 / env.metadata["render_fps"],
    )


def _demonstrations(job: Job, task: BenchmarkTask) -> list[Episode]:
    path = job.folder / DEMONSTRATIONS
    if not path.exists():
        env = MetaWorldEnv(job.task)
        first = job.seed * 10_000
        shown = [demonstrate(env, seed) for seed in range(first, first + job.demonstrations)]
        save_episodes(
            path,
            [
                Episode(
                    id=f"{task.name}_{each.seed}",
                    outcome=each.outcome,
                    clouds=each.clouds,
                    proprio=each.proprio,
                    actions=each.actions,
                    stamps_ns=each.stamps_ns,
                )
                for each in shown
            ],
        )
    return load_stored_episodes(path)


def _operator(demonstrations: Sequence[Episode], task: BenchmarkTask) -> StageResult:
    won = [len(e) * task.control_period for e in demonstrations if e.outcome == "success"]
    low, high = wilson(len(won), len(demonstrations))
    return StageResult(
        name="demonstrations", policy="operator", successes=len(won), trials=len(demonstrations),
        wilson_low=low, wilson_high=high, seconds=0.0,
        success_seconds=float(np.mean(won)) if won else None,
    )  # fmt: skip


def summarise(planned: Iterable[Job], reports: Iterable[Report]) -> list[Summary]:
    """Every stage of every task over the seeds, in the order of the stages."""
    found: dict[tuple[str, str, str], Summary] = {}
    for job, report in zip(planned, reports, strict=True):
        played, total = {"demonstrations": 0, CONTROL: 0}, 0
        for record in report.run:
            total += 0 if record.name == "imitation" else record.episodes
            played[record.name] = total
        for result in report.stages:
            key = (job.task, result.name, result.policy)
            found.setdefault(key, Summary(*key)).add(result, played[result.name])
    return sorted(found.values(), key=lambda each: each.task)


def _pooled(summary: Summary) -> StageResult:
    low, high = wilson(summary.successes, summary.trials)
    return StageResult(
        name=f"{summary.task}: {summary.stage}", policy=summary.policy,
        successes=summary.successes, trials=summary.trials, wilson_low=low, wilson_high=high,
        seconds=0.0,
        success_seconds=float(np.mean(summary.lengths_s)) if summary.lengths_s else None,
    )  # fmt: skip


def summary_table(summaries: Sequence[Summary]) -> Table:
    """Success of all seeds, the range of the seeds, length of successes, episodes played."""
    table = Table(
        "task", "stage", "policy", "success", "95 % interval", "seeds", "length", "episodes"
    )
    for each in summaries:
        low, high = wilson(each.successes, each.trials)
        length = f"{np.mean(each.lengths_s):.2f} s" if each.lengths_s else "-"
        table.add_row(
            each.task,
            each.stage,
            each.policy,
            f"{each.successes}/{each.trials} = {100 * each.successes / each.trials:.1f} %",
            f"{100 * low:.0f} - {100 * high:.0f} %",
            ", ".join(f"{100 * share:.0f}" for share in each.shares),
            length,
            f"{np.mean(each.episodes):.0f}",
        )
    return table
