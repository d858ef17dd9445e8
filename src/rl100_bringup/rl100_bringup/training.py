# SPDX-License-Identifier: Apache-2.0
"""Training from a folder of bags with a progress display: any or all stages of the method.

The same as the learner node does on request.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console

from rl100_bringup.collecting import (
    NobodyActs,
    SimulatedCollector,
    environment,
    evaluate_stages,
    simulated_collector,
)
from rl100_bringup.display import Bars
from rl100_bringup.graph import config_path
from rl100_bringup.graph_collecting import graph_collector
from rl100_bringup.report import Report, StageResult, bags_result, this_machine
from rl100_bringup.run_folder import run_results
from rl100_learner.data.reader import load_demonstrations
from rl100_learner.training.algorithm_run import run_algorithm
from rl100_learner.training.algorithm_settings import AlgorithmSettings, settings_for
from rl100_learner.training.collecting import Collector
from rl100_learner.training.stages import ALL_STAGES, Stage, StageRecord
from rl100_policy.bags.index import IndexEntry, read_index
from rl100_policy.core.config import RobotConfig, TaskConfig, load_robot, load_task
from rl100_policy.core.errors import ConfigError
from rl100_policy.core.policy_version import read_manifest

Collect = Literal["simulation", "graph"]


@dataclass(frozen=True)
class Trained:
    """What a run left.

    Attributes:
        records: Of the finished stages, in their order.
        entries: The bags that were read.
        output: Folder of the run.
    """

    records: list[StageRecord]
    entries: list[IndexEntry]
    output: Path

    @property
    def version(self) -> Path:
        """Folder of the last version."""
        return self.output / self.records[-1].version


@dataclass(frozen=True)
class TrainRequest:
    """What a person asks of a run.

    Attributes:
        bags: Folder of episode bags.
        output: Folder of the run; an interrupted run in it is resumed.
        robot: Name or path of the robot description.
        task: Name or path of the task description.
        overrides: Settings as ``key=value``.
        stages: Which to run; finished ones are not run again.
        collect: Where policies act: in the vectorised simulation, or through a ROS graph with the
            simulated robot.
        processes: Of the vectorised simulation.
    """

    bags: Path
    output: Path
    robot: str
    task: str
    overrides: Sequence[str] = ()
    stages: Sequence[Stage] = ALL_STAGES
    collect: Collect = "simulation"
    processes: int = 2

    def settings(self) -> AlgorithmSettings:
        """Resolved settings; raises ConfigError if one, or the task, is invalid."""
        return settings_for(load_task(config_path("tasks", self.task)), self.overrides)

    def descriptions(self) -> tuple[RobotConfig, TaskConfig]:
        """Robot and task; raises ConfigError if one is invalid."""
        return (
            load_robot(config_path("robots", self.robot)),
            load_task(config_path("tasks", self.task)),
        )


def train_from_bags(request: TrainRequest, console: Console) -> Trained:
    """Read bags, run the stages.

    Args:
        request: What is asked for.
        console: Where progress is shown.

    Raises:
        BagError: If the folder holds no usable demonstration.
        ConfigError: If a description or setting is invalid, or a stage needs a simulation that the
            task does not have.
    """
    robot, task = request.descriptions()
    settings = request.settings()
    if not request.stages:
        raise ConfigError(f"expected one or more of the stages {', '.join(ALL_STAGES)}, got none")
    with Bars.shown(console) as bars:
        episodes = load_demonstrations(
            request.bags,
            task,
            robot,
            lambda done, total: bars.update("read bags", done, total, ""),
            accept_other_setup=settings.accept_other_setup,
        )
        acting: AbstractContextManager[Collector] = nullcontext(NobodyActs())
        if set(request.stages) == {"imitation"}:
            pass
        elif request.collect == "graph":
            acting = graph_collector(
                request.robot, request.task, request.output, settings.gamma,
                bars.on_episodes, console,
            )  # fmt: skip
        else:
            acting = _simulated(request, bars)
        with acting as collector:
            records = run_algorithm(
                episodes, task, robot, request.output, settings, collector, bars.on_stage,
                request.stages,
            )  # fmt: skip
    readable = {episode.id for episode in episodes}
    entries = [e for e in read_index(request.bags).entries if e.metadata.episode_id in readable]
    return Trained(records, entries, request.output)


def _simulated(request: TrainRequest, bars: Bars) -> AbstractContextManager[SimulatedCollector]:
    robot, task = request.descriptions()
    settings = request.settings()
    return simulated_collector(
        task, robot, settings.n_chunk, request.processes, settings.gamma, bars.on_episodes,
        decision_threads=settings.threads,
    )  # fmt: skip


def train_and_report(
    request: TrainRequest, console: Console, *, trials: int = 0, first_seed: int = 0
) -> tuple[Trained, Report]:
    """As :func:`train_from_bags`, then ``trials`` episodes of every stage's version, as a report.

    Without trials those of an earlier call are kept: a finished stage keeps its version.

    Raises:
        ConfigError: As there; and, before anything is learned, if trials are asked for of a task
            without a simulation.
    """
    begun = time.monotonic()
    told = Report.read(request.output).stages if Report.is_in(request.output) else []
    if trials:
        robot, task = request.descriptions()
        environment(task, robot)
    trained = train_from_bags(request, console)
    results: list[StageResult] = []
    if trials:
        seeds = range(first_seed, first_seed + trials)
        with Bars.shown(console) as bars, _simulated(request, bars) as collector:
            versions = {each.name: request.output / each.version for each in trained.records}
            results = evaluate_stages(collector, versions, seeds)
    report = Report(
        command="train",
        stages=results or told,
        bags=bags_result(trained.entries),
        **run_results(trained.output, trained.records),
        policy_version=read_manifest(trained.version).reference,
        wall_seconds=time.monotonic() - begun,
        machine=this_machine(),
    )
    return trained, report
