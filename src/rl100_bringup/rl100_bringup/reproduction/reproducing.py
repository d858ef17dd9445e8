# SPDX-License-Identifier: Apache-2.0
"""Claims of the documentation, each reproduced by one command: tasks, seeds, all stages, a table.

    <output>/runs/<task>_<key>/job.json    what is run there, with all settings but the seed
    <output>/runs/<task>_<key>/seed_<n>/   report.json, run.log, run/, control/, graph/
    <output>/<claim>/                      report.json, tables.md, pictures
    <output>/shared/                       demonstrations and imitation that several runs share

Every run has a folder and a process of its own, is resumed when the command is given again, and
leaves a report; the claim's report is made of theirs. The key is of what differs from the default,
so that claims share the runs that they have in common. ``job.json`` and ``report.json`` are all of
a finished run that tables and pictures need.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from filelock import FileLock
from rich.console import Console

from rl100_bringup.collecting import SAMPLERS, evaluate_stages, simulated_collector
from rl100_bringup.display import Bars, progress_display
from rl100_bringup.evaluating import evaluate_version
from rl100_bringup.graph import GraphArguments
from rl100_bringup.report import (
    Report,
    StageResult,
    simulated_result,
    this_machine,
)
from rl100_bringup.reproduction.claims import CONTROL, GRAPH, Claim, Variant, find_claim
from rl100_bringup.reproduction.demonstrations import demonstrations_of, describe_task
from rl100_bringup.reproduction.job_processes import run_jobs
from rl100_bringup.reproduction.jobs import Job
from rl100_bringup.reproduction.telling import tell
from rl100_bringup.run_folder import run_results
from rl100_learner.data.episode import Episode
from rl100_learner.files import replacing
from rl100_learner.training.algorithm_run import run_algorithm
from rl100_learner.training.algorithm_settings import AlgorithmSettings
from rl100_learner.training.collecting import Collector
from rl100_learner.training.identity import content_key
from rl100_learner.training.imitation_run import train_imitation
from rl100_learner.training.progress import Progress
from rl100_learner.training.seeds import Purpose, episode_seeds
from rl100_learner.training.stages import STAGES, read_stages
from rl100_policy.core.config import AnyTask, RobotConfig
from rl100_policy.core.errors import ConfigError, LearningError

ENVIRONMENTS = 24
"""Episodes of one run at the same time; every environment holds a scene of its own."""


def reproduce(
    name: str,
    output: Path,
    variants: Sequence[str],
    seeds: Sequence[int],
    overrides: Sequence[str],
    jobs: int,
    console: Console,
    *,
    finished: bool = False,
) -> Report:
    """Run what of a claim is not finished, and tell all of it.

    Args:
        name: Of the claim.
        output: Folder of runs, tables and pictures.
        variants: Which of the claim's; empty: all.
        seeds: Which; empty: the claim's. A part of a claim is told in a folder of its own.
        overrides: Further changes to the settings, for research; the claim is then another one,
            with a folder of its own.
        jobs: Runs at the same time, each on one processor.
        console: Where progress and the table go.
        finished: Run nothing, tell what is finished.

    Raises:
        ConfigError: If there is no such claim or variant, a setting is invalid, or nothing is
            finished where only that is to be told.
        LearningError: If a run failed; what is finished has been told then.
    """
    begun = time.monotonic()
    claim = find_claim(name)
    chosen = [claim.variant(each) for each in variants] or claim.variants
    planned = _jobs(claim, chosen, seeds or claim.seeds, output, overrides)
    _refuse_what_the_claim_varies(chosen, overrides)
    for job in planned:
        _ = job.settings  # refused now, not in a process later
    part = "_part" if variants or seeds else ""
    folder = output / f"{name}{f'_{content_key(*overrides)}' if overrides else ''}{part}"
    console.print(claim.text)
    failed: dict[Path, str] = {}
    if not finished:
        console.print(
            f"{len(planned)} runs in {output / 'runs'}, {jobs} at a time; each logs to run.log in "
            "its folder. Interrupted, the same command goes on."
        )
        for job in planned:
            job.write_down()
        failed = _run_all(planned, jobs, console)
    done = [job for job in planned if Report.is_in(job.folder)]
    if finished:
        console.print(f"{len(done)} of {len(planned)} runs are finished in {output}.")
    if not done:
        reasons = "\n".join(f"{folder}: {reason}" for folder, reason in failed.items())
        raise ConfigError(
            f"no run of {name} is finished in {output}; "
            + (reasons or "leave --finished out to run them")
        )
    for job in done:
        job.write_down()
    reports = [Report.read(job.folder) for job in done]
    missing = [
        (job.variant.name, job.seed, failed.get(job.folder, "not run yet"))
        for job in planned
        if job not in done
    ]
    missing += [
        (job.variant.name, job.seed, report.failure)
        for job, report in zip(done, reports, strict=True)
        if report.failure
    ]
    report = Report(
        command=f"reproduce {name}",
        wall_seconds=time.monotonic() - begun,
        machine=this_machine(),
    )
    report = tell(folder, report, done, reports, missing, console)
    if failed:
        raise LearningError(
            f"{len(failed)} of {len(planned)} runs failed, as told above; the same command tries "
            "them again"
        )
    return report


def finished_runs(name: str, output: Path) -> tuple[int, int]:
    """How many runs of a claim are finished in a folder, and how many there are."""
    claim = find_claim(name)
    planned = _jobs(claim, claim.variants, claim.seeds, output)
    return sum(Report.is_in(job.folder) for job in planned), len(planned)


def _jobs(
    claim: Claim,
    variants: Sequence[Variant],
    seeds: Sequence[int],
    output: Path,
    overrides: Sequence[str] = (),
) -> list[Job]:
    return [
        Job(variant, seed, output, claim.trials, tuple(overrides))
        for seed in seeds
        for variant in variants
    ]


def _refuse_what_the_claim_varies(variants: Sequence[Variant], overrides: Sequence[str]) -> None:
    """Raises ConfigError if a change would make variants alike that the claim compares."""
    for override in overrides:
        key = override.partition("=")[0].strip()
        said = {tuple(o for o in each.overrides if o.startswith(f"{key}=")) for each in variants}
        if key == "seed" or len(said) > 1:
            raise ConfigError(
                f"{override!r} cannot be set here: "
                + ("seeds are chosen by --seed" if key == "seed" else "it is what is compared")
            )


def _run_all(planned: Sequence[Job], jobs: int, console: Console) -> dict[Path, str]:
    """Reasons of the runs that failed, by their folder."""
    alone = {job.folder: job for job in planned}  # what two variants have in common, once
    with progress_display(console) as display:
        bar = display.add_task("runs", total=len(alone), note="")

        def on_finished(job: Job, reason: str) -> None:
            result = "failed"
            if not reason:
                learned = [x for x in Report.read(job.folder).stages if x.name != CONTROL]
                last = learned[-1]
                result = f"{last.successes}/{last.trials}"
            note = f"{job.variant.name} seed {job.seed}: {result}"
            display.update(bar, advance=1, note=note)

        return run_jobs(list(alone.values()), jobs, on_finished)


def run_job(job: Job) -> Report:
    """Demonstrate, learn, evaluate; what is finished is taken from the folder.

    Two commands that have a run in common do it once: one waits for the other.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    with FileLock(job.folder / "lock"):
        if Report.is_in(job.folder):
            return Report.read(job.folder)
        report = _run(job)
        report.write(job.folder)
        return report


def _run(job: Job) -> Report:
    begun, failure = time.monotonic(), ""
    with (job.folder / "run.log").open("a", encoding="utf-8") as log:
        console = Console(file=log, width=100)
        settings = job.settings
        task, robot = describe_task(job.variant)
        demonstrations = demonstrations_of(job.variant, job.seed, job.shared / "demonstrations")
        with (
            Bars.shown(console) as bars,
            simulated_collector(
                task, robot, settings.n_chunk, 1, settings.gamma, bars.on_episodes,
                ENVIRONMENTS, decision_threads=settings.threads,
            ) as collector,
        ):  # fmt: skip
            _take_imitation(job, demonstrations, task, robot, collector, bars)
            try:
                run_algorithm(
                    demonstrations, task, robot, job.folder / "run", settings, collector,
                    bars.on_stage, job.variant.stages,
                )  # fmt: skip
            except LearningError as error:
                failure = str(error)
                console.print(f"ended early: {failure}")
            records = read_stages(job.folder / "run")
            if not records:
                raise LearningError(failure)
            versions = {record.name: job.folder / "run" / record.version for record in records}
            if job.variant.control and settings.episodes == "all":
                again = settings.imitation_settings.model_copy(update={"episodes": "success"})
                versions[CONTROL] = train_imitation(
                    demonstrations, task, robot, job.folder / "control", again,
                    partial(_tell_control, bars),
                )  # fmt: skip
            seeds = episode_seeds(Purpose.EVALUATION, job.seed, 0, job.trials)
            stages = [
                _operator(demonstrations, collector.period_s),
                *evaluate_stages(collector, versions, seeds),
            ]
        if job.variant.through_graph:
            driving = {each.name: versions[each.name] for each in (records[0], records[-1])}
            stages += _through_graph(job, driving, seeds.start, console)
    return Report(
        command="reproduce",
        stages=stages,
        failure=failure,
        **run_results(job.folder / "run", records),
        policy_version=records[-1].version,
        wall_seconds=time.monotonic() - begun,
        machine=this_machine(),
    )


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
    return AlgorithmSettings(**job.settings.imitation_settings.model_dump())


def _imitation_key(job: Job) -> str:
    """Equal for two runs whose imitation is equal; another one where defaults have changed."""
    variant = job.variant
    settings = _imitating(job).model_dump(mode="json")
    return content_key(variant.task, variant.demonstrations, variant.n_points, settings)


def _through_graph(
    job: Job, versions: Mapping[str, Path], first_seed: int, console: Console
) -> list[StageResult]:
    """Teacher and student of versions drive through the ROS graph, from the same start states."""
    results = []
    for stage, version in versions.items():
        output = job.folder / "graph" / stage
        shutil.rmtree(output, ignore_errors=True)  # of an attempt that was interrupted
        report = evaluate_version(
            version, output, job.trials, SAMPLERS, first_seed, GraphArguments().robot,
            job.variant.task, console,
        )  # fmt: skip
        results += [each.model_copy(update={"name": stage + GRAPH}) for each in report.stages]
    return results


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
