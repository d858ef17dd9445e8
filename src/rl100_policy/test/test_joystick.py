# SPDX-License-Identifier: Apache-2.0
"""Joysticks: axes to motion, buttons to presses."""

from pathlib import Path

import numpy as np
import pytest
from geometry_msgs.msg import TwistStamped
from rclpy.node import Node
from sensor_msgs.msg import Joy

from rl100_msgs.msg import GateStatus, OperatorEvent
from rl100_policy.core.errors import ConfigError
from rl100_policy.core.joystick import PROFILES, JoystickMap
from rl100_policy.core.messages import stamp_ns
from rl100_policy.core.presses import Press
from rl100_policy.nodes.joystick import JoystickNode
from rl100_policy.ros.conversions import header, twist_components
from rl100_policy.ros.qos import COMMAND, EVENT, LATCHED
from rl100_policy.ros.testing import isolated_ros, spinning

CONFIG = Path(__file__).parents[2] / "rl100_bringup" / "config"
FASTEST = np.array([0.2, 0.2, 0.1, 0.5, 0.5, 0.5])


def test_a_deflected_axis_moves_its_component_beyond_the_dead_zone():
    joystick = JoystickMap.parse(["linear.x=1", "angular.z=-0"], [], dead_zone=0.1)
    np.testing.assert_allclose(joystick.velocity([0.0, 1.0], [], FASTEST)[0], 0.2)
    np.testing.assert_allclose(joystick.velocity([0.0, 0.55], [], FASTEST)[0], 0.1)
    assert not joystick.velocity([0.09, -0.1], [], FASTEST).any()
    np.testing.assert_allclose(joystick.velocity([1.0, 0.0], [], FASTEST)[5], -0.5)


@pytest.mark.parametrize("axes", [[], [np.nan, np.inf], [0.0]])
def test_an_axis_that_is_missing_or_not_finite_moves_nothing(axes):
    joystick = JoystickMap.parse(["linear.x=0", "linear.y=1"], [])
    assert not joystick.velocity(axes, [], FASTEST).any()


def test_with_an_enable_button_the_arm_moves_only_while_it_is_held():
    joystick = JoystickMap.parse(["linear.x=0"], [], enable=2)
    assert not joystick.velocity([1.0], [0, 0, 0], FASTEST).any()
    assert not joystick.velocity([1.0], [0], FASTEST).any()
    assert joystick.velocity([1.0], [0, 0, 1], FASTEST).any()


def test_a_button_that_is_held_is_pressed_once():
    joystick = JoystickMap.parse([], ["success=0", "estop=1"])
    assert joystick.presses([0, 0], [1, 0]) == [Press.SUCCESS]
    assert joystick.presses([1, 0], [1, 0]) == []
    assert joystick.presses([1, 0], [1, 1]) == [Press.ESTOP]
    assert joystick.presses([], [0, 1]) == [Press.ESTOP]


@pytest.mark.parametrize(
    ("axes", "buttons", "told"),
    [
        (["linear.w=1"], [], "linear.x, linear.y"),
        (["linear.x"], [], "linear.x"),
        ([], ["win=0"], "next, success"),
        ([], ["success=-1"], "success=-1"),
        ([], ["success=0", "failure=0"], "two meanings"),
    ],
)
def test_a_map_that_cannot_be_is_refused_and_shown(axes, buttons, told):
    with pytest.raises(ConfigError, match=told):
        JoystickMap.parse(axes, buttons)


@pytest.mark.parametrize("profile", PROFILES)
def test_every_shipped_profile_is_a_map(profile):
    JoystickMap.parse(*PROFILES[profile])


class Bench(Node):
    """Joystick driver, gate and whoever listens."""

    def __init__(self) -> None:
        super().__init__("bench")
        self.joys = self.create_publisher(Joy, "joy", EVENT)
        self.gate = self.create_publisher(GateStatus, "gate/status", LATCHED)
        self.twists: list[np.ndarray] = []
        self.events: list[OperatorEvent] = []
        self.create_subscription(
            TwistStamped,
            "teleop/delta_twist_cmds",
            lambda twist: self.twists.append(twist_components(twist)),
            COMMAND,
        )
        self.create_subscription(OperatorEvent, "operator/event", self.events.append, EVENT)

    def joy(self, x: float, *buttons: int) -> None:
        self.joys.publish(Joy(header=header(77), axes=[0.0, x], buttons=list(buttons)))


@pytest.fixture
def rig():
    paths = {
        "robot_config": CONFIG / "robots" / "panda.yaml",
        "task_config": CONFIG / "tasks" / "push_t.yaml",
    }
    with isolated_ros(**paths):
        bench = Bench()
        with spinning(JoystickNode(), bench) as spin_until:
            assert spin_until(
                lambda: (
                    bench.joys.get_subscription_count()
                    and bench.gate.get_subscription_count()
                    and bench.count_publishers("operator/event")
                    and bench.count_publishers("teleop/delta_twist_cmds")
                )
            )
            yield bench, spin_until


@pytest.mark.ros
def test_the_stick_steers_only_while_the_person_is_in_command_and_is_silent_when_let_go(rig):
    bench, spin_until = rig
    bench.joy(1.0)
    spin_until(lambda: False, 0.3)
    assert bench.twists == []
    bench.gate.publish(GateStatus(source=1))
    spin_until(lambda: False, 0.2)
    bench.joy(1.0)
    assert spin_until(lambda: bool(bench.twists))
    np.testing.assert_allclose(bench.twists[-1], [0.25, 0, 0, 0, 0, 0])
    bench.joy(0.0)
    assert spin_until(lambda: not bench.twists[-1].any())
    spin_until(lambda: False, 0.6)
    heard = len(bench.twists)
    spin_until(lambda: False, 0.5)
    assert len(bench.twists) == heard


@pytest.mark.ros
def test_a_driver_that_dies_with_the_stick_deflected_stops_the_arm(rig):
    bench, spin_until = rig
    bench.gate.publish(GateStatus(source=1))
    spin_until(lambda: False, 0.2)
    bench.joy(1.0)
    assert spin_until(lambda: bool(bench.twists) and bench.twists[-1].any())
    assert spin_until(lambda: not bench.twists[-1].any(), 2.0)


@pytest.mark.ros
def test_a_button_is_an_event_with_the_time_of_its_message(rig):
    bench, spin_until = rig
    bench.joy(0.0, 1, 0)
    assert spin_until(lambda: bool(bench.events))
    event = bench.events[0]
    assert (event.kind, event.source) == (OperatorEvent.SUCCESS, "joystick")
    assert stamp_ns(event.header.stamp) == 77
