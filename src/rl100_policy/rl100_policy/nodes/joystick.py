# SPDX-License-Identifier: Apache-2.0
"""Joystick node: gamepads, SpaceMouse and whatever else publishes sensor_msgs/Joy.

In: ``joy`` Joy (EVENT) as joy_node and spacenav publish it; ``gate/status`` GateStatus (LATCHED).
Out: ``operator/event`` OperatorEvent (EVENT) for buttons, stamped as the Joy is;
``teleop/delta_twist_cmds`` TwistStamped (COMMAND) while the person is in command and an axis is
deflected, then zero for a moment; after that another device may steer; ``teleop/gripper_cmds``
Float64 (COMMAND). One callback group, single-threaded. A device that has not been heard of for
``timeout`` asks for nothing.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from geometry_msgs.msg import TwistStamped
from rclpy.clock import Clock, ClockType
from sensor_msgs.msg import Joy
from std_msgs.msg import Float64

from rl100_msgs.msg import GateStatus, OperatorEvent
from rl100_policy.core import messages
from rl100_policy.core.config import load_robot, load_task
from rl100_policy.core.errors import ConfigError
from rl100_policy.core.gate_result import CommandSource
from rl100_policy.core.joystick import PROFILES, JoystickMap, newly_pressed
from rl100_policy.core.presses import meant
from rl100_policy.ros.conversions import header, twist_message
from rl100_policy.ros.managed import ManagedNode
from rl100_policy.ros.parameters import parameter
from rl100_policy.ros.process import run_node
from rl100_policy.ros.qos import COMMAND, EVENT, LATCHED
from rl100_policy.ros.scheduling import PERSON
from rl100_policy.ros.teleop import GRIPPER_TOPIC, SETTLE_S, fastest_twist


@dataclass(frozen=True)
class JoystickParameters:
    """Parameters of the joystick node."""

    robot_config: str = parameter("", "path of the robot description (YAML)")
    task_config: str = parameter("", "path of the task description (YAML)")
    profile: str = parameter("gamepad", "meaning of axes and buttons: gamepad, spacemouse, custom")
    axes: Sequence[str] = parameter(
        [""], "'<component of a twist>=[-]<axis>' each; empty: those of the profile"
    )
    buttons: Sequence[str] = parameter(
        [""], "'<press>=<button>' each; empty: those of the profile"
    )
    enable_button: int = parameter(
        -1, "button that must be held to move the arm; -1: none", low=-1, high=63
    )
    gripper_button: int = parameter(
        -1, "button that opens and closes the gripper; -1: none", low=-1, high=63
    )
    dead_zone: float = parameter(0.1, "deflection that counts as none", low=0.0, high=0.9)
    speed: float = parameter(
        1.0, "share of the task's largest velocity at full deflection", low=0.01, high=1.0
    )
    timeout: float = parameter(
        0.2,
        "a device not heard of for this long asks for nothing [s]; drivers repeat a deflection "
        "that does not change (autorepeat_rate of joy_node, 20 Hz)",
        low=0.05,
        high=10.0,
    )


class JoystickNode(ManagedNode[JoystickParameters]):
    """Shell around :class:`rl100_policy.core.joystick.JoystickMap`."""

    usual_priority = PERSON

    def __init__(self) -> None:
        """Read the parameters."""
        super().__init__("joystick", JoystickParameters)

    def set_up(self) -> None:
        """Subscribe."""
        p = self.parameters
        robot, task = load_robot(p.robot_config), load_task(p.task_config)
        if p.profile not in PROFILES:
            raise ConfigError(f"profile must be one of {list(PROFILES)}, got {p.profile!r}")
        axes, buttons = PROFILES[p.profile]
        self._map = JoystickMap.parse(
            [each for each in p.axes if each] or axes,
            [each for each in p.buttons if each] or buttons,
            enable=p.enable_button,
            dead_zone=p.dead_zone,
        )
        self._base = robot.base_frame
        self._fastest = p.speed * fastest_twist(task)
        self._joy, self._heard_s, self._moved_s = Joy(), 0.0, -SETTLE_S
        self._in_command, self._opening = False, 1.0
        self._events = self.create_publisher(OperatorEvent, "operator/event", EVENT)
        self._twists = self.create_publisher(TwistStamped, "teleop/delta_twist_cmds", COMMAND)
        self._grippers = self.create_publisher(Float64, GRIPPER_TOPIC, COMMAND)
        self.create_subscription(Joy, "joy", self._on_joy, EVENT)
        self.create_subscription(GateStatus, "gate/status", self._on_gate, LATCHED)
        period = min(0.05, robot.control_period / 2)
        self.create_timer(period, self._steer, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _on_gate(self, status: GateStatus) -> None:
        self._in_command = status.source == CommandSource.TELEOP and not status.estop

    def _on_joy(self, joy: Joy) -> None:
        before, self._joy, self._heard_s = self._joy, joy, time.monotonic()
        stamp_ns = messages.stamp_ns(joy.header.stamp) or self.get_clock().now().nanoseconds
        for press in self._map.presses(before.buttons, joy.buttons):
            self._events.publish(
                OperatorEvent(
                    header=header(stamp_ns),
                    kind=int(meant(press, in_command=self._in_command)),
                    source="joystick",
                )
            )
        button = self.parameters.gripper_button
        if button >= 0 and newly_pressed(button, before.buttons, joy.buttons):
            self._opening = 1.0 - self._opening
            self._grippers.publish(Float64(data=self._opening))
        self._steer()

    def _steer(self) -> None:
        if not self._in_command:
            return
        now_s, twist = time.monotonic(), np.zeros_like(self._fastest)
        if now_s - self._heard_s <= self.parameters.timeout:
            twist = self._map.velocity(self._joy.axes, self._joy.buttons, self._fastest)
        if twist.any():
            self._moved_s = now_s
        if now_s - self._moved_s <= SETTLE_S:
            stamp_ns = self.get_clock().now().nanoseconds
            self._twists.publish(twist_message(twist, stamp_ns, self._base))


def main(args: Sequence[str] | None = None) -> int:
    """Run the node."""
    return run_node(JoystickNode, args, images=False)


if __name__ == "__main__":
    sys.exit(main())
