# SPDX-License-Identifier: Apache-2.0
"""What is known of the topics before an episode, and the list of what is missing."""

import math
from dataclasses import replace

import pytest

from rl100_policy.bags.health import (
    TopicFacts,
    TopicWatch,
    disk_problem,
    missing,
    predicted_bytes,
)
from rl100_policy.bags.session import Stream

CAMERA = Stream("camera", "sensor_msgs/msg/Image", period_ns=100_000_000, frame="optical")
INFO = Stream("camera_info", "sensor_msgs/msg/CameraInfo", latched=True, required=True)
TELEOP = Stream("teleop", "geometry_msgs/msg/TwistStamped")


def heard(stream=CAMERA, hz=10.0, until=8.0, size=1000, frame="optical") -> TopicWatch:
    watch = TopicWatch(stream)
    for number in range(round(hz * until)):
        watch.arrive(number / hz, size)
    watch.frame_id = frame
    return watch


def problems(*facts, now_s=8.0, needs_data=True):
    return missing(facts, now_s, needs_data=needs_data)


def test_nothing_is_missing_when_every_sensor_comes_at_its_rate():
    facts = [TopicFacts(heard(), True), TopicFacts(heard(INFO), True)]
    assert problems(*facts, TopicFacts(TopicWatch(TELEOP), False)) == []


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        (TopicFacts(TopicWatch(CAMERA), False), "nobody publishes camera"),
        (TopicFacts(TopicWatch(INFO), False), "nobody publishes camera_info"),
        (
            TopicFacts(TopicWatch(TELEOP), False, ("geometry_msgs/msg/Twist",)),
            "teleop is published as geometry_msgs/msg/Twist, expected geometry_msgs/msg/Twist",
        ),
        (TopicFacts(heard(), True, incompatible=True), "quality of service"),
        (TopicFacts(heard(frame="world"), True), "frame 'world', the robot description has"),
        (TopicFacts(TopicWatch(CAMERA), True), "no message of it has come"),
        (TopicFacts(heard(until=6.0), True), "silent for 2.1 s"),
        (TopicFacts(heard(hz=4.0), True), "comes at 4.0 Hz, 10.0 Hz are expected"),
    ],
)
def test_each_thing_that_is_missing_is_said_with_what_is_expected(facts, told):
    assert len(problems(facts)) == 1
    assert told in problems(facts)[0]


def test_all_that_is_missing_is_told_at_once():
    both = [TopicFacts(TopicWatch(CAMERA), False), TopicFacts(TopicWatch(INFO), False)]
    assert len(problems(*both)) == 2


def test_where_the_world_stands_still_a_publisher_is_enough():
    assert problems(TopicFacts(TopicWatch(CAMERA), True), needs_data=False) == []


def test_a_frame_that_no_stream_names_does_not_matter():
    other = replace(CAMERA, frame="")
    assert problems(TopicFacts(heard(other, frame="anything"), True)) == []


def test_a_rate_is_that_of_the_last_whole_seconds():
    watch = heard(hz=500.0, until=5.0, size=40)
    assert watch.rates(5.0) == (500.0, 20_000.0)
    assert watch.rates(6.5)[0] == pytest.approx(1000.0 / 3)
    assert watch.rates(60.0) == (0.0, 0.0)
    assert len(watch._seconds) <= 5, "memory does not grow with time"


def test_a_rate_is_known_a_whole_second_after_the_first_message():
    young = TopicWatch(CAMERA)
    young.arrive(4.9, 10)
    assert not young.is_slow(5.8)
    assert young.is_slow(6.1)


def test_before_the_first_message_there_is_no_age():
    assert math.isnan(TopicWatch(CAMERA).age_s(3.0))
    assert TopicWatch(CAMERA).is_silent(3.0)


def test_a_fast_sensor_is_silent_after_half_a_second_a_slow_one_after_five_periods():
    fast, slow = replace(CAMERA, period_ns=2_000_000), replace(CAMERA, period_ns=10**9)
    assert heard(fast, until=1.0).is_silent(1.6)
    assert not heard(fast, until=1.0).is_silent(1.4)
    assert not heard(slow, hz=1.0, until=1.0).is_silent(4.9)
    assert heard(slow, hz=1.0, until=1.0).is_silent(5.1)


def test_an_episode_needs_the_space_that_it_will_take_beside_what_must_stay_free():
    watches = [heard(hz=30.0, size=1_000_000), heard(TELEOP, hz=10.0, size=100)]
    predicted = predicted_bytes(watches, 8.0, 60.0)
    assert predicted == pytest.approx(1.2 * 60 * 30.001e6, rel=1e-3)
    assert disk_problem("bags", 10**10, 10**8, predicted) == ""
    told = disk_problem("bags", 10**9, 10**8, predicted)
    assert "1000 MB are free in bags, 2260 MB are needed (2160 for the episode" in told


def test_a_sensor_whose_stamps_are_of_another_clock_is_told():
    watch = heard()
    watch.stamp_ns = 5 * 10**9
    late = missing([TopicFacts(watch, True)], 8.0, ros_ns=3605 * 10**9, needs_data=True)
    assert len(late) == 1
    assert "stamped -3600.0 s from this node's clock" in late[0]
    near = missing([TopicFacts(watch, True)], 8.0, ros_ns=5_500_000_000, needs_data=True)
    assert near == []


def test_what_is_only_watched_is_not_needed_for_an_episode_to_begin():
    watched = replace(CAMERA, awaited=False)
    assert problems(TopicFacts(TopicWatch(watched), False)) == []
