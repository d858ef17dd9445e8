# SPDX-License-Identifier: Apache-2.0
"""A package manifest names what the package imports, and nothing else."""

import ast
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

import pytest

SOURCE = Path(__file__).parents[1] / "src"
PACKAGES = ["rl100_policy", "rl100_learner"]
ROSDEP = {
    "numpy": "python3-numpy",
    "scipy": "python3-scipy",
    "pydantic": "python3-pydantic",
    "yaml": "python3-yaml",
    "pytest": "python3-pytest",
    "hypothesis": "python3-hypothesis",
}
"""Import names whose rosdep key is another."""
INDIRECT = {"tensorboard"}
"""Named by a manifest because another package of it imports it: torch.utils.tensorboard."""


def imported(files: Iterable[Path]) -> set[str]:
    """First parts of the names of all modules imported, but those of Python."""
    found = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found - sys.stdlib_module_names


def declared(package: str) -> tuple[set[str], set[str], set[str]]:
    """Keys for running, keys for tests, and modules that come by pip."""
    path = SOURCE / package / "package.xml"
    tree = ElementTree.parse(path)
    run, test = (
        {item.text or "" for item in tree.iter(kind)} for kind in ("exec_depend", "test_depend")
    )
    by_pip = re.search(r"installed by pip from requirements/: ([\w, ]+) -->", path.read_text())
    assert by_pip is not None, f"{path} should list what is installed by pip"
    return run, test, set(by_pip[1].split(", "))


def keys(modules: set[str]) -> set[str]:
    return {ROSDEP.get(module, module) for module in modules}


@pytest.mark.parametrize("package", PACKAGES)
def test_what_a_package_imports_is_in_its_manifest_and_the_reverse(package):
    run, _, by_pip = declared(package)
    needed = imported((SOURCE / package / package).rglob("*.py")) - {package}
    of_tests = imported((SOURCE / package / "test").rglob("*.py"))
    assert keys(needed - by_pip) == run
    assert by_pip - INDIRECT <= needed | of_tests


@pytest.mark.parametrize("package", PACKAGES)
def test_what_tests_import_besides_is_a_test_dependency_and_the_reverse(package):
    run, test, by_pip = declared(package)
    folder = SOURCE / package / "test"
    own = {package, *(path.stem for path in folder.glob("*.py"))}
    assert keys(imported(folder.rglob("*.py")) - own - by_pip) - run == test
