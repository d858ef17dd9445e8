# SPDX-License-Identifier: Apache-2.0
"""Which version drives, and when the one before comes back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl100_policy.core.succession import Succession, SuccessionRules


def line(*versions, rules=None) -> Succession:
    """Versions that each decided well, one after the other."""
    succession = Succession(rules or SuccessionRules())
    for version in versions:
        succession.take_over(version)
        succession.decided(in_time=True)
    return succession


def judge(succession, successes, failures):
    for success in [True] * successes + [False] * failures:
        succession.judged(success=success)


def test_the_version_before_comes_back_on_command():
    succession = line("a", "b")
    assert succession.go_back() == succession.current == "a"
    with pytest.raises(LookupError, match="no version drove well before"):
        succession.go_back()


def test_one_that_never_decided_well_does_not_come_back():
    succession = line("a")
    succession.take_over("broken")
    succession.failed()
    succession.take_over("c")
    assert succession.before == "a"


def test_failures_in_a_row_bring_it_back_and_single_ones_do_not():
    succession = line("a", "b")
    for _ in range(5):
        succession.failed()
        succession.decided(in_time=False)
        assert not succession.why_back()
        succession.decided(in_time=True)
    succession.failed()
    succession.decided(in_time=False)
    succession.failed()
    assert "3 decisions in a row" in succession.why_back()
    succession.go_back()
    assert not succession.why_back(), "there is nobody left to come back"


def test_nobody_comes_back_where_nobody_was():
    succession = line("a")
    for _ in range(9):
        succession.failed()
    assert not succession.why_back()


def test_a_drop_of_success_brings_it_back():
    rules = SuccessionRules(episodes=10, drop=0.3)
    succession = line("a", rules=rules)
    judge(succession, 9, 1)
    succession.take_over("b")
    succession.decided(in_time=True)
    judge(succession, 5, 4)
    assert not succession.why_back(), "too few episodes"
    judge(succession, 0, 1)
    assert "success fell from 90% to 50% of the newest 10 episodes each" in succession.why_back()


def test_a_small_drop_does_not():
    succession = line("a", rules=SuccessionRules(episodes=10, drop=0.3))
    judge(succession, 9, 1)
    succession.take_over("b")
    judge(succession, 6, 4)
    assert not succession.why_back()


def test_what_is_not_known_of_the_version_before_is_not_compared():
    succession = line("a", "b", rules=SuccessionRules(episodes=10))
    judge(succession, 0, 10)
    assert not succession.why_back()


@pytest.mark.parametrize(
    "rules", [SuccessionRules(trips=0, drop=0.0), SuccessionRules(trips=0, episodes=0)]
)
def test_rules_can_be_switched_off(rules):
    succession = line("a", rules=rules)
    judge(succession, 20, 0)
    succession.take_over("b")
    judge(succession, 0, 20)
    for _ in range(9):
        succession.failed()
    assert not succession.why_back()


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.sampled_from("abcde")),
        st.tuples(st.just("decided"), st.booleans()),
        st.tuples(st.just("judged"), st.booleans()),
        st.just(("failed", None)),
        st.just(("back", None)),
    ),
    max_size=80,
)


@given(events=EVENTS)
def test_whatever_happens_whoever_comes_back_drove_well_and_is_another(events):
    succession = Succession(SuccessionRules(trips=2, episodes=3, drop=0.2))
    proved = set()
    for kind, value in events:
        match kind:
            case "take":
                succession.take_over(value)
            case "decided" if succession.current:
                succession.decided(in_time=value)
                if value:
                    proved.add(succession.current)
            case "judged" if succession.current:
                succession.judged(success=value)
            case "failed" if succession.current:
                succession.failed()
            case "back" if succession.why_back():
                succession.go_back()
        assert not succession.before or succession.before in proved
        assert len(succession.kept) <= 4
        assert succession.before != succession.current or not succession.current
        if succession.why_back():
            assert succession.before
