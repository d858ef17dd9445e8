# SPDX-License-Identifier: Apache-2.0
"""Installs rl100_policy: what runs on the robot."""

from setuptools import find_packages, setup

NAME = "rl100_policy"

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
    description="What runs on the robot: clouds, policy, command gate, recorder.",
    license="Apache-2.0",
    entry_points={
        "console_scripts": [
            "cloud = rl100_policy.nodes.cloud:main",
            "command_gate = rl100_policy.nodes.command_gate:main",
            "episode_flow = rl100_policy.nodes.episode_flow:main",
            "joystick = rl100_policy.nodes.joystick:main",
            "keyboard = rl100_policy.nodes.keyboard:main",
            "latency = rl100_policy.nodes.latency:main",
            "policy = rl100_policy.nodes.policy:main",
            "recorder = rl100_policy.nodes.recorder:main",
        ],
    },
)
