# SPDX-License-Identifier: Apache-2.0
"""The perception path on a real frame: a Kinect's depth image with its holes and noise."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from rl100_policy.core.config import WorkspaceBox
from rl100_policy.core.errors import ObservationError
from rl100_policy.core.point_cloud import Intrinsics, crop_to_box, deproject, depth_to_cloud

KINECT = Intrinsics(640, 480, 525.0, 525.0, 319.5, 239.5)
UNITS_PER_METRE = 5000
NEAR_SCENE = WorkspaceBox(low=(-1.0, -1.0, 0.4), high=(1.0, 1.0, 2.0))


@pytest.fixture(scope="module")
def depth() -> np.ndarray:
    raw = np.asarray(Picture.open(Path(__file__).parent / "data" / "rgbd" / "tum_depth.png"))
    return raw.astype(np.float32) / np.float32(UNITS_PER_METRE)


def test_the_frame_has_holes_as_real_frames_do(depth):
    assert 0.01 < np.mean(depth == 0.0) < 0.9


@pytest.mark.parametrize("count", [512, 1024])
def test_every_point_of_the_cloud_is_a_reading_of_the_frame(depth, count):
    cloud = depth_to_cloud(depth, KINECT, np.eye(4), NEAR_SCENE, count, 100)
    assert cloud.shape == (count, 3)
    u = np.rint(cloud[:, 0] / cloud[:, 2] * KINECT.fx + KINECT.cx).astype(int)
    v = np.rint(cloud[:, 1] / cloud[:, 2] * KINECT.fy + KINECT.cy).astype(int)
    np.testing.assert_allclose(cloud[:, 2], depth[v, u], rtol=1e-6)
    assert len(crop_to_box(cloud, NEAR_SCENE)) == count


def test_farthest_points_cover_the_scene_better_than_random_ones(depth):
    everything = deproject(depth, KINECT)
    scene = crop_to_box(everything[everything[:, 2] > 0.15], NEAR_SCENE)
    sampled = depth_to_cloud(depth, KINECT, np.eye(4), NEAR_SCENE, 512, 100)
    rng = np.random.default_rng(0)
    some = scene[rng.choice(len(scene), 2000, replace=False)]
    random = scene[rng.choice(len(scene), 512, replace=False)]
    gap = lambda chosen: np.linalg.norm(some[:, None] - chosen[None], axis=2).min(axis=1).max()  # noqa: E731
    assert gap(sampled) < 0.5 * gap(random)


def test_camera_info_of_another_resolution_is_refused(depth):
    with pytest.raises(ObservationError, match="640x480"):
        depth_to_cloud(
            depth,
            Intrinsics(320, 240, 262.5, 262.5, 159.5, 119.5),
            np.eye(4),
            NEAR_SCENE,
            512,
            100,
        )


def test_a_crop_box_beside_the_scene_is_refused(depth):
    with pytest.raises(ObservationError, match="crop is empty"):
        depth_to_cloud(
            depth, KINECT, np.eye(4), WorkspaceBox(low=(8, 8, 8), high=(9, 9, 9)), 512, 100
        )
