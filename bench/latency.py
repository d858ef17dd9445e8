# SPDX-License-Identifier: Apache-2.0
"""From the sensor's stamp to the command at the controller, through the whole graph in real time.

The simulated robot runs at a fixed rate and the policy decides about every frame. Networks and
samplers take turns in one running graph (``policy/load``), several rounds of each; the number of
points and of threads are of the graph, which is started anew for each. Weights are untrained: the
time does not depend on them.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import matplotlib as mpl
import typer
from driven_graph import running, untrained
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from rl100_bringup.report import HopResult, Report, hop_results, this_machine
from rl100_policy.core.latency import HOPS, TOTALS, Journey
from rl100_policy.ros.transport import keep_on_this_machine

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


def measure(
    setting: Setting, networks: Mapping[str, tuple[str, int]], rounds: int, seconds: float,
    rate: float, console: Console,
) -> dict[Key, list[Journey]]:  # fmt: skip
    """Let networks and samplers take turns in one graph."""
    found: dict[Key, list[Journey]] = {}
    # It decides about every frame; a slow network does not have to give way to a faster one.
    of_policy = {"torch_threads": setting.threads, "execute": 1, "trips": 0}
    with running(setting.points, rate, **of_policy) as (bench, folder, robot, task):
        made = {
            (name, steps): untrained(
                folder / f"{size}_{steps}", robot, task, size, n_chunk, n_steps=steps
            )
            for (name, (size, n_chunk)), steps in itertools.product(networks.items(), (5, 10))
        }
        for _, network, sampler in itertools.product(range(rounds), networks, SAMPLERS):
            kind, steps = SAMPLERS[sampler]
            bench.load(made[network, steps], kind)
            bench.take_command()
            bench.watch(_SETTLE_S)
            bench.forget()
            bench.watch(seconds)
            found.setdefault((network, sampler, setting), []).extend(bench.journeys)
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
    figure = Figure(figsize=(11, 2.0 + 0.21 * len(results)), layout="constrained")
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
    handles, labels = parts[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=7, ncols=len(HOPS), loc="outside upper center")
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
            journeys.items(),
            key=lambda each: (order.index(each[0][:2]), each[0][2].points, each[0][2].threads),
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
