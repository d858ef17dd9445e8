# SPDX-License-Identifier: Apache-2.0
"""Claims of the documentation, each reproduced by one command: tasks, seeds, all stages, a table.

Every run of a task and a seed has a folder and a process of its own, is resumed when the command
is given again, and leaves a report; the claim's report is made of theirs.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from filelock import FileLock
from rich.console import Console

from rl100_bringup.claims import CONTROL, Variant, find_claim
from rl100_bringup.collecting import evaluate_stages, simulated_collector
from rl100_bringup.demonstrating import demonstrations_of, describe_task
from rl100_bringup.display import Bars, progress_display
from rl100_bringup.learning_pictures import claim_figure
from rl100_bringup.report import (
    REPORT_FILE,
    Report,
    StageResult,
    simulated_result,
    this_machine,
)
from rl100_bringup.summaries import (
    by_variant,
    pooled,
    summarise,
    summary_table,
    watched_table,
    write_markdown,
)
from rl100_learner.data.episode import Episode
from rl100_learner.files import replacing
from rl100_learner.training.algorithm_run import STAGES, AlgorithmSettings, run_algorithm
from rl100_learner.training.collecting import Collector
from rl100_learner.training.run import Progress, train_imitation
from rl100_learner.training.settings import with_overrides
from rl100_policy.core.config import AnyTask, RobotConfig
from rl100_policy.core.errors import ConfigError

TRIAL_SEED = 100_000
"""Seed of the first evaluation episode: far from those of demonstrations and of learning."""
JOB = "job.json"
"""What a folder of a run is of."""
TABLES = "tables.md"
"""What the runs of a claim found, for documents."""
ENVIRONMENTS = 24
"""Episodes of one run at the same time; every environment holds a scene of its own."""


@dataclass(frozen=True)
class Job:
    """One run of a variant and a seed.

    Attributes:
        variant: What is run.
        seed: Of everything.
        folder: Of the run.
        shared: Folder of what is equal in several runs: demonstrations and imitation.
        trials: Evaluation episodes per stage and policy.
        overrides: Changes to the settings.
    """

    variant: Variant
    seed: int
    folder: Path
    shared: Path
    trials: int
    overrides: tuple[str, ...]


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
            variant, seed, output / name / variant.folder / f"seed_{seed}", output / "shared",
            claim.trials, (*variant.overrides, *overrides, f"seed={seed}"),
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
    summaries = summarise([job.variant.name for job in planned], reports)
    watched = watched_table(*_watched(planned))
    tables = [summary_table(summaries), *([] if watched is None else [watched])]
    for table in tables:
        console.print(table)
    report = Report(
        command=f"reproduce {name}",
        stages=[pooled(each) for each in summaries],
        wall_seconds=time.monotonic() - begun,
        machine=this_machine(),
    )
    report.write(output / name)
    picture = output / name / "success.png"
    claim_figure(by_variant(summaries)).savefig(picture, dpi=110)
    write_markdown(output / name / TABLES, tables)
    console.print(f"picture: {picture}; tables: {output / name / TABLES}")
    return report


def _watched(planned: Sequence[Job]) -> tuple[list[tuple[str, Path]], int]:
    """Offline phases of the first rounds, and the episodes that their iterates played."""
    folders = [(job.variant.name, job.folder / "run" / "round_1" / "offline") for job in planned]
    episodes = max(with_overrides(AlgorithmSettings(), job.overrides).watch for job in planned)
    return [(name, folder) for name, folder in folders if folder.exists()], episodes


def _run_all(planned: Sequence[Job], jobs: int, console: Console) -> list[Report]:
    context = multiprocessing.get_context("spawn")  # a fork would copy the threads' locks of torch
    done: dict[int, Report] = {}
    with (
        progress_display(console) as display,
        ProcessPoolExecutor(jobs, context, _give_way) as pool,
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


def _claim_folder(job: Job) -> None:
    """Raises ConfigError if the folder holds results of another variant, or of other settings."""
    job.folder.mkdir(parents=True, exist_ok=True)
    asked = asdict(job.variant) | {"overrides": job.overrides, "trials": job.trials}
    told = json.dumps(asked, indent=2) + "\n"
    path = job.folder / JOB
    if path.exists() and path.read_text(encoding="utf-8") != told:
        raise ConfigError(
            f"{job.folder} holds a run with other settings (see {JOB}); choose another --output, "
            "or delete it"
        )
    path.write_text(told, encoding="utf-8")


def _give_way() -> None:
    """The person's own work comes first."""
    with suppress(OSError):
        os.nice(5)


def run_job(job: Job) -> Report:
    """Demonstrate, learn, evaluate; what is finished is taken from the folder."""
    path = job.folder / REPORT_FILE
    _claim_folder(job)
    if path.exists():
        return Report.model_validate_json(path.read_text(encoding="utf-8"))
    begun = time.monotonic()
    with (job.folder / "run.log").open("a", encoding="utf-8") as log:
        console = Console(file=log, width=100)
        settings = with_overrides(AlgorithmSettings(), job.overrides)
        task, robot = describe_task(job.variant)
        demonstrations = demonstrations_of(job.variant, job.seed, job.shared / "demonstrations")
        with (
            Bars.shown(console) as bars,
            simulated_collector(
                task, robot, settings.n_chunk, 1, settings.online.gamma, bars.on_episodes,
                ENVIRONMENTS,
            ) as collector,
        ):  # fmt: skip
            _take_imitation(job, demonstrations, task, robot, collector, bars)
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
            stages = [
                _operator(demonstrations, collector.period_s),
                *evaluate_stages(collector, versions, seeds),
            ]
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


def _take_imitation(
    job: Job,
    demonstrations: Sequence[Episode],
    task: AnyTask,
    robot: RobotConfig | None,
    collector: Collector,
    bars: Bars,
) -> None:
    """Imitation with equal settings is equal to the bit in all runs: one does it, all copy it."""
    run = job.folder / "run"
    if (run / STAGES).exists():
        return
    shared = job.shared / "imitation" / f"{job.variant.task}_{_imitation_key(job)}"
    shared.mkdir(parents=True, exist_ok=True)
    with FileLock(shared / "lock"):
        run_algorithm(
            demonstrations, task, robot, shared / "run", _imitating(job), collector, bars.on_stage,
            ("imitation",),
        )  # fmt: skip
    shutil.copytree(shared / "run" / "imitation", run / "imitation", dirs_exist_ok=True)
    with replacing(run / STAGES) as file:
        file.write((shared / "run" / STAGES).read_bytes())


def _imitating(job: Job) -> AlgorithmSettings:
    """Settings of the run that does nothing but imitate, as this one does."""
    settings = with_overrides(AlgorithmSettings(), job.overrides)
    return AlgorithmSettings(**settings.imitation_settings.model_dump())


def _imitation_key(job: Job) -> str:
    """Equal for two runs whose imitation is equal; another one where defaults have changed."""
    variant = job.variant
    settings = _imitating(job).model_dump(mode="json")
    told = [variant.task, variant.demonstrations, variant.n_points, settings]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def _tell_control(bars: Bars, progress: Progress) -> None:
    bars.on_stage("control", progress)


def _operator(demonstrations: Sequence[Episode], period_s: float) -> StageResult:
    return simulated_result(
        "demonstrations",
        "operator",
        [episode.outcome == "success" for episode in demonstrations],
        [len(episode) * period_s for episode in demonstrations],
        0.0,
    )
