# SPDX-License-Identifier: Apache-2.0
"""Verbs of the ``rl100`` command."""

from __future__ import annotations

import os
import signal
import sys
import time
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rl100_bringup.cli.bags import bags, relabel
from rl100_policy.core.errors import Rl100Error

if TYPE_CHECKING:
    from rl100_bringup.report import Report

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="RL-100 for ROS 2.",
    pretty_exceptions_enable=False,
)
console = Console()


class Sampler(StrEnum):
    """How a policy decides."""

    DDIM = "ddim"
    ONE_STEP = "one_step"


class StageName(StrEnum):
    """Kinds of stages of a run."""

    IMITATION = "imitation"
    OFFLINE = "offline"
    ONLINE = "online"


class CollectName(StrEnum):
    """Where a policy acts to learn from it."""

    SIMULATION = "simulation"
    GRAPH = "graph"


def _folder(what: str) -> Any:
    """An argument that names an existing folder."""
    return typer.Argument(help=what, exists=True, file_okay=False)


@app.command()
def demo(
    output: Annotated[
        Path,
        typer.Option(
            help="folder for bags, policy versions, pictures and report.json", file_okay=False
        ),
    ] = Path("runs/demo"),
    *,
    quick: Annotated[
        bool, typer.Option("--quick", help="a first look: little of everything")
    ] = False,
    full: Annotated[
        bool, typer.Option("--full", help="two rounds and many more online episodes")
    ] = False,
    episodes: Annotated[
        int | None,
        typer.Option(help="demonstrations to record; default: 80, quick 60, full 100", min=4),
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(
            help="trials of every stage and policy; default: 60, quick 10, full 100", min=1
        ),
    ] = None,
    skill: Annotated[
        float | None,
        typer.Option(
            help="of the scripted operator, from 0, barely trained, to 1, careful and steady; "
            "default: as the operator node's",
            min=0.0,
            max=1.0,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="seed of demonstrations and training")] = 0,
    override: Annotated[
        list[str] | None, typer.Option("--set", help="training setting key=value")
    ] = None,
) -> None:
    """Run the main job on the simulated robot: demonstrate, imitate, improve, drive.

    It ends with a table and pictures.
    """
    from rl100_bringup.demo import DemoSettings, DemoSize, run_demo

    if quick and full:
        raise typer.BadParameter("--quick and --full exclude each other")
    size = DemoSize.QUICK if quick else DemoSize.FULL if full else DemoSize.STANDARD
    settings = DemoSettings(output, size, episodes, trials, skill, seed, tuple(override or ()))
    try:
        status = run_demo(settings, console)
    except KeyboardInterrupt:
        console.print(
            f"a demo does not go on: remove {output}, or give another --output", highlight=False
        )
        raise
    raise typer.Exit(status)


@app.command()
def up(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(help="launch arguments as name:=value, for example lockstep:=true"),
    ] = None,
    *,
    show_args: Annotated[
        bool, typer.Option("--show-args", "-s", help="list the launch arguments, start nothing")
    ] = False,
) -> None:
    """Start the node graph of robot.launch.py and keep it running until Ctrl-C."""
    from rl100_bringup.cli.graph import arguments_table
    from rl100_bringup.graph import GraphArguments, describe
    from rl100_bringup.processes import RunningGraph

    if show_args:
        console.print(arguments_table())
        return
    given = dict(_name_value(item) for item in arguments or [])
    nodes = describe(GraphArguments.from_strings(given))
    log = Path("runs") / "up" / _now()
    with RunningGraph(nodes, log) as graph:
        domain = os.environ.get("ROS_DOMAIN_ID", "0")
        table = Table("node", "package", "pid", "log", title=f"ROS domain {domain}")
        for process in graph.processes:
            table.add_row(
                process.node.name, process.node.package, str(process.pid), str(process.log)
            )
        console.print(table)
        console.print(
            "running; Ctrl-C stops all nodes. The arm holds until somebody takes command: a "
            "person's device, or in a second terminal the scripted operator "
            "(docs/how-to/record-and-train.md)"
        )
        try:
            while True:
                for told in graph.mend():
                    console.print(told, highlight=False)
                time.sleep(0.5)
        except KeyboardInterrupt:
            return


@app.command()
def collect(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            help="launch arguments as name:=value, for example bags:=my_bags episodes:=50"
        ),
    ] = None,
    *,
    show_args: Annotated[
        bool, typer.Option("--show-args", "-s", help="list the launch arguments, start nothing")
    ] = False,
) -> None:
    """Start the graph and record episodes from this terminal, until q.

    A person steers the arm with the keys and judges every episode; with driver:=policy and
    policy:=FOLDER the policy acts and the person takes over when it goes wrong.
    """
    from rl100_bringup.cli.graph import arguments_table
    from rl100_bringup.collection import collect_episodes
    from rl100_bringup.graph import GraphArguments

    if show_args:
        console.print(arguments_table())
        return
    given = {"driver": "person"} | dict(_name_value(item) for item in arguments or [])
    collect_episodes(
        GraphArguments.from_strings(given), Path("runs") / "collect" / _now(), console
    )


@app.command()
def train(
    task: Annotated[str, typer.Argument(help="task description")] = "push_t",
    *,
    bags: Annotated[
        Path, typer.Option(help="folder of episode bags", exists=True, file_okay=False)
    ],
    output: Annotated[
        Path, typer.Option(help="folder of the run; give it again to resume", file_okay=False)
    ],
    stage: Annotated[
        list[StageName] | None,
        typer.Option(help="run only this kind of stage; may be repeated; default: all"),
    ] = None,
    collect: Annotated[
        CollectName, typer.Option(help="where the policy acts to learn from it")
    ] = CollectName.SIMULATION,
    trials: Annotated[
        int, typer.Option(help="simulated trials of every stage at the end, per policy", min=0)
    ] = 0,
    first_seed: Annotated[int, typer.Option(help="seed of the first trial")] = 100_000,
    processes: Annotated[int, typer.Option(help="processes of the simulation", min=1)] = 2,
    robot: Annotated[str, typer.Option(help="robot description")] = "panda",
    override: Annotated[
        list[str] | None, typer.Option("--set", help="setting key=value, e.g. imitation.steps=500")
    ] = None,
) -> None:
    """Learn a task from a folder of bags: imitation, offline rounds, online.

    Every stage ends with a policy version and its one-step student. After imitation the policy
    acts itself: in the vectorised simulation of the task, or through a ROS graph with the
    simulated robot, whose bags are then learned from.
    """
    from rl100_bringup.learning_pictures import learning_figures, save_figures, tell_pictures
    from rl100_bringup.training import TrainRequest, train_and_report

    request = TrainRequest(
        bags,
        output,
        robot,
        task,
        tuple(override or ()),
        stages=tuple(each.value for each in stage or StageName),
        collect=collect.value,
        processes=processes,
    )
    try:
        trained, report = train_and_report(request, console, trials=trials, first_seed=first_seed)
    except KeyboardInterrupt:
        console.print("the same command goes on from the last checkpoint")
        raise
    _tell(report, output)
    tell_pictures(console, *save_figures(output / "pictures", learning_figures(output, report)))
    console.print(
        f"policy version: {trained.version}   (./rl100 eval {trained.version} --robot {robot} "
        f"--task {task})",
        highlight=False,
    )


@app.command()
def report(
    run: Annotated[Path, _folder("folder of a run, finished or not")],
    pictures: Annotated[
        Path | None,
        typer.Option(help="folder of the pictures; default: in the run's", file_okay=False),
    ] = None,
) -> None:
    """Show how a run of train, the demo or the learner node went: its tables and pictures.

    Of an evaluation or of improve, too: what its report holds.
    """
    from rl100_bringup.learning_pictures import learning_figures, save_figures, tell_pictures
    from rl100_bringup.report import tables
    from rl100_bringup.run_folder import learning_folder, read_run

    found = read_run(run)
    for table in tables(found):
        console.print(table)
    learning = learning_folder(run)
    figures = learning_figures(learning, found)
    if not (learning / "imitation").is_dir():
        figures.pop("loss.png")
    tell_pictures(console, *save_figures(pictures or run / "pictures", figures))


@app.command()
def improve(
    policy: Annotated[Path, _folder("folder of the policy version to begin with")],
    output: Annotated[
        Path, typer.Option(help="folder of the run; give it again to resume", file_okay=False)
    ],
    trials: Annotated[
        int, typer.Option(help="evaluation episodes, before and after", min=1)
    ] = 100,
    first_seed: Annotated[int, typer.Option(help="seed of the first of them")] = 100_000,
    processes: Annotated[int, typer.Option(help="processes of the simulation", min=1)] = 2,
    robot: Annotated[str, typer.Option(help="robot description")] = "panda",
    task: Annotated[str, typer.Option(help="task description")] = "push_t",
    override: Annotated[
        list[str] | None, typer.Option("--set", help="setting key=value, e.g. online.iterations=5")
    ] = None,
) -> None:
    """Improve a policy version by online reinforcement learning in the vectorised simulation."""
    from rl100_bringup.improving import ImproveSettings, improve_and_report
    from rl100_learner.training.online_run import OnlineSettings
    from rl100_learner.training.settings import with_overrides

    learning = with_overrides(OnlineSettings(), tuple(override or ()))
    settings = ImproveSettings(
        policy, output, trials, first_seed, processes, robot, task, learning
    )
    try:
        version, report = improve_and_report(settings, console)
    except KeyboardInterrupt:
        console.print("the same command goes on from the last iteration")
        raise
    _tell(report, output)
    console.print(f"policy version: {version}   (./rl100 eval {version})", highlight=False)


@app.command(name="eval")
def evaluate(
    policy: Annotated[Path, _folder("folder of the policy version")],
    output: Annotated[
        Path | None,
        typer.Option(
            help="folder for trials and report.json; default: runs/eval/<time>", file_okay=False
        ),
    ] = None,
    trials: Annotated[int, typer.Option(help="episodes per sampler", min=1)] = 50,
    sampler: Annotated[list[Sampler] | None, typer.Option(help="default: both")] = None,
    first_seed: Annotated[int, typer.Option(help="seed of the first episode")] = 100_000,
    robot: Annotated[str, typer.Option(help="robot description")] = "panda",
    task: Annotated[str, typer.Option(help="task description")] = "push_t",
) -> None:
    """Let a policy version drive the simulated arm through the graph and report its success."""
    from rl100_bringup.evaluating import evaluate_version

    output = output or Path("runs") / "eval" / _now()
    report = evaluate_version(
        policy,
        output,
        trials,
        tuple(each.value for each in sampler or Sampler),
        first_seed,
        robot,
        task,
        console,
    )
    _tell(report, output)


@app.command()
def reproduce(
    claim: Annotated[
        str | None, typer.Argument(help="name of the claim; without it they are listed")
    ] = None,
    output: Annotated[
        Path, typer.Option(help="folder of the runs; give it again to go on", file_okay=False)
    ] = Path("runs/reproduce"),
    *,
    variant: Annotated[
        list[str] | None, typer.Option(help="only this variant; may be repeated")
    ] = None,
    seed: Annotated[list[int] | None, typer.Option(help="only this seed; may be repeated")] = None,
    jobs: Annotated[int, typer.Option(help="runs at the same time", min=1)] = 2,
    finished: Annotated[
        bool,
        typer.Option(
            "--finished",
            help="run nothing, tell what is finished, and write its tables and pictures",
        ),
    ] = False,
    override: Annotated[
        list[str] | None, typer.Option("--set", help="training setting key=value")
    ] = None,
) -> None:
    """Reproduce a claim of the documentation: tasks, seeds, all stages, one table."""
    from rl100_bringup.reproduction.claims import CLAIMS
    from rl100_bringup.reproduction.reproducing import finished_runs
    from rl100_bringup.reproduction.reproducing import reproduce as run

    if claim is None and finished:
        table = Table("claim", "finished runs", title=str(output))
        for name in CLAIMS:
            done, planned = finished_runs(name, output)
            table.add_row(name, f"{done} of {planned}")
        console.print(table)
        return
    if claim is None:
        table = Table("claim", "variants", "seeds", "what it shows", show_lines=True)
        for name, each in CLAIMS.items():
            variants = "\n".join(variant.name for variant in each.variants)
            table.add_row(name, variants, str(len(each.seeds)), each.text)
        console.print(table)
        return
    run(
        claim, output, variant or (), seed or (), tuple(override or ()), jobs, console,
        finished=finished,
    )  # fmt: skip


app.add_typer(bags, name="bags")
app.command()(relabel)


@app.command()
def estop() -> None:
    """Press the emergency stop of the running graph: the arm brakes, and stays until release."""
    from rl100_bringup.estop import ask_gate

    console.print(ask_gate("gate/estop"))


@app.command()
def release() -> None:
    """Release the emergency stop of the running graph; nobody is in command then."""
    from rl100_bringup.estop import ask_gate

    console.print(ask_gate("gate/release"))


@app.command()
def doctor(
    folder: Annotated[
        Path | None,
        typer.Option(
            "--bags",
            help="also check this folder of bags and recover what a crash left",
            exists=True,
            file_okay=False,
        ),
    ] = None,
) -> None:
    """Check this machine and this checkout; say what to do about each finding."""
    from rl100_bringup.cli.bag_listing import recover_bags
    from rl100_bringup.doctor import Machine, Status, as_table, examine, worst

    if folder is not None:
        recover_bags(folder, console)
    findings = examine(Machine(root=Path(os.environ.get("RL100_ROOT", "."))))
    console.print(as_table(findings))
    raise typer.Exit(1 if worst(findings) is Status.FAIL else 0)


def _tell(report: Report, output: Path) -> None:
    """Write a report and show it."""
    from rl100_bringup.report import tables

    path = report.write(output)
    for table in tables(report):
        console.print(table)
    console.print(f"report: {path}")


def _interrupt(signal_number: int, frame: FrameType | None) -> None:
    """Say that Ctrl-C was heard, then end what runs the orderly way."""
    sys.stderr.write("\nstopping\n")
    signal.default_int_handler(signal_number, frame)


def _now() -> str:
    """A name for a folder of now."""
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")


def _name_value(item: str) -> tuple[str, str]:
    name, separator, value = item.partition(":=")
    if not separator:
        raise typer.BadParameter(f"expected name:=value, got {item!r}")
    return name, value


def main() -> int:
    """Run the command; errors raised on purpose are printed without a trace."""
    # All of them end the command the orderly way, with the nodes it has started.
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # what nohup is for
        signal.signal(signal.SIGHUP, lambda *_: sys.exit(128 + signal.SIGHUP))
    try:
        app(prog_name="./rl100" if "RL100_ROOT" in os.environ else "rl100")
    except Rl100Error as error:
        console.print(f"[red]error:[/red] {escape(str(error))}", highlight=False)
        return 1
    except OSError as error:  # above all a full disk, or a folder that may not be written
        console.print(
            f"[red]error:[/red] {escape(str(error))}; make room, or give a folder that may be "
            "read and written",
            highlight=False,
        )
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
