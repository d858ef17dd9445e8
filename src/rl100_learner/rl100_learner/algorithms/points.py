# SPDX-License-Identifier: Apache-2.0
"""Some of the points of a cloud, for training."""

from __future__ import annotations

import torch
from torch import Tensor


def draw_points(clouds: Tensor, rows: Tensor, n_points: int, generator: torch.Generator) -> Tensor:
    """``n_points`` of each cloud in ``rows``, in random order. [F, N, 3], [M] -> [M, n, 3]."""
    total = clouds.shape[1]
    keys = torch.rand((len(rows), total), generator=generator)
    order = keys.topk(min(n_points, total), dim=1).indices
    place = clouds.device
    return clouds[rows.unsqueeze(1).to(place), order.to(place)]
