# SPDX-License-Identifier: Apache-2.0
"""Every node's security enclave allows what the node does and no more."""

from xml.etree import ElementTree

import enclaves
import pytest

from rl100_bringup.graph import GraphArguments, describe


@pytest.fixture(scope="module")
def access():
    """By node and kind of access, the names it is allowed."""
    found = {}
    for context in ElementTree.fromstring(enclaves.policy().encode()).iter("context"):
        (profile,) = context.iter("profile")
        assert context.attrib["path"] == f"/rl100/{profile.attrib['node']}"
        allowed = found[profile.attrib["node"]] = {}
        for entries in profile:
            ((how, value),) = entries.attrib.items()
            assert value == "ALLOW"
            allowed[how] = {entry.text for entry in entries}
            assert all(name.startswith("/") and "*" not in name for name in allowed[how])
    return found


def test_only_the_gate_commands_the_arm(access):
    command = "/arm_controller/joint_trajectory"
    assert {node for node, may in access.items() if command in may["publish"]} == {"command_gate"}


def test_the_policy_may_decide_and_nothing_else(access):
    may = access["policy"]
    decides = {"/policy/action_chunk", "/policy/decision", "/policy/status"}
    assert decides <= may["publish"]
    assert not {name for name in may["publish"] if name.startswith(("/gate", "/teleop"))}
    assert not {name for name in may.get("request", ()) if name.startswith("/gate")}
    assert "/policy/load" in may["reply"]


def test_who_asks_the_gate_may_and_the_gate_may_answer(access):
    services = {"/gate/estop", "/gate/release", "/gate/set_command_source"}
    assert services <= access["command_gate"]["reply"]
    assert services <= access["episode_flow"]["request"]
    assert "/learner/train" in access["learner"]["execute"]


def test_every_node_of_the_graph_has_an_enclave_and_is_told_its_name(access):
    for node in describe(GraphArguments(driver="person", learner=True, enclaves="/rl100")):
        assert node.name in access
        place = node.arguments.index("--enclave")
        assert node.arguments[place + 1] == f"/rl100/{node.name}"
    assert not describe(GraphArguments())[0].arguments


def test_without_the_tools_it_says_which_commands_to_run(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(enclaves.shutil, "which", lambda _: None)
    assert enclaves.main(tmp_path / "store") == 0
    said = capsys.readouterr().out
    assert "apt: ros-jazzy-sros2" in said
    assert f"ros2 security create_permission {tmp_path / 'store'} /rl100/policy" in said
    ElementTree.parse(tmp_path / "store" / "policy.xml")


def test_with_the_tools_it_runs_them(tmp_path, monkeypatch):
    tool, log = tmp_path / "ros2", tmp_path / "log"
    tool.write_text(f'#!/bin/sh\necho "$@" >> {log}\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert enclaves.main(tmp_path / "store") == 0
    ran = log.read_text().splitlines()
    assert ran[1] == f"security create_keystore {tmp_path / 'store'}"
    assert (
        sum("create_enclave" in line for line in ran)
        == len([line for line in ran if "create_permission" in line])
        > 8
    )
