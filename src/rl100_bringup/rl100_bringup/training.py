# SPDX-License-Identifier: Apache-2.0
"""Training from a folder of bags with a progress display.

The same as the learner node does on request.
"""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console
from rich.progress import TaskID

from rl100_bringup.display import progress_display
from rl100_bringup.graph import config_path
from rl100_bringup.report import Report, TrainingResult, bags_result, this_machine
from rl100_learner.data.reader import load_episodes
from rl100_learner.training.records import read_metrics
from rl100_learner.training.run import Progress, train_imitation
from rl100_learner.training.settings import TrainSettings, with_overrides
from rl100_policy.bags.index import IndexEntry, read_index
from rl100_policy.core.config import load_robot, load_task


def train_from_bags(
    bags: Path, output: Path, robot: str, task: str, overrides: tuple[str, ...], console: Console
) -> tuple[Path, list[TrainingResult], list[IndexEntry]]:
    """Read bags, train imitation and the one-step student, write a version.

    Args:
        bags: Folder of episode bags.
        output: Folder of the run; an interrupted run in it is resumed.
        robot: Name or path of the robot description.
        task: Name or path of the task description.
        overrides: Training settings as ``key=value``.
        console: Where progress is shown.

    Returns:
        Folder of the policy version, one result per stage, and the bags that could be read.

    Raises:
        BagError: If the folder holds no usable episode.
        ConfigError: If a description or setting is invalid.
    """
    robot_config, task_config = (
        load_robot(config_path("robots", robot)),
        load_task(config_path("tasks", task)),
    )
    settings = with_overrides(TrainSettings(), overrides)
    with progress_display(console) as display:
        reading = display.add_task("read bags", total=None, note="")
        episodes = load_episodes(
            bags,
            task_config,
            robot_config,
            lambda done, total: display.update(reading, completed=done, total=total),
            accept_other_setup=settings.accept_other_setup,
        )
        bars: dict[str, TaskID] = {}

        def on_progress(progress: Progress) -> None:
            if progress.stage not in bars:
                bars[progress.stage] = display.add_task(
                    f"train: {progress.stage}", total=progress.steps, note=""
                )
            display.update(
                bars[progress.stage], completed=progress.step, note=f"loss {progress.loss:.4f}"
            )

        version = train_imitation(
            episodes, task_config, robot_config, output, settings, on_progress
        )
    readable = {episode.id for episode in episodes}
    entries = [e for e in read_index(bags).entries if e.metadata.episode_id in readable]
    return version, training_results(output), entries


def train_and_report(
    bags: Path, output: Path, robot: str, task: str, overrides: tuple[str, ...], console: Console
) -> tuple[Path, Report]:
    """As ``train_from_bags``, with everything measured as a report."""
    begun = time.monotonic()
    version, training, entries = train_from_bags(bags, output, robot, task, overrides, console)
    report = Report(
        command="train",
        bags=bags_result(entries),
        training=training,
        policy_version=version.name,
        wall_seconds=time.monotonic() - begun,
        machine=this_machine(),
    )
    return version, report


def training_results(run: Path) -> list[TrainingResult]:
    """What a run cost and ended with, by stage, from its records.

    So a run that was interrupted, or had ended before, is reported as one that was not.
    """
    last = {str(row["stage"]): row for row in read_metrics(run)}
    results: list[TrainingResult] = []
    before = 0.0
    for stage, row in last.items():
        until = float(row["seconds"])  # of all stages so far
        results.append(
            TrainingResult(
                stage=stage,
                steps=int(row["step"]),
                seconds=until - before,
                loss=float(row["loss"]),
            )
        )
        before = until
    return results
