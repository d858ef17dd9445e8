# SPDX-License-Identifier: Apache-2.0
"""Batches that algorithms learn from."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class WindowBatch:
    """Observation windows and the action chunks that followed them.

    Attributes:
        cloud: [U, n_obs, N, 3] float32, base frame [m]; points of a cloud in random order.
        proprio: [U, n_obs, d_q] float32, SI units.
        actions: [U, n_c, d_a] float32, SI units of the action space.
    """

    cloud: Tensor
    proprio: Tensor
    actions: Tensor
