# SPDX-License-Identifier: Apache-2.0
"""Joint velocities that a person asks for, whichever message type the device speaks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.node import Node
from sensor_msgs.msg import JointState

from rl100_policy.core import messages
from rl100_policy.ros.qos import COMMAND

Floats = NDArray[np.float64]

JOINT_TOPIC = "teleop/joint_cmds"
JOG_TOPIC = "teleop/delta_joint_cmds"


def jog_velocities(names: Sequence[str], values: Sequence[float], joints: Sequence[str]) -> Floats:
    """Velocities of all joints, [n], from those that are named; the others rest.

    Raises:
        ValueError: If a name is unknown or named twice, or there are not as many values as names.
    """
    unknown = [name for name in names if name not in joints]
    if unknown or len(set(names)) < len(names) or len(names) != len(values):
        raise ValueError(
            f"expected one velocity for each of some of the joints {list(joints)}, got "
            f"{len(values)} for {list(names)}"
        )
    asked = dict(zip(names, values, strict=True))
    return np.array([asked.get(joint, 0.0) for joint in joints])


def subscribe_joint_jogs(
    node: Node,
    joints: Sequence[str],
    on_jog: Callable[[int, Floats], None],
    on_refused: Callable[[str], None],
) -> None:
    """Listen to a person who moves single joints.

    ``teleop/joint_cmds`` takes JointState with velocities [rad/s], a message that every ROS has;
    ``teleop/delta_joint_cmds`` control_msgs/JointJog as MoveIt Servo does, where control_msgs is
    installed.

    Args:
        node: Who listens.
        joints: Joints of the arm, in order.
        on_jog: Gets stamp [ns] and velocities, [n], rad/s, in the order of ``joints``.
        on_refused: Gets what is wrong with a message.
    """

    def take(stamp: Any, names: Sequence[str], values: Sequence[float]) -> None:
        try:
            velocities = jog_velocities(names, values, joints)
        except ValueError as error:
            on_refused(f"joint teleop command: {error}")
            return
        on_jog(messages.stamp_ns(stamp), velocities)

    def on_joint_state(message: Any) -> None:
        take(message.header.stamp, message.name, message.velocity)

    node.create_subscription(JointState, JOINT_TOPIC, on_joint_state, COMMAND)
    try:
        from control_msgs.msg import JointJog
    except ImportError:
        return  # comes with a ROS installation, not with the wheels

    def on_joint_jog(message: Any) -> None:
        take(message.header.stamp, message.joint_names, message.velocities)

    node.create_subscription(JointJog, JOG_TOPIC, on_joint_jog, COMMAND)
