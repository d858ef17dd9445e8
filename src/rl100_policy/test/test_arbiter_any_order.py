# SPDX-License-Identifier: Apache-2.0
"""Whatever comes to the arbiter, in any order: a state machine against it, without ROS."""

from contextlib import suppress

import numpy as np
from arm_cell import (
    PERIOD_S,
    SOFT,
    Cell,
)
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from rl100_policy.core.arbiter import Answer, LeftAlone
from rl100_policy.core.errors import ActionError, ObservationError
from rl100_policy.core.gate_result import HELD, CommandSource, GateFlag

SPEEDS = st.one_of(
    st.floats(-0.5, 0.5), st.sampled_from([np.nan, np.inf, -np.inf, 0.0, 1e300, -1e300, 1e-300])
)


class AnyOrder(RuleBasedStateMachine):
    """Whatever comes, in any order: commands keep the limits, and move the arm for its master."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = Cell(SOFT)
        self.answered_ns = -1
        self.before: Answer | None = None
        self.believed, self.unknown = self.cell.now, False
        """The newest period with a joint state; whether the arm may be anywhere since."""

    @initialize()
    def begin(self) -> None:
        self.cell.go_on()

    @rule(source=st.sampled_from(CommandSource))
    def take(self, source: CommandSource) -> None:
        arbiter, was = self.cell.arbiter, self.cell.arbiter.source
        heard_s = arbiter._policy_heard_s
        try:
            arbiter.take(source, self.cell.now_s)
        except ActionError:
            unheard = source is CommandSource.POLICY and self.cell.now_s - heard_s > 1.5
            assert arbiter.estop or unheard
            assert arbiter.source is was

    @precondition(lambda self: not self.cell.arbiter.estop)
    @rule()
    def stop(self) -> None:
        self.cell.arbiter.stop()

    @precondition(lambda self: self.cell.arbiter.estop)
    @rule()
    def release(self) -> None:
        self.cell.arbiter.release()
        assert self.cell.arbiter.source is CommandSource.HOLD

    @rule()
    def pause(self) -> None:
        self.cell.arbiter.pause()

    @rule(reason=st.just("somebody else commands"))
    def give_up(self, reason: str) -> None:
        self.cell.arbiter.give_up(reason)
        assert self.cell.arbiter.source is CommandSource.HOLD

    @rule(speed=SPEEDS, off=st.sampled_from([-20, -2, 0, 1, 1, 1, 1, 3, 20]))
    def steer(self, speed: float, off: int) -> None:
        with suppress(ActionError):  # of another clock, or older than the one before
            self.cell.steer(speed, self.cell.now + off)

    @rule(
        actions=st.lists(st.tuples(SPEEDS, SPEEDS), min_size=1, max_size=6),
        ahead=st.sampled_from([-5, -1, 0, 1, 1, 1, 2, 30]),
    )
    def decide(self, actions: list[tuple[float, float]], ahead: int) -> None:
        with suppress(ActionError):  # not finite, of the future, or not newer than the last
            self.cell.decide(*actions, ahead=ahead)

    @rule(of=st.sampled_from([-3, -1, 0, 0, 1, 1, 1, 20]))
    def live_sign(self, of: int) -> None:
        with suppress(ActionError):  # of the future
            self.cell.see(self.cell.now + of, later_s=0.9 * PERIOD_S)

    @rule(joint=st.integers(0, 6), angle=st.floats(-0.3, 0.3))
    def push(self, joint: int, angle: float) -> None:
        self.cell.off[joint] = angle

    @rule()
    def let_go(self) -> None:
        self.cell.off[:] = 0.0

    @rule(periods=st.sampled_from([1, 2, 3, 5, 8, 11, 14, 30]))
    def silence(self, periods: int) -> None:
        for _ in range(periods):
            self.cell.go_on()

    @rule(at_last=st.booleans(), periods=st.integers(1, 6))
    def live(self, at_last: bool, periods: int) -> None:
        for _ in range(periods):
            self._period(at_last=at_last)

    def _period(self, *, at_last: bool) -> None:
        cell = self.cell
        cell.go_on()
        try:
            now_ns, now_s = cell.now_ns, cell.now_s
            assert cell.arbiter.begins_period(now_ns, cell.measured, now_ns, now_s)
        except ObservationError:
            return
        self.unknown |= cell.now - self.believed > 10
        self.believed = cell.now
        cell.arbiter.await_answer(cell.now_ns, cell.measured, cell.now_s)
        planned, stands = list(cell.planned), cell.places[-1]
        rests = all(np.allclose(each, stands, atol=1e-9) for each in planned)
        may_move = not cell.arbiter.estop and cell.arbiter.source is not CommandSource.HOLD
        try:
            answer = cell.answer(at_last=at_last)
        except ObservationError:
            return
        if not isinstance(answer, Answer):
            assert may_move or isinstance(answer, LeftAlone)
            return
        self._judge(answer, planned, may_move=may_move, rests=rests)
        cell.follow(answer)

    def _judge(
        self, answer: Answer, planned: list[np.ndarray], *, may_move: bool, rests: bool
    ) -> None:
        cell, command = self.cell, answer.result.joint_command
        assert self.answered_ns < answer.stamp_ns == cell.now_ns
        self.answered_ns = answer.stamp_ns
        assert np.isfinite(command).all()
        if cell.arbiter.estop:
            assert answer.result.flags & GateFlag.HELD_ESTOP
        goes_on = self._keeps_limits(cell.places, answer) and not self.unknown
        self.unknown = False
        anew = self._keeps_limits([cell.measured] * 3, answer)
        assert goes_on or anew, "faster than the arm may be"
        if not rests and cell.gate.tracks(cell.measured):
            assert goes_on, "a moving arm was stopped dead, or told to jump"
        on_its_way = planned[0] if planned else cell.places[-1]
        if not may_move:
            np.testing.assert_allclose(command, on_its_way, atol=1e-9)
        elif answer.result.flags & HELD:
            ends = [on_its_way, cell.measured]
            assert any(np.allclose(command, end, atol=1e-9) for end in ends)
        if anew and not goes_on:
            cell.places = [cell.measured] * 3
            cell.off[:] = 0.0

    def _keeps_limits(self, places: list[np.ndarray], answer: Answer) -> bool:
        arm = self.cell.gate.kinematics
        path = np.vstack([*places, answer.result.joint_command, *answer.result.stopping])
        path = np.vstack([path, path[-1:], path[-1:]])  # and stays there
        velocity = np.diff(path, axis=0) / PERIOD_S
        acceleration = np.diff(velocity, axis=0) / PERIOD_S
        jerk = np.diff(acceleration, axis=0) / PERIOD_S
        return bool(
            (np.abs(velocity[2:]) <= arm.velocity_limits + 1e-8).all()
            and (np.abs(acceleration[1:]) <= arm.acceleration_limits + 1e-6).all()
            and (np.abs(jerk) <= arm.jerk_limits + 1e-4).all()
        )


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
