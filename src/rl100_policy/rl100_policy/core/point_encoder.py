# SPDX-License-Identifier: Apache-2.0
"""Point-cloud encoder as in DP3: one network shared by all points, a max pool, a linear head.

Each point is described relative to the middle of the cloud (shape), to the tool (contact) and in
the base frame (where the goal is). The gradient of a max pool reaches only the points that attain
a maximum, so training runs the network over all points without a graph, then again with a graph on
those critical points only: same value, same gradient, several times cheaper on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from rl100_policy.core.encoder import (
    Encoder,
    Features,
    build_bottleneck,
    decoder_stack,
    relu_stack,
)
from rl100_policy.core.normalizer import LimitsNormalizer, PolicyNormalizer
from rl100_policy.core.policy_config import PointEncoderConfig

TOOL_LIMIT = 3.0
"""Tool-relative coordinates saturate here, in units of tool_scale: far points need no exact
distance."""
ROWS_PER_TILE = 1024
"""Points per tile of the graph-free pass, so that a tile's activations stay in the second-level
cache."""

PointNetwork = Callable[[Tensor], Tensor]


def max_pool(network: PointNetwork, points: Tensor) -> Tensor:
    """Pooled features by plain automatic differentiation. [C, N, d] -> [C, F]."""
    return network(points).amax(dim=1)


def critical_max_pool(network: PointNetwork, points: Tensor) -> Tensor:
    """Pooled features with the graph built on the critical points only.

    Exact for any network that treats points independently (Linear, LayerNorm, ReLU; not
    BatchNorm): the same value and the same parameter gradient as :func:`max_pool`, up to rounding.
    No gradient flows to ``points``.

    Args:
        network: Maps [M, d] to [M, F], each row on its own.
        points: Point descriptions, [C, N, d].

    Returns:
        Maxima over the points, [C, F].
    """
    clouds, n_points, dim = points.shape
    with torch.no_grad():
        per_tile = max(1, ROWS_PER_TILE // n_points)
        winners = [
            network(tile.reshape(-1, dim)).view(len(tile), n_points, -1).max(dim=1).indices
            for tile in torch.split(points, per_tile)
        ]
        offsets = torch.arange(clouds, device=points.device).unsqueeze(1) * n_points
        rows = torch.cat(winners) + offsets
        critical = torch.zeros(clouds * n_points, dtype=torch.bool, device=points.device)
        critical[rows.reshape(-1)] = True
        position = critical.cumsum(0) - 1
    values = network(points.reshape(-1, dim)[critical])
    return values.gather(0, position[rows])


def cloud_centre(cloud: Tensor) -> Tensor:
    """Middle of the box around each cloud, whatever points repeat. [..., N, 3] -> [..., 3]."""
    return (cloud.amin(dim=-2) + cloud.amax(dim=-2)) / 2


class PointEncoder(Encoder):
    """A cloud and proprioception to one vector per frame.

    The vector holds the pooled features, proprioception, and the middle of the cloud (optional).
    """

    def __init__(self, config: PointEncoderConfig, proprio_dim: int) -> None:
        """Build freshly initialised layers."""
        super().__init__()
        self.config = config
        self.points = relu_stack(
            (3 * len(config.frames), *config.widths), layer_norm=config.layer_norm
        )
        self.head = nn.Sequential(
            nn.Linear(config.widths[-1], config.features), nn.LayerNorm(config.features)
        )
        sizes = (proprio_dim, *config.proprio_widths)
        self.proprio = relu_stack(sizes)
        self.frame_dim = config.features + (3 if config.append_centre else 0) + sizes[-1]
        self.decoder: nn.Sequential | None = None
        if config.reconstruction_points:
            self.decoder = decoder_stack(
                (config.features, *config.reconstruction_widths, 3 * config.reconstruction_points)
            )
        self.bottleneck = build_bottleneck(config, config.features, proprio_dim)

    def describe(
        self, cloud: Tensor, centre: Tensor, tool: Tensor, limits: LimitsNormalizer
    ) -> Tensor:
        """Dimensionless coordinates of every point in the configured frames.

        Args:
            cloud: [C, N, 3], base frame [m].
            centre: Middle of each cloud, [C, 3], base frame [m].
            tool: Tool position, [C, 3], base frame [m].
            limits: Maps base-frame points to [-1, 1].

        Returns:
            [C, N, 3 * len(frames)].
        """
        parts: list[Tensor] = []
        for frame in self.config.frames:
            match frame:
                case "centre":
                    parts.append((cloud - centre.unsqueeze(1)) / self.config.centre_scale)
                case "tool":
                    relative = (cloud - tool.unsqueeze(1)) / self.config.tool_scale
                    parts.append(relative.clamp(-TOOL_LIMIT, TOOL_LIMIT))
                case "base":
                    parts.append(limits(cloud))
        return torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0]

    def pooled(
        self, cloud: Tensor, centre: Tensor, tool: Tensor, limits: LimitsNormalizer
    ) -> Tensor:
        """Description of each cloud, [C, features]; arguments as in :meth:`describe`."""
        points = self.describe(cloud, centre, tool, limits)
        pool = critical_max_pool if torch.is_grad_enabled() else max_pool
        features: Tensor = self.head(pool(self.points, points))
        return features

    def look(
        self, visual: Tensor, proprio: Tensor, normalizer: PolicyNormalizer
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Description of each cloud, [C, features]; its middle, [-1, 1], if it is asked for."""
        centre = cloud_centre(visual)
        pooled = self.pooled(visual, centre, proprio[:, :3], normalizer.cloud)
        return pooled, (normalizer.cloud(centre),) if self.config.append_centre else ()

    def visual_modules(self) -> Iterable[nn.Module]:
        """Point network and head."""
        return self.points, self.head

    def reconstruct_points(
        self, features: Features, visual: Tensor
    ) -> tuple[Tensor, Tensor] | None:
        """Decoded and given points relative to the middle of the cloud, in centre_scale."""
        if self.decoder is None:
            return None
        centred = (visual - cloud_centre(visual).unsqueeze(1)) / self.config.centre_scale
        return self.decoder(features.visual).unflatten(-1, (-1, 3)), centred
