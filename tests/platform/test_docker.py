# SPDX-License-Identifier: Apache-2.0
"""The container cannot be built in every place where the tests run; its text can be read."""

import re

import host
from environment import REPOSITORY

DOCKERFILE = (REPOSITORY / "docker/Dockerfile").read_text()


def test_what_it_copies_exists():
    copied = re.findall(r"^COPY --chown=\w+ (\S+) ", DOCKERFILE, re.MULTILINE)
    assert copied
    assert [name for name in copied if not (REPOSITORY / name).exists()] == []


def test_it_installs_what_the_host_check_asks_for_and_the_base_image_lacks():
    installed = set(re.search(r"no-install-recommends (.*?) *\\?\n", DOCKERFILE)[1].split())
    # Python is complete there; gcc comes with g++
    of_base_image = re.compile(r"python3\.\d+-|gcc$")
    asked = {need.package for need in host.needs() if not of_base_image.match(need.package)}
    assert installed == asked


def test_it_runs_as_an_ordinary_user():
    users = re.findall(r"^USER (\w+)", DOCKERFILE, re.MULTILINE)
    assert users == ["1000"]
    assert DOCKERFILE.index("\nUSER ") < DOCKERFILE.index("./rl100 setup")
