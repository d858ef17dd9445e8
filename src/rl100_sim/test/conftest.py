# SPDX-License-Identifier: Apache-2.0
"""The robot and the task of the repository's own configuration, for the tests of the simulator."""

from pathlib import Path

import pytest

from rl100_policy.core.config import RobotConfig, TaskConfig, load_robot, load_task

_CONFIG = Path(__file__).parents[2] / "rl100_bringup" / "config"


@pytest.fixture(scope="session")
def robot() -> RobotConfig:
    return load_robot(_CONFIG / "robots" / "panda.yaml")


@pytest.fixture(scope="session")
def task() -> TaskConfig:
    return load_task(_CONFIG / "tasks" / "push_t.yaml")


@pytest.fixture(scope="session")
def seeing_robot() -> RobotConfig:
    """The same arm with a colour camera."""
    return load_robot(_CONFIG / "robots" / "panda_rgb.yaml")


@pytest.fixture(scope="session")
def image_task() -> TaskConfig:
    return load_task(_CONFIG / "tasks" / "push_t_rgb.yaml")


@pytest.fixture(scope="session")
def joint_task() -> TaskConfig:
    """Actions are joint velocities."""
    return load_task(_CONFIG / "tasks" / "push_t_joint.yaml")


@pytest.fixture(scope="session")
def state_task() -> TaskConfig:
    return load_task(_CONFIG / "tasks" / "push_t_state.yaml")
