# SPDX-License-Identifier: Apache-2.0
"""The command gate: turns a requested action into a joint command that breaks no limit, or holds.

Everything that moves the arm passes here: the node, the simulator's environment and the tests use
this one class.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum, IntFlag

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from rl100_policy.core.config import RobotConfig, TaskConfig
from rl100_policy.core.errors import ObservationError
from rl100_policy.core.kinematics import ArmKinematics

Floats = NDArray[np.float64]

TWIST_COMPONENTS = ("linear.x", "linear.y", "linear.z", "angular.x", "angular.y", "angular.z")
"""Components of a tool velocity in the base frame, in the order of a 6-D twist."""

_IK_TOLERANCE = 1e-3
"""Pose error of the inverse kinematics [m, rad] above which the arm holds."""
_TOOL_LAG = 0.05
"""Largest distance of the measured tool from where it was told to be [m]; beyond it the arm
holds."""
_JOINT_LAG = 0.5
"""Largest distance of a measured joint from where it was told to be [rad, m]; beyond it the arm
holds."""
_WALL = 1e-3
"""How far beyond the workspace the tool may come, for the inverse kinematics' sake [m]."""
_SHARES = (1.0, 0.5, 0.25, 0.0)
"""Shares of an action that are tried where all of it would lead out of the bounds."""
_LIMIT_OVERSHOOT = 0.1
"""How far beyond its position limit a joint may be measured [rad, m]; farther is a broken
sensor."""
_SPEED_FACTOR = 2.0
_JUMP = 0.05
"""A measured joint may move by this many times its velocity limit, plus this [rad, m], between
two measurements; more is a broken sensor."""


class CommandSource(IntEnum):
    """Who commands the arm; values are those of rl100_msgs/GateCommand."""

    HOLD = 0
    TELEOP = 1
    POLICY = 2


class GateFlag(IntFlag):
    """What the gate did to a request; values are those of rl100_msgs/GateCommand."""

    NONE = 0
    CLIPPED_ACTION = 1
    CLIPPED_WORKSPACE = 2
    CLIPPED_POSITION = 4
    CLIPPED_VELOCITY = 8
    CLIPPED_ACCELERATION = 16
    HELD_NON_FINITE = 32
    HELD_STALE = 64
    HELD_MALFORMED = 128
    HELD_ESTOP = 256
    HELD_IK = 512
    HELD_STATE = 1024


HELD = (
    GateFlag.HELD_NON_FINITE
    | GateFlag.HELD_STALE
    | GateFlag.HELD_MALFORMED
    | GateFlag.HELD_ESTOP
    | GateFlag.HELD_IK
    | GateFlag.HELD_STATE
)
CLIPPED = (
    GateFlag.CLIPPED_ACTION
    | GateFlag.CLIPPED_WORKSPACE
    | GateFlag.CLIPPED_POSITION
    | GateFlag.CLIPPED_VELOCITY
    | GateFlag.CLIPPED_ACCELERATION
)


@dataclass(frozen=True)
class GateResult:
    """One answered control period."""

    joint_command: Floats
    """Joint positions to reach at the end of the period, [n], rad."""
    executed: Floats
    """Action that the joint command realises, [d_a], SI units of the action space."""
    flags: GateFlag


class CommandGate:
    """Limits and differential inverse kinematics between a requested action and the joint command.

    Holds a target pose of the tool, which every action moves; uncommanded components stay where
    they were at ``reset``.
    """

    def __init__(
        self, robot: RobotConfig, task: TaskConfig, kinematics: ArmKinematics | None = None
    ) -> None:
        """Build for one arm and task; ``reset`` must be called before the first ``step``."""
        self.kinematics = kinematics or ArmKinematics(robot)
        self._period = robot.control_period
        self._action = task.action
        self._margin = robot.position_margin
        self._components = np.array([TWIST_COMPONENTS.index(n) for n in task.action.names])
        self._moved_axes = np.isin(np.arange(3), self._components)
        """Which of x, y, z are commanded; the others keep the target they had, so that no drift
        builds up."""
        self._turns = bool((self._components >= 3).any())
        """Whether a turn is commanded; if not, the target keeps its orientation, and how the tool
        turned is not reported."""
        self._low, self._high = np.array(task.action.low), np.array(task.action.high)
        self._box_low, self._box_high = (
            np.array(task.tool_workspace.low),
            np.array(task.tool_workspace.high),
        )
        self._target = np.eye(4)
        self._command = np.array(robot.home)
        self._velocity = np.zeros(len(robot.joints))
        self.reset(self._command)

    @property
    def joint_command(self) -> Floats:
        """Last joint command, [n], rad: what a hold repeats."""
        return self._command.copy()

    def reset(self, q_measured: Floats) -> None:
        """Take command at the measured joint positions, [n], rad.

        The target pose is where the tool is, at rest.

        Raises:
            ObservationError: If no arm can be there: not finite, or outside the position limits.
        """
        arm = self.kinematics
        outside = np.maximum(arm.position_lower - q_measured, q_measured - arm.position_upper)
        if not (outside <= self._margin + _LIMIT_OVERSHOOT).all():
            raise ObservationError(
                f"joint positions {np.round(q_measured, 3).tolist()} are outside the limits "
                "of the URDF; is this the driver of this arm, and is it calibrated?"
            )
        self._command = np.array(q_measured, dtype=float)
        self._velocity = np.zeros_like(self._command)
        self._target = self.kinematics.tool_pose(self._command)
        # A tool that starts outside the box may only move towards it.
        self._room_low = np.minimum(self._box_low, self._target[:3, 3])
        self._room_high = np.maximum(self._box_high, self._target[:3, 3])

    def tracks(self, q_measured: Floats) -> bool:
        """Whether the measured arm, [n] rad, is about where it was told to be.

        If not, it is blocked, was moved by somebody else, or the measurement is wrong. In none of
        these cases it is known what another command would do.
        """
        lag = self.kinematics.tool_position(q_measured) - self._target[:3, 3]
        apart = float(np.abs(q_measured - self._command).max())
        return math.sqrt(lag @ lag) <= _TOOL_LAG and apart <= _JOINT_LAG

    def hold(self, reason: GateFlag = GateFlag.NONE) -> GateResult:
        """Stop within the acceleration limits and stay; the request, if any, is not executed."""
        velocity, flags = self._limit_joints(self._command)
        return self._commit(
            velocity,
            reason | (flags & GateFlag.CLIPPED_ACCELERATION if reason else GateFlag.NONE),
        )

    def step(self, action: Floats | None, q_measured: Floats) -> GateResult:
        """Answer one control period.

        Args:
            action: Requested action, [d_a], SI units; None when there is none for this period.
            q_measured: Measured joint positions, [n], rad.

        Returns:
            A joint command that keeps every limit; the executed action is computed from it by
            forward kinematics.
        """
        if action is None:
            return self.hold(GateFlag.HELD_STALE)
        if np.shape(action) != self._low.shape:
            return self.hold(GateFlag.HELD_MALFORMED)
        if not (np.isfinite(action).all() and np.isfinite(q_measured).all()):
            return self.hold(GateFlag.HELD_NON_FINITE)
        if not self.tracks(q_measured):
            return self.hold(GateFlag.HELD_STATE)
        clipped = _bounded(action, self._low, self._high)
        flags = GateFlag.CLIPPED_ACTION if (clipped != action).any() else GateFlag.NONE
        for share in _SHARES:
            target, boxed = self._moved_target(share * clipped)
            wanted, error = self.kinematics.solve(target, self._command)
            if error > _IK_TOLERANCE:
                return self.hold(GateFlag.HELD_IK)
            velocity, limited = self._limit_joints(wanted)
            leaves = self._leaves(velocity)
            if not leaves:
                flags |= limited | (GateFlag.CLIPPED_WORKSPACE if boxed else GateFlag.NONE)
                return self._commit(velocity, flags)
            flags |= leaves
        braking, _ = self._limit_joints(self._command)
        return self._commit(braking, flags)

    def _moved_target(self, action: Floats) -> tuple[Floats, bool]:
        """Target pose after one period of the action, and whether the workspace box cut it.

        The target is kept in the box.
        """
        twist = np.zeros(6)
        twist[self._components] = action
        target = self._target.copy()
        wanted = target[:3, 3] + twist[:3] * self._period
        inside = _bounded(wanted, self._room_low, self._room_high)
        target[:3, 3] = inside
        if self._turns and twist[3:].any():
            target[:3, :3] = _rotation(twist[3:] * self._period) @ target[:3, :3]
        return target, bool((inside != wanted).any())

    def _limit_joints(self, wanted: Floats) -> tuple[Floats, GateFlag]:
        """Joint velocity over one period towards some positions, within the limits.

        The limits are of position, velocity and acceleration.

        The joint path is scaled as a whole, so that the tool keeps its direction when a limit
        slows it down.
        """
        arm, flags = self.kinematics, GateFlag.NONE
        bounded = _bounded(wanted, *self._joint_bounds())
        if (bounded != wanted).any():
            flags |= GateFlag.CLIPPED_POSITION
        velocity = (bounded - self._command) / self._period
        excess = float((np.abs(velocity) / arm.velocity_limits).max())
        if excess > 1.0:
            velocity, flags = velocity / excess, flags | GateFlag.CLIPPED_VELOCITY
        change = velocity - self._velocity
        excess = self._periods_to_change(change)
        if excess > 1.0:
            velocity, flags = (
                self._velocity + change / excess,
                flags | GateFlag.CLIPPED_ACCELERATION,
            )
        return velocity, flags

    def _leaves(self, velocity: Floats) -> GateFlag:
        """Which bounds the arm leaves if it brakes after one period at a velocity.

        A velocity is taken only if this is none of them. So braking at once, whose way was found
        good one period before, is always left as the last choice.

        Braking from v takes e = max |v| / (a T) periods and goes in a straight joint line, by
        v T (1 - k / e) in the k-th of them.
        """
        periods = self._periods_to_change(velocity)
        whole = np.floor(periods)
        braking = whole - whole * (whole + 1.0) / (2.0 * periods) if whole else 0.0
        way = velocity * self._period * (1.0 + braking)
        lower, upper = self._joint_bounds()
        rest = self._command + way
        flags = GateFlag.NONE
        if _any_outside(rest, lower - 1e-9, upper + 1e-9):
            flags |= GateFlag.CLIPPED_POSITION
        room_low, room_high = self._room_low - _WALL, self._room_high + _WALL
        for share in (0.5, 1.0):
            tool = self.kinematics.tool_position(self._command + share * way)
            if _any_outside(tool, room_low, room_high):
                flags |= GateFlag.CLIPPED_WORKSPACE
        return flags

    def _joint_bounds(self) -> tuple[Floats, Floats]:
        """Position limits, [n] each, rad; a joint beyond one may only move towards it."""
        arm = self.kinematics
        return (
            np.minimum(arm.position_lower, self._command),
            np.maximum(arm.position_upper, self._command),
        )

    def _periods_to_change(self, change: Floats) -> float:
        """Control periods that a change of the joint velocity takes within the limits."""
        largest = self.kinematics.acceleration_limits * self._period
        return float((np.abs(change) / largest).max())

    def _commit(self, velocity: Floats, flags: GateFlag) -> GateResult:
        """Move on by one period at a velocity.

        The executed action is the tool motion between the two commands.
        """
        before = self._target
        command = self._command + velocity * self._period
        after = self.kinematics.tool_pose(command)
        tool, tool_before = after[:3, 3], before[:3, 3]
        twist, moved = np.zeros(6), before.copy()
        twist[:3] = (tool - tool_before) / self._period
        moved[:3, 3] = np.where(self._moved_axes, tool, tool_before)
        if self._turns:
            twist[3:] = _rotation_vector(after[:3, :3] @ before[:3, :3].T) / self._period
            moved[:3, :3] = after[:3, :3]
        self._target, self._command, self._velocity = moved, command, velocity
        self._room_low = np.minimum(self._box_low, np.maximum(self._room_low, tool))
        self._room_high = np.maximum(self._box_high, np.minimum(self._room_high, tool))
        return GateResult(command.copy(), twist[self._components], flags)


class MeasurementCheck:
    """Refuses joint positions that no arm can have reached since the last measurement."""

    def __init__(self, kinematics: ArmKinematics) -> None:
        """Begin without a measurement."""
        self._speed = _SPEED_FACTOR * kinematics.velocity_limits
        self._last: tuple[int, Floats] | None = None

    def check(self, stamp_ns: int, q: Floats) -> None:
        """Compare with the last measurement, and remember this one, [n] rad, at stamp_ns.

        A jump that stays is refused once; from then on it is where the arm is, and the command
        gate holds because the arm is not where it was told to be.

        Raises:
            ObservationError: Names the joint that jumped and by how much.
        """
        last, self._last = self._last, (stamp_ns, q)
        if last is None or stamp_ns <= last[0]:
            return
        elapsed = (stamp_ns - last[0]) * 1e-9
        excess = np.abs(q - last[1]) - (self._speed * elapsed + _JUMP)
        worst = int(np.argmax(excess))
        if excess[worst] > 0.0:
            raise ObservationError(
                f"joint {worst} jumped from {last[1][worst]:.3f} to {q[worst]:.3f} "
                f"within {elapsed:.3f} s"
            )


def _bounded(values: Floats, low: Floats, high: Floats) -> Floats:
    """Values cut to their bounds, as by ``np.clip``, which takes longer for so few."""
    return np.minimum(np.maximum(values, low), high)


def _any_outside(values: Floats, low: Floats, high: Floats) -> bool:
    return bool(np.count_nonzero((values < low) | (values > high)))


def _rotation(vector: Floats) -> Floats:
    return np.asarray(Rotation.from_rotvec(vector).as_matrix())


def _rotation_vector(matrix: Floats) -> Floats:
    return np.asarray(Rotation.from_matrix(matrix).as_rotvec())
