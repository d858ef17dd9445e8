# SPDX-License-Identifier: Apache-2.0
"""Single actions at a high rate for minutes, beside a recorder and the simulated camera.

Of every control period it is told how late its command came after the joint state, and whether the
policy's action was in it.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
import typer
from driven_graph import running, untrained
from rich.console import Console
from rich.table import Table

from rl100_bringup.report import hop_results
from rl100_policy.core.gate_result import HELD
from rl100_policy.core.latency import Mark
from rl100_policy.core.messages import stamp_ns
from rl100_policy.ros.transport import keep_on_this_machine


def main(
    minutes: Annotated[float, typer.Option(help="how long")] = 10.0,
    rate: Annotated[float, typer.Option(help="control rate [Hz]")] = 100.0,
    points: Annotated[int, typer.Option(help="of a cloud; 0: proprioception alone")] = 0,
    size: Annotated[str, typer.Option(help="preset of the networks")] = "small",
    patience: Annotated[float, typer.Option(help="of the gate [control periods]")] = 0.5,
    camera_rate: Annotated[float, typer.Option(help="of images [Hz]; 0: control rate")] = 30.0,
    sampler: Annotated[str, typer.Option(help="one_step or ddim")] = "one_step",
) -> None:
    """Measure and print."""
    keep_on_this_machine()
    graph = running(points, rate, record=True, patience=patience, camera_rate=camera_rate, trips=0)
    with graph as (bench, folder, robot, task):
        bench.load(untrained(folder / "single", robot, task, size, 1), sampler)
        bench.take_command()
        bench.watch(3.0)
        with bench.recording(task.name):
            bench.watch(2.0)
            bench.forget()
            bench.watch(60.0 * minutes)
            journeys, periods = list(bench.journeys), list(bench.periods)
        bench.watch(2.0)
        lost = bench.lost
    period_ms = 1e3 / rate
    table = Table("hop", "p50 [ms]", "p99 [ms]", "max [ms]", "jitter [ms]")
    for hop in hop_results(journeys):
        table.add_row(
            hop.hop, f"{hop.p50:.2f}", f"{hop.p99:.2f}", f"{hop.max:.2f}", f"{hop.jitter:.2f}"
        )
    stamps = np.array([stamp_ns(each.header.stamp) for each in periods])
    gaps = np.rint(np.diff(stamps) * 1e-6 / period_ms).astype(int) - 1
    own = sum(Mark.COMMANDED in each.marks for each in journeys)
    held = np.array([bool(each.flags & HELD) for each in periods])
    runs = np.diff(np.flatnonzero(np.concatenate(([True], ~held, [True])))) - 1
    late_ms = np.array([each.latency_s for each in periods]) * 1e3
    console = Console()
    console.print(table)
    console.print(
        f"{len(periods)} control periods of {period_ms:.0f} ms, {own} with an action "
        f"of their own decision; {int(held.sum())} held, at most {int(runs.max())} in a row; "
        f"{int(gaps.clip(0).sum())} without a joint state that was answered; from joint state to "
        f"command p50 {np.median(late_ms):.2f}, p99 {np.percentile(late_ms, 99):.2f}, "
        f"max {late_ms.max():.2f} ms; {lost} messages missing in the bag"
    )


if __name__ == "__main__":
    typer.run(main)
