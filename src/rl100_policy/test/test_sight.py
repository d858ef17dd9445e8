# SPDX-License-Identifier: Apache-2.0
"""What a task sees and with which camera; and that descriptions that do not fit are refused."""

from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from rl100_policy.core.config import (
    ImageObservation,
    PointObservation,
    RobotConfig,
    TaskConfig,
    load_robot,
    load_task,
)
from rl100_policy.core.errors import ConfigError, ObservationError
from rl100_policy.core.geometry import pose_from_xyz_rpy
from rl100_policy.core.observed_cloud import CloudMaker
from rl100_policy.core.observed_image import ImageMaker
from rl100_policy.core.sight import observation_size, sight_camera, sight_maker

CONFIG = Path(__file__).parents[2] / "rl100_bringup" / "config"
PANDA, PANDA_RGB = (
    load_robot(CONFIG / "robots" / f"{name}.yaml") for name in ("panda", "panda_rgb")
)
POINTS, IMAGE, STATE = (
    load_task(CONFIG / "tasks" / f"{name}.yaml")
    for name in ("push_t", "push_t_rgb", "push_t_state")
)


def observing(**changes: object) -> TaskConfig:
    return IMAGE.model_copy(update={"observation": ImageObservation(**changes)})


def robot_with(*cameras: str) -> RobotConfig:
    """The arm with some of its cameras, by kind."""
    found = tuple(PANDA_RGB.camera(kinds=(kind,)) for kind in cameras)
    return PANDA_RGB.model_copy(update={"cameras": found})


@pytest.mark.parametrize(
    ("task", "kind", "maker"),
    [(POINTS, "depth", CloudMaker), (IMAGE, "color", ImageMaker)],
)
def test_the_camera_is_the_first_of_a_kind_that_fits_whatever_their_order(task, kind, maker):
    for robot in (robot_with("depth", "color"), robot_with("color", "depth")):
        assert sight_camera(task, robot).kind == kind
        assert isinstance(sight_maker(task, robot), maker)


def test_proprioception_alone_needs_no_camera():
    robot = PANDA.model_copy(update={"cameras": ()})
    assert sight_camera(STATE, robot) is None
    assert sight_maker(STATE, robot) is None


def test_a_task_that_sees_images_refuses_a_robot_without_a_colour_camera():
    with pytest.raises(ConfigError, match=r"no camera.*of kind color; it has 'camera' \(depth\)"):
        sight_maker(IMAGE, PANDA)


def test_a_task_may_name_one_of_several_colour_cameras():
    wrist = PANDA_RGB.camera("color").model_copy(update={"name": "wrist"})
    robot = PANDA_RGB.model_copy(update={"cameras": (*PANDA_RGB.cameras, wrist)})
    assert sight_camera(observing(), robot).name == "color"
    assert sight_camera(observing(camera="wrist"), robot).name == "wrist"
    assert sight_camera(observing(camera="wrist"), robot, "color").name == "color"
    with pytest.raises(ConfigError, match=r"no camera 'camera' of kind color"):
        sight_camera(observing(camera="camera"), robot)


@pytest.mark.parametrize("region", [(-1, 0, 8, 8), (0, 90, 8, 8), (0, 0, 0, 8), (125, 0, 4, 4)])
def test_a_region_outside_the_image_is_refused(region):
    with pytest.raises(ConfigError, match=r"should be inside.*128x96"):
        sight_maker(observing(region=region), PANDA_RGB)


def test_sizes_follow_from_the_observation():
    shapes = [observation_size(task, PANDA_RGB).visual_shape for task in (POINTS, IMAGE, STATE)]
    assert shapes == [(128, 3), (96, 96, 3), (0, 3)]
    assert [observation_size(each, PANDA).sight for each in (POINTS, STATE)] == ["points", "state"]
    assert observation_size(STATE, PANDA).proprio_dim == 3 + 7
    assert observation_size(IMAGE, PANDA_RGB).blank().dtype == np.uint8


def frame(pixels: np.ndarray, encoding: str = "rgb8", frame_id: str = "") -> SimpleNamespace:
    height, width, _ = pixels.shape
    return SimpleNamespace(
        header=SimpleNamespace(frame_id=frame_id or PANDA_RGB.camera("color").optical_frame),
        encoding=encoding, width=width, height=height, step=3 * width, is_bigendian=0,
        data=pixels.tobytes(),
    )  # fmt: skip


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)


def test_an_image_is_the_region_in_red_green_blue(pixels):
    maker = sight_maker(observing(region=(16, 0, 96, 96)), PANDA_RGB)
    assert maker.missing(frame(pixels), None, None) == ""
    np.testing.assert_array_equal(maker.make(frame(pixels), None, None), pixels[:, 16:112])
    swapped = frame(pixels[..., ::-1].copy(), "bgr8")
    np.testing.assert_array_equal(maker.make(swapped, None, None), pixels[:, 16:112])


@pytest.mark.parametrize(
    ("changes", "message", "reason"),
    [
        ({"encoding": "16UC1"}, "rgb8, bgr8", "encoding"),
        ({"data": b"short"}, "got 5", "size"),
        ({"width": 64, "step": 192, "data": bytes(64 * 96 * 3)}, "64x96.*128x96", "size"),
        ({"header": SimpleNamespace(frame_id="elsewhere")}, "elsewhere", "frame"),
    ],
)
def test_an_image_that_is_not_what_is_described_is_refused(pixels, changes, message, reason):
    message_ = SimpleNamespace(**{**vars(frame(pixels)), **changes})
    with pytest.raises(ObservationError, match=message) as refused:
        sight_maker(IMAGE, PANDA_RGB).make(message_, None, None)
    assert refused.value.reason == reason


def test_points_and_images_are_told_apart_by_their_kind():
    assert isinstance(POINTS.observation, PointObservation)
    assert (IMAGE.observation.kind, STATE.observation.kind) == ("image", "state")


def test_the_shipped_region_shows_all_of_the_tool_workspace():
    camera, box = sight_camera(IMAGE, PANDA_RGB), IMAGE.tool_workspace
    pose = pose_from_xyz_rpy(camera.xyz, camera.rpy)
    corners = np.array(list(product(*zip(box.low[:2], box.high[:2], strict=True), [0.0])))
    optical = (corners - pose[:3, 3]) @ pose[:3, :3]
    pixels = optical[:, :2] / optical[:, 2:] * [camera.fx, camera.fy] + [camera.cx, camera.cy]
    u, v, width, height = IMAGE.observation.region
    assert (pixels >= [u, v]).all()
    assert (pixels <= [u + width - 1, v + height - 1]).all()
