# SPDX-License-Identifier: Apache-2.0
"""Episodes of a folder of bags as a LeRobot dataset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl100_learner.data.bag_episode import EpisodeReader, ReadEpisode
from rl100_learner.data.streams import by_stamp
from rl100_learner.lerobot.layout import (
    ACTION,
    DONE,
    IMAGES,
    INTERVENTION,
    POINTS,
    REWARD,
    STATE,
    SUCCESS,
    DatasetInfo,
    Feature,
)
from rl100_learner.lerobot.writing import DatasetWriter
from rl100_policy.bags.alignment import nearest_index
from rl100_policy.bags.index import hint_of_bags, read_index
from rl100_policy.bags.judgement import Outcome
from rl100_policy.bags.reading import read_messages
from rl100_policy.core import messages
from rl100_policy.core.config import PointObservation, RobotConfig, TaskConfig
from rl100_policy.core.errors import BagError, ConfigError, ObservationError

Pixels = NDArray[np.uint8]
_TOOL = ("tool_position.x", "tool_position.y", "tool_position.z")
_WHOLE_HZ = 1e-6

OnEpisode = Callable[[str, int, int, str], None]
"""Told the folder of a bag, how many are dealt with, of how many, and why it was left out."""


@dataclass(frozen=True)
class ExportRequest:
    """What is to be exported, and where to."""

    bags: Path
    robot: RobotConfig
    task: TaskConfig
    into: Path
    repo_id: str = ""
    """Name of the dataset for those who load it; empty: the folder's."""
    outcomes: tuple[Outcome, ...] = tuple(Outcome)
    """Episodes of other outcomes are left out."""


@dataclass
class Exported:
    """What was exported."""

    info: DatasetInfo
    left_out: dict[str, str] = field(default_factory=dict)
    """Why, by bag."""


def export_bags(request: ExportRequest, on_episode: OnEpisode | None = None) -> Exported:
    """Write a dataset of all usable episodes of a folder.

    Row t of an episode holds the observation at the beginning of control period t and the action
    that was executed in it. The last observation of an episode, which no action follows, is not
    part of the dataset: the format has a row for each action.

    Args:
        request: What and where to.
        on_episode: Told of every bag.

    Raises:
        BagError: If there is no usable episode; says why.
        ConfigError: If the control rate is not a whole number of Hz.
        StorageError: If the dataset cannot be written; nothing is left then.
    """
    entries = [
        entry
        for entry in read_index(request.bags).entries
        if entry.metadata.outcome in request.outcomes
    ]
    labelled = all(entry.metadata.outcome is not Outcome.UNLABELLED for entry in entries)
    folders = [request.bags / entry.folder for entry in entries]
    source = _Source(request, folders, labelled=labelled)
    description = _card(request, source.features)
    left_out: dict[str, str] = {}
    with ExitStack() as undo:
        info = DatasetInfo(
            fps=_fps(request.robot), robot_type=request.robot.name, features=source.features
        )
        writer = DatasetWriter(request.into, info, description)
        undo.callback(writer.abort)
        for done, folder in enumerate(folders, start=1):
            try:
                columns, outcome = source.columns(folder)
                writer.add(columns, request.task.description, outcome=outcome, bag=folder.name)
            except BagError as error:
                left_out[folder.name] = str(error)
            if on_episode is not None:
                on_episode(folder.name, done, len(folders), left_out.get(folder.name, ""))
        if writer.info.total_episodes == 0:
            reasons = "; ".join(left_out.values()) or hint_of_bags(request.bags)
            raise BagError(
                f"no usable episode of task {request.task.name!r} in {request.bags}: "
                f"{reasons or 'there are none of these outcomes'}"
            )
        exported = Exported(writer.close(), left_out)
        undo.pop_all()
    return exported


def _fps(robot: RobotConfig) -> int:
    rate = 1.0 / robot.control_period
    if abs(rate - round(rate)) > _WHOLE_HZ:
        raise ConfigError(
            f"control_period {robot.control_period} s is {rate:.3f} Hz; a LeRobot dataset has a "
            "whole number of frames per second"
        )
    return round(rate)


def _card(request: ExportRequest, features: dict[str, Feature]) -> str:
    """README.md of the dataset, with what the hub reads at its head."""
    name = request.repo_id or request.into.name
    rows = "\n".join(
        f"| `{key}` | {each.dtype} {list(each.shape)} | {', '.join(each.components)} |"
        for key, each in features.items()
    )
    return (
        "---\ntags:\n- LeRobot\n- rl100\ntask_categories:\n- robotics\nconfigs:\n"
        "- config_name: default\n  data_files: data/*/*.parquet\n---\n\n"
        f"# {name}\n\n{request.task.description} Robot {request.robot.name}, exported from "
        "rosbag2 episodes by RL-100 for ROS 2, LeRobot format v3.0.\n\n"
        f"| feature | type | components |\n| --- | --- | --- |\n{rows}\n"
    )


class _Source:
    """Rows of episodes from their bags."""

    def __init__(self, request: ExportRequest, folders: Sequence[Path], *, labelled: bool) -> None:
        robot, task = request.robot, request.task
        wholly = {"proprio": ("tool_position", "joint_positions")}
        observation = task.observation.model_copy(update=wholly)
        self._reader = EpisodeReader(task.model_copy(update={"observation": observation}), robot)
        self._robot, self._task, self._labelled = robot, task, labelled
        self._cameras = {
            f"{IMAGES}{camera.name}": camera
            for camera in robot.cameras
            if camera.kind == "color" and folders and _has(folders[0], camera.topic)
        }
        self._tolerance_ns = round(robot.control_period * 1e9) // 2
        self.features = self._features()

    def _features(self) -> dict[str, Feature]:
        joints, action = self._robot.joints, self._task.action
        found = {
            STATE: Feature(dtype="float32", shape=(len(joints) + 3,), names=[*joints, *_TOOL]),
            ACTION: Feature(dtype="float32", shape=(action.dim,), names=list(action.names)),
        }
        for name, camera in self._cameras.items():
            shape = (camera.height, camera.width, 3)
            found[name] = Feature(
                dtype="image", shape=shape, names=["height", "width", "channels"]
            )
        if isinstance(self._task.observation, PointObservation):
            points = (self._task.observation.n_points, 3)
            found[POINTS] = Feature(dtype="float32", shape=points, names=["point", "xyz"])
        found[INTERVENTION] = Feature(dtype="bool", shape=(1,))
        found[DONE] = Feature(dtype="bool", shape=(1,))
        if self._labelled:
            found[REWARD] = Feature(dtype="float32", shape=(1,))
            found[SUCCESS] = Feature(dtype="bool", shape=(1,))
        return found

    def columns(self, folder: Path) -> tuple[dict[str, Any], str]:
        """Features and outcome of one episode; raises BagError if it cannot be used."""
        read = self._reader.read(folder)
        episode, rows = read.episode, len(read.episode)
        if self._labelled and episode.outcome == "unlabelled":
            raise BagError(
                f"episode {folder} is cut before its end, so that its outcome is not known"
            )
        last = np.arange(rows) == rows - 1
        success = last & (episode.outcome == "success")
        tool, joints = episode.proprio[:rows, :3], episode.proprio[:rows, 3:]
        found: dict[str, Any] = {
            STATE: np.concatenate([joints, tool], axis=1),
            ACTION: episode.actions,
            INTERVENTION: _by_person(read),
            DONE: last,
        }
        if self._labelled:
            found |= {REWARD: success.astype(np.float32), SUCCESS: success}
        if POINTS in self.features:
            found[POINTS] = episode.visual[:rows]
        return found | self._images(folder, episode.stamps_ns[:rows]), episode.outcome

    def _images(self, folder: Path, stamps_ns: NDArray[np.int64]) -> dict[str, list[Pixels]]:
        """Whole colour images nearest to some times."""
        found: dict[str, list[Pixels]] = {}
        topics = {each.topic: name for name, each in self._cameras.items()}
        for topic, recorded in read_messages(folder, list(topics)).items():
            frames = by_stamp(recorded, 0)
            times = np.array(list(frames), dtype=np.int64)
            chosen = nearest_index(times, stamps_ns, self._tolerance_ns)
            if (chosen < 0).any():
                raise BagError(
                    f"episode {folder} lacks images on {topic} in "
                    f"{int((chosen < 0).sum())} of its {len(stamps_ns)} control periods"
                )
            values = list(frames.values())
            name = topics[topic]
            found[name] = [self._pixels(values[each], name, folder) for each in chosen]
        return found

    def _pixels(self, frame: Any, name: str, folder: Path) -> Pixels:
        try:
            pixels = messages.colour_image(frame)
        except ObservationError as error:
            raise BagError(f"episode {folder}, {name}: {error}") from error
        if pixels.shape != self.features[name].shape:
            raise BagError(
                f"episode {folder}, {name}: an image has shape {pixels.shape}, the robot "
                f"description {self.features[name].shape}"
            )
        return pixels


def _has(folder: Path, topic: str) -> bool:
    return bool(read_messages(folder, [topic])[topic])


def _by_person(read: ReadEpisode) -> NDArray[np.bool_]:
    """[T] whether a person was in command."""
    return np.array(read.by_person, dtype=np.bool_)
