# SPDX-License-Identifier: Apache-2.0
"""The command gate: turns a requested action into a joint command that breaks no limit, or holds.

Everything that moves the arm passes here: the node, the simulator's environment and the tests use
this one class.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from rl100_policy.core.braking import velocities_to_rest
from rl100_policy.core.collision import ArmCollision
from rl100_policy.core.config import (
    TWIST_COMPONENTS,
    Obstacle,
    RobotConfig,
    TaskConfig,
    check_action,
)
from rl100_policy.core.errors import ConfigError, ObservationError
from rl100_policy.core.gate_result import GateFlag, GateResult
from rl100_policy.core.geometry import twist_between
from rl100_policy.core.homing import Homing
from rl100_policy.core.kinematics import ArmKinematics
from rl100_policy.core.tool_room import ToolRoom

Floats = NDArray[np.float64]

_IK_TOLERANCE = 1e-3
"""Pose error of the inverse kinematics [m, rad] above which the arm holds."""
_TOOL_LAG = 0.05
"""Largest distance of the measured tool from where it was told to be [m]; beyond it the arm
holds."""
_JOINT_LAG = 0.5
"""Largest distance of a measured joint from where it was told to be [rad, m]; beyond it the arm
holds."""
_BULGE = 3e-4
"""How far the tool may come beyond its room between two places that are looked at [m]."""
_LEAST_LOOKS = 2
_TYPICAL = 0.25
"""Share of its velocity limits at which an arm usually moves."""
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
        self._room = ToolRoom.of(task, self.kinematics.tool_pose(np.array(robot.home)))
        self._target = np.eye(4)
        self._command = np.array(robot.home)
        self._at_rest = np.zeros(len(robot.joints))
        self._largest_change = self.kinematics.acceleration_limits * self._period
        """Of the velocity from one period to the next, [n], rad/s."""
        self._largest_turn = self.kinematics.jerk_limits * self._period**2
        """Of that change from one period to the next, [n], rad/s."""
        self._correction = self._share_of_correction(robot)
        """Share of the tool's distance from its target that is made good in a period."""
        self._homing = Homing(robot, task.tool_workspace, self.kinematics, self._correction)
        self.collision = ArmCollision(self.kinematics.arm)
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
        self._velocity = self._change = self._at_rest
        self._stopping = np.zeros((0, len(self._command)))
        """Velocities of the next periods with which it comes to rest, [p, n], rad/s."""
        self._clear = self.collision.allowed(self._command)
        """How near links may come to each other and to obstacles, [p], m."""
        self._target = self.kinematics.tool_pose(self._command)
        self._moved = self._steered
        self._homing.restart()
        self._room = self._room.starting_at(self._target)

    def coast(self, periods: int) -> None:
        """Take note that nothing was answered for some control periods.

        The controller has gone on along the way to rest of the last command meanwhile, and may be
        at its end.
        """
        for _ in range(min(periods, len(self._stopping) + 2)):  # the last two are at rest
            self._brake(GateFlag.NONE)

    @property
    def is_moving(self) -> bool:
        """Whether the arm still moves along the last command, or comes to rest after it."""
        return len(self._stopping) > 0 or bool(self._velocity.any())

    def surround(self, obstacles: Sequence[Obstacle]) -> None:
        """Keep clear of these, too, instead of those of the last call.

        What is nearer than the margin now may only be left. The way to rest that was found good
        before is not looked at again: the arm would have none.
        """
        self.collision = ArmCollision(self.kinematics.arm, obstacles)
        self._clear = self.collision.allowed(self._command)

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
        """Stop within all limits and stay; the request, if any, is not executed."""
        brakes = reason and len(self._stopping) > 0
        braking = GateFlag.CLIPPED_ACCELERATION if brakes else GateFlag.NONE
        return self._brake(reason | braking)

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

    def _share_of_correction(self, robot: RobotConfig) -> float:
        """All of it, unless the jerk is limited so much that the arm would swing about its target.

        A velocity that takes n periods to come, and to go, may make good a part of an error only;
        1 / (2 n + 1) of it does not swing.

        Raises:
            ConfigError: If the arm cannot brake.
        """
        fastest = self.kinematics.velocity_limits
        limits = self._largest_change, self._largest_turn
        try:
            velocities_to_rest(fastest, self._at_rest, *limits)
        except ValueError as error:
            raise ConfigError(
                f"robot {robot.name!r} cannot brake from its velocity limits with its "
                f"acceleration_limits and jerk_limits: {error}; give those of the data sheet"
            ) from error
        if (self._largest_turn >= 2.0 * self._largest_change).all():
            return 1.0  # the limit of acceleration is one of jerk, too
        periods = len(velocities_to_rest(_TYPICAL * fastest, self._at_rest, *limits))
        return 1.0 / (2 * periods + 1)

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
            stopping = velocities_to_rest(
                velocity, velocity - self._velocity, self._largest_change, self._largest_turn
            )
            leaves = self._leaves(np.vstack([velocity, stopping]))
            if not leaves:
                flags |= limited | (GateFlag.CLIPPED_WORKSPACE if wanted.boxed else GateFlag.NONE)
                return self._commit(velocity, stopping, flags)
            flags |= leaves
        return self._brake(flags)

    def _brake(self, flags: GateFlag) -> GateResult:
        """Go on with the way to rest that was found good with the motion before."""
        if not len(self._stopping):
            return self._commit(self._at_rest, self._stopping, flags)
        return self._commit(self._stopping[0], self._stopping[1:], flags)

    def _by_twist(self, twist: Floats) -> _Way:
        """The way of a tool velocity, [6], m/s and rad/s, whose target is kept in the box."""
        target = self._target.copy()
        wanted = target[:3, 3] + twist[:3] * self._period
        inside = self._room.nearest(wanted)
        target[:3, 3] = inside
        if twist[3:].any():
            target[:3, :3] = _rotation(twist[3:] * self._period) @ target[:3, :3]
        joints, error = self.kinematics.solve(target, self._command)
        if self._correction < 1.0:
            missing = self.kinematics.solve(self._target, self._command)[0] - self._command
            joints = joints - (1.0 - self._correction) * missing
        return _Way(joints, bool((inside != wanted).any()), error <= _IK_TOLERANCE)

    def _limit_joints(self, wanted: Floats) -> tuple[Floats, GateFlag]:
        """Joint velocity over one period towards some positions, within the limits.

        The limits are of position, velocity, acceleration and jerk. The change of the velocity is
        scaled as a whole, so that the tool keeps its direction when a limit slows it down; unless
        an acceleration that must fade leaves no such change.
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
        excess = float((np.abs(change) / self._largest_change).max())
        if excess > 1.0:
            change, flags = change / excess, flags | GateFlag.CLIPPED_ACCELERATION
            velocity = self._velocity + change
        least = self._change - self._largest_turn
        most = self._change + self._largest_turn
        if _any_outside(change, least, most):
            flags |= GateFlag.CLIPPED_JERK
            room = np.where(change > 0.0, most, least)
            share = np.divide(room, change, out=np.ones_like(change), where=change != 0.0).min()
            velocity = self._velocity + _bounded(np.clip(share, 0.0, 1.0) * change, least, most)
        return velocity, flags

    def _leaves(self, velocities: Floats) -> GateFlag:
        """Which limits the arm leaves with the velocities of some periods to rest, [p, n] rad/s.

        A velocity is taken only if it and the way to rest after it leave none. So the way to rest
        that was found good one period before is always left as the last choice.

        At the tool a straight joint line w bends: between n places of it that are looked at, it
        leaves the straight line through them by no more than r (sum |w|)^2 / (8 n^2), where r is
        the reach of the arm.
        """
        places = self._command + np.cumsum(velocities, axis=0) * self._period
        before = np.vstack([self._command, places[:-1]])
        arm, flags = self.kinematics, GateFlag.NONE
        lower = np.minimum(arm.position_lower, np.maximum.accumulate(before))
        upper = np.maximum(arm.position_upper, np.minimum.accumulate(before))
        if _any_outside(places, lower - _ROUNDING, upper + _ROUNDING):
            flags |= GateFlag.CLIPPED_POSITION
        low, high = self._velocity_low - _ROUNDING, self._velocity_high + _ROUNDING
        if _any_outside(velocities, low, high):
            flags |= GateFlag.CLIPPED_VELOCITY
        if self._tool_leaves(before, places):
            flags |= GateFlag.CLIPPED_WORKSPACE
        if not flags and not self.collision.keeps(self._command, places, self._clear):
            flags |= GateFlag.CLIPPED_COLLISION
        return flags

    def _tool_leaves(self, before: Floats, places: Floats) -> bool:
        """Whether the tool leaves its box, or tilts too far, on straight joint lines, [p, n]."""
        room = self._room
        for begin, end in zip(before, places, strict=True):
            way = end - begin
            looks = max(1, math.ceil(self._bend * float(np.abs(way).sum())))
            if len(places) == 1:
                looks = max(looks, _LEAST_LOOKS)
            for look in range(1, looks + 1):
                pose = self.kinematics.tool_pose(begin + (look / looks) * way)
                if not room.holds(pose):
                    return True
            room = room.after(pose)
        return False

    def _joint_bounds(self) -> tuple[Floats, Floats]:
        """Position limits, [n] each, rad; a joint beyond one may only move towards it."""
        arm = self.kinematics
        return (
            np.minimum(arm.position_lower, self._command),
            np.maximum(arm.position_upper, self._command),
        )

    def _commit(self, velocity: Floats, stopping: Floats, flags: GateFlag) -> GateResult:
        """Move on by one period at a velocity.

        The executed action is the motion between the two commands: of the tool, or of the joints.
        """
        before, moved = self._target, self._moved
        command = self._command + velocity * self._period
        after = self.kinematics.tool_pose(command)
        target = before.copy()
        target[:3, 3] = np.where(moved.axes, after[:3, 3], before[:3, 3])
        if moved.turns:
            target[:3, :3] = after[:3, :3]
        self._change, self._velocity = velocity - self._velocity, velocity
        self._target, self._command, self._stopping = target, command, stopping
        self._room = self._room.after(after)
        if (self._clear < self.collision.margin).any():
            self._clear = self.collision.allowed(command, self._clear)
        rest = command + np.cumsum(stopping, axis=0) * self._period
        if self._by_joint:
            return GateResult(command.copy(), velocity.copy(), flags, rest, velocity)
        twist = twist_between(before, after, self._period, turns=moved.turns)
        return GateResult(command.copy(), twist[self._components], flags, rest, velocity)


def _bounded(values: Floats, low: Floats, high: Floats) -> Floats:
    """Values cut to their bounds, as by ``np.clip``, which takes longer for so few."""
    return np.minimum(np.maximum(values, low), high)


def _any_outside(values: Floats, low: Floats, high: Floats) -> bool:
    return bool(np.count_nonzero((values < low) | (values > high)))


def _rotation(vector: Floats) -> Floats:
    return np.asarray(Rotation.from_rotvec(vector).as_matrix())
