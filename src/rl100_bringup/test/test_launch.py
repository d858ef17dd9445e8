# SPDX-License-Identifier: Apache-2.0
"""robot.launch.py starts exactly the nodes of the graph description.

With the real launch_ros where it is installed, and otherwise with recording fakes of the few
classes the file uses.
"""

import importlib.util
import os
import signal
import subprocess
import sys
import types
from dataclasses import fields
from pathlib import Path

import pytest

from rl100_bringup.graph import GraphArguments, describe
from rl100_policy.ros.domain import free_domain

LAUNCH_FILE = Path(__file__).parents[1] / "launch" / "robot.launch.py"
HAS_LAUNCH_ROS = importlib.util.find_spec("launch_ros") is not None


class FakeArgument:
    """Records what DeclareLaunchArgument is told."""

    def __init__(self, name, *, default_value, description, choices):
        self.name, self.default_value, self.description, self.choices = (
            name,
            default_value,
            description,
            choices,
        )


class FakeNode:
    """Records what launch_ros.actions.Node is told."""

    def __init__(self, **told):
        self.told = told


class FakeConfiguration:
    """Looks a launch argument up in a dictionary."""

    def __init__(self, name):
        self.name = name

    def perform(self, context):
        value = context[self.name]
        return value.perform(context) if isinstance(value, FakeConfiguration) else value


@pytest.fixture
def faked_launch(monkeypatch):
    """The launch file, loaded against fakes."""
    contents = {
        "launch": {"LaunchContext": dict, "LaunchDescription": list},
        "launch.actions": {
            "DeclareLaunchArgument": FakeArgument,
            "OpaqueFunction": lambda function: function,
        },
        "launch.substitutions": {"LaunchConfiguration": FakeConfiguration},
        "launch_ros": {},
        "launch_ros.actions": {"Node": FakeNode},
    }
    for name, members in contents.items():
        module = types.ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
    spec = importlib.util.spec_from_file_location("robot_launch", LAUNCH_FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"lockstep": "true", "sampler": "ddim"},
        {"params_file": __file__},
        {"rviz": "true", "learner": "true", "record": "false"},
        {"sim": "false"},
        {"sim": "false", "use_sim_time": "true"},
    ],
)
def test_the_launch_file_starts_the_nodes_of_the_description(faked_launch, changes):
    *arguments, function = faked_launch.generate_launch_description()
    context = {argument.name: argument.default_value for argument in arguments} | changes
    nodes = [node.told for node in function(context)]
    described = describe(GraphArguments.from_strings(changes))
    assert [
        (n["package"], n["executable"], n["name"], n["parameters"], tuple(n["arguments"]))
        for n in nodes
    ] == [
        (d.package, d.executable, d.name, [d.parameters, *d.params_files], d.arguments)
        for d in described
    ]


def test_every_argument_of_the_graph_is_a_documented_launch_argument(faked_launch):
    *arguments, _ = faked_launch.generate_launch_description()
    assert [argument.name for argument in arguments] == [
        item.name for item in fields(GraphArguments)
    ]
    assert all(argument.description for argument in arguments)
    assert next(a for a in arguments if a.name == "sim").choices == ["true", "false"]


def test_use_sim_time_defaults_to_the_value_of_sim_and_says_so(faked_launch):
    *arguments, _ = faked_launch.generate_launch_description()
    (argument,) = [a for a in arguments if a.name == "use_sim_time"]
    assert argument.default_value.name == "sim"
    assert "follows sim" in argument.description


@pytest.mark.launch
@pytest.mark.skipif(
    not HAS_LAUNCH_ROS, reason="launch_ros is not installed; the fakes above stand in for it"
)
def test_the_launch_file_runs_under_the_real_launch_ros(tmp_path):
    program = (
        "import sys; from launch import LaunchDescription, LaunchService;"
        "from launch.actions import IncludeLaunchDescription;"
        "from launch.launch_description_sources import PythonLaunchDescriptionSource as Source;"
        "service = LaunchService();"
        "service.include_launch_description(LaunchDescription([IncludeLaunchDescription("
        f"Source({str(LAUNCH_FILE)!r}),"
        f"launch_arguments=[('lockstep', 'true'), ('bags', {str(tmp_path)!r})])]));"
        "sys.exit(service.run())"
    )
    environment = os.environ | {
        "ROS_LOG_DIR": str(tmp_path / "log"),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    }
    with free_domain() as domain:
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            env=environment | {"ROS_DOMAIN_ID": str(domain)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            output, _ = process.communicate(timeout=15)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=30)
    for node in describe(GraphArguments(lockstep=True)):
        assert f"[{node.name}-" in output, output
    assert output.count("process has finished cleanly") == len(
        describe(GraphArguments(lockstep=True))
    ), output
