# SPDX-License-Identifier: Apache-2.0
"""Installs rl100_bringup: launch files, configuration and the rl100 command."""

from pathlib import Path

from setuptools import find_packages, setup

NAME = "rl100_bringup"


def files(pattern: str) -> list[str]:
    """Paths, relative to this folder, of the files that match a pattern."""
    return sorted(str(path) for path in Path().glob(pattern))


setup(
    name=NAME,
    version="0.1.0",
    packages=find_packages(exclude=["test"]),
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/launch", files("launch/*.launch.py")),
        (f"share/{NAME}/rviz", files("rviz/*.rviz")),
        (f"share/{NAME}/config/robots", files("config/robots/*.yaml")),
        (f"share/{NAME}/config/tasks", files("config/tasks/*.yaml")),
        (f"share/{NAME}/config/mappings", files("config/mappings/*.yaml")),
    ],
    install_requires=["setuptools"],
    extras_require={"test": ["pytest"]},
    zip_safe=True,
    maintainer="RL-100 for ROS 2 maintainers",
    maintainer_email="maintainers@rl100.invalid",
    description="Launch files, robot and task configuration, and the rl100 command.",
    license="Apache-2.0",
    entry_points={"console_scripts": ["rl100 = rl100_bringup.cli.app:main"]},
)
