# SPDX-License-Identifier: Apache-2.0
"""The main job: from teleoperated demonstrations to a policy that drives the arm.

All of it goes through one running ROS 2 graph.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import psutil
from rich.console import Console

from rl100_bringup import pictures
from rl100_bringup.collecting import SAMPLERS
from rl100_bringup.display import progress_display
from rl100_bringup.evaluating import TRIALS, driving_results, let_drive, refuse_used
from rl100_bringup.graph import GraphArguments, config_path
from rl100_bringup.learning_pictures import tell_pictures
from rl100_bringup.processes import RunningGraph
from rl100_bringup.report import (
    Report,
    bags_result,
    stage_result,
    tables,
    this_machine,
)
from rl100_bringup.run_folder import LEARNING, run_results
from rl100_bringup.session import Trials, own_graph, run_operator
from rl100_bringup.training import TrainRequest, train_from_bags
from rl100_learner.objectives.evaluation import clearly_worse
from rl100_learner.training.seeds import Purpose, episode_seeds
from rl100_policy.bags.index import IndexEntry
from rl100_policy.core.config import load_robot, load_task
from rl100_policy.core.policy_version import read_manifest

_IDLE = 1.6
"""Processors: two, but for what a desktop takes."""


class DemoSize(StrEnum):
    """How much of everything."""

    QUICK = "quick"
    STANDARD = "standard"
    FULL = "full"


@dataclass(frozen=True)
class _Amounts:
    """What a size stands for."""

    episodes: int
    """Demonstrations."""
    trials: int
    """Evaluation episodes per stage and policy."""
    duration: str
    """On two cores after set-up."""
    overrides: tuple[str, ...] = ()


AMOUNTS = {
    DemoSize.QUICK: _Amounts(
        episodes=60,
        trials=10,
        duration="About five minutes",
        overrides=(
            "imitation.steps=1800", "distillation.steps=800", "rollouts=100", "trials=20",
            "critics.steps=1000", "transition.steps=500", "candidate_distillation.steps=150",
            "online.iterations=3", "online.replay.first_steps=1000", "online.replay.steps=300",
            "online_distillation.steps=800",
        ),
    ),
    DemoSize.STANDARD: _Amounts(
        episodes=80, trials=60, duration="About a quarter of an hour",
        overrides=(
            "imitation.steps=3000", "distillation.steps=1200", "online.iterations=20",
            "online.replay.steps=300", "online_distillation.steps=1200",
        ),
    ),
    DemoSize.FULL: _Amounts(
        episodes=100, trials=100, duration="About an hour",
        overrides=("rounds=2", "online.iterations=40"),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class DemoSettings:
    """What a person may choose about the demo."""

    output: Path
    size: DemoSize
    episodes: int | None
    """Demonstrations; None takes those of the size."""
    trials: int | None
    """Evaluation episodes per stage and policy; None takes those of the size."""
    skill: float | None
    """Of the scripted operator; None takes that of its node."""
    seed: int
    overrides: tuple[str, ...] = ()

    @property
    def demonstrations(self) -> int:
        """How many episodes are demonstrated."""
        return self.episodes or AMOUNTS[self.size].episodes

    @property
    def evaluations(self) -> int:
        """How many episodes each stage's teacher and student drive."""
        return self.trials or AMOUNTS[self.size].trials

    @property
    def learning(self) -> tuple[str, ...]:
        """Changes to the settings that suit the task: seed, size, then a person's."""
        return (f"seed={self.seed}", *AMOUNTS[self.size].overrides, *self.overrides)

    def request(self, *more: str) -> TrainRequest:
        """What is learned, and from which bags; ``more`` are changes that a person's go before."""
        usual, changes = GraphArguments(), (*more, *self.learning)
        return TrainRequest(
            self.output / "bags", self.output / LEARNING, usual.robot, usual.task, changes
        )


def run_demo(settings: DemoSettings, console: Console) -> int:
    """Run all stages in a graph of their own, write the report, print the table, draw pictures.

    Returns:
        Exit status: 0; 1 if the last one-step student succeeds less than half as often as the
        operator, or clearly less often than that of imitation; of a quick demo always 0.

    Raises:
        Rl100Error: If a stage fails; says which and where its log is.
    """
    begun = time.monotonic()
    output = settings.output
    asked, trials = settings.request(), output / TRIALS
    refuse_used(output, asked.bags)
    demonstrating = GraphArguments(lockstep=True, bags=str(asked.bags))
    driving = GraphArguments(lockstep=True, bags=str(trials))
    # refused now, not after minutes of recording
    learning = asked.settings()
    online = learning.online.episodes_before(learning.online.iterations)
    console.rule("RL-100 for ROS 2: demonstrate, imitate, improve, drive")
    console.print(
        f"{settings.demonstrations} demonstrations through the graph; imitation; "
        f"{learning.rounds} offline round(s) and {online} online episodes in the vectorised "
        f"simulation; then {settings.evaluations} trials of every stage's teacher and student "
        f"through the graph. {AMOUNTS[settings.size].duration} on two cores, with nothing beside"
    )
    with own_graph(demonstrating, output / "log" / "demonstrate", console) as graph:
        demonstrations = _collect(graph, demonstrating, settings, console)
    request = settings.request(f"threads={learning_threads()}")
    threads = request.settings().threads
    why = "two processors are idle" if threads > 1 else "no two processors are idle"
    console.print(f"learning on {threads} thread(s): {why}")
    trained = train_from_bags(request, console)
    seeds = episode_seeds(Purpose.EVALUATION, settings.seed, 0, settings.evaluations)
    evaluated: dict[str, dict[str, Trials]] = {}
    by_version: dict[str, dict[str, Trials]] = {}  # a stage may end with the version it began with
    with own_graph(driving, output / "log" / "drive", console) as graph:
        for record in trained.records:
            if record.version not in by_version:
                by_version[record.version] = let_drive(
                    graph, driving, trained.output / record.version, settings.evaluations,
                    SAMPLERS, seeds.start, console, record.name,
                )  # fmt: skip
            evaluated[record.name] = by_version[record.version]
    last = evaluated[trained.records[-1].name]
    report = Report(
        command="demo",
        stages=[
            stage_result("demonstrations", "operator", demonstrations),
            *(
                stage_result(name, sampler, done)
                for name, policies in evaluated.items()
                for sampler, done in policies.items()
            ),
        ],
        **driving_results(trials, last),
        bags=bags_result(demonstrations.episodes),
        **run_results(trained.output, trained.records),
        policy_version=read_manifest(trained.version).reference,
        wall_seconds=time.monotonic() - begun,
        machine=this_machine(),
    )
    path = report.write(output)
    for table in tables(report):
        console.print(table)
    console.print(f"report: {path}   whole demo: {report.wall_seconds:.0f} s")
    version = trained.version
    console.print(f"policy version: {version}   (./rl100 eval {version})", highlight=False)
    _draw(output, report, last["one_step"].episodes, driving, console)
    if settings.size is DemoSize.QUICK:
        console.print("a first look: too little of everything to judge; ./rl100 demo takes longer")
        return 0
    return _verdict(demonstrations, evaluated, console)


def learning_threads() -> int:
    """How many threads are worth learning on now: 2 where two processors are idle, else 1.

    A second one makes imitation 1.4 times as fast, and three times as slow where another process
    takes one of two processors: every operation waits for the thread that has none.
    """
    idle = (1.0 - psutil.cpu_percent(interval=1.0) / 100.0) * (os.cpu_count() or 1)
    return 2 if idle > _IDLE else 1


def _draw(
    output: Path,
    report: Report,
    episodes: Sequence[IndexEntry],
    arguments: GraphArguments,
    console: Console,
) -> None:
    """Draw what can be drawn; what cannot is named."""
    robot = load_robot(config_path("robots", arguments.robot))
    task = load_task(config_path("tasks", arguments.task))
    drawn, problems = pictures.draw_all(
        output / "pictures", output / TRIALS, episodes, output / LEARNING, report, robot, task
    )
    tell_pictures(console, drawn, problems)


def _collect(
    graph: RunningGraph, arguments: GraphArguments, settings: DemoSettings, console: Console
) -> Trials:
    with progress_display(console) as display:
        bar = display.add_task(
            "demonstrations through the graph", total=settings.demonstrations, note=""
        )

        def on_episodes(done: int, successes: int) -> None:
            display.update(bar, completed=done, note=f"{successes} successes")

        seeds = episode_seeds(Purpose.DEMONSTRATIONS, settings.seed, 0, settings.demonstrations)
        skill = {} if settings.skill is None else {"skill": settings.skill}
        return run_operator(
            graph, arguments, on_episodes, mode="demonstrate", episodes=settings.demonstrations,
            first_seed=seeds.start, **skill,
        )  # fmt: skip


def _verdict(
    demonstrations: Trials, evaluated: Mapping[str, Mapping[str, Trials]], console: Console
) -> int:
    """The demo has failed if its last student is less than half as good as the operator.

    Or if it is worse than the student of imitation, by more than chance explains.
    """
    students = [policies["one_step"] for policies in evaluated.values()]
    first, last = students[0], students[-1]
    share, half = _share(last), 0.5 * _share(demonstrations)
    reason = f"less than half of the operator's {2 * half:.0%}" if share < half else ""
    counts = last.successes, len(last.episodes), first.successes, len(first.episodes)
    if clearly_worse(*counts, _MORE_THAN_CHANCE):
        reason = f"clearly less than imitation's {_share(first):.0%}"
    if reason:
        console.print(
            f"[red]failed:[/red] the last one-step student succeeds in {share:.0%}, {reason}"
        )
    return int(bool(reason))


_MORE_THAN_CHANCE = 2.0
"""Standard deviations of the difference of two success shares."""


def _share(trials: Trials) -> float:
    return trials.successes / max(1, len(trials.episodes))
