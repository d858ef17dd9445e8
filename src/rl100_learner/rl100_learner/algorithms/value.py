# SPDX-License-Identifier: Apache-2.0
"""The value of the current policy, learned from its latest decisions.

    y_d = A_d^GAE(lambda) + V(s_d),    loss = mean (V(s_d) - y_d)^2

Targets are computed anew in every sweep. Decisions of a few earlier buffers are kept: the policy
has moved little since, and a value that is read from many episodes is worth the small bias.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Annotated

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from rl100_learner.accelerator import place
from rl100_learner.algorithms.batches import EncodedDecisions
from rl100_learner.networks.critics import ValueNetwork
from rl100_learner.objectives.returns import generalised_advantage

Share = Annotated[float, Field(ge=0.0, le=1.0)]


@dataclass(frozen=True)
class ValueConfig:
    """Settings of the value network."""

    width: PositiveInt = 128
    layers: PositiveInt = 2
    members: PositiveInt = 3
    """Networks whose mean is the value; each learns from minibatches of its own."""
    lr: PositiveFloat = 1e-3
    weight_decay: NonNegativeFloat = 5e-2
    target_lambda: Share = 0.95
    """lambda of the targets."""
    advantage_lambda: Share = 0.9
    """lambda of the advantages."""
    buffers: PositiveInt = 4
    """Latest buffers of decisions that are learned from."""
    sweeps: PositiveInt = 2
    """Times the targets are computed anew per buffer."""
    first_sweeps: PositiveInt = 6
    """The same for the first buffer, when nothing is known yet."""
    epochs: PositiveInt = 3
    """Passes over the kept decisions per sweep."""
    minibatch: PositiveInt = 256


@dataclass(frozen=True)
class ValueBuffer:
    """What the value is learned from: decisions in time, trajectories one after the other.

    Attributes:
        condition: Encoded observation windows, [D, d_c].
        next_condition: After each decision, [D, d_c].
        rewards: R_d, [D].
        discounts: g_d, [D].
        ends: The next row is of another trajectory, [D] bool.
    """

    condition: Tensor
    next_condition: Tensor
    rewards: Tensor
    discounts: Tensor
    ends: Tensor


def buffer_of(decisions: EncodedDecisions) -> ValueBuffer:
    """What the value learns of encoded decisions."""
    return ValueBuffer(
        decisions.condition,
        decisions.next_condition,
        decisions.rewards,
        decisions.discounts,
        decisions.ends,
    )


@dataclass
class ValueState:
    """What changes while learning."""

    network: ValueNetwork
    optimizer: torch.optim.Optimizer
    buffers: deque[ValueBuffer] = field(default_factory=deque)


def init(condition_dim: int, config: ValueConfig) -> ValueState:
    """A fresh network on the current device, initialised from torch's global generator."""
    network = place(ValueNetwork(condition_dim, config.width, config.layers, config.members))
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True
    )
    return ValueState(network, optimizer, deque(maxlen=config.buffers))


def update(
    state: ValueState, buffer: ValueBuffer, generator: torch.Generator, config: ValueConfig
) -> dict[str, float]:
    """Add a buffer of the current policy and learn from it and those before it.

    Returns:
        ``explained_variance`` of the new buffer's targets before learning from them (1: all of it;
        0: none; below 0: worse than their mean), ``loss`` of the last pass.
    """
    sweeps = config.sweeps if state.buffers else config.first_sweeps
    state.buffers.append(buffer)
    metrics: dict[str, float] = {}
    conditions = torch.cat([each.condition for each in state.buffers])
    for _ in range(sweeps):
        targets = torch.cat([_targets(state.network, each, config) for each in state.buffers])
        if not metrics:
            newest = targets[len(targets) - len(buffer.rewards) :]
            with torch.no_grad():
                error = newest - state.network(buffer.condition)
            spread = newest.var(unbiased=False).clamp_min(1e-12)
            metrics["explained_variance"] = float(1.0 - (error**2).mean() / spread)
        for _ in range(config.epochs):
            metrics["loss"] = _pass(state, conditions, targets, generator, config)
    return metrics


@torch.no_grad()
def advantages(state: ValueState, buffer: ValueBuffer, config: ValueConfig) -> Tensor:
    """GAE of the decisions of a buffer, [D], unit of the return."""
    return generalised_advantage(
        buffer.rewards,
        state.network(buffer.condition),
        state.network(buffer.next_condition),
        buffer.discounts,
        buffer.ends,
        config.advantage_lambda,
    )


@torch.no_grad()
def _targets(network: ValueNetwork, buffer: ValueBuffer, config: ValueConfig) -> Tensor:
    values: Tensor = network(buffer.condition)
    following: Tensor = network(buffer.next_condition)
    return values + generalised_advantage(
        buffer.rewards, values, following, buffer.discounts, buffer.ends, config.target_lambda
    )


def _pass(
    state: ValueState,
    conditions: Tensor,
    targets: Tensor,
    generator: torch.Generator,
    config: ValueConfig,
) -> float:
    losses = []
    orders = [torch.randperm(len(targets), generator=generator) for _ in range(config.members)]
    for rows in torch.split(torch.stack(orders), config.minibatch, dim=1):
        squares = (state.network.each(conditions[rows]) - targets[rows]) ** 2
        loss = squares.mean(dim=1).sum()
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it without types
        state.optimizer.step()
        losses.append(float(loss.detach()) / config.members)
    return sum(losses) / len(losses)
