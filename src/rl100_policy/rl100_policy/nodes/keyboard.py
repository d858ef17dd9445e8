# SPDX-License-Identifier: Apache-2.0
"""Keyboard node: the terminal of the person at the robot.

In, for the screen: ``operator/state`` OperatorState, ``gate/status`` GateStatus,
``episode/state`` EpisodeState, ``policy/status`` PolicyStatus (LATCHED), ``joint_states``
JointState and ``policy/cloud`` PointCloud2 (SENSOR_LATEST), a Marker on ``outline`` (LATCHED).
Out: ``operator/event`` OperatorEvent (EVENT) for every press; ``teleop/delta_twist_cmds``
TwistStamped or, in joint mode, ``teleop/joint_cmds`` JointState with velocities (COMMAND) while
the person is in command and a motion key is held, then zero for a moment; after that another
device may steer. ``teleop/gripper_cmds`` Float64 (COMMAND).

Keys are read from ``/dev/tty``: it works over SSH and without a window system; start the node in a
terminal, not from a launch file. A key that is let go of stops the arm: at once where the terminal
tells releases, otherwise ``lease`` after its last repeat.

Threads: one reads the keys, stamps them and publishes presses at once, the executor's does the
rest. The screen is drawn four times a second.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from geometry_msgs.msg import TwistStamped
from numpy.typing import NDArray
from rclpy.clock import Clock, ClockType
from rich.console import Console
from rich.live import Live
from sensor_msgs.msg import JointState, PointCloud2
from std_msgs.msg import Float64
from visualization_msgs.msg import Marker

from rl100_msgs.msg import EpisodeState, GateStatus, OperatorEvent, OperatorState, PolicyStatus
from rl100_policy.core import messages
from rl100_policy.core.config import load_robot, load_task
from rl100_policy.core.errors import ObservationError
from rl100_policy.core.gate_result import CommandSource
from rl100_policy.core.key_bindings import GRIPPER_KEY, PRESS_KEYS
from rl100_policy.core.key_decoder import KeyAction, KeyEvent
from rl100_policy.core.key_motion import KeyMotion
from rl100_policy.core.key_repeat import KeyRepeat
from rl100_policy.core.kinematics import ArmKinematics
from rl100_policy.core.operator_screen import Seen, is_small, screen
from rl100_policy.core.presses import Press, meant
from rl100_policy.core.scene_view import SceneView
from rl100_policy.core.terminal import TTY, Terminal
from rl100_policy.ros.conversions import header, twist_message
from rl100_policy.ros.joint_jogs import JOINT_TOPIC
from rl100_policy.ros.managed import ManagedNode
from rl100_policy.ros.parameters import parameter
from rl100_policy.ros.process import run_node
from rl100_policy.ros.qos import COMMAND, EVENT, LATCHED, SENSOR_LATEST
from rl100_policy.ros.scheduling import PERSON
from rl100_policy.ros.teleop import GRIPPER_TOPIC, SETTLE_S, fastest_twist

Points = NDArray[np.floating]

_DRAW_S = 0.25
_READ_S = 0.05
_STEER_S = 0.02
_LEASE = 0.8
"""Control periods that a key moves the arm after its last repeat. With the time of a tick, until
which the end of it is noticed, that is no more than one; the gate notices in the next."""
_SCENE_SIZE, _SMALL_SCENE_SIZE = (36, 12), (28, 9)
"""Width and height of the workspace on the screen, characters."""
_JOINT_SHARE = 0.3
"""Largest joint velocity by key, as a share of the joint's limit."""


@dataclass(frozen=True)
class KeyboardParameters:
    """Parameters of the keyboard node."""

    robot_config: str = parameter("", "path of the robot description (YAML)")
    task_config: str = parameter("", "path of the task description (YAML)")
    terminal: str = parameter(TTY, "terminal whose keys are read")
    lease: float = parameter(
        0.0,
        "a key moves the arm for this long after its press or last repeat, where the terminal "
        "does not tell releases [s]; 0: .8 control periods, so that the arm is told to stop "
        "within two. Must be longer than the terminal's repeat",
        low=0.0,
        high=1.0,
    )
    outline: str = parameter(
        "", "topic of a line to show in the workspace (visualization_msgs/Marker); empty: none"
    )
    draw: bool = parameter(True, "draw the screen")


class KeyboardNode(ManagedNode[KeyboardParameters]):
    """Keys to messages, messages to the screen."""

    usual_priority = PERSON

    def __init__(self) -> None:
        """Read the parameters."""
        super().__init__("keyboard", KeyboardParameters)

    def set_up(self) -> None:
        """Open the terminal, subscribe, begin to read.

        Raises:
            ConfigError: If there is no terminal.
        """
        robot, task = (
            load_robot(self.parameters.robot_config),
            load_task(self.parameters.task_config),
        )
        self._robot, self._arm = robot, (arm := ArmKinematics(robot))
        self._box = task.tool_workspace
        self._cloud: Points = np.zeros((0, 3))
        self._tool: Points = np.zeros((0, 3))
        self._outline: Points = np.zeros((0, 3))
        self._joints, self._base = list(robot.joints), robot.base_frame
        self._has_gripper, self._opening = robot.gripper is not None, 1.0
        self._fastest_joints = _JOINT_SHARE * arm.velocity_limits
        self._fastest = fastest_twist(task)
        self._motion = KeyMotion(
            robot.joints, lease_s=self.parameters.lease or _LEASE * robot.control_period
        )
        self._repeat, self._seen, self._last_key = KeyRepeat(), Seen(), ""
        self._title = f"RL-100: {task.name} on {robot.name}"
        self._lock = threading.Lock()
        """Of the motion keys."""
        opened = contextlib.ExitStack()
        self._terminal = opened.enter_context(Terminal(self.parameters.terminal))
        self.at_end(opened.close)  # leaves the terminal as it was
        self._events = self.create_publisher(OperatorEvent, "operator/event", EVENT)
        self._twists = self.create_publisher(TwistStamped, "teleop/delta_twist_cmds", COMMAND)
        self._grippers = self.create_publisher(Float64, GRIPPER_TOPIC, COMMAND)
        self._jogs = self.create_publisher(JointState, JOINT_TOPIC, COMMAND)
        for kind, topic, name in (
            (EpisodeState, "episode/state", "episode"),
            (PolicyStatus, "policy/status", "policy"),
        ):
            self.create_subscription(kind, topic, self._keeper(name), LATCHED)
        self.create_subscription(OperatorState, "operator/state", self._on_operator, LATCHED)
        self.create_subscription(GateStatus, "gate/status", self._on_gate, LATCHED)
        if task.observation.kind == "points":
            self.create_subscription(PointCloud2, "policy/cloud", self._on_cloud, SENSOR_LATEST)
        self.create_subscription(JointState, "joint_states", self._on_joints, SENSOR_LATEST)
        if self.parameters.outline:
            self.create_subscription(Marker, self.parameters.outline, self._on_outline, LATCHED)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(min(_STEER_S, robot.control_period / 5), self._steer, clock=steady)
        self._live: Live | None = None
        if self.parameters.draw:
            console = Console(file=self._terminal.screen, force_terminal=True)
            self._live = Live(console=console, screen=True, auto_refresh=False)
            self._live.start()
            self.at_end(self._live.stop)
            self.create_timer(_DRAW_S, self._draw, clock=steady)
        self._next_look_s = 0.0
        self._moved_s = -SETTLE_S
        """When a motion key was last held, monotonic."""
        self._quits = False
        """The end was asked for here."""
        self._stopping = False
        self._reader = threading.Thread(target=self._read, name="keys", daemon=True)
        self._reader.start()
        self.at_end(self._stop_reading)

    def _on_cloud(self, message: PointCloud2) -> None:
        with contextlib.suppress(ObservationError):
            self._cloud = messages.cloud_points(message)

    def _on_joints(self, message: JointState) -> None:
        now_s = time.monotonic()
        if now_s < self._next_look_s:
            return  # a fast arm
        self._next_look_s = now_s + _DRAW_S / 2
        with contextlib.suppress(ObservationError):
            q = messages.joint_positions(message, self._robot.joints)
            if q is not None:
                self._tool = self._arm.tool_position(q)[None]

    def _on_outline(self, marker: Marker) -> None:
        if marker.header.frame_id == self._base:
            self._outline = np.array([[each.x, each.y, each.z] for each in marker.points])

    def _scene(self, size: tuple[int, int]) -> SceneView:
        """The workspace from above."""
        view = SceneView(np.array(self._box.low), np.array(self._box.high), *size)
        if len(self._outline):
            view.line(self._outline, "green")
        view.points(self._cloud, "white")
        view.points(self._tool, "bold red")
        return view

    def _on_operator(self, state: OperatorState) -> None:
        before, self._seen.operator = self._seen.operator, state
        over = OperatorState.OVER
        # One that was over when this node came is nothing to end for: any key begins another.
        if state.state == over and (self._quits or (before and before.state != over)):
            self.context.try_shutdown()  # ends the process

    def _keeper(self, name: str) -> Callable[[object], None]:
        return lambda message: setattr(self._seen, name, message)

    def _on_gate(self, status: GateStatus) -> None:
        before, self._seen.gate = self._seen.gate, status
        if before is None or before.source != status.source:
            with self._lock:
                self._motion.release()

    # The reading thread

    def _read(self) -> None:
        while not self._stopping:
            try:
                events = self._terminal.read(_READ_S)
            except (EOFError, OSError, ValueError):
                if not self._stopping:
                    self.get_logger().error("the terminal is gone: no key is read any more")
                return
            for event in events:
                self._take(event, time.monotonic())

    def _take(self, event: KeyEvent, now_s: float) -> None:
        if event.key == "ctrl+c":  # what a terminal that tells releases makes of it
            self.context.try_shutdown()
            return
        press = PRESS_KEYS.get(event.key)
        if event.key == GRIPPER_KEY:
            self._move_gripper(event, now_s)
            return
        if press is None:
            with self._lock:
                self._motion.tells_releases = self._terminal.tells_releases
                known = self._motion.take(event, now_s)
            self._last_key = event.key if known else f"{event.key}: no such key"
            return
        is_press = self._repeat.is_press(event, now_s)
        if event.action is KeyAction.RELEASE:
            return
        gate = self._seen.gate
        press = meant(press, in_command=gate is not None and gate.source == CommandSource.TELEOP)
        # Of doubtful ones only those count that stop the arm or give it to the person.
        if is_press or press in (Press.ESTOP, Press.TAKE_OVER):
            self._last_key = event.key
            self._press(press)
        else:
            self._last_key = f"{event.key}: held, or again too soon"

    def _press(self, press: Press) -> None:
        stamp_ns = self.get_clock().now().nanoseconds
        self._quits |= press is Press.QUIT
        self._events.publish(
            OperatorEvent(header=header(stamp_ns), kind=int(press), source="keyboard")
        )

    def _move_gripper(self, event: KeyEvent, now_s: float) -> None:
        """Open a closed gripper, close an open one."""
        if not self._has_gripper:
            self._last_key = f"{event.key}: the robot description has no gripper"
        elif self._repeat.is_press(event, now_s):
            self._last_key, self._opening = event.key, 1.0 - self._opening
            self._grippers.publish(Float64(data=self._opening))

    # The executor's thread

    def _steer(self) -> None:
        """Say what the held keys ask for, and that nothing is when they are let go of."""
        gate = self._seen.gate
        if gate is None or gate.source != CommandSource.TELEOP or gate.estop:
            return
        now_s, stamp_ns = time.monotonic(), self.get_clock().now().nanoseconds
        with self._lock:
            if self._motion.is_moving(now_s):
                self._moved_s = now_s
            if now_s - self._moved_s > SETTLE_S:
                return
            twist = self._motion.tool_velocity(now_s, self._fastest)
            velocities = self._motion.joint_velocity(now_s, self._fastest_joints)
            by_joint = self._motion.by_joint
        if by_joint:
            message = JointState(header=header(stamp_ns), name=self._joints)
            message.velocity = velocities.tolist()
            self._jogs.publish(message)
        else:
            self._twists.publish(twist_message(twist, stamp_ns, self._base))

    def _draw(self) -> None:
        if self._live is None:
            return
        small = is_small(*self._live.console.size)
        scene = self._scene(_SMALL_SCENE_SIZE if small else _SCENE_SIZE).text()
        with self._lock:
            drawn = screen(
                self._title, self._seen, self._motion, self._last_key, scene, small=small
            )
        self._live.update(drawn, refresh=True)

    def _stop_reading(self) -> None:
        self._stopping = True
        self._reader.join(timeout=2.0)


def main(args: Sequence[str] | None = None) -> int:
    """Run the node."""
    given = list(sys.argv if args is None else args)
    # The screen is the only thing on the terminal; logs go to files and /rosout.
    return run_node(KeyboardNode, [*given, "--ros-args", "--disable-stdout-logs"], images=False)


if __name__ == "__main__":
    sys.exit(main())
