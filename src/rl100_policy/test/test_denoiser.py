# SPDX-License-Identifier: Apache-2.0
"""Denoising networks: one call, every input matters, rows do not mix, nothing is random."""

import math

import pytest
import torch

from rl100_policy.core.denoiser import build_denoiser, sinusoidal_features
from rl100_policy.core.policy_config import (
    ActionSize,
    ResidualMlpConfig,
    SkipNetConfig,
    UNet1dConfig,
)

CONFIGS = [
    ResidualMlpConfig(width=32, blocks=2),
    UNet1dConfig(channels=(16, 32, 32), kernel=3, groups=4, time_features=16),
    SkipNetConfig(hidden=32, depth=2),
]
CONDITION_DIM, ACTION = 7, ActionSize(n_chunk=8, dim=3)


@pytest.fixture(params=CONFIGS, ids=lambda c: c.kind)
def network(request):
    torch.manual_seed(0)
    return build_denoiser(request.param, ACTION, CONDITION_DIM, n_train=100)


def inputs(batch: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn((batch, ACTION.n_chunk, ACTION.dim), generator=generator)
    return x, torch.arange(batch) * 20, torch.randn((batch, CONDITION_DIM), generator=generator)


def test_output_has_the_shape_of_the_chunk(network):
    x, t, c = inputs()
    assert network(x, t, c).shape == x.shape


def test_every_output_depends_on_every_input(network):
    x, t, c = (v[:1] for v in inputs())
    jacobian_x, jacobian_c = torch.autograd.functional.jacobian(
        lambda a, b: network(a, t, b).flatten(), (x, c)
    )
    assert bool((jacobian_x.flatten(1).abs().sum(1) > 0).all())
    assert bool((jacobian_c.flatten(1).abs().amax(0) > 0).all())
    assert not torch.equal(network(x, t, c), network(x, t + 1, c))


def test_rows_do_not_influence_each_other(network):
    x, t, c = inputs()
    torch.testing.assert_close(
        network(x, t, c)[2:3], network(x[2:3], t[2:3], c[2:3]), rtol=1e-4, atol=1e-5
    )


def test_training_and_evaluation_mode_agree_exactly(network):
    x, t, c = inputs()
    assert torch.equal(network.train()(x, t, c), network.eval()(x, t, c))


def test_time_features_are_cosines_and_sines_from_one_to_the_longest_period():
    features = sinusoidal_features(torch.tensor([0, 3]), 4, max_period=100.0)
    expected = [[1, 1, 0, 0], [math.cos(3), math.cos(0.3), math.sin(3), math.sin(0.3)]]
    torch.testing.assert_close(features, torch.tensor(expected, dtype=torch.float32))


def test_skip_net_is_the_published_formula():
    """fc, blocks h + W2 relu(W1 LayerNorm(h)), relu, fc; time through 16 -> 32 -> 16 with Mish."""
    torch.manual_seed(0)
    net = build_denoiser(SkipNetConfig(hidden=24, depth=2), ACTION, CONDITION_DIM, n_train=100)
    x, t, c = inputs()
    p = {name: value for name, value in net.named_parameters()}

    def affine(name, value):
        return value @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    time = affine("time.0", sinusoidal_features(t, 16))
    time = affine("time.2", time * torch.tanh(torch.log1p(time.exp())))
    h = affine("input", torch.cat((x.flatten(1), time, c), dim=1))
    for block in ("blocks.0", "blocks.1"):
        centred = h - h.mean(1, keepdim=True)
        normed = centred / torch.sqrt((centred**2).mean(1, keepdim=True) + 1e-5)
        normed = normed * p[f"{block}.norm.weight"] + p[f"{block}.norm.bias"]
        h = h + affine(f"{block}.narrow", affine(f"{block}.widen", normed).clamp(min=0))
    expected = affine("output", h.clamp(min=0)).view_as(x)
    torch.testing.assert_close(net(x, t, c), expected, rtol=1e-4, atol=1e-5)


def test_paper_skip_net_has_the_parameters_of_the_published_one():
    """An action of 28 joints and a condition of 3 frames of 128: about 1.7 M, layer by layer."""
    network = build_denoiser(SkipNetConfig(), ActionSize(n_chunk=1, dim=28), 384, n_train=100)
    h, flat, t = 256, 28, 16
    expected = (
        (t * 2 * t + 2 * t) + (2 * t * t + t)
        + (flat + t + 384) * h + h
        + 3 * (2 * h + h * 4 * h + 4 * h + 4 * h * h + h)
        + h * flat + flat
    )  # fmt: skip
    assert sum(p.numel() for p in network.parameters()) == expected == 1_696_332


@pytest.mark.slow
def test_paper_unet_has_tens_of_millions_of_parameters():
    """The published chunk policy counts about 39 M, with a smaller condition than ours here."""
    network = build_denoiser(UNet1dConfig(), ActionSize(n_chunk=16, dim=7), 384, n_train=100)
    assert 30e6 < sum(p.numel() for p in network.parameters()) < 90e6
