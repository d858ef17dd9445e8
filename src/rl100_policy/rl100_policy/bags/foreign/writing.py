# SPDX-License-Identifier: Apache-2.0
"""Writes what was examined as episodes of ours."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from heapq import merge
from pathlib import Path

import numpy as np

from rl100_policy.bags.factory import TYPES, MessageFactory
from rl100_policy.bags.foreign.drafts import Draft
from rl100_policy.bags.foreign.examining import Examination, ExaminedEpisode, Examiner
from rl100_policy.bags.foreign.findings import Status
from rl100_policy.bags.foreign.mapping import absolute
from rl100_policy.bags.foreign.origin import TAG, hash_of, wall_time
from rl100_policy.bags.foreign.recorded import CAMERA_INFO, stamp_of
from rl100_policy.bags.foreign.source import ForeignBag, ForeignMessage
from rl100_policy.bags.foreign.view import with_our_frame
from rl100_policy.bags.identity import new_episode_id
from rl100_policy.bags.metadata import EpisodeMetadata, config_hash, software_version
from rl100_policy.bags.topics import EXECUTED_TOPIC
from rl100_policy.bags.writer import Compression, EpisodeWriter
from rl100_policy.core import messages
from rl100_policy.core.config import CameraConfig
from rl100_policy.core.errors import BagError, ObservationError
from rl100_policy.core.gate_result import CommandSource


def mapping_hash(examiner: Examiner) -> str:
    """Hash of a mapping and the outcome given beside it."""
    return hash_of(examiner.mapping.model_dump(mode="json"), examiner.outcome)


class EpisodeImporter:
    """Writes the episodes of examined recordings into a folder of bags."""

    def __init__(self, into: Path, examiner: Examiner, compression: Compression = "zstd") -> None:
        """Remember where to.

        Args:
            into: Folder of bags; made if missing.
            examiner: Who examined them.
            compression: Of the bags' chunks.
        """
        self._into, self._compression = into, compression
        self._mapping, self._robot = examiner.mapping, examiner.robot
        self._task, self._mapping_hash = examiner.task, mapping_hash(examiner)
        self._factory = MessageFactory()

    def write(self, examination: Examination) -> list[Path]:
        """Write the episodes that fit.

        Returns:
            Their folders; none of those that do not fit.

        Raises:
            BagError: If the recording cannot be read, or the folder cannot be written; an episode
                that was not finished stays ``.partial`` then, and those before it are whole.
        """
        with ForeignBag(examination.source) as bag:
            return [
                self._write(bag, examination, number, episode)
                for number, episode in enumerate(examination.episodes, start=1)
                if episode.fits
            ]

    def _write(
        self, bag: ForeignBag, examination: Examination, number: int, episode: ExaminedEpisode
    ) -> Path:
        draft = episode.draft
        metadata = self._metadata(examination, number, episode)
        writer = EpisodeWriter(self._into, metadata, compression=self._compression)
        with ExitStack() as undo:
            undo.callback(writer.abort)
            for topic, type_name, stamp, data in self._messages(bag, examination, draft):
                writer.write(self._factory.topic(topic, type_name), data, log_ns=stamp)
            folder = writer.close(metadata)
            undo.pop_all()
        return folder

    def _metadata(
        self, examination: Examination, number: int, episode: ExaminedEpisode
    ) -> EpisodeMetadata:
        span, mapping = episode.draft.span, self._mapping
        tags = {
            "source": examination.source.name,
            "source_sha256": examination.sha256,
            "mapping_sha256": self._mapping_hash,
            "episode": f"{number} of {len(examination.episodes)}",
            "action": mapping.action.source,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        warned = tuple(
            f"{each.item}: {each.found}"
            for each in episode.findings
            if each.status is Status.WARNING and each.item in ("joint rate", "camera rate")
        )
        versions = [
            c.policy_version for c in episode.draft.commands.recorded.values() if c.policy_version
        ]
        return EpisodeMetadata(
            episode_id=new_episode_id(self._task.name, wall_time(span.start_ns)),
            task=self._task.name,
            robot=self._robot.name,
            operator=mapping.operator,
            policy_version=versions[0] if versions else "",
            judgements=span.judgements,
            start_ns=span.start_ns,
            end_ns=span.end_ns,
            end_reason="end of the recording that it was imported from",
            degraded_reasons=warned,
            setup=self._robot.setup,
            config_hash=config_hash(self._robot, self._task),
            software_version=software_version(),
            tags=mapping.tags | {TAG + key: value for key, value in tags.items()},
        )

    def _messages(
        self, bag: ForeignBag, examination: Examination, draft: Draft
    ) -> Iterator[tuple[str, str, int, bytes]]:
        """Topic, type, time [ns] and bytes of everything in an episode."""
        start, factory = draft.span.start_ns, self._factory
        for camera in self._robot.cameras:
            pose = examination.poses.get(camera.name)
            if pose is not None:
                data = factory.transform(start, pose, self._robot.base_frame, camera.optical_frame)
                yield "/camera/extrinsics", TYPES["extrinsics"], start, data
        yield from self._informed(bag, start)
        yield from merge(
            self._commands(bag, draft),
            self._sensed(bag, examination, draft),
            key=lambda each: each[2],
        )

    def _sensed(
        self, bag: ForeignBag, examination: Examination, draft: Draft
    ) -> Iterator[tuple[str, str, int, bytes]]:
        """Joint states and frames, in the order of the recording."""
        cameras = self._cameras()
        topics = [self._mapping.joint_states.topic, *cameras]
        least, most = examination.ahead_ns
        received = draft.span.start_ns - most, draft.span.end_ns - least
        for message in bag.messages(topics, received):
            try:
                stamp = stamp_of(message, self._mapping)
            except ObservationError:
                continue
            if not draft.span.start_ns <= stamp <= draft.span.end_ns:
                continue
            if message.topic in cameras:
                topic, data = self._frame(bag, message, cameras[message.topic])
            else:
                topic, data = "/joint_states", self._joint_state(bag, message)
            yield topic, message.type_name, stamp, _restamped(data, stamp)

    def _cameras(self) -> dict[str, CameraConfig]:
        """Cameras of the robot description by their topics in the recording."""
        return {
            absolute(self._mapping.cameras[camera.name].topic): camera
            for camera in self._robot.cameras
            if camera.name in self._mapping.cameras
        }

    def _informed(self, bag: ForeignBag, start: int) -> Iterator[tuple[str, str, int, bytes]]:
        """The first CameraInfo of each camera, at the beginning, as a latched one would be."""
        for camera in self._cameras().values():
            mapped = self._mapping.cameras[camera.name]
            for message in bag.messages([mapped.information]):
                value = bag.parse(message)
                if value.header.frame_id == (mapped.frame or camera.optical_frame):
                    value.header.frame_id = camera.optical_frame
                    data = _restamped(bag.serialise(value, CAMERA_INFO), start)
                    yield absolute(camera.info_topic), CAMERA_INFO, start, data
                    break

    def _commands(self, bag: ForeignBag, draft: Draft) -> Iterator[tuple[str, str, int, bytes]]:
        topic, type_name = absolute(EXECUTED_TOPIC), TYPES["command"]
        for stamp, command in draft.commands.recorded.items():
            yield topic, type_name, stamp, _restamped(bag.serialise(command, type_name), stamp)
        if draft.commands.recorded:
            return
        for index in np.flatnonzero(draft.commands.known):
            data = self._factory.command(
                int(draft.commands.grid_ns[index]),
                self._task,
                draft.commands.actions[index],
                CommandSource(draft.commands.sources[index]),
                joints=dict(
                    zip(self._robot.joints, draft.commands.after[index].tolist(), strict=True)
                ),
                frame_id=self._robot.base_frame,
            )
            yield topic, type_name, int(draft.commands.grid_ns[index]), data

    def _frame(
        self, bag: ForeignBag, message: ForeignMessage, camera: CameraConfig
    ) -> tuple[str, bytes]:
        mapped = self._mapping.cameras[camera.name]
        renamed = mapped.in_base_frame or mapped.frame not in (None, camera.optical_frame)
        if not renamed:
            return absolute(camera.topic), message.data
        try:
            value = with_our_frame(bag.parse(message), mapped, self._robot, camera)
        except BagError:
            return absolute(camera.topic), message.data  # as it came: a reader counts it
        return absolute(camera.topic), bag.serialise(value, message.type_name)

    def _joint_state(self, bag: ForeignBag, message: ForeignMessage) -> bytes:
        names = self._mapping.joint_states.names
        if not names:
            return message.data
        try:
            value = bag.parse(message)
        except BagError:
            return message.data
        value.name = [names.get(name, name) for name in value.name]
        return bag.serialise(value, message.type_name)


def _restamped(data: bytes, stamp_ns: int) -> bytes:
    """A message that begins with a header, with another stamp."""
    if messages.peek_stamp_ns(data) in (stamp_ns, None):
        return data
    stamp = struct.pack("<iI" if data[1] else ">iI", *divmod(stamp_ns, 1_000_000_000))
    return data[:4] + stamp + data[12:]
