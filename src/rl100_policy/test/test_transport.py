# SPDX-License-Identifier: Apache-2.0
"""Which transport a process takes, and that it opens nothing beyond this machine."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rl100_policy.ros.domain import free_domain
from rl100_policy.ros.transport import RECEIVE_BUFFER, settings

PROFILE, RANGE = "FASTRTPS_DEFAULT_PROFILES_FILE", "ROS_AUTOMATIC_DISCOVERY_RANGE"
MARK = "RL100_LOOPBACK"
SHIPPED = Path(__file__).parents[3] / "dds" / "fastdds_loopback_shm.xml"
PROGRAM = """
import glob, os, rclpy
from rl100_policy.ros.transport import keep_on_this_machine
keep_on_this_machine(images=False)
rclpy.init()
node = rclpy.create_node("alone")
mine = {os.readlink(f"/proc/self/fd/{each}") for each in os.listdir("/proc/self/fd")
        if os.path.exists(f"/proc/self/fd/{each}")}
for family in ("udp", "udp6", "tcp", "tcp6"):
    for line in open(f"/proc/self/net/{family}").read().splitlines()[1:]:
        fields = line.split()
        if f"socket:[{fields[9]}]" in mine:
            print("socket", family, fields[1])
for thread in glob.glob("/proc/self/task/*/comm"):
    print("thread", open(thread).read().strip())
"""


@pytest.fixture
def profiles(tmp_path) -> Path:
    for name in ("fastdds_loopback_shm.xml", "fastdds_loopback_udp.xml", "my_network.xml"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize("before", ["shm", "udp"], ids="by a parent that took {}".format)
@pytest.mark.parametrize("asked", ["", "LOCALHOST", "SYSTEM_DEFAULT"])
@pytest.mark.parametrize(
    ("images", "receive_limit", "taken"),
    [
        (False, 0, ("udp", "SYSTEM_DEFAULT")),
        (True, RECEIVE_BUFFER, ("udp", "SYSTEM_DEFAULT")),
        (True, RECEIVE_BUFFER - 1, ("shm", "LOCALHOST")),
    ],
)
def test_shared_memory_is_for_images_that_the_loopback_cannot_carry(
    profiles, before, asked, images, receive_limit, taken
):
    given = {PROFILE: str(profiles / f"fastdds_loopback_{before}.xml"), RANGE: asked}
    found = settings(given, images=images, receive_limit=receive_limit)
    profile, discovery_range = taken
    assert found == {
        PROFILE: str(profiles / f"fastdds_loopback_{profile}.xml"),
        RANGE: discovery_range,
        MARK: "1" if profile == "udp" else "",
    }


@pytest.mark.parametrize("images", [True, False])
def test_what_the_person_asked_for_is_left_as_it_is(profiles, images):
    def found(**given: str) -> dict[str, str]:
        return settings(given, images=images, receive_limit=RECEIVE_BUFFER)

    def left_as(discovery_range: str) -> dict[str, str]:
        return {RANGE: discovery_range, MARK: ""}

    ours, theirs = str(profiles / "fastdds_loopback_shm.xml"), str(profiles / "my_network.xml")
    assert found(**{PROFILE: ours, RANGE: "SUBNET"}) == left_as("SUBNET")
    assert found(**{PROFILE: theirs, RANGE: "SYSTEM_DEFAULT"}) == left_as("SYSTEM_DEFAULT")
    assert found(**{PROFILE: theirs}) == left_as("LOCALHOST")
    assert found() == left_as("LOCALHOST")
    other_middleware = {PROFILE: ours, "RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp"}
    assert found(**other_middleware) == left_as("LOCALHOST")
    (profiles / "fastdds_loopback_udp.xml").unlink()
    assert found(**{PROFILE: ours}) == left_as("LOCALHOST")


@pytest.mark.parametrize("lost", [{}, {PROFILE: "my_network.xml"}], ids=["none", "another"])
def test_what_a_parent_chose_for_our_profile_holds_for_no_other(lost):
    """Without the profile that range would be the whole network."""
    inherited = {RANGE: "SYSTEM_DEFAULT", MARK: "1"}
    found = settings(inherited | lost, images=True, receive_limit=RECEIVE_BUFFER)
    assert found == {RANGE: "LOCALHOST", MARK: ""}


def test_a_node_opens_the_loopback_only_and_no_shared_memory():
    shipped = {PROFILE: str(SHIPPED), RANGE: "LOCALHOST", "RMW_IMPLEMENTATION": "rmw_fastrtps_cpp"}
    with free_domain() as domain:
        variables = {"PYTHONPATH": os.pathsep.join(sys.path), "ROS_DOMAIN_ID": str(domain)}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, **variables, **shipped},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
    sockets = re.findall(r"socket (\w+) (\w+):", done)
    assert sockets
    assert set(sockets) == {("udp", "0100007F")}, done  # 127.0.0.1
    threads = re.findall(r"thread (\S+)", done)
    assert any(each.startswith("dds.udp") for each in threads)
    assert not any(each.startswith("dds.shm") for each in threads)
