# SPDX-License-Identifier: Apache-2.0
"""The diffusion policy: the one path from an observation window to an action chunk."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from rl100_policy.core.denoiser import build_denoiser
from rl100_policy.core.errors import ObservationError
from rl100_policy.core.normalizer import PolicyNormalizer
from rl100_policy.core.point_encoder import PointEncoder, cloud_centre
from rl100_policy.core.policy_config import PolicyConfig
from rl100_policy.core.sampler import cosine_alpha_bars, make_schedule, sample_chain

Sampler = Literal["ddim", "one_step"]


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
class Encoding:
    """An observation window after the encoder, with what the reconstruction loss needs.

    Attributes:
        condition: [B, d_c].
        pooled: Description of each cloud, [B * n_obs, features].
        centre: Middle of each cloud, [B * n_obs, 3], base frame [m].
    """

    condition: Tensor
    pooled: Tensor
    centre: Tensor


class DiffusionPolicy(nn.Module):
    """Point-cloud encoder, K-step diffusion denoiser, one-step student and normaliser.

    Nothing in it is random except the noise drawn in :meth:`decide`, and train and eval mode
    compute the same.
    """

    alpha_bars: Tensor

    def __init__(self, config: PolicyConfig) -> None:
        """Build freshly initialised networks; the normaliser is the identity until fitted."""
        super().__init__()
        self.config = config
        self.normalizer = PolicyNormalizer(config.action.dim, config.observation.proprio_dim)
        self.encoder = PointEncoder(config.encoder, config.observation.proprio_dim)
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

    def encode(self, cloud: Tensor, proprio: Tensor) -> Tensor:
        """Condition vectors of observation windows.

        Args:
            cloud: [B, n_obs, N, 3] float32, base frame [m]; any N, repeated points do not matter.
            proprio: [B, n_obs, d_q] float32, SI units; the first three numbers are the tool
                position, base frame [m].

        Returns:
            [B, d_c].
        """
        return self.encode_window(cloud, proprio).condition

    def encode_window(self, cloud: Tensor, proprio: Tensor) -> Encoding:
        """As :meth:`encode`, keeping the parts that the reconstruction loss needs."""
        frames, flat_proprio = cloud.flatten(0, 1), proprio.flatten(0, 1)
        centre, limits = cloud_centre(frames), self.normalizer.cloud
        pooled = self.encoder.pooled(frames, centre, flat_proprio[:, :3], limits)
        per_frame = self.encoder.assemble(
            pooled, centre, self.normalizer.proprio(flat_proprio), limits
        )
        return Encoding(per_frame.reshape(len(cloud), -1), pooled, centre)

    def epsilon(self, x: Tensor, timestep: Tensor, condition: Tensor) -> Tensor:
        """Noise eps_hat predicted in ``x`` [B, n_c, d_a] at ``timestep`` [B], for the sampler."""
        output: Tensor = self.denoiser(x, timestep, condition)
        if self.config.diffusion.preconditioning == "none":
            return output
        abar = self.alpha_bars[timestep].view(-1, 1, 1)
        return torch.sqrt(1 - abar) * x + torch.sqrt(abar) * output

    def one_step(self, x_start: Tensor, condition: Tensor) -> Tensor:
        """The student's chunk from pure noise [B, n_c, d_a], normalised units, unclamped."""
        last = torch.full(
            (len(x_start),), self.config.diffusion.n_train - 1, device=x_start.device
        )
        chunk: Tensor = self.student(x_start, last, condition)
        return chunk

    @torch.no_grad()
    def decide(
        self,
        cloud: Tensor,
        proprio: Tensor,
        *,
        sampler: Sampler,
        noise_seed: int | torch.Generator,
        deterministic: bool = True,
    ) -> Decision:
        """Choose a chunk of actions for each observation window.

        Args:
            cloud: [B, n_obs, N, 3] float32, base frame [m].
            proprio: [B, n_obs, d_q] float32, SI units.
            sampler: "ddim" runs K transitions, "one_step" the student; at equal seed both start
                from the same x_T.
            noise_seed: Seed of, or the generator for x_T (drawn first) and then the transition
                noise.
            deterministic: Take the mean of every transition. one_step has no transition noise
                either way.

        Returns:
            The decision; everything a decision record holds.

        Raises:
            ObservationError: If a shape disagrees with the configuration or a value is not finite.
        """
        self._check(cloud, proprio)
        return self.decide_encoded(
            self.encode(cloud, proprio),
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
        noise_seed: int | torch.Generator,
        deterministic: bool = True,
    ) -> Decision:
        """As :meth:`decide`, from condition vectors [B, d_c]."""
        generator = noise_seed
        if isinstance(generator, int):
            generator = torch.Generator(self.device).manual_seed(generator)
        size = self.config.action
        x_start = torch.randn(
            (len(condition), size.n_chunk, size.dim), generator=generator, device=self.device
        )
        timesteps: tuple[int, ...]
        sigmas: tuple[float, ...]
        if sampler == "one_step":
            latents = torch.stack((x_start, self.one_step(x_start, condition)), dim=1)
            log_probs = latents.new_empty((len(latents), 0))
            timesteps, sigmas = (self.config.diffusion.n_train - 1,), ()
        else:
            denoise = partial(self.epsilon, condition=condition)
            chain = sample_chain(
                denoise, self.schedule, x_start, generator=generator, deterministic=deterministic
            )
            latents, log_probs = chain.latents, chain.log_probs
            timesteps, sigmas = self.schedule.timesteps, self.schedule.sigmas
        clamped = latents[:, -1].clamp(-1.0, 1.0)
        return Decision(
            self.normalizer.action.inverse(clamped), clamped, latents, log_probs, timesteps, sigmas
        )

    def _check(self, cloud: Tensor, proprio: Tensor) -> None:
        size = self.config.observation
        if (
            cloud.dim() != 4
            or cloud.shape[1] != size.n_obs
            or cloud.shape[2] < 1
            or cloud.shape[3] != 3
        ):
            raise ObservationError(
                f"cloud should be [B, {size.n_obs}, N, 3], found {tuple(cloud.shape)}"
            )
        if proprio.shape != (len(cloud), size.n_obs, size.proprio_dim):
            expected = (len(cloud), size.n_obs, size.proprio_dim)
            raise ObservationError(
                f"proprioception should be {expected}, found {tuple(proprio.shape)}"
            )
        # A non-finite number anywhere makes the sum non-finite; cheaper than an element-wise test.
        if not torch.isfinite(cloud.sum() + proprio.sum()).item():
            raise ObservationError(
                "observation holds non-finite values; expected SI units, drop this frame"
            )
