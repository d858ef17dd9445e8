# SPDX-License-Identifier: Apache-2.0
"""Bags with a real camera's frames, for ``bag_reading.py``: simulation and robot cell."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cell import cell_camera, colour_images, depth_images
from numpy.typing import NDArray

from rl100_bringup.graph import config_path
from rl100_policy.bags.identity import new_episode_id
from rl100_policy.bags.metadata import EpisodeMetadata
from rl100_policy.bags.storage import RecordedTopic
from rl100_policy.bags.testing import TYPES, MessageFactory
from rl100_policy.bags.writer import Compression, EpisodeWriter
from rl100_policy.core.config import (
    CameraConfig,
    RobotConfig,
    TaskConfig,
    WorkspaceBox,
    load_robot,
    load_task,
)

_BOX = WorkspaceBox(low=(-1.0, -1.0, 0.4), high=(1.0, 1.0, 2.0))
"""Holds the scene of the frames; the camera's frame is the base frame."""
_START_NS = 1_800_000_000_000_000_000
_SHRINK = 5


@dataclass(frozen=True)
class BagKind:
    """What a bag is like."""

    name: str
    seconds: float
    images_hz: float
    joints_hz: float
    is_cell: bool
    """640x480 depth and colour; otherwise 128x96 depth alone."""

    @property
    def camera(self) -> CameraConfig:
        """The depth camera."""
        camera = cell_camera("depth").model_copy(update={"xyz": (0.0,) * 3, "rpy": (0.0,) * 3})
        if self.is_cell:
            return camera
        fx, cx, cy = camera.fx / _SHRINK, 63.5, 47.5
        size = {"width": 640 // _SHRINK, "height": 480 // _SHRINK}
        return camera.model_copy(update=size | {"fx": fx, "fy": fx, "cx": cx, "cy": cy})

    @property
    def robot(self) -> RobotConfig:
        """The Panda with the cameras of this kind."""
        cameras = (self.camera, *([cell_camera("color")] if self.is_cell else []))
        panda = load_robot(config_path("robots", "panda"))
        return panda.model_copy(update={"cameras": cameras})

    @property
    def task(self) -> TaskConfig:
        """Push-T with a crop that holds what the camera sees."""
        return load_task(config_path("tasks", "push_t")).model_copy(update={"crop": _BOX})


SIMULATION = BagKind("128x96 depth, 10 Hz", 30.0, 10.0, 10.0, is_cell=False)
CELL = BagKind("640x480 depth and colour, 30 Hz, joints 500 Hz", 5.0, 30.0, 500.0, is_cell=True)


def _times(seconds: float, rate_hz: float) -> Iterator[int]:
    for count in range(round(seconds * rate_hz) + 1):
        yield _START_NS + round(count * 1e9 / rate_hz)


class BagMaker:
    """Writes bags of one kind."""

    def __init__(self, kind: BagKind) -> None:
        """Prepare the frames."""
        self._kind, self._make = kind, MessageFactory()
        self._robot, self._task = kind.robot, kind.task
        step = 1 if kind.is_cell else _SHRINK
        self._depth: list[NDArray[np.uint16]] = [each[::step, ::step] for each in depth_images()]
        self._colour = colour_images()

    def write(self, bags: Path, compression: Compression) -> Path:
        """Write one bag; returns its folder."""
        metadata = EpisodeMetadata(
            episode_id=new_episode_id(self._task.name),
            task=self._task.name,
            robot=self._robot.name,
            setup=self._robot.setup,
            start_ns=_START_NS,
        )
        writer = EpisodeWriter(bags, metadata, compression=compression)
        topics: dict[str, RecordedTopic] = {}
        for name, kind, stamp_ns, data in sorted(self._messages(), key=lambda each: each[2]):
            topic = topics.setdefault(name, self._make.topic(f"/{name}", TYPES[kind]))
            writer.write(topic, data, log_ns=stamp_ns)
        return writer.close(metadata)

    def _messages(self) -> Iterator[tuple[str, str, int, bytes]]:
        """Topic, kind as in ``TYPES``, stamp and bytes of everything."""
        make, kind, camera = self._make, self._kind, self._kind.camera
        extrinsics = make.extrinsics(_START_NS, camera, self._robot.base_frame)
        yield "camera/extrinsics", "extrinsics", _START_NS, extrinsics
        rng = np.random.default_rng(0)
        for count, stamp in enumerate(_times(kind.seconds, kind.images_hz)):
            depth = self._depth[count % len(self._depth)]
            if not kind.is_cell:  # many share a chunk, and no two are alike
                depth = depth + rng.integers(0, 3, depth.shape, dtype=np.uint16) * (depth > 0)
            yield camera.topic, "depth", stamp, make.depth(stamp, depth, camera.optical_frame)
            yield camera.info_topic, "camera_info", stamp, make.camera_info(stamp, camera)
            if kind.is_cell:
                colour = cell_camera("color")
                pixels = self._colour[count % len(self._colour)]
                data = make.colour(stamp, pixels, colour.optical_frame)
                yield colour.topic, "color", stamp, data
        joints = self._robot.joints
        for stamp in _times(kind.seconds, kind.joints_hz):
            turned = np.array(self._robot.home) + 1e-10 * (stamp - _START_NS)
            yield "joint_states", "joint_states", stamp, make.joint_state(stamp, joints, turned)
        for stamp in list(_times(kind.seconds, 1.0 / self._robot.control_period))[:-1]:
            action = np.full(self._task.action.dim, 0.01)
            yield "gate/command", "command", stamp, make.command(stamp, self._task, action)
