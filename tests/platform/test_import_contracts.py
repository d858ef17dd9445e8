# SPDX-License-Identifier: Apache-2.0
"""The import contracts hold, and each of them would notice a breach."""

import os
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

from environment import REPOSITORY

LAYOUT = {
    "rl100_policy": ["core", "bags", "ros", "nodes"],
    "rl100_learner": ["objectives", "data", "training", "node"],
    "rl100_sim": ["tasks", "nodes"],
    "rl100_bringup": ["cli"],
}
ALLOWED = {
    "rl100_policy.bags": ["rl100_policy.core", "rosbags", "mcap"],
    "rl100_policy.ros": ["rl100_policy.core", "rclpy", "sensor_msgs"],
    "rl100_policy.nodes": ["rl100_policy.ros", "rclpy"],
    "rl100_learner.data": ["rl100_policy.core", "rl100_policy.bags"],
    "rl100_learner.node": ["rclpy", "rl100_policy.ros", "rl100_learner.training"],
    "rl100_sim.tasks": ["rl100_policy.core"],
    "rl100_sim.nodes": ["rl100_sim.tasks", "rl100_policy.ros", "rclpy"],
    "rl100_bringup.cli": ["rl100_learner", "rl100_sim", "rl100_policy.nodes", "rclpy"],
}
BREACHES = [
    ("rl100_policy.core", "rclpy"),
    ("rl100_policy.core", "sensor_msgs.msg"),
    ("rl100_policy.core", "rosbags"),
    ("rl100_policy.core", "rl100_policy.bags"),
    ("rl100_policy.core", "rl100_learner"),
    ("rl100_policy.bags", "rclpy"),
    ("rl100_policy.bags", "rl100_policy.ros"),
    ("rl100_policy.ros", "rl100_policy.nodes"),
    ("rl100_policy.nodes", "rl100_sim"),
    ("rl100_learner.training", "rclpy"),
    ("rl100_learner.training", "rl100_policy.ros"),
    ("rl100_learner.training", "rl100_sim.tasks"),
    ("rl100_learner.node", "rl100_policy.nodes"),
    ("rl100_sim.tasks", "rclpy"),
    ("rl100_sim.tasks", "rl100_policy.ros"),
    ("rl100_sim.nodes", "rl100_learner"),
]


OUTSIDE = {
    "rl100_policy.core": {
        "coal", "fpsample", "numpy", "pinocchio", "pydantic", "rich", "safetensors", "scipy",
        "torch", "torchvision", "yaml",
    },
    "rl100_policy.bags": {"mcap", "numpy", "pydantic", "rosbags", "yaml", "zstandard"},
    "rl100_learner": {
        "PIL", "filelock", "numpy", "pyarrow", "pydantic", "safetensors", "torch", "yaml",
    },
    "rl100_sim": {"gymnasium", "metaworld", "mujoco", "numpy", "scipy"},
}  # fmt: skip
"""All that the rooms without ROS import from outside the project. The contracts forbid those
packages of ROS that they name; this also finds the ones that nobody thought of."""


def lint_imports(folder: Path, *sources: Path) -> subprocess.CompletedProcess:
    program = "from importlinter.cli import lint_imports_command as run; run()"
    search = os.environ.get("PYTHONPATH", "")
    return subprocess.run(
        [sys.executable, "-c", program, "--config", REPOSITORY / "pyproject.toml", "--no-cache"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([*map(str, sources), search])},
        capture_output=True,
        text=True,
        check=False,
    )


def write_packages(folder: Path, imports: dict[str, list[str]]) -> None:
    for package, modules in LAYOUT.items():
        for name in ("", *modules):
            path = folder / package / name
            path.mkdir(parents=True, exist_ok=True)
            wanted = imports.get(f"{package}.{name}", [])
            lines = "".join(f"import {module}\n" for module in wanted)
            (path / "__init__.py").write_text(lines)


def test_the_packages_keep_the_contracts(tmp_path):
    sources = [path for path in (REPOSITORY / "src").iterdir() if path.is_dir()]
    outcome = lint_imports(tmp_path, *sources)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


def test_what_the_design_allows_is_allowed(tmp_path):
    write_packages(tmp_path, ALLOWED)
    outcome = lint_imports(tmp_path, tmp_path)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


@pytest.mark.parametrize(("importer", "imported"), BREACHES, ids=" imports ".join)
def test_a_breach_is_found(tmp_path, importer, imported):
    write_packages(tmp_path, {importer: [imported]})
    outcome = lint_imports(tmp_path, tmp_path)
    assert outcome.returncode == 1
    # "A is not allowed to import B", and below it the import with its line number
    assert "is not allowed to import" in outcome.stdout, outcome.stdout + outcome.stderr
    assert f"{importer} -> {imported.removesuffix('.msg')} (l.1)" in outcome.stdout


@pytest.mark.parametrize("room", OUTSIDE)
def test_a_room_without_ros_imports_known_libraries_only(room):
    packages = ("rl100_policy", "rl100_learner", "rl100_sim")
    graph = grimp.build_graph(*packages, include_external_packages=True)
    modules = {
        module
        for module in {room, *graph.find_descendants(room)}
        if not {"nodes", "node"} & set(module.split("."))
    }
    assert len(modules) > 5
    found = set().union(*map(graph.find_modules_directly_imported_by, modules))
    tops = {module.partition(".")[0] for module in found}
    assert tops - {*packages, *sys.stdlib_module_names} == OUTSIDE[room]
