# SPDX-License-Identifier: Apache-2.0
"""Episodes of a LeRobot dataset as bags of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from rl100_learner.lerobot.examining import START_NS, DatasetExaminer, ExaminedRows
from rl100_policy.bags.factory import TYPES
from rl100_policy.bags.foreign.origin import TAG, hash_of
from rl100_policy.bags.identity import new_episode_id
from rl100_policy.bags.metadata import EpisodeMetadata, config_hash, software_version
from rl100_policy.bags.topics import EXECUTED_TOPIC
from rl100_policy.bags.writer import EpisodeWriter
from rl100_policy.core.gate_result import CommandSource

Row = tuple[str, str, int, bytes]
"""Topic, type, stamp [ns] and bytes."""


class DatasetImporter:
    """Writes examined episodes of one dataset into a folder of bags."""

    def __init__(self, into: Path, examiner: DatasetExaminer) -> None:
        """Read the whole dataset once for its hash."""
        self._into, self._examiner = into, examiner
        self.sha256 = examiner.dataset.sha256()
        self.mapping_sha256 = hash_of(examiner.mapping.model_dump(mode="json"))
        self._version = f"lerobot:{examiner.dataset.root.name}@{self.sha256[:8]}"
        """Stands for whatever policy acted in the dataset."""

    def write(self, episode: ExaminedRows) -> Path:
        """Write one episode; returns its folder.

        Raises:
            BagError: If it cannot be written; it stays ``.partial`` then.
        """
        metadata = self._metadata(episode)
        writer = EpisodeWriter(self._into, metadata, compression="zstd")
        with ExitStack() as undo:
            undo.callback(writer.abort)
            for topic, type_name, stamp, data in self._messages(episode):
                recorded = self._examiner.factory.topic(topic, type_name)
                writer.write(recorded, data, log_ns=stamp)
            folder = writer.close(metadata)
            undo.pop_all()
        return folder

    def _metadata(self, episode: ExaminedRows) -> EpisodeMetadata:
        examiner, draft = self._examiner, episode.draft
        acted = CommandSource.POLICY in draft.commands.sources
        tags = {
            "source": examiner.dataset.root.name,
            "source_sha256": self.sha256,
            "mapping_sha256": self.mapping_sha256,
            "episode": f"{episode.rows.index + 1} of {examiner.dataset.info.total_episodes}",
            "task": episode.rows.task,
            "action": examiner.mapping.action.kind,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        return EpisodeMetadata(
            episode_id=new_episode_id(examiner.task.name),
            task=examiner.task.name,
            robot=examiner.robot.name,
            operator=examiner.mapping.operator,
            policy_version=self._version if acted else "",
            judgements=draft.span.judgements,
            start_ns=draft.span.start_ns,
            end_ns=draft.span.end_ns,
            end_reason="last frame of the dataset's episode",
            setup=examiner.robot.setup,
            config_hash=config_hash(examiner.robot, examiner.task),
            software_version=software_version(),
            tags=examiner.mapping.tags | {TAG + key: value for key, value in tags.items()},
        )

    def _messages(self, episode: ExaminedRows) -> Iterator[Row]:
        examiner, draft = self._examiner, episode.draft
        factory, robot = examiner.factory, examiner.robot
        for camera in self._cameras():
            data = factory.extrinsics(START_NS, robot.camera(camera), robot.base_frame)
            yield "/camera/extrinsics", TYPES["extrinsics"], START_NS, data
        for row, stamp in enumerate(draft.joint_ns.tolist()):
            data = factory.joint_state(stamp, robot.joints, draft.positions[row])
            yield "/joint_states", TYPES["joint_states"], stamp, data
            for name in self._cameras():
                camera_config = robot.camera(name)
                type_name, data = examiner.frame(episode.rows, camera_config, row, stamp)
                yield f"/{camera_config.topic.lstrip('/')}", type_name, stamp, data
            if draft.commands.known[row]:
                yield f"/{EXECUTED_TOPIC}", TYPES["command"], stamp, self._command(episode, row)

    def _cameras(self) -> list[str]:
        """Mapped cameras that can be written: of kinds that have no CameraInfo."""
        examiner = self._examiner
        return [
            camera.name
            for camera in examiner.robot.cameras
            if camera.kind in ("color", "points") and camera.name in examiner.mapping.cameras
        ]

    def _command(self, episode: ExaminedRows, row: int) -> bytes:
        examiner, commands = self._examiner, episode.draft.commands
        source = commands.sources[row]
        joints = None
        if commands.tell_joints:
            told = commands.after[row].tolist()
            joints = dict(zip(examiner.robot.joints, told, strict=True))
        return examiner.factory.command(
            int(commands.grid_ns[row]),
            examiner.task,
            commands.actions[row],
            source,
            self._version if source is CommandSource.POLICY else "",
            joints=joints,
            frame_id=examiner.robot.base_frame,
        )
