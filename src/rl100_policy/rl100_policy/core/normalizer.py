# SPDX-License-Identifier: Apache-2.0
"""Affine maps between physical units and [-1, 1], fitted once and kept with the weights."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from rl100_policy.core.errors import ConfigError


class LimitsNormalizer(nn.Module):
    """Per-dimension min-max map: low -> -1, high -> 1, a dimension that never changed -> 0.

    Buffers ``centre`` and ``half_range`` [d] (float32, physical units) are part of the state dict,
    so a saved policy brings its normaliser along bit for bit.
    """

    centre: Tensor
    half_range: Tensor

    def __init__(self, dim: int) -> None:
        """Start as the identity on ``dim`` dimensions."""
        super().__init__()
        self.register_buffer("centre", torch.zeros(dim))
        self.register_buffer("half_range", torch.ones(dim))

    @torch.no_grad()
    def fit(self, values: Tensor) -> Self:
        """Take the limits of ``values`` [..., d], physical units.

        Raises:
            ConfigError: If there are no values, the dimension disagrees or one is not finite.
        """
        dim = self.centre.shape[0]
        if values.numel() == 0 or values.shape[-1] != dim:
            raise ConfigError(
                f"normaliser needs values of {dim} dimensions, got shape {tuple(values.shape)}"
            )
        flat = values.reshape(-1, dim)
        if not bool(torch.isfinite(flat).all()):
            raise ConfigError(
                "normaliser was given non-finite values; drop the episode they come from"
            )
        low, high = flat.amin(0), flat.amax(0)
        half = (high - low) / 2
        # A spread below float32 resolution of the value itself is rounding, not signal.
        constant = half <= 4 * torch.finfo(torch.float32).eps * torch.maximum(
            low.abs(), high.abs()
        )
        self.centre.copy_(low + half)
        self.half_range.copy_(torch.where(constant, torch.ones_like(half), half))
        return self

    def forward(self, physical: Tensor) -> Tensor:
        """Physical units to [-1, 1]; values outside the limits go beyond. Shape [..., d]."""
        return (physical - self.centre) / self.half_range

    def inverse(self, normalised: Tensor) -> Tensor:
        """[-1, 1] to physical units. [..., d] -> [..., d]."""
        return normalised * self.half_range + self.centre


class PolicyNormalizer(nn.Module):
    """The normalisers of a policy: action and proprioception (SI), cloud (base frame, m)."""

    def __init__(self, action_dim: int, proprio_dim: int) -> None:
        """Start as the identity."""
        super().__init__()
        self.action = LimitsNormalizer(action_dim)
        self.proprio = LimitsNormalizer(proprio_dim)
        self.cloud = LimitsNormalizer(3)

    def fit(self, *, actions: Tensor, proprio: Tensor, clouds: Tensor | None = None) -> Self:
        """Take the limits of what a policy is given and returns.

        Args:
            actions: [..., d_a].
            proprio: [..., d_q].
            clouds: [..., 3] points. None, no points at all, and pixels (uint8) leave the
                normaliser of clouds as it is.

        Raises:
            ConfigError: If there are no actions or proprioception, a dimension disagrees or a
                value is not finite.
        """
        self.action.fit(actions)
        self.proprio.fit(proprio)
        if clouds is not None and clouds.numel() and clouds.dtype != torch.uint8:
            self.cloud.fit(clouds)
        return self
