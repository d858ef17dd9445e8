# SPDX-License-Identifier: Apache-2.0
"""Training from a folder of bags with a progress display.

The same as the learner node does on request.
"""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.progress import TaskID

from rl100_bringup.display import progress_display
from rl100_bringup.graph import config_path
from rl100_bringup.report import TrainingResult
from rl100_learner.data.reader import load_episodes
from rl100_learner.training.run import Progress, train_imitation
from rl100_learner.training.settings import TrainSettings, with_overrides
from rl100_policy.core.config import load_robot, load_task


def train_from_bags(
    bags: Path, output: Path, robot: str, task: str, overrides: tuple[str, ...], console: Console
) -> tuple[Path, list[TrainingResult]]:
    """Read bags, train imitation and the one-step student, write a version.

    Args:
        bags: Folder of episode bags.
        output: Folder of the run; an interrupted run in it is resumed.
        robot: Name or path of the robot description.
        task: Name or path of the task description.
        overrides: Training settings as ``key=value``.
        console: Where progress is shown.

    Returns:
        Folder of the policy version, and one result per stage.

    Raises:
        BagError: If the folder holds no usable episode.
        ConfigError: If a description or setting is invalid.
    """
    robot_config, task_config = (
        load_robot(config_path("robots", robot)),
        load_task(config_path("tasks", task)),
    )
    settings = with_overrides(TrainSettings(), overrides)
    results: dict[str, TrainingResult] = {}
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
        begun: dict[str, float] = {}

        def on_progress(progress: Progress) -> None:
            if progress.stage not in bars:
                bars[progress.stage] = display.add_task(
                    f"train: {progress.stage}", total=progress.steps, note=""
                )
                begun[progress.stage] = sum(result.seconds for result in results.values())
            display.update(
                bars[progress.stage], completed=progress.step, note=f"loss {progress.loss:.4f}"
            )
            spent = progress.seconds - begun[progress.stage]
            results[progress.stage] = TrainingResult(
                stage=progress.stage, steps=progress.step, seconds=spent, loss=progress.loss
            )

        version = train_imitation(
            episodes, task_config, robot_config, output, settings, on_progress
        )
    return version, list(results.values())
