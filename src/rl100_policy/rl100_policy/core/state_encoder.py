# SPDX-License-Identifier: Apache-2.0
"""Encoder of proprioception alone, for tasks whose state is measured and not seen."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from rl100_policy.core.encoder import Encoder, build_bottleneck, relu_stack
from rl100_policy.core.normalizer import PolicyNormalizer
from rl100_policy.core.policy_config import StateEncoderConfig


class StateEncoder(Encoder):
    """Normalised proprioception, through an MLP if one is configured.

    No component of proprioception has a meaning of its own here.
    """

    def __init__(self, config: StateEncoderConfig, proprio_dim: int) -> None:
        """Build freshly initialised layers."""
        super().__init__()
        sizes = (proprio_dim, *config.proprio_widths)
        self.proprio = relu_stack(sizes)
        self.frame_dim = sizes[-1]
        self.bottleneck = build_bottleneck(config, 0, proprio_dim)

    def look(
        self,
        visual: Tensor,  # noqa: ARG002
        proprio: Tensor,
        normalizer: PolicyNormalizer,  # noqa: ARG002
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Nothing: [C, 0]."""
        return proprio[:, :0], ()

    def visual_modules(self) -> Iterable[nn.Module]:
        """None."""
        return ()
