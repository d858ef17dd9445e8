# SPDX-License-Identifier: Apache-2.0
"""Imitation learning: fit denoiser and encoder to demonstrated chunks, end to end.

    loss = diffusion_loss(F(x_t, t, c), a, eps) + auxiliary_loss(c)

Where the encoder has a bottleneck, its latents are drawn, here and nowhere else. Each encoded
window is used with several (t, eps) draws, because on a CPU the encoder is the cost.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from rl100_learner.accelerator import reduced_precision
from rl100_learner.algorithms.auxiliary import AuxiliaryLoss, AuxiliaryWeights, auxiliary_loss
from rl100_learner.algorithms.batches import WindowBatch
from rl100_learner.algorithms.optimizers import OptimizerConfig, OptimizerPair
from rl100_learner.objectives.diffusion import add_noise, diffusion_loss
from rl100_policy.core.noise import integers, normal
from rl100_policy.core.policy import DiffusionPolicy


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
    chamfer_weight: NonNegativeFloat = 1.0
    """Of the reconstruction of the cloud, if the encoder has a decoder."""
    chamfer_points: PositiveInt = 48
    """Input points the reconstruction is compared with."""
    proprio_weight: NonNegativeFloat = 0.2
    """Of the reconstruction of proprioception, which comes with an encoder's bottleneck."""
    bottleneck_weight: NonNegativeFloat = 1e-4
    """Of the divergence from the standard normal, if the encoder has a bottleneck."""
    bottleneck_ramp: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Share of the steps in which bottleneck_weight rises linearly from 0."""
    ema: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.995
    """Decay of the averaged weights, which are the ones deployed."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)


@dataclass(frozen=True)
class ImitationLoss:
    """What is minimised; scalars with gradients.

    Attributes:
        total: Sum of both.
        diffusion: Denoising.
        auxiliary: Reconstruction and bottleneck.
    """

    total: Tensor
    diffusion: Tensor
    auxiliary: AuxiliaryLoss


class Objective(nn.Module):
    """The loss as a module of the networks that learn, so that processes can share its gradient.

    ``objective(batch, generator, step) -> ImitationLoss``; ``step`` is 0-based.
    """

    def __init__(self, policy: DiffusionPolicy, config: ImitationConfig) -> None:
        """Of the networks that ``policy`` has already."""
        super().__init__()
        self.denoiser, self.encoder = policy.denoiser, policy.encoder
        self._rest = (policy, config)  # a tuple: neither student nor normaliser learns here

    def forward(self, batch: WindowBatch, generator: torch.Generator, step: int) -> ImitationLoss:
        """See the class."""
        policy, config = self._rest
        encoding = policy.encode_window(batch.visual, batch.proprio, generator)
        denoising = denoising_loss(
            policy,
            encoding.condition.repeat(config.draws, 1),
            policy.normalizer.action(batch.actions).repeat(config.draws, 1, 1),
            generator,
        )
        weights = auxiliary_weights(config, step)
        auxiliary = auxiliary_loss(
            policy, encoding, batch.visual, batch.proprio, weights, config.chamfer_points,
            generator,
        )  # fmt: skip
        return ImitationLoss(denoising + auxiliary.total, denoising, auxiliary)


@dataclass
class ImitationState:
    """What changes while learning."""

    policy: DiffusionPolicy
    averaged: DiffusionPolicy
    optimizer: OptimizerPair
    objective: nn.Module
    """An :class:`Objective`, as ``share`` returned it."""
    step: int = 0


def init(
    policy: DiffusionPolicy,
    config: ImitationConfig,
    share: Callable[[nn.Module], nn.Module] | None = None,
) -> ImitationState:
    """Start.

    Args:
        policy: Its normaliser is fitted; changed in place.
        config: Settings.
        share: Makes the objective average its gradient over processes.
    """
    averaged = copy.deepcopy(policy).requires_grad_(False)
    optimizer = OptimizerPair(config.optimizer, (policy.denoiser, policy.encoder), config.steps)
    objective: nn.Module = Objective(policy, config)
    return ImitationState(policy, averaged, optimizer, share(objective) if share else objective)


@reduced_precision()
def update(
    state: ImitationState, batch: WindowBatch, generator: torch.Generator, config: ImitationConfig
) -> dict[str, float]:
    """One optimiser step.

    Returns:
        ``loss`` (sum), ``loss_diffusion``, ``loss_chamfer`` (units of the encoder's centre_scale),
        ``loss_proprio`` (squared normalised units), ``loss_bottleneck`` (nat), ``lr_share``. The
        terms are without their weights, and 0 without a head or a weight.
    """
    loss: ImitationLoss = state.objective(batch, generator, state.step)
    state.optimizer.zero_grad()
    loss.total.backward()  # type: ignore[no-untyped-call]  # torch leaves it without types
    lr_share = state.optimizer.step(state.step)
    _average(state.averaged, state.policy, config.ema)
    state.step += 1
    return {
        "loss": float(loss.total.detach()),
        "loss_diffusion": float(loss.diffusion.detach()),
        **loss.auxiliary.metrics(),
        "lr_share": lr_share,
    }


def state_dict(state: ImitationState) -> dict[str, Any]:
    """Everything that interrupted imitation needs to go on to the same bits."""
    return {
        "step": state.step,
        "policy": state.policy.state_dict(),
        "averaged": state.averaged.state_dict(),
        "optimizer": state.optimizer.state_dict(),
    }


def load_state_dict(state: ImitationState, saved: dict[str, Any]) -> None:
    """Restore what :func:`state_dict` gave."""
    state.step = saved["step"]
    state.policy.load_state_dict(saved["policy"])
    state.averaged.load_state_dict(saved["averaged"])
    state.optimizer.load_state_dict(saved["optimizer"])


def auxiliary_weights(config: ImitationConfig, step: int) -> AuxiliaryWeights:
    """Weights of the auxiliary losses at 0-based ``step``."""
    ramp = config.bottleneck_ramp * config.steps
    share = min(1.0, (step + 1) / ramp) if ramp > 0 else 1.0
    return AuxiliaryWeights(
        config.chamfer_weight, config.proprio_weight, share * config.bottleneck_weight
    )


def denoising_loss(
    policy: DiffusionPolicy, condition: Tensor, clean: Tensor, generator: torch.Generator
) -> Tensor:
    """Diffusion loss at one (t, eps) draw per row.

    Args:
        policy: Whose denoiser learns.
        condition: [B, d_c].
        clean: Normalised chunks, [B, n_c, d_a].
        generator: Draws t, then eps.
    """
    n_train = policy.config.diffusion.n_train
    timestep = integers(n_train, (len(clean),), generator, clean.device)
    noise = normal(clean.shape, generator, clean.device)
    abar = policy.alpha_bars[timestep]
    output = policy.denoiser(add_noise(clean, noise, abar), timestep, condition)
    return diffusion_loss(output, clean, noise, abar, policy.config.diffusion.prediction)


@torch.no_grad()
def _average(averaged: DiffusionPolicy, policy: DiffusionPolicy, decay: float) -> None:
    # One list: an encoder of proprioception alone may have no parameters.
    slow: list[Tensor] = [*averaged.denoiser.parameters(), *averaged.encoder.parameters()]
    fast: list[Tensor] = [*policy.denoiser.parameters(), *policy.encoder.parameters()]
    torch._foreach_lerp_(slow, fast, 1 - decay)
