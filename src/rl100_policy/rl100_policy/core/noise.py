# SPDX-License-Identifier: Apache-2.0
"""Random numbers that do not depend on where they are used.

They are drawn where their generator is, on the CPU as a rule, and then moved: equal seeds give
equal noise on every device, and a recorded seed can be replayed on another machine.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def normal(
    shape: Sequence[int],
    generator: torch.Generator | None,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Standard normal numbers of ``shape`` on ``device``; without a generator from torch's own."""
    drawn = torch.randn(tuple(shape), generator=generator, dtype=dtype, device=_place(generator))
    return drawn.to(device)


def normal_by_row(shape: Sequence[int], seeds: Sequence[int], device: torch.device) -> Tensor:
    """As :func:`normal`, but every row has a seed of its own, whatever is drawn beside it."""
    rows = [
        torch.randn(tuple(shape[1:]), generator=torch.Generator().manual_seed(seed))
        for seed in seeds
    ]
    return torch.stack(rows).to(device)


def integers(
    below: int, shape: Sequence[int], generator: torch.Generator | None, device: torch.device
) -> Tensor:
    """Uniform int64 in 0 .. ``below`` - 1 of ``shape`` on ``device``."""
    drawn = torch.randint(below, tuple(shape), generator=generator, device=_place(generator))
    return drawn.to(device)


def _place(generator: torch.Generator | None) -> torch.device:
    return torch.device("cpu") if generator is None else generator.device
