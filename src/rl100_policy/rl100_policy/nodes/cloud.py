# SPDX-License-Identifier: Apache-2.0
"""Cloud node: a camera's frames to the point cloud or image the policy sees, next to the camera.

In: depth Image and its CameraInfo (SENSOR), or PointCloud2, with ``camera/extrinsics``
TransformStamped (LATCHED); or colour Image, as task and robot description say. Out, with the stamp
of the frame: ``policy/cloud`` PointCloud2 (SENSOR), N x xyz float32 in the base frame; or, of a
task that observes images, ``policy/image`` Image (SENSOR), rgb8, of the size the task asks for;
``latency/stages`` StageTimes (EVENT); ``/diagnostics`` at 1 Hz. One callback group,
single-threaded; no callback blocks. A task that observes proprioception alone has no use for this
node.

The newest frame waits until CameraInfo and extrinsics have arrived once, where they are needed. A
frame that cannot be used (wrong encoding, size or frame, too few points, a stamp seen before, no
camera known before the next frame) is dropped, counted by reason, shown in ``/diagnostics`` (WARN
while it happens) and warned about at most every two seconds. Without clouds or images the policy
cannot decide and the gate holds the arm.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import TransformStamped
from numpy.typing import NDArray
from rclpy.clock import Clock, ClockType
from sensor_msgs.msg import CameraInfo, Image, PointCloud2

from rl100_policy.core import messages
from rl100_policy.core.config import load_robot, load_task
from rl100_policy.core.errors import ConfigError, ObservationError
from rl100_policy.core.geometry import pose_from_xyz_rpy
from rl100_policy.core.latency import Mark
from rl100_policy.core.observation import Visual
from rl100_policy.core.point_cloud import Intrinsics
from rl100_policy.core.sight import sight_maker
from rl100_policy.ros.diagnostics import diagnostic_status
from rl100_policy.ros.managed import ManagedNode
from rl100_policy.ros.parameters import parameter
from rl100_policy.ros.process import run_node
from rl100_policy.ros.qos import LATCHED, SENSOR, sensor_input
from rl100_policy.ros.scheduling import POLICY
from rl100_policy.ros.sights import SIGHT_TOPICS
from rl100_policy.ros.stages import StageTeller

_EXTRINSICS_TOLERANCE_M = 0.01
"""Published and configured camera position may differ by this much before a warning."""


@dataclass(frozen=True)
class CloudParameters:
    """Parameters of the cloud node."""

    robot_config: str = parameter("", "path of the robot description (YAML)")
    task_config: str = parameter("", "path of the task description (YAML)")
    camera: str = parameter(
        "",
        "name of the camera in the robot description; empty: the task's, or the first that fits",
    )
    lockstep: bool = parameter(False, "process every frame instead of the newest only")


class CloudNode(ManagedNode[CloudParameters]):
    """Crops and samples next to the camera: publishes kilobytes instead of megabytes."""

    usual_priority = POLICY

    def __init__(self) -> None:
        """Read the parameters."""
        super().__init__("cloud", CloudParameters)

    def set_up(self) -> None:
        """Read descriptions, subscribe."""
        robot = load_robot(self.parameters.robot_config)
        task = load_task(self.parameters.task_config)
        maker = sight_maker(task, robot, self.parameters.camera)
        if maker is None:
            raise ConfigError(
                f"task {task.name!r} observes proprioception alone; leave the cloud node out"
            )
        self._maker, self._camera = maker, maker.camera
        self._base_frame = robot.base_frame
        self._t_base_camera: NDArray[np.float64] | None = None
        self._intrinsics: Intrinsics | None = None
        self._early: Image | PointCloud2 | None = None
        self._last_ns = -1
        self._dropped: Counter[str] = Counter()
        self._published = self._reported_drops = 0
        self._work_s = 0.0
        self._sight = SIGHT_TOPICS[task.observation.kind]
        self._stages = StageTeller(self)
        self._on_wall_clock = not self.get_parameter("use_sim_time").value
        self._frames = self.create_publisher(self._sight.type, self._sight.topic, SENSOR)
        qos = sensor_input(lockstep=self.parameters.lockstep)
        kind = PointCloud2 if self._camera.kind == "points" else Image
        self.create_subscription(kind, self._camera.topic, self._on_frame, qos)
        if self._camera.kind == "depth":
            self.create_subscription(CameraInfo, self._camera.info_topic, self._on_info, qos)
        if self._camera.kind != "color":
            self.create_subscription(
                TransformStamped, "camera/extrinsics", self._on_extrinsics, LATCHED
            )
        self.create_timer(1.0, self._report, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _on_extrinsics(self, message: TransformStamped) -> None:
        if (
            message.header.frame_id != self._base_frame
            or message.child_frame_id != self._camera.optical_frame
        ):
            return
        try:
            self._t_base_camera = messages.transform_matrix(message.transform)
        except ObservationError as error:
            self._drop("extrinsics", error)
            return
        configured = pose_from_xyz_rpy(self._camera.xyz, self._camera.rpy)
        off = float(np.linalg.norm(self._t_base_camera[:3, 3] - configured[:3, 3]))
        if off > _EXTRINSICS_TOLERANCE_M:
            self.get_logger().warning(
                f"camera is {off:.3f} m from where the robot description has it; "
                "the published pose is used"
            )
        self._take_early()

    def _on_info(self, message: CameraInfo) -> None:
        try:
            self._intrinsics = messages.intrinsics(message, self._camera.optical_frame)
        except ObservationError as error:
            self._drop("CameraInfo", error)
            return
        self._take_early()

    def _take_early(self) -> None:
        """Process the frame that came before the camera was known."""
        early, self._early = self._early, None
        if early is not None:
            self._on_frame(early)

    def _on_frame(self, message: Image | PointCloud2) -> None:
        begun, begun_ns = time.perf_counter(), time.time_ns()
        try:
            missing = self._maker.missing(message, self._intrinsics, self._t_base_camera)
            if missing:
                replaced, self._early = self._early, message
                if replaced is not None:
                    raise ObservationError(
                        f"no {missing} has arrived yet; a newer frame took its place",
                        reason=f"no {missing} yet",
                    )
                return
            visual = self._maker.make(message, self._intrinsics, self._t_base_camera)
            self._publish(visual, messages.stamp_ns(message.header.stamp), begun_ns)
        except ObservationError as error:
            self._drop("frame", error)
        self._work_s += time.perf_counter() - begun

    def _publish(self, visual: Visual, stamp_ns: int, begun_ns: int) -> None:
        if stamp_ns == self._last_ns:
            raise ObservationError(
                f"two frames with stamp {stamp_ns} ns; the second is dropped",
                reason="repeated stamp",
            )
        self._last_ns = stamp_ns
        seen = self._sight.write(visual, stamp_ns, self._maker.frame_id)
        out_ns = time.time_ns()  # before it is published: it may have come before that returns
        self._frames.publish(seen)
        self._published += 1
        marks = {Mark.SENSOR: stamp_ns} if self._on_wall_clock else {}
        self._stages.tell(stamp_ns, marks | {Mark.SIGHT_IN: begun_ns, Mark.SIGHT_OUT: out_ns})

    def _drop(self, what: str, error: ObservationError) -> None:
        self._dropped[error.reason] += 1
        self.get_logger().warning(f"{what} dropped: {error}", throttle_duration_sec=2.0)

    def _report(self) -> None:
        dropped = sum(self._dropped.values())
        happens = dropped > self._reported_drops
        self._reported_drops = dropped
        mean_ms = 1e3 * self._work_s / max(1, self._published + dropped)
        status = diagnostic_status(
            "rl100: cloud",
            self._camera.name,
            f"{self._published} published, {dropped} frames dropped",
            {"published": self._published, "mean_ms": f"{mean_ms:.2f}"}
            | {f"dropped: {key}": count for key, count in self._dropped.items()},
            level=DiagnosticStatus.WARN if happens else DiagnosticStatus.OK,
        )
        self.diagnose([status])


def main(args: Sequence[str] | None = None) -> int:
    """Run the node."""
    return run_node(CloudNode, args)


if __name__ == "__main__":
    sys.exit(main())
