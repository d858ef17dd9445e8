# SPDX-License-Identifier: Apache-2.0
"""Distillation of the K-step policy into a student that turns noise into a chunk in one step.

    loss = | student(x_T, c) - clamp(mean chain of the teacher from the same x_T, c) |^2

Encoder and denoiser stay as they are; only the student learns.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from rl100_learner.accelerator import reduced_precision
from rl100_learner.algorithms.optimizers import OptimizerConfig, OptimizerPair
from rl100_learner.objectives.consistency import consistency_distillation_loss
from rl100_policy.core.denoiser import Denoiser
from rl100_policy.core.noise import normal
from rl100_policy.core.policy import DiffusionPolicy
from rl100_policy.core.sampler import sample_chain


@dataclass(frozen=True)
class DistillationConfig:
    """Settings of distillation."""

    steps: PositiveInt = 1500
    windows: PositiveInt = 256
    """Conditions per step, each with its own x_T."""
    ema: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.995
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)


@dataclass(frozen=True)
class FramesDistillationConfig(DistillationConfig):
    """Settings of distillation on the frames of episodes, which are encoded for it."""

    copies: PositiveInt = 3
    """Times every frame is encoded, each with other points."""


class Objective(nn.Module):
    """The loss as a module of the student, so that processes can share its gradient.

    ``objective(x_start [B, n_c, d_a], condition [B, d_c], teacher [B, n_c, d_a]) -> scalar``
    """

    def __init__(self, policy: DiffusionPolicy) -> None:
        """Of the student that ``policy`` has already."""
        super().__init__()
        self.student = policy.student
        self._policy = (policy,)  # a tuple: nothing else of it learns here

    def forward(self, x_start: Tensor, condition: Tensor, teacher: Tensor) -> Tensor:
        """See the class."""
        chunk = self._policy[0].one_step(x_start, condition)
        return consistency_distillation_loss(chunk, teacher)


@dataclass
class DistillationState:
    """What changes while distilling."""

    policy: DiffusionPolicy
    averaged: Denoiser
    optimizer: OptimizerPair
    objective: nn.Module
    """An :class:`Objective`, as ``share`` returned it."""
    step: int = 0


def init(
    policy: DiffusionPolicy,
    config: DistillationConfig,
    share: Callable[[nn.Module], nn.Module] | None = None,
) -> DistillationState:
    """Start.

    Args:
        policy: Its student is changed in place, and nothing else of it.
        config: Settings.
        share: Makes the objective average its gradient over processes.
    """
    averaged = copy.deepcopy(policy.student).requires_grad_(False)
    policy.student.requires_grad_(True)
    optimizer = OptimizerPair(config.optimizer, (policy.student,), config.steps)
    objective: nn.Module = Objective(policy)
    return DistillationState(policy, averaged, optimizer, share(objective) if share else objective)


@reduced_precision()
def update(
    state: DistillationState,
    condition: Tensor,
    generator: torch.Generator,
    config: DistillationConfig,
) -> dict[str, float]:
    """One optimiser step on conditions [B, d_c].

    Returns:
        ``loss`` (mean squared error, squared normalised action units), ``lr_share``.
    """
    policy, size = state.policy, state.policy.config.action
    shape = (len(condition), size.n_chunk, size.dim)
    x_start = normal(shape, generator, condition.device)
    with torch.no_grad():
        denoise = partial(policy.epsilon, condition=condition)
        chain = sample_chain(denoise, policy.schedule, x_start, generator=None, deterministic=True)
    loss: Tensor = state.objective(x_start, condition, chain.latents[:, -1])
    state.optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it without types
    lr_share = state.optimizer.step(state.step)
    with torch.no_grad():
        averaged: list[Tensor] = list(state.averaged.parameters())
        fast: list[Tensor] = list(policy.student.parameters())
        torch._foreach_lerp_(averaged, fast, 1 - config.ema)
    state.step += 1
    return {"loss": float(loss.detach()), "lr_share": lr_share}


def state_dict(state: DistillationState) -> dict[str, Any]:
    """Everything that an interrupted distillation needs to go on to the same bits."""
    return {
        "step": state.step,
        "student": state.policy.student.state_dict(),
        "averaged": state.averaged.state_dict(),
        "optimizer": state.optimizer.state_dict(),
    }


def load_state_dict(state: DistillationState, saved: dict[str, Any]) -> None:
    """Restore what :func:`state_dict` gave."""
    state.step = saved["step"]
    state.policy.student.load_state_dict(saved["student"])
    state.averaged.load_state_dict(saved["averaged"])
    state.optimizer.load_state_dict(saved["optimizer"])
