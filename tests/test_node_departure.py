# SPDX-License-Identifier: Apache-2.0
"""A node that was destroyed is gone from the graph, even while somebody still refers to it."""

from contextlib import ExitStack

import generate_interfaces
import rclpy

from rl100_policy.ros.managed import ManagedNode
from rl100_policy.ros.testing import isolated_ros, spinning


def test_no_destroyed_node_stays_in_the_graph():
    with generate_interfaces.node_parameters() as given, isolated_ros(**given):
        observer = rclpy.create_node("observer")
        with spinning(observer) as spin_until, ExitStack() as started:
            nodes = []
            for kind in generate_interfaces.node_classes():
                nodes.append(kind())
                started.callback(nodes[-1].destroy_node)
                if isinstance(nodes[-1], ManagedNode):
                    nodes[-1].start()
            names = {node.get_name() for node in nodes}
            assert spin_until(lambda: names <= set(observer.get_node_names()))
            started.close()
            gone = spin_until(lambda: not names & set(observer.get_node_names()))
            assert gone, observer.get_node_names()
