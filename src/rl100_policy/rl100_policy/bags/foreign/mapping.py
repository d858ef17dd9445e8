# SPDX-License-Identifier: Apache-2.0
"""Mapping file: which topics of a foreign recording stand for which of ours.

Topics are written with or without the leading slash.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from rl100_policy.core.config import FrozenModel, PositiveFloat, load_description


class JointStatesMapping(FrozenModel):
    """Where measured joint positions come from (sensor_msgs/JointState)."""

    topic: str
    names: dict[str, str] = Field(default_factory=dict)
    """Foreign joint name to the one of the robot description; joints left out keep their names."""


class CameraMapping(FrozenModel):
    """One camera: sensor_msgs/Image, or sensor_msgs/PointCloud2 of a camera of kind points."""

    topic: str
    info_topic: str | None = None
    """CameraInfo; null: ``camera_info`` beside the images, as image_transport names it."""
    frame: str | None = None
    """Frame of its headers; null: the optical frame of the robot description."""
    in_base_frame: bool = False
    """``frame`` is the robot's base: points that a driver has transformed already."""

    @property
    def information(self) -> str:
        """Topic of the CameraInfo."""
        return self.info_topic or f"{self.topic.rpartition('/')[0]}/camera_info"


class ExtrinsicsMapping(FrozenModel):
    """Where the pose of the cameras comes from."""

    source: Literal["robot", "topic"] = "robot"
    """``robot``: the robot description. ``topic``: transforms in the recording."""
    topic: str = "/tf_static"
    """geometry_msgs/TransformStamped, or tf2_msgs/TFMessage through which frames are joined."""
    base_frame: str | None = None
    """Name of the robot's base frame in the recording; null: as in the robot description."""


class GateAction(FrozenModel):
    """``source: gate``: rl100_msgs/GateCommand of our gate, taken as they are."""

    source: Literal["gate"]
    topic: str = "/gate/command"


class TrajectoryAction(FrozenModel):
    """``source: trajectory``: trajectory_msgs/JointTrajectory, followed point by point.

    Between points the arm is told to go straight in joint space; after the last it is told to
    stay. A newer trajectory takes over at its own stamp.
    """

    source: Literal["trajectory"]
    topic: str
    names: dict[str, str] = Field(default_factory=dict)
    """Foreign joint name to ours; joints left out keep their names."""


class SampledAction(FrozenModel):
    """Positions told one after the other."""

    reached_after: Annotated[float, Field(ge=0.0)] = 0.0
    """Time from a message to when the arm is to be at its positions [s]."""
    longest_gap: PositiveFloat = 0.5
    """Between messages farther apart nothing is known of the command [s]."""


class PositionsAction(SampledAction):
    """``source: positions``: std_msgs/Float64MultiArray of joint positions [rad].

    It has no stamp: the time of its reception is taken.
    """

    source: Literal["positions"]
    topic: str
    joints: tuple[str, ...]
    """Joints in the order of the array, by the names of the robot description."""


class LeaderAction(SampledAction):
    """``source: leader``: sensor_msgs/JointState of a leader arm that the robot follows."""

    source: Literal["leader"]
    topic: str
    names: dict[str, str] = Field(default_factory=dict)
    """Leader's joint name to ours; joints left out keep their names."""


class MeasuredAction(FrozenModel):
    """``source: measured``: the motion that was measured, where no command was recorded.

    An arm lags behind what it is told, so a policy that repeats it will be a little slow.
    """

    source: Literal["measured"]
    longest_gap: PositiveFloat = 0.5
    """Between joint states farther apart nothing is known of the motion [s]."""


AnyAction = GateAction | TrajectoryAction | PositionsAction | LeaderAction | MeasuredAction


class OutcomeMapping(FrozenModel):
    """Who says whether an episode succeeded; the option ``--outcome`` goes before it."""

    source: Literal["none", "success", "failure", "topic"] = "none"
    """``success``, ``failure``: every episode. ``topic``: messages. ``none``: unlabelled."""
    topic: str | None = None
    """std_msgs/Bool, true for success, or rl100_msgs/HumanFeedback."""

    @model_validator(mode="after")
    def _topic_if_needed(self) -> Self:
        if (self.source == "topic") != (self.topic is not None):
            raise ValueError("topic belongs to source: topic, and that needs one")
        return self


class EpisodesMapping(FrozenModel):
    """Where episodes begin and end within one recording."""

    cut: Literal["whole", "marker", "outcomes"] = "whole"
    """``whole``: one recording is one episode. ``marker``: at messages of a topic.
    ``outcomes``: an episode ends with its outcome, and the next begins."""
    topic: str | None = None
    """Of the markers: std_msgs/Bool, true where an episode begins and false where it ends; or any
    other type, each message of which begins an episode that lasts until the next."""

    @model_validator(mode="after")
    def _topic_if_needed(self) -> Self:
        if (self.cut == "marker") != (self.topic is not None):
            raise ValueError("topic belongs to cut: marker, and that needs one")
        return self


class ImportMapping(FrozenModel):
    """The whole mapping file."""

    joint_states: JointStatesMapping
    cameras: dict[str, CameraMapping] = Field(default_factory=dict)
    """By the name of the camera in the robot description."""
    extrinsics: ExtrinsicsMapping = ExtrinsicsMapping()
    action: Annotated[AnyAction, Field(discriminator="source")]
    outcome: OutcomeMapping = OutcomeMapping()
    episodes: EpisodesMapping = EpisodesMapping()
    stamps: Literal["header", "received"] = "header"
    """Time of a message: the stamp of its header, or when the recording received it, for drivers
    whose clocks differ; the headers are then written anew."""
    trim_still: Annotated[float, Field(ge=0.0)] = 0.0
    """Control periods at the beginning and end in which no joint is told to move faster than this
    [rad/s] count as nobody's, and learning leaves them out; 0: none do."""
    operator: str = ""
    """Who demonstrated, kept in the bags."""
    tags: dict[str, str] = Field(default_factory=dict)
    """Kept in the bags."""

    @field_validator("tags")
    @classmethod
    def _tags_are_free(cls, value: dict[str, str]) -> dict[str, str]:
        if taken := [key for key in value if key.startswith("import.")]:
            raise ValueError(f"tags that begin with 'import.' are written by the import: {taken}")
        return value

    @model_validator(mode="after")
    def _outcomes_cut(self) -> Self:
        if self.episodes.cut == "outcomes" and self.outcome.source != "topic":
            raise ValueError("episodes.cut: outcomes needs outcome.source: topic")
        return self


def load_mapping(path: str | Path) -> ImportMapping:
    """Read a mapping file.

    Raises:
        ConfigError: If it is missing or a key is unknown, missing or out of range; names the key.
    """
    return load_description(ImportMapping, Path(path))


def absolute(topic: str) -> str:
    """Topic with its leading slash."""
    return "/" + topic.lstrip("/")
