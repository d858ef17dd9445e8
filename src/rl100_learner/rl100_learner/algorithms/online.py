# SPDX-License-Identifier: Apache-2.0
"""Online reinforcement learning: decisions of the current policy, their value, a proximal step.

    roll out -> y = GAE(lambda) + V -> V towards y -> A = GAE(lambda) -> proximal improvement

The value reads the encoder as it was when the stage began: features that stand still, while the
policy's own encoder may learn along.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from pydantic import Field, PositiveInt

from rl100_learner.accelerator import moved
from rl100_learner.algorithms import proximal, value
from rl100_learner.algorithms.batches import DecisionBatch
from rl100_learner.algorithms.proximal import ProximalConfig, ProximalState, encode_windows
from rl100_learner.algorithms.value import ValueBuffer, ValueConfig, ValueState
from rl100_policy.core.policy import DiffusionPolicy


def _proximal() -> ProximalConfig:
    return ProximalConfig(lr=3e-4, encoder_lr=3e-4, epochs=8)


@dataclass(frozen=True)
class OnlineConfig:
    """Settings of online reinforcement learning."""

    iterations: PositiveInt = 15
    episodes: PositiveInt = 200
    """Episodes of the current policy per iteration."""
    gamma: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.99
    """Discount of one control period."""
    proximal: ProximalConfig = field(default_factory=_proximal)
    value: ValueConfig = field(default_factory=ValueConfig)


@dataclass
class OnlineState:
    """What changes while learning."""

    proximal: ProximalState
    value: ValueState
    features: DiffusionPolicy
    """The policy as it was at the beginning; its encoder is what the value reads."""
    iteration: int = 0

    @property
    def policy(self) -> DiffusionPolicy:
        """The current policy."""
        return self.proximal.policy


def init(policy: DiffusionPolicy, config: OnlineConfig, seed: int) -> OnlineState:
    """Start from ``policy``, which is changed in place; ``seed`` initialises the value."""
    features = copy.deepcopy(policy).requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # layers initialise themselves from the global generator
        critic = value.init(policy.condition_dim, config.value)
    return OnlineState(proximal.init(policy, config.proximal), critic, features)


def update(
    state: OnlineState, batch: DecisionBatch, generator: torch.Generator, config: OnlineConfig
) -> dict[str, float]:
    """One iteration on decisions that the current policy has just made.

    Returns:
        What ``proximal.improve`` and ``value.update`` tell, the latter as ``value_*``.
    """
    buffer = ValueBuffer(
        encode_windows(state.features, batch.cloud, batch.proprio),
        encode_windows(state.features, batch.next_cloud, batch.next_proprio),
        batch.rewards,
        batch.discounts,
        batch.ends,
    )
    told = value.update(state.value, buffer, generator, config.value)
    metrics = {f"value_{key}": number for key, number in told.items()}
    advantages = value.advantages(state.value, buffer, config.value)
    metrics |= proximal.improve(state.proximal, batch, advantages, generator, config.proximal)
    state.iteration += 1
    return metrics


def state_dict(state: OnlineState) -> dict[str, Any]:
    """Everything that an interrupted stage needs to go on to the same bits."""
    return {
        "iteration": state.iteration,
        "policy": state.policy.state_dict(),
        "features": state.features.state_dict(),
        "proximal_optimizer": state.proximal.optimizer.state_dict(),
        "value": state.value.network.state_dict(),
        "value_optimizer": state.value.optimizer.state_dict(),
        "buffers": [vars(buffer) for buffer in state.value.buffers],
    }


def load_state_dict(state: OnlineState, saved: dict[str, Any]) -> None:
    """Restore what :func:`state_dict` gave."""
    state.iteration = saved["iteration"]
    state.policy.load_state_dict(saved["policy"])
    state.features.load_state_dict(saved["features"])
    state.proximal.optimizer.load_state_dict(saved["proximal_optimizer"])
    state.value.network.load_state_dict(saved["value"])
    state.value.optimizer.load_state_dict(saved["value_optimizer"])
    state.value.buffers.clear()
    state.value.buffers.extend(
        moved(ValueBuffer(**each), state.policy.device) for each in saved["buffers"]
    )
