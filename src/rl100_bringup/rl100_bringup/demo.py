# SPDX-License-Identifier: Apache-2.0
"""The main job: from teleoperated demonstrations to a policy that drives the arm.

All of it goes through one running ROS 2 graph.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from rl100_bringup import pictures
from rl100_bringup.display import progress_display
from rl100_bringup.graph import GraphArguments, config_path, describe
from rl100_bringup.processes import RunningGraph
from rl100_bringup.report import Latency, Report, bags_result, latency, stage_result, tables
from rl100_bringup.session import Trials, run_operator
from rl100_bringup.training import train_from_bags
from rl100_policy.bags.index import IndexEntry
from rl100_policy.bags.reading import read_messages
from rl100_policy.core.config import load_robot, load_task
from rl100_policy.core.errors import ConfigError

EVALUATION_SEED = 100_000
"""Seed of the first evaluation episode: far from those of the demonstrations."""
_SAMPLERS = ("ddim", "one_step")


@dataclass(frozen=True)
class DemoSettings:
    """What a person may choose about the demo."""

    output: Path
    episodes: int
    trials: int
    skill: float
    seed: int
    overrides: tuple[str, ...] = ()


def run_demo(settings: DemoSettings, console: Console) -> int:
    """Run all stages, write report and pictures, print the table.

    Returns:
        Exit status: 0; 1 if the one-step student succeeds less than half as often as the operator.

    Raises:
        Rl100Error: If a stage fails; says which and where its log is.
    """
    begun = time.monotonic()
    output = settings.output
    bags = output / "bags"
    if bags.exists():
        raise ConfigError(f"{output} holds an earlier demo; choose another --output or remove it")
    arguments = GraphArguments(lockstep=True, bags=str(bags))
    console.rule("RL-100 for ROS 2: demonstrate, record, learn, drive")
    with RunningGraph(describe(arguments), output / "log") as graph:
        demonstrations = _collect(graph, arguments, settings, console)
        overrides = (f"seed={settings.seed}", *settings.overrides)
        version, training = train_from_bags(
            bags, output / "train", arguments.robot, arguments.task, overrides, console
        )
        evaluated = _evaluate(
            graph, arguments, version, settings.trials, _SAMPLERS, EVALUATION_SEED, console
        )
    report = Report(
        command="demo",
        stages=[
            stage_result("demonstrations", "operator", demonstrations),
            *(stage_result("imitation", sampler, trials) for sampler, trials in evaluated.items()),
        ],
        latency_ms=_latencies(bags, evaluated),
        deadline_misses=_deadline_misses(bags, evaluated),
        bags=bags_result(demonstrations),
        training=training,
        policy_version=version.name,
        machine=_machine(),
    )
    folder = output / "pictures"
    robot = load_robot(config_path("robots", arguments.robot))
    task = load_task(config_path("tasks", arguments.task))
    drawn = pictures.draw_all(
        folder, bags, evaluated["one_step"].episodes, output / "train", robot, task
    )
    report = report.model_copy(update={"wall_seconds": time.monotonic() - begun})
    for table in tables(report):
        console.print(table)
    for picture in drawn:
        console.print(f"picture: {picture}")
    console.print(f"report: {report.write(output)}   whole demo: {report.wall_seconds:.0f} s")
    return _verdict(demonstrations, evaluated["one_step"], console)


def _collect(
    graph: RunningGraph, arguments: GraphArguments, settings: DemoSettings, console: Console
) -> Trials:
    with progress_display(console) as display:
        bar = display.add_task(
            "demonstrations through the graph", total=settings.episodes, note=""
        )

        def on_episodes(done: int, successes: int) -> None:
            display.update(bar, completed=done, note=f"{successes} successes")

        first_seed = settings.seed * 10_000
        return run_operator(
            graph, arguments, on_episodes, mode="demonstrate", episodes=settings.episodes,
            first_seed=first_seed, skill=settings.skill,
        )  # fmt: skip


def _evaluate(
    graph: RunningGraph,
    arguments: GraphArguments,
    version: Path,
    trials: int,
    samplers: Iterable[str],
    first_seed: int,
    console: Console,
) -> dict[str, Trials]:
    """Each sampler drives the arm from the same start states."""
    evaluated = {}
    with progress_display(console) as display:
        for sampler in samplers:
            bar = display.add_task(f"{sampler} drives the arm", total=trials, note="")

            def on_episodes(done: int, successes: int, bar: int = bar) -> None:
                display.update(bar, completed=done, note=f"{successes} successes")  # type: ignore[arg-type]

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
    bags = output / "bags"
    arguments = GraphArguments(lockstep=True, bags=str(bags), robot=robot, task=task)
    with RunningGraph(describe(arguments), output / "log") as graph:
        evaluated = _evaluate(graph, arguments, version, trials, samplers, first_seed, console)
    return Report(
        command="eval",
        stages=[stage_result("evaluation", sampler, done) for sampler, done in evaluated.items()],
        latency_ms=_latencies(bags, evaluated),
        deadline_misses=_deadline_misses(bags, evaluated),
        policy_version=version.name,
        wall_seconds=time.monotonic() - begun,
        machine=_machine(),
    )


def _decisions(bags: Path, episodes: Iterable[IndexEntry]) -> list[tuple[float, bool]]:
    """Inference time [s] and deadline miss of every decision recorded in some episodes."""
    topic = "policy/decision"
    return [
        (float(message.value.inference_s), bool(message.value.deadline_missed))
        for entry in episodes
        for message in read_messages(bags / entry.folder, [topic])[topic]
    ]


def _latencies(bags: Path, evaluated: dict[str, Trials]) -> dict[str, Latency]:
    times = {
        sampler: [s for s, _ in _decisions(bags, trials.episodes)]
        for sampler, trials in evaluated.items()
    }
    return {sampler: latency(values) for sampler, values in times.items() if values}


def _deadline_misses(bags: Path, evaluated: dict[str, Trials]) -> int:
    return sum(
        missed for trials in evaluated.values() for _, missed in _decisions(bags, trials.episodes)
    )


def _verdict(demonstrations: Trials, student: Trials, console: Console) -> int:
    """The demo has failed if the student is less than half as good as its teacher's teacher."""
    operator_share = demonstrations.successes / max(1, len(demonstrations.episodes))
    student_share = student.successes / max(1, len(student.episodes))
    if student_share < 0.5 * operator_share:
        console.print(
            f"[red]failed:[/red] the one-step student succeeds in {student_share:.0%}, "
            f"the operator in {operator_share:.0%}"
        )
        return 1
    return 0


def _machine() -> dict[str, object]:
    return {
        "processors": os.cpu_count(),
        "python": platform.python_version(),
        "system": platform.platform(),
    }
