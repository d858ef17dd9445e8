# SPDX-License-Identifier: Apache-2.0
"""From a camera's colour image to the one the policy sees.

The one path shared by the live node, the learner and the simulator.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Region = tuple[int, int, int, int]
"""First column u, first row v, width and height [pixel]."""

_WEIGHT_BITS = 12
_BETWEEN_BITS = 4
"""Binary places kept between the two passes. A pixel and both of these are the 24 bits of integers
that float32 holds exactly."""


def fit_image(pixels: Pixels, region: Region | None, height: int, width: int) -> Pixels:
    """Part of an image, resized.

    Bilinear; where it shrinks, over as wide a neighbourhood as a new pixel covers. Weights are
    multiples of 2^-12 and all sums are of integers that float32 holds exactly, so equal images
    give equal images on every machine.

    Args:
        pixels: [H, W, 3].
        region: Part that is seen, inside the image; None for all of it.
        height: Of the result.
        width: Of the result.

    Returns:
        [height, width, 3], an array of its own.
    """
    if region is not None:
        u, v, columns, rows = region
        pixels = pixels[v : v + rows, u : u + columns]
    found_height, found_width = pixels.shape[:2]
    if (found_height, found_width) == (height, width):
        return np.array(pixels, order="C")
    flat = pixels.reshape(found_height, -1).astype(np.float32)
    between = _rounded(_weights(found_height, height) @ flat, _WEIGHT_BITS - _BETWEEN_BITS)
    columns_first = between.reshape(height, found_width, 3).transpose(1, 0, 2)
    flat = columns_first.reshape(found_width, -1)
    fitted = _rounded(_weights(found_width, width) @ flat, _WEIGHT_BITS + _BETWEEN_BITS)
    return np.ascontiguousarray(
        fitted.reshape(width, height, 3).transpose(1, 0, 2).astype(np.uint8)
    )


def _rounded(sums: NDArray[np.float32], bits: int) -> NDArray[np.float32]:
    """Integers divided by 2^bits, to the nearest integer; halves go up."""
    rounded: NDArray[np.float32] = np.floor(sums * np.float32(0.5**bits) + np.float32(0.5))
    return rounded


@lru_cache(maxsize=16)
def _weights(found: int, wanted: int) -> NDArray[np.float32]:
    """Weight of each of ``found`` pixels in each of ``wanted``, [wanted, found], times 2^12.

    Integers; each row sums to 2^12.
    """
    scale = found / wanted
    centre = (np.arange(wanted)[:, None] + 0.5) * scale
    distance = np.abs(np.arange(found) + 0.5 - centre) / max(scale, 1.0)
    triangle = np.maximum(1.0 - distance, 0.0)
    share = triangle / triangle.sum(axis=1, keepdims=True) * 2**_WEIGHT_BITS
    # The sums up to each pixel are rounded, so that what they are made of adds up.
    weights = np.diff(np.rint(share.cumsum(axis=1)), axis=1, prepend=0.0)
    return np.asarray(weights, dtype=np.float32)
