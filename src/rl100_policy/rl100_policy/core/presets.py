# SPDX-License-Identifier: Apache-2.0
"""Named sizes of a policy, and what a person may choose of them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from rl100_policy.core.config import FrozenModel, PositiveFloat, validation_problems
from rl100_policy.core.errors import ConfigError
from rl100_policy.core.policy_config import (
    ActionSize,
    Count,
    DiffusionConfig,
    EncoderConfig,
    ImageEncoderConfig,
    ObservationSize,
    PointEncoderConfig,
    PolicyConfig,
    ResNet18Config,
    Sight,
    SkipNetConfig,
    StateEncoderConfig,
    UNet1dConfig,
)


def small(observation: ObservationSize, action: ActionSize) -> PolicyConfig:
    """Preset for two CPU cores: 32-64-64 point network, residual MLP, K = 5.

    An image goes through a small transformer; proprioception alone is taken as it is.
    """
    encoders: dict[Sight, EncoderConfig] = {
        "points": PointEncoderConfig(),
        "state": StateEncoderConfig(),
        "image": ImageEncoderConfig(),
    }
    return PolicyConfig(
        observation=observation, action=action, encoder=encoders[observation.sight]
    )


def paper(observation: ObservationSize, action: ActionSize) -> PolicyConfig:
    """Preset with the published sizes for chunks: U-Net, K = 10, sigma up to 0.1.

    Source: the published code of RL-100 (chunk mode). Differs: the chunk length is the caller's
    (the published one is 16).
    """
    return PolicyConfig(
        observation=observation,
        action=action,
        encoder=_paper_encoder(observation),
        denoiser=UNet1dConfig(),
        student=UNet1dConfig(),
        diffusion=_paper_diffusion(sigma_max=0.1),
    )


def paper_single(observation: ObservationSize, action: ActionSize) -> PolicyConfig:
    """Preset with the published sizes for single actions: Skip-Net, K = 10, sigma up to 0.8.

    Source: the published code of RL-100 (single-step mode). Differs: no dropout.

    Raises:
        ConfigError: If ``action`` asks for a chunk.
    """
    if action.n_chunk != 1:
        raise ConfigError(
            "the preset 'paper_single' decides one action at a time: n_chunk should be 1, got "
            f"{action.n_chunk}; set it, or take 'paper' for chunks"
        )
    return PolicyConfig(
        observation=observation,
        action=action,
        encoder=_paper_encoder(observation),
        denoiser=SkipNetConfig(),
        student=SkipNetConfig(),
        diffusion=_paper_diffusion(sigma_max=0.8),
    )


def _paper_encoder(observation: ObservationSize) -> EncoderConfig:
    match observation.sight:
        case "points":
            return PointEncoderConfig(
                widths=(64, 128, 256),
                features=64,
                frames=("base",),
                layer_norm=True,
                append_centre=False,
                proprio_widths=(64, 64),
                reconstruction_points=observation.n_points,
                reconstruction_widths=(512, 1024),
                bottleneck=True,
            )
        case "state":
            return StateEncoderConfig(proprio_widths=(64, 64), bottleneck=True)
        case "image":
            return ImageEncoderConfig(
                backbone=ResNet18Config(), features=64, proprio_widths=(64, 64), bottleneck=True
            )


def _paper_diffusion(sigma_max: float) -> DiffusionConfig:
    return DiffusionConfig(n_steps=10, sigma_min=0.01, sigma_max=sigma_max, prediction="epsilon")


_PRESETS = {"small": small, "paper": paper, "paper_single": paper_single}


class DiffusionChoice(FrozenModel):
    """Changes to a preset's diffusion; null leaves what the preset says."""

    n_steps: Count | None = None
    eta: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    sigma_min: PositiveFloat | None = None
    sigma_max: PositiveFloat | None = None
    prediction: Literal["velocity", "epsilon", "sample"] | None = None


class NetworkChoice(FrozenModel):
    """Changes to a preset's networks; null leaves what the preset says."""

    denoiser: Literal["residual_mlp", "unet1d", "skip_net"] | None = None
    """Kind of the denoiser and of the student, with the sizes that this kind has by default."""
    width: Count | None = None
    """Of a residual MLP."""
    bottleneck: bool | None = None
    """Of the encoder."""
    pretrained: str | None = None
    """File with weights of an image backbone."""
    encoder: dict[str, Any] = Field(default_factory=dict)
    """Other keys of the encoder, for example {features: 64, widths: [64, 128, 256]}, or of an
    image's {backbone: {kind: resnet18}}."""
    sizes: dict[str, Any] = Field(default_factory=dict)
    """Other keys of denoiser and student, for example {blocks: 4}."""


def choose(
    config: PolicyConfig, diffusion: DiffusionChoice, network: NetworkChoice
) -> PolicyConfig:
    """A configuration with changes applied.

    Raises:
        ConfigError: If the changes do not fit it.
    """
    tree = config.model_dump(mode="json")
    tree["diffusion"] |= diffusion.model_dump(exclude_none=True)
    for name in ("denoiser", "student"):
        if network.denoiser is not None and network.denoiser != tree[name]["kind"]:
            tree[name] = {"kind": network.denoiser}
        if network.width is not None:
            tree[name]["width"] = network.width
        tree[name] |= network.sizes
    encoder = network.model_dump(include={"bottleneck", "pretrained"}, exclude_none=True)
    tree["encoder"] |= encoder | network.encoder
    try:
        return PolicyConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"invalid policy: {validation_problems(error)}") from error


def preset(name: str, observation: ObservationSize, action: ActionSize) -> PolicyConfig:
    """The preset called ``small``, ``paper`` or ``paper_single``.

    Raises:
        ConfigError: If there is no such preset, or it is not made for such actions.
    """
    if name not in _PRESETS:
        raise ConfigError(f"no policy preset {name!r}; choose {', '.join(map(repr, _PRESETS))}")
    try:
        return _PRESETS[name](observation, action)
    except ValidationError as error:
        raise ConfigError(
            f"the preset {name!r} does not fit, whatever is changed in it: "
            f"{validation_problems(error)}; choose another preset or n_chunk"
        ) from error
