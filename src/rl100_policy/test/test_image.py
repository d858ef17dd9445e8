# SPDX-License-Identifier: Apache-2.0
"""Resizing of colour images: what is known in closed form, and the same numbers everywhere."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from rl100_policy.core.image import _weights, fit_image


@pytest.fixture
def noise():
    return np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def test_an_image_of_the_right_size_stays_as_it_is_and_is_a_copy(noise):
    fitted = fit_image(noise, None, 48, 64)
    np.testing.assert_array_equal(fitted, noise)
    assert not np.shares_memory(fitted, noise)


@pytest.mark.parametrize("size", [(24, 32), (7, 50), (96, 96), (1, 1)])
@pytest.mark.parametrize("level", [0, 1, 254, 255])
def test_one_colour_stays_that_colour(size, level):
    plain = np.full((48, 64, 3), level, np.uint8)
    np.testing.assert_array_equal(np.unique(fit_image(plain, None, *size)), [level])


def test_a_ramp_stays_a_ramp():
    """Columns are 3 u; halved, the middle of each new column is at 2 u + 1/2 of the old."""
    ramp = np.broadcast_to(3 * np.arange(64, dtype=np.uint8)[None, :, None], (8, 64, 3))
    fitted = fit_image(ramp, None, 8, 32)
    expected = 3 * (2 * np.arange(32) + 0.5)
    np.testing.assert_allclose(fitted[3, 1:-1, 0], expected[1:-1], atol=0.5)


def test_the_region_is_cut_out_before_anything_else(noise):
    cut = noise[10:40, 5:45]
    np.testing.assert_array_equal(fit_image(noise, (5, 10, 40, 30), 30, 40), cut)
    np.testing.assert_array_equal(
        fit_image(noise, (5, 10, 40, 30), 12, 20), fit_image(cut.copy(), None, 12, 20)
    )


@pytest.mark.parametrize("size", [(24, 32), (20, 64), (96, 100)])
def test_it_is_the_antialiased_bilinear_filter(noise, size):
    reference = functional.interpolate(
        torch.from_numpy(noise).movedim(-1, 0)[None].double(),
        size=size, mode="bilinear", antialias=True, align_corners=False,
    )[0].movedim(0, -1)  # fmt: skip
    np.testing.assert_allclose(fit_image(noise, None, *size), reference, atol=0.6)


@pytest.mark.parametrize(("found", "wanted"), [(480, 96), (96, 96), (50, 97), (1920, 224)])
def test_weights_are_integers_that_add_up_so_that_sums_are_exact(found, wanted):
    weights = _weights(found, wanted)
    np.testing.assert_array_equal(weights, np.rint(weights))
    np.testing.assert_array_equal(weights.sum(axis=1), 2**12)
    assert weights.min() >= 0
    # The largest sums of the two passes: integers that float32 holds exactly.
    assert 255 * 2**12 < 2**24
    assert 255 * 2**4 * 2**12 < 2**24
