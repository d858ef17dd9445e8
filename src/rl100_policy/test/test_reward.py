# SPDX-License-Identifier: Apache-2.0
"""The reward timing rule: which press counts, and for which moment."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rl100_policy.bags.judgement import Judgement, JudgementKind, Outcome
from rl100_policy.bags.reward import verdict

S, F, U = JudgementKind.SUCCESS, JudgementKind.FAILURE, JudgementKind.UNDO
SECOND = 1_000_000_000
START, END = 10 * SECOND, 20 * SECOND


def pressed(*presses):
    """Judgements from (kind, seconds) or (kind, seconds, reaction delay)."""
    return [
        Judgement(stamp_ns=round(at * SECOND), kind=kind, reaction_delay_s=sum(delay))
        for kind, at, *delay in presses
    ]


def of(*presses):
    found = verdict(pressed(*presses), START, END)
    return found.outcome.value, found.moment_ns / SECOND, found.reward


def test_a_success_is_rewarded_when_it_was_seen_not_when_the_key_was_pressed():
    assert of((S, 15.0, 0.25)) == ("success", 14.75, 1.0)


def test_a_failure_ends_the_task_when_it_was_seen_and_earns_nothing():
    assert of((F, 15.0, 0.25)) == ("failure", 14.75, 0.0)


def test_without_a_press_an_episode_is_neither_success_nor_failure():
    assert of() == ("unlabelled", 0.0, 0.0)


def test_a_press_after_the_end_is_about_the_end():
    assert of((S, 23.0, 0.25)) == ("success", 0.0, 1.0)


def test_a_press_just_after_the_end_is_about_what_was_seen_before_it():
    assert of((S, 20.1, 0.25)) == ("success", 19.85, 1.0)


def test_a_press_from_before_the_episode_says_its_outcome_and_no_moment():
    assert of((S, 9.0)) == ("success", 0.0, 1.0)
    assert of((S, 10.1, 0.25)) == ("success", 0.0, 1.0)


def test_pressed_twice_is_pressed_once_at_the_first_time():
    assert of((S, 15.0), (S, 15.4), (S, 16.0)) == ("success", 15.0, 1.0)


def test_of_contradictory_presses_the_newest_counts_with_its_own_time():
    assert of((S, 13.0), (F, 15.0)) == ("failure", 15.0, 0.0)
    assert of((F, 13.0), (S, 15.0), (S, 16.0)) == ("success", 15.0, 1.0)
    assert of((S, 12.0), (F, 13.0), (S, 15.0)) == ("success", 15.0, 1.0)


def test_an_undo_takes_back_the_newest_press_and_the_one_before_it_counts_again():
    assert of((S, 13.0), (F, 15.0), (U, 15.5)) == ("success", 13.0, 1.0)
    assert of((S, 13.0), (U, 15.5)) == ("unlabelled", 0.0, 0.0)
    assert of((U, 12.0), (S, 13.0)) == ("success", 13.0, 1.0)


def test_a_moment_at_the_start_or_at_the_end_is_not_within():
    assert of((S, 10.0)) == ("success", 0.0, 1.0)
    assert of((S, 20.0)) == ("success", 0.0, 1.0)


def test_where_the_start_is_not_known_no_moment_is():
    assert verdict(pressed((S, 15.0)), 0, END).moment_ns == 0


def test_an_end_that_is_not_known_is_no_bound():
    assert verdict(pressed((S, 99.0)), START).moment_ns == 99 * SECOND


@pytest.mark.parametrize("delay", [-0.1, 5.1, float("nan")])
def test_a_reaction_delay_that_no_person_has_is_refused(delay):
    with pytest.raises(ValidationError):
        pressed((S, 15.0, delay))


PRESSES = st.lists(
    st.tuples(st.sampled_from([S, F, U]), st.floats(0, 30), st.floats(0, 1)), max_size=8
)


@given(presses=PRESSES)
def test_whatever_is_pressed_the_moment_lies_within_the_episode_or_at_its_end(presses):
    found = verdict(pressed(*presses), START, END)
    assert found.moment_ns == 0 or START < found.moment_ns < END
    assert found.reward == (1.0 if found.outcome is Outcome.SUCCESS else 0.0)
    assert found.outcome is not Outcome.UNLABELLED or found.moment_ns == 0


@given(presses=PRESSES, data=st.data())
def test_the_order_in_which_presses_arrive_does_not_matter(presses, data):
    distinct = list({round(at, 3): (kind, round(at, 3), 0) for kind, at, _ in presses}.values())
    shuffled = data.draw(st.permutations(distinct))
    assert of(*shuffled) == of(*distinct)
