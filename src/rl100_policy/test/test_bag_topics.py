# SPDX-License-Identifier: Apache-2.0
"""What a recorder records unless told otherwise follows from the robot description."""

from pathlib import Path

import pytest

from rl100_policy.bags.session import Stream, parse_stream
from rl100_policy.bags.topics import DEFAULT_TOPICS, all_topics
from rl100_policy.core.config import RobotConfig, load_robot, load_task
from rl100_policy.core.errors import ConfigError

CONFIG = Path(__file__).parents[2] / "rl100_bringup" / "config"
PANDA, PANDA_RGB = (CONFIG / "robots" / f"{name}.yaml" for name in ("panda", "panda_rgb"))
TASKS = CONFIG / "tasks"
PERIOD_NS = 100_000_000


def robot_with_camera(**changes: object) -> RobotConfig:
    robot = load_robot(PANDA)
    camera = robot.camera().model_copy(update=changes)
    return robot.model_copy(update={"cameras": (camera,)})


def names(topics: list[str]) -> list[str]:
    return [entry.split()[0] for entry in topics]


def test_the_default_is_the_topics_of_robot_and_suite():
    robot = robot_with_camera(topic="front/image")
    found = set(names(all_topics([DEFAULT_TOPICS], robot)))
    assert {"joint_states", "front/image", "front/camera_info", "feedback"} <= found
    assert "camera/depth/image_rect_raw" not in found


def test_what_commands_the_arm_is_not_recorded_so_that_playing_a_bag_moves_nothing():
    robot = load_robot(PANDA)
    assert robot.command_topic not in names(all_topics([DEFAULT_TOPICS], robot))


def test_entries_of_the_person_are_added_and_none_comes_twice():
    wrench = "wrench geometry_msgs/msg/WrenchStamped sensor=0.01"
    topics = all_topics([DEFAULT_TOPICS, wrench, DEFAULT_TOPICS], load_robot(PANDA))
    assert topics[-1] == wrench
    assert len(names(topics)) == len(set(names(topics)))
    assert all_topics([wrench], None) == [wrench]


def test_without_a_robot_description_every_topic_must_be_named():
    with pytest.raises(ConfigError, match="robot_config"):
        all_topics([DEFAULT_TOPICS], None)


def test_an_episode_waits_for_the_first_camera_only():
    robot = load_robot(PANDA)
    second = robot.camera().model_copy(update={"name": "wrist", "topic": "wrist/image"})
    both = robot.model_copy(update={"cameras": (robot.camera(), second)})
    streams = {each.topic: each for each in map(parsed, all_topics([DEFAULT_TOPICS], both))}
    assert streams[robot.camera().topic].is_sensor
    assert not streams["wrist/image"].is_sensor
    assert streams["wrist/camera_info"].latched


@pytest.mark.parametrize(
    ("task", "awaited"),
    [("push_t", "camera"), ("push_t_rgb", "color"), ("push_t_state", None)],
)
def test_every_camera_is_recorded_and_the_one_that_the_task_is_seen_with_is_waited_for(
    task, awaited
):
    robot, task = load_robot(PANDA_RGB), load_task(TASKS / f"{task}.yaml")
    entries = all_topics([DEFAULT_TOPICS], robot, task)
    assert "camera/color/camera_info sensor_msgs/msg/CameraInfo latched" in entries
    streams = {each.topic: each for each in map(parsed, entries)}
    for camera in robot.cameras:
        assert streams[camera.topic].is_sensor == (camera.name == awaited)


def test_a_robot_without_a_camera_for_the_task_is_refused():
    with pytest.raises(ConfigError, match="of kind color"):
        all_topics([DEFAULT_TOPICS], load_robot(PANDA), load_task(TASKS / "push_t_rgb.yaml"))


def test_of_a_camera_that_delivers_points_these_are_recorded():
    robot = load_robot(PANDA)
    camera = robot.camera().model_copy(update={"kind": "points", "topic": "camera/points"})
    entries = all_topics([DEFAULT_TOPICS], robot.model_copy(update={"cameras": (camera,)}))
    expected = f"camera/points sensor_msgs/msg/PointCloud2 sensor frame={camera.optical_frame}"
    assert expected in entries
    assert not any("CameraInfo" in entry for entry in entries)


def parsed(entry: str) -> Stream:
    return parse_stream(entry, PERIOD_NS)
