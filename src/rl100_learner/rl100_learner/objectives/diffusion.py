# SPDX-License-Identifier: Apache-2.0
"""Denoising objective of imitation learning.

Symbols: a clean action chunk, eps its noise, abar remaining signal variance, x = sqrt(abar) a +
    sqrt(1 - abar) eps.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Target = Literal["epsilon", "sample", "velocity"]
"""What the network's output stands for: eps, a, or v = sqrt(abar) eps - sqrt(1 - abar) a."""


def add_noise(clean: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """Forward process x = sqrt(abar) a + sqrt(1 - abar) eps; abar is [B], the rest [B, ...]."""
    abar = _columns(alpha_bar, clean)
    return torch.sqrt(abar) * clean + torch.sqrt(1 - abar) * noise


def regression_target(clean: Tensor, noise: Tensor, alpha_bar: Tensor, target: Target) -> Tensor:
    """What the output is regressed on. [B, ...], [B, ...], [B] -> [B, ...]."""
    match target:
        case "epsilon":
            return noise
        case "sample":
            return clean
        case "velocity":
            abar = _columns(alpha_bar, clean)
            return torch.sqrt(abar) * noise - torch.sqrt(1 - abar) * clean


def diffusion_loss(
    output: Tensor, clean: Tensor, noise: Tensor, alpha_bar: Tensor, target: Target
) -> Tensor:
    """Mean squared error of the network's output against its target.

    With the implied predictions eps_hat = sqrt(1 - abar) x + sqrt(abar) v_hat and a_hat =
    sqrt(abar) x - sqrt(1 - abar) v_hat, the velocity loss is ``|eps_hat - eps|^2 / abar`` and
    ``|a_hat - a|^2 / (1 - abar)``, so it weighs neither end of the schedule to zero. At abar = 1
    it is the epsilon loss, at abar = 0 the sample loss.

    Args:
        output: Network output, [B, ...].
        clean: Clean normalised actions a, like output.
        noise: eps ~ Normal(0, 1), like output.
        alpha_bar: abar at each row's noise level, [B].
        target: What the output stands for.

    Returns:
        Scalar; gradients flow to ``output`` only.
    """
    return torch.mean((output - regression_target(clean, noise, alpha_bar, target).detach()) ** 2)


def _columns(per_row: Tensor, like: Tensor) -> Tensor:
    return per_row.view(-1, *(1,) * (like.dim() - 1))
