# SPDX-License-Identifier: Apache-2.0
"""A node that was destroyed is gone from the graph, even while somebody still refers to it."""

import generate_interfaces
import rclpy

from rl100_policy.ros.testing import isolated_ros, spinning


def test_no_destroyed_node_stays_in_the_graph(tmp_path):
    given = {
        "robot_config": generate_interfaces.CONFIG / "robots" / "panda.yaml",
        "task_config": generate_interfaces.CONFIG / "tasks" / "push_t.yaml",
        "bags": tmp_path,
    }
    with isolated_ros(**given):
        observer = rclpy.create_node("observer")
        with spinning(observer) as spin_until:
            nodes = [kind() for kind in generate_interfaces.node_classes()]
            names = {node.get_name() for node in nodes}
            assert spin_until(lambda: names <= set(observer.get_node_names()))
            for node in nodes:
                node.destroy_node()
            gone = spin_until(lambda: not names & set(observer.get_node_names()))
            assert gone, observer.get_node_names()
