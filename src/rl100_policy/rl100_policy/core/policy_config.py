# SPDX-License-Identifier: Apache-2.0
"""Sizes and constants of a diffusion policy: what rebuilds its networks around saved weights.

Three presets: ``small`` learns in minutes on two CPU cores; ``paper`` has the published sizes for
chunks and ``paper_single`` those for single actions, and both want a GPU. Which encoder a preset
takes follows from what there is to see: points, colour images, or proprioception alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from rl100_policy.core.config import FrozenModel, PositiveFloat

Count = Annotated[int, Field(ge=1, le=65_536)]
Depth = Annotated[int, Field(ge=1, le=256)]
Widths = Annotated[tuple[Count, ...], Field(max_length=64)]
"""Bounds are far beyond use: a version from elsewhere must not ask for the whole memory."""
PointFrame = Literal["centre", "tool", "base"]
Sight = Literal["points", "state", "image"]
"""What a policy sees besides proprioception; "state" is nothing."""


class ObservationSize(FrozenModel):
    """Shape of what the policy is given."""

    n_obs: Count = 2
    """Frames in the observation window, oldest first."""
    n_points: Annotated[int, Field(ge=0)] = 128
    """Points per cloud when deciding; training may use fewer of them. 0: no cloud."""
    height: Annotated[int, Field(ge=0)] = 0
    width: Annotated[int, Field(ge=0)] = 0
    """Size of the colour image [pixel]; both 0: no image."""
    proprio_dim: Count = 3
    """Length of the proprioception vector; where there is a cloud, its first three numbers are the
    tool position."""

    @model_validator(mode="after")
    def _one_sight(self) -> Self:
        if (self.height > 0) != (self.width > 0):
            raise ValueError(
                "height and width of an image should both be positive, or both 0 for none, got "
                f"{self.height} and {self.width}"
            )
        if self.height and self.n_points:
            raise ValueError(
                f"n_points should be 0 beside an image of {self.height} x {self.width}, got "
                f"{self.n_points}; a policy sees either a cloud or an image"
            )
        return self

    @property
    def sight(self) -> Sight:
        """The kind of encoder that reads this."""
        if self.height:
            return "image"
        return "points" if self.n_points else "state"

    @property
    def visual_shape(self) -> tuple[int, int] | tuple[int, int, int]:
        """Shape of one frame besides proprioception.

        (N, 3) of a cloud, float32; (0, 3) where there is nothing to see; (H, W, 3) of an image,
        uint8.
        """
        return (self.height, self.width, 3) if self.height else (self.n_points, 3)

    def blank(self) -> NDArray[np.float32 | np.uint8]:
        """One frame of zeros besides proprioception, of that shape and type."""
        return np.zeros(self.visual_shape, np.uint8 if self.height else np.float32)


class ActionSize(FrozenModel):
    """Shape of what the policy returns."""

    n_chunk: Count = 8
    """Actions per decision."""
    dim: Count = 2
    """Components per action."""


class PointEncoderConfig(FrozenModel):
    """Shared point network, max pool, linear head (DP3), and what each point is described by."""

    kind: Literal["points"] = "points"
    widths: Annotated[Widths, Field(min_length=1)] = (32, 64, 64)
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
    proprio_widths: Widths = ()
    """ReLU layers on proprioception; empty appends the normalised numbers as they are."""
    reconstruction_points: Annotated[int, Field(ge=0)] = 24
    """Points the reconstruction head decodes while training; 0 leaves the head out."""
    reconstruction_widths: Widths = (128,)
    bottleneck: bool = False
    """Information bottleneck: the features become Gaussians, drawn from in imitation and their
    means everywhere else. Proprioception is then reconstructed too."""
    proprio_reconstruction_widths: Widths = (128,)
    """Of the decoder of proprioception that comes with the bottleneck."""


class StateEncoderConfig(FrozenModel):
    """Normalised proprioception alone; there is nothing to see."""

    kind: Literal["state"] = "state"
    proprio_widths: Widths = ()
    """ReLU layers on proprioception; empty passes the normalised numbers on as they are."""
    bottleneck: bool = False
    """As for points."""
    proprio_reconstruction_widths: Widths = (128,)
    """As for points."""


class ResNet18Config(FrozenModel):
    """ResNet-18, every BatchNorm a GroupNorm: nothing may depend on the rest of a batch."""

    kind: Literal["resnet18"] = "resnet18"
    side: Count = 224
    """Images are resized to a square of this side [pixel]."""
    group_channels: Literal[1, 2, 4, 8, 16, 32, 64] = 16
    """Channels per group of the normalisation."""


class VitConfig(FrozenModel):
    """Vision transformer, read at its class token."""

    kind: Literal["vit"] = "vit"
    side: Count = 96
    """Images are resized to a square of this side [pixel]; a multiple of patch."""
    patch: Count = 16
    """Side of a patch [pixel]."""
    dim: Count = 96
    """Length of a token; a multiple of heads. The layers between are four times as wide."""
    depth: Depth = 3
    heads: Count = 4

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.side % self.patch:
            raise ValueError(f"side must be a multiple of patch {self.patch}, got {self.side}")
        if self.dim % self.heads:
            raise ValueError(f"dim must be a multiple of heads {self.heads}, got {self.dim}")
        return self


BackboneConfig = Annotated[ResNet18Config | VitConfig, Field(discriminator="kind")]


class ImageEncoderConfig(FrozenModel):
    """A colour image through a backbone, a linear head with LayerNorm, beside proprioception."""

    kind: Literal["image"] = "image"
    backbone: BackboneConfig = VitConfig()
    features: Count = 48
    """Length of the description of one image."""
    pretrained: str | None = None
    """File on this machine with weights the backbone starts from, safetensors or a state dict of
    torch, named as torchvision names them; the classifier's and BatchNorm's running statistics are
    left out."""
    freeze_backbone: bool = False
    """Leave the backbone as it begins: only what follows it learns."""
    proprio_widths: Widths = ()
    """As for points."""
    bottleneck: bool = False
    """As for points."""
    proprio_reconstruction_widths: Widths = (128,)
    """As for points."""

    @model_validator(mode="after")
    def _frozen_knows_something(self) -> Self:
        if self.freeze_backbone and self.pretrained is None:
            raise ValueError(
                "freeze_backbone needs pretrained weights: a random backbone would never learn"
            )
        return self


EncoderConfig = Annotated[
    PointEncoderConfig | StateEncoderConfig | ImageEncoderConfig, Field(discriminator="kind")
]


class ResidualMlpConfig(FrozenModel):
    """Residual MLP on the flattened chunk."""

    kind: Literal["residual_mlp"] = "residual_mlp"
    width: Count = 192
    blocks: Depth = 3
    time_features: Annotated[int, Field(ge=2, multiple_of=2)] = 32


class UNet1dConfig(FrozenModel):
    """Conditional 1-D U-Net along the chunk; its length must halve len(channels) - 1 times."""

    kind: Literal["unet1d"] = "unet1d"
    channels: Annotated[Widths, Field(min_length=2)] = (256, 512, 1024)
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


class SkipNetConfig(FrozenModel):
    """Residual MLP of the published single-step policy, without its dropout."""

    kind: Literal["skip_net"] = "skip_net"
    hidden: Count = 256
    """Width between the blocks; inside it is four times as much."""
    depth: Depth = 3
    """Residual blocks."""
    time_features: Annotated[int, Field(ge=2, multiple_of=2)] = 16


DenoiserConfig = Annotated[
    ResidualMlpConfig | UNet1dConfig | SkipNetConfig, Field(discriminator="kind")
]


class DiffusionConfig(FrozenModel):
    """Noise schedule and sampler; the same for training, evaluation and the robot."""

    n_train: Annotated[int, Field(ge=2, le=10_000)] = 100
    """Noise levels T of the forward process."""
    n_steps: Annotated[int, Field(ge=1, le=1000)] = 5
    """Denoising transitions K of one decision."""
    schedule: Literal["cosine"] = "cosine"
    spacing: Literal["leading"] = "leading"
    eta: Annotated[float, Field(ge=0.0, le=1.0)] = 1.0
    """1: as much noise per transition as ancestral sampling; 0: only sigma_min."""
    sigma_min: PositiveFloat = 0.1
    sigma_max: Annotated[float, Field(gt=0.0, le=100.0)] = 0.8
    """Limits of a transition's standard deviation, normalised action units."""
    clamp: Annotated[float, Field(gt=0.0, le=1e6)] = 1.0
    """Predicted clean actions are clamped to +- this, normalised action units."""
    prediction: Literal["velocity", "epsilon", "sample"] = "velocity"
    """What the network's output is: v = sqrt(abar) eps - sqrt(1 - abar) a, the noise eps, or the
    clean chunk a. The sampler is given the epsilon that follows from it. The first learns several
    times faster with small networks."""

    @model_validator(mode="before")
    @classmethod
    def _as_it_was_called(cls, value: Any) -> Any:
        """Versions written when only epsilon could be predicted tell the preconditioning."""
        if isinstance(value, Mapping) and "preconditioning" in value:
            rest = {key: each for key, each in value.items() if key != "preconditioning"}
            was = value["preconditioning"]
            return {"prediction": "epsilon" if was == "none" else was, **rest}
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.sigma_min > self.sigma_max:
            raise ValueError(
                f"sigma_min {self.sigma_min} must not exceed sigma_max {self.sigma_max}"
            )
        if self.n_steps >= self.n_train:
            raise ValueError(f"n_steps {self.n_steps} must be below n_train {self.n_train}")
        first = self.n_train // self.n_steps * (self.n_steps - 1) + 1
        if first < _EARLIEST * self.n_train:
            raise ValueError(
                f"n_steps {self.n_steps} of n_train {self.n_train} begin at noise level {first}, "
                "where pure noise is no sample of what was trained; choose n_steps from 3 on that "
                "divides n_train, such as 5, 10 or 20 of 100"
            )
        return self


_EARLIEST = 0.65
"""Share of n_train below which a chain must not begin: with the cosine schedule more than a
quarter of the variance there is still the action's."""


class PolicyConfig(FrozenModel):
    """A diffusion policy and its one-step student."""

    family: Literal["ddim"] = "ddim"
    """Generative family; versions of different families are never mixed."""
    observation: ObservationSize = ObservationSize()
    action: ActionSize = ActionSize()
    encoder: EncoderConfig = PointEncoderConfig()
    denoiser: DenoiserConfig = ResidualMlpConfig()
    student: DenoiserConfig = ResidualMlpConfig()
    diffusion: DiffusionConfig = DiffusionConfig()

    @field_validator("encoder", mode="before")
    @classmethod
    def _points_unless_said(cls, value: Any) -> Any:
        """Versions written when there was one kind of encoder do not name it."""
        if isinstance(value, Mapping) and "kind" not in value:
            return {"kind": "points", **value}
        return value

    @model_validator(mode="after")
    def _encoder_fits_observation(self) -> Self:
        size, encoder = self.observation, self.encoder
        if encoder.kind != size.sight:
            needs = {
                "points": "n_points above 0 and no image",
                "state": "n_points 0 and no image",
                "image": "height and width above 0 and n_points 0",
            }
            raise ValueError(
                f"an encoder of kind {encoder.kind!r} needs {needs[encoder.kind]}; the "
                f"observation has n_points {size.n_points}, height {size.height} and width "
                f"{size.width}"
            )
        if encoder.kind == "points" and "tool" in encoder.frames and size.proprio_dim < 3:
            raise ValueError(
                "points relative to the tool need proprioception that begins with its position, "
                f"so proprio_dim should be at least 3, got {size.proprio_dim}; or leave 'tool' "
                "out of frames"
            )
        return self

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
