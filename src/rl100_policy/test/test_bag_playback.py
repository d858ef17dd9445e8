# SPDX-License-Identifier: Apache-2.0
"""What of a bag may be published again, in which order, and with which stamps."""

import struct

import pytest

from rl100_policy.bags.identity import bag_file
from rl100_policy.bags.metadata import EpisodeMetadata
from rl100_policy.bags.playback import (
    Permission,
    chosen_topics,
    permission_of,
    playback_messages,
    playback_topics,
    restamped,
)
from rl100_policy.bags.testing import MessageFactory
from rl100_policy.bags.writer import EpisodeWriter
from rl100_policy.core.errors import BagError
from rl100_policy.core.messages import peek_stamp_ns

FACTORY = MessageFactory()
JOINT_STATE = "sensor_msgs/msg/JointState"
TOPICS = ("/joint_states", "/teleop/delta_twist_cmds", "/gate/command", "/arm/joint_trajectory")
TYPES = (
    JOINT_STATE,
    "geometry_msgs/msg/TwistStamped",
    "rl100_msgs/msg/GateCommand",
    "trajectory_msgs/msg/JointTrajectory",
)


@pytest.fixture
def episode(tmp_path):
    """One message per topic, the last topic's received first."""
    meta = EpisodeMetadata(episode_id="e", task="push_t")
    writer = EpisodeWriter(tmp_path, meta)
    for at, (name, type_name) in enumerate(zip(TOPICS, TYPES, strict=True)):
        writer.write(FACTORY.topic(name, type_name), bytes([0, 1, 0, 0, at]), log_ns=10 - at)
    return writer.close(meta)


@pytest.mark.parametrize(
    ("topic", "type_name", "permission"),
    [
        ("/joint_states", JOINT_STATE, Permission.SENSOR),
        ("/robot1/joint_states", JOINT_STATE, Permission.SENSOR),
        ("/joint_command", JOINT_STATE, Permission.NAMED),
        ("/camera/color/image_raw", "sensor_msgs/msg/Image", Permission.SENSOR),
        ("/camera/extrinsics", "geometry_msgs/msg/TransformStamped", Permission.SENSOR),
        ("/target", "geometry_msgs/msg/TransformStamped", Permission.NAMED),
        ("/policy/decision", "rl100_msgs/msg/DecisionRecord", Permission.DECISION),
        ("/gate/command", "rl100_msgs/msg/GateCommand", Permission.DECISION),
        ("/policy/action_chunk", "rl100_msgs/msg/ActionChunk", Permission.NAMED),
        ("/teleop/delta_twist_cmds", "geometry_msgs/msg/TwistStamped", Permission.NAMED),
        ("/feedback", "rl100_msgs/msg/HumanFeedback", Permission.NAMED),
        ("/joy", "sensor_msgs/msg/Joy", Permission.NAMED),
        ("/arm/joint_trajectory", TYPES[3], Permission.NEVER),
        ("/joint_states", TYPES[3], Permission.NEVER),
        ("/forward/commands", "std_msgs/msg/Float64MultiArray", Permission.NEVER),
    ],
)
def test_sensors_and_decisions_may_be_replayed_commands_only_by_name_or_never(
    topic, type_name, permission
):
    assert permission_of(topic, type_name) is permission


def test_what_the_recorder_knew_to_be_a_sensor_is_one():
    assert permission_of("/glove", "std_msgs/msg/Float32", ["/glove"]) is Permission.SENSOR


def test_without_names_what_was_sensed_and_decided_is_chosen(episode):
    chosen = chosen_topics(playback_topics(episode), ())
    assert [each.name for each in chosen] == ["/gate/command", "/joint_states"]


def test_a_person_may_name_a_command_of_theirs(episode):
    (chosen,) = chosen_topics(playback_topics(episode), ["teleop/delta_twist_cmds"])
    assert (chosen.name, chosen.permission) == ("/teleop/delta_twist_cmds", Permission.NAMED)


def test_what_moves_an_arm_cannot_even_be_named(episode):
    with pytest.raises(BagError, match="moves an arm"):
        chosen_topics(playback_topics(episode), ["/arm/joint_trajectory"])


def test_a_topic_that_is_not_in_the_bag_is_refused_with_those_that_are(episode):
    with pytest.raises(BagError, match="nothing is not in this bag; there are /arm"):
        chosen_topics(playback_topics(episode), ["joint_states", "nothing"])


def test_messages_come_in_the_order_of_reception_and_of_the_chosen_topics_only(episode):
    found = list(playback_messages(episode, TOPICS[:3]))
    assert [each.topic for each in found] == list(TOPICS[2::-1])
    assert [each.data[4] for each in found] == [2, 1, 0]
    assert [each.log_ns for each in found] == [8, 9, 10]


def test_a_damaged_bag_is_an_error_that_says_what_to_do(episode):
    path = bag_file(episode)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(BagError, match="bags check"):
        playback_topics(episode)
    with pytest.raises(BagError, match="bags check"):
        list(playback_messages(episode, TOPICS))


def test_a_moved_stamp_changes_nothing_but_the_stamp():
    data = FACTORY.joint_state(1_500_000_000, ["a"], [0.5])
    expected = FACTORY.joint_state(7_250_000_000, ["a"], [0.5])
    assert restamped(data, lambda stamp: stamp + 5_750_000_000) == expected


def test_a_big_endian_stamp_stays_big_endian():
    data = bytes([0, 0, 0, 0]) + struct.pack(">iI", 3, 500) + b"rest"
    moved = restamped(data, lambda stamp: stamp + 10**9)
    assert moved == bytes([0, 0, 0, 0]) + struct.pack(">iI", 4, 500) + b"rest"
    assert peek_stamp_ns(moved) == 4_000_000_500


@pytest.mark.parametrize("data", [b"", b"\0\1\0\0", bytes([9] * 40)])
def test_bytes_that_cannot_begin_with_a_header_stay_as_they_are(data):
    assert restamped(data, lambda stamp: stamp + 1) == data
