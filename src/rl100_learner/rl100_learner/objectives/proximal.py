# SPDX-License-Identifier: Apache-2.0
"""Proximal policy objective over the K transitions of a denoising chain, and its diagnostics.

Every transition of a decision shares the advantage of the decision:

    J = mean over (s, k) of min(rho_k A, clip(rho_k, 1 - eps, 1 + eps) A),
    rho_k = pi(x_{k+1} | x_k, s) / pi_i(x_{k+1} | x_k, s)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


def clipped_surrogate(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, clip: float
) -> Tensor:
    """-J, to be minimised.

    At log_probs = old_log_probs its value is -mean(A) and its gradient that of
    -mean(A log pi); a row whose ratio has left the clip range to the side that A favours has no
    gradient.

    Args:
        log_probs: log pi(x_{k+1} | x_k, s), nat, [B], any mix of states and transitions.
        old_log_probs: The same under pi_i, [B]. No gradient reaches it.
        advantages: A of each row's decision, [B], usually standardised.
        clip: eps, half width of the clip range.

    Returns:
        Scalar.

    Source: RL-100, K-step denoising objective; averaged over transitions as in the equation, not
    taken one transition after the other as in the published code.
    """
    ratio = torch.exp(log_probs - old_log_probs.detach())
    kept = ratio.clamp(1.0 - clip, 1.0 + clip)
    a = advantages.detach()
    return -torch.minimum(ratio * a, kept * a).mean()


def standardise(advantages: Tensor, limit: float = math.inf) -> Tensor:
    """Zero mean and unit variance, then clamped to +- limit; all zero if they are all equal."""
    spread = advantages.std(unbiased=False)
    centred = advantages - advantages.mean()
    if float(spread) <= 1e-8 * max(1.0, float(advantages.abs().max())):
        return torch.zeros_like(advantages)
    return (centred / spread).clamp(-limit, limit)


@dataclass(frozen=True)
class RatioStatistics:
    """How far a policy has moved from the one that its data are of."""

    kl: float
    """KL(pi_i | pi) of one transition, mean, nat: mean(rho - 1 - log rho) >= 0."""
    shift: float
    """mean (log rho)^2 / 2, nat: the KL of a small shift of a Gaussian, without the exponential
    tail that lets a few rows decide the mean above."""
    clipped: float
    """Share of rows outside the clip range."""


def ratio_statistics(log_probs: Tensor, old_log_probs: Tensor, clip: float) -> RatioStatistics:
    """Statistics of the ratios of a minibatch; arguments as in :func:`clipped_surrogate`."""
    log_ratio = (log_probs - old_log_probs).detach()
    ratio = log_ratio.exp()
    return RatioStatistics(
        kl=float((ratio - 1.0 - log_ratio).mean()),
        shift=float(0.5 * (log_ratio**2).mean()),
        clipped=float(((ratio - 1.0).abs() > clip).float().mean()),
    )


def symmetric_gaussian_kl(mean: Tensor, other_mean: Tensor, sigma: float | Tensor) -> Tensor:
    """Half the sum of both KLs of Gaussians with equal sigma: |mean - other|^2 / (2 sigma^2).

    Args:
        mean: [B, ...].
        other_mean: Like mean.
        sigma: Standard deviation, scalar or broadcastable to mean.

    Returns:
        [B], nat, summed over the components. For equal deviations both directions agree.
    """
    squares = ((mean - other_mean) / torch.as_tensor(sigma)) ** 2
    return 0.5 * squares.flatten(1).sum(dim=1)
