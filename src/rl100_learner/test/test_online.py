# SPDX-License-Identifier: Apache-2.0
"""What online learning knows before its first iteration."""

from dataclasses import replace

import torch

from rl100_learner.algorithms import online
from rl100_learner.algorithms.batches import EncodedDecisions
from rl100_learner.algorithms.online import OnlineConfig, OnlineState
from rl100_learner.algorithms.value import ValueConfig
from rl100_policy.core.policy import DiffusionPolicy
from rl100_policy.core.policy_config import ActionSize, ObservationSize
from rl100_policy.core.presets import preset

CONFIG = replace(OnlineConfig(), value=ValueConfig(width=32, first_sweeps=30))


def begun(own: bool) -> tuple[OnlineState, EncodedDecisions]:
    """Of 256 decisions, each an episode, half of which succeed: one feature tells which."""
    torch.manual_seed(0)
    size = ObservationSize(n_obs=2, n_points=16, proprio_dim=3)
    policy = DiffusionPolicy(preset("small", size, ActionSize(n_chunk=4, dim=2)))
    condition = torch.randn(256, policy.condition_dim)
    condition[:, 0] = torch.arange(256) % 2 * 2.0 - 1.0
    ends = torch.ones(256, dtype=torch.bool)
    decisions = EncodedDecisions(
        condition, torch.zeros(256, 4, 2), condition, (condition[:, 0] > 0).float(),
        torch.zeros(256), ends, ends,
    )  # fmt: skip
    state = online.init(policy, CONFIG, seed=0)
    generator = torch.Generator().manual_seed(0)
    online.begin_with(state, decisions, decisions if own else None, generator, CONFIG)
    return state, decisions


def gap(state: OnlineState, decisions: EncodedDecisions) -> float:
    """By how much V of the successes exceeds that of the failures."""
    won = decisions.rewards > 0
    values = state.value.network(decisions.condition).detach()
    return float(values[won].mean() - values[~won].mean())


def test_v_begins_with_the_returns_of_the_policys_own_episodes():
    assert gap(*begun(own=True)) > 0.8


def test_v_knows_nothing_of_episodes_in_which_others_acted():
    state, decisions = begun(own=False)
    assert abs(gap(state, decisions)) < 0.3
    assert state.before is decisions, "Q learns from them"
