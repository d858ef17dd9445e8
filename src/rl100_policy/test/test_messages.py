# SPDX-License-Identifier: Apache-2.0
"""Messages read alike, whichever library made them."""

import struct
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl100_policy.core import messages
from rl100_policy.core.errors import ObservationError


def image(data: bytes, *, encoding: str, width: int, height: int, step: int, big: int = 0):
    return SimpleNamespace(
        encoding=encoding, width=width, height=height, step=step, is_bigendian=big, data=data
    )


def cdr(stamp: tuple[int, int], order: str = "<") -> bytes:
    head = b"\x00\x01\x00\x00" if order == "<" else b"\x00\x00\x00\x00"
    return head + struct.pack(f"{order}iI", *stamp) + b"\x01\x00\x00\x00\x00"


@pytest.mark.parametrize("order", ["<", ">"])
def test_the_header_stamp_is_peeked_in_either_byte_order(order):
    assert messages.peek_stamp_ns(cdr((12, 345), order)) == 12_000_000_345


@given(st.binary(max_size=40))
def test_peeking_never_fails_and_gives_a_time_or_nothing(data):
    stamp = messages.peek_stamp_ns(data)
    assert stamp is None or 0 <= stamp < 2**31 * 10**9 + 10**9


@pytest.mark.parametrize("stamp", [(-1, 0), (0, 1_000_000_000)])
def test_an_impossible_stamp_is_none(stamp):
    assert messages.peek_stamp_ns(cdr(stamp)) is None


def test_millimetres_become_metres_whatever_holds_the_bytes():
    rows = np.array([[0, 1500, 65535]], dtype="<u2").tobytes()
    for data in (rows, np.frombuffer(rows, dtype=np.uint8), bytearray(rows)):
        depth = messages.depth_image(image(data, encoding="16UC1", width=3, height=1, step=6))
        np.testing.assert_allclose(depth, [[0.0, 1.5, 65.535]], rtol=1e-6)


def test_big_endian_and_padded_rows_are_understood():
    rows = b"".join(np.array(row, dtype=">u2").tobytes() + b"\xff\xff" for row in ([1, 2], [3, 4]))
    depth = messages.depth_image(image(rows, encoding="16UC1", width=2, height=2, step=6, big=1))
    np.testing.assert_allclose(depth, [[0.001, 0.002], [0.003, 0.004]], rtol=1e-6)


@pytest.mark.parametrize(
    ("encoding", "width", "step", "size"),
    [("rgb8", 2, 6, 6), ("16UC1", 2, 4, 3), ("16UC1", 2, 3, 3), ("32FC1", 2, 4, 4)],
)
def test_an_image_that_is_no_depth_or_too_short_is_refused(encoding, width, step, size):
    message = image(bytes(size), encoding=encoding, width=width, height=1, step=step)
    with pytest.raises(ObservationError):
        messages.depth_image(message)


def test_joints_are_taken_by_name_in_the_order_asked_for():
    state = SimpleNamespace(name=["b", "a", "c"], position=[2.0, 1.0, 3.0])
    np.testing.assert_array_equal(messages.joint_positions(state, ["a", "b"]), [1.0, 2.0])


def test_a_joint_state_of_another_driver_is_none_of_ours():
    state = SimpleNamespace(name=["finger"], position=[0.02])
    assert messages.joint_positions(state, ["a", "b"]) is None


@pytest.mark.parametrize(
    ("names", "positions"),
    [(["a"], [1.0]), (["a", "b"], [1.0]), (["a", "b"], [1.0, np.nan]), ([], [])],
)
def test_an_incomplete_joint_state_is_refused(names, positions):
    state = SimpleNamespace(name=names, position=positions)
    with pytest.raises(ObservationError):
        messages.joint_positions(state, ["a", "b"])


def camera_info(**changes):
    values = {
        "header": SimpleNamespace(frame_id="optical"),
        "width": 64,
        "height": 48,
        "d": [0.0] * 5,
        "k": [50.0, 0.0, 32.0, 0.0, 51.0, 24.0, 0.0, 0.0, 1.0],
        "p": [0.0] * 12,
        "binning_x": 0,
        "binning_y": 0,
        "roi": SimpleNamespace(width=0, height=0),
    }
    return SimpleNamespace(**(values | changes))


def test_intrinsics_are_those_of_the_rectified_image():
    p = [40.0, 0.0, 30.0, 0.0, 0.0, 41.0, 22.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    rectified = messages.intrinsics(camera_info(p=p, d=[0.1] * 5), "optical")
    assert (rectified.fx, rectified.fy, rectified.cx, rectified.cy) == (40.0, 41.0, 30.0, 22.0)


def test_intrinsics_of_a_driver_that_leaves_the_projection_empty_are_the_camera_matrix():
    found = messages.intrinsics(camera_info(), "optical")
    assert (found.fx, found.fy, found.cx, found.cy) == (50.0, 51.0, 32.0, 24.0)


def cloud(**changes):
    fields = [
        SimpleNamespace(name=name, offset=4 * index, datatype=7, count=1)
        for index, name in enumerate("xyz")
    ]
    values = {"fields": fields, "width": 1, "height": 1, "point_step": 12, "is_bigendian": False}
    return SimpleNamespace(**(values | {"data": bytes(12)} | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"width": 0, "data": b""},
        {"width": 0, "point_step": 2**32 - 1},
        {"point_step": 0},
        {"point_step": 8},
        {"width": 2},
        {"fields": []},
    ],
)
def test_a_cloud_whose_size_cannot_be_is_refused(changes):
    with pytest.raises(ObservationError):
        messages.cloud_points(cloud(**changes))


def test_colours_come_as_red_green_blue_without_the_padding_of_rows():
    rows = b"".join(bytes([*range(first, first + 6), 99]) for first in (0, 10))
    rgb = messages.colour_image(image(rows, encoding="rgb8", width=2, height=2, step=7))
    assert rgb.tolist() == [[[0, 1, 2], [3, 4, 5]], [[10, 11, 12], [13, 14, 15]]]
    bgr = messages.colour_image(image(rows, encoding="bgr8", width=2, height=2, step=7))
    np.testing.assert_array_equal(bgr, rgb[..., ::-1])


@pytest.mark.parametrize(
    ("encoding", "width", "height", "step", "size"),
    [
        ("mono8", 2, 1, 2, 2),
        ("rgba8", 2, 1, 8, 8),
        ("rgb8", 2, 1, 6, 5),
        ("rgb8", 2, 1, 5, 5),
        ("rgb8", 0, 1, 0, 0),
        ("bgr8", 2, 0, 6, 0),
    ],
)
def test_an_image_that_is_no_colour_or_not_as_long_as_it_says_is_refused(
    encoding, width, height, step, size
):
    with pytest.raises(ObservationError) as refused:
        messages.colour_image(
            image(bytes(size), encoding=encoding, width=width, height=height, step=step)
        )
    assert refused.value.reason == ("encoding" if encoding in ("mono8", "rgba8") else "size")
