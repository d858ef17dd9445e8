# SPDX-License-Identifier: Apache-2.0
"""Objectives of the offline critics: implicit Q-learning over decisions.

No action is asked for that is not in the data: V is an upper expectile of Q over the data's
actions, and Q regresses on rewards and V.
"""

from __future__ import annotations

import torch
from torch import Tensor


def expectile_loss(q: Tensor, v: Tensor, tau: float) -> Tensor:
    """V towards the tau-expectile of Q: mean of |tau - 1(q < v)| (q - v)^2.

    tau = 0.5 gives half the mean squared error; towards 1, V goes to the best Q among the data's
    actions.

    Args:
        q: min of the target critics at the data's actions, [B]. No gradient reaches it.
        v: V(s), [B].
        tau: Expectile, 0 < tau < 1.

    Returns:
        Scalar.

    Source: Kostrikov et al. 2021, as in RL-100.
    """
    error = q.detach() - v
    weight = torch.where(error < 0, 1.0 - tau, tau)
    return (weight * error**2).mean()


def q_target(rewards: Tensor, discounts: Tensor, next_v: Tensor) -> Tensor:
    """Target R + g V(s'), [B]; R and g of a decision as in ``objectives.returns``."""
    return (rewards + discounts * next_v).detach()


def q_loss(estimates: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of every critic, added: sum_i mean_b (Q_i - y)^2.

    Args:
        estimates: Q_i(s, a), [n_critics, B].
        target: y, [B].

    Returns:
        Scalar.
    """
    return ((estimates - target.detach()) ** 2).mean(dim=1).sum()
