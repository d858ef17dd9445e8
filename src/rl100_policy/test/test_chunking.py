# SPDX-License-Identifier: Apache-2.0
"""Chunks: which action is due at a time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl100_policy.core.chunking import Chunk, ChunkSchedule
from rl100_policy.core.config import ActionConfig
from rl100_policy.core.errors import ActionError

PERIOD = 100
ACTION = ActionConfig(names=("linear.x", "linear.y"), low=(-1, -1), high=(1, 1))


def chunk(stamp=1000, actions=None, **changes):
    values = {
        "stamp_ns": stamp,
        "period_ns": PERIOD,
        "action_space": "ee_twist",
        "names": ("linear.x", "linear.y"),
        "actions": np.arange(8.0).reshape(4, 2) if actions is None else np.asarray(actions),
        "policy_version": "v1",
    }
    return Chunk(**(values | changes))


@pytest.mark.parametrize(("time", "index"), [(1000, 0), (1099, 0), (1100, 1), (1399, 3)])
def test_action_j_is_due_from_its_begin_until_just_before_the_next(time, index):
    np.testing.assert_array_equal(chunk().action_at(time), [2 * index, 2 * index + 1])


@pytest.mark.parametrize("time", [999, 1400, 10_000])
def test_nothing_is_due_before_the_chunk_begins_or_after_it_has_ended(time):
    assert chunk().action_at(time) is None


@pytest.mark.parametrize(
    "actions",
    [np.full((2, 2), np.nan), [[0, np.inf]], np.zeros((0, 2)), np.zeros((2, 3)), np.zeros(2)],
)
def test_a_chunk_that_cannot_be_executed_is_refused(actions):
    with pytest.raises(ActionError):
        chunk(actions=actions)


def test_flat_actions_of_the_wrong_length_are_refused_naming_the_sizes():
    with pytest.raises(ActionError, match="4 x 2 values, got 7"):
        Chunk.shaped([0.0] * 7, 4, 2)


@pytest.mark.parametrize(
    "changes",
    [{"names": ("linear.x", "linear.z")}, {"action_space": "joint_delta"}, {"period_ns": 50}],
)
def test_a_chunk_of_another_action_space_or_period_is_refused(changes):
    with pytest.raises(ActionError, match="expected"):
        chunk(**changes).check(ACTION, PERIOD, 10 * PERIOD)


def test_a_plan_longer_than_may_be_executed_is_refused_naming_the_parameter():
    chunk().check(ACTION, PERIOD, 4 * PERIOD)
    with pytest.raises(ActionError, match="longest_chunk"):
        chunk().check(ACTION, PERIOD, 4 * PERIOD - 1)


def test_a_newer_decision_overrides_the_older_one_from_its_begin():
    schedule = ChunkSchedule()
    schedule.push(chunk(1000))
    schedule.push(chunk(1200, actions=[[9.0, 9.0]] * 4))
    np.testing.assert_array_equal(schedule.due(1199)[0], [2.0, 3.0])
    np.testing.assert_array_equal(schedule.due(1200)[0], [9.0, 9.0])


@pytest.mark.parametrize("stamp", [1000, 900])
def test_a_decision_that_is_not_newer_is_refused(stamp):
    schedule = ChunkSchedule()
    schedule.push(chunk(1000))
    with pytest.raises(ActionError, match="not newer"):
        schedule.push(chunk(stamp))


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=12, unique=True), st.integers(0, 6000))
def test_what_is_due_comes_from_the_newest_chunk_that_covers_the_time(stamps, time):
    schedule, kept = ChunkSchedule(), []
    for stamp in sorted(stamps):
        schedule.push(chunk(stamp))
        kept = [*kept[-1:], stamp]
    covering = [stamp for stamp in kept if stamp <= time < stamp + 4 * PERIOD]
    due = schedule.due(time)
    assert (due is None) == (not covering)
    if due is not None:
        assert due[1].stamp_ns == max(covering)
