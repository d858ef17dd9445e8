# SPDX-License-Identifier: Apache-2.0
"""Normaliser: exact limits, inverse, constant dimensions, bit-for-bit persistence."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rl100_policy.core.errors import ConfigError
from rl100_policy.core.normalizer import LimitsNormalizer, PolicyNormalizer

finite = st.floats(-1e4, 1e4, width=32, allow_subnormal=False)


def test_limits_become_plus_and_minus_one():
    normalizer = LimitsNormalizer(2).fit(torch.tensor([[2.0, -0.25], [6.0, 0.25], [5.0, 0.0]]))
    mapped = normalizer(torch.tensor([[2.0, 0.25], [4.0, 0.0]]))
    torch.testing.assert_close(mapped, torch.tensor([[-1.0, 1.0], [0.0, 0.0]]))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(finite, min_size=3, max_size=3), min_size=1, max_size=8))
def test_inverse_undoes_normalisation(rows):
    values = torch.tensor(rows)
    normalizer = LimitsNormalizer(3).fit(values)
    # Rounding is relative to the largest number involved.
    scale = float(values.abs().max()) + 1.0
    torch.testing.assert_close(
        normalizer.inverse(normalizer(values)), values, rtol=0, atol=1e-6 * scale
    )


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(finite, min_size=2, max_size=2), min_size=1, max_size=8))
def test_fitted_data_stay_within_limits_and_finite(rows):
    values = torch.tensor(rows)
    mapped = LimitsNormalizer(2).fit(values)(values)
    assert bool(torch.isfinite(mapped).all())
    # The centre of a narrow range far from zero rounds; the constant-dimension rule bounds that
    # error at a quarter.
    assert float(mapped.abs().max()) <= 1.25


def test_constant_dimension_maps_to_zero_and_back():
    normalizer = LimitsNormalizer(2).fit(torch.tensor([[0.015, 1.0], [0.015, 3.0]]))
    mapped = normalizer(torch.tensor([[0.015, 3.0]]))
    torch.testing.assert_close(mapped, torch.tensor([[0.0, 1.0]]))
    torch.testing.assert_close(normalizer.inverse(mapped), torch.tensor([[0.015, 3.0]]))


def test_statistics_survive_the_state_dict_bit_for_bit():
    generator = torch.Generator().manual_seed(0)
    fitted = PolicyNormalizer(2, 3).fit(
        actions=torch.randn((9, 2), generator=generator),
        proprio=torch.randn((9, 3), generator=generator),
        clouds=torch.randn((4, 5, 3), generator=generator),
    )
    restored = PolicyNormalizer(2, 3)
    restored.load_state_dict(fitted.state_dict())
    for key, value in fitted.state_dict().items():
        assert torch.equal(restored.state_dict()[key], value), key
    assert len(fitted.state_dict()) == 6


@pytest.mark.parametrize(
    "values", [torch.zeros((0, 2)), torch.zeros((3, 3)), torch.tensor([[0.0, float("nan")]])]
)
def test_unusable_data_are_refused(values):
    with pytest.raises(ConfigError):
        LimitsNormalizer(2).fit(values)


@pytest.mark.parametrize(
    "clouds", [None, torch.zeros((4, 0, 3)), torch.zeros((2, 8, 8, 3), dtype=torch.uint8)]
)
def test_a_policy_that_sees_no_points_keeps_the_normaliser_of_clouds(clouds):
    values = torch.tensor([[0.0, 2.0], [4.0, 6.0]])
    normalizer = PolicyNormalizer(action_dim=2, proprio_dim=2)
    normalizer.fit(actions=values, proprio=values, clouds=clouds)
    torch.testing.assert_close(
        normalizer.proprio(values), torch.tensor([[-1.0, -1.0], [1.0, 1.0]])
    )
    assert torch.equal(normalizer.cloud(torch.ones(3)), torch.ones(3))
