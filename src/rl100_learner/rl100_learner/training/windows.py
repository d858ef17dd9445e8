# SPDX-License-Identifier: Apache-2.0
"""Training windows: the last n_obs frames before a decision and the actions that followed.

The frame stamped t goes with the action executed during [t, t + period). At both ends of an
episode the window is padded by repeating the first frame or the last action, as the policy node
does at the start of an episode.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rl100_learner.algorithms.batches import WindowBatch
from rl100_learner.algorithms.points import draw_points
from rl100_learner.data.episode import Episode
from rl100_policy.core.errors import ConfigError
from rl100_policy.core.policy import DiffusionPolicy
from rl100_policy.core.policy_config import PolicyConfig

FRAMES_PER_PASS = 512
"""Frames encoded at a time; bounds memory."""
IMAGES_PER_PASS = 64
"""The same of images, which become 16 times as large in a ResNet's first layer alone."""


@dataclass(frozen=True)
class WindowSet:
    """All windows of a set of episodes, as indices into frames stored once.

    Attributes:
        visual: What was seen in the frames of all episodes one after the other: [F, N, 3] float32
            points, base frame [m]; [F, H, W, 3] uint8 pixels; or [F, 0, 3].
        proprio: [F, d_q], SI units.
        actions: Actions of all episodes one after the other, [A, d_a], SI units.
        frame_rows: Rows of ``visual`` and ``proprio`` per window, oldest first, [W, n_obs] int64.
        action_rows: Rows of ``actions`` per window, [W, n_c] int64.
    """

    visual: Tensor
    proprio: Tensor
    actions: Tensor
    frame_rows: Tensor
    action_rows: Tensor

    def __len__(self) -> int:
        """Number of windows."""
        return len(self.frame_rows)

    def batch(self, windows: Tensor, n_points: int, generator: torch.Generator) -> WindowBatch:
        """Gather ``windows`` [U] int64, with ``n_points`` of each cloud drawn afresh."""
        rows = self.frame_rows[windows]
        seen = look(self.visual, rows.reshape(-1), n_points, generator)
        visual = seen.unflatten(0, rows.shape)
        return WindowBatch(visual, self.proprio[rows], self.actions[self.action_rows[windows]])

    def sample(self, count: int, n_points: int, generator: torch.Generator) -> WindowBatch:
        """``count`` windows drawn uniformly with replacement."""
        return self.batch(
            torch.randint(len(self), (count,), generator=generator), n_points, generator
        )

    def sample_features(self, features: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """Conditions of random windows. Encoded frames [copies, F, d] -> [count, n_obs * d]."""
        windows = torch.randint(len(self), (count,), generator=generator)
        copies = torch.randint(len(features), (count, 1), generator=generator)
        return features[copies, self.frame_rows[windows]].flatten(1)


@torch.no_grad()
def encode_frames(
    policy: DiffusionPolicy,
    windows: WindowSet,
    n_points: int,
    copies: int,
    generator: torch.Generator,
) -> Tensor:
    """Every frame through the encoder, once with all its points, then with ``n_points`` of them.

    Returns:
        [copies, F, frame_dim], one copy where there are no points to draw; the condition of a
        window is the concatenation of its frames.
    """
    encoded = []
    size = policy.config.observation
    per_pass = IMAGES_PER_PASS if size.sight == "image" else FRAMES_PER_PASS
    for copy in range(copies if size.sight == "points" else 1):
        count = windows.visual.shape[1] if copy == 0 else n_points
        rows = torch.arange(len(windows.visual)).split(per_pass)
        parts = (
            policy.encode(
                look(windows.visual, r, count, generator).unsqueeze(1).to(policy.device),
                windows.proprio[r].unsqueeze(1).to(policy.device),
            )
            for r in rows
        )
        encoded.append(torch.cat(list(parts)))
    return torch.stack(encoded)


def look(visual: Tensor, rows: Tensor, n_points: int, generator: torch.Generator) -> Tensor:
    """What was seen in ``rows`` [M]; of clouds ``n_points`` points, of images every pixel."""
    if visual.dtype == torch.uint8:
        return visual[rows]
    return draw_points(visual, rows, n_points, generator)


def build_windows(episodes: Sequence[Episode], config: PolicyConfig) -> WindowSet:
    """One window per executed action of every episode.

    Raises:
        ConfigError: If there are no episodes, or one was seen otherwise or has other dimensions
            than the policy.
    """
    if not episodes:
        raise ConfigError(
            "no episodes to learn from; record demonstrations, or relax the outcome filter "
            "(episodes=all)"
        )
    for episode in episodes:
        _require_shapes(episode, config)
    frame_rows, action_rows, first_frame, first_action = [], [], 0, 0
    n_obs, n_chunk = config.observation.n_obs, config.action.n_chunk
    for episode in episodes:
        t = np.arange(len(episode))[:, None]
        frame_rows.append(first_frame + np.maximum(t + np.arange(1 - n_obs, 1), 0))
        action_rows.append(first_action + np.minimum(t + np.arange(n_chunk), len(episode) - 1))
        first_frame += len(episode) + 1
        first_action += len(episode)
    return WindowSet(
        visual=torch.from_numpy(np.concatenate([e.visual for e in episodes])),
        proprio=torch.from_numpy(np.concatenate([e.proprio for e in episodes])),
        actions=torch.from_numpy(np.concatenate([e.actions for e in episodes])),
        frame_rows=torch.from_numpy(np.concatenate(frame_rows)),
        action_rows=torch.from_numpy(np.concatenate(action_rows)),
    )


def _require_shapes(episode: Episode, config: PolicyConfig) -> None:
    found = (episode.visual.shape[1:], episode.proprio.shape[1:], episode.actions.shape[1:])
    size = config.observation
    expected = (size.visual_shape, (size.proprio_dim,), (config.action.dim,))
    if found != expected:
        raise ConfigError(
            f"episode {episode.id!r}: what is seen, proprioception and action should be shaped "
            f"{expected} per frame, found {found}; it was recorded for another task or robot"
        )
