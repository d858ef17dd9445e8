# SPDX-License-Identifier: Apache-2.0
"""Each package.xml names what its package imports, and nothing else."""

import ast
import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from environment import REPOSITORY

PACKAGES = ("rl100_sim", "rl100_bringup")
ROSDEP = {
    "matplotlib": "python3-matplotlib",
    "numpy": "python3-numpy",
    "pydantic": "python3-pydantic",
    "rich": "python3-rich",
    "scipy": "python3-scipy",
    "yaml": "python3-yaml",
}
"""Keys of modules whose key is not their own name."""
NOT_IMPORTED = {"rviz2", "example-robot-data"}
"""Needed as a program or as data."""


def imported(folder: Path) -> set[str]:
    """Top-level modules that the files below a folder import, less the standard library."""
    found = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add((node.module or "").partition(".")[0])
    return found - set(sys.stdlib_module_names)


@pytest.mark.parametrize("package", PACKAGES)
def test_dependencies_are_what_is_imported(package):
    folder = REPOSITORY / "src" / package
    text = (folder / "package.xml").read_text()
    keys = {item.text for item in ElementTree.fromstring(text).iter("exec_depend")}
    by_pip = re.search(r"installed by pip from requirements/: (.*?) *-->", text)[1].split(", ")
    modules = imported(folder / package) | imported(folder / "launch")
    needed = {ROSDEP.get(name, name) for name in modules - {package}}
    assert keys | set(by_pip) == needed | (NOT_IMPORTED & (keys | set(by_pip)))
