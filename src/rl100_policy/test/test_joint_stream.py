# SPDX-License-Identifier: Apache-2.0
"""Which joint states the gate answers."""

from pathlib import Path

import numpy as np
import pytest

from rl100_policy.core.config import load_robot
from rl100_policy.core.errors import ObservationError
from rl100_policy.core.joint_stream import Arrival, JointStream
from rl100_policy.core.kinematics import ArmKinematics

ROBOT = load_robot(
    Path(__file__).parents[2] / "rl100_bringup" / "config" / "robots" / "panda.yaml"
)
ARM = ArmKinematics(ROBOT)
T, HOME = 100_000_000, np.array(ROBOT.home)
BEGIN = 1_000 * T


def stream(oldest_ns=None):
    return JointStream(ARM, T, oldest_ns)


def test_what_is_told_twice_or_out_of_order_is_old_and_a_jump_back_begins_anew():
    joints = stream()
    order = [BEGIN, BEGIN, BEGIN + 2 * T, BEGIN + T, BEGIN + 3 * T, BEGIN - 50 * T, BEGIN - 49 * T]
    expected = [
        Arrival.NEXT, Arrival.OLD, Arrival.NEXT, Arrival.OLD, Arrival.NEXT,
        Arrival.RESTARTED, Arrival.NEXT,
    ]  # fmt: skip
    assert [joints.arrives(stamp) for stamp in order] == expected
    assert joints.newest_ns == BEGIN - 49 * T
    assert joints.unseen_ns == T


def test_one_of_a_fast_stream_begins_each_period():
    joints, begun = stream(), []
    for stamp in range(BEGIN, BEGIN + 5 * T, T // 10):
        joints.arrives(stamp)
        if joints.begins_period(stamp, HOME, stamp):
            begun.append(stamp)
    np.testing.assert_array_equal(np.diff(begun), T)


@pytest.mark.parametrize("age", [-3 * T, 3 * T])
def test_what_is_not_of_now_is_refused_unless_the_time_is_unknown(age):
    joints = stream(oldest_ns=2 * T)
    joints.arrives(BEGIN)
    with pytest.raises(ObservationError, match=r"stamped [+-]0\.300 s from this node's clock"):
        joints.begins_period(BEGIN, HOME, BEGIN + age)
    assert joints.begins_period(BEGIN, HOME, 0)
    assert stream().begins_period(BEGIN, HOME, BEGIN + age), "in lockstep time waits"


def test_a_jump_of_the_arm_is_refused():
    joints = stream()
    joints.arrives(BEGIN)
    joints.begins_period(BEGIN, HOME, BEGIN)
    joints.arrives(BEGIN + T)
    with pytest.raises(ObservationError, match="joint 0 jumped"):
        joints.begins_period(BEGIN + T, HOME + 2.0, BEGIN + T)
