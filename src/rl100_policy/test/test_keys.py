# SPDX-License-Identifier: Apache-2.0
"""From the bytes of a terminal to presses and motion."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl100_policy.core.key_bindings import PRESS_KEYS, TOOL_KEYS, bindings
from rl100_policy.core.key_decoder import KeyAction, KeyDecoder, KeyEvent
from rl100_policy.core.key_motion import SCALES, KeyMotion
from rl100_policy.core.key_repeat import KeyRepeat
from rl100_policy.core.presses import MEANING, Press, meant

FASTEST = np.array([0.2, 0.2, 0.1, 0.5, 0.5, 0.5])


def keys(data: bytes) -> list[str]:
    return [event.key for event in KeyDecoder().feed(data)]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"s", ["s"]),
        (b" ", ["space"]),
        (b"\r\x7f\t", ["enter", "backspace", "tab"]),
        (b"\x1b[A\x1b[B\x1b[C\x1b[D", ["up", "down", "right", "left"]),
        (b"\x1bOA", ["up"]),  # application mode of the cursor keys
        (b"\x1b[5~\x1b[6~\x1b[2~\x1b[3~", ["page_up", "page_down", "insert", "delete"]),
        (b"\x1b[H\x1b[F\x1b[1~\x1b[4~\x1b[7~", ["home", "end", "home", "end", "home"]),
        (b"\x1b[1;5A", ["ctrl+up"]),
        (b"\x1b[61:43;2u", ["+"]),  # shift and = where a terminal tells both
        (b"\x1b[115;5u\x1b[115;3u", ["ctrl+s", "alt+s"]),
        (b"\x1b[200~please stop\x1b[201~x", ["x"]),  # pasted text is no row of presses
        (b"a\x1b[Bb", ["a", "down", "b"]),
        (b"\x1b[200~", []),  # a sequence that means no key
        ("ä€".encode(), ["ä", "€"]),
        (b"\xc3", []),
        (b"\x01\x02", []),
    ],
)
def test_bytes_become_keys(data, expected):
    assert keys(data) == expected


@pytest.mark.parametrize("cut", range(1, 6))
def test_a_sequence_that_is_read_in_two_parts_is_one_key(cut):
    decoder, data = KeyDecoder(), b"\x1b[1;1:1A"
    assert decoder.feed(data[:cut]) == []
    assert decoder.feed(data[cut:]) == [KeyEvent("up")]


def test_escape_alone_is_a_key_once_nothing_follows():
    decoder = KeyDecoder()
    assert decoder.feed(b"\x1b") == []
    assert decoder.flush() == [KeyEvent("escape")]
    assert decoder.flush() == []


def test_a_terminal_that_can_tells_presses_repeats_and_releases():
    decoder = KeyDecoder()
    assert decoder.feed(b"\x1b[?11u") == []
    assert decoder.reports_releases
    told = decoder.feed(b"\x1b[1;1:1A\x1b[1;1:2A\x1b[1;1:3A\x1b[115;1:1u\x1b[115;1:3u\x1b[32u")
    assert told == [
        KeyEvent("up", KeyAction.PRESS),
        KeyEvent("up", KeyAction.REPEAT),
        KeyEvent("up", KeyAction.RELEASE),
        KeyEvent("s", KeyAction.PRESS),
        KeyEvent("s", KeyAction.RELEASE),
        KeyEvent("space", KeyAction.PRESS),
    ]


@given(data=st.binary(max_size=60), places=st.lists(st.integers(0, 60), max_size=5))
def test_whatever_is_read_however_it_is_cut_gives_the_same_keys(data, places):
    whole, parts = KeyDecoder(), KeyDecoder()
    cuts = [0, *sorted(min(place, len(data)) for place in places), len(data)]
    found = [each for a, b in pairwise(cuts) for each in parts.feed(data[a:b])]
    ascii_only = all(byte < 0x80 for byte in data)
    if ascii_only:
        assert found + parts.flush() == whole.feed(data) + whole.flush()


def motion(**changes) -> KeyMotion:
    return KeyMotion(["a", "b", "c"], lease_s=0.1, **changes)


def test_what_a_terminal_repeats_is_one_press_and_what_comes_later_another():
    repeat, key = KeyRepeat(), KeyEvent("s")
    assert repeat.is_press(key, 1.0)
    assert not repeat.is_press(key, 1.66), "the longest that terminals wait before they repeat"
    assert not repeat.is_press(key, 1.70)
    assert repeat.is_press(KeyEvent("f"), 1.71)
    assert repeat.is_press(key, 2.5)


def test_where_releases_are_told_a_press_may_follow_at_once():
    repeat, key = KeyRepeat(), KeyEvent("s")
    assert repeat.is_press(key, 1.0)
    assert not repeat.is_press(KeyEvent("s", KeyAction.REPEAT), 2.5)
    assert not repeat.is_press(KeyEvent("s", KeyAction.RELEASE), 2.6)
    assert repeat.is_press(key, 2.65)


def test_a_tap_is_a_step_that_ends_with_its_lease():
    held = motion()
    held.take(KeyEvent("up"), 1.0)
    np.testing.assert_allclose(held.tool_velocity(1.05, FASTEST)[0], 0.2 * SCALES[2])
    assert not held.tool_velocity(1.101, FASTEST).any()


def test_a_key_that_repeats_moves_until_its_last_repeat_is_a_lease_ago():
    held = motion()
    for repeat in range(5):
        held.take(KeyEvent("left"), 1.0 + 0.04 * repeat)
    assert held.tool_velocity(1.25, FASTEST)[1] > 0
    assert not held.is_moving(1.27)


def test_where_releases_are_told_a_key_is_held_until_then():
    held = motion(tells_releases=True)
    held.take(KeyEvent("up"), 1.0)
    for repeat in range(80):
        assert held.is_moving(1.7 + 0.1 * repeat)
        held.take(KeyEvent("up", KeyAction.REPEAT), 1.7 + 0.1 * repeat)
    held.take(KeyEvent("up", KeyAction.RELEASE), 9.7)
    assert not held.is_moving(9.7)


def test_a_release_that_was_lost_does_not_move_the_arm_for_ever():
    held = motion(tells_releases=True)
    held.take(KeyEvent("up"), 1.0)
    assert not held.is_moving(1.8), "no repeat ever came"
    held.take(KeyEvent("up"), 2.0)
    held.take(KeyEvent("up", KeyAction.REPEAT), 2.6)
    assert held.is_moving(2.8)
    assert not held.is_moving(2.9)


def test_of_two_held_keys_the_repeats_of_one_hold_both():
    held = motion(tells_releases=True)
    held.take(KeyEvent("up"), 1.0)
    held.take(KeyEvent("left"), 1.1)
    for repeat in range(20):
        held.take(KeyEvent("left", KeyAction.REPEAT), 1.7 + 0.05 * repeat)
    assert (held.tool_velocity(2.7, FASTEST)[:2] > 0).all()


def test_plus_and_minus_are_found_with_and_without_shift():
    for key in ("=", "+"):
        held = motion()
        held.take(KeyEvent(key), 1.0)
        assert held.scale == 3


def test_a_key_that_takes_over_hands_back_only_when_the_person_has_command_for_sure():
    assert meant(Press.TAKE_OVER, in_command=False) is Press.TAKE_OVER
    assert meant(Press.TAKE_OVER, in_command=True) is Press.HAND_BACK
    assert meant(Press.ESTOP, in_command=True) is Press.ESTOP


def test_two_keys_add_up_and_opposite_ones_cancel():
    held = motion(tells_releases=True)
    for key in ("up", "left"):
        held.take(KeyEvent(key), 1.0)
    assert (held.tool_velocity(1.0, FASTEST)[:2] > 0).all()
    held.take(KeyEvent("down"), 1.0)
    assert held.tool_velocity(1.0, FASTEST)[0] == 0.0


def test_steps_can_be_made_larger_and_smaller_and_end_at_the_fastest():
    held = motion()
    for _ in range(9):
        held.take(KeyEvent("+"), 1.0)
    held.take(KeyEvent("up"), 1.0)
    assert held.tool_velocity(1.0, FASTEST)[0] == 0.2
    for _ in range(9):
        held.take(KeyEvent("-"), 1.0)
    held.take(KeyEvent("up"), 1.0)
    assert held.tool_velocity(1.0, FASTEST)[0] == pytest.approx(0.02)


def test_in_joint_mode_the_chosen_joint_turns_and_the_tool_is_not_asked_for():
    held, fastest = motion(), np.array([1.0, 2.0, 3.0])
    for key in ("m", "3", "down"):
        assert held.take(KeyEvent(key), 1.0)
    np.testing.assert_allclose(held.joint_velocity(1.0, fastest), [0, 0, -3.0 * SCALES[2]])
    assert not held.tool_velocity(1.0, FASTEST).any()
    assert not held.take(KeyEvent("9"), 1.0), "there is no ninth joint"


def test_a_change_of_mode_lets_go_of_what_was_held():
    held = motion(tells_releases=True)
    held.take(KeyEvent("up"), 1.0)
    held.take(KeyEvent("m"), 1.0)
    assert not held.is_moving(1.0)


def test_every_press_has_a_key_and_every_key_one_meaning():
    assert {*PRESS_KEYS.values(), Press.HAND_BACK} == set(Press) == set(MEANING)
    assert not set(PRESS_KEYS) & set(TOOL_KEYS)
    told = [key for each in bindings() for key in each.keys.split()]
    assert set(PRESS_KEYS) | set(TOOL_KEYS) <= set(told)
