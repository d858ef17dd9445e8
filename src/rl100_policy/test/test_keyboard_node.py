# SPDX-License-Identifier: Apache-2.0
"""The keyboard node in a process of its own, under a pseudo-terminal that types the keys."""

import os
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import numpy as np
import pytest
from geometry_msgs.msg import TwistStamped
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64

from rl100_msgs.msg import GateStatus, OperatorEvent, OperatorState
from rl100_policy.core.key_motion import SCALES
from rl100_policy.core.messages import stamp_ns
from rl100_policy.ros.conversions import twist_components
from rl100_policy.ros.pseudo_terminal import PseudoTerminal
from rl100_policy.ros.qos import COMMAND, EVENT, LATCHED
from rl100_policy.ros.testing import isolated_ros, spinning

pytestmark = pytest.mark.ros

CONFIG = Path(__file__).parents[2] / "rl100_bringup" / "config"
PERIOD_S = 0.1
COMMAND_LINE = [
    sys.executable, "-m", "rl100_policy.nodes.keyboard", "--ros-args",
    "-p", f"robot_config:={CONFIG / 'robots' / 'panda.yaml'}",
    "-p", f"task_config:={CONFIG / 'tasks' / 'push_t.yaml'}",
]  # fmt: skip


class Bench(Node):
    """Gate, episode flow and whoever listens."""

    def __init__(self) -> None:
        super().__init__("bench")
        self.gate = self.create_publisher(GateStatus, "gate/status", LATCHED)
        self.flow = self.create_publisher(OperatorState, "operator/state", LATCHED)
        self.events: list[OperatorEvent] = []
        self.twists: list[tuple[float, np.ndarray]] = []
        self.jogs: list[JointState] = []
        self.create_subscription(OperatorEvent, "operator/event", self.events.append, EVENT)
        self.create_subscription(JointState, "teleop/joint_cmds", self.jogs.append, COMMAND)
        self.create_subscription(
            TwistStamped,
            "teleop/delta_twist_cmds",
            lambda twist: self.twists.append((time.monotonic(), twist_components(twist))),
            COMMAND,
        )


class Person:
    """Types into the terminal of a keyboard node and reads its screen."""

    def __init__(self, bench: Bench, spin_until, terminal: PseudoTerminal) -> None:
        self.bench, self.spin_until, self.terminal = bench, spin_until, terminal
        self.type = terminal.type

    @property
    def shown(self) -> bytes:
        return self.terminal.look()

    def until(self, condition, timeout_s=20.0) -> bool:
        def looking():
            self.terminal.look()
            return condition()

        return self.spin_until(looking, timeout_s)

    def pressed(self, kind: int) -> bool:
        return any(each.kind == kind for each in self.bench.events)

    def hold(self, key: bytes, seconds: float, every=0.03) -> None:
        """As a terminal repeats a key that is held."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.type(key)
            self.until(lambda: False, every)


@pytest.fixture
def person():
    with isolated_ros():
        bench = Bench()
        domain = {"ROS_DOMAIN_ID": str(bench.context.get_domain_id())}
        with (
            spinning(bench) as spin_until,
            PseudoTerminal(COMMAND_LINE, domain) as terminal,
        ):
            person = Person(bench, spin_until, terminal)
            assert person.until(
                lambda: (
                    bench.gate.get_subscription_count()
                    and bench.count_publishers("operator/event")
                ),
                60.0,
            ), person.shown[-2000:].decode(errors="replace")
            person.until(lambda: False, 0.3)
            yield person


def give(person: Person, source: int) -> None:
    person.bench.gate.publish(GateStatus(source=source))
    person.until(lambda: False, 0.3)


def test_presses_are_events_stamped_when_the_key_was_pressed(person):
    before = time.time_ns()
    person.type(b"s")
    assert person.until(lambda: bool(person.bench.events))
    event = person.bench.events[0]
    assert (event.kind, event.source) == (OperatorEvent.SUCCESS, "keyboard")
    assert before <= stamp_ns(event.header.stamp) < before + 150_000_000


def test_a_held_press_is_one_and_an_emergency_stop_counts_every_time(person):
    person.hold(b"f", 0.6)
    person.type(b"xx")
    person.until(lambda: len(person.bench.events) >= 3)
    person.until(lambda: False, 0.2)
    kinds = [event.kind for event in person.bench.events]
    assert kinds == [OperatorEvent.FAILURE, OperatorEvent.ESTOP, OperatorEvent.ESTOP]


def kinds(person: Person) -> list[int]:
    person.until(lambda: False, 0.3)
    return [event.kind for event in person.bench.events]


def test_a_held_takeover_never_hands_back(person):
    give(person, 2)
    person.type(b"t")
    assert kinds(person) == [OperatorEvent.TAKE_OVER]
    give(person, 1)
    person.hold(b"t", 0.5)
    assert kinds(person) == [OperatorEvent.TAKE_OVER]
    person.until(lambda: False, 0.9)
    person.type(b"t")
    assert kinds(person) == [OperatorEvent.TAKE_OVER, OperatorEvent.HAND_BACK]


def test_two_panicked_presses_never_give_the_arm_back_to_the_policy(person):
    """Regression: the second one handed back what the first had taken."""
    give(person, 2)
    person.type(b"tt")
    assert set(kinds(person)) == {OperatorEvent.TAKE_OVER}


def test_letting_go_of_a_key_is_no_press(person):
    """Regression: that of ``t`` took over again what its press had handed back."""
    person.type(b"\x1b[?15u")
    give(person, 1)
    person.type(b"\x1b[116;1:1u")
    person.until(lambda: False, 0.1)
    give(person, 2)
    person.type(b"\x1b[116;1:3u")
    assert kinds(person) == [OperatorEvent.HAND_BACK]
    person.type(b"\x1b[120;1:1u\x1b[120;1:3u")
    assert kinds(person) == [OperatorEvent.HAND_BACK, OperatorEvent.ESTOP]


def test_a_held_arrow_steers_and_letting_go_stops_within_two_control_periods(person):
    person.type(b"\x1b[A")
    person.until(lambda: False, 0.3)
    assert not person.bench.twists, "nobody is in command"
    give(person, 1)
    person.hold(b"\x1b[A", 0.5)
    released = time.monotonic()
    person.until(lambda: False, 0.6)
    moving = [at for at, twist in person.bench.twists if twist.any()]
    np.testing.assert_allclose(
        next(twist for _, twist in person.bench.twists if twist.any())[0], 0.25 * SCALES[2]
    )
    assert max(moving) < released + PERIOD_S, "so the next period but one is told to stop"
    assert not person.bench.twists[-1][1].any()
    heard = len(person.bench.twists)
    person.until(lambda: False, 0.5)
    assert len(person.bench.twists) == heard, "another device may steer now"


def test_where_the_terminal_tells_releases_they_count(person):
    give(person, 1)
    person.type(b"\x1b[?11u")
    person.until(lambda: False, 0.1)
    person.type(b"\x1b[1;1:1A")
    assert person.until(lambda: bool(person.bench.twists))
    person.until(lambda: False, 0.4)
    assert person.bench.twists[-1][1][0] > 0, "held until its first repeat"
    person.type(b"\x1b[1;1:3A")
    assert person.until(lambda: not person.bench.twists[-1][1].any(), 0.5)


def test_in_joint_mode_the_chosen_joint_turns(person):
    give(person, 1)
    person.type(b"m")
    person.type(b"4")
    person.hold(b"\x1b[A", 0.3)
    assert person.until(lambda: bool(person.bench.jogs))
    moved = np.array(person.bench.jogs[0].velocity)
    assert moved[3] > 0
    assert np.count_nonzero(moved) == 1


def test_the_screen_tells_state_counts_keys_and_topics(person):
    told = OperatorState(state=OperatorState.RECORDING, driver="policy", successes=3, wanted=5)
    told.message, told.seconds_left = "the policy drives", 7.0
    person.bench.flow.publish(told)
    assert person.until(lambda: b"RECORDING" in person.shown and b"3 success" in person.shown)
    assert b"7 s left" in person.shown


def test_the_terminal_is_left_as_it_was(person):
    terminal = person.terminal.descriptor
    assert not termios.tcgetattr(terminal)[3] & termios.ECHO
    os.kill(person.terminal.pid, signal.SIGTERM)
    assert person.terminal.exit_status(10.0) == 0
    assert termios.tcgetattr(terminal)[3] & termios.ECHO
    assert b"\x1b[?1049l" in person.shown
    assert b"Traceback" not in person.shown


def test_the_end_of_the_session_ends_the_node(person):
    person.bench.flow.publish(OperatorState(state=OperatorState.REVIEW))
    person.until(lambda: False, 0.2)
    person.bench.flow.publish(OperatorState(state=OperatorState.OVER))
    person.until(lambda: False, 0.2)
    assert person.terminal.exit_status(10.0) == 0


def test_a_session_that_was_over_before_does_not_end_the_node(person):
    """Regression: under `up` no keyboard could be started after the first had quit."""
    over = OperatorState(state=OperatorState.OVER, message="over before")
    person.bench.flow.publish(over)
    assert person.until(lambda: b"over before" in person.shown)
    person.type(b" ")
    assert person.until(lambda: person.pressed(OperatorEvent.NEXT))
    person.type(b"q")
    assert person.until(lambda: person.pressed(OperatorEvent.QUIT))
    person.bench.flow.publish(over)
    person.until(lambda: False, 0.2)
    assert person.terminal.exit_status(10.0) == 0


def test_a_robot_without_a_gripper_says_so(person):
    grippers: list[Float64] = []
    person.bench.create_subscription(Float64, "teleop/gripper_cmds", grippers.append, COMMAND)
    person.type(b"g")
    assert person.until(lambda: b"description has no" in person.shown)  # it may go on below
    assert grippers == []


def test_without_a_terminal_the_node_says_what_to_do():
    run = subprocess.run(
        COMMAND_LINE, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
        start_new_session=True, check=False,
    )  # fmt: skip
    assert run.returncode == 2
    assert "ssh -t" in run.stderr
    assert "operator/*" in run.stderr
    assert "Traceback" not in run.stderr
