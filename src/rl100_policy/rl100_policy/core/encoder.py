# SPDX-License-Identifier: Apache-2.0
"""What every encoder does: one frame of observation to one vector, whatever is seen in it.

    frame = (latent of what is seen, latent of proprioception, what passes as it is)

Without a bottleneck a latent is the feature itself. With one it is Gaussian,

    z = mean(f) + exp(log_variance(f) / 2) eps,   eps ~ Normal(0, 1),

drawn when a generator is given and its mean otherwise: a decision's density must be that of its
denoising noise alone. Train and eval mode compute the same.

Source: RL-100, variational bottleneck and reconstruction of the encoder.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from rl100_policy.core.noise import normal
from rl100_policy.core.normalizer import PolicyNormalizer
from rl100_policy.core.policy_config import EncoderConfig
from rl100_policy.core.precision import network_precision


@dataclass(frozen=True)
class Posterior:
    """Diagonal Gaussians over latents: mean and log-variance (nat), both [C, F]."""

    mean: Tensor
    log_variance: Tensor


@dataclass(frozen=True)
class Features:
    """Frames after the encoder, with what the auxiliary losses need.

    Attributes:
        frame: What the denoiser is given, [C, frame_dim].
        visual: Latent of what is seen, [C, F]; F = 0 where nothing is.
        proprio: Latent of proprioception, [C, Q].
        posterior: Of both latents side by side, [C, F + Q]; None without a bottleneck.
    """

    frame: Tensor
    visual: Tensor
    proprio: Tensor
    posterior: Posterior | None


def sample_latent(posterior: Posterior, generator: torch.Generator) -> Tensor:
    """A draw of every latent, [C, F]; gradients flow to mean and log-variance."""
    mean, log_variance = posterior.mean, posterior.log_variance
    noise = normal(mean.shape, generator, mean.device)
    return mean + torch.exp(0.5 * log_variance) * noise


def relu_stack(sizes: tuple[int, ...], *, layer_norm: bool = False) -> nn.Sequential:
    """Linear, LayerNorm if asked for, ReLU, between each two sizes; nothing for one size."""
    layers: list[nn.Module] = []
    for d_in, d_out in pairwise(sizes):
        layers.append(nn.Linear(d_in, d_out))
        if layer_norm:
            layers.append(nn.LayerNorm(d_out))
        layers.append(nn.ReLU())
    return nn.Sequential(*layers)


def decoder_stack(sizes: tuple[int, ...]) -> nn.Sequential:
    """As :func:`relu_stack`, with a plain linear layer at the end."""
    out = nn.Linear(sizes[-2], sizes[-1])  # made first: that is the order the seed was used in
    return nn.Sequential(*relu_stack(sizes[:-1]), out)


class GaussianHead(nn.Module):
    """Mean and log-variance of a latent as long as its feature, each a linear layer."""

    def __init__(self, features: int) -> None:
        """Freshly initialised."""
        super().__init__()
        self.mean = nn.Linear(features, features)
        self.log_variance = nn.Linear(features, features)

    def forward(self, feature: Tensor) -> Posterior:
        """[C, F] to Gaussians over [C, F]."""
        return Posterior(self.mean(feature), self.log_variance(feature))


class Bottleneck(nn.Module):
    """Gaussian heads of both features, and the decoder of proprioception that comes with them."""

    def __init__(
        self, visual: int, proprio: int, proprio_dim: int, decoder_widths: tuple[int, ...]
    ) -> None:
        """``visual`` and ``proprio`` are the lengths of the features; visual may be 0."""
        super().__init__()
        self.visual = GaussianHead(visual) if visual else None
        self.proprio = GaussianHead(proprio)
        self.proprio_decoder = decoder_stack((proprio, *decoder_widths, proprio_dim))

    def forward(self, visual: Tensor, proprio: Tensor) -> Posterior:
        """Features [C, F] and [C, Q] to Gaussians over both side by side, [C, F + Q]."""
        parts: list[Posterior] = [] if self.visual is None else [self.visual(visual)]
        parts.append(self.proprio(proprio))
        return Posterior(
            torch.cat([part.mean for part in parts], dim=-1),
            torch.cat([part.log_variance for part in parts], dim=-1),
        )


def build_bottleneck(config: EncoderConfig, visual: int, proprio_dim: int) -> Bottleneck | None:
    """The bottleneck of features of ``visual`` numbers and of proprioception, if there is one."""
    if not config.bottleneck:
        return None
    felt = (proprio_dim, *config.proprio_widths)[-1]
    return Bottleneck(visual, felt, proprio_dim, config.proprio_reconstruction_widths)


class Encoder(nn.Module, ABC):
    """One frame of observation to one vector.

    A subclass says what it makes of what is seen; the rest is common.

    Attributes:
        frame_dim: Numbers per frame.
        proprio: Layers on normalised proprioception.
        bottleneck: None if the latents are the features themselves.
    """

    frame_dim: int
    proprio: nn.Sequential
    bottleneck: Bottleneck | None

    @abstractmethod
    def look(
        self, visual: Tensor, proprio: Tensor, normalizer: PolicyNormalizer
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Description of what is seen, [C, F], and what passes the bottleneck as it is, [C, d].

        Arguments as in :meth:`forward`.
        """

    @abstractmethod
    def visual_modules(self) -> Iterable[nn.Module]:
        """Modules behind :meth:`look` that learn."""

    def reconstruct_points(
        self,
        features: Features,  # noqa: ARG002
        visual: Tensor,  # noqa: ARG002
    ) -> tuple[Tensor, Tensor] | None:
        """Points decoded from the latent, [C, R, 3], and those seen, [C, N, 3], in one unit.

        None if this encoder decodes no points.
        """
        return None

    def reconstruct_proprio(self, features: Features) -> Tensor | None:
        """Normalised proprioception decoded from its latent, [C, d_q]; None without bottleneck."""
        if self.bottleneck is None:
            return None
        decoded: Tensor = self.bottleneck.proprio_decoder(features.proprio)
        return decoded

    @network_precision
    def forward(
        self,
        visual: Tensor,
        proprio: Tensor,
        normalizer: PolicyNormalizer,
        generator: torch.Generator | None = None,
    ) -> Features:
        """Encode frames.

        Args:
            visual: What is seen, [C, N, 3] float32 points in the base frame [m], or [C, H, W, 3]
                uint8 pixels, or [C, 0, 3].
            proprio: [C, d_q] float32, SI units.
            normalizer: Of the policy.
            generator: Draws the latents of a bottleneck; None takes their means.
        """
        seen, as_it_is = self.look(visual, proprio, normalizer)
        felt: Tensor = self.proprio(normalizer.proprio(proprio))
        posterior: Posterior | None = None
        if self.bottleneck is not None:
            gaussians: Posterior = self.bottleneck(seen, felt)
            posterior = gaussians
            latent = gaussians.mean if generator is None else sample_latent(gaussians, generator)
            seen, felt = torch.split(latent, [seen.shape[1], felt.shape[1]], dim=-1)
        frame = torch.cat([seen, felt, *as_it_is], dim=-1)
        return Features(frame, seen, felt, posterior)

    def feature_parameters(self) -> list[nn.Parameter]:
        """What decides the vectors that are acted on: no decoder, variance or frozen backbone."""
        modules = [*self.visual_modules(), self.proprio]
        if self.bottleneck is not None:
            heads = (self.bottleneck.visual, self.bottleneck.proprio)
            modules += [head.mean for head in heads if head is not None]
        return [parameter for module in modules for parameter in module.parameters()]
