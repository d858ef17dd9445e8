# SPDX-License-Identifier: Apache-2.0
"""One episode as the learner sees it: aligned arrays on the control grid."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rl100_policy.core.errors import BagError
from rl100_policy.core.observation import Visual

Outcome = Literal["success", "failure", "unlabelled"]
_JUST_BEFORE = 3
"""Control periods."""


@dataclass(frozen=True)
class Episode:
    """Observations and executed actions of one episode.

    Row t of ``visual``, ``proprio`` and ``stamps_ns`` is the observation at the start of control
    period t; row t of ``actions`` is what was executed during [stamps_ns[t], stamps_ns[t + 1]).
    The last observation has no action.

    Attributes:
        id: Episode id, unique among all bags.
        outcome: What the person watching said.
        visual: What was seen: points, [T + 1, N, 3] float32, robot base frame [m], fewer distinct
            ones tiled to N; or pixels, [T + 1, H, W, 3] uint8, red, green, blue; or nothing,
            [T + 1, 0, 3] float32.
        proprio: [T + 1, d_q] float32, SI units; the first three numbers are the tool position,
            base frame [m].
        actions: [T, d_a] float32, SI units of the action space (m/s, rad/s, rad).
        stamps_ns: [T + 1] int64, ROS time, strictly increasing.
        source_sha256: SHA-256 of the bag the episode was read from; empty if it never was in a
            bag.
        lasted: Control periods from the first command of the recording to the last, those that
            are left out included; 0: as many as there are actions.
        taken_over: A policy was in command for a part of it, and a person for another, so that
            its end is not all the policy's doing.

    Raises:
        BagError: If lengths, dimensions or dtypes disagree, a value is not finite, or time does
            not increase.
    """

    id: str
    outcome: Outcome
    visual: Visual
    proprio: NDArray[np.float32]
    actions: NDArray[np.float32]
    stamps_ns: NDArray[np.int64]
    source_sha256: str = ""
    lasted: int = 0
    taken_over: bool = False

    def __post_init__(self) -> None:
        """Check the invariants above once, so that nothing downstream has to."""
        n_frames = len(self.actions) + 1
        of_visual = (4, np.uint8) if self.visual.dtype == np.uint8 else (3, np.float32)
        shapes: dict[str, tuple[NDArray[Any], int, type[np.generic]]] = {
            "visual": (self.visual, *of_visual),
            "proprio": (self.proprio, 2, np.float32),
            "actions": (self.actions, 2, np.float32),
            "stamps_ns": (self.stamps_ns, 1, np.int64),
        }
        for name, (array, ndim, dtype) in shapes.items():
            rows = n_frames - 1 if name == "actions" else n_frames
            if array.ndim != ndim or len(array) != rows or array.dtype != dtype:
                raise BagError(
                    f"episode {self.id!r}: {name} should be {np.dtype(dtype).name} with {ndim} "
                    f"dimensions and {rows} rows (one observation more than actions), found "
                    f"{array.dtype} {array.shape}; read the bag again"
                )
            if not np.isfinite(array).all():
                raise BagError(
                    f"episode {self.id!r}: {name} holds non-finite values; leave this episode out"
                )
        if n_frames < 2:
            raise BagError(f"episode {self.id!r} has no actions; leave it out")
        if (np.diff(self.stamps_ns) <= 0).any():
            raise BagError(
                f"episode {self.id!r}: stamps_ns must increase strictly; sort the frames and drop "
                "duplicates"
            )

    def __len__(self) -> int:
        """Number of executed actions T."""
        return len(self.actions)

    def ends_task(self, longest: int | None) -> bool:
        """Whether the task was over at the end: a success, or a failure before the time limit.

        A failure at the time limit, and an episode that nobody judged, are cut off. Where a
        recording tells how long it was, one that ended just before the limit counts as at it: a
        person who saw the time run out is not exact.

        Args:
            longest: Control periods until the time limit; None if nothing else ends a failure.
        """
        least = self.lasted + _JUST_BEFORE if self.lasted else len(self)
        early = longest is not None and least < longest
        return self.outcome == "success" or (self.outcome == "failure" and early)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the bag if known, otherwise of the arrays."""
        if self.source_sha256:
            return self.source_sha256
        sha = hashlib.sha256(self.outcome.encode())
        for array in (self.visual, self.proprio, self.actions, self.stamps_ns):
            sha.update(np.ascontiguousarray(array).tobytes())
        return sha.hexdigest()
