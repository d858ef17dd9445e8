# SPDX-License-Identifier: Apache-2.0
"""Policy configurations: presets, refusals with reasons, and a lossless JSON form."""

import pytest
from pydantic import ValidationError

from rl100_policy.core.errors import ConfigError
from rl100_policy.core.policy_config import (
    ActionSize,
    DiffusionConfig,
    ImageEncoderConfig,
    ObservationSize,
    PointEncoderConfig,
    PolicyConfig,
    StateEncoderConfig,
    UNet1dConfig,
    VitConfig,
)
from rl100_policy.core.presets import paper, paper_single, preset, small

POINTS = ObservationSize(n_obs=3, n_points=512, proprio_dim=10)
STATE = ObservationSize(n_points=0, proprio_dim=2)
IMAGE = ObservationSize(n_points=0, height=96, width=128, proprio_dim=7)


@pytest.mark.parametrize("size", [POINTS, STATE, IMAGE], ids=lambda size: size.sight)
@pytest.mark.parametrize(("make", "n_chunk"), [(small, 16), (paper, 16), (paper_single, 1)])
def test_config_survives_json_and_has_the_encoder_of_what_is_seen(make, n_chunk, size):
    config = make(size, ActionSize(n_chunk=n_chunk, dim=7))
    assert PolicyConfig.model_validate_json(config.model_dump_json()) == config
    assert config.encoder.kind == size.sight
    assert config.encoder.bottleneck == (make is not small)


def test_an_encoder_without_a_kind_is_one_of_points():
    """As in the versions written when there was no other."""
    config = PolicyConfig.model_validate({"encoder": {"widths": [16, 24], "features": 8}})
    assert config.encoder == PointEncoderConfig(widths=(16, 24), features=8)


def test_shape_of_what_is_seen():
    assert POINTS.visual_shape == (512, 3)
    assert STATE.visual_shape == (0, 3)
    assert IMAGE.visual_shape == (96, 128, 3)


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ({"n_points": 0, "height": 96}, "both be positive, or both 0 for none, got 96 and 0"),
        ({"height": 96, "width": 96}, "n_points should be 0 beside an image of 96 x 96, got 128"),
        ({"n_points": -1}, "greater than or equal to 0"),
        ({"proprio_dim": 0}, "greater than or equal to 1"),
    ],
)
def test_impossible_observations_are_refused_with_what_came(sizes, says):
    with pytest.raises(ValidationError, match=says):
        ObservationSize(**sizes)


@pytest.mark.parametrize(
    ("size", "encoder", "says"),
    [
        (STATE, PointEncoderConfig(), "'points' needs n_points above 0 .* has n_points 0"),
        (POINTS, StateEncoderConfig(), "'state' needs n_points 0 .* has n_points 512"),
        (POINTS, ImageEncoderConfig(), "'image' needs height and width .* height 0 and width 0"),
        (
            ObservationSize(proprio_dim=2),
            PointEncoderConfig(),
            "proprio_dim should be at least 3, got 2",
        ),
    ],
)
def test_an_encoder_that_cannot_read_the_observation_is_refused(size, encoder, says):
    with pytest.raises(ValidationError, match=says):
        PolicyConfig(observation=size, encoder=encoder)


def test_only_points_relative_to_the_tool_need_its_position():
    base = PointEncoderConfig(frames=("base",))
    PolicyConfig(observation=ObservationSize(proprio_dim=1), encoder=base)
    PolicyConfig(observation=STATE, encoder=StateEncoderConfig())


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ({"side": 100}, "side must be a multiple of patch 16, got 100"),
        ({"dim": 90}, "dim must be a multiple of heads 4, got 90"),
    ],
)
def test_a_transformer_that_does_not_divide_is_refused(sizes, says):
    with pytest.raises(ValidationError, match=says):
        VitConfig(**sizes)


def test_a_backbone_that_knows_nothing_is_not_frozen():
    with pytest.raises(ValidationError, match="freeze_backbone needs pretrained"):
        ImageEncoderConfig(freeze_backbone=True)


def test_paper_preset_has_the_published_sizes():
    config = paper(ObservationSize(n_points=1024), ActionSize(n_chunk=16, dim=7))
    assert config.encoder.widths == (64, 128, 256)
    assert config.denoiser.channels == (256, 512, 1024)
    assert (config.diffusion.n_steps, config.diffusion.sigma_min, config.diffusion.sigma_max) == (
        10,
        0.01,
        0.1,
    )


def test_paper_preset_for_single_actions_has_the_published_sizes():
    config = preset("paper_single", ObservationSize(n_points=1024), ActionSize(n_chunk=1, dim=7))
    assert (config.denoiser.kind, config.denoiser.hidden, config.denoiser.depth) == (
        "skip_net",
        256,
        3,
    )
    assert config.encoder == paper(ObservationSize(n_points=1024), ActionSize()).encoder
    assert (config.diffusion.n_steps, config.diffusion.sigma_min, config.diffusion.sigma_max) == (
        10,
        0.01,
        0.8,
    )


def test_the_preset_for_single_actions_refuses_chunks():
    with pytest.raises(ConfigError, match="n_chunk should be 1, got 8"):
        preset("paper_single", ObservationSize(), ActionSize(n_chunk=8))


def test_unknown_preset_names_the_choices():
    with pytest.raises(ConfigError, match="'small', 'paper', 'paper_single'"):
        preset("huge", ObservationSize(), ActionSize())


def test_unet_refuses_a_chunk_it_cannot_halve_and_says_the_multiple():
    with pytest.raises(ValidationError, match="multiple of 4, got 6"):
        PolicyConfig(action=ActionSize(n_chunk=6), denoiser=UNet1dConfig())


@pytest.mark.parametrize(
    "bad",
    [
        {"sigma_min": 0.9},
        {"n_steps": 100},
        {"n_steps": 1},
        {"n_steps": 2},
        {"n_steps": 60},
        {"sigma_min": 0.0},
        {"sigmamin": 0.1},
    ],
)
def test_impossible_diffusion_settings_are_refused(bad):
    with pytest.raises(ValidationError):
        DiffusionConfig(**bad)
