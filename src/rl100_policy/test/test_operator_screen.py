# SPDX-License-Identifier: Apache-2.0
"""What is on the screen of a person at the robot."""

import io

import pytest
from rich.console import Console
from rich.text import Text

from rl100_msgs.msg import EpisodeState, GateStatus, OperatorState, TopicHealth
from rl100_policy.core.key_bindings import PRESS_KEYS
from rl100_policy.core.key_motion import KeyMotion
from rl100_policy.core.operator_screen import Seen, is_small, screen
from rl100_policy.core.presses import MEANING, Press

NAN = float("nan")


def shown(seen: Seen, width=140, height=45) -> str:
    console = Console(file=io.StringIO(), width=width, height=height)
    drawn = screen(
        "task on robot",
        seen,
        KeyMotion(["a", "b"], lease_s=0.1),
        "space",
        Text("the scene"),
        small=is_small(width, height),
    )
    console.print(drawn)
    return console.file.getvalue()


def session(**changes) -> Seen:
    told = {
        "state": OperatorState.RECORDING,
        "driver": "policy",
        "episode_id": "e7",
        "successes": 3,
        "failures": 1,
        "wanted": 50,
        "interventions": 2,
        "intervention_share": 0.25,
        "intervention_mean_s": 1.5,
        "session_intervention_share": 0.1,
        "last_event": 2,
        "last_source": "keyboard",
        "seconds_left": 7.0,
        "message": "the policy drives",
    }
    silent = TopicHealth(topic="camera", expected_hz=30.0, rate_hz=12.0, trouble="silent for 2 s")
    quiet = TopicHealth(topic="feedback", age_s=NAN)
    episode = EpisodeState(topics=[silent, quiet], troubles=["camera: silent for 2 s"])
    return Seen(OperatorState(**told | changes), GateStatus(source=2), episode)


@pytest.mark.parametrize("size", [(140, 45), (80, 24)])
def test_state_counts_takeovers_trouble_and_keys_fit_on_the_screen(size):
    text = shown(session(), *size)
    for part in (
        "RECORDING", "7 s left", "the policy drives", "3 success", "25% of this", "silent for 2 s",
        "the scene", "success by keyboard",
    ):  # fmt: skip
        assert part in " ".join(text.replace("│", " ").split()), part
    assert all(key in text for key in PRESS_KEYS)
    assert max(map(len, text.splitlines())) <= size[0]
    assert len(text.splitlines()) <= size[1]


def test_where_there_is_room_every_key_is_explained():
    text = shown(session())
    told = [meaning for press, meaning in MEANING.items() if press is not Press.HAND_BACK]
    assert all(meaning in text for meaning in told)


def test_topics_of_which_nothing_is_expected_are_left_out_unless_in_trouble():
    assert "feedback" not in shown(session())


def test_a_demonstration_has_no_takeovers_to_count():
    assert "takeovers" not in shown(session(driver="person"))


@pytest.mark.parametrize("size", [(140, 45), (80, 24)])
def test_without_other_nodes_the_screen_says_what_is_missing(size):
    text = shown(Seen(), *size)
    assert "waiting for the episode flow" in text
    assert "no recorder is heard" in text


def test_an_emergency_stop_is_told_whoever_was_in_command():
    seen = session(state=OperatorState.STOPPED)
    seen.gate = GateStatus(source=2, estop=True)
    assert "EMERGENCY STOP" in shown(seen)


def test_of_an_unknown_age_or_length_nothing_is_said():
    text = shown(session(intervention_mean_s=NAN, seconds_left=NAN))
    assert "nan" not in text
