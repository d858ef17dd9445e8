# SPDX-License-Identifier: Apache-2.0
"""Offline reinforcement learning: proximal steps on the policy's own draws at states of the data.

Per iteration i, with critics that stand still:

    chains of pi_i at states of the data, M per state -> A = Q(s, a) - mean_m Q(s, a_m)
    -> proximal improvement -> J(pi_{i+1}) by the model (AM-Q) -> gate

The ratio's reference moves with every iteration; the snapshot that the gate compares with moves
only when the gate opens. The critics stand still, so sooner or later every such phase improves its
critics' errors instead of the policy: J is a veto and a brake, and which snapshot drives the robot
is for roll-outs to say.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from rl100_learner.algorithms import proximal
from rl100_learner.algorithms.batches import EncodedDecisions
from rl100_learner.algorithms.critics import Critics
from rl100_learner.algorithms.imitation import denoising_loss
from rl100_learner.algorithms.proximal import ChainsConfig
from rl100_learner.algorithms.transition import TransitionModel
from rl100_learner.objectives.advantages import (
    offline_advantage,
    regression_weights,
    sampled_advantage,
)
from rl100_learner.objectives.evaluation import GateDecision, am_q_estimate, gate
from rl100_learner.objectives.proximal import standardise
from rl100_policy.core.policy import DiffusionPolicy


def _proximal() -> ChainsConfig:
    return ChainsConfig(epochs=2, minibatch=205)


@dataclass(frozen=True)
class GateConfig:
    """Settings of offline policy evaluation and of the gate."""

    enabled: bool = True
    """False: every iteration is accepted. For showing what the gate prevents."""
    share: NonNegativeFloat = 0.05
    """delta as a share of |J| of the snapshot."""
    patience: PositiveInt = 6
    """Iterations in a row that may fail to reach the margin before the phase ends."""
    accepts: PositiveInt = 2
    """Snapshots after which the phase ends: a critic is not to be trusted further than that."""
    horizon: PositiveInt = 12
    """H, decisions of an imagined roll-out; it should reach the reward."""
    starts: PositiveInt = 256
    """Start states, the same for every evaluation, with the same noise."""
    held_out: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of the episodes that the critics that improve do not learn from; other critics and the
    transition model learn from these alone, and J is read from them. 0: the critics that improve
    judge as well, and the model learns from all."""


@dataclass(frozen=True)
class OfflineConfig:
    """Settings of offline reinforcement learning."""

    iterations: PositiveInt = 8
    """Most proximal iterations of a phase."""
    states: PositiveInt = 512
    """States of the data per iteration."""
    draws: Annotated[int, Field(ge=2)] = 4
    """M, chains drawn per state."""
    baseline: Literal["draws", "value"] = "draws"
    """What Q is compared with: the mean over the policy's own draws, or V, which as in the paper
    is taken from the least Q of the ensemble."""
    pessimism: NonNegativeFloat = 0.0
    """Standard deviations of the Q ensemble that are taken off its mean."""
    own_states: bool = True
    """Improve where the policy itself has been, not on all states of the data."""
    method: Literal["proximal", "regression"] = "proximal"
    """regression: imitate the data's own actions, drawn with the weights of advantage-weighted
    regression; a baseline."""
    temperature: PositiveFloat = 0.3
    """Of the regression, in standard deviations of the advantage."""
    proximal: ChainsConfig = field(default_factory=_proximal)
    gate: GateConfig = field(default_factory=GateConfig)


@dataclass(frozen=True)
class Judge:
    """What J is read from.

    Attributes:
        critics: Those that improve, or others that have seen other episodes.
        model: Imagines what follows.
        starts: States that imagined roll-outs begin at, [S_0, d_c].
        seed: Of their noise; equal seeds, equal noise.
    """

    critics: Critics
    model: TransitionModel
    starts: Tensor
    seed: int


class Gate:
    """Asked after every iteration of a phase; remembers the snapshot and when it has had enough.

    Without ``enabled`` it lets everything through, for ever.
    """

    def __init__(self, incumbent: float, config: GateConfig) -> None:
        """``incumbent`` is J of the policy that the phase begins with."""
        self._incumbent, self._config = incumbent, config
        self._accepts = self._rejects = 0

    def ask(self, candidate: float) -> GateDecision:
        """Decide about an iterate by its J; what is let through is the next snapshot."""
        decision = gate(candidate, self._incumbent, self._config.share)
        if not self._config.enabled:
            decision = GateDecision(True, candidate, self._incumbent, 0.0)
        if decision.accepted:
            self._incumbent, self._accepts, self._rejects = candidate, self._accepts + 1, 0
        else:
            self._rejects += 1
        return decision

    @property
    def over(self) -> bool:
        """The phase ends: enough was let through, or nothing for too long."""
        config = self._config
        enough = self._accepts >= config.accepts or self._rejects >= config.patience
        return config.enabled and enough


@dataclass(frozen=True)
class Iteration:
    """One iteration, and the policy after it.

    Attributes:
        policy: A copy; it stays as it is.
        decision: Of the gate.
        metrics: What :func:`phase` tells.
    """

    policy: DiffusionPolicy
    decision: GateDecision
    metrics: dict[str, float]


def phase(
    policy: DiffusionPolicy,
    critics: Critics,
    judge: Judge,
    data: EncodedDecisions,
    seed: int,
    config: OfflineConfig,
) -> Iterator[Iteration]:
    """Improve until the iterations, the accepts or the gate's patience are used up.

    Args:
        policy: Where to begin; changed in place. After a phase it is the last iterate: what to
            keep is among the iterations.
        critics: Q and V; they stay as they are.
        judge: Of the estimate J.
        data: States to improve at; their actions are read by the regression only.
        seed: Of all noise; the imagined roll-outs have a generator of their own, so that looking
            at J changes nothing else.
        config: Settings.

    Yields:
        After every iteration: what ``proximal.improve_chains`` tells, of the regression ``loss``;
        ``q`` (mean worth of the policy's draws before the iteration, of the data's actions for the
        regression), ``q_spread`` (standard deviation of the advantage),
        ``j`` and ``j_snapshot`` (AM-Q, unit of the return), ``accepted``, ``distance`` (symmetric
        KL of a transition to the policy that the phase began with, nat).
    """
    generator = torch.Generator().manual_seed(seed)
    state = proximal.init(policy, config.proximal)
    began = copy.deepcopy(policy).requires_grad_(False)
    asked = Gate(estimate(policy, judge, config), config.gate)
    for _ in range(config.iterations):
        if config.method == "proximal":
            metrics = iterate(state, critics, data.condition, generator, config)
        else:
            metrics = _regress(state, critics, data, generator, config)
        candidate = estimate(policy, judge, config)
        decision = asked.ask(candidate)
        metrics |= {
            "j": decision.candidate,
            "j_snapshot": decision.incumbent,
            "distance": _distance(policy, began, judge, config),
            "accepted": float(decision.accepted),
        }
        yield Iteration(copy.deepcopy(policy).requires_grad_(False), decision, metrics)
        if asked.over:
            return


@torch.no_grad()
def estimate(policy: DiffusionPolicy, judge: Judge, config: OfflineConfig) -> float:
    """J of a policy by the model, AM-Q. The policy decides as it does on the robot.

    Equal arguments give equal estimates, and two policies meet the same noise.
    """
    generator = torch.Generator().manual_seed(judge.seed)
    pick = torch.randint(len(judge.starts), (config.gate.starts,), generator=generator)
    condition, worth = judge.starts[pick], []
    for _ in range(config.gate.horizon):
        decided = policy.decide_encoded(condition, sampler="ddim", noise_seed=generator)
        action = decided.actions_normalised
        worth.append(judge.critics.worth(condition, action, config.pessimism))
        condition = judge.model.step(condition, action, generator)
    return float(am_q_estimate(torch.stack(worth)))


def _distance(
    policy: DiffusionPolicy, began: DiffusionPolicy, judge: Judge, config: OfflineConfig
) -> float:
    generator = torch.Generator().manual_seed(judge.seed)
    return proximal.distance(policy, began, judge.starts[: config.gate.starts], generator)


def iterate(
    state: proximal.ProximalState,
    critics: Critics,
    conditions: Tensor,
    generator: torch.Generator,
    config: OfflineConfig,
) -> dict[str, float]:
    """One proximal iteration at states drawn from ``conditions`` [S, d_c], see :func:`phase`."""
    draws = config.draws if config.baseline == "draws" else 1
    pick = torch.randint(
        len(conditions), (config.states * config.draws // draws,), generator=generator
    )
    condition = conditions[pick.repeat_interleave(draws)]
    with torch.no_grad():
        chain = proximal.draw_chains(state.policy, condition, generator)
        worth = critics.worth(condition, chain.latents[:, -1].clamp(-1.0, 1.0), config.pessimism)
        if config.baseline == "draws":
            advantages = sampled_advantage(worth.view(-1, draws)).flatten()
        else:
            q = critics.q(condition, chain.latents[:, -1].clamp(-1.0, 1.0))
            advantages = offline_advantage(q, critics.v(condition))
    metrics = proximal.improve_chains(
        state,
        lambda rows: (condition[rows], condition.new_zeros(())),
        chain.latents,
        chain.log_probs,
        advantages,
        generator,
        config.proximal,
    )
    return metrics | {"q": float(worth.mean()), "q_spread": float(advantages.std(unbiased=False))}


def _regress(
    state: proximal.ProximalState,
    critics: Critics,
    data: EncodedDecisions,
    generator: torch.Generator,
    config: OfflineConfig,
) -> dict[str, float]:
    """As many optimiser steps as a proximal iteration takes, on actions of the data."""
    worth = critics.worth(data.condition, data.action, config.pessimism)
    advantages = worth - critics.v(data.condition)
    weights = regression_weights(standardise(advantages), config.temperature, _WEIGHT_LIMIT)
    chains = config.states * config.draws
    losses = []
    for _ in range(config.proximal.epochs * math.ceil(chains / config.proximal.minibatch)):
        count = config.proximal.minibatch * len(state.policy.schedule.timesteps)
        rows = torch.multinomial(weights.cpu(), count, replacement=True, generator=generator)
        loss = denoising_loss(state.policy, data.condition[rows], data.action[rows], generator)
        proximal.step(state, loss, config.proximal)
        losses.append(float(loss.detach()))
    return {
        "loss": sum(losses) / len(losses),
        "q": float(worth.mean()),
        "q_spread": float(advantages.std(unbiased=False)),
    }


_WEIGHT_LIMIT = 20.0
"""Largest weight of an action in the regression."""
