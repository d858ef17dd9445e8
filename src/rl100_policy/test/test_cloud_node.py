# SPDX-License-Identifier: Apache-2.0
"""The cloud node: what comes out for good frames, and that nothing bad brings it down."""

import copy
from pathlib import Path

import numpy as np
import pytest
import yaml
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import TransformStamped
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image, PointCloud2

from rl100_policy.core import messages
from rl100_policy.core.config import load_robot, load_task
from rl100_policy.core.geometry import pose_from_xyz_rpy
from rl100_policy.core.point_cloud import Intrinsics, depth_to_cloud
from rl100_policy.nodes.cloud import CloudNode
from rl100_policy.ros.conversions import (
    camera_info_message,
    cloud_message,
    depth_message,
    extrinsics_message,
)
from rl100_policy.ros.qos import LATCHED, SENSOR
from rl100_policy.ros.testing import isolated_ros, spinning

pytestmark = pytest.mark.ros

CONFIG = Path(__file__).parents[2] / "rl100_bringup" / "config"
PATHS = {
    "robot_config": CONFIG / "robots" / "panda.yaml",
    "task_config": CONFIG / "tasks" / "push_t.yaml",
}
ROBOT, TASK = load_robot(PATHS["robot_config"]), load_task(PATHS["task_config"])
CAMERA = ROBOT.camera()


def slab(height_m: float = 0.03) -> np.ndarray:
    """Depth image [mm] of a horizontal plane at a height in the base frame.

    Found by intersecting each pixel's ray with the plane.
    """
    pose = pose_from_xyz_rpy(CAMERA.xyz, CAMERA.rpy)
    u, v = np.meshgrid(np.arange(CAMERA.width), np.arange(CAMERA.height))
    rays = np.stack(
        [(u - CAMERA.cx) / CAMERA.fx, (v - CAMERA.cy) / CAMERA.fy, np.ones(u.shape)], axis=-1
    )
    down = (rays @ pose[:3, :3].T)[..., 2]
    return np.rint(1000 * (height_m - pose[2, 3]) / down).clip(0, 65535).astype(np.uint16)


class Camera(Node):
    """Publishes what a test wants and keeps what comes back."""

    def __init__(self) -> None:
        super().__init__("test_camera")
        self.depth = self.create_publisher(Image, CAMERA.topic, SENSOR)
        self.info = self.create_publisher(CameraInfo, "camera/depth/camera_info", SENSOR)
        self.extrinsics = self.create_publisher(TransformStamped, "camera/extrinsics", LATCHED)
        self.points = self.create_publisher(PointCloud2, "camera/depth/points", SENSOR)
        self.clouds: list[PointCloud2] = []
        self.diagnostics: list[DiagnosticArray] = []
        self.create_subscription(PointCloud2, "policy/cloud", self.clouds.append, SENSOR)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)

    def _on_diagnostics(self, array: DiagnosticArray) -> None:
        if array.status[0].name == "rl100: cloud":
            self.diagnostics.append(array)

    def dropped(self) -> int:
        """Frames dropped by the newest diagnostics."""
        values = self.diagnostics[-1].status[0].values if self.diagnostics else []
        return sum(int(pair.value) for pair in values if pair.key.startswith("dropped"))

    def reasons(self) -> set[str]:
        """Reasons for which frames were dropped, by the newest diagnostics."""
        values = self.diagnostics[-1].status[0].values if self.diagnostics else []
        return {
            pair.key.removeprefix("dropped: ") for pair in values if pair.key.startswith("dropped")
        }

    def level(self) -> bytes:
        """Level of the newest diagnostics."""
        return self.diagnostics[-1].status[0].level


@pytest.fixture
def rig():
    with isolated_ros(**PATHS, lockstep=True):
        camera = Camera()
        with spinning(CloudNode(), camera) as spin_until:
            inputs = (camera.depth, camera.info, camera.extrinsics)
            matched = lambda: all(topic.get_subscription_count() for topic in inputs)  # noqa: E731
            assert spin_until(lambda: matched() and camera.count_publishers("policy/cloud"))
            camera.extrinsics.publish(extrinsics_message(CAMERA, ROBOT.base_frame, 0))
            camera.info.publish(camera_info_message(CAMERA, 0))
            spin_until(lambda: False, 0.2)  # both have arrived before a test publishes a frame
            yield camera, spin_until


def test_a_depth_frame_becomes_the_cloud_of_the_shared_function(rig):
    camera, spin_until = rig
    message = depth_message(slab(), 5_000_000_007, CAMERA.optical_frame)
    assert spin_until(lambda: (camera.depth.publish(message), bool(camera.clouds))[1])
    cloud = camera.clouds[0]
    intrinsics = Intrinsics(
        CAMERA.width, CAMERA.height, CAMERA.fx, CAMERA.fy, CAMERA.cx, CAMERA.cy
    )
    pose = pose_from_xyz_rpy(CAMERA.xyz, CAMERA.rpy)
    expected = depth_to_cloud(
        slab().astype(np.float32) * np.float32(0.001),
        intrinsics,
        pose,
        TASK.crop,
        TASK.observation.n_points,
        TASK.observation.min_points,
        depth_range_m=(CAMERA.depth_min, CAMERA.depth_max),
    )
    np.testing.assert_allclose(messages.cloud_points(cloud), expected, atol=1e-6)
    np.testing.assert_allclose(messages.cloud_points(cloud)[:, 2], 0.03, atol=1.5e-3)
    assert messages.stamp_ns(cloud.header.stamp) == 5_000_000_007
    assert cloud.header.frame_id == ROBOT.base_frame


def broken(kind: str) -> Image:
    message = depth_message(slab(), 1, CAMERA.optical_frame)
    if kind == "encoding":
        message.encoding = "rgb8"
    elif kind == "short data":
        message.data = message.data[:-1]
    elif kind == "other size":
        message = depth_message(slab()[:50], 1, CAMERA.optical_frame)
    elif kind == "no readings":
        message = depth_message(np.zeros_like(slab()), 1, CAMERA.optical_frame)
    elif kind == "nothing in the crop":
        message = depth_message(slab(0.0), 1, CAMERA.optical_frame)
    elif kind == "hardly anything":
        hidden = np.zeros_like(slab())
        rows, columns = hidden.shape
        window = np.s_[rows // 2 : rows // 2 + 3, columns // 2 : columns // 2 + 2]
        hidden[window] = slab()[window]
        message = depth_message(hidden, 1, CAMERA.optical_frame)
    elif kind == "other frame":
        message.header.frame_id = "wrist_camera_optical_frame"
    return message


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("encoding", "encoding"),
        ("short data", "size"),
        ("other size", "CameraInfo of another size"),
        ("no readings", "empty crop"),
        ("nothing in the crop", "empty crop"),
        ("hardly anything", "too few points in the crop"),
        ("other frame", "frame"),
    ],
)
def test_a_bad_frame_is_dropped_counted_and_the_next_good_one_passes(rig, kind, reason):
    camera, spin_until = rig
    camera.depth.publish(broken(kind))
    assert spin_until(lambda: camera.dropped() >= 1)
    assert camera.reasons() == {reason}
    assert camera.level() == DiagnosticStatus.WARN
    assert not camera.clouds
    camera.depth.publish(depth_message(slab(), 2, CAMERA.optical_frame))
    assert spin_until(lambda: len(camera.clouds) == 1)
    assert spin_until(lambda: camera.level() == DiagnosticStatus.OK)
    assert camera.reasons() == {reason}


def test_the_same_frame_twice_is_used_once(rig):
    camera, spin_until = rig
    for _ in range(2):
        camera.depth.publish(depth_message(slab(), 4, CAMERA.optical_frame))
    assert spin_until(lambda: camera.reasons() == {"repeated stamp"})
    assert len(camera.clouds) == 1


def test_bad_camera_info_and_extrinsics_are_counted_and_do_not_replace_good_ones(rig):
    camera, spin_until = rig
    camera.depth.publish(depth_message(slab(), 1, CAMERA.optical_frame))
    assert spin_until(lambda: len(camera.clouds) == 1)
    info = camera_info_message(CAMERA, 0)
    info.p[0] = float("nan")
    camera.info.publish(info)
    extrinsics = copy.deepcopy(extrinsics_message(CAMERA, ROBOT.base_frame, 0))
    rotation = extrinsics.transform.rotation
    rotation.x = rotation.y = rotation.z = rotation.w = 0.0
    camera.extrinsics.publish(extrinsics)
    assert spin_until(lambda: camera.dropped() >= 2)
    camera.depth.publish(depth_message(slab(), 2, CAMERA.optical_frame))
    assert spin_until(lambda: len(camera.clouds) == 2)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda info: setattr(info.header, "frame_id", "colour_optical_frame"), "frame"),
        (lambda info: setattr(info, "binning_x", 2), "bad CameraInfo"),
        (lambda info: setattr(info.roi, "width", 40), "bad CameraInfo"),
        (
            lambda info: (setattr(info, "p", [0.0] * 12), setattr(info, "d", [0.1] * 5)),
            "bad CameraInfo",
        ),
    ],
)
def test_the_camera_info_of_another_or_not_rectified_image_is_not_taken(rig, change, reason):
    camera, spin_until = rig
    info = camera_info_message(CAMERA, 0)
    change(info)
    camera.info.publish(info)
    assert spin_until(lambda: camera.reasons() == {reason})
    camera.depth.publish(depth_message(slab(), 3, CAMERA.optical_frame))
    assert spin_until(lambda: len(camera.clouds) == 1)


@pytest.fixture
def points_rig(tmp_path):
    delivers_points = CAMERA.model_copy(update={"kind": "points", "topic": "camera/depth/points"})
    robot = ROBOT.model_copy(update={"cameras": (delivers_points,)})
    description = tmp_path / "robot.yaml"
    description.write_text(yaml.safe_dump(robot.model_dump(mode="json")))
    with isolated_ros(**(PATHS | {"robot_config": description}), lockstep=True):
        camera = Camera()
        with spinning(CloudNode(), camera) as spin_until:
            assert spin_until(
                lambda: (
                    camera.points.get_subscription_count()
                    and camera.extrinsics.get_subscription_count()
                    and camera.count_publishers("policy/cloud")
                )
            )
            yield camera, spin_until


def plane() -> np.ndarray:
    """Points 2 cm above the table, [900, 3], m, base frame."""
    grid = np.stack(
        np.meshgrid(np.linspace(0.4, 0.6, 30), np.linspace(-0.1, 0.1, 30)), axis=-1
    ).reshape(-1, 2)
    return np.column_stack([grid, np.full(len(grid), 0.02)]).astype(np.float32)


def test_points_in_the_base_frame_give_a_cloud_too(points_rig):
    camera, spin_until = points_rig
    message = cloud_message(plane(), 9, ROBOT.base_frame)
    assert spin_until(lambda: (camera.points.publish(message), bool(camera.clouds))[1])
    found = messages.cloud_points(camera.clouds[0])
    assert {tuple(p) for p in found.tolist()} <= {tuple(p) for p in plane().tolist()}
    assert len(found) == TASK.observation.n_points


def test_points_in_the_optical_frame_wait_for_the_cameras_pose(points_rig):
    camera, spin_until = points_rig
    pose = pose_from_xyz_rpy(CAMERA.xyz, CAMERA.rpy)
    seen = (plane() - pose[:3, 3]) @ pose[:3, :3]
    camera.points.publish(cloud_message(seen, 9, CAMERA.optical_frame))
    assert not spin_until(lambda: bool(camera.clouds), 0.3)
    camera.extrinsics.publish(extrinsics_message(CAMERA, ROBOT.base_frame, 0))
    assert spin_until(lambda: bool(camera.clouds))
    np.testing.assert_allclose(messages.cloud_points(camera.clouds[0])[:, 2], 0.02, atol=1e-5)


def test_points_in_a_third_frame_are_dropped(points_rig):
    camera, spin_until = points_rig
    camera.extrinsics.publish(extrinsics_message(CAMERA, ROBOT.base_frame, 0))
    spin_until(lambda: False, 0.2)
    camera.points.publish(cloud_message(plane(), 9, "map"))
    assert spin_until(lambda: camera.reasons() == {"frame"})
    assert not camera.clouds
