# SPDX-License-Identifier: Apache-2.0
"""Imitation of every kind of encoder and denoiser, and the auxiliary losses it adds."""

import pytest
import torch

from rl100_learner.algorithms import imitation
from rl100_learner.algorithms.auxiliary import AuxiliaryWeights, auxiliary_loss
from rl100_learner.algorithms.batches import WindowBatch
from rl100_learner.algorithms.imitation import ImitationConfig
from rl100_learner.algorithms.optimizers import OptimizerConfig
from rl100_learner.algorithms.points import draw_points
from rl100_learner.objectives.chamfer import chamfer_distance
from rl100_policy.core.policy import DiffusionPolicy
from rl100_policy.core.policy_config import (
    ActionSize,
    ImageEncoderConfig,
    ObservationSize,
    PointEncoderConfig,
    PolicyConfig,
    ResidualMlpConfig,
    ResNet18Config,
    SkipNetConfig,
    StateEncoderConfig,
    UNet1dConfig,
    VitConfig,
)

POINTS = ObservationSize(n_points=16)
STATE = ObservationSize(n_points=0, proprio_dim=4)
IMAGE = ObservationSize(n_points=0, height=24, width=32, proprio_dim=4)
TINY_VIT = VitConfig(side=32, dim=16, depth=1)
ENCODERS = {
    "points": (POINTS, PointEncoderConfig()),
    "points_bottleneck": (POINTS, PointEncoderConfig(bottleneck=True, proprio_widths=(8,))),
    "state": (STATE, StateEncoderConfig()),
    "state_bottleneck": (STATE, StateEncoderConfig(proprio_widths=(16,), bottleneck=True)),
    "resnet18": (IMAGE, ImageEncoderConfig(backbone=ResNet18Config(side=32))),
    "vit_bottleneck": (IMAGE, ImageEncoderConfig(backbone=TINY_VIT, bottleneck=True)),
}
DENOISERS = {
    "residual_mlp": ResidualMlpConfig(width=32, blocks=1),
    "skip_net": SkipNetConfig(hidden=32, depth=1),
    "unet1d": UNet1dConfig(channels=(16, 32), groups=4, time_features=16),
}
CONFIG = ImitationConfig(
    steps=100, draws=16, ema=0.9, chamfer_weight=0.2, bottleneck_weight=1e-3,
    optimizer=OptimizerConfig(warmup_steps=5, muon_lr=0.0, adamw_lr=3e-3),
)  # fmt: skip


@pytest.fixture(autouse=True)
def _one_thread():
    """Networks this small are faster on one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make(encoder: str, denoiser: str = "residual_mlp", n_chunk: int = 4) -> DiffusionPolicy:
    size, config = ENCODERS[encoder]
    net = DENOISERS[denoiser]
    torch.manual_seed(0)
    policy = DiffusionPolicy(
        PolicyConfig(
            observation=size,
            action=ActionSize(n_chunk=n_chunk, dim=2),
            encoder=config,
            denoiser=net,
            student=net,
        )
    )
    batch = windows(policy)
    policy.normalizer.fit(actions=batch.actions, proprio=batch.proprio, clouds=batch.visual)
    return policy


def windows(policy: DiffusionPolicy) -> WindowBatch:
    """Eight windows, each with a chunk of its own."""
    generator = torch.Generator().manual_seed(1)
    size, action = policy.config.observation, policy.config.action
    visual = torch.rand((8, size.n_obs, *size.visual_shape), generator=generator)
    if size.sight == "image":
        visual = (255 * visual).to(torch.uint8)
    proprio = torch.rand((8, size.n_obs, size.proprio_dim), generator=generator)
    actions = torch.rand((8, action.n_chunk, action.dim), generator=generator)
    return WindowBatch(visual, proprio, actions)


def generator(seed: int = 2) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def fixed_loss(policy: DiffusionPolicy, batch: WindowBatch) -> dict[str, float]:
    """Losses of the policy as it is, always on the same draws."""
    state = imitation.init(policy, CONFIG)
    before = [p.detach().clone() for p in policy.parameters()]
    metrics = imitation.update(state, batch, generator(), CONFIG)
    with torch.no_grad():
        for p, value in zip(policy.parameters(), before, strict=True):
            p.copy_(value)
    return metrics


COMBINATIONS = [
    *((encoder, "residual_mlp", 4) for encoder in ENCODERS),
    ("points", "unet1d", 4),
    ("points", "skip_net", 1),
    ("points_bottleneck", "skip_net", 1),
]


@pytest.mark.parametrize(("encoder", "denoiser", "n_chunk"), COMBINATIONS)
def test_updates_lower_the_loss_of_every_kind(encoder, denoiser, n_chunk):
    policy = make(encoder, denoiser, n_chunk)
    batch = windows(policy)
    before = fixed_loss(policy, batch)
    state = imitation.init(policy, CONFIG)
    draws = torch.Generator().manual_seed(3)
    for _ in range(12 if encoder == "resnet18" else CONFIG.steps):
        imitation.update(state, batch, draws, CONFIG)
    after = fixed_loss(policy, batch)
    assert after["loss_diffusion"] < 0.8 * before["loss_diffusion"]
    assert after["loss"] < before["loss"]


@pytest.mark.parametrize(("encoder", "denoiser", "n_chunk"), COMBINATIONS)
def test_the_gradient_reaches_every_parameter_that_imitation_trains(encoder, denoiser, n_chunk):
    policy = make(encoder, denoiser, n_chunk)
    imitation.update(imitation.init(policy, CONFIG), windows(policy), generator(), CONFIG)
    for part in (policy.encoder, policy.denoiser):
        for name, parameter in part.named_parameters():
            assert parameter.grad is not None, name
            assert bool(parameter.grad.any()), name


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_same_draws_give_the_same_weights(encoder):
    results = []
    for _ in range(2):
        policy = make(encoder)
        state = imitation.init(policy, CONFIG)
        draws = generator()
        for _ in range(2):
            imitation.update(state, windows(policy), draws, CONFIG)
        results.append(state.averaged.state_dict())
    for key, value in results[0].items():
        assert torch.equal(value, results[1][key]), key


@pytest.mark.parametrize("encoder", ENCODERS)
def test_only_terms_with_a_head_are_reported(encoder):
    config = ENCODERS[encoder][1]
    metrics = fixed_loss(make(encoder), windows(make(encoder)))
    assert (metrics["loss_chamfer"] > 0) == (config.kind == "points")
    assert (metrics["loss_proprio"] > 0) == config.bottleneck
    assert (metrics["loss_bottleneck"] > 0) == config.bottleneck
    expected = (
        metrics["loss_diffusion"]
        + CONFIG.chamfer_weight * metrics["loss_chamfer"]
        + CONFIG.proprio_weight * metrics["loss_proprio"]
        + CONFIG.bottleneck_weight * metrics["loss_bottleneck"]
    )
    assert metrics["loss"] == pytest.approx(expected, rel=1e-5)


def test_the_weight_of_the_bottleneck_rises_linearly_and_stays():
    config = ImitationConfig(steps=100, bottleneck_weight=1e-3, bottleneck_ramp=0.5)
    shares = [
        imitation.auxiliary_weights(config, k).bottleneck / 1e-3 for k in (0, 24, 49, 50, 99)
    ]
    assert shares == pytest.approx([0.02, 0.5, 1.0, 1.0, 1.0])
    constant = ImitationConfig(steps=100, bottleneck_weight=1e-3)
    assert imitation.auxiliary_weights(constant, 0).bottleneck == 1e-3


def test_auxiliary_loss_is_its_definition_on_the_latents_that_were_drawn():
    policy = make("points_bottleneck")
    batch = windows(policy)
    encoding = policy.encode_window(batch.visual, batch.proprio, generator())
    found = auxiliary_loss(
        policy, encoding, batch.visual, batch.proprio, AuxiliaryWeights(2.0, 3.0, 5.0), 12,
        generator(),
    )  # fmt: skip
    frames, features = batch.visual.flatten(0, 1), encoding.features
    centre = (frames.amin(1) + frames.amax(1)) / 2
    seen = (frames - centre.unsqueeze(1)) / policy.config.encoder.centre_scale
    decoded = policy.encoder.decoder(features.visual).view(len(frames), -1, 3)
    chamfer = chamfer_distance(
        decoded, draw_points(seen, torch.arange(len(seen)), 12, generator())
    )
    low, high = batch.proprio.flatten(0, 1).amin(0), batch.proprio.flatten(0, 1).amax(0)
    target = 2 * (batch.proprio.flatten(0, 1) - low) / (high - low) - 1
    error = (policy.encoder.bottleneck.proprio_decoder(features.proprio) - target).pow(2).mean()
    mean, variance = features.posterior.mean, features.posterior.log_variance.exp()
    posterior, prior = (
        torch.distributions.Normal(mean, variance.sqrt()),
        torch.distributions.Normal(0.0, 1.0),
    )
    divergence = torch.distributions.kl_divergence(posterior, prior).sum(1).mean()
    torch.testing.assert_close(found.chamfer, chamfer)
    torch.testing.assert_close(found.proprio, error)
    torch.testing.assert_close(found.bottleneck, divergence)
    torch.testing.assert_close(found.total, 2 * chamfer + 3 * error + 5 * divergence)


def test_points_to_compare_with_are_drawn_from_the_whole_cloud_whatever_its_order():
    clouds = torch.arange(600.0).view(2, 100, 3)
    draws = [draw_points(clouds, torch.arange(2), 20, generator(seed)) for seed in range(50)]
    for drawn in draws:
        assert drawn.shape == (2, 20, 3)
        assert all(len(torch.unique(cloud, dim=0)) == 20 for cloud in drawn)  # no point twice
        rows = drawn[..., 0] / 3 - torch.tensor([[0.0], [100.0]])
        assert ((rows >= 0) & (rows < 100)).all()  # of its own cloud
    mean = torch.stack([drawn[0, :, 0] / 3 for drawn in draws]).mean()
    assert mean == pytest.approx(49.5, abs=3)  # 1000 draws: a standard error of .9
    assert draw_points(clouds, torch.arange(2), 500, generator()).shape == clouds.shape


def test_a_tenth_of_the_weights_is_a_tenth_of_the_loss():
    policy = make("points_bottleneck")
    batch = windows(policy)
    weights = AuxiliaryWeights(0.2, 0.3, 0.5)
    encoding = policy.encode_window(batch.visual, batch.proprio)
    full, tenth = (
        auxiliary_loss(policy, encoding, batch.visual, batch.proprio, each, 12, generator()).total
        for each in (weights, weights.scaled(0.1))
    )
    torch.testing.assert_close(tenth, full / 10)
