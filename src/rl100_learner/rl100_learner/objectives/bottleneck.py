# SPDX-License-Identifier: Apache-2.0
"""Variational information bottleneck on encoder features."""

from __future__ import annotations

from torch import Tensor


def standard_normal_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(Normal(mean, exp(log_variance)) | Normal(0, 1)), summed over features, mean over rows.

    = -1/2 sum(1 + log_variance - mean^2 - exp(log_variance)); zero exactly at mean 0, variance 1.

    Args:
        mean: [B, F].
        log_variance: [B, F], nat.

    Returns:
        Scalar, nat.

    Source: RL-100, variational bottleneck of the encoder.
    """
    terms = 1.0 + log_variance - mean**2 - log_variance.exp()
    return -0.5 * terms.sum(dim=-1).mean()
