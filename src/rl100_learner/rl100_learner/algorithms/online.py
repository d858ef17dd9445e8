# SPDX-License-Identifier: Apache-2.0
"""Online reinforcement learning: decisions of the current policy, their value, a proximal step.

    roll out -> y = GAE(lambda) + V -> V towards y          (latest roll-outs)
             -> Q(s, a) towards R + g V(s')                 (earlier ones too)
             -> A = GAE(lambda)                             of the decisions that were made
                A = Q(s, a) - mean_m Q(s, a_m)              of M draws at what was seen
             -> one proximal improvement on both

An executed decision tells with little bias, and with much noise, what one action led to; Q tells
of many actions at every observation what all episodes together say of them. Critics read the
encoder as it was when the stage began: features that stand still, so that what was encoded once
serves to the end, while the policy's own encoder may learn along.
"""

from __future__ import annotations

import copy
import math
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from rl100_learner.accelerator import moved, place
from rl100_learner.algorithms import critics, proximal, value
from rl100_learner.algorithms.batches import ChainBatch, DecisionBatch, EncodedDecisions
from rl100_learner.algorithms.critics import QConfig
from rl100_learner.algorithms.proximal import ProximalConfig, ProximalState, encode_windows
from rl100_learner.algorithms.value import ValueBuffer, ValueConfig, ValueState
from rl100_learner.networks.critics import QNetwork
from rl100_learner.objectives.advantages import sampled_advantage
from rl100_learner.objectives.iql import q_target
from rl100_learner.objectives.proximal import standardise
from rl100_policy.core.errors import LearningError
from rl100_policy.core.policy import DiffusionPolicy


def _proximal() -> ProximalConfig:
    return ProximalConfig(lr=3e-4, encoder_lr=3e-4)


@dataclass(frozen=True)
class ReplayConfig(QConfig):
    """Settings of Q, and of the draws that it compares."""

    states: NonNegativeInt = 1024
    """Observations per iteration at which actions are drawn; 0: without Q, and nothing is learned
    from but the decisions that the policy has just made."""
    draws: Annotated[int, Field(ge=2)] = 4
    """M, chains per observation."""
    buffers: PositiveInt = 10
    """Latest iterations that Q learns from, besides what there was before the first."""
    first_steps: PositiveInt = 3000
    """Of the first regression, from nothing, at twice the rate of the others."""
    steps: PositiveInt = 600
    lr: PositiveFloat = 5e-4


@dataclass(frozen=True)
class OnlineConfig:
    """Settings of online reinforcement learning."""

    iterations: PositiveInt = 15
    episodes: PositiveInt = 100
    """Episodes of the current policy in the first iteration."""
    last_episodes: PositiveInt | None = None
    """Those of the last one; from each iteration to the next they grow by one factor. The fewer
    fail, the more episodes it takes to tell why. None: as many as in the first."""
    enough: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """A policy of which this share of an iteration's episodes succeeded is not changed, and
    learning ends once this share of the latest ``enough_episodes`` did. They are played with
    noise, which succeeds less often than without."""
    enough_episodes: PositiveInt = 200
    proximal: ProximalConfig = field(default_factory=_proximal)
    value: ValueConfig = field(default_factory=ValueConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    distil_jointly: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5
    """Share of the student's steps that is taken during the iterations, after each an equal part;
    the rest follows the last one."""
    distil_on: PositiveInt = 3
    """Latest iterations whose observations the student learns from."""
    average: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.8
    """Decay per iteration of the averaged weights, which are what the stage ends with: single
    iterates go about the policy that they approach. 0: the last iterate."""
    return_deviations: PositiveFloat = 4.0
    """A policy whose share of successes is this many standard deviations below the best one's is
    given up for it. The best of many shares is a lucky one, so it takes more than three."""

    def episodes_of(self, iteration: int) -> int:
        """Episodes of an iteration, which count from zero."""
        last = self.last_episodes or self.episodes
        share = iteration / max(1, self.iterations - 1)
        return round(self.episodes * math.pow(last / self.episodes, share))

    def episodes_before(self, iteration: int) -> int:
        """Those of all iterations before one; of ``iterations``, of the whole stage."""
        return sum(self.episodes_of(each) for each in range(iteration))


@dataclass(frozen=True)
class Seen:
    """An iteration's episodes period by period, whichever decision a period belonged to.

    Attributes:
        decisions: One that begins at every period, encoded by ``OnlineState.features``.
        visual: Observation windows that were drawn from them, as of a ``DecisionBatch``, [S, ...].
        proprio: [S, n_obs, d_q].
    """

    decisions: EncodedDecisions
    visual: Tensor
    proprio: Tensor


@dataclass
class OnlineState:
    """What changes while learning."""

    proximal: ProximalState
    value: ValueState
    q: QNetwork
    features: DiffusionPolicy
    """The policy as it was at the beginning; its encoder is what the critics read."""
    replay: deque[EncodedDecisions]
    """Of the latest iterations."""
    before: EncodedDecisions | None = None
    """Decisions that there were before the first iteration."""
    averaged: dict[str, Tensor] = field(default_factory=dict)
    """Moving average of the policy's weights, as :func:`weights`; empty before the first
    iteration."""
    iteration: int = 0
    q_has_learned: bool = False
    """Whether its first regression, the longest, is behind it."""

    @property
    def policy(self) -> DiffusionPolicy:
        """The current policy."""
        return self.proximal.policy


def init(policy: DiffusionPolicy, config: OnlineConfig, seed: int) -> OnlineState:
    """Start from ``policy``, which is changed in place; ``seed`` initialises the critics."""
    features = copy.deepcopy(policy).requires_grad_(False)
    size = policy.config.action
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # layers initialise themselves from the global generator
        v = value.init(policy.condition_dim, config.value)
        q = place(critics.init(policy.condition_dim, size.n_chunk * size.dim, config.replay))
    proximate = proximal.init(policy, config.proximal)
    return OnlineState(proximate, v, q, features, deque(maxlen=config.replay.buffers))


def begin_with(
    state: OnlineState,
    data: EncodedDecisions | None,
    own: EncodedDecisions | None,
    generator: torch.Generator,
    config: OnlineConfig,
) -> None:
    """Take over what is known before the first iteration.

    Args:
        state: Fresh.
        data: All decisions there are, of whomever, encoded by ``state.features``; Q learns from
            them. It stays with the state, but is not part of :func:`state_dict`.
        own: Those of the policy that begins; V learns from them now.
        generator: Order of the minibatches.
        config: Settings.
    """
    state.before = data
    if own is not None:
        value.update(state.value, value.buffer_of(own), generator, config.value)


def update(
    state: OnlineState,
    batch: DecisionBatch,
    seen: Seen | None,
    generator: torch.Generator,
    config: OnlineConfig,
) -> dict[str, float]:
    """One iteration on decisions that the current policy has just made.

    Args:
        state: Changed in place.
        batch: The decisions, with their chains.
        seen: The same episodes period by period; None without Q.
        generator: Draws and order of the minibatches.
        config: Settings.

    Returns:
        What ``proximal.improve`` and ``value.update`` tell, the latter as ``value_*``;
        ``foreign``, the share of the decisions that the policy has not made as they were recorded,
        and whose chains it does not learn from; and what
        ``critics.regress`` tells as ``q_*`` with ``q_spread``, the standard deviation of Q among
        the draws of one observation, root mean square.
    """
    decided = _encoded(state.features, batch)
    buffer = decided if seen is None else value.buffer_of(seen.decisions)
    told = value.update(state.value, buffer, generator, config.value)
    metrics = {f"value_{key}": number for key, number in told.items()}
    limit = config.proximal.advantage_limit
    advantages = value.advantages(state.value, decided, config.value)
    own = _drawn_by_it(state.policy, batch.chains)
    metrics["foreign"] = 1.0 - float(own.float().mean())
    chains = batch.chains.where(own)
    advantages = standardise(advantages[own], limit)
    if seen is not None:
        told = _learn_q(state, seen.decisions, generator, config)
        drawn, compared = _draw(state, seen, generator, config)
        chains = chains.followed_by(drawn)
        advantages = torch.cat((advantages, standardise(compared, limit)))
        metrics |= {f"q_{key.removeprefix('q_')}": number for key, number in told.items()}
        metrics["q_spread"] = float(compared.square().mean().sqrt())
    metrics |= proximal.improve(state.proximal, chains, advantages, generator, config.proximal)
    state.averaged = average(state.averaged, weights(state), config.average)
    state.iteration += 1
    return metrics


def _drawn_by_it(policy: DiffusionPolicy, chains: ChainBatch) -> Tensor:
    """Which chains the policy drew at the observations that they come with, [D] bool.

    Raises:
        LearningError: If too many are not: nothing is changed, and what they are of is not known.
    """
    own: Tensor = proximal.ratio_errors(policy, chains) < _OWN_RATIO
    foreign = 1.0 - float(own.float().mean())
    if foreign > _MOST_FOREIGN:
        raise LearningError(
            f"{100 * foreign:.0f} % of {len(chains)} decisions have another likelihood under the "
            "policy than was recorded with them, so it has not made them, or not on what is "
            "recorded; look whether camera pose, normaliser and version are those that it acted "
            "with, and collect again"
        )
    return own


_OWN_RATIO, _MOST_FOREIGN = 0.05, 0.2
"""A ratio further from one is not rounding; share of the decisions."""


def _encoded(features: DiffusionPolicy, batch: DecisionBatch) -> ValueBuffer:
    return ValueBuffer(
        encode_windows(features, batch.visual, batch.proprio),
        encode_windows(features, batch.next_visual, batch.next_proprio),
        batch.rewards,
        batch.discounts,
        batch.ends,
    )


def _learn_q(
    state: OnlineState,
    newest: EncodedDecisions,
    generator: torch.Generator,
    config: OnlineConfig,
) -> dict[str, float]:
    state.replay.append(newest)
    known = [] if state.before is None else [state.before]
    data = EncodedDecisions.joined([*known, *state.replay])
    with torch.no_grad():
        following = state.value.network(data.next_condition)
    target = q_target(data.rewards, data.discounts, following)
    how = config.replay
    if not state.q_has_learned:
        state.q_has_learned = True
        how = replace(how, steps=how.first_steps, lr=2.0 * how.lr)
    return critics.regress(state.q, data, target, generator, how)


@torch.no_grad()
def _draw(
    state: OnlineState, seen: Seen, generator: torch.Generator, config: OnlineConfig
) -> tuple[ChainBatch, Tensor]:
    """Chains of the policy as it is now, and their advantages by Q, [S M]."""
    draws = config.replay.draws
    own = encode_windows(state.policy, seen.visual, seen.proprio)
    each = torch.arange(len(own), device=own.device)
    chain = proximal.draw_chains(state.policy, own.repeat_interleave(draws, dim=0), generator)
    frozen = encode_windows(state.features, seen.visual, seen.proprio)
    actions = chain.latents[:, -1].clamp(-1.0, 1.0)
    worth = state.q(frozen.repeat_interleave(draws, dim=0), actions).mean(dim=0)
    chains = ChainBatch(
        seen.visual, seen.proprio, each.repeat_interleave(draws), chain.latents, chain.log_probs
    )
    return chains, sampled_advantage(worth.view(-1, draws)).flatten()


def weights(state: OnlineState) -> dict[str, Tensor]:
    """A copy of the policy's weights, without those of its student."""
    named = state.policy.state_dict()
    return {key: each.clone() for key, each in named.items() if not key.startswith("student.")}


def average(before: dict[str, Tensor], now: dict[str, Tensor], decay: float) -> dict[str, Tensor]:
    """``decay`` of the weights before and the rest of those now; now, where there are none."""
    if not before:
        return now
    return {
        key: before[key].lerp(each, 1.0 - decay) if each.is_floating_point() else each
        for key, each in now.items()
    }


def forget_steps(
    state: OnlineState, earlier: dict[str, Tensor], seen: Seen | None, config: OnlineConfig
) -> None:
    """Go back to earlier weights of the policy, and on with half the rates.

    The critics stay, and what was played on the way is learned from by Q all the same. So does the
    student, which follows wherever its teacher goes.

    Args:
        state: Changed in place.
        earlier: Weights of a better policy, of :func:`weights`.
        seen: What was played by the policy that is given up.
        config: Settings.
    """
    state.policy.load_state_dict(earlier, strict=False)
    state.averaged = dict(earlier)
    state.proximal.optimizer.state.clear()  # moments of the steps that are given up
    proximal.slow_down(state.proximal, 0.5)
    remember(state, seen, config)


def remember(state: OnlineState, seen: Seen | None, config: OnlineConfig) -> None:
    """An iteration in which the policy stays as it is, and Q's data grow."""
    if seen is not None:
        state.replay.append(seen.decisions)
    state.averaged = average(state.averaged, weights(state), config.average)
    state.iteration += 1


def state_dict(state: OnlineState) -> dict[str, Any]:
    """Everything that an interrupted stage needs to go on to the same bits, but ``before``."""
    return {
        "iteration": state.iteration,
        "policy": state.policy.state_dict(),
        "averaged": state.averaged,
        "features": state.features.state_dict(),
        "proximal_optimizer": state.proximal.optimizer.state_dict(),
        "value": state.value.network.state_dict(),
        "value_optimizer": state.value.optimizer.state_dict(),
        "buffers": [vars(buffer) for buffer in state.value.buffers],
        "q": state.q.state_dict(),
        "q_has_learned": state.q_has_learned,
        "replay": [vars(decisions) for decisions in state.replay],
    }


def load_state_dict(state: OnlineState, saved: dict[str, Any]) -> None:
    """Restore what :func:`state_dict` gave."""
    state.iteration = saved["iteration"]
    state.policy.load_state_dict(saved["policy"])
    state.averaged = {key: each.to(state.policy.device) for key, each in saved["averaged"].items()}
    state.features.load_state_dict(saved["features"])
    state.proximal.optimizer.load_state_dict(saved["proximal_optimizer"])
    state.value.network.load_state_dict(saved["value"])
    state.value.optimizer.load_state_dict(saved["value_optimizer"])
    state.value.buffers.clear()
    device = state.policy.device
    state.value.buffers.extend(moved(ValueBuffer(**each), device) for each in saved["buffers"])
    state.q.load_state_dict(saved["q"])
    state.q_has_learned = saved["q_has_learned"]
    state.replay.clear()
    state.replay.extend(moved(EncodedDecisions(**each), device) for each in saved["replay"])
