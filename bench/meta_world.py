# SPDX-License-Identifier: Apache-2.0
"""Meta-World tasks: how often the exact and the imperfect operator succeed, and what a step costs.

Episode s of both operators has seed s. Times are processor time of ``step`` alone, in one thread,
with the exact operator; state and cloud are interleaved episode by episode.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from rl100_bringup.report import this_machine, wilson
from rl100_sim.meta_world import (
    TASKS,
    Demonstration,
    MetaWorldEnv,
    MetaWorldTask,
    demonstrate,
)
from rl100_sim.meta_world.tasks import find_task

_CHUNK = 8
"""Control periods of a decision, where only its frames are rendered."""


@dataclass(frozen=True)
class Row:
    """What was measured of one task."""

    task: str
    time_limit: int
    level: tuple[float, float]
    episodes: int
    exact_successes: int
    exact_length: float
    """Mean of the successes [control periods]."""
    imperfect_successes: int
    imperfect_length: float
    state_ms: float
    """Median of the episodes' mean processor time of a step [ms]."""
    cloud_ms: float
    chunked_cloud_ms: float
    """With ``render_every`` 8: what a roll-out pays."""
    reset_ms: float


def main(
    episodes: Annotated[int, typer.Option(help="per task and operator")] = 50,
    timed: Annotated[int, typer.Option(help="episodes per task and kind of observation")] = 5,
    points: Annotated[int, typer.Option(help="points per cloud")] = 256,
    task: Annotated[list[str] | None, typer.Option(help="all, if left out")] = None,
    limit: Annotated[int, typer.Option(help="of time [periods]; 0: the task's own")] = 0,
    output: Annotated[Path | None, typer.Option(help="folder for report.json")] = None,
) -> None:
    """Measure and print."""
    tasks = [find_task(name) for name in task or TASKS]
    if limit:
        tasks = [replace(one, max_periods=limit) for one in tasks]
    rows = [_measure(one, episodes, timed, points) for one in tasks]
    Console(width=160).print(_table(rows))
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        report = {"tasks": [asdict(row) for row in rows], "machine": this_machine()}
        path = output / "report.json"
        path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        print(f"report: {path}")


def _measure(task: MetaWorldTask, episodes: int, timed: int, points: int) -> Row:
    env = MetaWorldEnv(task)
    exact = [demonstrate(env, seed, level=0.0) for seed in range(episodes)]
    imperfect = [demonstrate(env, seed) for seed in range(episodes)]
    clouds = {"observation": "cloud", "n_points": points}
    kinds = [env, MetaWorldEnv(task, **clouds), MetaWorldEnv(task, **clouds, render_every=_CHUNK)]
    times = np.array([[_times(kind, seed) for kind in kinds] for seed in range(timed)])
    reset, step = np.median(times, axis=0).T * 1e3
    assert task.level is not None
    return Row(
        task=task.name,
        time_limit=task.max_periods,
        level=task.level,
        episodes=episodes,
        exact_successes=sum(one.success for one in exact),
        exact_length=_mean_length(exact),
        imperfect_successes=sum(one.success for one in imperfect),
        imperfect_length=_mean_length(imperfect),
        state_ms=float(step[0]),
        cloud_ms=float(step[1]),
        chunked_cloud_ms=float(step[2]),
        reset_ms=float(reset[0]),
    )


def _mean_length(demonstrations: Sequence[Demonstration]) -> float:
    lengths = [len(one) for one in demonstrations if one.success]
    return float(np.mean(lengths)) if lengths else float("nan")


def _times(env: MetaWorldEnv, seed: int) -> tuple[float, float]:
    """Processor seconds of the reset, and of one step on average."""
    begun = time.thread_time()
    env.reset(seed=seed)
    reset, steps, is_over = time.thread_time() - begun, [], False
    while not is_over:
        action = env.scene.expert_action()
        begun = time.thread_time()
        _, _, terminated, truncated, _ = env.step(action)
        steps.append(time.thread_time() - begun)
        is_over = terminated or truncated
    return reset, float(np.mean(steps))


def _table(rows: Sequence[Row]) -> Table:
    table = Table(
        *("task", "limit", "exact", "95 % interval", "length", "level", "imperfect"),
        *("95 % interval", "length", "state ms", "cloud ms", "every 8th", "reset ms"),
        title=f"Meta-World, {rows[0].episodes} episodes each",
    )
    for row in rows:
        table.add_row(
            row.task,
            str(row.time_limit),
            *_success(row.exact_successes, row.episodes),
            f"{row.exact_length:.0f}",
            "{:g} - {:g}".format(*row.level),
            *_success(row.imperfect_successes, row.episodes),
            f"{row.imperfect_length:.0f}",
            f"{row.state_ms:.2f}",
            f"{row.cloud_ms:.1f}",
            f"{row.chunked_cloud_ms:.1f}",
            f"{row.reset_ms:.0f}",
        )
    return table


def _success(successes: int, trials: int) -> tuple[str, str]:
    low, high = wilson(successes, trials)
    return f"{100 * successes / trials:.0f} %", f"{100 * low:.0f} - {100 * high:.0f}"


if __name__ == "__main__":
    typer.run(main)
