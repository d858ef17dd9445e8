# SPDX-License-Identifier: Apache-2.0
"""Advantages that Q tells of, and what a regression makes of them."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def offline_advantage(estimates: Tensor, v: Tensor) -> Tensor:
    """A = min_i Q_i(s, a) - V(s). [n_critics, B], [B] -> [B]."""
    return estimates.amin(dim=0) - v


def sampled_advantage(q: Tensor) -> Tensor:
    """A(s, a_m) = Q(s, a_m) - mean over the policy's own draws at s of Q(s, .).

    Nothing of it depends on the state alone: an error of Q that all actions of a state share
    cancels, where Q - V would keep it.

    Args:
        q: Of M draws of the policy at each of S states, [S, M].

    Returns:
        [S, M]; every row has zero mean.
    """
    return q - q.mean(dim=1, keepdim=True)


def regression_weights(advantages: Tensor, temperature: float, limit: float) -> Tensor:
    """Weights of advantage-weighted regression, w = min(exp(A / temperature), limit), [B].

    Towards an infinite temperature every action counts alike; towards zero only the best do.

    Source: Peng et al. 2019, as a baseline.
    """
    return torch.exp((advantages / temperature).clamp(max=math.log(limit)))
