# SPDX-License-Identifier: Apache-2.0
"""What a foreign recording as a whole must hold: topics, types, joints, one clock."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rl100_policy.bags.foreign.findings import Finding, Status
from rl100_policy.bags.foreign.mapping import (
    GateAction,
    ImportMapping,
    LeaderAction,
    MeasuredAction,
    PositionsAction,
    TrajectoryAction,
    absolute,
)
from rl100_policy.bags.foreign.recorded import (
    ARRAY,
    BOOL,
    CAMERA_INFO,
    COMMAND,
    FEEDBACK,
    IMAGE,
    JOINT_STATE,
    POINTS,
    TRAJECTORY,
    TRANSFORM,
    TRANSFORMS,
    Recorded,
)
from rl100_policy.core.config import CameraConfig, RobotConfig, TaskConfig
from rl100_policy.core.kinematics import ArmKinematics

_OVERSHOOT = 0.1
"""How far beyond its limit a joint may be measured [rad, m]."""
_CLOCKS_APART_S = 0.5
"""Between streams; a camera's frames come this late at most."""


@dataclass(frozen=True)
class Contract:
    """What recordings of one robot and task must hold."""

    mapping: ImportMapping
    robot: RobotConfig
    task: TaskConfig
    camera: CameraConfig | None
    """The one that the task is seen with."""

    def topics(self, found: dict[str, str]) -> list[Finding]:
        """Whether each topic that is needed is there, with a type that can be used.

        Args:
            found: Types by topic of the recording.
        """
        checks = [
            self._topic(f"{item} topic", topic, types, found)
            for item, topic, types in self._needed()
        ]
        if self.camera is not None and self.camera.name not in self.mapping.cameras:
            checks.append(
                Finding(
                    "camera", f"cameras.{self.camera.name} in the mapping file",
                    f"{list(self.mapping.cameras) or 'no camera'}", Status.NOT_OK,
                    f"task {self.task.name!r} is seen with camera {self.camera.name!r} of robot "
                    f"{self.robot.name!r}: say which topic it is",
                )
            )  # fmt: skip
        return checks

    def _needed(self) -> list[tuple[str, str, tuple[str, ...]]]:
        """Item, topic and types."""
        mapping, camera = self.mapping, self.camera
        needed: list[tuple[str, str, tuple[str, ...]]] = [
            ("joint states", mapping.joint_states.topic, (JOINT_STATE,))
        ]
        if camera is not None and camera.name in mapping.cameras:
            seen = mapping.cameras[camera.name]
            needed.append(("camera", seen.topic, (POINTS if camera.kind == "points" else IMAGE,)))
            if camera.kind == "depth":
                needed.append(("camera info", seen.information, (CAMERA_INFO,)))
        if mapping.extrinsics.source == "topic":
            needed.append(("extrinsics", mapping.extrinsics.topic, (TRANSFORM, TRANSFORMS)))
        types = {
            GateAction: COMMAND, TrajectoryAction: TRAJECTORY, PositionsAction: ARRAY,
            LeaderAction: JOINT_STATE,
        }  # fmt: skip
        if not isinstance(mapping.action, MeasuredAction):
            needed.append(("command", mapping.action.topic, (types[type(mapping.action)],)))
        if mapping.outcome.topic:
            needed.append(("outcome", mapping.outcome.topic, (BOOL, FEEDBACK)))
        if mapping.episodes.topic:
            needed.append(("episodes", mapping.episodes.topic, ()))
        return needed

    def _topic(
        self, item: str, topic: str, types: tuple[str, ...], found: dict[str, str]
    ) -> Finding:
        wanted = " or ".join(map(_short, types)) or "any type"
        expected = f"{absolute(topic)}: {wanted}"
        there = found.get(absolute(topic))
        if there is None:
            alike = [name for name, kind in found.items() if kind in types]
            has = f"the recording has {', '.join(alike)}" if alike else "it has none of that type"
            advice = f"{has}; name the topic in the mapping file, or record it"
            return Finding(item, expected, "no message on it", Status.NOT_OK, advice)
        if types and there not in types:
            advice = "name a topic of that type"
            if "CompressedImage" in there:
                advice += "; `ros2 run image_transport republish` makes images of compressed ones"
            return Finding(item, expected, _short(there), Status.NOT_OK, advice)
        return Finding(item, expected, _short(there))

    def joints(self, recorded: Recorded) -> list[Finding]:
        """Names and values of the joint states of a whole recording."""
        topic = absolute(self.mapping.joint_states.topic)
        names = Finding(
            "joint names", ", ".join(self.robot.joints),
            ", ".join(recorded.joint_names) or "none",
        )  # fmt: skip
        if not recorded.positions:
            reason = recorded.reasons.get(topic, "no joint state tells of any of these joints")
            advice = f"{reason}; set joint_states.names in the mapping file"
            return [Finding(names.item, names.expected, names.found, Status.NOT_OK, advice)]
        found = [names, self._values(recorded), self._clocks(recorded)]
        action = self.mapping.action
        if not isinstance(action, MeasuredAction):
            found.append(self._commands(recorded, absolute(action.topic)))
        return found

    def _commands(self, recorded: Recorded, topic: str) -> Finding:
        """Whether the messages that tell the command can be used."""
        good = len(recorded.commands) + len(recorded.trajectories) + len(recorded.told)
        bad, reason = recorded.bad[topic], recorded.reasons.get(topic, "")
        expected, found = "messages of every joint, in order", f"{good} good, {bad} bad"
        if not good:
            advice = reason or "no message names a joint of this arm: set action.names"
            return Finding("command messages", expected, found, Status.NOT_OK, advice)
        if bad:
            advice = f"the first: {reason}"
            return Finding("command messages", expected, found, Status.WARNING, advice)
        return Finding("command messages", expected, found)

    def _values(self, recorded: Recorded) -> Finding:
        arm = ArmKinematics(self.robot)
        positions = np.array(list(recorded.positions.values()))
        margin = self.robot.position_margin + _OVERSHOOT
        outside = np.maximum(arm.position_lower - positions, positions - arm.position_upper)
        worst = int(np.argmax(outside.max(axis=0)))
        bad = recorded.bad[absolute(self.mapping.joint_states.topic)]
        expected = "finite, inside the position limits of the URDF"
        if outside.max() > margin:
            return Finding(
                "joint values", expected,
                f"{self.robot.joints[worst]} up to {np.abs(positions[:, worst]).max():.2f}",
                Status.NOT_OK,
                "are they rad, of this arm, under these names? joint_states.names orders them",
            )  # fmt: skip
        found = f"{len(positions)} good, {bad} bad"
        if bad:
            reason = recorded.reasons[absolute(self.mapping.joint_states.topic)]
            return Finding("joint values", expected, found, Status.WARNING, f"the first: {reason}")
        return Finding("joint values", expected, found)

    def _clocks(self, recorded: Recorded) -> Finding:
        """Whether the stamps of all streams are of one clock."""
        expected = f"stamps of all streams of one clock, within {_CLOCKS_APART_S} s"
        if self.mapping.stamps == "received":
            return Finding("clocks", expected, "times of reception are taken instead")
        offsets = {
            topic: float(np.median(each)) * 1e-9
            for topic, each in recorded.offsets.items()
            if topic in self._timed()
        }
        apart = max(offsets.values()) - min(offsets.values())
        if self._timed_by_reception(recorded):
            apart = max(apart, *(abs(each) for each in offsets.values()))
        found = f"up to {apart:.3f} s apart"
        if apart > _CLOCKS_APART_S:
            told = ", ".join(f"{topic} {offset:+.2f} s" for topic, offset in offsets.items())
            advice = (
                f"stamp less time of reception: {told}; set `stamps: received`, or let the "
                "machines share one clock and record again"
            )
            return Finding("clocks", expected, found, Status.NOT_OK, advice)
        return Finding("clocks", expected, found)

    def _timed_by_reception(self, recorded: Recorded) -> bool:
        """Whether messages without a stamp are joined with stamped ones."""
        mapping = self.mapping
        topics = [] if isinstance(mapping.action, MeasuredAction) else [mapping.action.topic]
        topics += [mapping.episodes.topic] if mapping.episodes.topic else []
        if mapping.outcome.topic and mapping.episodes.cut != "whole":
            topics.append(mapping.outcome.topic)
        return any(absolute(topic) not in recorded.offsets for topic in topics)

    def _timed(self) -> set[str]:
        """Topics whose times are compared."""
        found = {self.mapping.joint_states.topic}
        if self.camera is not None and self.camera.name in self.mapping.cameras:
            found.add(self.mapping.cameras[self.camera.name].topic)
        if not isinstance(self.mapping.action, MeasuredAction | PositionsAction):
            found.add(self.mapping.action.topic)
        return set(map(absolute, found))


def _short(type_name: str) -> str:
    """A type as people write it."""
    return type_name.replace("/msg/", "/")
