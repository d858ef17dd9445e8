# SPDX-License-Identifier: Apache-2.0
"""Installs rl100_learner: what trains."""

from setuptools import find_packages, setup

NAME = "rl100_learner"

setup(
    name=NAME,
    version="0.1.0",
    packages=find_packages(exclude=["test"]),
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
    ],
    install_requires=["setuptools"],
    extras_require={"test": ["pytest"]},
    zip_safe=True,
    maintainer="RL-100 for ROS 2 maintainers",
    maintainer_email="maintainers@rl100.invalid",
    description="What trains: from episode bags to policy versions.",
    license="Apache-2.0",
    entry_points={
        "console_scripts": [
            "learner = rl100_learner.node:main",
        ],
    },
)
