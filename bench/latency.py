# SPDX-License-Identifier: Apache-2.0
"""From the sensor's stamp to the command at the controller, through the whole graph in real time.

The simulated robot runs at a fixed rate and the policy decides about every frame. Networks and
samplers take turns in one running graph (``policy/load``), several rounds of each; the number of
points and of threads are of the graph, which is started anew for each. Weights are untrained: the
time does not depend on them.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import matplotlib as mpl
import rclpy
import torch
import typer
import yaml
from matplotlib.figure import Figure
from rclpy.node import Node
from rich.console import Console
from rich.table import Table
from std_srvs.srv import SetBool

from rl100_bringup.graph import GraphArguments, config_path, describe
from rl100_bringup.processes import RunningGraph
from rl100_bringup.report import HopResult, Report, hop_results, this_machine
from rl100_msgs.msg import GateCommand, StageTimes
from rl100_msgs.srv import LoadPolicy, SetCommandSource
from rl100_policy.core.config import RobotConfig, TaskConfig, load_robot, load_task
from rl100_policy.core.latency import HOPS, TOTALS, Journey, Mark
from rl100_policy.core.messages import stage_marks, stamp_ns
from rl100_policy.core.policy import DiffusionPolicy
from rl100_policy.core.policy_config import ActionSize
from rl100_policy.core.policy_version import write_version
from rl100_policy.core.presets import preset
from rl100_policy.core.sight import observation_size
from rl100_policy.ros.domain import free_domain
from rl100_policy.ros.process import executor_of, keep_on_this_machine
from rl100_policy.ros.qos import EVENT

_READY_S, _ANSWER_S = 60.0, 60.0
_SETTLE_S = 0.5
NETWORKS = {
    "residual MLP, chunk of 8": ("small", 8),
    "Skip-Net, single step": ("paper_single", 1),
    "U-Net, chunk of 8": ("paper", 8),
}
"""Preset and length of a chunk."""
SAMPLERS = {"one step": ("one_step", 5), "DDIM K=5": ("ddim", 5), "DDIM K=10": ("ddim", 10)}
"""Sampler and number of transitions."""


@dataclass(frozen=True)
class Setting:
    """What a graph is started with."""

    points: int
    threads: int

    def __str__(self) -> str:
        """For people."""
        return f"{self.points} points, {self.threads} thread{'s' * (self.threads > 1)}"


Key = tuple[str, str, Setting]
"""Network, sampler, setting."""


class Bench(Node):
    """Loads versions and keeps the journeys of the one that drives."""

    def __init__(self) -> None:
        """Subscribe."""
        super().__init__("latency_bench")
        self._since_ns = 0
        self.journeys: list[Journey] = []
        self.create_subscription(StageTimes, "latency/journeys", self._on_journey, EVENT)
        self._executor, self._serve = executor_of()
        self._executor.add_node(self)

    def _on_journey(self, message: StageTimes) -> None:
        journey = Journey(
            stamp_ns(message.header.stamp), message.policy_version, stage_marks(message)
        )
        if journey.marks[Mark.POLICY_IN] >= self._since_ns:
            self.journeys.append(journey)

    def call(self, kind: type, name: str, **fields: Any) -> None:
        """Call a service; raises RuntimeError if it is refused or nobody answers."""
        client = self.create_client(kind, name)
        if not client.wait_for_service(_READY_S):
            raise RuntimeError(f"{name} is not there")
        future = client.call_async(kind.Request(**fields))  # type: ignore[attr-defined]
        end = time.monotonic() + _ANSWER_S
        while not future.done() and time.monotonic() < end:
            self._executor.spin_once(timeout_sec=0.1)
        if not future.done() or not future.result().success:
            raise RuntimeError(f"{name}: {future.result() if future.done() else 'no answer'}")
        self.destroy_client(client)

    def watch(self, seconds: float) -> list[Journey]:
        """Journeys that begin from now on, for a while."""
        self.journeys, self._since_ns = [], time.time_ns()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._executor.spin_once(timeout_sec=0.1)
        return self.journeys


def descriptions(folder: Path, points: int, rate: float) -> tuple[Path, Path]:
    """Robot and task of the demo, at another control rate and with other clouds."""
    robot = yaml.safe_load(config_path("robots", "panda").read_text())
    robot["control_period"] = 1.0 / rate
    task = yaml.safe_load(config_path("tasks", "push_t").read_text())
    task["observation"]["n_points"] = points
    paths = folder / "robot.yaml", folder / "task.yaml"
    for path, tree in zip(paths, (robot, task), strict=True):
        path.write_text(yaml.safe_dump(tree))
    return paths


def versions(
    folder: Path, robot: RobotConfig, task: TaskConfig, networks: Mapping[str, tuple[str, int]]
) -> dict[tuple[str, int], Path]:
    """Untrained versions by network and number of transitions."""
    found = {}
    for (name, (size, n_chunk)), steps in itertools.product(networks.items(), (5, 10)):
        config = preset(
            size,
            observation_size(task, robot),
            ActionSize(n_chunk=n_chunk, dim=task.action.dim),
        )
        diffusion = config.diffusion.model_copy(update={"n_steps": steps})
        torch.manual_seed(0)
        policy = DiffusionPolicy(config.model_copy(update={"diffusion": diffusion}))
        path = folder / f"{size}_{steps}"
        write_version(
            path, policy, task=task, robot=robot, parents=(), bags=(), metrics={}, training={}
        )
        found[name, steps] = path
    return found


@contextmanager
def running(setting: Setting, folder: Path, rate: float, *, record: bool) -> Iterator[Bench]:
    """A graph in which the policy is in command of an arm that never stops."""
    robot, task = descriptions(folder, setting.points, rate)
    params = folder / "params.yaml"
    # Decides about every frame; a slow network does not have to give way to a faster one.
    of_nodes = {
        "sim_robot": {"free_running": True},
        "policy": {"torch_threads": setting.threads, "execute": 1, "trips": 0},
    }
    params.write_text(
        yaml.safe_dump({name: {"ros__parameters": each} for name, each in of_nodes.items()})
    )
    arguments = GraphArguments(
        robot=str(robot), task=str(task), record=record, bags=str(folder / "bags"),
        params_file=str(params),
    )  # fmt: skip
    with (
        free_domain() as domain,
        RunningGraph(describe(arguments), folder / "log", domain=domain) as graph,
    ):
        rclpy.init(domain_id=domain)
        try:
            bench = Bench()
            bench.call(SetBool, "sim/run", data=True)
            yield bench
            graph.check()
            bench.destroy_node()
        finally:
            rclpy.try_shutdown()


def measure(
    setting: Setting, networks: Mapping[str, tuple[str, int]], rounds: int, seconds: float,
    rate: float, console: Console,
) -> dict[Key, list[Journey]]:  # fmt: skip
    """Let networks and samplers take turns in one graph."""
    found: dict[Key, list[Journey]] = {}
    with tempfile.TemporaryDirectory(prefix="rl100_latency_") as place:
        folder = Path(place)
        paths = descriptions(folder, setting.points, rate)
        made = versions(folder / "versions", load_robot(paths[0]), load_task(paths[1]), networks)
        with running(setting, folder, rate, record=False) as bench:
            for _, network, sampler in itertools.product(range(rounds), networks, SAMPLERS):
                kind, steps = SAMPLERS[sampler]
                bench.call(LoadPolicy, "policy/load", path=str(made[network, steps]), sampler=kind)
                bench.call(SetCommandSource, "gate/set_command_source", source=GateCommand.POLICY)
                bench.watch(_SETTLE_S)
                found.setdefault((network, sampler, setting), []).extend(bench.watch(seconds))
        console.print(f"{setting}: {sum(map(len, found.values()))} decisions")
    return found


def table(results: Mapping[Key, Sequence[HopResult]]) -> Table:
    """A row for each that took turns."""
    told = Table(
        "network", "sampler", "points", "threads", "decisions", *(each.name for each in TOTALS),
        title="p50 | p99 | max [ms]",
    )  # fmt: skip
    for (network, sampler, setting), hops in results.items():
        by_name = {each.hop: each for each in hops}
        cells = [
            f"{hop.p50:.2f} | {hop.p99:.2f} | {hop.max:.2f}"
            for total in TOTALS
            if (hop := by_name.get(total.name))
        ]
        count = str(max((each.decisions for each in hops), default=0))
        told.add_row(network, sampler, str(setting.points), str(setting.threads), count, *cells)
    return told


def picture(results: Mapping[Key, Sequence[HopResult]]) -> Figure:
    """Medians of the hops on top of each other, with the 99th percentile of the whole way."""
    networks = list(dict.fromkeys(network for network, _, _ in results))
    figure = Figure(figsize=(11, 1.5 + 0.21 * len(results)), layout="constrained")
    ratios = [sum(key[0] == network for key in results) for network in networks]
    parts = figure.subplots(len(networks), 1, squeeze=False, height_ratios=ratios)[:, 0]
    colours = mpl.colormaps["tab10"]
    for axes, network in zip(parts, networks, strict=True):
        rows = [key for key in results if key[0] == network]
        for at, key in enumerate(rows):
            by_name = {each.hop: each for each in results[key]}
            left = 0.0
            for number, hop in enumerate(HOPS):
                width = by_name[hop.name].p50 if hop.name in by_name else 0.0
                label = hop.name if at == 0 else "_"
                axes.barh(at, width, left=left, color=colours(number), label=label)
                left += width
            if whole := by_name.get(TOTALS[1].name):
                axes.plot([whole.p99] * 2, [at - 0.4, at + 0.4], "k-", lw=1.5)
        axes.set_yticks(range(len(rows)), [f"{key[1]}, {key[2]}" for key in rows], fontsize=7)
        axes.invert_yaxis()
        axes.set_title(network, fontsize=9, loc="left")
        axes.grid(visible=True, axis="x", alpha=0.3)
    parts[0].legend(fontsize=7, ncols=len(HOPS), loc="lower left", bbox_to_anchor=(0, 1.1))
    parts[-1].set_xlabel("from the sensor to the command at the controller [ms]; black: p99")
    return figure


def main(
    points: Annotated[list[int] | None, typer.Option(help="of a cloud; may be repeated")] = None,
    threads: Annotated[
        list[int] | None, typer.Option(help="of an inference; may be repeated")
    ] = None,
    network: Annotated[
        list[str] | None, typer.Option(help="beginning of its name; default: all three")
    ] = None,
    rounds: Annotated[int, typer.Option(help="turns of each")] = 3,
    seconds: Annotated[float, typer.Option(help="of a turn")] = 5.0,
    rate: Annotated[float, typer.Option(help="control rate [Hz]")] = 20.0,
    output: Annotated[Path | None, typer.Option(help="folder for report.json, picture")] = None,
) -> None:
    """Measure, print, draw."""
    keep_on_this_machine()
    console = Console()
    chosen = {
        name: value
        for name, value in NETWORKS.items()
        if not network or any(name.lower().startswith(each.lower()) for each in network)
    }
    journeys: dict[Key, list[Journey]] = {}
    for n_points, n_threads in itertools.product(points or (512, 1024, 2048), threads or (1, 2)):
        setting = Setting(n_points, n_threads)
        journeys |= measure(setting, chosen, rounds, seconds, rate, console)
    order = [(name, sampler) for name in chosen for sampler in SAMPLERS]
    results = {
        key: hop_results(found)
        for key, found in sorted(
            journeys.items(), key=lambda each: (order.index(each[0][:2]), str(each[0][2]))
        )
    }
    console.print(table(results))
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        Report(
            command="bench/latency",
            hops_ms={", ".join(map(str, key)): hops for key, hops in results.items()},
            machine=this_machine(),
        ).write(output)
        picture(results).savefig(output / "latency.png", dpi=110)
        console.print(f"report and picture: {output}")


if __name__ == "__main__":
    typer.run(main)
