# SPDX-License-Identifier: Apache-2.0
"""How well a version drives the simulated arm through the ROS graph."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import TaskID

from rl100_bringup.display import progress_display
from rl100_bringup.driving import Driving
from rl100_bringup.graph import GraphArguments, config_path
from rl100_bringup.processes import RunningGraph
from rl100_bringup.report import (
    Report,
    bags_result,
    hop_results,
    latency,
    stage_result,
    this_machine,
)
from rl100_bringup.session import Trials, own_graph, run_operator
from rl100_policy.core.config import load_robot, load_task
from rl100_policy.core.errors import ConfigError
from rl100_policy.core.policy_version import check_fits, read_manifest

TRIALS = "trials"
"""Folder of the episodes in which a policy was evaluated, beside those it learns from."""


def evaluate_version(
    version: Path,
    output: Path,
    trials: int,
    samplers: tuple[str, ...],
    first_seed: int,
    robot: str,
    task: str,
    console: Console,
) -> Report:
    """Let a version drive the simulated arm through a graph of its own and measure.

    Raises:
        Rl100Error: If the version is refused or a node fails.
    """
    begun = time.monotonic()
    bags = output / TRIALS
    refuse_used(output, bags)
    check_fits(
        read_manifest(version),
        load_task(config_path("tasks", task)),
        load_robot(config_path("robots", robot)),
    )
    arguments = GraphArguments(lockstep=True, bags=str(bags), robot=robot, task=task)
    with own_graph(arguments, output / "log", console) as graph:
        evaluated = let_drive(graph, arguments, version, trials, samplers, first_seed, console)
    return Report(
        command="eval",
        stages=[stage_result("evaluation", sampler, done) for sampler, done in evaluated.items()],
        **driving_results(bags, evaluated),
        bags=bags_result([entry for trials in evaluated.values() for entry in trials.episodes]),
        policy_version=read_manifest(version).reference,
        wall_seconds=time.monotonic() - begun,
        machine=this_machine(),
    )


def let_drive(
    graph: RunningGraph,
    arguments: GraphArguments,
    version: Path,
    trials: int,
    samplers: Iterable[str],
    first_seed: int,
    console: Console,
    stage: str = "",
) -> dict[str, Trials]:
    """Each sampler drives the arm from the same start states.

    Args:
        graph: The running graph.
        arguments: What it was started with.
        version: Folder of the policy version.
        trials: Episodes of each sampler.
        samplers: By name.
        first_seed: Of the first episode; each next one adds one.
        console: Of the progress display.
        stage: That the version is of, for the display.

    Raises:
        NodeDiedError: If the operator or a node of the graph fails.
        BagError: If the bag folder cannot be read.
    """
    evaluated = {}
    with progress_display(console) as display:
        for sampler in samplers:
            bar = display.add_task(
                f"{stage} {sampler} drives the arm".lstrip(), total=trials, note=""
            )

            def on_episodes(done: int, successes: int, bar: TaskID = bar) -> None:
                display.update(bar, completed=done, note=f"{successes} successes")

            evaluated[sampler] = run_operator(
                graph,
                arguments,
                on_episodes,
                mode="supervise",
                episodes=trials,
                first_seed=first_seed,
                policy=str(version.resolve()),
                sampler=sampler,
            )
    return evaluated


def driving_results(bags: Path, evaluated: dict[str, Trials]) -> dict[str, Any]:
    """Fields of a report that say how the policy drove."""
    driven = {
        sampler: Driving.read(bags, trials.episodes) for sampler, trials in evaluated.items()
    }
    return {
        "latency_ms": {
            sampler: latency(found.inference_s)
            for sampler, found in driven.items()
            if found.inference_s
        },
        "hops_ms": {
            sampler: hop_results(found.journeys)
            for sampler, found in driven.items()
            if found.journeys
        },
        "deadline_misses": sum(found.deadline_misses for found in driven.values()),
        "lockstep_timeouts": sum(found.unanswered_periods for found in driven.values()),
    }


def refuse_used(output: Path, bags: Path) -> None:
    """Raises ConfigError if something was recorded there before: trials must not be mixed."""
    if bags.exists():
        raise ConfigError(
            f"{output} holds an earlier run; choose another --output, or remove that folder"
        )
