# SPDX-License-Identifier: Apache-2.0
"""What swapping the policy version costs while it drives, in real time and under load.

Two untrained versions take turns in one graph whose simulated camera, recorder and arm go on. Of
every control period it is known whose action was made; of every decision how long it took, and
whether a version was being made ready meanwhile.
"""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Annotated

import numpy as np
import typer
from driven_graph import running, untrained
from rich.console import Console
from rich.table import Table

from rl100_policy.core.gate_result import HELD
from rl100_policy.core.latency import TOTALS, Mark
from rl100_policy.ros.transport import keep_on_this_machine


def main(
    swaps: Annotated[int, typer.Option(help="how many")] = 100,
    every: Annotated[float, typer.Option(help="time from one to the next [s]")] = 1.0,
    rate: Annotated[float, typer.Option(help="control rate [Hz]")] = 20.0,
    points: Annotated[int, typer.Option(help="of a cloud")] = 1024,
    size: Annotated[str, typer.Option(help="preset of the networks")] = "small",
    n_chunk: Annotated[int, typer.Option(help="actions of a decision")] = 8,
) -> None:
    """Measure and print."""
    keep_on_this_machine()
    loading: list[tuple[int, int]] = []
    with running(points, rate, record=True, execute=1) as (bench, folder, robot, task):
        made = [
            untrained(folder / f"turn_{seed}", robot, task, size, n_chunk, seed=seed)
            for seed in range(2)
        ]
        bench.load(made[0])
        bench.take_command()
        bench.watch(2.0)
        with bench.recording(task.name):
            bench.watch(2.0)
            bench.forget()
            for turn in range(swaps):
                begun = time.time_ns()
                bench.load(made[(turn + 1) % 2])
                loading.append((begun, time.time_ns()))
                bench.watch(max(0.0, every - (time.time_ns() - begun) * 1e-9))
            bench.watch(1.0)
            journeys, periods = list(bench.journeys), list(bench.periods)
    took = np.array([end - begin for begin, end in loading]) * 1e-9
    beside = np.array(
        [
            any(begin < each.marks[Mark.DECIDED] and each.marks[Mark.POLICY_IN] < end
                for begin, end in loading)
            for each in journeys
        ]
    )  # fmt: skip
    ways = np.array([each.duration_s(TOTALS[0]) for each in journeys]) * 1e3
    versions = [period.policy_version for period in periods]
    changes = sum(a != b for a, b in pairwise(versions) if a and b)
    held = [period for period in periods if period.flags & HELD]
    table = Table("observation to chunk", "decisions", "p50 [ms]", "p99 [ms]", "max [ms]")
    for name, chosen in (("beside a load", beside), ("otherwise", ~beside)):
        p50, p99 = np.percentile(ways[chosen], [50, 99])
        table.add_row(
            name, str(int(chosen.sum())), f"{p50:.2f}", f"{p99:.2f}", f"{ways[chosen].max():.2f}"
        )
    console, late = Console(), int((ways > 1e3 / rate).sum())
    console.print(table)
    console.print(
        f"{swaps} swaps, {changes} changes of who drives, in {len(periods)} control periods of "
        f"{1e3 / rate:.0f} ms: {len(held)} held, {late} decisions longer "
        f"than one; from the call to the answer p50 {np.median(took):.2f} s, "
        f"max {took.max():.2f} s"
    )


if __name__ == "__main__":
    typer.run(main)
