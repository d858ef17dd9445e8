# SPDX-License-Identifier: Apache-2.0
"""From depth images to clouds.

Geometry against closed forms, and every way a frame can be unusable.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rl100_policy.core.config import WorkspaceBox
from rl100_policy.core.errors import ObservationError
from rl100_policy.core.geometry import pose_from_xyz_rpy
from rl100_policy.core.point_cloud import (
    Intrinsics,
    crop_to_box,
    deproject,
    depth_to_cloud,
    farthest_point_sample,
    sample_cloud,
    transform,
)

CAMERA = Intrinsics(8, 6, 10.0, 12.0, 3.5, 2.5)
RANGE = (0.15, 3.0)
EVERYTHING = WorkspaceBox(low=(-9, -9, -9), high=(9, 9, 9))


def test_a_pixel_lies_on_its_ray_at_its_depth():
    depth = np.zeros((6, 8), np.float32)
    depth[4, 7] = 2.0
    point = deproject(depth, CAMERA).reshape(6, 8, 3)[4, 7]
    # x = (7 - 3.5) * 2 / 10, y = (4 - 2.5) * 2 / 12
    np.testing.assert_allclose(point, [0.7, 0.25, 2.0], rtol=1e-6)


def test_transform_rotates_then_translates():
    pose = pose_from_xyz_rpy((1.0, 2.0, 3.0), (0.0, 0.0, np.pi / 2))
    moved = transform(np.array([[1.0, 0.0, 0.0]], np.float32), pose)
    np.testing.assert_allclose(moved, [[1.0, 3.0, 3.0]], atol=1e-6)


def test_transforming_there_and_back_is_the_identity():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(50, 3)).astype(np.float32)
    pose = pose_from_xyz_rpy(rng.normal(size=3), rng.normal(size=3))
    np.testing.assert_allclose(
        transform(transform(points, pose), np.linalg.inv(pose)), points, atol=1e-5
    )


@pytest.mark.parametrize("kept", [1, 2, 3, 5, 15, 16, 17, 200, 4999])
def test_where_a_point_is_moved_to_does_not_depend_on_the_others(kept):
    """Regression: BLAS rounded the last points of an array differently from those before."""
    rng = np.random.default_rng(kept)
    points = rng.normal(size=(5000, 3)).astype(np.float32)
    pose = pose_from_xyz_rpy(rng.normal(size=3), rng.normal(size=3))
    chosen = np.sort(rng.permutation(len(points))[:kept])
    alone, together = transform(points[chosen], pose), transform(points, pose)[chosen]
    assert alone.tobytes() == together.tobytes()


def test_some_pixels_are_deprojected_as_in_the_whole_image():
    depth = np.random.default_rng(0).random((6, 8)).astype(np.float32)
    pixels = np.array([0, 7, 8, 30, 47])
    np.testing.assert_array_equal(
        deproject(depth, CAMERA, pixels), deproject(depth, CAMERA)[pixels]
    )


def test_crop_keeps_the_bounds_and_drops_what_is_not_finite():
    box = WorkspaceBox(low=(0, 0, 0), high=(1, 1, 1))
    points = np.array(
        [[0, 0, 0], [1, 1, 1], [1.01, 0, 0], [np.nan, 0, 0], [0, np.nan, 0], [0, 0, np.inf]],
        np.float32,
    )
    np.testing.assert_array_equal(crop_to_box(points, box), points[:2])


def test_image_and_camera_info_of_different_size_are_refused_naming_both():
    with pytest.raises(ObservationError, match=r"8x5.*8x6"):
        deproject(np.ones((5, 8), np.float32), CAMERA)


@pytest.mark.parametrize("field", [{"fx": 0.0}, {"fy": -1.0}, {"cx": float("nan")}, {"width": 0}])
def test_impossible_intrinsics_are_refused(field):
    values = {"width": 8, "height": 6, "fx": 1.0, "fy": 1.0, "cx": 0.0, "cy": 0.0} | field
    with pytest.raises(ObservationError, match="intrinsics"):
        Intrinsics(**values)


@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf"), -1.0, 0.1, 9.0])
def test_invalid_readings_are_left_out(bad):
    depth = np.full((6, 8), 1.0, np.float32)
    depth[2, 3] = bad
    cloud = depth_to_cloud(depth, CAMERA, np.eye(4), EVERYTHING, 47, 10, depth_range_m=RANGE)
    expected = np.delete(deproject(np.ones((6, 8), np.float32), CAMERA), 2 * 8 + 3, axis=0)
    assert {tuple(p) for p in cloud.tolist()} == {tuple(p) for p in expected.tolist()}


def test_an_empty_crop_is_refused():
    with pytest.raises(ObservationError, match="crop is empty"):
        depth_to_cloud(
            np.zeros((6, 8), np.float32), CAMERA, np.eye(4), EVERYTHING, 16, 4, depth_range_m=RANGE
        )


def test_too_few_points_are_refused_naming_how_many():
    with pytest.raises(ObservationError, match="only 3 points"):
        sample_cloud(np.zeros((3, 3), np.float32), 16, 4)


def test_fewer_points_than_wanted_are_tiled_and_none_is_lost():
    points = np.arange(15, dtype=np.float32).reshape(5, 3)
    cloud = sample_cloud(points, 12, 4)
    assert cloud.shape == (12, 3)
    assert {tuple(p) for p in cloud.tolist()} == {tuple(p) for p in points.tolist()}


def test_farthest_points_of_a_line_are_its_ends_then_its_middle():
    points = np.zeros((101, 3), np.float32)
    points[:, 0] = np.arange(101)
    np.testing.assert_array_equal(farthest_point_sample(points, 3)[:, 0], [0, 100, 50])


@pytest.mark.parametrize("count", [300, 6000])
def test_sampling_covers_the_cloud_better_than_chance_and_repeats_itself(count):
    points = np.random.default_rng(0).random((count, 3)).astype(np.float32)
    chosen = farthest_point_sample(points, 64)
    gap = lambda subset: np.linalg.norm(points[:, None] - subset[None], axis=2).min(axis=1).max()  # noqa: E731
    assert gap(chosen) < gap(points[:64])
    np.testing.assert_array_equal(chosen, farthest_point_sample(points, 64))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_whatever_the_image_the_result_is_a_finite_cloud_in_the_box_or_a_stated_refusal(seed):
    rng = np.random.default_rng(seed)
    depth = rng.choice([0.0, np.nan, np.inf, -1.0, 0.5, 1.0, 2.0, 50.0], size=(6, 8)).astype(
        np.float32
    )
    box = WorkspaceBox(low=(-0.2, -0.2, 0.4), high=(0.2, 0.2, 1.5))
    try:
        cloud = depth_to_cloud(depth, CAMERA, np.eye(4), box, 16, 4, depth_range_m=RANGE)
    except ObservationError:
        return
    assert cloud.shape == (16, 3)
    assert cloud.dtype == np.float32
    assert np.isfinite(cloud).all()
    assert len(crop_to_box(cloud, box)) == 16
