# SPDX-License-Identifier: Apache-2.0
"""Every node of the graph has the life cycle, and may go through it again and again."""

import pytest
from generate_interfaces import node_classes, node_parameters
from rclpy.lifecycle import TransitionCallbackReturn

from rl100_policy.ros.managed import ManagedNode
from rl100_policy.ros.testing import isolated_ros, spinning

pytestmark = pytest.mark.ros

NODES = [kind for kind in node_classes() if kind.__name__ != "ScriptedOperatorNode"]
"""The scripted operator ends by itself: it is a client of the others."""
DONE = TransitionCallbackReturn.SUCCESS


@pytest.mark.parametrize("kind", NODES, ids=lambda kind: kind.__name__)
def test_a_node_goes_through_its_life_twice_and_leaves_nothing(kind):
    assert issubclass(kind, ManagedNode)
    with node_parameters() as given, isolated_ros(**given, autostart=False):
        node = kind()
        bare = {each.topic_name for each in node.publishers}
        events = kind.__name__ != "RecorderNode"
        with spinning(node, start=False, events=events) as spin_until:
            assert node.state == "unconfigured"
            for _ in range(2):
                assert node.trigger_configure() is DONE
                assert not node.is_active
                assert {each.topic_name for each in node.publishers} > bare
                assert node.trigger_activate() is DONE
                assert node.is_active
                spin_until(lambda: False, timeout_s=0.3)
                assert node.trigger_deactivate() is DONE
                spin_until(lambda: False, timeout_s=0.1)
                assert node.trigger_cleanup() is DONE
                assert {each.topic_name for each in node.publishers} == bare
                spin_until(lambda: False, timeout_s=0.1)
