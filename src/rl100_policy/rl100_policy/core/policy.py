# SPDX-License-Identifier: Apache-2.0
"""The diffusion policy: the one path from an observation window to an action chunk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from rl100_policy.core.denoiser import build_denoiser
from rl100_policy.core.encoder import Encoder, Features
from rl100_policy.core.errors import ObservationError
from rl100_policy.core.image_encoder import ImageEncoder
from rl100_policy.core.noise import normal, normal_by_row
from rl100_policy.core.normalizer import PolicyNormalizer
from rl100_policy.core.point_encoder import PointEncoder
from rl100_policy.core.policy_config import (
    EncoderConfig,
    ImageEncoderConfig,
    PointEncoderConfig,
    PolicyConfig,
    StateEncoderConfig,
)
from rl100_policy.core.sampler import cosine_alpha_bars, make_schedule, sample_chain
from rl100_policy.core.state_encoder import StateEncoder

Sampler = Literal["ddim", "one_step"]
_SEEN = {"points": "cloud", "state": "a cloud of no points", "image": "image"}


@dataclass(frozen=True)
class Decision:
    """Everything about one batch of decisions that acting and learning need.

    Attributes:
        actions: [B, n_c, d_a], SI units of the action space.
        actions_normalised: [B, n_c, d_a], clamped to [-1, 1]; ``actions`` before un-normalising.
        latents: [B, K + 1, n_c, d_a], x_T first, unclamped, normalised units; K = 1 for one_step.
        log_probs: [B, K] nat; [B, 0] if deterministic or one_step.
        timesteps: Noise index at which each transition started, length K.
        sigmas: Standard deviation of each transition, length K; empty for one_step.
    """

    actions: Tensor
    actions_normalised: Tensor
    latents: Tensor
    log_probs: Tensor
    timesteps: tuple[int, ...]
    sigmas: tuple[float, ...]


@dataclass(frozen=True)
class Networks:
    """How a policy computes: by its own layers, or by something that gives the same faster.

    Attributes:
        denoise: As :meth:`DiffusionPolicy.epsilon`.
        act_at_once: As :meth:`DiffusionPolicy.act_at_once`.
    """

    denoise: Callable[[Tensor, Tensor, Tensor], Tensor]
    act_at_once: Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


@dataclass(frozen=True)
class Encoding:
    """Observation windows after the encoder, with what the auxiliary losses need.

    Attributes:
        condition: [B, d_c].
        features: Of every frame, C = B * n_obs.
    """

    condition: Tensor
    features: Features


def build_encoder(config: EncoderConfig, proprio_dim: int, *, pretrained: bool = True) -> Encoder:
    """The encoder a configuration describes.

    Args:
        config: Its kind and sizes.
        proprio_dim: Length of the proprioception vector.
        pretrained: Read the weights that the configuration names; else all are fresh.

    Raises:
        ConfigError: If an image encoder lacks torchvision or cannot use its pretrained weights.
    """
    match config:
        case PointEncoderConfig():
            return PointEncoder(config, proprio_dim)
        case StateEncoderConfig():
            return StateEncoder(config, proprio_dim)
        case ImageEncoderConfig():
            return ImageEncoder(config, proprio_dim, pretrained=pretrained)


class DiffusionPolicy(nn.Module):
    """Encoder, K-step diffusion denoiser, one-step student and normaliser.

    What is seen (``visual``) is [B, n_obs, N, 3] float32 for clouds (base frame, m; any N,
    repeated points do not matter), [B, n_obs, H, W, 3] uint8 for images, and [B, n_obs, 0, 3]
    float32 where there is proprioception alone.

    Nothing in it is random except the noise drawn in :meth:`decide`, and train and eval mode
    compute the same.
    """

    alpha_bars: Tensor

    def __init__(self, config: PolicyConfig, *, pretrained: bool = True) -> None:
        """Build the networks; the normaliser is the identity until fitted.

        Args:
            config: Everything about them.
            pretrained: Read the weights that an image encoder's configuration names; False if
                other weights follow at once.

        Raises:
            ConfigError: If the encoder cannot be built.
        """
        super().__init__()
        self.config = config
        proprio_dim = config.observation.proprio_dim
        self.normalizer = PolicyNormalizer(config.action.dim, proprio_dim)
        self.encoder = build_encoder(config.encoder, proprio_dim, pretrained=pretrained)
        self.condition_dim = config.observation.n_obs * self.encoder.frame_dim
        n_train = config.diffusion.n_train
        self.denoiser = build_denoiser(config.denoiser, config.action, self.condition_dim, n_train)
        self.student = build_denoiser(config.student, config.action, self.condition_dim, n_train)
        self.schedule = make_schedule(config.diffusion)
        self.register_buffer("alpha_bars", cosine_alpha_bars(n_train).float(), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.alpha_bars.device

    def encode(self, visual: Tensor, proprio: Tensor) -> Tensor:
        """Condition vectors of observation windows; the means of a bottleneck.

        Args:
            visual: What is seen, see the class.
            proprio: [B, n_obs, d_q] float32, SI units; beside a cloud the first three numbers are
                the tool position, base frame [m].

        Returns:
            [B, d_c].
        """
        return self.encode_window(visual, proprio).condition

    def encode_frames(self, visual: Tensor, proprio: Tensor) -> Tensor:
        """What :meth:`encode` makes of single frames, [C, ...] and [C, d_q] to [C, frame_dim]."""
        features: Features = self.encoder(visual, proprio, self.normalizer)
        return features.frame

    def encode_window(
        self, visual: Tensor, proprio: Tensor, generator: torch.Generator | None = None
    ) -> Encoding:
        """As :meth:`encode`, keeping what the auxiliary losses need.

        With a generator the latents of a bottleneck are drawn from it; an encoder without one
        draws nothing.
        """
        features: Features = self.encoder(
            visual.flatten(0, 1), proprio.flatten(0, 1), self.normalizer, generator
        )
        return Encoding(features.frame.reshape(len(visual), -1), features)

    def epsilon(self, x: Tensor, timestep: Tensor, condition: Tensor) -> Tensor:
        """Noise eps_hat predicted in ``x`` [B, n_c, d_a] at ``timestep`` [B], for the sampler."""
        output: Tensor = self.denoiser(x, timestep, condition)
        abar = self.alpha_bars[timestep].view(-1, 1, 1)
        match self.config.diffusion.prediction:
            case "epsilon":
                return output
            case "velocity":
                return torch.sqrt(1 - abar) * x + torch.sqrt(abar) * output
            case "sample":
                return (x - torch.sqrt(abar) * output) / torch.sqrt(1 - abar)

    def one_step(self, x_start: Tensor, condition: Tensor) -> Tensor:
        """The student's chunk from pure noise [B, n_c, d_a], normalised units, unclamped."""
        last = torch.full(
            (len(x_start),), self.config.diffusion.n_train - 1, device=x_start.device
        )
        chunk: Tensor = self.student(x_start, last, condition)
        return chunk

    def act_at_once(self, x_start: Tensor, condition: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the student does from pure noise: latents, clamped and physical actions.

        As in :class:`Decision`.
        """
        latents = torch.stack((x_start, self.one_step(x_start, condition)), dim=1)
        return latents, *self._executable(latents)

    def _executable(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Clamped and physical actions of the last latents, [B, n_c, d_a] each."""
        clamped = latents[:, -1].clamp(-1.0, 1.0)
        return clamped, self.normalizer.action.inverse(clamped)

    @torch.no_grad()
    def decide(
        self,
        visual: Tensor,
        proprio: Tensor,
        *,
        sampler: Sampler,
        noise_seed: int | Sequence[int] | torch.Generator,
        deterministic: bool = True,
    ) -> Decision:
        """Choose a chunk of actions for each observation window.

        Args:
            visual: What is seen, see the class.
            proprio: [B, n_obs, d_q] float32, SI units.
            sampler: "ddim" runs K transitions, "one_step" the student; at equal seed both start
                from the same x_T.
            noise_seed: Seed of, or the generator for x_T (drawn first) and then the transition
                noise; or a seed per row for x_T, where there is no transition noise.
            deterministic: Take the mean of every transition. one_step has no transition noise
                either way.

        Returns:
            The decision; everything a decision record holds.

        Raises:
            ObservationError: If a shape or type disagrees with the configuration or a value is not
                finite.
        """
        self._check(visual, proprio)
        return self.decide_encoded(
            self.encode(visual, proprio),
            sampler=sampler,
            noise_seed=noise_seed,
            deterministic=deterministic,
        )

    @torch.no_grad()
    def decide_encoded(
        self,
        condition: Tensor,
        *,
        sampler: Sampler,
        noise_seed: int | Sequence[int] | torch.Generator,
        deterministic: bool = True,
        networks: Networks | None = None,
    ) -> Decision:
        """As :meth:`decide`, from condition vectors [B, d_c]; None: by this policy's layers."""
        networks = networks or Networks(self.epsilon, self.act_at_once)
        size = self.config.action
        shape = (len(condition), size.n_chunk, size.dim)
        generator = None
        if isinstance(noise_seed, Sequence):
            if not deterministic:
                raise ValueError("a seed per row is for x_T alone; transitions need a generator")
            x_start = normal_by_row(shape, noise_seed, self.device)
        else:
            if isinstance(noise_seed, int):
                noise_seed = torch.Generator().manual_seed(noise_seed)
            generator = noise_seed
            x_start = normal(shape, generator, self.device)
        timesteps: tuple[int, ...]
        sigmas: tuple[float, ...]
        if sampler == "one_step":
            latents, clamped, actions = networks.act_at_once(x_start, condition)
            log_probs = latents.new_empty((len(latents), 0))
            timesteps, sigmas = (self.config.diffusion.n_train - 1,), ()
        else:

            def denoise(x: Tensor, timestep: Tensor) -> Tensor:
                return networks.denoise(x, timestep, condition)

            chain = sample_chain(
                denoise, self.schedule, x_start, generator=generator, deterministic=deterministic
            )
            latents, log_probs = chain.latents, chain.log_probs
            clamped, actions = self._executable(latents)
            timesteps, sigmas = self.schedule.timesteps, self.schedule.sigmas
        return Decision(actions, clamped, latents, log_probs, timesteps, sigmas)

    def _check(self, visual: Tensor, proprio: Tensor) -> None:
        size = self.config.observation
        counts = tuple(visual.shape[:2])
        if counts != tuple(proprio.shape[:2]) or counts[1:] != (size.n_obs,):
            raise ObservationError(
                f"expected windows of {size.n_obs} frames, found {_SEEN[size.sight]} "
                f"{tuple(visual.shape)} and proprioception {tuple(proprio.shape)}"
            )
        self.check_frames(visual.flatten(0, 1), proprio.flatten(0, 1))

    def check_frames(self, visual: Tensor, proprio: Tensor) -> None:
        """Refuse frames, [C, ...] and [C, d_q], that are not what this policy sees.

        Raises:
            ObservationError: Names what was expected and what came.
        """
        size = self.config.observation
        expected: tuple[int | str, ...] = size.visual_shape
        found = tuple(visual.shape[1:])
        if size.sight == "points" and len(found) == 2:
            expected = (found[0] or "N", 3)  # any number of points but none
        if found != expected:
            shape = ", ".join(map(str, expected))
            raise ObservationError(
                f"{_SEEN[size.sight]} should be [C, {shape}], found {tuple(visual.shape)}"
            )
        if (visual.dtype == torch.uint8) != (size.sight == "image"):
            wanted = "uint8" if size.sight == "image" else "float32"
            raise ObservationError(
                f"{_SEEN[size.sight]} should be of type {wanted}, found {visual.dtype}"
            )
        if proprio.shape != (len(visual), size.proprio_dim):
            raise ObservationError(
                f"proprioception should be [{len(visual)}, {size.proprio_dim}], found "
                f"{tuple(proprio.shape)}"
            )
        # A non-finite number anywhere makes the sum non-finite; cheaper than an element-wise test.
        if not torch.isfinite(visual.sum() + proprio.sum()).item():
            raise ObservationError(
                "observation holds non-finite values; expected SI units, drop this frame"
            )
