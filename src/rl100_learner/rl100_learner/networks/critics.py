# SPDX-License-Identifier: Apache-2.0
"""Critics and models: they see the condition vectors that an encoder makes of observations.

All of them are ensembles whose members are computed together: one batched matrix product costs a
CPU hardly more than the product of a single member.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from rl100_learner.objectives.transition import soft_clamp
from rl100_policy.core.precision import network_precision


class _EnsembleLinear(nn.Module):
    """One linear layer per member, initialised like ``torch.nn.Linear``."""

    def __init__(self, members: int, d_in: int, d_out: int) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(d_in)
        self.weight = nn.Parameter(torch.empty(members, d_in, d_out).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(members, 1, d_out).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x, self.weight)


class _EnsembleNorm(nn.Module):
    """LayerNorm with a scale and a shift per member."""

    def __init__(self, members: int, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(members, 1, width))
        self.shift = nn.Parameter(torch.zeros(members, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.layer_norm(x, x.shape[-1:]) * self.scale + self.shift


class EnsembleMlp(nn.Module):
    """Layer-normalised MLPs side by side, no dropout.

    ``network(x) -> [M, B, outputs]`` for x [B, inputs], the same for all members, or
    [M, B, inputs], rows of their own for each.
    """

    def __init__(self, members: int, inputs: int, widths: Sequence[int], outputs: int) -> None:
        """Freshly initialised from torch's global generator, every member on its own."""
        super().__init__()
        self.members = members
        layers: list[nn.Module] = []
        for d_in, d_out in pairwise((inputs, *widths)):
            layers += [_EnsembleLinear(members, d_in, d_out), _EnsembleNorm(members, d_out)]
            layers.append(nn.SiLU())
        last = widths[-1] if widths else inputs
        self.net = nn.Sequential(*layers, _EnsembleLinear(members, last, outputs))

    @network_precision
    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        stacked = x.unsqueeze(0).expand(self.members, -1, -1) if x.dim() == 2 else x
        if torch.is_grad_enabled() or x.device.type != "cpu" or stacked.shape[1] <= _CACHED_ROWS:
            out: Tensor = self.net(stacked)
            return out
        return torch.cat([self.net(rows) for rows in stacked.split(_CACHED_ROWS, dim=1)], dim=1)


_CACHED_ROWS = 512
"""Rows of every member at a time where no gradient is needed, so that what is between the layers
stays in the processor's cache. By a scratch script on one thread of a busy machine 40 000 rows of
five members took 1.5 to 1.7 instead of 3.5 s, to the same bits."""


class ValueNetwork(nn.Module):
    """V(s), the mean of some members. Condition [B, d_c] to [B], unit of the return."""

    def __init__(
        self, condition_dim: int, width: int = 256, layers: int = 2, members: int = 1
    ) -> None:
        """Freshly initialised."""
        super().__init__()
        self.net = EnsembleMlp(members, condition_dim, (width,) * layers, 1)

    def forward(self, condition: Tensor) -> Tensor:
        """See the class."""
        return self.each(condition).mean(dim=0)

    def each(self, condition: Tensor) -> Tensor:
        """Every member's value. [B, d_c] or [M, B, d_c] -> [M, B]."""
        value: Tensor = self.net(condition)
        return value.squeeze(-1)


class QNetwork(nn.Module):
    """Q_i(s, a) of some members. Condition [B, d_c] and chunk [B, n_c, d_a] to [M, B].

    The chunk is what is executed: normalised and clamped. Both may have a leading member
    dimension.
    """

    def __init__(
        self, condition_dim: int, chunk: int, width: int = 256, layers: int = 2, members: int = 2
    ) -> None:
        """Freshly initialised; ``chunk`` is n_c d_a."""
        super().__init__()
        self.net = EnsembleMlp(members, condition_dim + chunk, (width,) * layers, 1)

    def forward(self, condition: Tensor, action: Tensor) -> Tensor:
        """See the class."""
        q: Tensor = self.net(torch.cat((condition, action.flatten(-2)), dim=-1))
        return q.squeeze(-1)


class TransitionNetwork(nn.Module):
    """Probabilistic models of what is seen after a decision.

    Condition [B, d_c] and chunk [B, n_c, d_a] to mean and log-variance of the change of the
    condition, each [M, B, d_c], in units of ``scale``.
    """

    low: Tensor
    high: Tensor
    scale: Tensor

    def __init__(
        self, condition_dim: int, chunk: int, widths: Sequence[int], members: int
    ) -> None:
        """Freshly initialised; ``chunk`` is n_c d_a. ``scale`` is one until it is set."""
        super().__init__()
        self.net = EnsembleMlp(members, condition_dim + chunk, widths, 2 * condition_dim)
        self.least = nn.Parameter(torch.full((condition_dim,), -10.0))
        self.most = nn.Parameter(torch.full((condition_dim,), 0.5))
        self.register_buffer("scale", torch.ones(condition_dim))
        self.register_buffer("low", torch.full((condition_dim,), -math.inf))
        self.register_buffer("high", torch.full((condition_dim,), math.inf))

    def forward(self, condition: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        told: Tensor = self.net(torch.cat((condition, action.flatten(-2)), dim=-1))
        mean, raw = told.chunk(2, dim=-1)
        return mean, soft_clamp(raw, self.least, self.most)
