# SPDX-License-Identifier: Apache-2.0
"""Imitation learning: fit the denoiser and the point encoder to demonstrated chunks, end to end.

    loss = diffusion_loss(F(x_t, t, c), a, eps) + chamfer_weight * chamfer(decoder(pooled), points)

Each encoded window is used with several (t, eps) draws, because on a CPU the encoder is the cost.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Annotated

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor

from rl100_learner.algorithms.batches import WindowBatch
from rl100_learner.algorithms.optimizers import OptimizerConfig, OptimizerPair
from rl100_learner.objectives.chamfer import chamfer_distance
from rl100_learner.objectives.diffusion import Target, add_noise, diffusion_loss
from rl100_policy.core.policy import DiffusionPolicy, Encoding


@dataclass(frozen=True)
class ImitationConfig:
    """Settings of imitation learning."""

    steps: PositiveInt = 6000
    windows: PositiveInt = 128
    """Distinct windows per step."""
    draws: PositiveInt = 2
    """(t, eps) draws per window and step."""
    points: PositiveInt = 64
    """Points per cloud while training, drawn afresh at every use."""
    chamfer_weight: NonNegativeFloat = 0.2
    chamfer_points: PositiveInt = 48
    """Input points the reconstruction is compared with."""
    ema: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.995
    """Decay of the averaged weights, which are the ones deployed."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)


@dataclass
class ImitationState:
    """What changes while learning."""

    policy: DiffusionPolicy
    averaged: DiffusionPolicy
    optimizer: OptimizerPair
    step: int = 0


def init(policy: DiffusionPolicy, config: ImitationConfig) -> ImitationState:
    """Start from ``policy``, whose normaliser is fitted; it is changed in place."""
    averaged = copy.deepcopy(policy).requires_grad_(False)
    optimizer = OptimizerPair(config.optimizer, (policy.denoiser, policy.encoder), config.steps)
    return ImitationState(policy, averaged, optimizer)


def update(
    state: ImitationState, batch: WindowBatch, generator: torch.Generator, config: ImitationConfig
) -> dict[str, float]:
    """One optimiser step.

    Returns:
        ``loss`` (sum), ``loss_diffusion``, ``loss_chamfer`` (units of the encoder's centre_scale),
        ``lr_share``.
    """
    encoding = state.policy.encode_window(batch.cloud, batch.proprio)
    denoising = _denoising_loss(state.policy, encoding.condition, batch.actions, generator, config)
    chamfer = denoising.new_zeros(())
    if config.chamfer_weight > 0 and state.policy.encoder.decoder is not None:
        chamfer = _reconstruction_loss(state.policy, encoding, batch.cloud, config.chamfer_points)
    loss = denoising + config.chamfer_weight * chamfer
    state.optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it without types
    lr_share = state.optimizer.step(state.step)
    _average(state.averaged, state.policy, config.ema)
    state.step += 1
    return {
        "loss": float(loss.detach()),
        "loss_diffusion": float(denoising.detach()),
        "loss_chamfer": float(chamfer.detach()),
        "lr_share": lr_share,
    }


def _denoising_loss(
    policy: DiffusionPolicy,
    condition: Tensor,
    actions: Tensor,
    generator: torch.Generator,
    config: ImitationConfig,
) -> Tensor:
    clean = policy.normalizer.action(actions).repeat(config.draws, 1, 1)
    n_train = policy.config.diffusion.n_train
    timestep = torch.randint(n_train, (len(clean),), generator=generator, device=clean.device)
    noise = torch.randn(clean.shape, generator=generator, device=clean.device)
    abar = policy.alpha_bars[timestep]
    output = policy.denoiser(
        add_noise(clean, noise, abar), timestep, condition.repeat(config.draws, 1)
    )
    target: Target = (
        "velocity" if policy.config.diffusion.preconditioning == "velocity" else "epsilon"
    )
    return diffusion_loss(output, clean, noise, abar, target)


def _reconstruction_loss(
    policy: DiffusionPolicy, encoding: Encoding, cloud: Tensor, n_points: int
) -> Tensor:
    # The points of a training cloud are in random order already, so its first ones are a random
    # subset.
    points = cloud.flatten(0, 1)[:, :n_points]
    target = (points - encoding.centre.unsqueeze(1)) / policy.config.encoder.centre_scale
    return chamfer_distance(policy.encoder.reconstruct(encoding.pooled), target)


@torch.no_grad()
def _average(averaged: DiffusionPolicy, policy: DiffusionPolicy, decay: float) -> None:
    for name in ("denoiser", "encoder"):
        slow = list(getattr(averaged, name).parameters())
        torch._foreach_lerp_(slow, list(getattr(policy, name).parameters()), 1 - decay)
