# SPDX-License-Identifier: Apache-2.0
"""Likelihood of a probabilistic ensemble that predicts the next features."""

from __future__ import annotations

import torch
from torch import Tensor


def ensemble_nll(mean: Tensor, log_variance: Tensor, target: Tensor) -> Tensor:
    """Gaussian negative log-likelihood without constants: sum_m mean[(mu - y)^2 / var + log var].

    Its minimum over the variance is at var = (mu - y)^2, so a member learns how wrong it is.

    Args:
        mean: mu of each member, [M, B, F].
        log_variance: log var, like mean, nat.
        target: y, the change of the features over one decision, [B, F], or [M, B, F] when every
            member has its own rows.

    Returns:
        Scalar.

    Source: Chua et al. 2018 (PETS), as in the published code of RL-100.
    """
    error = (mean - target) ** 2 * torch.exp(-log_variance)
    return (error + log_variance).mean(dim=(1, 2)).sum()


def soft_clamp(log_variance: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Log-variance within the limits, with a gradient where it is beyond them, also to both.

    Above ``high`` by less than softplus(low - high), which is .007 for limits five apart.

    high - softplus(high - x), then low + softplus(x - low).
    """
    upper = high - torch.nn.functional.softplus(high - log_variance)
    return low + torch.nn.functional.softplus(upper - low)
