# SPDX-License-Identifier: Apache-2.0
"""Offline policy evaluation by the learned model (AM-Q) and the decision that it allows."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor


def am_q_estimate(q: Tensor) -> Tensor:
    """J = mean over start states and horizon of Q(s_h, a_h), along imagined rollouts.

    Args:
        q: [H, S]: decisions by start states. The published equation sums over H; the mean differs
            by the factor 1 / H and so leaves every comparison with a relative margin as it is.

    Returns:
        Scalar, unit of the return.

    Source: RL-100, offline policy evaluation; Uni-O4, Lei et al. 2024.
    """
    return q.mean()


@dataclass(frozen=True)
class GateDecision:
    """What the gate says about a candidate, with everything the decision rests on."""

    accepted: bool
    candidate: float
    """J of the candidate."""
    incumbent: float
    """J of the policy that is to be improved."""
    margin: float
    """delta = share |J of the incumbent|."""


def gate(candidate: float, incumbent: float, share: float = 0.05) -> GateDecision:
    """Accept iff J(candidate) is above J(incumbent) by share |J(incumbent)| or more.

    An equal candidate is never accepted, and NaN neither.

    Source: RL-100, the gate of iterative offline RL (the paper's rule; the published code has no
    margin, and keeps what was rejected).
    """
    margin, gain = share * abs(incumbent), candidate - incumbent
    return GateDecision(gain > 0.0 and gain >= margin, candidate, incumbent, margin)


def clearly_worse(won: int, of: int, best_won: int, best_of: int, deviations: float) -> bool:
    """Whether a success share lies below another by more than chance explains.

    Where one of them was chosen for being high, chance explains more.

    z = (p_best - p) / sqrt(q (1 - q) (1 / n + 1 / n_best)) > deviations, q the share of both.

    Args:
        won: Successes.
        of: Trials n.
        best_won: Successes of what it is compared with.
        best_of: Trials n_best of what it is compared with.
        deviations: How many standard deviations are more than chance.
    """
    pooled = (won + best_won) / (of + best_of)
    spread = math.sqrt(pooled * (1.0 - pooled) * (1.0 / of + 1.0 / best_of))
    return best_won / best_of - won / of > deviations * spread
