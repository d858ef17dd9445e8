# SPDX-License-Identifier: Apache-2.0
"""Offline critics: what a decision of the data is worth, and what any other would be.

``value = "returns"``: V is the value of the policy that is to be improved, learned from the
returns of its own roll-outs; Q regresses on one decision ahead of it, over all data:

    V(s_d) -> A_d^GAE(lambda) + V(s_d)  (own roll-outs),   Q_i(s, a) -> R + g V(s')  (all data)

``value = "expectile"``: implicit Q-learning over all data, V an upper expectile of Q:

    V -> tau-expectile of min_i Q_i^target(s, a),          Q_i(s, a) -> R + g V(s')

Both ask only for actions of the data. Which of them ranks a policy's own actions better is a
matter of the data: the second needs no roll-outs of the policy, the first needs little data.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from rl100_learner.accelerator import place, reduced_precision
from rl100_learner.algorithms import value
from rl100_learner.algorithms.batches import EncodedDecisions
from rl100_learner.algorithms.optimizers import OnStep, ignored
from rl100_learner.algorithms.value import ValueConfig
from rl100_learner.networks.critics import QNetwork, ValueNetwork
from rl100_learner.objectives.iql import expectile_loss, q_loss, q_target


def _value() -> ValueConfig:
    return ValueConfig(target_lambda=1.0, first_sweeps=4)


@dataclass(frozen=True)
class QConfig:
    """Settings of Q and of its regression."""

    width: PositiveInt = 256
    layers: PositiveInt = 2
    members: PositiveInt = 3
    """Q networks; each learns from minibatches of its own (all from the same with
    value = expectile)."""
    steps: PositiveInt = 3000
    minibatch: PositiveInt = 256
    lr: PositiveFloat = 1e-3
    weight_decay: NonNegativeFloat = 1e-2


@dataclass(frozen=True)
class CriticConfig(QConfig):
    """Settings of the offline critics."""

    value: Literal["returns", "expectile"] = "returns"
    returns: ValueConfig = field(default_factory=_value)
    """Of V, which is swept ``first_sweeps`` times over one buffer; with value = expectile nothing
    but its sizes counts."""
    tau: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.7
    """Expectile of V, with value = expectile."""
    target_rate: Annotated[float, Field(gt=0.0, le=1.0)] = 0.01
    """Share of the target critics that is replaced per step, with value = expectile."""


@dataclass
class Critics:
    """Q and V over encoded observations."""

    q: QNetwork
    v: ValueNetwork

    @torch.no_grad()
    def worth(self, condition: Tensor, action: Tensor, pessimism: float) -> Tensor:
        """Mean of the Q_i minus ``pessimism`` of their standard deviations, [B]."""
        q: Tensor = self.q(condition, action)
        return q.mean(dim=0) - pessimism * q.std(dim=0, unbiased=False)


@reduced_precision()
def fit(
    data: EncodedDecisions,
    own: EncodedDecisions,
    seed: int,
    generator: torch.Generator,
    config: CriticConfig,
    on_step: OnStep = ignored,
) -> tuple[Critics, dict[str, float]]:
    """Fit critics from nothing.

    Args:
        data: All decisions that there are.
        own: Those of the policy that is to be improved; not read with value = expectile.
        seed: Of the initial weights.
        generator: Order of the minibatches.
        config: Settings.
        on_step: Called after every one of ``config.steps``.

    Returns:
        The critics, and ``q_loss`` (mean over the last tenth of the steps, per member),
        ``value_loss``, ``explained_variance`` of Q's targets (1: all of it).
    """
    condition_dim, chunk = data.condition.shape[1], data.action[0].numel()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # layers initialise themselves from the global generator
        q = place(init(condition_dim, chunk, config))
        v = value.init(condition_dim, config.returns)
    if config.value == "returns":
        told = value.update(v, value.buffer_of(own), generator, config.returns)
        with torch.no_grad():
            target = q_target(data.rewards, data.discounts, v.network(data.next_condition))
        metrics = regress(q, data, target, generator, config, on_step)
        metrics["value_loss"] = told["loss"]
    else:
        metrics = _implicit(q, v.network, data, generator, config, on_step)
    return Critics(q.requires_grad_(False), v.network.requires_grad_(False)), metrics


def init(condition_dim: int, chunk: int, config: QConfig) -> QNetwork:
    """Fresh Q of conditions and of chunks of that many numbers; from torch's global generator."""
    return QNetwork(condition_dim, chunk, config.width, config.layers, config.members)


def regress(
    q: QNetwork,
    data: EncodedDecisions,
    target: Tensor,
    generator: torch.Generator,
    config: QConfig,
    on_step: OnStep = ignored,
) -> dict[str, float]:
    """Fit every Q_i to targets y of all decisions, [D]; tells as :func:`fit`."""
    optimizer = _optimizer([q], config)
    tail: list[float] = []
    for step in range(config.steps):
        rows = _rows(data, generator, config)
        squares = (q(data.condition[rows], data.action[rows]) - target[rows]) ** 2
        _step(optimizer, squares.mean(dim=1).sum(), step, config)
        if step >= int(0.9 * config.steps):
            tail.append(float(squares.detach().mean()))
        on_step(step + 1, squares.detach().mean())
    error = sum(tail) / len(tail)
    spread = float(target.var(unbiased=False).clamp_min(1e-12))
    return {"q_loss": error, "explained_variance": 1.0 - error / spread}


def _implicit(
    q: QNetwork,
    v: ValueNetwork,
    data: EncodedDecisions,
    generator: torch.Generator,
    config: CriticConfig,
    on_step: OnStep,
) -> dict[str, float]:
    slow = copy.deepcopy(q).requires_grad_(False)
    optimizer = _optimizer([q, v], config)
    tail: list[tuple[float, float, float]] = []
    for step in range(config.steps):
        rows = _rows(data, generator, config)[0]
        condition, action = data.condition[rows], data.action[rows]
        with torch.no_grad():
            lowest = slow(condition, action).amin(dim=0)
            following = v(data.next_condition[rows])
        target = q_target(data.rewards[rows], data.discounts[rows], following)
        value_loss = expectile_loss(lowest, v(condition), config.tau)
        critic_loss = q_loss(q(condition, action), target)
        _step(optimizer, value_loss + critic_loss, step, config)
        with torch.no_grad():
            torch._foreach_lerp_(list(slow.parameters()), list(q.parameters()), config.target_rate)
        if step >= int(0.9 * config.steps):
            per_member = float(critic_loss.detach()) / config.members
            tail.append((per_member, float(value_loss.detach()), float(target.var())))
        on_step(step + 1, critic_loss.detach() / config.members)
    error, value_error, spread = (sum(each) / len(tail) for each in zip(*tail, strict=True))
    return {
        "q_loss": error,
        "value_loss": value_error,
        "explained_variance": 1.0 - error / max(spread, 1e-12),
    }


def _optimizer(networks: Sequence[nn.Module], config: QConfig) -> torch.optim.Optimizer:
    parameters = [parameter for each in networks for parameter in each.parameters()]
    return torch.optim.AdamW(
        parameters, lr=config.lr, weight_decay=config.weight_decay, fused=True
    )


def _rows(data: EncodedDecisions, generator: torch.Generator, config: QConfig) -> Tensor:
    """Rows of a minibatch per member, [M, B]."""
    return torch.randint(len(data), (config.members, config.minibatch), generator=generator)


_WARM_UP_STEPS = 50
_LAST_RATE = 0.05
"""Share of the learning rate that is left at the end."""


def _step(optimizer: torch.optim.Optimizer, loss: Tensor, step: int, config: QConfig) -> None:
    share = min(1.0, (step + 1) / _WARM_UP_STEPS) * (
        1.0 - (1.0 - _LAST_RATE) * step / config.steps
    )
    for group in optimizer.param_groups:
        group["lr"] = config.lr * share
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it without types
    optimizer.step()
