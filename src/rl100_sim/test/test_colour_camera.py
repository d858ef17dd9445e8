# SPDX-License-Identifier: Apache-2.0
"""Colour images by ray casting: things have their colour where they are, noise is as declared."""

import mujoco
import numpy as np
import pytest

from rl100_sim.colour_camera import COLOUR_NOISE, ColourCamera
from rl100_sim.ray_caster import RayCaster
from rl100_sim.tasks.push_t import T_BLOCK
from rl100_sim.world import ArmWorld

POSE = np.array([0.5, 0.03, 0.3])


@pytest.fixture(scope="module")
def world(seeing_robot):
    world = ArmWorld(seeing_robot, T_BLOCK)
    world.reset(np.array(seeing_robot.home), POSE)
    return world


@pytest.fixture(scope="module")
def camera(world, seeing_robot):
    return ColourCamera(world.model, seeing_robot.camera(kinds=("color",)))


def colour_at(camera, world, point):
    """Colour at a point of the base frame, as hue and saturation: without its brightness."""
    c = camera.config
    pose = world.data.cam_xpos[world.model.camera(c.name).id]
    matrix = world.data.cam_xmat[world.model.camera(c.name).id].reshape(3, 3)
    optical = np.diag([1.0, -1.0, -1.0]) @ matrix.T @ (np.array(point) - pose)
    u, v = (
        round(optical[0] / optical[2] * c.fx + c.cx),
        round(optical[1] / optical[2] * c.fy + c.cy),
    )
    found = camera.true_colour(world.data)[v, u]
    return found / found.max()


def hue(model, geom):
    rgb = model.geom_rgba[geom, :3]
    return rgb / rgb.max()


@pytest.mark.parametrize(
    ("what", "point"),
    [("block", (POSE[0], POSE[1], T_BLOCK.height)), ("table", (0.65, -0.2, 0.0))],
)
def test_things_have_their_colour_where_they_are(world, camera, what, point):
    model = world.model
    geom = model.geom("table").id if what == "table" else model.body("object").geomadr[0]
    np.testing.assert_allclose(colour_at(camera, world, point), hue(model, geom), atol=1e-5)


def test_every_pixel_is_of_the_thing_that_a_single_ray_hits(world, camera):
    c, model, rays = camera.config, world.model, RayCaster(world.model, camera.config)
    image = camera.true_colour(world.data)
    geom = np.zeros(1, np.int32)
    everything = np.array([1, 1, 1, 0, 0, 0], np.uint8)
    for index in range(0, c.height * c.width, 37):
        ray = rays.directions[index]
        mujoco.mj_ray(model, world.data, rays.origin, ray, everything, 1, -1, geom)
        found = image.reshape(-1, 3)[index]
        np.testing.assert_allclose(found / found.max(), hue(model, geom[0]), atol=1e-5)


def test_what_faces_the_light_is_brighter_than_what_does_not(world, camera):
    """The top of the block against its side that faces the camera; both are of one geom."""
    image = camera.true_colour(world.data)
    orange = image[..., 0] > 2.5 * image[..., 2]
    levels = np.unique(np.rint(image[orange][:, 0]))
    assert levels.max() > 1.3 * levels.min()
    assert levels.max() <= 255


def test_noise_is_as_declared_and_follows_its_generator(world, camera):
    frames = [camera.render(world.data, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(frames[0], frames[1])
    assert frames[0].dtype == np.uint8
    difference = frames[2].astype(float) - camera.true_colour(world.data)
    assert np.std(difference) == pytest.approx(COLOUR_NOISE, rel=0.05)
    assert abs(np.mean(difference)) < 0.05


def test_the_block_and_the_arm_move_in_the_image(world, camera, seeing_robot):
    before = camera.true_colour(world.data)
    world.reset(np.array(seeing_robot.home), POSE + np.array([0.05, 0.0, 0.0]))
    after = camera.true_colour(world.data)
    world.reset(np.array(seeing_robot.home), POSE)
    assert np.abs(after - before).max() > 50
    np.testing.assert_array_equal(camera.true_colour(world.data), before)
