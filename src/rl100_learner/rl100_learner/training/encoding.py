# SPDX-License-Identifier: Apache-2.0
"""Episodes as decisions in the feature space of a policy, for offline learning.

A decision may begin at every control period. Those that are n_c periods apart follow each other,
so an episode of T periods gives up to n_c trajectories with different first periods.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence, Set

import numpy as np
import torch
from torch import Tensor

from rl100_learner.accelerator import moved
from rl100_learner.algorithms.batches import EncodedDecisions
from rl100_learner.data.episode import Episode
from rl100_learner.objectives.returns import bootstrap_discount
from rl100_learner.training.windows import build_windows, encode_frames
from rl100_policy.core.errors import ConfigError
from rl100_policy.core.policy import DiffusionPolicy

_LOG = logging.getLogger(__name__)


def encode_decisions(
    policy: DiffusionPolicy,
    episodes: Sequence[Episode],
    gamma: float,
    longest: int | None = None,
) -> EncodedDecisions:
    """All decisions of some episodes, in the features of the policy's encoder, on its device.

    The reward is one for the control period in which a success ended the episode, otherwise zero.
    A success ends the task, and so does a failure before the time limit; an episode that ended
    otherwise is cut off, and the value behind it counts.

    Args:
        policy: Encodes; its normaliser scales the actions.
        episodes: At least one.
        gamma: Discount of one control period.
        longest: Control periods until the time limit; None where nothing but the time limit ends
            a failure.

    Raises:
        ConfigError: If there are no episodes, or one does not fit the policy.
    """
    windows = build_windows(episodes, policy.config)
    every_point = policy.config.observation.n_points
    generator = torch.Generator().manual_seed(0)  # orders points, which the encoder does not see
    features = encode_frames(policy, windows, every_point, 1, generator)[0]
    n_obs, n_chunk = policy.config.observation.n_obs, policy.config.action.n_chunk
    rows, following, lasting, last, first = [], [], [], [], []
    first_window = first_frame = 0
    for episode in episodes:
        periods = len(episode)
        for offset in range(min(n_chunk, periods)):
            t = np.arange(offset, periods, n_chunk)
            until = np.minimum(t + n_chunk, periods)
            rows.append(first_window + t)
            frames = np.maximum(until[:, None] + np.arange(1 - n_obs, 1), 0)
            following.append(first_frame + frames)
            lasting.append(until - t)
            last.append(t == t[-1])
            first.append(t == 0)
        first_window += periods
        first_frame += periods + 1
    row = torch.from_numpy(np.concatenate(rows))
    duration = torch.from_numpy(np.concatenate(lasting))
    ends = torch.from_numpy(np.concatenate(last))
    won = ends & _of_each_row(episodes, lambda episode: episode.outcome == "success")
    ended = ends & _of_each_row(episodes, lambda episode: episode.ends_task(longest))
    executed = windows.actions[windows.action_rows[row]].to(policy.device)
    actions = policy.normalizer.action(executed)
    decisions = EncodedDecisions(
        condition=features[windows.frame_rows[row]].flatten(1),
        action=actions.clamp(-1.0, 1.0),
        next_condition=features[torch.from_numpy(np.concatenate(following))].flatten(1),
        rewards=won * gamma ** (duration.float() - 1.0),
        discounts=bootstrap_discount(duration, ended, gamma),
        ends=ends,
        starts=torch.from_numpy(np.concatenate(first)),
    )
    return moved(decisions, policy.device)


def _of_each_row(episodes: Sequence[Episode], asked: Callable[[Episode], bool]) -> Tensor:
    """What is true of the episode of every decision, [D] bool."""
    true = [asked(episode) for episode in episodes]
    return torch.from_numpy(np.repeat(true, list(map(len, episodes))))


def rows_of(episodes: Sequence[Episode], chosen: Set[str]) -> Tensor:
    """Which decisions are those of the episodes with some digests, [D] bool.

    As :func:`encode_decisions` lays out those of ``episodes``.
    """
    return _of_each_row(episodes, lambda episode: episode.digest in chosen)


_FAR, _MANY = 1.5, 0.2
"""Times the normaliser's range; share of the periods of an episode."""


def within_range(policy: DiffusionPolicy, episodes: Sequence[Episode]) -> list[Episode]:
    """Episodes whose actions the policy can tell apart; the log names those that are left out.

    An action beyond the range that the normaliser was fitted to would be taken for one at its
    edge, and what came of it be learned of that one.

    Raises:
        ConfigError: If none is left.
    """
    usable = []
    for episode in episodes:
        actions = torch.from_numpy(episode.actions).to(policy.device)
        scaled = policy.normalizer.action(actions).abs()
        share = float((scaled > _FAR).any(dim=1).float().mean())
        if share <= _MANY:
            usable.append(episode)
            continue
        _LOG.warning(
            "episode %s is left out: %.0f %% of its actions are beyond %s times the range that "
            "the policy has learned from, up to %.1f times: they are of another action space or "
            "unit, or imitation has seen nothing like them",
            episode.id, 100 * share, _FAR, float(scaled.max()),
        )  # fmt: skip
    if episodes and not usable:
        raise ConfigError(
            f"none of {len(episodes)} episodes has actions in the range that the policy has "
            "learned from: they are of another action space or unit; record them with this robot "
            "and task, or train imitation on them first"
        )
    return usable
