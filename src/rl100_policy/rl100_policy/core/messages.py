# SPDX-License-Identifier: Apache-2.0
"""Reading of messages by their fields.

The same functions serve live rclpy messages and messages deserialised from bags.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl100_policy.core.errors import ObservationError
from rl100_policy.core.geometry import pose_from_xyz_quaternion
from rl100_policy.core.latency import Journey, Mark
from rl100_policy.core.point_cloud import Intrinsics

_DEPTH_ENCODINGS = {
    "16UC1": (np.uint16, 0.001),
    "mono16": (np.uint16, 0.001),
    "32FC1": (np.float32, 1.0),
}
"""Encoding to data type and metres per unit (REP-118)."""
_COLOUR_ENCODINGS = {"rgb8": (0, 1, 2), "bgr8": (2, 1, 0)}
"""Encoding to the places of red, green and blue."""


def stamp_ns(stamp: Any) -> int:
    """Nanoseconds of a builtin_interfaces/Time or Duration."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def peek_stamp_ns(data: bytes) -> int | None:
    """Header stamp of a serialised message, without parsing the rest.

    The first field of the message is a std_msgs/Header.

    Args:
        data: CDR with its four bytes of encapsulation, as a raw subscription delivers it.

    Returns:
        Nanoseconds, or None if the bytes cannot begin such a message.
    """
    if len(data) < 12 or data[0] != 0 or data[1] > 1:
        return None
    sec, nanosec = struct.unpack_from("<iI" if data[1] else ">iI", data, 4)
    if sec < 0 or nanosec >= 1_000_000_000:
        return None
    return int(sec) * 1_000_000_000 + int(nanosec)


def peek_frame_id(data: bytes) -> str | None:
    """Frame of the header of a serialised message, as :func:`peek_stamp_ns`; None without one."""
    if len(data) < 16 or data[0] != 0 or data[1] > 1:
        return None
    (length,) = struct.unpack_from("<I" if data[1] else ">I", data, 12)
    text = data[16 : 16 + length]
    return text.rstrip(b"\0").decode(errors="replace") if len(text) == length else None


def peek_source(data: bytes) -> int | None:
    """Who was in command, of a serialised rl100_msgs/GateCommand; None if it cannot be one.

    The field follows the header, whose frame is a string of any length.
    """
    frame = peek_frame_id(data)
    if frame is None:
        return None
    (length,) = struct.unpack_from("<I" if data[1] else ">I", data, 12)
    place = 16 + int(length)
    return data[place] if place < len(data) else None


def depth_image(message: Any) -> NDArray[np.float32]:
    """Depth along the optical axis, [H, W], m, from a sensor_msgs/Image.

    Raises:
        ObservationError: If the encoding is not a depth encoding or the data are shorter than the
            size says.
    """
    if message.encoding not in _DEPTH_ENCODINGS:
        raise ObservationError(
            f"expected a depth image ({', '.join(_DEPTH_ENCODINGS)}), "
            f"got encoding {message.encoding!r}; is the topic the depth stream?",
            reason="encoding",
        )
    kind, scale = _DEPTH_ENCODINGS[message.encoding]
    dtype = np.dtype(kind).newbyteorder(">" if message.is_bigendian else "<")
    values = np.ascontiguousarray(_rows(message, dtype.itemsize)).view(dtype)
    return values.astype(np.float32) * np.float32(scale)


def colour_image(message: Any) -> NDArray[np.uint8]:
    """Red, green and blue, [H, W, 3], from a sensor_msgs/Image.

    Raises:
        ObservationError: If the encoding is neither rgb8 nor bgr8 or the data are not as long as
            the size says.
    """
    if message.encoding not in _COLOUR_ENCODINGS:
        raise ObservationError(
            f"expected a colour image ({', '.join(_COLOUR_ENCODINGS)}), "
            f"got encoding {message.encoding!r}; is the topic the colour stream?",
            reason="encoding",
        )
    pixels = _rows(message, 3).reshape(message.height, message.width, 3)
    return np.ascontiguousarray(pixels[..., _COLOUR_ENCODINGS[message.encoding]])


def _rows(message: Any, pixel_bytes: int) -> NDArray[np.uint8]:
    """Rows of a sensor_msgs/Image without their padding, [H, W * pixel_bytes]."""
    row = message.width * pixel_bytes
    if (
        message.step < row
        or len(message.data) != message.step * message.height
        or message.height * message.width == 0
    ):
        raise ObservationError(
            f"image {message.width}x{message.height} {message.encoding} "
            f"with step {message.step} needs {message.step * message.height} bytes "
            f"and rows of at least {row}, got {len(message.data)}",
            reason="size",
        )
    rows = np.frombuffer(message.data, dtype=np.uint8).reshape(message.height, message.step)
    return rows[:, :row]


def require_frame(message: Any, expected: str) -> None:
    """Refuse a message whose header names another frame than the one its calibration is of.

    Raises:
        ObservationError: Names both frames.
    """
    found = message.header.frame_id
    if found != expected:
        raise ObservationError(
            f"expected frame {expected!r}, got {found!r}; "
            "does the robot description name the optical frame of this driver?",
            reason="frame",
        )


def intrinsics(message: Any, optical_frame: str) -> Intrinsics:
    """Pinhole intrinsics from the sensor_msgs/CameraInfo of a whole, rectified image.

    They are those of the projection matrix P, which is of the rectified image; of K where a driver
    leaves P empty and the lens has no distortion.

    Args:
        message: The CameraInfo.
        optical_frame: Frame of the camera whose image it must describe.

    Raises:
        ObservationError: If it is another camera's, of a part of the image, of an image that is
            not rectified, or focal lengths or size are not positive and finite.
    """
    require_frame(message, optical_frame)
    p, k = np.asarray(message.p, dtype=float), np.asarray(message.k, dtype=float)
    roi = message.roi
    if message.binning_x > 1 or message.binning_y > 1 or roi.width or roi.height:
        raise ObservationError(
            f"expected the CameraInfo of a whole image, got binning {message.binning_x} x "
            f"{message.binning_y} and a region of {roi.width}x{roi.height} pixels",
            reason="bad CameraInfo",
        )
    if not p.any() and np.any(message.d):
        raise ObservationError(
            f"expected a rectified image, got distortion {list(message.d)} and no projection "
            "matrix; give the rectified stream of the camera",
            reason="bad CameraInfo",
        )
    fx, fy, cx, cy = (p[0], p[5], p[2], p[6]) if p.any() else (k[0], k[4], k[2], k[5])
    return Intrinsics(int(message.width), int(message.height), *map(float, (fx, fy, cx, cy)))


def transform_matrix(message: Any) -> NDArray[np.float64]:
    """Homogeneous transform, [4, 4], from a geometry_msgs/Transform.

    Raises:
        ObservationError: If the quaternion is zero or a value is not finite.
    """
    t, r = message.translation, message.rotation
    values = np.array([t.x, t.y, t.z, r.x, r.y, r.z, r.w])
    if not np.isfinite(values).all() or np.linalg.norm(values[3:]) < 1e-6:
        raise ObservationError(
            f"expected a finite translation and a unit quaternion, got {values.tolist()}",
            reason="bad extrinsics",
        )
    return pose_from_xyz_quaternion(values[:3], values[3:])


def joint_positions(message: Any, names: Sequence[str]) -> NDArray[np.float64] | None:
    """Positions of the named joints, [n], rad, from a sensor_msgs/JointState.

    They are in the order of ``names``. None if the message tells of other joints only: another
    driver on the same topic, a gripper's for example.

    Raises:
        ObservationError: If some of the joints are missing, sizes disagree, or a position is not
            finite.
    """
    found = list(message.name)
    if len(found) != len(message.position):
        raise ObservationError(
            f"joint state has {len(found)} names but {len(message.position)} positions"
        )
    if found and set(names).isdisjoint(found):
        return None
    missing = [name for name in names if name not in found]
    if missing:
        raise ObservationError(f"joint state lacks {missing}; it has {found}")
    positions = np.array([message.position[found.index(name)] for name in names], dtype=float)
    if not np.isfinite(positions).all():
        raise ObservationError(f"joint positions {positions.tolist()} are not finite")
    return positions


def cloud_points(message: Any) -> NDArray[np.float32]:
    """Points, [N, 3], float32, m, from a sensor_msgs/PointCloud2 with float32 fields x, y, z.

    Packed points are a view of the message's own bytes, any others are copied once.

    Raises:
        ObservationError: If a field is missing or not float32, or the data are shorter than the
            size says.
    """
    offsets = {
        field.name: field.offset
        for field in message.fields
        if field.datatype == 7 and field.count == 1
    }
    if not {"x", "y", "z"} <= offsets.keys():
        raise ObservationError(
            f"expected float32 fields x, y, z, got {[field.name for field in message.fields]}",
            reason="fields",
        )
    count = message.width * message.height
    if count == 0 or message.point_step <= 0 or len(message.data) < count * message.point_step:
        raise ObservationError(
            f"expected points in at least as many bytes as the size says, got {count} points of "
            f"{message.point_step} bytes in {len(message.data)} bytes",
            reason="size",
        )
    if max(offsets[axis] for axis in "xyz") + 4 > message.point_step:
        raise ObservationError(
            f"fields x, y, z at offsets {[offsets[axis] for axis in 'xyz']} "
            f"lie outside points of {message.point_step} bytes",
            reason="fields",
        )
    order = ">" if message.is_bigendian else "<"
    size, step = (count, 3), message.point_step
    x, y, z = (offsets[axis] for axis in "xyz")
    if (y - x, z - y) == (4, 4):
        points = np.ndarray(size, f"{order}f4", message.data, x, (step, 4))
    else:
        single = [np.ndarray(count, f"{order}f4", message.data, at, (step,)) for at in (x, y, z)]
        points = np.stack(single, axis=1)
    return np.ascontiguousarray(points, dtype=np.float32)


def nearest(
    samples: Iterable[tuple[int, NDArray[np.float64]]], time_ns: int, *, tolerance_ns: int
) -> NDArray[np.float64] | None:
    """Value of the (stamp, value) sample nearest in time.

    None if no sample is within the tolerance (bound included).
    """
    best = min(samples, key=lambda sample: abs(sample[0] - time_ns), default=None)
    return best[1] if best is not None and abs(best[0] - time_ns) <= tolerance_ns else None


def journey(message: Any) -> Journey:
    """The way of an observation from a StageTimes of ``latency/journeys``."""
    return Journey(stamp_ns(message.header.stamp), message.policy_version, stage_marks(message))


def stage_marks(message: Any) -> dict[Mark, int]:
    """Wall time [ns] by mark of a StageTimes; unknown ones and those without it are left out."""
    told = zip(message.marks, message.times, strict=False)
    return {Mark(mark): stamp_ns(when) for mark, when in told if mark in set(Mark)}
