# SPDX-License-Identifier: Apache-2.0
"""Rewards, returns and advantages of decisions that last several control periods.

Symbols: n_c control periods in a chunk, gamma the discount of one control period, d the decision,
V the value of its observation.
"""

from __future__ import annotations

import torch
from torch import Tensor


def chunk_reward(rewards: Tensor, executed: Tensor, gamma: float) -> Tensor:
    """Reward of a decision, R = sum_{j < n} gamma^j r_j over the n periods that were executed.

    Args:
        rewards: r_j of each control period, [B, n_c]; what lies beyond ``executed`` is ignored.
        executed: n, how many actions of the chunk were executed, [B] int64, 1 to n_c.
        gamma: Discount of one control period.

    Returns:
        [B], unit of the reward.

    Source: RL-100, action chunks.
    """
    period = torch.arange(rewards.shape[1], device=rewards.device)
    weight = gamma ** period.to(rewards.dtype) * (period < executed.unsqueeze(1))
    return (torch.where(weight > 0, rewards, 0.0) * weight).sum(dim=1)


def bootstrap_discount(executed: Tensor, terminated: Tensor, gamma: float) -> Tensor:
    """Factor of the next value in a decision's target: gamma^n, and zero after a true end.

    A time limit or a break in the recording is no end: the value goes on behind it.

    Args:
        executed: n, executed control periods, [B] int64.
        terminated: The task ended during the decision (success, or a failure that ends it),
            [B] bool.
        gamma: Discount of one control period.

    Returns:
        [B].
    """
    discount = gamma ** executed.to(torch.get_default_dtype())
    return torch.where(terminated, torch.zeros_like(discount), discount)


def generalised_advantage(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    discounts: Tensor,
    ends: Tensor,
    lam: float,
) -> Tensor:
    """GAE over decisions of one or more trajectories laid out in time.

    delta_d = R_d + g_d V(s_{d+1}) - V(s_d),    A_d = delta_d + g_d lambda A_{d+1}

    with A_{d+1} = 0 where the trajectory ends after d, whether it was terminated (then g_d = 0
    too) or truncated (then the value behind it still counts in delta_d).

    Args:
        rewards: R_d, :func:`chunk_reward`, [T] or [T, E].
        values: V(s_d), like rewards.
        next_values: V(s_{d+1}), the value of what was observed after the decision, also at the end
            of a trajectory, like rewards.
        discounts: g_d, :func:`bootstrap_discount`, like rewards.
        ends: The next row is of another trajectory, or there is none, like rewards, bool.
        lam: lambda; 0: A = delta, 1: A = discounted return minus value.

    Returns:
        A_d, like rewards. No gradient flows.

    Source: Schulman et al. 2016, with the discount of a whole decision in both places.
    """
    deltas = (rewards + discounts * next_values - values).detach()
    if len(deltas) == 0:
        return deltas
    last = ends.clone()
    last[-1] = True
    # trajectories one after the other, also those of several columns
    advantages, weights, left = (
        each.movedim(0, -1).flatten() for each in (deltas, lam * discounts, _rows_left(last))
    )
    advantages = advantages.clone()
    by_rows_left = torch.split(left.argsort(stable=True), torch.bincount(left.cpu()).tolist())
    for rows in by_rows_left[1:]:  # all trajectories at once, from their ends
        advantages[rows] = advantages[rows] + weights[rows] * advantages[rows + 1]
    return advantages.view_as(deltas.movedim(0, -1)).movedim(-1, 0)


def _rows_left(ends: Tensor) -> Tensor:
    """Rows from each to the next end, [T] or [T, E] bool to int64; the last row is an end."""
    rows = torch.arange(len(ends), device=ends.device).view(-1, *[1] * (ends.dim() - 1))
    at = torch.where(ends, rows, len(ends)).flip(0).cummin(dim=0).values.flip(0)
    return at - rows
