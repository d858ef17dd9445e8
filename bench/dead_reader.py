# SPDX-License-Identifier: Apache-2.0
"""How long a publisher is held up when one of its readers is killed.

A reader of two reliable topics is killed with -9 while another process publishes them 300 times a
second; the longest call of ``publish`` is told. In turns both speak through shared memory, as any
program does with the profile that ``./rl100`` sets, and over the loopback, as this suite's nodes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Annotated

import numpy as np
import rclpy
import typer
from rclpy.node import Node

from rl100_msgs.msg import StageTimes
from rl100_policy.ros.domain import free_domain
from rl100_policy.ros.qos import EVENT
from rl100_policy.ros.transport import RECEIVE_BUFFER, settings

_TOPICS = ("dead_reader/one", "dead_reader/two")
_KINDS = {"shared memory": 0, "loopback": RECEIVE_BUFFER}
"""Of transport, and the size of the system's socket buffers that leads to it."""
_FOUND_S, _BEFORE_S, _AFTER_S, _PAUSE_S = 20.0, 0.5, 1.5, 0.003
_LONG_S, _FOR_EVER_S = 0.1, 15.0
app = typer.Typer(add_completion=False)


@app.command(hidden=True)
def read() -> None:
    """Be the reader."""
    rclpy.init()
    node = Node("reader")
    for topic in _TOPICS:
        node.create_subscription(StageTimes, topic, lambda _: None, EVENT)
    rclpy.spin(node)


@app.command(hidden=True)
def write() -> None:
    """Be the publisher: say when the reader is found, and each call that was long [s]."""
    rclpy.init()
    node = Node("writer")
    publishers = [node.create_publisher(StageTimes, each, EVENT) for each in _TOPICS]
    end = time.monotonic() + _FOUND_S
    while any(each.get_subscription_count() < 1 for each in publishers):
        if time.monotonic() > end:
            return
        time.sleep(0.05)
    print("found", flush=True)
    end, worst = time.monotonic() + _BEFORE_S + _AFTER_S, 0.0
    while time.monotonic() < end:
        before = time.perf_counter()
        for each in publishers:
            each.publish(StageTimes())
        worst = max(worst, time.perf_counter() - before)
        time.sleep(_PAUSE_S)
    print(worst, flush=True)


def longest_s(kind: str, domain: int, at_s: float) -> float:
    """Longest call while the reader is killed after ``at_s`` [s]; infinite if it does not end."""
    variables = {**os.environ, "ROS_DOMAIN_ID": str(domain)}
    variables |= settings(variables, images=True, receive_limit=_KINDS[kind])
    with (
        subprocess.Popen([sys.executable, __file__, "read"], env=variables) as reader,
        subprocess.Popen(
            [sys.executable, __file__, "write"], env=variables, stdout=subprocess.PIPE, text=True
        ) as writer,
    ):
        assert writer.stdout is not None
        try:
            if writer.stdout.readline() != "found\n":
                raise RuntimeError("the reader was not found")
            time.sleep(at_s)
            reader.kill()
            return float(writer.communicate(timeout=_FOR_EVER_S)[0])
        except subprocess.TimeoutExpired:
            return float("inf")
        finally:
            reader.kill()
            writer.kill()


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    kills: Annotated[int, typer.Option(help="of each, five seconds each", min=1)] = 40,
    seed: Annotated[int, typer.Option(help="of the moments")] = 0,
) -> None:
    """Kill and print."""
    if context.invoked_subcommand:
        return
    rng = np.random.default_rng(seed)
    found: dict[str, list[float]] = {kind: [] for kind in _KINDS}
    with free_domain() as domain:
        for kind in list(_KINDS) * kills:
            found[kind].append(longest_s(kind, domain, _BEFORE_S + float(rng.uniform(0.0, 0.1))))
    for kind, longest in found.items():
        ended = [each for each in longest if np.isfinite(each)]
        long = sum(each > _LONG_S for each in ended)
        print(
            f"{kind}: of {kills} kills {kills - len(ended)} held the publisher up for ever (more "
            f"than {_FOR_EVER_S:g} s), {long} for more than {_LONG_S} s; else the longest call "
            f"took {max((each for each in ended if each <= _LONG_S), default=0.0):.3f} s"
        )


if __name__ == "__main__":
    app()
