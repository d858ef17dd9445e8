# SPDX-License-Identifier: Apache-2.0
"""Sizes and constants of a diffusion policy: what rebuilds its networks around saved weights.

Two presets: ``small`` learns in minutes on two CPU cores, ``paper`` has the published sizes and
    wants a GPU.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rl100_policy.core.config import FrozenModel, PositiveFloat
from rl100_policy.core.errors import ConfigError

Count = Annotated[int, Field(ge=1)]
PointFrame = Literal["centre", "tool", "base"]


class ObservationSize(FrozenModel):
    """Shape of what the policy is given."""

    n_obs: Count = 2
    """Frames in the observation window, oldest first."""
    n_points: Count = 128
    """Points per cloud when deciding; training may use fewer of them."""
    proprio_dim: Annotated[int, Field(ge=3)] = 3
    """Length of the proprioception vector; its first three numbers are the tool position."""


class ActionSize(FrozenModel):
    """Shape of what the policy returns."""

    n_chunk: Count = 8
    """Actions per decision."""
    dim: Count = 2
    """Components per action."""


class PointEncoderConfig(FrozenModel):
    """Shared point network, max pool, linear head (DP3), and what each point is described by."""

    widths: Annotated[tuple[Count, ...], Field(min_length=1)] = (32, 64, 64)
    features: Count = 48
    """Length of the pooled description of one cloud."""
    frames: Annotated[tuple[PointFrame, ...], Field(min_length=1)] = ("centre", "tool", "base")
    """Coordinates given per point: relative to the middle of the cloud, to the tool, and in the
    base frame."""
    centre_scale: PositiveFloat = 0.06
    """Length that becomes 1 in centre-relative coordinates [m]; about the size of the object."""
    tool_scale: PositiveFloat = 0.12
    """Length that becomes 1 in tool-relative coordinates [m]; they saturate at +-3."""
    layer_norm: bool = False
    """LayerNorm after every point layer; slower, and not needed at the small widths."""
    append_centre: bool = True
    """Append the middle of the cloud to the pooled features."""
    proprio_widths: tuple[Count, ...] = ()
    """ReLU layers on proprioception; empty appends the normalised numbers as they are."""
    reconstruction_points: Annotated[int, Field(ge=0)] = 24
    """Points the reconstruction head decodes while training; 0 leaves the head out."""
    reconstruction_widths: tuple[Count, ...] = (128,)


class ResidualMlpConfig(FrozenModel):
    """Residual MLP on the flattened chunk."""

    kind: Literal["residual_mlp"] = "residual_mlp"
    width: Count = 192
    blocks: Count = 3
    time_features: Annotated[int, Field(ge=2, multiple_of=2)] = 32


class UNet1dConfig(FrozenModel):
    """Conditional 1-D U-Net along the chunk; its length must halve len(channels) - 1 times."""

    kind: Literal["unet1d"] = "unet1d"
    channels: Annotated[tuple[Count, ...], Field(min_length=2)] = (256, 512, 1024)
    kernel: Annotated[int, Field(ge=1)] = 5
    groups: Count = 8
    time_features: Annotated[int, Field(ge=2, multiple_of=2)] = 256

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.kernel % 2 == 0:
            raise ValueError(
                f"kernel must be odd to keep the length of the chunk, got {self.kernel}"
            )
        if any(c % self.groups for c in self.channels):
            raise ValueError(
                f"each of channels {self.channels} must be a multiple of groups {self.groups}"
            )
        return self


DenoiserConfig = Annotated[ResidualMlpConfig | UNet1dConfig, Field(discriminator="kind")]


class DiffusionConfig(FrozenModel):
    """Noise schedule and sampler; the same for training, evaluation and the robot."""

    n_train: Annotated[int, Field(ge=2)] = 100
    """Noise levels T of the forward process."""
    n_steps: Count = 5
    """Denoising transitions K of one decision."""
    schedule: Literal["cosine"] = "cosine"
    spacing: Literal["leading"] = "leading"
    eta: Annotated[float, Field(ge=0.0, le=1.0)] = 1.0
    """1: as much noise per transition as ancestral sampling; 0: only sigma_min."""
    sigma_min: PositiveFloat = 0.1
    sigma_max: PositiveFloat = 0.8
    """Limits of a transition's standard deviation, normalised action units."""
    clamp: PositiveFloat = 1.0
    """Predicted clean actions are clamped to +- this, normalised action units."""
    preconditioning: Literal["velocity", "none"] = "velocity"
    """velocity: the network regresses v = sqrt(abar) eps - sqrt(1 - abar) a, from which epsilon
    follows exactly;
    none: the network's output is epsilon. The former learns several times faster with small
        networks."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.sigma_min > self.sigma_max:
            raise ValueError(
                f"sigma_min {self.sigma_min} must not exceed sigma_max {self.sigma_max}"
            )
        if self.n_steps >= self.n_train:
            raise ValueError(f"n_steps {self.n_steps} must be below n_train {self.n_train}")
        return self


class PolicyConfig(FrozenModel):
    """A diffusion policy and its one-step student."""

    family: Literal["ddim"] = "ddim"
    """Generative family; versions of different families are never mixed."""
    observation: ObservationSize = ObservationSize()
    action: ActionSize = ActionSize()
    encoder: PointEncoderConfig = PointEncoderConfig()
    denoiser: DenoiserConfig = ResidualMlpConfig()
    student: DenoiserConfig = ResidualMlpConfig()
    diffusion: DiffusionConfig = DiffusionConfig()

    @model_validator(mode="after")
    def _chunk_fits_unet(self) -> Self:
        for name in ("denoiser", "student"):
            net = getattr(self, name)
            multiple = 2 ** (len(net.channels) - 1) if net.kind == "unet1d" else 1
            if self.action.n_chunk % multiple:
                raise ValueError(
                    f"{name}: a U-Net of {len(net.channels)} levels keeps halving the chunk, so "
                    f"n_chunk must be a multiple of {multiple}, got {self.action.n_chunk}"
                )
        return self


def small(observation: ObservationSize, action: ActionSize) -> PolicyConfig:
    """Preset for two CPU cores: 32-64-64 point network, residual MLP, K = 5."""
    return PolicyConfig(observation=observation, action=action)


def paper(observation: ObservationSize, action: ActionSize) -> PolicyConfig:
    """Preset with the published sizes: 64-128-256 points with LayerNorm, U-Net, K = 10.

    Source: the published code of RL-100 (chunk mode). Differs: no information bottleneck, and the
    chunk length is the caller's (the published one is 16).
    """
    encoder = PointEncoderConfig(
        widths=(64, 128, 256),
        features=64,
        frames=("base",),
        layer_norm=True,
        append_centre=False,
        proprio_widths=(64, 64),
        reconstruction_points=observation.n_points,
        reconstruction_widths=(512, 1024),
    )
    diffusion = DiffusionConfig(n_steps=10, sigma_min=0.01, sigma_max=0.1, preconditioning="none")
    return PolicyConfig(
        observation=observation,
        action=action,
        encoder=encoder,
        denoiser=UNet1dConfig(),
        student=UNet1dConfig(),
        diffusion=diffusion,
    )


def preset(name: str, observation: ObservationSize, action: ActionSize) -> PolicyConfig:
    """The preset called ``small`` or ``paper``.

    Raises:
        ConfigError: If there is no such preset.
    """
    match name:
        case "small":
            return small(observation, action)
        case "paper":
            return paper(observation, action)
    raise ConfigError(f"no policy preset {name!r}; choose 'small' or 'paper'")
