# SPDX-License-Identifier: Apache-2.0
"""Policy configurations: presets, refusals with reasons, and a lossless JSON form."""

import pytest
from pydantic import ValidationError

from rl100_policy.core.errors import ConfigError
from rl100_policy.core.policy_config import (
    ActionSize,
    DiffusionConfig,
    ObservationSize,
    PolicyConfig,
    UNet1dConfig,
    paper,
    preset,
    small,
)


@pytest.mark.parametrize("make", [small, paper])
def test_config_survives_json(make):
    config = make(
        ObservationSize(n_obs=3, n_points=512, proprio_dim=10), ActionSize(n_chunk=16, dim=7)
    )
    assert PolicyConfig.model_validate_json(config.model_dump_json()) == config


def test_paper_preset_has_the_published_sizes():
    config = paper(ObservationSize(n_points=1024), ActionSize(n_chunk=16, dim=7))
    assert config.encoder.widths == (64, 128, 256)
    assert config.denoiser.channels == (256, 512, 1024)
    assert (config.diffusion.n_steps, config.diffusion.sigma_min, config.diffusion.sigma_max) == (
        10,
        0.01,
        0.1,
    )


def test_unknown_preset_names_the_choices():
    with pytest.raises(ConfigError, match="'small' or 'paper'"):
        preset("huge", ObservationSize(), ActionSize())


def test_unet_refuses_a_chunk_it_cannot_halve_and_says_the_multiple():
    with pytest.raises(ValidationError, match="multiple of 4, got 6"):
        PolicyConfig(action=ActionSize(n_chunk=6), denoiser=UNet1dConfig())


@pytest.mark.parametrize(
    "bad",
    [
        {"sigma_min": 0.9},
        {"n_steps": 100},
        {"sigma_min": 0.0},
        {"sigmamin": 0.1},
    ],
)
def test_impossible_diffusion_settings_are_refused(bad):
    with pytest.raises(ValidationError):
        DiffusionConfig(**bad)
