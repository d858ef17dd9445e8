# SPDX-License-Identifier: Apache-2.0
"""How long a publisher is held up when one of its readers is killed.

A reader of two reliable topics is killed with -9 while they are published 300 times a second; the
longest call of ``publish`` is told for each kill. Run it with the middleware's configuration that
is to be looked at (``FASTRTPS_DEFAULT_PROFILES_FILE``).
"""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Annotated

import numpy as np
import rclpy
import typer
from rclpy.node import Node
from rclpy.publisher import Publisher

from rl100_msgs.msg import StageTimes
from rl100_policy.ros.domain import free_domain
from rl100_policy.ros.process import keep_on_this_machine
from rl100_policy.ros.qos import EVENT

_TOPICS = ("dead_reader/one", "dead_reader/two")
_READER = """
import sys, rclpy
from rl100_msgs.msg import StageTimes
from rl100_policy.ros.qos import EVENT
rclpy.init(domain_id=int(sys.argv[1]))
node = rclpy.create_node("reader")
for topic in sys.argv[2:]:
    node.create_subscription(StageTimes, topic, lambda _: None, EVENT)
rclpy.spin(node)
"""
_BEFORE_S, _AFTER_S, _PAUSE_S = 0.5, 1.5, 0.003
_FOUND_S = 20.0
_LONG_S = 0.1


def longest_s(publishers: list[Publisher], reader: subprocess.Popen[bytes], at_s: float) -> float:
    """Longest time that publishing takes while the reader is killed after ``at_s`` [s]."""
    end = time.monotonic() + _FOUND_S
    while any(each.get_subscription_count() < 1 for each in publishers):
        if time.monotonic() > end:
            raise RuntimeError("the reader was not found")
        time.sleep(0.05)
    begun, worst = time.monotonic(), 0.0
    while time.monotonic() < begun + at_s + _AFTER_S:
        before = time.perf_counter()
        for each in publishers:
            each.publish(StageTimes())
        worst = max(worst, time.perf_counter() - before)
        if reader.poll() is None and time.monotonic() > begun + at_s:
            reader.kill()
            reader.wait()
        time.sleep(_PAUSE_S)
    return worst


def main(
    kills: Annotated[int, typer.Option(help="how many, five seconds each", min=1)] = 30,
    seed: Annotated[int, typer.Option(help="of the moments")] = 0,
) -> None:
    """Kill and print."""
    keep_on_this_machine()
    rng, found = np.random.default_rng(seed), []
    with free_domain() as domain:
        rclpy.init(domain_id=domain)
        node = Node("writer")
        publishers = [node.create_publisher(StageTimes, each, EVENT) for each in _TOPICS]
        for _ in range(kills):
            reader = subprocess.Popen([sys.executable, "-c", _READER, str(domain), *_TOPICS])
            try:
                at_s = _BEFORE_S + float(rng.uniform(0.0, 0.1))
                found.append(longest_s(publishers, reader, at_s))
            finally:
                reader.kill()
                reader.wait()
        node.destroy_node()
        rclpy.try_shutdown()
    long = [each for each in found if each > _LONG_S]
    print(
        f"{len(long)} of {kills} kills held the publisher up for more than {_LONG_S} s; longest "
        f"{max(found):.3f} s, median {np.median(found):.3f} s"
    )


if __name__ == "__main__":
    typer.run(main)
