# SPDX-License-Identifier: Apache-2.0
"""Synthetic episodes for tests and benchmarks: real bags with known contents, made without ROS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl100_policy.bags.factory import TYPES, MessageFactory
from rl100_policy.bags.identity import new_episode_id
from rl100_policy.bags.judgement import Judgement
from rl100_policy.bags.metadata import EpisodeMetadata
from rl100_policy.bags.writer import EpisodeWriter
from rl100_policy.core.config import CameraConfig, RobotConfig, TaskConfig
from rl100_policy.core.gate_result import CommandSource
from rl100_policy.core.point_cloud import Intrinsics, deproject

FROM_ABOVE = CameraConfig(
    name="camera",
    topic="camera/depth/image_rect_raw",
    optical_frame="camera_depth_optical_frame",
    width=16,
    height=12,
    fx=20.0,
    fy=20.0,
    cx=7.5,
    cy=5.5,
    xyz=(0.5, 0.0, 0.5),
    rpy=(np.pi, 0.0, 0.0),
)
"""A small depth camera half a metre above the table: its z is down, x forward, y to the right."""


@dataclass(frozen=True)
class SyntheticEpisode:
    """What a synthetic bag is to hold. Lockstep: one stamp per control period for everything."""

    task: TaskConfig
    robot: RobotConfig
    depth_mm: NDArray[np.uint16]
    """[T + 1, H, W]."""
    positions: NDArray[np.float64]
    """[T + 1, n_joints], rad."""
    actions: NDArray[np.float32]
    """[T, d_a], SI units."""
    pixels: NDArray[np.uint8] | None = None
    """Images of the robot's first colour camera, [T + 1, H, W, 3]; None: it has none."""
    start_ns: int = 1_000_000_000
    missing: Mapping[str, frozenset[int]] = field(default_factory=dict)
    """Steps at which a stream has no message; keys as in ``TYPES``."""
    extra: Sequence[tuple[str, int, bytes]] = ()
    """Further messages: stream, step, bytes; each is recorded before the others of its step."""
    hold: frozenset[int] = frozenset()
    """Steps at which nobody was in command."""
    policy: Mapping[int, str] = field(default_factory=dict)
    """Version by step at which a policy was in command, empty where it had no action for the step;
    a person is in the others."""
    judgements: tuple[Judgement, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of the episode metadata."""

    def stamp_ns(self, step: int) -> int:
        """Stamp of a step."""
        return self.start_ns + step * round(self.robot.control_period * 1e9)

    def write(self, bags: Path, factory: MessageFactory | None = None) -> Path:
        """Write the bag; returns its folder."""
        factory = factory or MessageFactory()
        metadata = EpisodeMetadata.model_validate(
            {
                "episode_id": new_episode_id(self.task.name),
                "task": self.task.name,
                "robot": self.robot.name,
                "setup": self.robot.setup,
                "judgements": self.judgements,
                "start_ns": self.start_ns,
            }
            | dict(self.metadata)
        )
        writer = EpisodeWriter(bags, metadata)
        for name, stamp_ns, data in self._messages(factory):
            writer.write(factory.topic(self._topic(name), TYPES[name]), data, log_ns=stamp_ns)
        return writer.close(metadata)

    def _topic(self, name: str) -> str:
        camera = self.robot.camera()
        names = {
            "joint_states": "joint_states",
            "depth": camera.topic,
            "points": camera.topic,
            "camera_info": camera.info_topic,
            "extrinsics": "camera/extrinsics",
            "command": "gate/command",
            "decision": "policy/decision",
        }
        if name == "color":
            return "/" + self.robot.camera(kinds=("color",)).topic
        return "/" + names[name]

    def _messages(self, factory: MessageFactory) -> list[tuple[str, int, bytes]]:
        """Stream, stamp and bytes of everything, in order of time."""
        camera, start = self.robot.camera(), self.start_ns
        made = [
            ("extrinsics", start, factory.extrinsics(0, camera, self.robot.base_frame)),
            ("camera_info", start, factory.camera_info(start, camera)),
        ]
        intrinsics = Intrinsics(
            camera.width, camera.height, camera.fx, camera.fy, camera.cx, camera.cy
        )
        for step, (image, q) in enumerate(zip(self.depth_mm, self.positions, strict=True)):
            stamp = self.stamp_ns(step)
            if camera.kind == "points":
                points = deproject(image.astype(np.float32) * np.float32(0.001), intrinsics)
                made.append(("points", stamp, factory.points(stamp, points, camera.optical_frame)))
            else:
                made.append(("depth", stamp, factory.depth(stamp, image, camera.optical_frame)))
            if self.pixels is not None:
                frame_id = self.robot.camera(kinds=("color",)).optical_frame
                data = factory.colour(stamp, self.pixels[step], frame_id)
                made.append(("color", stamp, data))
            made.append(("joint_states", stamp, factory.joint_state(stamp, self.robot.joints, q)))
            if step < len(self.actions):
                source = CommandSource.HOLD if step in self.hold else CommandSource.TELEOP
                version = self.policy.get(step, "")
                if step in self.policy:
                    source = CommandSource.POLICY
                command = factory.command(stamp, self.task, self.actions[step], source, version)
                made.append(("command", stamp, command))
        kept = [each for each in made if not self._is_missing(*each[:2])]
        extra = [(name, self.stamp_ns(step), data) for name, step, data in self.extra]
        return sorted(extra + kept, key=lambda each: each[1])

    def _is_missing(self, name: str, stamp_ns: int) -> bool:
        return any(stamp_ns == self.stamp_ns(step) for step in self.missing.get(name, ()))
