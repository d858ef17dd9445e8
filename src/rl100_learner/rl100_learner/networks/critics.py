# SPDX-License-Identifier: Apache-2.0
"""Critics: how good an observation is, and how good a chunk of actions is there.

Both see the condition vector that the policy's encoder makes of an observation window.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn


def _mlp(inputs: int, width: int, layers: int) -> nn.Sequential:
    sizes = (inputs, *(width,) * layers)
    hidden: list[nn.Module] = []
    for d_in, d_out in pairwise(sizes):
        hidden += [nn.Linear(d_in, d_out), nn.LayerNorm(d_out), nn.Mish()]
    return nn.Sequential(*hidden, nn.Linear(width, 1))


class ValueNetwork(nn.Module):
    """V(s). Condition [B, d_c] to [B], unit of the return."""

    def __init__(self, condition_dim: int, width: int = 256, layers: int = 2) -> None:
        """Freshly initialised; layer-normalised, no dropout."""
        super().__init__()
        self.net = _mlp(condition_dim, width, layers)

    def forward(self, condition: Tensor) -> Tensor:
        """See the class."""
        value: Tensor = self.net(condition)
        return value.squeeze(-1)


class QNetworks(nn.Module):
    """Q_i(s, a), independent networks. [B, d_c], [B, n_c, d_a] to [n_critics, B].

    Actions are normalised and clamped, as they are executed.
    """

    def __init__(
        self,
        condition_dim: int,
        action_dim: int,
        width: int = 256,
        layers: int = 2,
        count: int = 2,
    ) -> None:
        """``action_dim`` is n_c * d_a."""
        super().__init__()
        self.nets = nn.ModuleList(
            _mlp(condition_dim + action_dim, width, layers) for _ in range(count)
        )

    def forward(self, condition: Tensor, actions: Tensor) -> Tensor:
        """See the class."""
        both = torch.cat((condition, actions.flatten(1)), dim=-1)
        return torch.stack([net(both).squeeze(-1) for net in self.nets])
