# SPDX-License-Identifier: Apache-2.0
"""Kinematics of arms that are not the shipped one: continuous joints, in any place."""

from pathlib import Path

import numpy as np
import pytest

from rl100_policy.core.config import load_robot
from rl100_policy.core.errors import ConfigError
from rl100_policy.core.kinematics import ArmKinematics

CONFIG = Path(__file__).parents[2] / "rl100_bringup" / "config"

LINKS = "".join(f'<link name="link_{n}"/>' for n in range(4))


def joint(number: int, kind: str) -> str:
    limit = '<limit lower="-2" upper="2" velocity="1.5" effort="9"/>'
    return (
        f'<joint name="joint_{number}" type="{kind}"><parent link="link_{number - 1}"/>'
        f'<child link="link_{number}"/><origin xyz="0.3 0 0"/><axis xyz="0 0 1"/>{limit}</joint>'
    )


def arm(tmp_path, kinds):
    """A planar arm of three links of 0.3 m, whose first joint is 0.3 m from the base."""
    joints = "".join(joint(number + 1, kind) for number, kind in enumerate(kinds))
    (tmp_path / "arm.urdf").write_text(f'<robot name="planar">{LINKS}{joints}</robot>')
    panda = load_robot(CONFIG / "robots" / "panda.yaml")
    return panda.model_copy(
        update={
            "urdf": str(tmp_path / "arm.urdf"),
            "base_frame": "link_0",
            "joints": ("joint_1", "joint_2", "joint_3"),
            "locked_joints": {},
            "home": (0.0, 0.0, 0.0),
            "acceleration_limits": (1.0, 1.0, 1.0),
            "jerk_limits": (1e3, 1e3, 1e3),
            "tool": panda.tool.model_copy(
                update={"parent": "link_3", "xyz": (0.3, 0.0, 0.0), "rpy": (0.0, 0.0, 0.0)}
            ),
        }
    )


def tip(q):
    angles = np.cumsum(q)
    return np.array([0.3 + 0.3 * np.cos(angles).sum(), 0.3 * np.sin(angles).sum(), 0.0])


PLACES = [
    ("revolute", "revolute", "continuous"),
    ("continuous", "revolute", "revolute"),
    ("continuous", "continuous", "continuous"),
]


@pytest.mark.parametrize("kinds", PLACES)
def test_the_tip_of_an_arm_with_continuous_joints_is_where_geometry_says(tmp_path, kinds):
    kinematics = ArmKinematics(arm(tmp_path, kinds))
    for q in ([0.3, -0.5, 1.0], [-1.2, 0.4, 0.9]):
        np.testing.assert_allclose(kinematics.tool_position(np.array(q)), tip(q), atol=1e-12)


@pytest.mark.parametrize("kinds", PLACES)
def test_inverse_kinematics_moves_continuous_joints_too(tmp_path, kinds):
    kinematics = ArmKinematics(arm(tmp_path, kinds))
    start = np.array([0.2, 0.5, -0.4])
    target = kinematics.tool_pose(start + np.array([0.02, -0.03, 0.01]))
    q, error = kinematics.solve(target, start)
    assert error < 1e-5
    np.testing.assert_allclose(kinematics.tool_pose(q), target, atol=1e-5)


def test_an_arm_whose_joints_may_not_move_is_refused(tmp_path):
    robot = arm(tmp_path, ["revolute"] * 3)
    file = tmp_path / "arm.urdf"
    file.write_text(file.read_text().replace('velocity="1.5"', 'velocity="0"', 1))
    with pytest.raises(ConfigError, match=r"joints \['joint_1'\] .* velocity limit of 0"):
        ArmKinematics(robot)


def test_the_reach_is_no_less_than_the_farthest_that_the_tip_can_be(tmp_path):
    kinematics = ArmKinematics(arm(tmp_path, ["revolute"] * 3))
    assert kinematics.reach >= np.linalg.norm(kinematics.tool_position(np.zeros(3))) - 1e-9


@pytest.mark.parametrize("count", [1, 2, 4])
def test_another_number_of_joint_positions_is_refused(tmp_path, count):
    kinematics = ArmKinematics(arm(tmp_path, PLACES[0]))
    with pytest.raises(ValueError, match=f"3 joint positions, got {count}"):
        kinematics.tool_pose(np.zeros(count))


def test_a_continuous_joint_has_no_position_limit_but_a_velocity_limit(tmp_path):
    kinematics = ArmKinematics(arm(tmp_path, ("revolute", "continuous", "revolute")))
    np.testing.assert_allclose(kinematics.position_upper, [1.98, np.inf, 1.98])
    np.testing.assert_allclose(kinematics.velocity_limits, 1.5)


def test_a_locked_continuous_joint_stays_where_it_is_locked(tmp_path):
    robot = arm(tmp_path, ("revolute", "continuous", "revolute")).model_copy(
        update={
            "joints": ("joint_1", "joint_3"),
            "locked_joints": {"joint_2": 0.7},
            "home": (0.0, 0.0),
            "acceleration_limits": (1.0, 1.0),
            "jerk_limits": (1e3, 1e3),
        }
    )
    position = ArmKinematics(robot).tool_position(np.array([0.1, 0.2]))
    np.testing.assert_allclose(position, tip([0.1, 0.7, 0.2]), atol=1e-12)
