# SPDX-License-Identifier: Apache-2.0
"""Depth by ray casting against plane geometry and MuJoCo's single rays; noise as declared."""

import mujoco
import numpy as np
import pytest

from rl100_policy.core.config import WorkspaceBox
from rl100_policy.core.errors import ConfigError
from rl100_policy.core.point_cloud import Intrinsics, deproject, transform
from rl100_sim.arm_model import GROUP_ARM, GROUP_OBJECT, GROUP_STATIC
from rl100_sim.camera import (
    DEPTH_NOISE,
    DROPOUT_SHARE,
    DepthCamera,
    depth_in_metres,
    render_rgb,
)
from rl100_sim.tasks.push_t import T_BLOCK
from rl100_sim.world import ArmWorld

POSE = np.array([0.5, 0.03, 0.3])


@pytest.fixture(scope="module")
def world(robot):
    world = ArmWorld(robot, T_BLOCK)
    world.reset(np.array(robot.home), POSE)
    return world


@pytest.fixture(scope="module")
def camera(world, robot):
    return DepthCamera(world.model, robot.camera())


def plane_depth(camera, u, v, height):
    """Depth at which the ray of pixel (u, v) meets z = height in the base frame."""
    c = camera.config
    direction = camera.t_base_camera[:3, :3] @ [(u - c.cx) / c.fx, (v - c.cy) / c.fy, 1.0]
    return (height - camera.t_base_camera[2, 3]) / direction[2]


def pixel_of(camera, point):
    optical = camera.t_base_camera[:3, :3].T @ (np.array(point) - camera.t_base_camera[:3, 3])
    c = camera.config
    return round(optical[0] / optical[2] * c.fx + c.cx), round(
        optical[1] / optical[2] * c.fy + c.cy
    )


@pytest.mark.parametrize("point", [(0.6, -0.2, 0.0), (0.7, 0.2, 0.0), (0.5, 0.15, 0.0)])
def test_the_table_is_the_plane_z_equals_zero(world, camera, point):
    u, v = pixel_of(camera, point)
    assert camera.true_depth(world.data)[v, u] == pytest.approx(
        plane_depth(camera, u, v, 0.0), abs=1e-9
    )


def test_the_top_of_the_block_is_its_height_above_the_table(world, camera):
    u, v = pixel_of(camera, (POSE[0], POSE[1], T_BLOCK.height))
    expected = plane_depth(camera, u, v, T_BLOCK.height)
    assert camera.true_depth(world.data)[v, u] == pytest.approx(expected, abs=1e-9)


def test_the_stick_hides_what_is_behind_it(world, camera):
    """Half way up the stick the camera sees its surface, not the table behind."""
    x, y, z = world.tool_position + np.array([0.0, 0.0, 0.07])
    u, v = pixel_of(camera, (x, y, z))
    depth = camera.true_depth(world.data)[v, u]
    to_axis = (camera.t_base_camera[:3, :3].T @ ((x, y, z) - camera.t_base_camera[:3, 3]))[2]
    assert to_axis - 0.03 < depth < to_axis
    assert depth < plane_depth(camera, u, v, 0.0) - 0.05


def test_every_pixel_is_what_a_single_ray_hits(world, camera):
    """Regression: mj_multiRay's bounding volumes made parts of hand and stick transparent."""
    mask = np.isin(np.arange(6), (GROUP_STATIC, GROUP_ARM, GROUP_OBJECT)).astype(np.uint8)
    depth, geom = camera.true_depth(world.data), np.zeros(1, np.int32)
    c, rotation, origin = camera.config, camera.t_base_camera[:3, :3], camera.t_base_camera[:3, 3]
    hit = []
    for v in range(0, c.height, 3):
        for u in range(0, c.width, 3):
            optical = np.array([(u - c.cx) / c.fx, (v - c.cy) / c.fy, 1.0])
            length = np.linalg.norm(optical)
            found = mujoco.mj_ray(
                world.model, world.data, origin, rotation @ optical / length, mask, 1, -1, geom
            )
            assert depth[v, u] == pytest.approx(found / length, abs=1e-9)
            hit.append(world.model.geom_group[geom[0]])
    assert {GROUP_STATIC, GROUP_ARM, GROUP_OBJECT} == set(hit)


def test_the_same_generator_state_gives_the_same_frame_bit_for_bit(world, camera, robot):
    first = camera.render(world.data, np.random.default_rng(3))
    again = DepthCamera(world.model, robot.camera()).render(world.data, np.random.default_rng(3))
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != camera.render(world.data, np.random.default_rng(4)).tobytes()


def test_noise_and_missing_readings_are_as_declared(world, camera):
    rng = np.random.default_rng(0)
    frames = np.stack([camera.render(world.data, rng) for _ in range(20)])
    exact = camera.true_depth(world.data)
    read = frames > 0
    n_readings = frames.size
    # Standard error of a share p over n readings: sqrt(p / n); four of them.
    assert (~read).mean() == pytest.approx(
        DROPOUT_SHARE, abs=4 * np.sqrt(DROPOUT_SHARE / n_readings)
    )
    error = (0.001 * frames - exact)[read]
    # Rounding to millimetres adds a uniform error: variance 1 mm^2 / 12.
    assert error.std() == pytest.approx(np.hypot(DEPTH_NOISE, 0.001 / np.sqrt(12)), rel=0.02)
    assert abs(error.mean()) < 1e-5


def test_readings_out_of_range_are_missing(world, robot):
    config = robot.camera().model_copy(update={"depth_min": 0.7, "depth_max": 0.9})
    near = DepthCamera(world.model, config)
    exact, image = near.true_depth(world.data), near.render(world.data, np.random.default_rng(0))
    assert (image[(exact < 0.69) | (exact > 0.91)] == 0).all()
    assert (image[(exact > 0.71) & (exact < 0.89)] > 0).mean() > 0.9


CROPS = {
    "the task's": ((0.25, -0.30, 0.008), (0.75, 0.30, 0.060)),
    "with the table": ((0.42, -0.10, -0.010), (0.60, 0.12, 0.020)),
    "with the hand": ((0.20, -0.20, 0.050), (0.70, 0.20, 0.500)),
    "everything": ((-9.0, -9.0, -9.0), (9.0, 9.0, 9.0)),
}
LEANING = (0.2, 0.5, -0.1, -2.0, 0.0, 3.2, 0.5)
"""Joint positions in which the hand and the links before it hide the block from the camera."""
VIEWPOINTS = {
    "the shipped one": {},
    "oblique": {"xyz": (0.80, 0.10, 0.50), "cx": 50.2, "depth_min": 0.5, "depth_max": 0.75},
    "level, in the crop": {"xyz": (0.55, 0.05, 0.05), "rpy": (-1.6, 0.1, 1.5), "depth_min": 0.02},
}


@pytest.mark.parametrize("viewpoint", VIEWPOINTS.values(), ids=VIEWPOINTS)
@pytest.mark.parametrize("crop", CROPS.values(), ids=CROPS)
def test_readings_of_a_view_are_those_of_the_whole_frame_in_its_box(robot, crop, viewpoint):
    rng, box = np.random.default_rng(1), WorkspaceBox(low=crop[0], high=crop[1])
    world = ArmWorld(robot, T_BLOCK)
    camera = DepthCamera(world.model, robot.camera().model_copy(update=viewpoint))
    view, shown = camera.view(box), 0
    for seed in range(16):
        posture = np.array(LEANING if seed % 2 else robot.home) + 0.2 * rng.standard_normal(7)
        world.reset(posture, POSE + 0.05 * rng.standard_normal(3))
        whole = camera.render(world.data, np.random.default_rng(seed))
        part = camera.render(world.data, np.random.default_rng(seed), view)
        inside = in_box(camera, whole, box)
        np.testing.assert_array_equal(in_box(camera, part, box), inside)
        np.testing.assert_array_equal(part[inside], whole[inside])
        np.testing.assert_array_equal(part[part > 0], whole[part > 0])
        shown += inside.sum()
    assert shown > 0


def in_box(camera, image, box):
    """Which pixels, [H, W], read a point of a box in the base frame."""
    c = camera.config
    depth, intrinsics = (
        depth_in_metres(image),
        Intrinsics(c.width, c.height, c.fx, c.fy, c.cx, c.cy),
    )
    points = transform(deproject(depth, intrinsics), camera.t_base_camera)
    inside = ((points >= box.low) & (points <= box.high)).all(axis=1)
    return inside.reshape(image.shape) & (image > 0)


def test_a_view_of_what_the_camera_does_not_see_is_empty(world, camera):
    behind = camera.view(WorkspaceBox(low=(2.0, -0.1, 1.0), high=(2.1, 0.1, 1.2)))
    assert not behind.meets.any()
    assert not camera.render(world.data, np.random.default_rng(0), behind).any()


def test_metres_are_a_thousandth_of_the_millimetres_and_missing_stays_zero():
    image = np.array([[0, 1, 1500]], dtype=np.uint16)
    metres = depth_in_metres(image)
    assert metres.dtype == np.float32
    np.testing.assert_allclose(metres, [[0.0, 0.001, 1.5]], rtol=1e-6)


def test_a_picture_without_graphics_says_what_to_do(world, monkeypatch):
    def no_graphics(*_: object) -> None:
        raise RuntimeError("no display")

    monkeypatch.setattr(mujoco, "Renderer", no_graphics)
    with pytest.raises(ConfigError, match="MUJOCO_GL"):
        render_rgb(world.model, world.data, "camera", 64, 48)
