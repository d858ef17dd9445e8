# SPDX-License-Identifier: Apache-2.0
"""Online reinforcement learning of a version in the vectorised simulation, and its report."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from rl100_bringup.collecting import evaluate_simulated, simulated_collector
from rl100_bringup.display import Bars
from rl100_bringup.graph import config_path
from rl100_bringup.report import Report, this_machine
from rl100_bringup.run_folder import training_results
from rl100_learner.training.identity import alone_in
from rl100_learner.training.online_run import OnlineSettings, claim_run, improve_version
from rl100_policy.core.config import load_robot, load_task
from rl100_policy.core.policy_version import check_fits, load_version, read_manifest


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
        Rl100Error: If the version does not fit robot and task, or the folder holds another run
            or another process is learning in it.
    """
    begun = time.monotonic()
    robot = load_robot(config_path("robots", settings.robot))
    task = load_task(config_path("tasks", settings.task))
    parent = read_manifest(settings.version)
    check_fits(parent, task, robot)
    before, _ = load_version(settings.version)
    n_chunk, gamma = before.config.action.n_chunk, settings.learning.gamma
    trials = range(settings.first_seed, settings.first_seed + settings.trials)
    with (
        alone_in(settings.output),
        Bars.shown(console) as bars,
        simulated_collector(
            task,
            robot,
            n_chunk,
            settings.processes,
            gamma,
            bars.on_episodes,
            decision_threads=settings.learning.threads,
        ) as collector,
    ):
        claim_run(parent, settings.output, settings.learning)  # before anything is played
        stages = evaluate_simulated(collector, settings.version, "before", trials)
        version = improve_version(
            settings.version,
            settings.output,
            settings.learning,
            collector,
            partial(bars.on_stage, "online"),
        )
        stages += evaluate_simulated(collector, version, "online", trials)
    report = Report(
        command="improve",
        stages=stages,
        training=training_results(settings.output),
        policy_version=read_manifest(version).reference,
        wall_seconds=time.monotonic() - begun,
        machine=this_machine(),
    )
    return version, report
