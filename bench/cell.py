# SPDX-License-Identifier: Apache-2.0
"""What the drivers of a robot cell publish, for ``recording.py``: two images and seven joints.

Messages are made once and published as bytes with a new stamp, so that this process does not take
the processor from what is measured. Stamps lie on the grid of each topic's rate, as those of a
driver with a clock of its own; when this process is late, it sends all that is due.

Every message is counted in a file per topic before it is sent: its header stamp and the wall time
[ns], two int64 each.
"""

from __future__ import annotations

import heapq
import signal
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated, BinaryIO

import numpy as np
import rclpy
import typer
from numpy.typing import NDArray
from PIL import Image
from rclpy.publisher import Publisher
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy

from rl100_policy.bags.testing import MessageFactory
from rl100_policy.core.config import CameraConfig
from rl100_policy.ros.raw_subscription import message_class
from rl100_policy.ros.transport import keep_on_this_machine

WIDTH, HEIGHT = 640, 480
JOINTS = tuple(f"joint_{index}" for index in range(1, 8))
JOINT_TOPIC = "joint_states"
_DEPTH = Path(__file__).parents[1] / "tests" / "data" / "rgbd" / "tum_depth.png"
_FRAMES = 4
"""Different images of a camera, in turns."""
_QOS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST, depth=10, reliability=ReliabilityPolicy.RELIABLE
)
"""What drivers offer by default."""
_SLEEP_NS = 200_000
"""A message may be sent this much early [ns]: no sleep is shorter."""


def cell_camera(kind: str) -> CameraConfig:
    """A camera of the cell, ``depth`` or ``color``."""
    return CameraConfig(
        name=kind,
        kind=kind,  # type: ignore[arg-type]
        topic=f"camera/{kind}/{'image_rect_raw' if kind == 'depth' else 'image_raw'}",
        optical_frame=f"camera_{kind}_optical_frame",
        width=WIDTH,
        height=HEIGHT,
        fx=525.0,
        fy=525.0,
        cx=319.5,
        cy=239.5,
        xyz=(0.98, 0.0, 0.62),
        rpy=(-2.48279, 0.0, 1.57080),
    )


@dataclass(frozen=True)
class Source:
    """One topic of the cell."""

    topic: str
    type_name: str
    rate_hz: float
    messages: tuple[bytearray, ...]
    """CDR, sent in turns; each begins with a header."""

    def stamp_ns(self, begun_ns: int, count: int) -> int:
        """Stamp of a message by its number."""
        return begun_ns + round(count * 1e9 / self.rate_hz)


def depth_images() -> list[NDArray[np.uint16]]:
    """Depth of a real frame with the noise of a sensor, [H, W] mm."""
    rng = np.random.default_rng(0)
    depth_mm = np.asarray(Image.open(_DEPTH)).astype(np.float64) / 5.0
    noise = [rng.normal(0.0, 1.0, depth_mm.shape) for _ in range(_FRAMES)]
    return [np.where(depth_mm > 0, depth_mm + each, 0.0).astype(np.uint16) for each in noise]


def colour_images() -> list[NDArray[np.uint8]]:
    """The same scene shaded by its depth, with the noise of a sensor, [H, W, 3]."""
    rng = np.random.default_rng(1)
    shade = np.asarray(Image.open(_DEPTH)).astype(np.float64)[..., None] / 100.0
    tinted = shade * np.array([1.0, 0.8, 0.6])
    noise = [rng.normal(0.0, 2.0, tinted.shape) for _ in range(_FRAMES)]
    return [np.clip(tinted + each, 0, 255).astype(np.uint8) for each in noise]


def cell_sources(joints_hz: float, images_hz: float) -> list[Source]:
    """Everything that the cell publishes."""
    make, depth, colour = MessageFactory(), cell_camera("depth"), cell_camera("color")
    images = {
        depth: [make.depth(0, each, depth.optical_frame) for each in depth_images()],
        colour: [make.colour(0, each, colour.optical_frame) for each in colour_images()],
    }
    found = []
    for camera, encoded in images.items():
        messages = tuple(map(bytearray, encoded))
        info = bytearray(make.camera_info(0, camera))
        found += [
            Source(camera.topic, "sensor_msgs/msg/Image", images_hz, messages),
            Source(camera.info_topic, "sensor_msgs/msg/CameraInfo", images_hz, (info,)),
        ]
    state = make.serialise(
        "sensor_msgs/msg/JointState",
        header=make.header(0, "panda_link0"),
        name=list(JOINTS),
        position=np.linspace(-1.0, 1.0, len(JOINTS)),
        velocity=np.linspace(-0.1, 0.1, len(JOINTS)),
        effort=np.linspace(-10.0, 10.0, len(JOINTS)),
    )
    joint = Source(JOINT_TOPIC, "sensor_msgs/msg/JointState", joints_hz, (bytearray(state),))
    return [*found, joint]


def count_file(folder: Path, topic: str) -> Path:
    """Where the messages of a topic are counted."""
    return folder / f"{topic.replace('/', '.')}.i64"


def read_counts(folder: Path, topic: str) -> NDArray[np.int64]:
    """Header stamps and wall times [ns] of what was sent on a topic, [N, 2]."""
    found = np.fromfile(count_file(folder, topic), dtype=np.int64)
    return found[: len(found) // 2 * 2].reshape(-1, 2)


class Cell:
    """Publishes the sources until it is asked to stop."""

    def __init__(self, sources: list[Source], counts: Path) -> None:
        """Create the publishers, and the files that count."""
        self._node = rclpy.create_node("cell")
        self._sources = sources
        self._publishers: list[Publisher] = [
            self._node.create_publisher(message_class(each.type_name), each.topic, _QOS)
            for each in sources
        ]
        counts.mkdir(parents=True, exist_ok=True)
        self._files: list[BinaryIO] = [
            count_file(counts, each.topic).open("wb", buffering=0) for each in sources
        ]
        self._stopped = False

    def stop(self, _signal: int, _frame: FrameType | None) -> None:
        """End :meth:`run` after the message that is being sent."""
        self._stopped = True

    def run(self) -> None:
        """Send every message when it is due."""
        begun_ns = time.time_ns()
        due = [(begun_ns, index, 0) for index in range(len(self._sources))]
        while not self._stopped:
            stamp_ns, index, count = due[0]
            if (early_ns := stamp_ns - time.time_ns()) > _SLEEP_NS:
                time.sleep(early_ns * 1e-9)
            self._send(index, count, stamp_ns)
            following_ns = self._sources[index].stamp_ns(begun_ns, count + 1)
            heapq.heapreplace(due, (following_ns, index, count + 1))
        for file in self._files:
            file.close()
        self._node.destroy_node()

    def _send(self, index: int, count: int, stamp_ns: int) -> None:
        messages = self._sources[index].messages
        message = messages[count % len(messages)]
        struct.pack_into("<iI", message, 4, *divmod(stamp_ns, 1_000_000_000))
        self._files[index].write(struct.pack("<qq", stamp_ns, time.time_ns()))
        self._publishers[index].publish(bytes(message))


def main(
    counts: Annotated[Path, typer.Argument(help="folder of the files that count")],
    joints: Annotated[float, typer.Option(help="joint states per second")] = 500.0,
    images: Annotated[float, typer.Option(help="images of each camera per second")] = 30.0,
) -> None:
    """Publish until a signal comes."""
    keep_on_this_machine()
    rclpy.init()
    cell = Cell(cell_sources(joints, images), counts)
    signal.signal(signal.SIGTERM, cell.stop)
    signal.signal(signal.SIGINT, cell.stop)
    cell.run()
    rclpy.try_shutdown()


if __name__ == "__main__":
    typer.run(main)
