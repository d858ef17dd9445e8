# SPDX-License-Identifier: Apache-2.0
"""One episode from its bag, by the code that serves the live robot.

Rules for what is missing: only the longest gap-free stretch is used (see ``bags.alignment``); a
camera frame that cannot be used counts as missing; any other message that a live node would refuse
is skipped, and counted in the notes; periods at the beginning and end in which nobody was in
command are not part of the episode. It ends where the person saw its outcome
(:mod:`rl100_policy.bags.reward`); if the stretch does not reach that, its outcome is unlabelled,
because the outcome was given to an end that is not in it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl100_learner.data.episode import Episode
from rl100_learner.data.streams import (
    ExecutedActions,
    arm_positions,
    by_stamp,
    executed_actions,
    recorded_camera_pose,
    recorded_intrinsics,
)
from rl100_policy.bags.alignment import Alignment, align, nearest_index
from rl100_policy.bags.identity import bag_file
from rl100_policy.bags.metadata import EpisodeMetadata
from rl100_policy.bags.reading import BagMessage, read_messages, read_metadata
from rl100_policy.bags.topics import EXECUTED_TOPIC
from rl100_policy.core.config import RobotConfig, TaskConfig
from rl100_policy.core.errors import BagError, ObservationError
from rl100_policy.core.geometry import pose_from_xyz_rpy
from rl100_policy.core.kinematics import ArmKinematics
from rl100_policy.core.observation import Visual, proprioception
from rl100_policy.core.point_cloud import Intrinsics
from rl100_policy.core.sight import sight_maker

JOINTS = "joint_states"
EXTRINSICS = "camera/extrinsics"

Proprio = NDArray[np.float32]
_NOTHING: Visual = np.zeros((0, 3), np.float32)


@dataclass(frozen=True)
class ReadEpisode:
    """An episode and what had to be left out of it."""

    episode: Episode
    notes: tuple[str, ...]
    """For people; empty if the bag was whole."""
    versions: tuple[str, ...] = ()
    """Which policy version was in command in every control period; empty where none was."""
    acted: frozenset[str] = frozenset()
    """Policy versions that were in command anywhere in the recording, used or left out."""
    seen: Mapping[int, tuple[Visual, Proprio]] = field(default_factory=dict)
    """What was seen at the stamps that were asked for [ns], and proprioception with it."""
    by_person: tuple[bool, ...] = ()
    """Whether a person was in command in every control period."""


@dataclass(frozen=True)
class _View:
    """How a camera saw an episode; what its frames need not know is None."""

    intrinsics: Intrinsics | None = None
    t_base_camera: NDArray[np.float64] | None = None
    """[4, 4], optical frame in the base frame."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Streams:
    """What one bag holds, each by header stamp in its order."""

    positions: dict[int, NDArray[np.float64]]
    """[n_joints], rad."""
    frames: dict[int, Any]
    """sensor_msgs/Image, or PointCloud2 of a camera that delivers points; where there is no camera
    the joint positions."""
    commands: ExecutedActions
    view: _View
    notes: tuple[str, ...]
    """What was skipped or made up for, for people."""


class EpisodeReader:
    """Reads episodes of one task on one arm. Not thread-safe (the kinematics are not)."""

    def __init__(
        self, task: TaskConfig, robot: RobotConfig, *, accept_other_setup: bool = False
    ) -> None:
        """Prepare the kinematics, and choose the camera that the task is seen with.

        Args:
            task: What the policy sees and does.
            robot: The arm.
            accept_other_setup: Read bags recorded with another ``RobotConfig.setup`` too, as if
                they had been recorded with this one.

        Raises:
            ConfigError: If the robot has no such camera.
        """
        self._task, self._robot = task, robot
        self._accept_other_setup = accept_other_setup
        self._maker = sight_maker(task, robot)
        self._camera = self._maker.camera if self._maker else None
        self._kinematics = ArmKinematics(robot)
        self._period_ns = round(robot.control_period * 1e9)

    def read(self, folder: Path, also: Collection[int] = ()) -> ReadEpisode:
        """Read one closed episode.

        Args:
            folder: Of the bag.
            also: Stamps of frames that are wanted whether or not they are part of the episode.

        Raises:
            BagError: If the bag is of another task or robot, was recorded with another setup of
                the robot that is not accepted, is damaged, or holds no action with an observation
                before and after it.
        """
        try:
            for _ in range(_ATTEMPTS):
                before = _times(folder)
                metadata = read_metadata(folder)
                self._check_origin(metadata)
                # Hashing is a quarter of the work, and needs no lock of the interpreter's.
                with ThreadPoolExecutor(1) as beside:
                    digest = beside.submit(_file_hash, bag_file(folder))
                    streams = self._streams(folder, metadata)
                    read = self._joined(metadata, streams, digest, also)
                if _times(folder) == before:
                    return read
        except (BagError, ObservationError) as error:
            raise BagError(f"episode {folder} cannot be used: {error}") from error
        raise BagError(f"episode {folder} changed whenever it was read; read it again later")

    def _check_origin(self, metadata: EpisodeMetadata) -> None:
        expected = (
            ("task", metadata.task, self._task.name),
            ("robot", metadata.robot, self._robot.name),
        )
        for what, found, wanted in expected:
            if found and found != wanted:
                raise BagError(f"it is of {what} {found!r}, expected {wanted!r}")
        differences = self._other_setup(metadata)
        if differences and not self._accept_other_setup:
            raise BagError(
                f"it was recorded with {'; '.join(differences)}: give the description it was "
                "recorded with, or set accept_other_setup=true"
            )

    def _other_setup(self, metadata: EpisodeMetadata) -> list[str]:
        """Differences to the robot description; a bag that does not tell has none."""
        return [
            f"{key} {metadata.setup[key]}, the robot description has {value}"
            for key, value in self._robot.setup.items()
            if key in metadata.setup and metadata.setup[key] != value
        ]

    def _streams(self, folder: Path, metadata: EpisodeMetadata) -> _Streams:
        camera, moment_ns = self._camera, metadata.verdict.moment_ns
        # The last action is the one that the moment lies in, its result comes a period later.
        end_ns = moment_ns + self._period_ns if moment_ns else metadata.end_ns
        last_ns = moment_ns - 1 if moment_ns else metadata.end_ns
        skipped: Counter[str] = Counter()
        seen = [camera.topic] if camera else []
        bag = read_messages(
            folder,
            [JOINTS, *seen, *self._view_topics(), EXECUTED_TOPIC],
            on_malformed=lambda topic, _: skipped.update([topic]),
        )
        view = self._view(bag, skipped)
        positions, bad = arm_positions(bag[JOINTS], self._robot.joints, end_ns)
        skipped[JOINTS] += bad
        commands = executed_actions(by_stamp(bag[EXECUTED_TOPIC], last_ns), self._task.action)
        skipped[EXECUTED_TOPIC] += commands.skipped
        notes = [f"{topic}: {count} bad messages skipped" for topic, count in (+skipped).items()]
        notes += view.notes
        notes += [f"taken in spite of {each}" for each in self._other_setup(metadata)]
        return _Streams(
            positions=positions,
            frames=by_stamp(bag[camera.topic], end_ns) if camera else positions,
            commands=commands,
            view=view,
            notes=tuple(notes),
        )

    def _view_topics(self) -> list[str]:
        """Topics without which the frames of the camera mean nothing."""
        if self._camera is None or self._camera.kind == "color":
            return []
        return [EXTRINSICS, *([self._camera.info_topic] if self._camera.kind == "depth" else [])]

    def _view(self, bag: Mapping[str, Sequence[BagMessage]], skipped: Counter[str]) -> _View:
        camera, topics = self._camera, self._view_topics()
        if camera is None or not topics:
            return _View()
        pose, bad = recorded_camera_pose(bag[EXTRINSICS], camera, self._robot.base_frame)
        skipped[EXTRINSICS] += bad
        intrinsics = None
        if camera.info_topic in topics:
            topic = camera.info_topic
            intrinsics, bad = recorded_intrinsics(bag[topic], camera.optical_frame)
            skipped[topic] += bad
        if pose is not None:
            return _View(intrinsics, pose)
        note = f"no {EXTRINSICS}: the camera pose of the robot description is used"
        return _View(intrinsics, pose_from_xyz_rpy(camera.xyz, camera.rpy), (note,))

    def _joined(
        self,
        metadata: EpisodeMetadata,
        streams: _Streams,
        digest: Future[str],
        also: Collection[int],
    ) -> ReadEpisode:
        seen, unusable = self._seen(streams)
        joint_ns, seen_ns = _stamps(streams.positions), _stamps(seen)
        commands = streams.commands
        stretch = align(joint_ns, seen_ns, commands.stamps_ns, self._period_ns)
        if len(stretch.commands) == 0:
            raise BagError(
                f"no action has an observation before and after it: {len(joint_ns)} joint states, "
                f"{len(streams.frames)} frames of which {unusable} cannot be used, "
                f"{'; '.join((f'{len(commands.stamps_ns)} commands', *streams.notes))}"
            )
        versions = tuple(commands.versions[index] for index in stretch.commands)
        acted = frozenset(filter(None, commands.versions))
        positions, frames = list(streams.positions.values()), list(seen.values())
        proprio = [self._proprioception(positions[index]) for index in stretch.joints]
        episode = Episode(
            id=metadata.episode_id,
            outcome=metadata.outcome.value if stretch.reaches_end else "unlabelled",
            visual=np.stack([frames[index] for index in stretch.frames]),
            proprio=np.stack(proprio),
            actions=commands.actions[stretch.commands],
            stamps_ns=seen_ns[stretch.frames],
            source_sha256=digest.result(),
            lasted=1 + round(commands.recorded_ns / self._period_ns),
            # of the whole recording: a frame lost at the takeover leaves out what was before
            taken_over=bool(acted) and any(commands.by_person),
        )
        return ReadEpisode(
            episode,
            _notes(metadata, streams, stretch, unusable),
            versions,
            acted,
            self._also_seen(streams, also),
            tuple(commands.by_person[index] for index in stretch.commands),
        )

    def _proprioception(self, positions: NDArray[np.float64]) -> Proprio:
        return proprioception(self._task.observation, positions, self._kinematics.tool_position)

    def _also_seen(
        self, streams: _Streams, also: Collection[int]
    ) -> dict[int, tuple[Visual, Proprio]]:
        """Usable frames of exactly these stamps, each with the joint state nearest to it."""
        stamps = np.array(sorted(set(also) & streams.frames.keys()), dtype=np.int64)
        joints = nearest_index(_stamps(streams.positions), stamps, self._period_ns // 2)
        positions = list(streams.positions.values())
        found = {}
        for stamp, joint in zip(stamps.tolist(), joints, strict=True):
            with suppress(ObservationError):
                if joint >= 0:
                    look = self._look(streams.frames[stamp], streams.view)
                    found[stamp] = look, self._proprioception(positions[joint])
        return found

    def _seen(self, streams: _Streams) -> tuple[dict[int, Visual], int]:
        """What was seen when commands were given, by stamp; and how many frames are unusable."""
        frame_ns, command_ns = _stamps(streams.frames), streams.commands.stamps_ns
        grid = np.union1d(command_ns, command_ns + self._period_ns)
        wanted = np.unique(nearest_index(frame_ns, grid, self._period_ns // 2))
        seen: dict[int, Visual] = {}
        unusable = 0
        for stamp in frame_ns[wanted[wanted >= 0]].tolist():
            try:
                seen[stamp] = self._look(streams.frames[stamp], streams.view)
            except ObservationError:
                unusable += 1
        return seen, unusable

    def _look(self, frame: Any, view: _View) -> Visual:
        if self._maker is None:
            return _NOTHING
        return self._maker.make(frame, view.intrinsics, view.t_base_camera)


def read_episode(folder: Path, task: TaskConfig, robot: RobotConfig) -> Episode:
    """Read one closed episode; for many, see ``reader.load_demonstrations``.

    Raises:
        BagError: As :meth:`EpisodeReader.read`.
    """
    return EpisodeReader(task, robot).read(folder).episode


def _stamps(stream: dict[int, Any]) -> NDArray[np.int64]:
    return np.array(list(stream), dtype=np.int64)


_ATTEMPTS = 3
"""At a bag that is judged anew while it is read."""


def _times(folder: Path) -> list[tuple[str, int, int]]:
    """Names, sizes and times of change of the files of a bag."""
    files = [(path.name, path.stat()) for path in sorted(folder.iterdir()) if path.is_file()]
    return [(name, found.st_size, found.st_mtime_ns) for name, found in files]


def _file_hash(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _notes(
    metadata: EpisodeMetadata, streams: _Streams, stretch: Alignment, unusable: int
) -> tuple[str, ...]:
    """What is known to be missing from the episode, for people."""
    notes = [*metadata.degraded_reasons, *streams.notes]
    if unusable:
        notes.append(f"{unusable} camera frames cannot be used")
    if stretch.left_out:
        notes.append(f"{stretch.left_out} control periods beside the longest gap-free stretch")
    return tuple(notes)
