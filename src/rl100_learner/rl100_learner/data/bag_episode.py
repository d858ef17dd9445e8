# SPDX-License-Identifier: Apache-2.0
"""One episode from its bag, by the code that serves the live robot.

Rules for what is missing: only the longest gap-free stretch is used (see ``alignment``); a depth
frame from which no cloud can be made counts as missing; periods at the beginning and end in which
nobody was in command are not part of the episode; if the stretch does not reach the end of the
episode, its outcome is unlabelled, because the outcome was given to an end that is not in it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl100_learner.data.alignment import Alignment, align, nearest_index
from rl100_learner.data.episode import Episode
from rl100_policy.bags.identity import bag_file
from rl100_policy.bags.metadata import EpisodeMetadata
from rl100_policy.bags.reading import BagMessage, read_messages, read_metadata
from rl100_policy.core import messages
from rl100_policy.core.command import CommandSource
from rl100_policy.core.config import RobotConfig, TaskConfig
from rl100_policy.core.errors import BagError, ObservationError
from rl100_policy.core.geometry import pose_from_xyz_rpy
from rl100_policy.core.kinematics import ArmKinematics
from rl100_policy.core.observation import proprioception
from rl100_policy.core.point_cloud import Intrinsics, depth_to_cloud

JOINTS = "joint_states"
EXTRINSICS = "camera/extrinsics"
COMMANDS = "gate/command"

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class ReadEpisode:
    """An episode and what had to be left out of it."""

    episode: Episode
    notes: tuple[str, ...]
    """For people; empty if the bag was whole."""


@dataclass(frozen=True)
class _Commands:
    """Usable commands, [C] in time order."""

    stamps_ns: NDArray[np.int64]
    executed: Floats


class EpisodeReader:
    """Reads episodes of one task on one arm. Not thread-safe (the kinematics are not)."""

    def __init__(self, task: TaskConfig, robot: RobotConfig) -> None:
        """Prepare the kinematics; the first camera of the robot is the one that is read."""
        self._task, self._robot = task, robot
        self._camera = robot.camera()
        self._info_topic = self._camera.topic.rsplit("/", 1)[0] + "/camera_info"
        self._kinematics = ArmKinematics(robot)
        self._period_ns = round(robot.control_period * 1e9)

    def read(self, folder: Path) -> ReadEpisode:
        """Read one closed episode.

        Raises:
            BagError: If the bag is of another task or robot, damaged, or holds no action with an
                observation before and after it.
        """
        metadata = read_metadata(folder)
        self._check_origin(folder, metadata)
        camera = self._camera.topic
        wanted = [JOINTS, camera, self._info_topic, EXTRINSICS, COMMANDS]
        bag = read_messages(folder, wanted)
        joints = _by_stamp(bag[JOINTS], metadata.end_ns)
        depth = _by_stamp(bag[camera], metadata.end_ns)
        commands = self._commands(folder, _by_stamp(bag[COMMANDS], metadata.end_ns))
        intrinsics = self._intrinsics(folder, bag[self._info_topic])
        t_base_camera, notes = self._extrinsics(folder, bag[EXTRINSICS])
        try:
            positions = [
                messages.joint_positions(each, self._robot.joints) for each in joints.values()
            ]
            joint_ns = np.array(list(joints), dtype=np.int64)
        except ObservationError as error:
            raise BagError(f"{folder}: {error}; leave this episode out") from error
        clouds, bad = self._clouds(commands, depth, intrinsics, t_base_camera)
        stretch = align(
            joint_ns, np.array(list(clouds), dtype=np.int64), commands.stamps_ns, self._period_ns
        )
        notes += self._loss_notes(metadata, stretch, bad)
        if len(stretch.commands) == 0:
            raise BagError(
                f"{folder}: no action has an observation before and after it ({len(joints)} joint states, "
                f"{len(depth)} depth frames of which {bad} give no cloud, {len(commands.stamps_ns)} commands)"
            )
        episode = self._episode(folder, metadata, stretch, positions, clouds, commands)
        return ReadEpisode(episode, tuple(notes))

    def _check_origin(self, folder: Path, metadata: EpisodeMetadata) -> None:
        expected = (
            ("task", metadata.task, self._task.name),
            ("robot", metadata.robot, self._robot.name),
        )
        for what, found, wanted in expected:
            if found and found != wanted:
                raise BagError(
                    f"{folder} is of {what} {found!r}, expected {wanted!r}; give a folder of its own to each"
                )

    def _commands(self, folder: Path, commands: dict[int, Any]) -> _Commands:
        """Executed actions from the first to the last period in which somebody was in command."""
        action = self._task.action
        for command in commands.values():
            if command.action_space != action.space or tuple(command.names) != action.names:
                raise BagError(
                    f"{folder} has actions {command.action_space} {list(command.names)}, task {self._task.name!r} "
                    f"has {action.space} {list(action.names)}"
                )
        active = [
            stamp for stamp, command in commands.items() if command.source != CommandSource.HOLD
        ]
        if not active:
            raise BagError(
                f"{folder}: nobody was in command in any of {len(commands)} control periods"
            )
        usable = {
            stamp: np.asarray(command.executed, dtype=np.float32)
            for stamp, command in commands.items()
            if active[0] <= stamp <= active[-1]
            and len(command.executed) == action.dim
            and np.isfinite(command.executed).all()
        }
        executed = np.array(list(usable.values()), dtype=np.float32).reshape(-1, action.dim)
        return _Commands(np.array(list(usable), dtype=np.int64), executed)

    def _intrinsics(self, folder: Path, infos: Sequence[BagMessage]) -> Intrinsics:
        try:
            found = {messages.intrinsics(info.value) for info in infos}
        except ObservationError as error:
            raise BagError(f"{folder}: {error}") from error
        if len(found) != 1:
            raise BagError(
                f"{folder}: expected one CameraInfo on {self._info_topic}, got {len(found)} different ones"
            )
        return found.pop()

    def _extrinsics(
        self, folder: Path, transforms: Sequence[BagMessage]
    ) -> tuple[NDArray[np.float64], list[str]]:
        """Camera pose in the base frame as recorded, else as described; and a note if it is the latter."""
        camera, base = self._camera, self._robot.base_frame
        of_camera = [
            each.value.transform
            for each in transforms
            if each.value.header.frame_id == base
            and each.value.child_frame_id == camera.optical_frame
        ]
        if not of_camera:
            pose = pose_from_xyz_rpy(camera.xyz, camera.rpy)
            return pose, [
                f"no {EXTRINSICS} for {camera.optical_frame}: the pose of the robot description is used"
            ]
        try:
            poses = [messages.transform_matrix(each) for each in of_camera]
        except ObservationError as error:
            raise BagError(f"{folder}: {error}") from error
        if any(not np.allclose(pose, poses[0], atol=1e-6) for pose in poses):
            raise BagError(
                f"{folder}: {EXTRINSICS} changes during the episode; such episodes are not supported"
            )
        return poses[0], []

    def _clouds(
        self,
        commands: _Commands,
        depth: dict[int, Any],
        intrinsics: Intrinsics,
        t_base_camera: NDArray[np.float64],
    ) -> tuple[dict[int, Floats], int]:
        """Clouds of the frames that commands refer to, by stamp, and how many frames gave none."""
        frame_ns = np.array(list(depth), dtype=np.int64)
        grid = np.union1d(commands.stamps_ns, commands.stamps_ns + self._period_ns)
        wanted = np.unique(nearest_index(frame_ns, grid, self._period_ns // 2))
        clouds: dict[int, Floats] = {}
        bad = 0
        for stamp in frame_ns[wanted[wanted >= 0]]:
            try:
                clouds[int(stamp)] = self._cloud(depth[int(stamp)], intrinsics, t_base_camera)
            except ObservationError:
                bad += 1
        return clouds, bad

    def _cloud(
        self, image: Any, intrinsics: Intrinsics, t_base_camera: NDArray[np.float64]
    ) -> Floats:
        observation, camera = self._task.observation, self._camera
        return depth_to_cloud(
            messages.depth_image(image),
            intrinsics,
            t_base_camera,
            self._task.crop,
            observation.n_points,
            observation.min_points,
            depth_range_m=(camera.depth_min, camera.depth_max),
        )

    def _episode(
        self,
        folder: Path,
        metadata: EpisodeMetadata,
        stretch: Alignment,
        positions: Sequence[NDArray[np.float64]],
        clouds: dict[int, Floats],
        commands: _Commands,
    ) -> Episode:
        stamps, frames = np.array(list(clouds), dtype=np.int64), list(clouds.values())
        observation, tool = self._task.observation, self._kinematics.tool_position
        with bag_file(folder).open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return Episode(
            id=metadata.episode_id,
            outcome=metadata.outcome.value if stretch.reaches_end else "unlabelled",
            clouds=np.stack([frames[index] for index in stretch.frames]),
            proprio=np.stack(
                [proprioception(observation, positions[index], tool) for index in stretch.joints]
            ),
            actions=commands.executed[stretch.commands],
            stamps_ns=stamps[stretch.frames],
            source_sha256=digest,
        )

    @staticmethod
    def _loss_notes(metadata: EpisodeMetadata, stretch: Alignment, bad: int) -> list[str]:
        notes = list(metadata.degraded_reasons)
        if bad:
            notes.append(f"{bad} depth frames give no cloud")
        if stretch.left_out:
            notes.append(
                f"{stretch.left_out} control periods outside the longest gap-free stretch are left out"
            )
        return notes


def read_episode(folder: Path, task: TaskConfig, robot: RobotConfig) -> Episode:
    """Read one closed episode; for many, see ``reader.load_episodes``.

    Raises:
        BagError: As :meth:`EpisodeReader.read`.
    """
    return EpisodeReader(task, robot).read(folder).episode


def _by_stamp(recorded: Sequence[BagMessage], end_ns: int) -> dict[int, Any]:
    """Messages by header stamp, in its order, up to the end; the first of equal stamps, as the live nodes take it."""
    found: dict[int, Any] = {}
    for message in recorded:
        stamp = messages.stamp_ns(message.value.header.stamp)
        if not end_ns or stamp <= end_ns:
            found.setdefault(stamp, message.value)
    return dict(sorted(found.items()))
