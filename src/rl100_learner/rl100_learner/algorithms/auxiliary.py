# SPDX-License-Identifier: Apache-2.0
"""What keeps the features of an encoder honest: reconstruction and the information bottleneck.

    loss = w_points chamfer(D(z), P) + w_proprio |D'(z') - q|^2 + w_bottleneck KL(p(z, z' | o) | N)

z and z' are the latents of what is seen and of proprioception, P the points, q normalised
proprioception, N the standard normal. A term that an encoder has no head for is zero.

Source: RL-100, variational bottleneck and reconstruction; reinforcement learning takes a tenth of
the weights of imitation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from rl100_learner.algorithms.points import draw_points
from rl100_learner.objectives.bottleneck import standard_normal_kl
from rl100_learner.objectives.chamfer import chamfer_distance
from rl100_policy.core.policy import DiffusionPolicy, Encoding


@dataclass(frozen=True)
class AuxiliaryWeights:
    """Weights of the terms; a term of weight 0 is not computed."""

    chamfer: NonNegativeFloat = 0.0
    proprio: NonNegativeFloat = 0.0
    bottleneck: NonNegativeFloat = 0.0

    def scaled(self, factor: float) -> Self:
        """All weights times ``factor``."""
        return type(self)(self.chamfer * factor, self.proprio * factor, self.bottleneck * factor)


@dataclass(frozen=True)
class AuxiliaryLoss:
    """Terms without their weights, and their weighted sum; scalars with gradients.

    Attributes:
        total: Weighted sum.
        chamfer: Distance between decoded and seen points, in the encoder's centre_scale.
        proprio: Mean squared error of decoded proprioception, squared normalised units.
        bottleneck: Divergence of the latents of a frame from the standard normal, nat.
    """

    total: Tensor
    chamfer: Tensor
    proprio: Tensor
    bottleneck: Tensor

    def metrics(self) -> dict[str, float]:
        """``loss_chamfer``, ``loss_proprio`` and ``loss_bottleneck``, without their weights."""
        return {
            "loss_chamfer": float(self.chamfer.detach()),
            "loss_proprio": float(self.proprio.detach()),
            "loss_bottleneck": float(self.bottleneck.detach()),
        }


def auxiliary_loss(
    policy: DiffusionPolicy,
    encoding: Encoding,
    visual: Tensor,
    proprio: Tensor,
    weights: AuxiliaryWeights,
    chamfer_points: int,
    generator: torch.Generator,
) -> AuxiliaryLoss:
    """Reconstruction and bottleneck terms of a batch that is encoded already.

    Args:
        policy: Whose encoder has the heads.
        encoding: ``policy.encode_window(visual, proprio, ...)``, with a graph.
        visual: What was seen, as for ``policy.encode``.
        proprio: [B, n_obs, d_q], SI units.
        weights: Of the terms.
        chamfer_points: Points of each cloud that decoded ones are compared with, drawn afresh.
        generator: Draws them.
    """
    encoder, features = policy.encoder, encoding.features
    chamfer = proprio_error = bottleneck = encoding.condition.new_zeros(())
    if weights.chamfer > 0:
        points = encoder.reconstruct_points(features, visual.flatten(0, 1))
        if points is not None:
            decoded, seen = points
            every = torch.arange(len(seen))
            chamfer = chamfer_distance(
                decoded, draw_points(seen, every, chamfer_points, generator)
            )
    if weights.proprio > 0:
        decoded_proprio = encoder.reconstruct_proprio(features)
        if decoded_proprio is not None:
            target = policy.normalizer.proprio(proprio.flatten(0, 1))
            proprio_error = torch.mean((decoded_proprio - target) ** 2)
    if weights.bottleneck > 0 and features.posterior is not None:
        bottleneck = standard_normal_kl(features.posterior.mean, features.posterior.log_variance)
    total = (
        weights.chamfer * chamfer
        + weights.proprio * proprio_error
        + weights.bottleneck * bottleneck
    )
    return AuxiliaryLoss(total, chamfer, proprio_error, bottleneck)
