# SPDX-License-Identifier: Apache-2.0
"""Which topics an episode holds, as entries of the recorder's ``topics`` parameter."""

from __future__ import annotations

from collections.abc import Sequence

from rl100_policy.core.config import CameraConfig, RobotConfig, TaskConfig
from rl100_policy.core.errors import ConfigError
from rl100_policy.core.sight import sight_camera

FEEDBACK_TOPIC = "feedback"
DECISION_TOPIC = "policy/decision"
EXECUTED_TOPIC = "gate/command"
JOURNEYS_TOPIC = "latency/journeys"
DEFAULT_TOPICS = "default"
"""Entry for joint states, the cameras of the robot description, and the topics of this suite."""

_SUITE_TOPICS = (
    "teleop/delta_twist_cmds geometry_msgs/msg/TwistStamped",
    "teleop/joint_cmds sensor_msgs/msg/JointState",
    "operator/event rl100_msgs/msg/OperatorEvent",
    "policy/action_chunk rl100_msgs/msg/ActionChunk",
    f"{DECISION_TOPIC} rl100_msgs/msg/DecisionRecord",
    f"{EXECUTED_TOPIC} rl100_msgs/msg/GateCommand watched",
    f"{JOURNEYS_TOPIC} rl100_msgs/msg/StageTimes",
    f"{FEEDBACK_TOPIC} rl100_msgs/msg/HumanFeedback",
)


def all_topics(
    entries: Sequence[str], robot: RobotConfig | None, task: TaskConfig | None = None
) -> list[str]:
    """Entries, each once, with what ``DEFAULT_TOPICS`` stands for in its place.

    The topic that commands the arm is not among them: playing a bag must not move an arm, and
    ``gate/command`` says the same.

    Args:
        entries: As ``session.parse_stream`` reads them, or ``DEFAULT_TOPICS``.
        robot: Robot description, None if there is none.
        task: Task description, None if there is none.

    Raises:
        ConfigError: If the defaults are asked for but there is no robot description, or it has no
            camera to observe the task with.
    """
    found: list[str] = []
    for entry in entries:
        found += _described_topics(robot, task) if entry == DEFAULT_TOPICS else [entry]
    return list(dict.fromkeys(found))


def _described_topics(robot: RobotConfig | None, task: TaskConfig | None) -> list[str]:
    if robot is None:
        raise ConfigError(
            f"topics: {DEFAULT_TOPICS!r} stands for the topics of a robot; give robot_config, "
            "or name every topic"
        )
    found = ["joint_states sensor_msgs/msg/JointState sensor"]
    awaited = _awaited_camera(robot, task)
    for camera in robot.cameras:
        # An episode waits for the camera that a learner reads; others are recorded if they come.
        expected = f" sensor frame={camera.optical_frame}" if camera == awaited else ""
        if camera.kind == "points":
            found.append(f"{camera.topic} sensor_msgs/msg/PointCloud2{expected}")
            continue
        found.append(f"{camera.topic} sensor_msgs/msg/Image{expected}")
        needed = " required" if camera == awaited and camera.kind == "depth" else ""
        found.append(f"{camera.info_topic} sensor_msgs/msg/CameraInfo latched{needed}")
    if robot.gripper is not None:
        found.append("teleop/gripper_cmds std_msgs/msg/Float64")
    return [*found, "camera/extrinsics geometry_msgs/msg/TransformStamped latched", *_SUITE_TOPICS]


def _awaited_camera(robot: RobotConfig, task: TaskConfig | None) -> CameraConfig | None:
    """The camera that the task is seen with; of an unknown task the first."""
    if task is not None:
        return sight_camera(task, robot)
    return robot.cameras[0] if robot.cameras else None
