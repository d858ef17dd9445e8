# SPDX-License-Identifier: Apache-2.0
"""Counting of what is lost, and when an episode has reached its end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl100_policy.bags.session import EpisodeSession, Stream, missing_between, parse_stream
from rl100_policy.core.errors import ConfigError

PERIOD_NS = 100_000_000
JOINTS = Stream("joint_states", "sensor_msgs/msg/JointState", period_ns=PERIOD_NS)
DEPTH = Stream("depth", "sensor_msgs/msg/Image", period_ns=PERIOD_NS)
TELEOP = Stream("teleop", "geometry_msgs/msg/TwistStamped")


def observed(*steps: float, stream: Stream = JOINTS) -> EpisodeSession:
    session = EpisodeSession([JOINTS, DEPTH, TELEOP])
    for step in steps:
        session.observe(stream.topic, round(step * PERIOD_NS), 10, written=True)
    return session


@given(st.sets(st.integers(1, 30), max_size=29))
def test_every_missing_frame_between_two_that_came_is_counted(missing):
    kept = [step for step in range(32) if step not in missing]
    assert observed(*kept).lost == len(missing)


@given(st.lists(st.floats(-0.24, 0.24), min_size=2, max_size=30))
def test_jitter_below_a_quarter_period_is_no_loss(jitter):
    assert observed(*(step + off for step, off in enumerate(jitter))).lost == 0


def test_stamps_that_repeat_or_go_back_are_no_loss():
    assert observed(5, 5, 2, 3).lost == 0
    session = observed(5, 5, 4, 5)
    assert session.lost == 0
    assert len(session.degraded_reasons) == 1  # depth was never heard


def test_topics_without_a_period_have_no_gaps():
    assert observed(1, 9, stream=TELEOP).lost == 0
    assert missing_between(1, 10**12, 0) == 0


def test_the_end_is_reached_when_every_sensor_seen_is_there():
    session = observed(1, 2)
    session.end_ns = 3 * PERIOD_NS
    assert not session.reached_end
    session.observe("joint_states", 3 * PERIOD_NS, 10, written=True)
    assert session.reached_end  # the depth camera never spoke: nothing to wait for
    session.observe("depth", 2 * PERIOD_NS, 10, written=True)
    assert not session.reached_end


def test_what_is_missing_at_the_end_counts_as_lost():
    session = observed(1, 2)
    session.end_ns = 5 * PERIOD_NS
    assert session.losses["joint_states"].gaps == 3  # steps 3, 4 and 5


@pytest.mark.parametrize(("first", "missing"), [(-3, 0), (1, 0), (2, 0), (3, 3), (7, 7)])
def test_what_is_missing_at_the_start_counts_as_lost(first, missing):
    """Regression: the first messages of a driver that had not found the recorder yet."""
    session = EpisodeSession([JOINTS], start_ns=50 * PERIOD_NS)
    session.observe("joint_states", (50 + first) * PERIOD_NS, 10, written=True)
    assert session.lost == missing


def test_a_sensor_that_stayed_silent_degrades_the_episode():
    reasons = observed(1, 2).degraded_reasons
    assert len(reasons) == 1
    assert reasons[0].startswith("depth:")


def spoken(*seconds: float, until_s: float, end_ns: int = 0) -> tuple[str, ...]:
    """Reasons of an episode in which joint states came at these times."""
    session = EpisodeSession([JOINTS], end_ns=end_ns)
    for tenth in range(round(10 * until_s) + 1):
        if tenth / 10 in seconds:
            session.observe("joint_states", round(tenth * 1e8), 10, written=True)
        session.look(50.0 + tenth / 10)
    return session.degraded_reasons


def test_a_sensor_that_fell_silent_degrades_an_episode_without_an_end_stamp():
    """Regression: nobody knew that a camera had died in it."""
    assert spoken(0.1, 0.2, until_s=1.9) == ("joint_states: no message in the last 1.7 s",)
    assert spoken(0.1, 0.2, until_s=1.0) == ()


def test_an_end_stamp_tells_better_what_is_missing_than_the_time_since():
    assert spoken(0.1, 0.2, until_s=1.9, end_ns=2 * PERIOD_NS) == ()


def test_stamps_that_go_back_far_degrade_the_episode_once():
    reasons = observed(50, 51, 3, 4, 2).degraded_reasons
    assert reasons[0] == "joint_states: stamps went back 2 times, by up to 4.800 s"
    assert len(reasons) == 2  # and depth was never heard


def test_stamps_that_go_back_are_no_loss_at_the_end():
    session = observed(50, 51, 3)
    session.end_ns = 52 * PERIOD_NS
    assert session.lost == 0


def test_losses_are_told_apart_by_who_lost_them():
    session = observed(1, 2)
    session.lose("joint_states", 4)
    session.observe("joint_states", None, 10, written=False)
    loss = session.losses["joint_states"]
    assert (loss.middleware, loss.recorder, loss.gaps) == (4, 1, 0)
    assert session.messages == 2


@pytest.mark.parametrize(
    ("text", "stream"),
    [
        ("a/b p/msg/T", Stream("a/b", "p/msg/T")),
        ("/a p/msg/T latched", Stream("/a", "p/msg/T", latched=True)),
        ("a p/msg/T sensor", Stream("a", "p/msg/T", period_ns=PERIOD_NS)),
        ("a p/msg/T latched sensor=0.25", Stream("a", "p/msg/T", True, 250_000_000)),
        ("a p/msg/T watched", Stream("a", "p/msg/T", period_ns=PERIOD_NS, awaited=False)),
        (
            "a p/msg/T required frame=base_link",
            Stream("a", "p/msg/T", required=True, frame="base_link"),
        ),
    ],
)
def test_a_topic_entry_says_what_to_expect(text, stream):
    assert parse_stream(text, PERIOD_NS) == stream


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "a p/T",
        "a p/msg/T lached",
        "a p/msg/T sensor=0",
        "a p/msg/T sensor=x",
        "a p/msg/T frame=",
        "",
    ],
)
def test_a_malformed_topic_entry_is_refused_and_shown(text):
    with pytest.raises(ConfigError, match="topics"):
        parse_stream(text, PERIOD_NS)


def test_stamps_that_go_back_by_more_than_a_period_degrade_the_episode():
    session = observed(1, 2, 3, 2.5, 4, 1, 2)
    assert session.tally("joint_states").backward == 1
    assert any("stamps went back 1 times, by up to 0.300 s" in r for r in session.degraded_reasons)


def test_the_longest_gap_between_two_stamps_is_known():
    assert observed(1, 2, 2.4, 4.4, 5).tally("joint_states").worst_gap_ns == 2 * PERIOD_NS


COMMANDS = Stream("gate", "p/msg/T", period_ns=PERIOD_NS, awaited=False)
CAMERA = Stream("camera", "sensor_msgs/msg/Image", period_ns=PERIOD_NS, frame="optical")


def watched(stream: Stream, *steps: float, end: float = 0) -> EpisodeSession:
    session = EpisodeSession([stream])
    for step in steps:
        session.observe(stream.topic, round(step * PERIOD_NS), 10, written=True)
    session.end_ns = round(end * PERIOD_NS)
    return session


def test_commands_that_fall_silent_degrade_the_episode_and_nobody_waits_for_them():
    silent = watched(COMMANDS, 1, 2, 3, end=30)
    assert silent.reached_end
    assert silent.losses["gate"].gaps == 27
    assert silent.degraded_reasons
    assert not watched(COMMANDS, *range(1, 28), end=30).lost, "the last may be on their way"


def test_commands_that_never_came_degrade_the_episode():
    assert watched(COMMANDS).degraded_reasons == ("gate: no message during the episode",)


def test_a_frozen_camera_is_noticed():
    session = watched(CAMERA, 1, 2, 2, 2, 2)
    assert session.tally("camera").repeated == 3
    assert "camera: 3 stamps repeated; is it frozen?" in session.degraded_reasons


def test_two_drivers_of_joints_may_have_equal_stamps():
    assert observed(1, 1, 2, 2).tally("joint_states").repeated == 0


def test_messages_in_another_frame_degrade_the_episode():
    session = watched(CAMERA, 1, 2)
    session.misplace("camera")
    assert "camera: 1 messages in another frame" in session.degraded_reasons
