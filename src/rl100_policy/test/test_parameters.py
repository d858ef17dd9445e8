# SPDX-License-Identifier: Apache-2.0
"""Parameters of nodes: declared with type and range.

They are refused naming the range, and still readable by rclpy afterwards.
"""

from dataclasses import dataclass, fields
from pathlib import Path

import pytest
from rclpy.node import Node

from rl100_policy.core.errors import ConfigError
from rl100_policy.nodes import cloud, command_gate, policy, recorder
from rl100_policy.ros.parameters import parameter, read_parameters
from rl100_policy.ros.testing import isolated_ros

pytestmark = pytest.mark.ros

CONFIG = Path(__file__).parents[2] / "rl100_bringup" / "config"
PATHS = {
    "robot_config": CONFIG / "robots" / "panda.yaml",
    "task_config": CONFIG / "tasks" / "push_t.yaml",
}


@dataclass(frozen=True)
class Example:
    """Parameters of a node made for this test."""

    rate: float = parameter(10.0, "rate [Hz]", low=0.5, high=50.0)
    count: int = parameter(3, "how many", low=1, high=9)
    names: list[str] = parameter(["a"], "names")  # noqa: RUF009 - it returns a dataclass field


def read(**given):
    with isolated_ros(**given):
        node = Node("example")
        try:
            return read_parameters(node, Example)
        finally:
            node.destroy_node()


def test_defaults_and_given_values_are_read():
    assert read() == Example(10.0, 3, ["a"])
    assert read(rate=2.5, count=9) == Example(2.5, 9, ["a"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rate": 0.1}, r"rate.*\[0.5, 50.0\]"),
        ({"count": 10}, r"count.*\[1, 9\]"),
        ({"count": "many"}, "count.*int"),
    ],
)
def test_a_wrong_value_is_refused_naming_parameter_and_range(given, message):
    with pytest.raises(ConfigError, match=message):
        read(**given)


@pytest.mark.parametrize(
    ("create", "kind"),
    [
        (cloud.CloudNode, cloud.CloudParameters),
        (command_gate.CommandGateNode, command_gate.GateParameters),
        (policy.PolicyNode, policy.PolicyParameters),
        (recorder.RecorderNode, recorder.RecorderParameters),
    ],
)
def test_every_parameter_of_a_node_can_be_read_and_described_by_ros(create, kind, tmp_path):
    """Regression: an attribute of ours hid rclpy's table of parameters."""
    with isolated_ros(**PATHS, bags=tmp_path):
        node = create()
        try:
            for item in fields(kind):
                assert node.get_parameter(item.name).value is not None
                assert node.describe_parameter(item.name).description
        finally:
            node.destroy_node()


def test_a_missing_description_stops_the_node_with_a_clear_error(tmp_path):
    with (
        isolated_ros(robot_config=tmp_path / "none.yaml", task_config=PATHS["task_config"]),
        pytest.raises(ConfigError, match=r"none\.yaml"),
    ):
        cloud.CloudNode().start()
