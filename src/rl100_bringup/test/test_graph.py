# SPDX-License-Identifier: Apache-2.0
"""The graph description: its arguments and its nodes.

Every node it names exists, with the parameters it is given.
"""

import importlib
from dataclasses import fields
from pathlib import Path

import pytest

from rl100_bringup.graph import (
    GraphArguments,
    config_path,
    describe,
    keyboard_description,
    operator_description,
)
from rl100_bringup.processes import node_command
from rl100_policy.core.errors import ConfigError, Rl100Error

PARAMETERS = {
    "sim_robot": ("rl100_sim.nodes.sim_robot", "SimParameters"),
    "scripted_operator": ("rl100_sim.nodes.scripted_operator", "OperatorParameters"),
    "cloud": ("rl100_policy.nodes.cloud", "CloudParameters"),
    "command_gate": ("rl100_policy.nodes.command_gate", "GateParameters"),
    "policy": ("rl100_policy.nodes.policy", "PolicyParameters"),
    "latency": ("rl100_policy.nodes.latency", "LatencyParameters"),
    "recorder": ("rl100_policy.nodes.recorder", "RecorderParameters"),
    "episode_flow": ("rl100_policy.nodes.episode_flow", "FlowParameters"),
    "joystick": ("rl100_policy.nodes.joystick", "JoystickParameters"),
    "keyboard": ("rl100_policy.nodes.keyboard", "KeyboardParameters"),
    "learner": ("rl100_learner.node", "LearnerParameters"),
}


def all_nodes():
    arguments = GraphArguments(learner=True, lockstep=True)
    collecting = GraphArguments(driver="person", joystick="gamepad", episodes=5)
    by_hand = [node for node in describe(collecting) if node.name in ("episode_flow", "joystick")]
    operator = operator_description(arguments, mode="demonstrate", episodes=3)
    return [*describe(arguments), *by_hand, keyboard_description(collecting), operator]


def test_the_default_graph_is_the_simulated_robot_with_recorder():
    assert [node.name for node in describe(GraphArguments())] == [
        "sim_robot",
        "cloud",
        "command_gate",
        "policy",
        "latency",
        "recorder",
    ]


@pytest.mark.parametrize(
    ("given", "missing", "added"),
    [
        ({"sim": "false"}, "sim_robot", None),
        ({"record": "false"}, "recorder", None),
        ({"latency": "false"}, "latency", None),
        ({"learner": "true"}, None, "learner"),
        ({"rviz": "True"}, None, "rviz2"),
        ({"driver": "person"}, None, "episode_flow"),
        ({"joystick": "spacemouse"}, None, "joystick"),
    ],
)
def test_switches_add_and_remove_nodes(given, missing, added):
    names = [node.name for node in describe(GraphArguments.from_strings(given))]
    assert missing not in names
    assert added is None or added in names


@pytest.mark.parametrize("node", all_nodes(), ids=lambda node: node.name)
def test_every_parameter_given_to_a_node_is_one_it_declares_with_that_type(node):
    module, name = PARAMETERS[node.name]
    declared = {item.name: item for item in fields(getattr(importlib.import_module(module), name))}
    for key, value in node.parameters.items():
        if key == "use_sim_time":  # declared by rclpy itself
            continue
        assert type(value).__name__ == declared[key].type, key


@pytest.mark.parametrize("node", all_nodes(), ids=lambda node: node.name)
def test_every_node_is_installed_and_gets_its_parameters_in_a_file(node, tmp_path):
    command = node_command(node, tmp_path)
    assert command[0].endswith(f"lib/{node.package}/{node.executable}")
    assert command[-2:] == ["--params-file", str(tmp_path / f"{node.name}.yaml")]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"robt": "panda"}, "robt"),
        ({"lockstep": "maybe"}, "lockstep.*maybe"),
        ({"driver": "person", "lockstep": "true"}, "driver:=person is for episodes in real time"),
        ({"driver": "policy", "record": "false"}, "that are recorded"),
        ({"driver": "policy"}, "give policy:=FOLDER"),
        ({"episodes": "many"}, "episodes.*number.*many"),
        ({"sampler": "magic"}, "one_step"),
        ({"robot": "r2d2"}, "panda"),
        ({"task": "nowhere.yaml"}, "nowhere.yaml"),
        ({"lockstep": "true", "sim": "false"}, "real arm does not wait"),
        ({"use_sim_time": "false"}, "is the clock"),
        ({"policy": "/nowhere"}, "/nowhere.*policy version"),
        ({"params_file": "/nowhere.yaml"}, "no file /nowhere.yaml"),
    ],
)
def test_wrong_arguments_are_refused_saying_what_is_possible(given, message):
    with pytest.raises(Rl100Error, match=message):
        describe(GraphArguments.from_strings(given))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, True),
        ({"sim": "false"}, False),
        ({"sim": "false", "use_sim_time": "true"}, True),
        ({"sim": "false", "use_sim_time": "false"}, False),
    ],
)
def test_nodes_follow_the_simulated_clock_where_there_is_one_unless_told_otherwise(
    given, expected
):
    """Without /clock a node that follows it stays at time 0, and so does every bag."""
    nodes = describe(GraphArguments.from_strings(given))
    clocks = {node.name: node.parameters.get("use_sim_time") for node in nodes}
    clocks.pop("sim_robot", None)  # it is the clock
    assert len(clocks) == 5
    assert set(clocks.values()) == {expected}


def test_a_description_outside_the_package_is_taken_by_its_path(tmp_path):
    copy = tmp_path / "my_panda.yaml"
    copy.write_text(config_path("robots", "panda").read_text())
    nodes = describe(GraphArguments(robot=str(copy)))
    assert all(node.parameters["robot_config"] == str(copy) for node in nodes)


def test_a_params_file_reaches_every_node_after_its_own_parameters(tmp_path):
    extra = tmp_path / "site.yaml"
    extra.write_text("{}")
    for node in describe(GraphArguments(params_file=str(extra))):
        command = node_command(node, tmp_path)
        assert command[-1] == str(extra)


@pytest.mark.parametrize(
    ("robot", "task", "sees"),
    [
        ("panda_rgb", "push_t_rgb", True),
        ("panda_rgb", "push_t", True),
        ("panda", "push_t_state", False),
    ],
)
def test_what_a_task_observes_decides_about_the_cloud_node_and_nothing_else(robot, task, sees):
    described = describe(GraphArguments(robot=described_at(robot), task=described_at(task)))
    names = [node.name for node in described]
    assert names == [
        "sim_robot", *(["cloud"] if sees else []), "command_gate", "policy", "latency", "recorder"
    ]  # fmt: skip


@pytest.mark.parametrize("sim", [True, False])
def test_an_image_task_is_refused_before_any_node_starts_without_a_colour_camera(sim):
    with pytest.raises(ConfigError, match=r"no camera 'color' of kind color"):
        describe(GraphArguments(task=described_at("push_t_rgb"), sim=sim))


@pytest.mark.parametrize("sim", [True, False])
def test_joint_velocities_of_another_arm_are_refused_before_any_node_starts(tmp_path, sim):
    other = tmp_path / "other_arm.yaml"
    text = Path(described_at("push_t_joint")).read_text()
    other.write_text(text.replace("panda_joint7]", "wrist]"))
    with pytest.raises(ConfigError, match=r"expected the joints of robot 'panda'"):
        describe(GraphArguments(task=str(other), sim=sim))


def described_at(name: str) -> str:
    kind = "tasks" if name.startswith("push") else "robots"
    return str(Path(__file__).parents[1] / "config" / kind / f"{name}.yaml")
