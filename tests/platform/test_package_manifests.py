# SPDX-License-Identifier: Apache-2.0
"""Each package.xml names what its package and its tests import, and nothing else."""

import ast
import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from environment import REPOSITORY

PACKAGES = ("rl100_policy", "rl100_learner", "rl100_sim", "rl100_bringup")
ROSDEP = {
    "PIL": "python3-pil",
    "hypothesis": "python3-hypothesis",
    "matplotlib": "python3-matplotlib",
    "numpy": "python3-numpy",
    "psutil": "python3-psutil",
    "pydantic": "python3-pydantic",
    "filelock": "python3-filelock",
    "pytest": "python3-pytest",
    "rich": "python3-rich",
    "scipy": "python3-scipy",
    "yaml": "python3-yaml",
}
"""Keys of modules whose key is not their own name."""
NOT_IMPORTED = {"rviz2", "example-robot-data", "tensorboard"}
"""Needed as a program, as data, or by another package (torch)."""


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


def declared(package: str, kind: str) -> set[str]:
    """Keys of a kind of dependency."""
    tree = ElementTree.parse(REPOSITORY / "src" / package / "package.xml")
    return {item.text for item in tree.iter(kind)}


def installed_by_pip(package: str) -> set[str]:
    """What the manifest says has no rosdep key; for running or for tests."""
    text = (REPOSITORY / "src" / package / "package.xml").read_text()
    listed = re.search(r"installed by pip from requirements/: (.*?) *-->", text)
    return set(listed[1].split(", "))


def needed(package: str, *folders: str) -> set[str]:
    """Keys of what some folders of a package import from elsewhere."""
    root = REPOSITORY / "src" / package
    own = {package, *(path.stem for path in (root / "test").glob("*.py"))}
    modules = set().union(*(imported(root / folder) for folder in folders))
    return {ROSDEP.get(name, name) for name in modules - own}


@pytest.mark.parametrize("package", PACKAGES)
def test_dependencies_are_what_is_imported(package):
    by_pip = installed_by_pip(package)
    found = needed(package, package, "launch")
    assert declared(package, "exec_depend") - NOT_IMPORTED == found - by_pip
    assert by_pip - NOT_IMPORTED <= found | needed(package, "test")


@pytest.mark.parametrize("package", PACKAGES)
def test_test_dependencies_are_what_only_tests_import(package):
    known = declared(package, "exec_depend") | installed_by_pip(package)
    assert declared(package, "test_depend") == needed(package, "test") - known
