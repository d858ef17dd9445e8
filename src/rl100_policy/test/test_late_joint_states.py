# SPDX-License-Identifier: Apache-2.0
"""What a controller makes of the gate's commands, whenever joint states come."""

from pathlib import Path

import numpy as np
import pytest
from straight_controller import StraightController

from rl100_policy.core.arbiter import Answer, Arbiter, Timeouts
from rl100_policy.core.command import CommandGate
from rl100_policy.core.config import load_robot, load_task
from rl100_policy.core.errors import ObservationError
from rl100_policy.core.gate_result import CommandSource

CONFIG = Path(__file__).parents[2] / "rl100_bringup" / "config"
TASK = load_task(CONFIG / "tasks" / "push_t.yaml")
PANDA = load_robot(CONFIG / "robots" / "panda.yaml")
SOFT = {"acceleration_limits": (3.0,) * 7, "jerk_limits": (1e6,) * 7}
"""Of an arm that takes several periods to stop."""
SECONDS, BEGIN_S, TAKEN_S = 6.0, 1000.0, 0.5
JOINT, SPEED = 6, 2.0


def driven(rate_hz, period_s, oldest_s, lost, changes, seed):
    """An arm that is jogged to and fro; its controller, the gate, and the longest lag [s]."""
    robot = PANDA.model_copy(update={"control_period": period_s, **changes})
    gate, rng = CommandGate(robot, TASK), np.random.default_rng(seed)
    arbiter = Arbiter(gate, TASK.action, period_s, Timeouts())
    controller, heard_s, lag_s = StraightController(np.array(robot.home)), 0.0, 0.0
    for at in range(round(SECONDS * rate_hz)):
        stamp_s, age_s = BEGIN_S + at / rate_hz, rng.uniform(0.0, oldest_s)
        if rng.random() < lost:
            continue
        heard_s = max(heard_s, stamp_s + age_s)  # one after the other
        stamp_ns, now_ns = round(stamp_s * 1e9), round(heard_s * 1e9)
        q = controller.at(np.array([stamp_s]))[0]
        try:
            begins = arbiter.begins_period(stamp_ns, q, now_ns, heard_s)
        except ObservationError:  # it came too late after one that did, too
            continue
        if not begins:
            continue
        if stamp_s > BEGIN_S + TAKEN_S and arbiter.source is CommandSource.HOLD:
            arbiter.take(CommandSource.TELEOP, heard_s)
        jog = np.zeros(7)
        jog[JOINT] = SPEED * (1 if stamp_s % 2.0 < 1.0 else -1)
        arbiter.ask(stamp_ns, jog, gate.jog, now_ns)
        arbiter.await_answer(stamp_ns, q, heard_s)
        answer = arbiter.answer(heard_s, at_last=True)
        if isinstance(answer, Answer):
            controller.follow(heard_s, answer.way)
            lag_s = max(lag_s, answer.way.end_ns * 1e-9 - stamp_s - period_s)
    return controller, gate, lag_s


@pytest.mark.parametrize("changes", [{}, SOFT], ids=["hard", "soft"])
@pytest.mark.parametrize("lost", [0.0, 0.05], ids=["all", "some"])
@pytest.mark.parametrize("oldest_s", [0.002, 0.045])
@pytest.mark.parametrize(
    ("rate_hz", "period_s"),
    [(10, 0.1), (12, 0.1), (25, 0.05), (30, 0.04), (100, 0.01), (125, 0.01), (1000, 0.05)],
)
def test_the_arm_is_no_faster_than_its_limits(rate_hz, period_s, oldest_s, lost, changes):
    """Regression: what came late was to be made up for, and rounded times ran away."""
    controller, gate, lag_s = driven(rate_hz, period_s, oldest_s, lost, changes, seed=0)
    times = np.arange(controller.times[1], controller.times[-1] - period_s, period_s / 10)
    before, here, after = (controller.at(times + by) for by in (-period_s, 0.0, period_s))
    velocity = np.abs(np.diff(here, axis=0)) / (period_s / 10)
    acceleration = np.abs(after - 2.0 * here + before) / period_s**2
    assert (velocity.max(axis=0) > 0.1).any(), "it moves"
    assert (velocity <= gate.kinematics.velocity_limits + 1e-6).all()
    assert (acceleration <= 3.0 * gate.kinematics.acceleration_limits).all()
    assert lag_s <= oldest_s + 2.0 * period_s
