# SPDX-License-Identifier: Apache-2.0
"""Security enclaves (SROS 2) for the graph: one per node, which may do what it does and no more.

``python scripts/enclaves.py KEYSTORE`` starts every node once, on a private domain, asks what it
publishes, reads, offers and calls, and writes that as KEYSTORE/policy.xml. Where the ROS 2
security tools are installed (`ros2 security`, apt: ros-jazzy-sros2) it makes the keystore and the
enclaves from it; where not it says which commands do.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import generate_interfaces

PREFIX = "/rl100"
"""Enclaves are ``/rl100/<node>``; as of the launch argument ``enclaves``."""
_OF_EVERY_NODE = ("/rosout", "/parameter_events")
_CLOCK = "/clock"


def policy() -> str:
    """Access of every node, as ``ros2 security create_permission`` reads it."""
    root = ElementTree.Element("policy", version="0.2.0")
    contexts = ElementTree.SubElement(root, "contexts")
    with generate_interfaces.running_nodes() as nodes:
        for node in nodes:
            _describe(contexts, node)
    ElementTree.indent(root)
    declared = '<?xml version="1.0" encoding="UTF-8"?>\n'
    return declared + ElementTree.tostring(root, encoding="unicode") + "\n"


def _describe(contexts: ElementTree.Element, node: Any) -> None:
    from rclpy.action.graph import get_action_client_names_and_types_by_node as called
    from rclpy.action.graph import get_action_server_names_and_types_by_node as executed

    name = node.get_name()
    context = ElementTree.SubElement(contexts, "context", path=f"{PREFIX}/{name}")
    profiles = ElementTree.SubElement(context, "profiles")
    profile = ElementTree.SubElement(profiles, "profile", ns="/", node=name)
    published = _names(node.get_publisher_names_and_types_by_node(name, "/"))
    read = _names(node.get_subscriber_names_and_types_by_node(name, "/"))
    _allow(profile, "topic", "publish", {*published, *_OF_EVERY_NODE})
    _allow(profile, "topic", "subscribe", {*read, _CLOCK, "/parameter_events"})
    offered = _names(node.get_service_names_and_types_by_node(name, "/"))
    asked = _names(node.get_client_names_and_types_by_node(name, "/"))
    _allow(profile, "service", "reply", offered)
    _allow(profile, "service", "request", asked)
    _allow(profile, "action", "execute", _names(executed(node, name, "/")))
    _allow(profile, "action", "call", _names(called(node, name, "/")))


def _names(found: Iterable[tuple[str, list[str]]]) -> set[str]:
    """Without the hidden ones of actions, which a policy names as actions."""
    return {name for name, _ in found if "/_action/" not in name}


def _allow(profile: ElementTree.Element, what: str, how: str, names: Iterable[str]) -> None:
    entries = ElementTree.Element(f"{what}s", {how: "ALLOW"})
    for name in sorted(names):
        ElementTree.SubElement(entries, what).text = name
    if len(entries):
        profile.append(entries)


def main(keystore: Path) -> int:
    """Write the policy and make the enclaves."""
    keystore.mkdir(parents=True, exist_ok=True)
    path = keystore / "policy.xml"
    path.write_text(policy(), encoding="utf-8")
    contexts = ElementTree.parse(path).getroot().iter("context")
    enclaves = [context.attrib["path"] for context in contexts]
    tool = ["ros2", "security"]
    commands = [[*tool, "create_keystore", str(keystore)]]
    for enclave in enclaves:
        commands.append([*tool, "create_enclave", str(keystore), enclave])
        commands.append([*tool, "create_permission", str(keystore), enclave, str(path)])
    print(f"{path}: {len(enclaves)} enclaves")
    found = shutil.which("ros2") is not None
    if found:
        found = subprocess.run([*tool, "-h"], capture_output=True, check=False).returncode == 0
    if not found:
        print("the ROS 2 security tools are not installed here (apt: ros-jazzy-sros2); with them:")
    for command in commands:
        print(" ".join(command))
        if found:
            subprocess.run(command, check=True)
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} KEYSTORE")
    sys.exit(main(Path(sys.argv[1])))
