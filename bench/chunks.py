# SPDX-License-Identifier: Apache-2.0
"""How smooth the arm moves by how successive chunks are executed, and what it is worth.

A policy version plays the simulated task while every decision takes some control periods. Waiting:
the arm holds until a decision is there, then makes all of its actions. Overlapping: the next one
is begun so much earlier, and the actions whose time is over are left out (ADR 30). Blending:
earlier still by some periods, in which the newer one takes over little by little. All of them play
the same episodes, in turns.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from rl100_bringup.graph import config_path
from rl100_bringup.report import wilson
from rl100_policy.core.chunking import Chunk, ChunkSchedule
from rl100_policy.core.config import load_robot, load_task
from rl100_policy.core.observation import Frame
from rl100_policy.core.runner import PolicyRunner
from rl100_sim.env import PushTEnv

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Way:
    """How chunks are executed."""

    name: str
    waits: bool = False
    blend: int = 0


WAYS = (Way("waiting", waits=True), Way("overlapping"), Way("blending 2", blend=2),
        Way("blending 4", blend=4))  # fmt: skip


@dataclass
class Played:
    """Of all episodes of one way."""

    successes: int = 0
    episodes: int = 0
    lengths: list[int] = field(default_factory=list)
    jerks: list[Floats] = field(default_factory=list)
    """Of the tool in an episode, [periods], m/s^3."""
    idle: int = 0
    """Periods in which nothing was due."""
    periods: int = 0


def play(
    env: PushTEnv, runner: PolicyRunner, way: Way, delay: int, seed: int, into: Played
) -> None:
    """One episode in which every decision takes ``delay`` control periods."""
    observation, _ = env.reset(seed=seed)
    key = next(name for name in observation if name != "proprio")
    period_ns = round(env.robot.control_period * 1e9)
    schedule, action = ChunkSchedule(way.blend), env.task_config.action
    frames: deque[Frame] = deque(maxlen=env.task_config.observation.n_obs)
    thinking: tuple[int, Chunk] | None = None
    velocities: list[Floats] = []
    step, over = 0, False
    while not over:
        frame = Frame(step * period_ns, observation[key], observation["proprio"])
        frames.extend([frame] * (frames.maxlen or 1) if not frames else [frame])
        due = schedule.due(step * period_ns)
        early = 0 if way.waits else delay + way.blend
        ahead = schedule.due((step + early) * period_ns)
        if thinking is None and ahead is None:
            decided = runner.decide(list(frames)).actions
            begins = step + (delay if way.waits else 0)
            thinking = (
                step + delay,
                Chunk(
                    begins * period_ns,
                    period_ns,
                    action.space,
                    action.names,
                    decided,
                    runner.version,
                ),
            )
        if thinking is not None and thinking[0] <= step:
            schedule.push(thinking[1])
            thinking, due = None, schedule.due(step * period_ns)
        asked = np.zeros(len(action.low)) if due is None else due.action
        observation, _, terminated, truncated, info = env.step(asked)
        velocities.append(info["executed"])
        into.idle += due is None
        step, over = step + 1, terminated or truncated
    into.jerks.append(
        np.linalg.norm(np.diff(velocities, n=2, axis=0), axis=1) / env.robot.control_period**2
    )
    into.episodes, into.periods = into.episodes + 1, into.periods + step
    into.successes += bool(terminated)
    if terminated:
        into.lengths.append(step)


def main(
    version: Annotated[Path, typer.Argument(help="folder of a policy version")],
    episodes: Annotated[int, typer.Option(help="of each way and delay")] = 50,
    delays: Annotated[str, typer.Option(help="periods that a decision takes")] = "0,1,2",
    task: Annotated[str, typer.Option(help="that the version was made for")] = "push_t",
    robot: Annotated[str, typer.Option(help="that the version was made for")] = "panda",
) -> None:
    """Play and print."""
    described = load_robot(config_path("robots", robot)), load_task(config_path("tasks", task))
    env = PushTEnv(*described)
    runner = PolicyRunner.load(
        version, task=described[1], robot=described[0], sampler="one_step",
        deterministic=True, noise_seed=0,
    )  # fmt: skip
    shown = Table(
        "decisions take", "executed", "success", "Wilson", "length", "jerk, rms", "p99", "idle",
        title=f"{runner.version}, {runner.n_chunk} actions a decision",
    )  # fmt: skip
    for delay in map(int, delays.split(",")):
        ways = {way: Played() for way in WAYS}
        for seed in range(episodes):
            for way, played in ways.items():
                play(env, runner, way, delay, 10_000 + seed, played)
        for way, played in ways.items():
            jerks = np.concatenate(played.jerks)
            low, high = wilson(played.successes, played.episodes)
            shown.add_row(
                f"{delay} periods", way.name, f"{played.successes} of {played.episodes}",
                f"{low:.2f} to {high:.2f}", f"{np.mean(played.lengths or [np.nan]):.0f}",
                f"{np.sqrt(np.mean(jerks**2)):.1f} m/s^3", f"{np.percentile(jerks, 99):.1f}",
                f"{played.idle / played.periods:.0%}",
            )  # fmt: skip
    Console().print(shown)


if __name__ == "__main__":
    typer.run(main)
