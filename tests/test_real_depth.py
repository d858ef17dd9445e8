# SPDX-License-Identifier: Apache-2.0
"""The perception path on a real frame: a Kinect's depth image with its holes and noise."""

import array
from pathlib import Path

import numpy as np
import pytest
import yaml
from geometry_msgs.msg import TransformStamped
from PIL import Image as Picture
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image, PointCloud2

from rl100_policy.core import messages
from rl100_policy.core.config import CameraConfig, WorkspaceBox, load_robot, load_task
from rl100_policy.core.errors import ObservationError
from rl100_policy.core.point_cloud import Intrinsics, crop_to_box, deproject, depth_to_cloud
from rl100_policy.nodes.cloud import CloudNode
from rl100_policy.ros.conversions import camera_info_message, extrinsics_message, header
from rl100_policy.ros.qos import LATCHED, SENSOR
from rl100_policy.ros.testing import isolated_ros, spinning

CONFIG = Path(__file__).parents[1] / "src" / "rl100_bringup" / "config"
KINECT = Intrinsics(640, 480, 525.0, 525.0, 319.5, 239.5)
UNITS_PER_METRE = 5000
NEAR_SCENE = WorkspaceBox(low=(-1.0, -1.0, 0.4), high=(1.0, 1.0, 2.0))
RANGE = (0.15, 3.0)


@pytest.fixture(scope="module")
def depth() -> np.ndarray:
    raw = np.asarray(Picture.open(Path(__file__).parent / "data" / "rgbd" / "tum_depth.png"))
    return raw.astype(np.float32) / np.float32(UNITS_PER_METRE)


def test_the_frame_has_holes_as_real_frames_do(depth):
    assert 0.01 < np.mean(depth == 0.0) < 0.9


@pytest.mark.parametrize("count", [512, 1024])
def test_every_point_of_the_cloud_is_a_reading_of_the_frame(depth, count):
    cloud = depth_to_cloud(depth, KINECT, np.eye(4), NEAR_SCENE, count, 100, depth_range_m=RANGE)
    assert cloud.shape == (count, 3)
    u = np.rint(cloud[:, 0] / cloud[:, 2] * KINECT.fx + KINECT.cx).astype(int)
    v = np.rint(cloud[:, 1] / cloud[:, 2] * KINECT.fy + KINECT.cy).astype(int)
    np.testing.assert_allclose(cloud[:, 2], depth[v, u], rtol=1e-6)
    assert len(crop_to_box(cloud, NEAR_SCENE)) == count


def test_farthest_points_cover_the_scene_better_than_random_ones(depth):
    everything = deproject(depth, KINECT)
    scene = crop_to_box(everything[everything[:, 2] > 0.15], NEAR_SCENE)
    sampled = depth_to_cloud(depth, KINECT, np.eye(4), NEAR_SCENE, 512, 100, depth_range_m=RANGE)
    rng = np.random.default_rng(0)
    some = scene[rng.choice(len(scene), 2000, replace=False)]
    random = scene[rng.choice(len(scene), 512, replace=False)]
    gap = lambda chosen: np.linalg.norm(some[:, None] - chosen[None], axis=2).min(axis=1).max()  # noqa: E731
    assert gap(sampled) < 0.5 * gap(random)


@pytest.mark.ros
def test_the_cloud_node_makes_the_same_cloud_of_the_recorded_frame(depth, tmp_path):
    camera = CameraConfig(
        name="kinect", topic="kinect/depth/image", optical_frame="kinect_optical_frame",
        width=640, height=480, fx=KINECT.fx, fy=KINECT.fy, cx=KINECT.cx, cy=KINECT.cy,
        xyz=(0.0, 0.0, 0.0), rpy=(0.0, 0.0, 0.0),
    )  # fmt: skip
    robot = load_robot(CONFIG / "robots" / "panda.yaml").model_copy(update={"cameras": (camera,)})
    task = load_task(CONFIG / "tasks" / "push_t.yaml").model_copy(update={"crop": NEAR_SCENE})
    paths = {"robot_config": tmp_path / "robot.yaml", "task_config": tmp_path / "task.yaml"}
    for path, description in zip(paths.values(), (robot, task), strict=True):
        path.write_text(yaml.safe_dump(description.model_dump(mode="json")))
    image = Image(
        header=header(7, camera.optical_frame), height=480, width=640, encoding="32FC1", step=2560
    )
    image.data = array.array("B", depth.tobytes())
    clouds: list[PointCloud2] = []
    with isolated_ros(**paths, lockstep=True):
        driver = Node("kinect")
        frames = driver.create_publisher(Image, camera.topic, SENSOR)
        info = driver.create_publisher(CameraInfo, "kinect/depth/camera_info", SENSOR)
        extrinsics = driver.create_publisher(TransformStamped, "camera/extrinsics", LATCHED)
        driver.create_subscription(PointCloud2, "policy/cloud", clouds.append, SENSOR)
        with spinning(CloudNode(), driver) as spin_until:
            assert spin_until(
                lambda: (
                    all(each.get_subscription_count() for each in (frames, info, extrinsics))
                    and driver.count_publishers("policy/cloud")
                )
            )
            info.publish(camera_info_message(camera, 7))
            extrinsics.publish(extrinsics_message(camera, robot.base_frame, 7))
            frames.publish(image)
            assert spin_until(lambda: bool(clouds))
    observed = task.observation
    expected = depth_to_cloud(
        depth, KINECT, np.eye(4), NEAR_SCENE, observed.n_points, observed.min_points,
        depth_range_m=(camera.depth_min, camera.depth_max),
    )  # fmt: skip
    np.testing.assert_allclose(messages.cloud_points(clouds[0]), expected, atol=1e-6)


def test_camera_info_of_another_resolution_is_refused(depth):
    with pytest.raises(ObservationError, match="640x480"):
        depth_to_cloud(
            depth,
            Intrinsics(320, 240, 262.5, 262.5, 159.5, 119.5),
            np.eye(4),
            NEAR_SCENE,
            512,
            100,
            depth_range_m=RANGE,
        )


def test_a_crop_box_beside_the_scene_is_refused(depth):
    with pytest.raises(ObservationError, match="crop is empty"):
        depth_to_cloud(
            depth,
            KINECT,
            np.eye(4),
            WorkspaceBox(low=(8, 8, 8), high=(9, 9, 9)),
            512,
            100,
            depth_range_m=RANGE,
        )
