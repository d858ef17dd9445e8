# SPDX-License-Identifier: Apache-2.0
"""The command gate: turns a requested action into a joint command that breaks no limit, or holds.

Everything that moves the arm passes here: the node, the simulator's environment and the tests use
this one class.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from rl100_policy.core.config import TWIST_COMPONENTS, RobotConfig, TaskConfig, check_action
from rl100_policy.core.errors import ObservationError
from rl100_policy.core.gate_result import GateFlag, GateResult
from rl100_policy.core.geometry import twist_between
from rl100_policy.core.homing import Homing
from rl100_policy.core.kinematics import ArmKinematics

Floats = NDArray[np.float64]

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
_BULGE = 3e-4
"""How far the tool may come beyond that between the places of its way that are looked at [m]."""
_LEAST_LOOKS = 2
_ROUNDING = 1e-9
_SHARES = (1.0, 0.5, 0.25, 0.0)
"""Shares of an action that are tried where all of it would lead out of the bounds."""
_LIMIT_OVERSHOOT = 0.1
"""How far beyond its position limit a joint may be measured [rad, m]; farther is a broken
sensor."""


@dataclass(frozen=True)
class _Way:
    """Where a request leads within one period, before the limits of the arm."""

    joints: Floats
    """[n], rad."""
    boxed: bool = False
    """Whether the workspace box has cut it."""
    possible: bool = True
    """Whether the inverse kinematics has found it."""


@dataclass(frozen=True)
class _Moved:
    """What of the tool's target pose follows the tool; the rest stays, so no drift builds up."""

    axes: NDArray[np.bool_]
    """Of x, y, z, [3]."""
    turns: bool
    """The orientation."""


_EVERYTHING = _Moved(np.full(3, True), turns=True)


class CommandGate:
    """Limits and differential inverse kinematics between a requested action and the joint command.

    Holds a target pose of the tool, which every action moves; components of a tool velocity that
    are not commanded stay where they were. A person's tool velocity is followed in every action
    space, and what is executed is told in that of the task. Whoever takes command goes on from the
    command of who had it, so no handover is more of a jump than any other period.
    """

    def __init__(
        self, robot: RobotConfig, task: TaskConfig, kinematics: ArmKinematics | None = None
    ) -> None:
        """Build for one arm and task; ``reset`` must be called before the first ``step``.

        Raises:
            ConfigError: If the actions are of other joints than the arm has.
        """
        self.kinematics = kinematics or ArmKinematics(robot)
        check_action(task, robot)
        self._period = robot.control_period
        self._margin = robot.position_margin
        self._low, self._high = np.array(task.action.low), np.array(task.action.high)
        steered = task.action.steered
        self._components = np.array([TWIST_COMPONENTS.index(name) for name in steered.names])
        """Of a twist that a person moves, [c]."""
        self._twist_low, self._twist_high = np.array(steered.low), np.array(steered.high)
        axes = np.isin(np.arange(3), self._components)
        self._steered = _Moved(axes, turns=bool((self._components >= 3).any()))
        self._moved = self._steered
        """By the source in command."""
        limits = self.kinematics.velocity_limits
        self._velocity_low, self._velocity_high = -limits, limits
        """Of every joint, [n] each, rad/s."""
        self._by_joint = task.action.space == "joint_velocity"
        if self._by_joint:
            self._velocity_low = np.maximum(-limits, self._low)
            self._velocity_high = np.minimum(limits, self._high)
        self._bend = math.sqrt(self.kinematics.reach / (8.0 * _BULGE))
        """Looks per rad (and m) of a way, see :meth:`_leaves`."""
        self._least_cosine = -2.0 if task.tool_tilt is None else math.cos(task.tool_tilt)
        self._axis = self.kinematics.tool_pose(np.array(robot.home))[:3, 2].copy()
        """Of the tool at home, from which it may tilt."""
        self._box_low, self._box_high = (
            np.array(task.tool_workspace.low),
            np.array(task.tool_workspace.high),
        )
        self._homing = Homing(robot, task.tool_workspace, self.kinematics)
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
        self._room_cosine = min(self._least_cosine, float(self._axis @ self._target[:3, 2]))
        self._moved = self._steered
        self._homing.restart()
        # A tool that starts outside the box, or tilted too far, may only move back.
        self._room_low = np.minimum(self._box_low, self._target[:3, 3])
        self._room_high = np.maximum(self._box_high, self._target[:3, 3])

    def hand_over(self) -> None:
        """Let another source go on from the present command and its velocity.

        What follows is bounded as every step is: the limits of velocity and acceleration do not
        know who asks. The tool's target is where the command has it, so that components which the
        new source does not move stay there.
        """
        self._target = self.kinematics.tool_pose(self._command)
        self._moved = self._steered
        self._homing.restart()

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
            A joint command that keeps every limit; the executed action is computed from it, of a
            tool velocity by forward kinematics.
        """
        refused = self._refusal(action, self._low.shape, q_measured)
        if action is None or refused:
            return replace(self.hold(refused), requested=action)
        if not self._by_joint:
            return replace(self._follow(action), requested=action)
        self._moved = _EVERYTHING
        clipped = _bounded(action, self._low, self._high)
        flags = GateFlag.CLIPPED_ACTION if (clipped != action).any() else GateFlag.NONE
        result = self._go(
            lambda share: _Way(self._command + share * clipped * self._period), flags
        )
        return replace(result, requested=action)

    def steer(self, twist: Floats | None, q_measured: Floats) -> GateResult:
        """Answer one control period of a person, who moves the tool in every action space.

        Args:
            twist: Requested velocity of the tool in the base frame, [6], m/s and rad/s; None when
                there is none for this period. Components that a person does not move are ignored.
            q_measured: Measured joint positions, [n], rad.

        Returns:
            As of :meth:`step`.
        """
        if twist is not None and np.shape(twist) != (len(TWIST_COMPONENTS),):
            return self.hold(GateFlag.HELD_MALFORMED)
        asked = None if twist is None else twist[self._components]
        if not self._by_joint:
            return self.step(asked, q_measured)
        refused = self._refusal(asked, self._twist_low.shape, q_measured)
        if asked is None or refused:
            return self.hold(refused)
        self._moved = self._steered
        return self._follow(asked)

    def jog(self, velocities: Floats | None, q_measured: Floats) -> GateResult:
        """Answer one control period of a person who moves single joints.

        Args:
            velocities: Of every joint, [n], rad/s; None when there is no request for this period.
            q_measured: Measured joint positions, [n], rad.

        Returns:
            As of :meth:`step`; flagged ``BEYOND_ACTION`` where actions are of the tool, since
            joints may turn in ways that no such action has.
        """
        refused = self._refusal(velocities, self._velocity.shape, q_measured)
        if velocities is None or refused:
            return self.hold(refused)
        clipped = _bounded(velocities, self._velocity_low, self._velocity_high)
        flags = GateFlag.CLIPPED_ACTION if (clipped != velocities).any() else GateFlag.NONE
        self._moved = _EVERYTHING
        return self._go(
            lambda share: _Way(self._command + share * clipped * self._period),
            flags | self._unsaid,
        )

    def go_home(self, q_measured: Floats) -> GateResult:
        """Answer one control period on the way to the home position.

        Args:
            q_measured: Measured joint positions, [n], rad.

        Returns:
            As of :meth:`step`; flagged as that of :meth:`jog`.
        """
        refused = self._refusal(self._velocity, self._velocity.shape, q_measured)
        if refused:
            return self.hold(refused)
        self._moved = _EVERYTHING
        way = self._homing.way(self._command, self.kinematics.tool_pose(self._command))
        return self._go(lambda share: _Way(way(share)), self._unsaid)

    def at_home(self, q_measured: Floats) -> bool:
        """Whether the measured arm, [n] rad, is at its home position."""
        return self._homing.at_home(q_measured)

    @property
    def _unsaid(self) -> GateFlag:
        """Of a motion of all joints: whether an action of the task can say it."""
        return GateFlag.NONE if self._by_joint else GateFlag.BEYOND_ACTION

    def _follow(self, asked: Floats) -> GateResult:
        """Move the tool by the components of a twist that a person moves, [c]."""
        clipped = _bounded(asked, self._twist_low, self._twist_high)
        flags = GateFlag.CLIPPED_ACTION if (clipped != asked).any() else GateFlag.NONE
        twist = np.zeros(len(TWIST_COMPONENTS))
        twist[self._components] = clipped
        wholly = self._by_twist(twist)
        requested = (wholly.joints - self._command) / self._period if wholly.possible else None
        result = self._go(
            lambda share: wholly if share == 1.0 else self._by_twist(share * twist), flags
        )
        return replace(result, requested=requested)

    def _refusal(
        self, request: Floats | None, shape: tuple[int, ...], q_measured: Floats
    ) -> GateFlag:
        """Why a request is not followed at all; none if it is."""
        if request is None:
            return GateFlag.HELD_STALE
        if np.shape(request) != shape:
            return GateFlag.HELD_MALFORMED
        if not (np.isfinite(request).all() and np.isfinite(q_measured).all()):
            return GateFlag.HELD_NON_FINITE
        return GateFlag.NONE if self.tracks(q_measured) else GateFlag.HELD_STATE

    def _go(self, way: Callable[[float], _Way], flags: GateFlag) -> GateResult:
        """Go the largest share of a way after which the arm can still stop inside its bounds.

        Args:
            way: Where a share of the request leads.
            flags: What was done to the request already.
        """
        for share in _SHARES:
            wanted = way(share)
            if not wanted.possible:
                return self.hold(GateFlag.HELD_IK)
            velocity, limited = self._limit_joints(wanted.joints)
            leaves = self._leaves(velocity)
            if not leaves:
                flags |= limited | (GateFlag.CLIPPED_WORKSPACE if wanted.boxed else GateFlag.NONE)
                return self._commit(velocity, flags)
            flags |= leaves
        braking, _ = self._limit_joints(self._command)
        return self._commit(braking, flags)

    def _by_twist(self, twist: Floats) -> _Way:
        """The way of a tool velocity, [6], m/s and rad/s, whose target is kept in the box."""
        target = self._target.copy()
        wanted = target[:3, 3] + twist[:3] * self._period
        inside = _bounded(wanted, self._room_low, self._room_high)
        target[:3, 3] = inside
        if twist[3:].any():
            target[:3, :3] = _rotation(twist[3:] * self._period) @ target[:3, :3]
        joints, error = self.kinematics.solve(target, self._command)
        return _Way(joints, bool((inside != wanted).any()), error <= _IK_TOLERANCE)

    def _limit_joints(self, wanted: Floats) -> tuple[Floats, GateFlag]:
        """Joint velocity over one period towards some positions, within the limits.

        The limits are of position, velocity and acceleration.

        The joint path is scaled as a whole, so that the tool keeps its direction when a limit
        slows it down.
        """
        flags = GateFlag.NONE
        bounded = _bounded(wanted, *self._joint_bounds())
        if (bounded != wanted).any():
            flags |= GateFlag.CLIPPED_POSITION
        velocity = (bounded - self._command) / self._period
        shares = np.maximum(velocity / self._velocity_high, velocity / self._velocity_low)
        excess = float(shares.max())
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
        v T (1 - k / e) in the k-th of them. At the tool a straight joint line w bends: between n
        places of it that are looked at, it leaves the straight line through them by no more than
        r (sum |w|)^2 / (8 n^2), where r is the reach of the arm.
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
        looks = max(_LEAST_LOOKS, math.ceil(self._bend * float(np.abs(way).sum())))
        for look in range(1, looks + 1):
            pose = self.kinematics.tool_pose(self._command + (look / looks) * way)
            tilted = self._axis @ pose[:3, 2] < self._room_cosine - _ROUNDING
            if tilted or _any_outside(pose[:3, 3], room_low, room_high):
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

        The executed action is the motion between the two commands: of the tool, or of the joints.
        """
        before, moved = self._target, self._moved
        command = self._command + velocity * self._period
        after = self.kinematics.tool_pose(command)
        tool, target = after[:3, 3], before.copy()
        target[:3, 3] = np.where(moved.axes, tool, before[:3, 3])
        if moved.turns:
            target[:3, :3] = after[:3, :3]
        self._target, self._command, self._velocity = target, command, velocity
        self._room_low = np.minimum(self._box_low, np.maximum(self._room_low, tool))
        self._room_high = np.maximum(self._box_high, np.minimum(self._room_high, tool))
        cosine = float(self._axis @ after[:3, 2])
        self._room_cosine = min(self._least_cosine, max(self._room_cosine, cosine))
        if self._by_joint:
            return GateResult(command.copy(), velocity.copy(), flags)
        twist = twist_between(before, after, self._period, turns=moved.turns)
        return GateResult(command.copy(), twist[self._components], flags)


def _bounded(values: Floats, low: Floats, high: Floats) -> Floats:
    """Values cut to their bounds, as by ``np.clip``, which takes longer for so few."""
    return np.minimum(np.maximum(values, low), high)


def _any_outside(values: Floats, low: Floats, high: Floats) -> bool:
    return bool(np.count_nonzero((values < low) | (values > high)))


def _rotation(vector: Floats) -> Floats:
    return np.asarray(Rotation.from_rotvec(vector).as_matrix())
