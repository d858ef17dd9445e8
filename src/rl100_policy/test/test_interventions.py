# SPDX-License-Identifier: Apache-2.0
"""How often and how long a person took over."""

import math

import pytest

from rl100_policy.core.gate_result import CommandSource
from rl100_policy.core.interventions import Interventions

LETTERS = {
    "h": CommandSource.HOLD,
    "t": CommandSource.TELEOP,
    "p": CommandSource.POLICY,
    "g": CommandSource.HOME,
}


def of(text: str) -> Interventions:
    found = Interventions()
    for letter in text:
        found.observe(LETTERS[letter])
    return found


@pytest.mark.parametrize(
    ("who", "count", "intervened"),
    [
        ("pppptttppp", 1, 3),
        ("ppttppttpp", 2, 4),
        ("pphttthpp", 1, 3),  # a pause in between is no other intervention, and none of it
        ("pptgtt", 1, 1),  # the way home ends it
        ("ttttpp", 0, 0),  # who began is not one who took over
        ("tttt", 0, 0),
        ("ppppp", 0, 0),
        ("", 0, 0),
    ],
)
def test_a_takeover_is_a_person_after_the_policy(who, count, intervened):
    assert (of(who).count, of(who).intervened) == (count, intervened)


def test_the_share_is_of_the_periods_in_which_somebody_commanded():
    assert of("hhppphttthh").share == 0.5
    assert of("hhh").share == 0.0


def test_the_mean_length_is_in_seconds_and_of_none_there_is_none():
    assert of("ppttppttttpp").mean_s(0.1) == pytest.approx(0.3)
    assert math.isnan(of("tttt").mean_s(0.1))


def test_two_episodes_together_have_what_both_have():
    both = of("ppptt") + of("tthpptp")
    assert (both.count, both.intervened) == (2, 3)
    assert both.share == pytest.approx(3 / 11)
    assert (of("p") + of("t")).count == 0  # nobody takes over from one episode to the next
