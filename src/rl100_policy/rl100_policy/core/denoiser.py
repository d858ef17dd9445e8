# SPDX-License-Identifier: Apache-2.0
"""Networks that see a noisy action chunk, a noise level and a condition.

No dropout: a density must not be random.

All have the same call:
``network(x [B, n_c, d_a], timestep [B] int64, condition [B, d_c]) -> [B, n_c, d_a]``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from rl100_policy.core.policy_config import (
    ActionSize,
    ResidualMlpConfig,
    SkipNetConfig,
    UNet1dConfig,
)
from rl100_policy.core.precision import network_precision


def sinusoidal_features(timestep: Tensor, dim: int, max_period: float = 10_000.0) -> Tensor:
    """Cosines then sines of the noise index at geometric frequencies. [B] -> [B, dim] float32."""
    half = dim // 2
    rate = torch.exp(
        -math.log(max_period)
        * torch.arange(half, device=timestep.device, dtype=torch.float32)
        / half
    )
    angle = timestep.to(torch.float32).unsqueeze(-1) * rate
    return torch.cat((angle.cos(), angle.sin()), dim=-1)


class _ResidualBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inner = nn.Linear(width, width)
        self.outer = nn.Linear(width, width)
        self.act = nn.SiLU()

    def forward(self, h: Tensor) -> Tensor:
        change: Tensor = self.outer(self.act(self.inner(self.act(self.norm(h)))))
        return h + change


class ResidualMlp(nn.Module):
    """Pre-norm residual MLP on chunk, time features and condition; the cheap choice on a CPU."""

    time_table: Tensor

    def __init__(
        self, config: ResidualMlpConfig, action: ActionSize, condition_dim: int, n_train: int
    ) -> None:
        """Time features of all ``n_train`` noise levels are tabulated once."""
        super().__init__()
        flat = action.n_chunk * action.dim
        self.input = nn.Linear(flat + config.time_features + condition_dim, config.width)
        self.blocks = nn.Sequential(*(_ResidualBlock(config.width) for _ in range(config.blocks)))
        self.norm = nn.LayerNorm(config.width)
        self.output = nn.Linear(config.width, flat)
        self.act = nn.SiLU()
        table = sinusoidal_features(torch.arange(n_train), config.time_features)
        self.register_buffer("time_table", table, persistent=False)

    @network_precision
    def forward(self, x: Tensor, timestep: Tensor, condition: Tensor) -> Tensor:
        """See the module docstring."""
        h = self.input(torch.cat((x.flatten(1), self.time_table[timestep], condition), dim=-1))
        flat: Tensor = self.output(self.act(self.norm(self.blocks(h))))
        return flat.view_as(x)


class _ConvBlock(nn.Sequential):
    def __init__(self, c_in: int, c_out: int, kernel: int, groups: int) -> None:
        super().__init__(
            nn.Conv1d(c_in, c_out, kernel, padding=kernel // 2),
            nn.GroupNorm(groups, c_out),
            nn.Mish(),
        )


class _FilmResidual(nn.Module):
    """Two convolutions with a condition-dependent scale and shift in between; residual."""

    def __init__(self, c_in: int, c_out: int, condition_dim: int, config: UNet1dConfig) -> None:
        super().__init__()
        self.first = _ConvBlock(c_in, c_out, config.kernel, config.groups)
        self.second = _ConvBlock(c_out, c_out, config.kernel, config.groups)
        self.film = nn.Sequential(nn.Mish(), nn.Linear(condition_dim, 2 * c_out))
        self.skip = nn.Conv1d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.film(condition).unsqueeze(-1).chunk(2, dim=1)
        sum_of_paths: Tensor = self.second(self.first(h) * scale + shift) + self.skip(h)
        return sum_of_paths


class UNet1d(nn.Module):
    """Conditional U-Net along the chunk, FiLM-conditioned on noise level and observation.

    Source: Diffusion Policy, Chi et al. 2023, as in the published code of RL-100 (sizes, kernel,
    groups, FiLM with scale and shift in every block).
    """

    def __init__(self, config: UNet1dConfig, action: ActionSize, condition_dim: int) -> None:
        """Levels as in ``config.channels``; the chunk halves between them."""
        super().__init__()
        self.time_features = config.time_features
        wide = 4 * config.time_features
        self.time = nn.Sequential(
            nn.Linear(config.time_features, wide), nn.Mish(), nn.Linear(wide, config.time_features)
        )
        film_dim = config.time_features + condition_dim
        sizes = (action.dim, *config.channels)
        pairs = list(pairwise(sizes))

        def residual(c_in: int, c_out: int) -> _FilmResidual:
            return _FilmResidual(c_in, c_out, film_dim, config)

        self.down = nn.ModuleList(
            nn.ModuleList((residual(i, o), residual(o, o))) for i, o in pairs
        )
        self.shrink = nn.ModuleList(nn.Conv1d(o, o, 3, stride=2, padding=1) for _, o in pairs[:-1])
        self.middle = nn.ModuleList(residual(sizes[-1], sizes[-1]) for _ in range(2))
        up = [(o, i) for i, o in reversed(pairs[1:])]
        self.up = nn.ModuleList(nn.ModuleList((residual(2 * i, o), residual(o, o))) for i, o in up)
        self.grow = nn.ModuleList(nn.ConvTranspose1d(o, o, 4, stride=2, padding=1) for _, o in up)
        first = config.channels[0]
        self.output = nn.Sequential(
            _ConvBlock(first, first, config.kernel, config.groups), nn.Conv1d(first, action.dim, 1)
        )

    @network_precision
    def forward(self, x: Tensor, timestep: Tensor, condition: Tensor) -> Tensor:
        """See the module docstring."""
        film = torch.cat(
            (self.time(sinusoidal_features(timestep, self.time_features)), condition), dim=-1
        )
        h, skips = x.transpose(1, 2), []
        down = cast("Iterable[Iterable[nn.Module]]", self.down)
        up = cast("Iterable[Iterable[nn.Module]]", self.up)
        for level, (first, second) in enumerate(down):
            h = second(first(h, film), film)
            skips.append(h)
            if level < len(self.shrink):
                h = self.shrink[level](h)
        for block in self.middle:
            h = block(h, film)
        for (first, second), grow in zip(up, self.grow, strict=True):
            h = second(first(torch.cat((h, skips.pop()), dim=1), film), film)
            h = grow(h)
        output: Tensor = self.output(h)
        return output.transpose(1, 2)


class _WideBlock(nn.Module):
    """h + W2 relu(W1 LayerNorm(h)), four times as wide inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)

    def forward(self, h: Tensor) -> Tensor:
        change: Tensor = self.narrow(torch.relu(self.widen(self.norm(h))))
        return h + change


class SkipNet(nn.Module):
    """Residual MLP of single-step policies; any chunk length works, flattened.

    Source: Skip-Net in the published code of RL-100. Differs: no dropout in the blocks.
    """

    def __init__(self, config: SkipNetConfig, action: ActionSize, condition_dim: int) -> None:
        """Freshly initialised."""
        super().__init__()
        flat, features = action.n_chunk * action.dim, config.time_features
        self.time_features = features
        self.time = nn.Sequential(
            nn.Linear(features, 2 * features), nn.Mish(), nn.Linear(2 * features, features)
        )
        self.input = nn.Linear(flat + features + condition_dim, config.hidden)
        self.blocks = nn.Sequential(*(_WideBlock(config.hidden) for _ in range(config.depth)))
        self.output = nn.Linear(config.hidden, flat)

    @network_precision
    def forward(self, x: Tensor, timestep: Tensor, condition: Tensor) -> Tensor:
        """See the module docstring."""
        time = self.time(sinusoidal_features(timestep, self.time_features))
        h = self.blocks(self.input(torch.cat((x.flatten(1), time, condition), dim=-1)))
        flat: Tensor = self.output(torch.relu(h))
        return flat.view_as(x)


Denoiser = ResidualMlp | UNet1d | SkipNet


def build_denoiser(
    config: ResidualMlpConfig | UNet1dConfig | SkipNetConfig,
    action: ActionSize,
    condition_dim: int,
    n_train: int,
) -> Denoiser:
    """The network a configuration describes, freshly initialised."""
    match config:
        case ResidualMlpConfig():
            return ResidualMlp(config, action, condition_dim, n_train)
        case UNet1dConfig():
            return UNet1d(config, action, condition_dim)
        case SkipNetConfig():
            return SkipNet(config, action, condition_dim)
