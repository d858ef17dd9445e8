# SPDX-License-Identifier: Apache-2.0
"""Chunks: which action is due at a time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl100_policy.core.chunking import Chunk, ChunkSchedule, lead
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


def due_of_one(time):
    schedule = ChunkSchedule()
    schedule.push(chunk())
    return schedule.due(time)


@pytest.mark.parametrize(("time", "index"), [(990, 0), (1000, 0), (1089, 0), (1100, 1), (1389, 3)])
def test_action_j_is_due_from_about_its_begin_until_the_next(time, index):
    np.testing.assert_array_equal(due_of_one(time).action, [2 * index, 2 * index + 1])


@pytest.mark.parametrize("time", [949, 1390, 10_000])
def test_nothing_is_due_before_the_chunk_begins_or_after_it_has_ended(time):
    assert due_of_one(time) is None


@pytest.mark.parametrize("phase", [-45, -5, 0, 5, 45, 90, 95])
@given(jitter=st.lists(st.integers(-4, 4), min_size=7, max_size=7))
def test_no_action_of_a_chunk_is_due_twice_or_left_out_because_stamps_jitter(phase, jitter):
    """Regression: arm and camera sampled together, stamps half a percent of a period apart."""
    schedule = ChunkSchedule()
    schedule.push(chunk(1000, actions=np.arange(16.0).reshape(8, 2)))
    found = [schedule.due(1000 + phase + 100 * at + off) for at, off in enumerate(jitter)]
    assert {first.action[0] - 2 * at for at, first in enumerate(found)} <= {0.0, 2.0}
    assert np.diff([each.action[0] for each in found]).tolist() == [2.0] * 6


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
    np.testing.assert_array_equal(schedule.due(1189).action, [2.0, 3.0])
    np.testing.assert_array_equal(schedule.due(1200).action, [9.0, 9.0])


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
    early = PERIOD // 10
    covering = [stamp for stamp in kept if stamp <= time + early < stamp + 4 * PERIOD]
    if not covering and 0 < kept[-1] - time <= PERIOD // 2:
        covering = kept[-1:]
    due = schedule.due(time)
    assert (due is None) == (not covering)
    if due is not None:
        assert due.chunk.stamp_ns == max(covering)


def test_a_newer_chunk_takes_over_little_by_little():
    schedule = ChunkSchedule(blend=2)
    schedule.push(chunk(1000, actions=[[0.0, 0.0]] * 8))
    schedule.due(1000)
    schedule.push(chunk(1200, actions=[[3.0, 6.0]] * 8))
    found = [schedule.due(1000 + 100 * step).action.tolist() for step in range(2, 6)]
    np.testing.assert_allclose(found, [[1, 2], [2, 4], [3, 6], [3, 6]])


def test_the_same_period_may_be_asked_for_again():
    schedule = ChunkSchedule(blend=1)
    schedule.push(chunk(1000, actions=[[0.0, 0.0]] * 8))
    schedule.due(1000)
    schedule.push(chunk(1200, actions=[[3.0, 6.0]] * 8))
    for time in (1300, 1310, 1349):
        np.testing.assert_allclose(schedule.due(time).action, [1.5, 3.0])


def test_a_chunk_that_has_ended_does_not_count_any_more():
    schedule = ChunkSchedule(blend=5)
    schedule.push(chunk(1000, actions=[[0.0, 0.0]] * 3))
    schedule.due(1000)
    schedule.push(chunk(1200, actions=[[3.0, 6.0]] * 8))
    np.testing.assert_allclose(schedule.due(1200).action, [0.5, 1.0])
    np.testing.assert_allclose(schedule.due(1300).action, [3.0, 6.0])


def test_a_chunk_that_was_never_due_leaves_no_trace_in_the_next_ones_turn():
    schedule = ChunkSchedule(blend=1)
    schedule.push(chunk(1000, actions=[[0.0, 0.0]] * 8))
    schedule.due(1000)
    schedule.push(chunk(1100, actions=[[8.0, 8.0]] * 8))
    schedule.push(chunk(1200, actions=[[4.0, 4.0]] * 8))
    np.testing.assert_allclose(schedule.due(1200).action, [2.0, 2.0])


def test_decisions_in_every_period_are_blended_on():
    """Regression: the third one was due at once, since the second had only begun."""
    schedule, found = ChunkSchedule(blend=4), []
    for step in range(8):
        value = float(step > 0)
        schedule.push(chunk(1000 + 100 * step, actions=[[value, value]] * 8))
        found.append(schedule.due(1000 + 100 * step).action[0])
    assert found[:2] == [0.0, pytest.approx(0.2)]
    assert np.diff(found).max() < 0.35
    assert found[-1] > 0.95


PLANS = st.lists(
    st.tuples(st.integers(1, 6), st.integers(1, 8), st.floats(-1.0, 1.0), st.integers(0, 3)),
    min_size=1,
    max_size=12,
)


@given(plans=PLANS, blend=st.integers(0, 4))
def test_what_is_due_is_between_the_last_plans_and_nothing_only_if_none_covers(plans, blend):
    schedule, time, values = ChunkSchedule(blend), 1000, []
    for spacing, length, value, late in plans:
        time += spacing * PERIOD
        schedule.push(chunk(time, actions=[[value, -value]] * length))
        values.append(value)
        newest = [each.chunk for each in schedule._turns]
        for period in range(late, spacing):
            due = schedule.due(time + period * PERIOD)
            if due is None:
                asked = time + period * PERIOD
                assert not any(0 <= each.index_at(asked) < len(each.actions) for each in newest)
                continue
            action = due.action
            last = values[-blend - 2 :]
            assert min(last) - 1e-9 <= action[0] <= max(last) + 1e-9
            assert action[1] == pytest.approx(-action[0])


@pytest.mark.parametrize(
    ("reach", "patience", "expected"),
    [(0.02, 0.05, 0), (0.05, 0.05, 0), (0.06, 0.05, 1), (0.149, 0.05, 1), (0.46, 0.05, 5)],
)
def test_a_decision_that_takes_long_is_begun_early(reach, patience, expected):
    assert lead(reach, patience, 0.1) == expected


def test_what_is_meant_to_be_over_is_still_there_when_the_next_decision_is_late():
    schedule = ChunkSchedule()
    schedule.push(chunk(1000, fresh=2))
    found = [schedule.due(1000 + 100 * period) for period in range(5)]
    assert [due and due.fresh for due in found] == [True, True, False, False, None]
    schedule.push(chunk(1300))
    assert schedule.due(1300).fresh


def test_a_decision_about_what_was_seen_a_little_later_is_due_where_it_is_awaited():
    schedule = ChunkSchedule()
    schedule.push(chunk(1000, fresh=2))
    schedule.push(chunk(1230, actions=[[9.0, 9.0]] * 4))
    assert schedule.due(1150).chunk.stamp_ns == 1000, "the one before is meant to go on"
    assert schedule.due(1200).chunk.stamp_ns == 1230
    np.testing.assert_array_equal(schedule.due(1200).action, [9.0, 9.0])
    assert schedule.due(1200).fresh


def test_one_about_much_later_is_not():
    schedule = ChunkSchedule()
    schedule.push(chunk(1000, fresh=2))
    schedule.push(chunk(1260))
    due = schedule.due(1200)
    assert (due.chunk.stamp_ns, due.fresh) == (1000, False)
    schedule.clear()
    schedule.push(chunk(1260))
    assert schedule.due(1200) is None
