# SPDX-License-Identifier: Apache-2.0
"""Critics. They see the condition vector that an encoder makes of an observation window."""

from __future__ import annotations

from itertools import pairwise

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
