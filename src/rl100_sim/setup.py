# SPDX-License-Identifier: Apache-2.0
"""Installs rl100_sim: the simulated robot and the scripted operator."""

from setuptools import find_packages, setup

NAME = "rl100_sim"

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
    description="MuJoCo tasks, the simulated robot node and the scripted operator.",
    license="Apache-2.0",
    entry_points={
        "console_scripts": [
            "scripted_operator = rl100_sim.nodes.scripted_operator:main",
            "sim_robot = rl100_sim.nodes.sim_robot:main",
        ],
    },
)
