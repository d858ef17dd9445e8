# SPDX-License-Identifier: Apache-2.0
"""Distance between point sets, for reconstructing clouds."""

from __future__ import annotations

import torch
from torch import Tensor


def chamfer_distance(first: Tensor, second: Tensor) -> Tensor:
    """Mean nearest-neighbour distance from each set to the other, added; Euclidean, not squared.

    Symmetric; zero if and only if each point has a twin; does not depend on the order of points.

    Args:
        first: [C, M, 3], any unit.
        second: [C, N, 3], same unit.

    Returns:
        Scalar, mean over the clouds, same unit. Gradients flow to both.

    Source: RL-100, reconstruction; unsquared distances as in the published code.
    """
    distance = torch.cdist(first, second, compute_mode="donot_use_mm_for_euclid_dist")
    # min with an index, not amin: its gradient is one scatter instead of a comparison with every
    # distance.
    return distance.min(dim=2).values.mean() + distance.min(dim=1).values.mean()
