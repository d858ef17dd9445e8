# SPDX-License-Identifier: Apache-2.0
"""How long after their start nodes hear each other, by how often Fast DDS announces a process.

Several nodes of one process each start within a moment, every one with some topics to every other;
told is the time from the creation of the later of two until one has heard the other, of every
pair, in both directions. Periods of announcement take turns.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import rclpy
import typer
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from std_msgs.msg import Header

from rl100_policy.ros.domain import free_domain

_PROFILE = Path(__file__).parents[1] / "dds" / "fastdds_loopback_udp.xml"
_PERIOD = re.compile(r"<sec>\d+</sec>\s*<nanosec>\d+</nanosec>")
_TOPICS = 12
"""From each node to each other, of which the first is published."""
_WATCH_S, _EVERY_S = 14.0, 0.02
app = typer.Typer(add_completion=False)


@app.command(hidden=True)
def node(me: int, count: int) -> None:
    """Be one of them: print when it was made and when it first heard each other one [s]."""
    rclpy.init()
    this, others = Node(f"node_{me}"), [each for each in range(count) if each != me]
    heard: dict[int, float] = {}
    qos = QoSProfile(depth=10)

    def hear(other: int, _: Header) -> None:
        heard.setdefault(other, time.time())

    publishers: list[Publisher] = []
    for number in range(_TOPICS):
        for other in others:
            this.create_subscription(
                Header, f"from_{other}_to_{me}_{number}", partial(hear, other), qos
            )
            publisher = this.create_publisher(Header, f"from_{me}_to_{other}_{number}", qos)
            if number == 0:
                publishers.append(publisher)
    made = time.time()
    this.create_timer(_EVERY_S, lambda: [each.publish(Header()) for each in publishers])
    while time.time() < made + _WATCH_S:
        rclpy.spin_once(this, timeout_sec=_EVERY_S)
    print(json.dumps({"made": made, "heard": heard}), flush=True)


def _round(profile: Path, count: int, apart_s: float) -> list[float]:
    """Times of every pair [s]; infinite where one never heard the other."""
    with free_domain() as domain:
        environment = {
            **os.environ,
            "FASTRTPS_DEFAULT_PROFILES_FILE": str(profile),
            "ROS_AUTOMATIC_DISCOVERY_RANGE": "SYSTEM_DEFAULT",
            "ROS_DOMAIN_ID": str(domain),
        }
        processes = []
        for me in range(count):
            command = [sys.executable, __file__, "node", str(me), str(count)]
            processes.append(
                subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
            )
            time.sleep(apart_s)
        told = [json.loads(each.communicate()[0]) for each in processes]
    return [
        told[me]["heard"].get(str(other), np.inf) - max(told[me]["made"], told[other]["made"])
        for me in range(count)
        for other in range(count)
        if other != me
    ]


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    periods: Annotated[
        list[float] | None, typer.Option("--period", help="of announcement [s]; may be repeated")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="of each period")] = 5,
    nodes: Annotated[int, typer.Option(min=2, help="that start together")] = 7,
    apart: Annotated[float, typer.Option(min=0.0, help="time between two starts [s]")] = 0.3,
) -> None:
    """Let nodes find each other, with each period in turns."""
    if context.invoked_subcommand:
        return
    chosen = periods or [3.0, 0.5]
    found: dict[float, list[list[float]]] = {each: [] for each in chosen}
    with tempfile.TemporaryDirectory(prefix="rl100_discovery_") as folder:
        profile = Path(folder) / "profile.xml"
        for _ in range(rounds):
            for period in chosen:
                whole_s, rest_ns = divmod(round(period * 1e9), 10**9)
                given = f"<sec>{whole_s}</sec><nanosec>{rest_ns}</nanosec>"
                text, changed = _PERIOD.subn(given, _PROFILE.read_text())
                assert changed == 1, "one period of announcement"
                profile.write_text(text)
                found[period].append(_round(profile, nodes, apart))
    for period, times in found.items():
        every, slowest = np.concatenate(times), [max(each) for each in times]
        print(
            f"announced every {period:g} s: median {np.median(every):.2f} s, "
            f"p90 {np.percentile(every, 90):.2f} s; slowest pair of each start "
            + ", ".join(f"{each:.2f}" for each in slowest)
        )


if __name__ == "__main__":
    app()
