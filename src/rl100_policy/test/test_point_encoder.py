# SPDX-License-Identifier: Apache-2.0
"""Point encoder: exact critical-point gradient, invariances, frames, reconstruction head."""

import pytest
import torch
from torch import nn

from rl100_policy.core.normalizer import LimitsNormalizer, PolicyNormalizer
from rl100_policy.core.point_encoder import PointEncoder, cloud_centre, critical_max_pool, max_pool
from rl100_policy.core.policy_config import PointEncoderConfig

N_CLOUDS, N_POINTS = 37, 53  # not multiples of the tile size, so the last tile is a partial one


def point_network(*, layer_norm: bool) -> nn.Sequential:
    torch.manual_seed(0)
    norm = [nn.LayerNorm(16)] if layer_norm else []
    return nn.Sequential(nn.Linear(3, 16), *norm, nn.ReLU(), nn.Linear(16, 24), nn.ReLU()).double()


def random_points(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(
        (N_CLOUDS, N_POINTS, 3), generator=torch.Generator().manual_seed(1), dtype=dtype
    )


def value_and_gradient(pool, network, points):
    network.zero_grad()
    pooled = pool(network, points)
    weights = torch.linspace(-1, 2, pooled.numel(), dtype=pooled.dtype).view_as(pooled)
    (pooled * weights).sum().backward()
    return pooled.detach(), [p.grad.clone() for p in network.parameters()]


@pytest.mark.parametrize("layer_norm", [False, True])
def test_critical_points_give_the_value_and_gradient_of_plain_autograd(layer_norm):
    network, points = point_network(layer_norm=layer_norm), random_points()
    value, gradient = value_and_gradient(critical_max_pool, network, points)
    expected_value, expected_gradient = value_and_gradient(max_pool, network, points)
    torch.testing.assert_close(value, expected_value, rtol=1e-12, atol=1e-12)
    for found, expected in zip(gradient, expected_gradient, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_critical_points_stay_exact_when_points_repeat():
    network = point_network(layer_norm=False)
    tiled = random_points()[:, :20].repeat(1, 3, 1)
    _, gradient = value_and_gradient(critical_max_pool, network, tiled)
    _, expected = value_and_gradient(max_pool, network, tiled[:, :20])
    for found, reference in zip(gradient, expected, strict=True):
        torch.testing.assert_close(found, reference, rtol=1e-10, atol=1e-10)


@pytest.fixture
def encoder() -> PointEncoder:
    torch.manual_seed(2)
    return PointEncoder(PointEncoderConfig(), proprio_dim=3)


@pytest.fixture
def limits() -> LimitsNormalizer:
    return LimitsNormalizer(3).fit(torch.tensor([[0.25, -0.3, 0.0], [0.75, 0.3, 0.06]]))


def cloud_and_tool() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    cloud = torch.rand((4, 40, 3), generator=generator) * torch.tensor(
        [0.1, 0.1, 0.03]
    ) + torch.tensor([0.45, 0.0, 0.0])
    return cloud, torch.rand((4, 3), generator=generator) * 0.1 + torch.tensor([0.4, 0.0, 0.0])


def encode(
    encoder: PointEncoder, limits: LimitsNormalizer, cloud: torch.Tensor, tool: torch.Tensor
) -> torch.Tensor:
    normalizer = PolicyNormalizer(action_dim=2, proprio_dim=3)
    normalizer.cloud.load_state_dict(limits.state_dict())
    return encoder(cloud, tool, normalizer).frame


def test_order_of_points_does_not_matter(encoder, limits):
    cloud, tool = cloud_and_tool()
    order = torch.randperm(40, generator=torch.Generator().manual_seed(4))
    # Rows of a matrix product may be summed in another order, hence a few rounding errors.
    torch.testing.assert_close(
        encode(encoder, limits, cloud[:, order], tool), encode(encoder, limits, cloud, tool)
    )


def test_padding_with_repeated_points_does_not_matter(encoder, limits):
    cloud, tool = cloud_and_tool()
    padded = torch.cat((cloud, cloud[:, :17]), dim=1)
    torch.testing.assert_close(
        encode(encoder, limits, padded, tool), encode(encoder, limits, cloud, tool)
    )


def test_gradient_mode_does_not_change_the_value(encoder, limits):
    cloud, tool = cloud_and_tool()
    with torch.no_grad():
        expected = encode(encoder, limits, cloud, tool)
    torch.testing.assert_close(encode(encoder, limits, cloud, tool).detach(), expected)


def test_points_are_described_in_each_frame(limits):
    config = PointEncoderConfig(
        frames=("centre", "tool", "base"), centre_scale=0.05, tool_scale=0.1
    )
    encoder = PointEncoder(config, proprio_dim=3)
    cloud = torch.tensor([[[0.50, 0.0, 0.02], [0.60, 0.3, 0.04]]])
    centre, tool = cloud_centre(cloud), torch.tensor([[0.40, 0.0, 0.02]])
    described = encoder.describe(cloud, centre, tool, limits)
    # Middle (0.55, 0.15, 0.03); limits map x 0.25..0.75, y -0.3..0.3, z 0..0.06 to -1..1.
    expected = [
        [-1.0, -3.0, -0.2, 1.0, 0.0, 0.0, 0.0, 0.0, -1 / 3],
        [1.0, 3.0, 0.2, 2.0, 3.0, 0.2, 0.4, 1.0, 1 / 3],
    ]
    torch.testing.assert_close(described[0], torch.tensor(expected), rtol=0, atol=1e-5)


def test_shape_frame_ignores_where_the_object_is(limits):
    encoder = PointEncoder(PointEncoderConfig(frames=("centre",)), proprio_dim=3)
    cloud, tool = cloud_and_tool()
    moved = cloud + torch.tensor([0.05, -0.02, 0.0])
    before = encoder.pooled(cloud, cloud_centre(cloud), tool, limits)
    torch.testing.assert_close(
        encoder.pooled(moved, cloud_centre(moved), tool, limits), before, rtol=1e-3, atol=1e-4
    )


def test_reconstruction_is_compared_relative_to_the_middle_in_units_of_the_scale(encoder):
    cloud, tool = cloud_and_tool()
    features = encoder(cloud, tool, PolicyNormalizer(action_dim=2, proprio_dim=3))
    decoded, seen = encoder.reconstruct_points(features, cloud)
    assert decoded.shape == (4, 24, 3)
    torch.testing.assert_close(cloud_centre(seen), torch.zeros((4, 3)), rtol=0, atol=1e-6)
    extent = cloud.amax(1) - cloud.amin(1)
    torch.testing.assert_close(seen.amax(1) - seen.amin(1), extent / 0.06)


def test_encoder_without_reconstruction_head_reconstructs_nothing():
    bare = PointEncoder(PointEncoderConfig(reconstruction_points=0), proprio_dim=3)
    assert not [name for name, _ in bare.named_parameters() if name.startswith("decoder")]
    cloud, tool = cloud_and_tool()
    features = bare(cloud, tool, PolicyNormalizer(action_dim=2, proprio_dim=3))
    assert bare.reconstruct_points(features, cloud) is None
    assert bare.reconstruct_proprio(features) is None
