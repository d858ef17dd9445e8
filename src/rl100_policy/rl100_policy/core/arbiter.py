# SPDX-License-Identifier: Apache-2.0
"""Who commands the arm in a control period, and when that period is answered.

The command gate answers one request with one command that keeps the limits. Which request that is,
of whom, whether it is of now, how long it is waited for and where the arm goes on from are decided
here. Pure: no ROS, and every time is an argument.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rl100_policy.core.chunking import Chunk, ChunkSchedule, Due
from rl100_policy.core.command import CommandGate
from rl100_policy.core.command_timing import CommandTiming, TimedWay
from rl100_policy.core.config import ActionConfig
from rl100_policy.core.errors import ActionError, ObservationError
from rl100_policy.core.gate_result import HELD, CommandSource, GateFlag, GateResult
from rl100_policy.core.joint_stream import Arrival, JointStream
from rl100_policy.core.life_signs import longest_sight_s

Floats = NDArray[np.float64]

Steering = Callable[[Floats | None, Floats], GateResult]
"""How the gate follows a person: request and measured joints to the answer."""
Wish = tuple[Floats, Steering] | None

_LATE, _LATE_S = 1.2, 0.05
"""Control periods that a person's request may be old, and seconds at the least: devices have rates
and clocks of their own."""
_OLDEST, _OLDEST_S = 2.0, 0.05
"""Control periods that a joint state may be old, and seconds at the least."""
_LONGEST_ABSENCE_S, _LEAST_ABSENCE = 1.0, 5
"""A policy that has decided nothing for so long, and so many periods, loses the command, and
whoever has it where joint states are missing for longer."""
_READY_S = 1.5
"""A policy that has given no sign of life for longer cannot be put in command [s]."""
_OTHER_CLOCK_S = 1.0
"""What is stamped farther from now than this has another clock [s]."""
_SILENT, _SILENT_S = 0.75, 0.05
"""Control periods, and seconds at the least, without a sign of life of a policy after which what
it planned is not followed."""
_OLD_DECISION = 2
"""Control periods before it took command that what a policy decides about may be of, real time
only: in lockstep others that command may be far ahead of it."""
_SIGHTS = 9
"""Observations that tell how often some come; until half of them have, once a control period."""
_FOR_EVER = 10**6
"""Control periods in which every arm comes to rest."""
_TO_CONTROLLER_S = 2e-3
"""Making a command and its way to the controller take about this long."""
_AGES, _OLD = 50, 0.5
"""Joint states that are older than so many control periods are told about, if all are."""
_AT_REST = 1e-6
"""Slower than this is no motion [rad/s, m/s]."""
_SILENCE = 10
"""Control periods without a possible joint state after which the arm may be anywhere."""


@dataclass(frozen=True)
class Timeouts:
    """What is waited for, how long, and what is too old."""

    lockstep: bool = False
    """A period is answered by the request that carries its stamp, however long that takes;
    nothing below counts but ``longest_chunk_s`` and ``blend``."""
    teleop_s: float = 0.0
    """Age at which a person's request is not used any more [s]; 0: 1.2 control periods, .05 s at
    the least."""
    joint_state_s: float = 0.0
    """Age, or time ahead, at which a joint state is not answered [s]; 0: two control periods,
    .05 s at the least."""
    longest_chunk_s: float = 4.0
    """Longest time that the arm may act on one observation [s]."""
    policy_s: float = 0.0
    """Time without a sign of life of the policy after which what it planned is not followed [s];
    0: .75 control periods, .05 s at the least."""
    patience: float = 0.5
    """Control periods that a period waits for the policy's action at most."""
    missing_frames: int = 0
    """Observations in a row that may be missing while what the policy planned is followed."""
    blend: int = 0
    """Control periods over which a newer chunk takes over."""

    def resolved(self, period_s: float) -> Timeouts:
        """With what its zeros stand for at a control period [s]."""
        return replace(
            self,
            teleop_s=self.teleop_s or max(_LATE * period_s, _LATE_S),
            joint_state_s=self.joint_state_s or max(_OLDEST * period_s, _OLDEST_S),
            policy_s=self.policy_s or max(_SILENT * period_s, _SILENT_S),
        )


_NAMES = {
    "teleop_timeout": "teleop_s",
    "joint_state_timeout": "joint_state_s",
    "policy_timeout": "policy_s",
    "longest_chunk": "longest_chunk_s",
    "patience": "patience",
    "missing_frames": "missing_frames",
}
"""Parameters of the command gate that say how long something may be missing, and where."""


@dataclass(frozen=True)
class _Waiting:
    """A control period, and what it begins with."""

    number: int
    stamp_ns: int
    q: Floats
    """Measured joint positions, [n], rad."""
    arrived_s: float
    """By the clock of the caller [s]."""
    age_s: float
    """How old it was then, of what is of the same clock [s]."""


@dataclass(frozen=True)
class _Asked:
    """A person's request."""

    stamp_ns: int
    """By whoever asks."""
    latest_ns: int
    """When it came, by the clock of the stamps."""
    what: Floats
    how: Steering
    """How the gate follows it."""

    def is_of(self, stamp_ns: int, now_ns: int, usable_ns: int) -> bool:
        """Whether it is for a control period that began at a stamp, and came not long ago.

        Whoever asks may share the clock of the joint states, or that of the gate. One that is
        ahead is of when it came, and moves the arm no longer for that.
        """
        asked_ns = min(self.stamp_ns, self.latest_ns)
        return abs(stamp_ns - asked_ns) <= usable_ns and now_ns - self.latest_ns <= usable_ns


@dataclass(frozen=True)
class Wait:
    """A control period that is not answered yet."""

    patience_begins: bool
    """In real time, the first time: it is to be answered at last when ``patience_s`` is over."""


@dataclass(frozen=True)
class LeftAlone:
    """A control period that gets no command."""

    reason: str


@dataclass(frozen=True)
class Answer:
    """A control period and what the arm is told in it."""

    stamp_ns: int
    """Its begin: the stamp of the joint state."""
    arrived_s: float
    """When that came, by the clock of the caller [s]."""
    way: TimedWay
    """When the arm is to be there, and on its way to it and to rest."""
    source: CommandSource
    """Who is in command."""
    proposal: Due | None
    """What the policy wants, whoever is in command."""
    result: GateResult
    why_held: str = ""
    """Why a policy in command is not followed, for people; empty if it is."""


class Arbiter:
    """Control periods one after the other, of one arm.

    Each is begun by a joint state and answered once, or left without a command; see the command
    gate node for what that means to the arm.
    """

    def __init__(
        self,
        gate: CommandGate,
        action: ActionConfig,
        period_s: float,
        timeouts: Timeouts,
        *,
        estop: bool = False,
    ) -> None:
        """Begin with nobody in command.

        Args:
            gate: What keeps the limits.
            action: What the policy commands.
            period_s: Control period [s].
            timeouts: See there.
            estop: The emergency stop is latched.
        """
        self._gate, self._action = gate, action
        self._timeouts = timeouts = timeouts.resolved(period_s)
        self.lockstep = timeouts.lockstep
        """Whether periods wait for their requests."""
        self._period_ns = round(period_s * 1e9)
        self._teleop_ns = round(timeouts.teleop_s * 1e9)
        self._longest_chunk_ns = round(timeouts.longest_chunk_s * 1e9)
        self._longest_absence = max(_LEAST_ABSENCE, round(_LONGEST_ABSENCE_S / period_s))
        self._policy_heard_s = self._policy_saw_s = -np.inf
        """When the policy last gave a sign of life, and one of something new that it saw, by the
        clock of the caller."""
        self._policy_saw_ns = -1
        """Stamp of the newest observation that it told of."""
        self._sights_s: deque[float] = deque(maxlen=_SIGHTS)
        """Times between two new observations."""
        self._taken_ns = -1
        """Newest joint state when the policy took command."""
        self._joints = JointStream(
            gate.kinematics,
            self._period_ns,
            None if timeouts.lockstep else round(timeouts.joint_state_s * 1e9),
        )
        self._timing = CommandTiming(
            period_s, gate.kinematics.velocity_limits, gate.kinematics.acceleration_limits
        )
        self._schedule = ChunkSchedule(timeouts.blend)
        self.patience_s = timeouts.patience * period_s
        """How long a period waits for the policy's action at most [s]."""
        self.source = CommandSource.HOLD
        """Who is in command."""
        self.taken = 0
        """How often somebody was put there; a policy is to decide anew each time."""
        self.estop = estop
        """Whether the emergency stop is latched."""
        self.at_home = False
        """Whether the arm was at home in the newest period."""
        self.notices: list[str] = []
        """What came about by itself, for people, newest last; whoever tells it takes it out."""
        self._fresh = True
        """Nobody knows where the arm is: it is commanded from where it is measured."""
        self._changed = False
        """Somebody else is in command than in the last period that was answered."""
        self._answered_ns = -1
        self._planned: int | None = None
        """Number of the last period whose motion the gate has taken into account."""
        self._followed: tuple[int, float] | None = None
        """Begin of the last period in which who acts alone was followed, or of the one before it
        was not for the first time, and that by the clock of the caller [s]; None: not known."""
        self._waited_ns = -1
        """Begin of the period that waits or was the last to wait."""
        self._wish: _Asked | None = None
        """Newest request of a person."""
        self._waiting: _Waiting | None = None
        self._age_s, self._are_old = 0.0, False
        """How old the newest joint state was when it came, and whether all are old."""
        self._ages_s: deque[float] = deque(maxlen=_AGES)
        self._heard_s = -np.inf
        """When the newest joint state came, or a source took command."""

    def relaxed_timeouts(self) -> list[str]:
        """One line for each timeout that is longer than it is by itself, for people."""
        if self.lockstep:
            return []
        usual = Timeouts().resolved(self._period_ns * 1e-9)
        return [
            f"{name} is {getattr(self._timeouts, key):g}, usually {getattr(usual, key):g}"
            for name, key in _NAMES.items()
            if getattr(self._timeouts, key) > getattr(usual, key)
        ]

    # What comes

    def begins_period(self, stamp_ns: int, q: Floats, now_ns: int, now_s: float) -> bool:
        """Take a joint state; whether it begins a control period.

        If so, the period before is to be answered at last, this one given to :meth:`await_answer`.

        Args:
            stamp_ns: Its stamp.
            q: Joint positions, [n], rad.
            now_ns: Time by the clock of the stamps; 0: unknown yet.
            now_s: Time by a clock that nobody sets [s].

        Raises:
            ObservationError: If it is not of now, or no arm can have got there.
        """
        before_ns = self._joints.newest_ns
        arrival = self._joints.arrives(stamp_ns, now_ns)
        if arrival is Arrival.OLD:
            return False
        if arrival is Arrival.RESTARTED:
            self.notices.append(
                f"joint state clock jumped back to {stamp_ns} ns; actions are forgotten"
            )
            self._forget_requests()
            self._gate.coast(_FOR_EVER)  # how long it was is not known: it has come to rest
            self._timing.restart()
            self._fresh, self._planned, self._taken_ns = True, None, -1
            if self._followed is not None:
                self._followed = stamp_ns - (before_ns - self._followed[0]), self._followed[1]
            self._policy_saw_ns, self._policy_saw_s = -1, -np.inf
        begins = self._joints.begins_period(stamp_ns, q)
        if not self.lockstep:
            self._notice_age((now_ns - stamp_ns) * 1e-9)
        self._notice_silence(now_s)
        return begins

    def _notice_age(self, age_s: float) -> None:
        """Commands lag behind joint states that are old, and people should know."""
        self._age_s = max(0.0, age_s) if age_s < _OTHER_CLOCK_S else 0.0
        self._ages_s.append(self._age_s)
        are_old = len(self._ages_s) == _AGES and min(self._ages_s) > _OLD * self._period_ns * 1e-9
        if are_old and not self._are_old:
            self.notices.append(
                f"joint states are {min(self._ages_s):.3f} s old when they come, and commands lag "
                "as much: is their driver slow, or its clock behind this one?"
            )
        self._are_old = are_old

    def _notice_silence(self, now_s: float) -> None:
        """Where nothing could be commanded for a while the arm may have been moved.

        After a longer one whoever was in command, or has taken it long ago, does not move the arm
        by itself.
        """
        in_command, silent_ns = self.source is not CommandSource.HOLD, self._joints.silent_ns
        waited_for = self.lockstep and in_command and not self._changed
        if silent_ns > _SILENCE * self._period_ns and not waited_for:
            self._fresh = True
        silent_s = min(silent_ns * 1e-9, now_s - self._heard_s)  # where time jumps or is slow
        longest_s = self._longest_absence * self._period_ns * 1e-9
        if in_command and silent_s > longest_s and not self.lockstep:
            self.give_up(f"no joint state to go by for {silent_s:.1f} s")
        self._heard_s = now_s

    def await_answer(self, stamp_ns: int, q: Floats, now_s: float) -> None:
        """Let the control period that has just begun wait for its answer.

        Args:
            stamp_ns: Its begin.
            q: Measured joint positions, [n], rad.
            now_s: Time by the clock of :meth:`begins_period` [s].
        """
        self._waiting = _Waiting(self._joints.number, stamp_ns, q, now_s, self._age_s)

    def is_out_of_patience(self, now_s: float) -> bool:
        """Whether a period waits for longer than it may.

        Args:
            now_s: Time by the clock of :meth:`begins_period` [s].
        """
        return self._waiting is not None and now_s - self._waiting.arrived_s >= self.patience_s

    def ask(self, stamp_ns: int, asked: Floats, how: Steering, now_ns: int) -> None:
        """Take a person's request.

        Args:
            stamp_ns: Its stamp; 0, in real time: it is of now.
            asked: What is asked for.
            how: How the gate follows it.
            now_ns: Time by the clock of the stamps.

        Raises:
            ActionError: In real time, if it is of another clock, too old, too far ahead, or older
                than one before.
        """
        newest_ns = self._joints.newest_ns
        latest_ns = max(now_ns, newest_ns)
        if not self.lockstep:
            stamp_ns = stamp_ns or latest_ns
            apart_s = (stamp_ns - latest_ns) / 1e9
            if newest_ns >= 0 and abs(apart_s) > _OTHER_CLOCK_S:
                raise ActionError(
                    f"teleop command stamped {apart_s:+.1f} s from this node's clock; give the "
                    "device the same one (use_sim_time), or no stamp"
                )
            is_ahead = stamp_ns > latest_ns + self._teleop_ns
            if is_ahead or stamp_ns < newest_ns - self._teleop_ns:
                raise ActionError(
                    f"teleop command stamped {abs(apart_s):.3f} s "
                    f"{'ahead of' if is_ahead else 'behind'} this node's clock, "
                    f"{self._timeouts.teleop_s:g} s are usable (teleop_timeout); it is ignored"
                )
            if self._wish is not None and stamp_ns < self._wish.stamp_ns:
                raise ActionError("teleop command older than the one before; it is ignored")
        self._wish = _Asked(stamp_ns, latest_ns, asked, how)

    def hear_policy(self, saw_ns: int, now_ns: int, now_s: float) -> None:
        """Take a sign of life of the policy: what it planned may be followed for a while.

        Args:
            saw_ns: Stamp of the newest observation that it has.
            now_ns: Time by the clock of the stamps.
            now_s: Time by the clock of :meth:`begins_period` [s].

        Raises:
            ActionError: If that is of the future.
        """
        self._check_is_not_ahead("observation", saw_ns, now_ns)
        self._policy_heard_s = now_s
        if saw_ns > self._policy_saw_ns:
            since_s = now_s - self._policy_saw_s
            in_command = self.source is CommandSource.POLICY and not self.estop
            is_sight = since_s <= longest_sight_s(self._period_ns * 1e-9)
            if in_command and is_sight:  # else it tells of some only
                self._sights_s.append(since_s)
            self._policy_saw_ns, self._policy_saw_s = saw_ns, now_s

    @property
    def _usual_sight_s(self) -> float:
        """Usual time between two new observations, a control period at the least [s]."""
        period_s = self._period_ns * 1e-9
        if len(self._sights_s) <= _SIGHTS // 2:
            return period_s
        return max(period_s, sorted(self._sights_s)[len(self._sights_s) // 2])

    def _check_is_not_ahead(self, what: str, stamp_ns: int, now_ns: int) -> None:
        ahead_ns = stamp_ns - max(self._joints.newest_ns, now_ns)
        if ahead_ns > self._period_ns:
            raise ActionError(
                f"{what} for a time {ahead_ns} ns from now; do all machines share one clock?"
            )

    def decide(self, chunk: Chunk, now_ns: int, now_s: float) -> None:
        """Take a decision of the policy, which is a sign of life, too.

        One of shadow mode is kept beside what others command, and not executed.

        Args:
            chunk: Its actions.
            now_ns: Time by the clock of the stamps.
            now_s: Time by the clock of :meth:`begins_period` [s].

        Raises:
            ActionError: If it is for another arm or task, of the future, of long before the
                policy took command, longer than may be executed, or not newer than the last.
        """
        chunk.check(self._action, self._period_ns, self._longest_chunk_ns)
        self._check_is_not_ahead("chunk", chunk.stamp_ns, now_ns)
        seen_before_ns = self._taken_ns - chunk.stamp_ns
        is_old = self._taken_ns >= 0 and seen_before_ns > _OLD_DECISION * self._period_ns
        if is_old and not self.lockstep:
            raise ActionError("chunk decided before the policy took command; it is not executed")
        if chunk.shadow and self.source is CommandSource.POLICY:
            return  # decided before it had heard that it is in command
        self._schedule.push(chunk)
        self.hear_policy(chunk.stamp_ns, now_ns, now_s)

    # Who is in command

    def take(self, source: CommandSource, now_s: float) -> None:
        """Put a source in command; it begins anew, also one that is there already.

        Only a person who is there already, in lockstep, has asked for what time waits for.

        Args:
            source: Which.
            now_s: Time by the clock of :meth:`begins_period` [s].

        Raises:
            ActionError: If the emergency stop is latched, and it is any but nobody; or, in real
                time, if it is a policy that gives no sign of life.
        """
        if self.estop and source is not CommandSource.HOLD:
            raise ActionError("the emergency stop is latched; call gate/release first")
        unheard_s = now_s - self._policy_heard_s
        if source is CommandSource.POLICY and unheard_s > _READY_S and not self.lockstep:
            raise ActionError(
                "the policy is not ready: it gives no sign of life. It does when it has loaded a "
                "version, sees the present and hears this gate, up to some seconds after a start; "
                "policy/status tells more"
            )
        # Only who was in command a moment ago has a command to go on from.
        self._fresh |= self._joints.newest_ns - self._answered_ns > 2 * self._period_ns
        if not (self.lockstep and source is self.source):
            self._wish = None
        self.source, self._changed = source, True
        self.taken += 1
        self._heard_s, self._followed = now_s, None
        if source is CommandSource.POLICY:
            self._schedule.clear()  # nothing that it decided for another's motion, or place
            self._taken_ns = self._joints.newest_ns
            self._policy_saw_ns, self._policy_saw_s = -1, -np.inf  # of some it has told, at most

    def give_up(self, reason: str) -> None:
        """Leave nobody in command, for a reason that people are told."""
        self.source = CommandSource.HOLD
        self._forget_requests()
        self.notices.append(f"command given up: {reason}")

    def stop(self) -> None:
        """Latch the emergency stop."""
        self.estop = True

    def release(self) -> None:
        """Release the emergency stop; nobody is in command then."""
        self.estop, self.source, self._fresh = False, CommandSource.HOLD, True

    def pause(self) -> None:
        """Leave nobody in command, and the period that waits without an answer."""
        self.source, self._waiting, self._fresh = CommandSource.HOLD, None, True
        self._forget_requests()

    def _forget_requests(self) -> None:
        self._wish = None
        self._schedule.clear()

    # The control period

    def answer(self, now_s: float, *, at_last: bool = False) -> Answer | Wait | LeftAlone | None:
        """Answer the period that waits, if everything it needs is there.

        Args:
            now_s: Time by the clock of :meth:`begins_period` [s].
            at_last: In real time it waits no longer for the policy's action.

        Returns:
            None if no period waits.

        Raises:
            ObservationError: If the arm is where no arm can be: it is left alone.
        """
        if self._waiting is None:
            return None
        waiting, stamp, q = self._waiting, self._waiting.stamp_ns, self._waiting.q
        self._notice_absence(stamp, now_s)
        proposal = self._schedule.due(stamp)
        waited_s = now_s - waiting.arrived_s
        wish = self._due_wish(stamp, stamp + round((waiting.age_s + waited_s) * 1e9))
        why_held = self._why_not_followed(proposal, now_s)
        followed = None if why_held else proposal
        in_command = self.source is not CommandSource.HOLD and not self.estop
        if in_command and self._waits(followed, wish, at_last=at_last):
            begins = self._waited_ns != stamp  # what else comes meanwhile gives no more time
            self._waited_ns = stamp
            return Wait(begins and not self.lockstep)
        self._waiting, given_ns = None, stamp
        if not self.lockstep:
            given_ns += round((waiting.age_s + waited_s + _TO_CONTROLLER_S) * 1e9)
            is_over = waited_s > max(self.patience_s, self._period_ns * 1e-9)
            if is_over or self._timing.is_too_late(waiting.number, given_ns):
                late_s = waiting.age_s + waited_s
                why_not = f"a period was to be answered {late_s:.3f} s after it began"
                return self._left_alone(stamp, now_s, why_not)
        self._coast_until(waiting.number)
        self.at_home = self._gate.at_home(q)
        try:
            why_not = self._begin_where_it_should(q, in_command=in_command)
        except ObservationError as error:
            self._notice_absence(stamp, now_s, str(error))
            raise
        if why_not:
            return self._left_alone(stamp, now_s, why_not)
        result = self._result(q, wish, followed)
        way = self._timing.way(waiting.number, given_ns, result)
        answer = Answer(stamp, waiting.arrived_s, way, self.source, proposal, result, why_held)
        self._answered_ns, self._planned = stamp, waiting.number
        if why_not := _why_not_moved(result, why_held):
            self._notice_absence(stamp, now_s, why_not)
        else:
            self._followed = stamp, now_s
        return answer

    def _left_alone(self, stamp_ns: int, now_s: float, reason: str) -> LeftAlone:
        self._notice_absence(stamp_ns, now_s, reason)
        return LeftAlone(reason)

    def _due_wish(self, stamp_ns: int, now_ns: int) -> Wish:
        """What the person asks for in a period; None if nothing, or too long ago."""
        wish = self._wish
        if wish is None:
            return None
        if self.lockstep:
            is_due = wish.stamp_ns == stamp_ns
        else:
            is_due = wish.is_of(stamp_ns, now_ns, self._teleop_ns)
        return (wish.what, wish.how) if is_due else None

    def _why_not_followed(self, proposal: Due | None, now_s: float) -> str:
        """Why what a policy wants may not be executed, for people; empty if it may.

        It must mean it, live, and see.
        """
        if proposal is None:
            return "the policy has decided nothing for this time"
        if proposal.chunk.shadow:
            return "the policy was not in command when it decided"
        if self.lockstep:
            return ""
        silent_s = now_s - self._policy_heard_s
        if silent_s > self._timeouts.policy_s:
            return f"no sign of life of the policy for {silent_s:.2f} s (policy_timeout)"
        unseen_s, usual_s = now_s - self._policy_saw_s, self._usual_sight_s
        over_s = usual_s - self._period_ns * 1e-9 + self._timeouts.missing_frames * usual_s
        if unseen_s > self._timeouts.policy_s + over_s:
            return (
                f"the policy has seen nothing new for {unseen_s:.2f} s, where something comes "
                f"every {usual_s:.2f} s (missing_frames)"
            )
        return ""

    def _waits(self, proposal: Due | None, wish: Wish, *, at_last: bool) -> bool:
        """Whether a period waits for who is in command."""
        is_there = {
            CommandSource.POLICY: proposal is not None and proposal.fresh,
            CommandSource.TELEOP: wish is not None,
        }
        if is_there.get(self.source, True):
            return False
        if self.lockstep:
            return True
        patient = self.patience_s > 0 and not at_last
        return patient and self.source is CommandSource.POLICY

    def _coast_until(self, number: int) -> None:
        """Go along with a controller that has got no command since the last one."""
        if self._planned is not None:
            self._gate.coast(number - 1 - self._planned)
        self._planned = number - 1

    def _begin_where_it_should(self, q: Floats, *, in_command: bool) -> str:
        """Let who is in command begin where it should.

        Returns why nothing is to be commanded instead, for people; empty if something is.

        An arm that still moves along the last command goes on from there whoever commands. In
        real time nothing but a source in command begins at a measurement, and none at one that
        the others do not bear out: one wrong joint state would throw the arm.
        """
        begins = self._changed or self._fresh
        if begins and (not self._fresh or self._gate.is_moving) and self._gate.tracks(q):
            self._gate.hand_over()
        elif begins and self.lockstep:
            self._gate.reset(q)
        elif begins and in_command and (place := self._joints.resting_place()) is not None:
            self._gate.reset(place)
        elif begins and in_command:
            return "who is in command begins when the joint states agree that the arm rests"
        elif begins:
            who = "the emergency stop is latched" if self.estop else "nobody is in command"
            return f"{who}: the arm is left to its controller"
        if not in_command and not self._gate.tracks(q):
            self._fresh = True
            return "nobody is in command and the arm was moved: it is left alone"
        self._changed = self._fresh = False
        return ""

    def _result(self, q: Floats, wish: Wish, proposal: Due | None) -> GateResult:
        """What the arm is told in this period."""
        if self.estop:
            return self._gate.hold(GateFlag.HELD_ESTOP)
        match self.source:
            case CommandSource.HOLD:
                return self._gate.hold()
            case CommandSource.HOME:
                return self._gate.go_home(q)
            case CommandSource.POLICY:
                return self._gate.step(proposal.action if proposal else None, q)
            case CommandSource.TELEOP:
                return wish[1](wish[0], q) if wish else self._gate.steer(None, q)

    def _notice_absence(self, stamp_ns: int, now_s: float, why_not: str = "") -> None:
        """Let who acts without a person lose the command that was not followed for a while.

        Otherwise the arm would begin to move by itself when what kept it is over: a policy that
        was killed and started anew, a hand that held it. The while is over when it is by the
        stamps, and by a clock that nobody sets: time may jump, and may be slow.

        Args:
            stamp_ns: Begin of the period.
            now_s: Time by the clock of :meth:`begins_period` [s].
            why_not: Why it is not followed in this period, for people; empty: it is not known yet
                whether it will be.
        """
        acts_alone = self.source in (CommandSource.POLICY, CommandSource.HOME)
        if not acts_alone or self.estop or self.lockstep:
            self._followed = None
            return
        period_s = self._period_ns * 1e-9
        if self._followed is None:
            self._followed = stamp_ns - self._period_ns, now_s - period_s
        absent_s = min((stamp_ns - self._followed[0]) * 1e-9, now_s - self._followed[1])
        ends = self._longest_absence + (-0.5 if why_not else 0.5)  # it may yet be followed
        if absent_s > ends * period_s:
            self._followed = None
            self.give_up(f"not followed for a second; {why_not or 'nothing was commanded'}")


def _why_not_moved(result: GateResult, why_held: str) -> str:
    """Why what somebody wants moves the arm not at all, for people; empty if it does, or may.

    The bounds of a task and of the joints stay where they are: who pushes against them goes on by
    will. What the arm must not touch may go away.

    Args:
        result: What the arm is told.
        why_held: Why a policy is not followed, for people; empty if it is.
    """
    flags = result.flags
    if flags & HELD:
        if GateFlag.HELD_STATE in flags:
            return "the arm is not where it was told to be"
        return why_held or f"the arm holds: {(flags & HELD).name}"
    if GateFlag.CLIPPED_COLLISION in flags and not (np.abs(result.velocity) > _AT_REST).any():
        return "the arm would touch something (CLIPPED_COLLISION)"
    return ""
