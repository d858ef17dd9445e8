# SPDX-License-Identifier: Apache-2.0
"""Batches that algorithms learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class WindowBatch:
    """Observation windows and the action chunks that followed them.

    Attributes:
        visual: What was seen, as ``DiffusionPolicy`` takes it: [U, n_obs, N, 3] float32, base
            frame [m], points in random order; or pixels, or no points.
        proprio: [U, n_obs, d_q] float32, SI units.
        actions: [U, n_c, d_a] float32, SI units of the action space.
    """

    visual: Tensor
    proprio: Tensor
    actions: Tensor


@dataclass(frozen=True)
class ChainBatch:
    """Denoising chains and the observations that they were drawn at, one or several at each.

    Attributes:
        visual: What was seen, like that of a :class:`WindowBatch`, [S, n_obs, ...].
        proprio: [S, n_obs, d_q] float32, SI units.
        observation: Row of what every chain was drawn at, [D] int64.
        latents: [D, K + 1, n_c, d_a], x_T first, unclamped, normalised action units.
        log_probs: Log-density of the transitions when they were drawn, [D, K], nat.
    """

    visual: Tensor
    proprio: Tensor
    observation: Tensor
    latents: Tensor
    log_probs: Tensor

    def __len__(self) -> int:
        """Number of chains."""
        return len(self.latents)

    def where(self, chosen: Tensor) -> ChainBatch:
        """Some of the chains, [D] bool, in their order; all observations stay."""
        return ChainBatch(
            self.visual,
            self.proprio,
            self.observation[chosen],
            self.latents[chosen],
            self.log_probs[chosen],
        )

    def followed_by(self, other: ChainBatch) -> ChainBatch:
        """Both, one after the other."""
        return ChainBatch(
            torch.cat((self.visual, other.visual)),
            torch.cat((self.proprio, other.proprio)),
            torch.cat((self.observation, other.observation + len(self.visual))),
            torch.cat((self.latents, other.latents)),
            torch.cat((self.log_probs, other.log_probs)),
        )


@dataclass(frozen=True)
class DecisionBatch:
    """Decisions of a policy with what came of them; trajectories one after the other in time.

    Attributes:
        visual: What was seen, like that of a :class:`WindowBatch`, [D, n_obs, ...].
        proprio: [D, n_obs, d_q] float32, SI units.
        next_visual: What was seen after each decision, like visual.
        next_proprio: Like proprio.
        latents: Denoising chain of each decision, [D, K + 1, n_c, d_a], x_T first, unclamped,
            normalised action units.
        log_probs: Log-density of its transitions when they were drawn, [D, K], nat.
        rewards: R_d, [D] (``objectives.returns.chunk_reward``).
        discounts: g_d, [D] (``objectives.returns.bootstrap_discount``).
        ends: The next row is of another trajectory, or there is none, [D] bool.
    """

    visual: Tensor
    proprio: Tensor
    next_visual: Tensor
    next_proprio: Tensor
    latents: Tensor
    log_probs: Tensor
    rewards: Tensor
    discounts: Tensor
    ends: Tensor

    def __len__(self) -> int:
        """Number of decisions."""
        return len(self.rewards)

    @property
    def chains(self) -> ChainBatch:
        """How they were made, without what came of them."""
        each = torch.arange(len(self), device=self.visual.device)
        return ChainBatch(self.visual, self.proprio, each, self.latents, self.log_probs)


@dataclass(frozen=True)
class EncodedDecisions:
    """Decisions in the feature space of a frozen encoder; trajectories one after the other.

    Attributes:
        condition: Encoded observation windows, [D, d_c].
        action: What was executed, normalised and clamped, [D, n_c, d_a]; beyond the end of an
            episode its last action repeats.
        next_condition: After each decision, [D, d_c].
        rewards: R_d, [D] (``objectives.returns.chunk_reward``).
        discounts: g_d, [D] (``objectives.returns.bootstrap_discount``).
        ends: The next row is of another trajectory, or there is none, [D] bool.
        starts: The first decision of an episode, [D] bool.
    """

    condition: Tensor
    action: Tensor
    next_condition: Tensor
    rewards: Tensor
    discounts: Tensor
    ends: Tensor
    starts: Tensor

    def __len__(self) -> int:
        """Number of decisions."""
        return len(self.rewards)

    def where(self, chosen: Tensor) -> Self:
        """Some of them, [D] bool, in their order; whole trajectories, if they are to stay such."""
        return type(self)(*(getattr(self, each.name)[chosen] for each in fields(self)))

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Some of them, one after the other."""
        return cls(
            *(torch.cat([getattr(part, each.name) for part in parts]) for each in fields(cls))
        )
