# SPDX-License-Identifier: Apache-2.0
"""Mapping file: which features of a LeRobot dataset stand for what of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from rl100_learner.lerobot.layout import ACTION, INTERVENTION, STATE, SUCCESS
from rl100_policy.core.config import FrozenModel, load_description

Unit = Literal["rad", "deg"]


class StateMapping(FrozenModel):
    """Where measured joint positions come from."""

    feature: str = STATE
    names: dict[str, str] = Field(default_factory=dict)
    """Component of the feature to joint of the robot description; components left out keep their
    names, and those that are no joint are not looked at."""
    components: tuple[str, ...] | None = None
    """Names of the components in their order, where the dataset has none or wrong ones."""
    unit: Unit = "rad"


class ActionMapping(FrozenModel):
    """Where actions come from."""

    feature: str = ACTION
    kind: Literal["task", "joint_positions", "joint_velocities"] = "task"
    """``task``: the components of the task's action, in its unit. ``joint_positions``: where the
    joints are told to be. ``joint_velocities``: how fast they are told to move."""
    names: dict[str, str] = Field(default_factory=dict)
    """Component of the feature to joint, or to component of the task's action; components left
    out keep their names."""
    components: tuple[str, ...] | None = None
    """Names of the components in their order, where the dataset has none or wrong ones."""
    unit: Unit = "rad"
    """Of joints; of velocities per second."""
    reached_after: Annotated[float, Field(ge=0.0)] | None = None
    """Time from a frame to when its joint positions are to be reached [s]; null: one frame."""


class LeRobotMapping(FrozenModel):
    """The whole mapping file; an empty one fits datasets that were exported by us."""

    state: StateMapping = StateMapping()
    action: ActionMapping = ActionMapping()
    cameras: dict[str, str] = Field(default_factory=dict)
    """Name of a camera in the robot description to feature: an image for one of kind color, points
    [N, 3] in the base frame [m] for one of kind points."""
    outcome: Literal["feature", "none", "success", "failure"] = "feature"
    """``feature``: a success if ``success`` holds in the last frame, else a failure; unlabelled
    where there is no such feature. ``success``, ``failure``: every episode."""
    success: str = SUCCESS
    """Feature that tells of success."""
    intervention: str = INTERVENTION
    """Feature that tells whether a person was in command; without it a person always was. Frames
    of a policy are imported as such, and nothing takes them for demonstrations."""
    operator: str = ""
    """Who demonstrated, kept in the bags."""
    tags: dict[str, str] = Field(default_factory=dict)
    """Kept in the bags."""


def load_lerobot_mapping(path: str | Path) -> LeRobotMapping:
    """Read a mapping file.

    Raises:
        ConfigError: If it is missing or a key is unknown, missing or out of range; names the key.
    """
    return load_description(LeRobotMapping, Path(path))
