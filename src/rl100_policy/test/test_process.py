# SPDX-License-Identifier: Apache-2.0
"""A node's process outlives what one message does to it, and ends when it is asked to."""

import os
import signal
import subprocess
import sys
import time

import pytest
import rclpy
from rclpy.node import Node
from rosgraph_msgs.msg import Clock

from rl100_policy.ros.testing import isolated_ros

PROGRAM = """
import sys
from rclpy.node import Node
from std_msgs.msg import Empty
from rl100_policy.ros.process import run_node

class Listener(Node):
    def __init__(self):
        super().__init__("listener")
        self.create_subscription(Empty, "empty", lambda message: None, 10)

sys.exit(run_node(Listener, threads=int(sys.argv[1]), args=sys.argv[2:]))
"""


@pytest.mark.parametrize("threads", ["1", "2"])
def test_a_message_that_the_client_library_cannot_take_does_not_end_the_node(threads, tmp_path):
    with isolated_ros():
        clock_node = Node("clock")
        clock = clock_node.create_publisher(Clock, "/clock", 10)
        command = [sys.executable, "-c", PROGRAM, threads]
        domain = str(rclpy.get_default_context().get_domain_id())
        log = tmp_path / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, "--ros-args", "-p", "use_sim_time:=true"],
                env=os.environ | {"ROS_DOMAIN_ID": domain},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        before_zero = Clock()
        before_zero.clock.sec = -5
        deadline = time.monotonic() + 30.0
        try:
            while b"a callback failed" not in log.read_bytes():
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                clock.publish(before_zero)
                time.sleep(0.05)
            time.sleep(0.3)
            assert process.poll() is None, log.read_text()
            process.send_signal(signal.SIGINT)
            assert process.wait(20.0) == 0
        finally:
            process.kill()
            process.wait()
            clock_node.destroy_node()
    assert "must not be negative" in log.read_text()
