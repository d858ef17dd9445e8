# SPDX-License-Identifier: Apache-2.0
"""The one sampler of the suite, to train, to evaluate and on the robot: DDIM, clipped noise.

Transition from noise index t to t' (x0 and eps always agree with each other; sigma is the clipped
one throughout):

    x0    = clamp((x_t - sqrt(1 - abar_t) eps_hat) / sqrt(abar_t))
    eps   = (x_t - sqrt(abar_t) x0) / sqrt(1 - abar_t)
    sigma = clip(eta sqrt((1 - abar_t') / (1 - abar_t) (1 - abar_t / abar_t')), sigma_min,
    sigma_max) x_t'  ~ Normal(sqrt(abar_t') x0 + sqrt(max(0, 1 - abar_t' - sigma^2)) eps,  sigma^2)

Differs from the published code, which recomputes neither eps after the clamp nor the mean after
clipping sigma.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from rl100_policy.core.noise import normal
from rl100_policy.core.policy_config import DiffusionConfig

Denoise = Callable[[Tensor, Tensor], Tensor]
"""(x [B, ...], timestep [B] int64) -> eps_hat, shaped like x."""

MAX_BETA = 0.999
"""Upper limit of one forward step's variance, part of the cosine schedule's definition."""


def cosine_alpha_bars(n_train: int) -> Tensor:
    """Remaining signal variance abar_t after each forward step, [n_train] float64, decreasing.

    Source: the squared-cosine schedule of Nichol and Dhariwal 2021 with offset 0.008.
    """

    def level(u: float) -> float:
        return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

    betas = [
        min(1.0 - level((i + 1) / n_train) / level(i / n_train), MAX_BETA) for i in range(n_train)
    ]
    # on the CPU also where networks are built on no device, to look at their shapes
    return torch.cumprod(1.0 - torch.tensor(betas, dtype=torch.float64, device="cpu"), dim=0)


class Coefficients(NamedTuple):
    """One transition as two affine maps.

    x0 = x_scale x - eps_scale eps_hat,  mean = x0_weight x0 + x_weight x,  deviation sigma.
    """

    x_scale: float | Tensor
    eps_scale: float | Tensor
    x0_weight: float | Tensor
    x_weight: float | Tensor
    sigma: float | Tensor


@dataclass(frozen=True)
class Schedule:
    """The K transitions of a sampler, first (noisiest) to last; plain numbers, on no device.

    Attributes:
        timesteps: Noise index t at which each transition starts, length K.
        previous: Noise index t' at which it ends.
        steps: Coefficients of each transition.
        clamp: Limit of |x0|, normalised action units.
    """

    timesteps: tuple[int, ...]
    previous: tuple[int, ...]
    steps: tuple[Coefficients, ...]
    clamp: float

    @property
    def sigmas(self) -> tuple[float, ...]:
        """Clipped standard deviations, length K."""
        return tuple(float(step.sigma) for step in self.steps)

    def gather(self, k: Tensor, dim: int) -> Coefficients:
        """Coefficients for mixed transitions. ``k`` [B] int64 -> [B, 1, ...] of ``dim`` axes."""
        table = torch.tensor(self.steps, device=k.device, dtype=torch.float32)[k]
        return Coefficients(*(column.view(-1, *(1,) * (dim - 1)) for column in table.unbind(-1)))


def make_schedule(config: DiffusionConfig) -> Schedule:
    """Cosine levels, "leading" spacing with offset 1.

    K = 5 of 100 starts at 81, 61, 41, 21, 1 and ends at index 0.
    """
    stride = config.n_train // config.n_steps
    timesteps = tuple(k * stride + 1 for k in reversed(range(config.n_steps)))
    previous = tuple(max(t - stride, 0) for t in timesteps)
    levels = cosine_alpha_bars(config.n_train).tolist()
    steps = tuple(
        _coefficients(levels[t], levels[p], config)
        for t, p in zip(timesteps, previous, strict=True)
    )
    return Schedule(timesteps, previous, steps, config.clamp)


def _coefficients(now: float, then: float, config: DiffusionConfig) -> Coefficients:
    natural = config.eta * math.sqrt((1 - then) / (1 - now) * (1 - now / then))
    sigma = min(max(natural, config.sigma_min), config.sigma_max)
    x_weight = math.sqrt(max(0.0, 1 - then - sigma**2)) / math.sqrt(1 - now)
    return Coefficients(
        x_scale=1 / math.sqrt(now),
        eps_scale=math.sqrt((1 - now) / now),
        x0_weight=math.sqrt(then) - x_weight * math.sqrt(now),
        x_weight=x_weight,
        sigma=sigma,
    )


def transition_mean(step: Coefficients, clamp: float, x: Tensor, eps_hat: Tensor) -> Tensor:
    """Mean of one denoising transition (module docstring), shaped like x.

    Gradients flow to ``eps_hat``. Where x0 is clamped, the gradient is zero.
    """
    x0 = (step.x_scale * x - step.eps_scale * eps_hat).clamp(-clamp, clamp)
    return step.x0_weight * x0 + step.x_weight * x


def gaussian_log_prob(value: Tensor, mean: Tensor, sigma: float | Tensor) -> Tensor:
    """Log-density of independent Gaussians, summed to one per row. [B, ...] -> [B], nat."""
    sigma = torch.as_tensor(sigma, dtype=mean.dtype, device=mean.device)
    terms = -0.5 * ((value - mean) / sigma) ** 2 - torch.log(sigma) - 0.5 * math.log(2 * math.pi)
    return terms.flatten(1).sum(-1)


def transition_log_prob(
    denoise: Denoise, schedule: Schedule, k: Tensor, x: Tensor, x_next: Tensor
) -> Tensor:
    """Log-density of given transitions under a denoiser, any mix of steps in one batch.

    Args:
        denoise: Predicts the noise in a latent.
        schedule: The K transitions.
        k: Which transition each row takes, 0 the noisiest, [B] int64.
        x: Latents before, [B, ...], normalised action units.
        x_next: Latents after, unclamped, like x.

    Returns:
        [B], nat, summed over all action components. Gradients flow through the denoiser.
    """
    step = schedule.gather(k, x.dim())
    timestep = torch.tensor(schedule.timesteps, device=k.device)[k]
    mean = transition_mean(step, schedule.clamp, x, denoise(x, timestep))
    return gaussian_log_prob(x_next, mean, step.sigma)


@dataclass(frozen=True)
class Chain:
    """A sampled denoising chain.

    Attributes:
        latents: x_T first, unclamped, normalised action units, [B, K + 1, ...].
        log_probs: Log-density of each transition, [B, K]; [B, 0] for a deterministic chain, which
            has no density.
    """

    latents: Tensor
    log_probs: Tensor


def sample_chain(
    denoise: Denoise,
    schedule: Schedule,
    x_start: Tensor,
    *,
    generator: torch.Generator | None,
    deterministic: bool,
) -> Chain:
    """Run all K transitions from ``x_start`` [B, ...] ~ Normal(0, 1).

    Deterministic takes the mean of every transition (the last one included); otherwise each is
    sampled from ``generator``, and the log-densities returned are those of exactly these draws.
    """
    x, latents, log_probs = x_start, [x_start], []
    for step, t in zip(schedule.steps, schedule.timesteps, strict=True):
        timestep = torch.full((len(x),), t, dtype=torch.int64, device=x.device)
        mean = transition_mean(step, schedule.clamp, x, denoise(x, timestep))
        x = mean
        if not deterministic:
            noise = normal(mean.shape, generator, mean.device, mean.dtype)
            x = mean + step.sigma * noise
            log_probs.append(gaussian_log_prob(x, mean, step.sigma))
        latents.append(x)
    stacked = torch.stack(log_probs, dim=1) if log_probs else x.new_empty((len(x), 0))
    return Chain(torch.stack(latents, dim=1), stacked)
