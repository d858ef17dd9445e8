# SPDX-License-Identifier: Apache-2.0
"""Kills of the recorder's process at random instants, and what each of them cost.

One process publishes joint states and depth images and notes what it has published. Recorder
processes, one after the other, record some of it through their services, and are sent SIGKILL at
a random instant of a random phase. `rl100 doctor --bags` and `rl100 bags recover`, in turns,
repair the folder. Then every episode is compared with what had been published. The exit status is
not zero if anything was lost.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import rclpy
import typer
from kill_accounts import LIMIT_S, Account, Phase, Published, settle, table_of
from rclpy.node import Node
from recorder_lives import (
    CYCLE_S,
    KilledError,
    Life,
    Recorder,
    mapped_segments,
    publish,
    remove_unused,
)
from rich.console import Console

from rl100_msgs.msg import HumanFeedback
from rl100_policy.ros.testing import isolated_ros, spinning

_RECOVER_EVERY = 8
"""Kills between two recoveries, so that a recovery meets several remains."""
_PLANS = ("any", "any", "recording", "closing", "closing", "relabelling", "relabelling", "idle")
"""What a life is aimed at; "any" is an instant of a whole cycle."""


class Kills:
    """Lives one after the other, each with its random end."""

    def __init__(self, seed: int) -> None:
        """Begin with guesses of how long things take."""
        self._random = random.Random(seed)
        self._close_s, self._label_s = 0.1, 0.1

    def run(self, life: Life) -> None:
        """Live until killed."""
        draw = self._random.uniform
        plan, whole = self._random.choice(_PLANS), self._random.randint(0, 1)
        life.get_ready()
        try:
            for _ in range(whole):
                self._cycle(life, "", draw)
            if plan == "any":
                life.kill_in(draw(0.0, CYCLE_S))
            while True:
                self._cycle(life, plan, draw)
        except KilledError:
            return

    def _cycle(self, life: Life, plan: str, draw: Callable[[float, float], float]) -> None:
        """One episode, judged while it runs, closed, judged again."""
        life.begin()
        if plan == "recording":
            life.kill_in(draw(0.0, 1.5))
        life.pause(draw(0.1, 0.5))
        life.judge(HumanFeedback.FAILURE)
        life.pause(draw(0.1, 0.5) if plan != "recording" else CYCLE_S)
        future = life.ask_to_stop()
        if plan == "closing":
            life.kill_in(draw(0.0, 1.2 * self._close_s))
        self._close_s += 0.3 * (life.close(future) - self._close_s)
        life.pause(draw(0.0, 0.05))
        life.phase = Phase.RELABELLING
        life.judge(HumanFeedback.SUCCESS)
        if plan == "relabelling":
            life.kill_in(draw(0.0, 1.2 * self._label_s))
        self._label_s += 0.3 * (life.await_label() - self._label_s)
        if plan == "idle":
            life.kill_in(draw(0.0, 0.3))
            life.pause(1.0)


def recover(bags: Path, turn: int) -> int:
    """Repair the folder by one of the two commands; how many relabellings it finished."""
    words = (["doctor", "--bags", str(bags)], ["bags", "recover", str(bags)])[turn % 2]
    done = subprocess.run(
        [sys.executable, "-m", "rl100_bringup.cli", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=os.environ | {"COLUMNS": "500"},
    )
    # The doctor's status is about the whole machine; what it did is judged by the folder.
    if list(bags.glob("*.partial")) or "Traceback" in done.stderr:
        raise RuntimeError(f"{words} left the folder as it was: {done.stdout}{done.stderr}")
    return done.stdout.count("relabelling was interrupted")


def run_lives(kills: int, seed: int, bags: Path, say: Callable[[str], None]) -> list[Account]:
    """Kill recorders of one folder; how each life ended."""
    lives: list[Account] = []
    chance, finished = Kills(seed), 0
    segments: set[str] = set()
    with isolated_ros():
        domain = rclpy.get_default_context().get_domain_id()
        robot = multiprocessing.get_context("spawn").Process(
            target=publish, args=(bags.parent, domain), daemon=True
        )
        robot.start()
        node = Node("person")
        nxt = Recorder(bags, 0, domain)
        with spinning(node) as spin_until:
            try:
                for number in range(kills):
                    recorder, nxt = nxt, Recorder(bags, number + 1, domain)
                    life = Life(node, recorder, spin_until, number)
                    try:
                        chance.run(life)
                    finally:
                        life.end()
                        segments |= recorder.segments
                    lives.append(Account(life.killed_in, life.killed_ns, life.episodes))
                    if number % _RECOVER_EVERY == _RECOVER_EVERY - 1 or number == kills - 1:
                        finished += recover(bags, number // _RECOVER_EVERY)
                        remove_unused(segments)
                        say(
                            f"{number + 1} of {kills} kills; relabellings that a recovery "
                            f"finished: {finished}"
                        )
            finally:
                nxt.kill()
                nxt.reap()
                segments |= nxt.segments | mapped_segments(robot.pid or 0)
                robot.kill()
                robot.join()
    remove_unused(segments, ignoring=os.getpid())  # which has left the graph
    return lives


def main(
    kills: Annotated[int, typer.Option(min=1, help="recorder processes to kill")] = 200,
    seed: Annotated[int, typer.Option(help="of the instants")] = 0,
    output: Annotated[
        Path | None, typer.Option(help="new folder to keep bags and lives.json in")
    ] = None,
) -> None:
    """Kill, recover, compare, print; status 1 if anything was lost."""
    console = Console(width=120)
    if output is not None and output.exists():
        raise typer.BadParameter(f"{output} exists; name a new folder")
    with tempfile.TemporaryDirectory(prefix="kill_recorder_") as temporary:
        folder = output or Path(temporary)
        (folder / "bags").mkdir(parents=True)
        begun_s = time.monotonic()
        lives = run_lives(kills, seed, folder / "bags", lambda text: console.print(text))
        lost = settle(lives, folder / "bags", Published(folder))
        (folder / "lives.json").write_text(json.dumps([asdict(life) for life in lives], indent=1))
        console.print(table_of(lives))
        took_s = time.monotonic() - begun_s
        console.print(f"{kills} kills in {took_s:.0f} s; a crash may cost {LIMIT_S} s")
        for each in lost:
            console.print(f"lost: {each}", highlight=False)
    raise typer.Exit(1 if lost else 0)


if __name__ == "__main__":
    typer.run(main)
