# SPDX-License-Identifier: Apache-2.0
"""Decisions of a policy from the bags of its episodes: what online learning needs.

A decision lasts from its observation to that of the next one, or to the end of the episode, and
counts if the policy was in command all the while: what a person did in between is none of its
doing, and the decisions before are cut off there. Reward: +1 in the last control period of an
episode judged a success, otherwise 0. A success, and a failure before the time limit, end the
task; a failure at the time limit, and an episode that nobody judged, are cut off: the value behind
them counts.

What a decision was made on is rebuilt from the stamps that it names, since its likelihood is that
of exactly these frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rl100_learner.algorithms.batches import DecisionBatch
from rl100_learner.data.bag_episode import EpisodeReader
from rl100_learner.data.episode import Episode
from rl100_learner.data.streams import by_stamp
from rl100_learner.objectives.returns import bootstrap_discount, chunk_reward
from rl100_policy.bags.alignment import nearest_index
from rl100_policy.bags.reading import read_messages
from rl100_policy.core import messages
from rl100_policy.core.config import RobotConfig, TaskConfig, longest_episode
from rl100_policy.core.errors import BagError
from rl100_policy.core.observation import Visual

DECISIONS = "policy/decision"

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class EpisodeDecisions:
    """Stochastic decisions of one policy version in one episode.

    Attributes:
        episode: Observations and executed actions.
        rows: Row of the episode at which each decision was made, [D] int64, increasing.
        until: Row at which it was over, [D] int64.
        visual: What each was made on, oldest frame first, [D, n_obs, ...].
        proprio: [D, n_obs, d_q] float32, SI units.
        latents: Denoising chains, [D, K + 1, n_c, d_a], normalised action units.
        log_probs: Log-density of each transition when it was drawn, [D, K], nat.
        policy_version: Who decided.
        terminated: The task ended, so there is nothing behind the last observation.
    """

    episode: Episode
    rows: NDArray[np.int64]
    until: NDArray[np.int64]
    visual: Visual
    proprio: Floats
    latents: Floats
    log_probs: Floats
    policy_version: str
    terminated: bool


class DecisionReader:
    """Reads decisions of one task on one arm. Not thread-safe."""

    def __init__(self, task: TaskConfig, robot: RobotConfig) -> None:
        """Prepare the reader of episodes."""
        self._reader = EpisodeReader(task, robot)
        self._longest = longest_episode(task, robot)
        self._period_ns = round(robot.control_period * 1e9)

    def read(self, folder: Path) -> EpisodeDecisions:
        """Read one closed episode.

        Raises:
            BagError: If it is not usable as an episode, holds no decision, or decisions that
                carry no likelihood (deterministic, or of the student), are of several versions or
                of several sizes.
        """
        found = by_stamp(read_messages(folder, [DECISIONS])[DECISIONS], end_ns=0)
        seen_at = {stamp: _observed(record) for stamp, record in found.items()}
        read = self._reader.read(folder, {each for stamps in seen_at.values() for each in stamps})
        episode = read.episode
        rows = nearest_index(episode.stamps_ns[:-1], np.array([*found]), self._period_ns // 2)
        records = {
            int(row): (stamp, record)
            for row, (stamp, record) in zip(rows, found.items(), strict=True)
            if row >= 0
        }
        if not records:
            raise BagError(
                f"episode {folder} holds no decision of a policy on its observations: "
                f"{len(found)} decisions recorded"
            )
        versions = sorted({each.policy_version for each in found.values()})
        if len(versions) > 1:
            raise BagError(
                f"episode {folder} holds decisions of several versions {versions}; leave it out"
            )
        if others := read.acted - set(versions):
            raise BagError(
                f"in episode {folder} version {versions[0]} decided, and {sorted(others)} was in "
                "command of a part of it; leave it out"
            )
        following = [*list(records)[1:], len(episode)]
        ours = {
            row: (until, *records[row])
            for row, until in zip(records, following, strict=True)
            if set(read.versions[row:until]) == set(versions)
            and until - row <= records[row][1].n_chunk
            and all(stamp in read.seen for stamp in seen_at[records[row][0]])
        }
        if not ours:
            raise BagError(
                f"in episode {folder} version {versions[0]} was not in command during any of its "
                f"{len(records)} decisions, or what they were made on is not in the bag"
            )
        chains = [_chain(record, folder) for _, _, record in ours.values()]
        windows = [[read.seen[each] for each in seen_at[stamp]] for _, stamp, _ in ours.values()]
        _require_one_size(folder, [latents for latents, _ in chains], windows)
        return EpisodeDecisions(
            episode,
            np.array([*ours], dtype=np.int64),
            np.array([until for until, _, _ in ours.values()], dtype=np.int64),
            np.stack([np.stack([visual for visual, _ in window]) for window in windows]),
            np.stack([np.stack([proprio for _, proprio in window]) for window in windows]),
            np.stack([latents for latents, _ in chains]),
            np.stack([log_probs for _, log_probs in chains]),
            versions[0],
            terminated=episode.ends_task(self._longest),
        )


def _observed(record: Any) -> list[int]:
    """Stamps of the frames that a decision was made on [ns], oldest first."""
    return [messages.stamp_ns(each) for each in record.observation_stamps]


def _require_one_size(folder: Path, latents: list[Floats], windows: list[list[Any]]) -> None:
    sizes = {(each.shape, len(window)) for each, window in zip(latents, windows, strict=True)}
    if len(sizes) > 1:
        raise BagError(
            f"episode {folder} holds decisions of several sizes, latents and frames "
            f"{sorted(sizes)}, which one version does not make; leave it out"
        )


def _chain(record: Any, folder: Path) -> tuple[Floats, Floats]:
    log_probs = np.asarray(record.log_probs, dtype=np.float32)
    if len(log_probs) == 0:
        raise BagError(
            f"episode {folder} was decided without noise or by the student ({record.sampler}): "
            "nothing can be learned from its likelihood; collect with sampler ddim and "
            "deterministic false"
        )
    latents = np.asarray(record.latents, dtype=np.float32)
    shape = (len(log_probs) + 1, int(record.n_chunk), int(record.d_a))
    if latents.size != np.prod(shape):
        raise BagError(f"episode {folder}: expected latents {shape}, got {latents.size} numbers")
    return latents.reshape(shape), log_probs


def decision_batch(
    recorded: Sequence[EpisodeDecisions], version: str, n_obs: int, gamma: float
) -> DecisionBatch:
    """Decisions of some episodes in the order given, for online learning of one version.

    Args:
        recorded: Episodes.
        version: Name of the version that is to learn from them.
        n_obs: Frames of its observation window.
        gamma: Discount of one control period.

    Raises:
        BagError: If there are none, or some are of another version: their likelihoods are not
            those of the policy that is to learn.
    """
    stale = [each for each in recorded if each.policy_version != version]
    if stale or not recorded:
        raise BagError(
            f"expected episodes of version {version!r} only, got {len(recorded)} of which "
            f"{len(stale)} are of {sorted({each.policy_version for each in stale})}; "
            "collect with the current version, or leave them out"
        )
    parts = [_laid_out(each, n_obs, gamma) for each in recorded]
    return DecisionBatch(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _laid_out(recorded: EpisodeDecisions, n_obs: int, gamma: float) -> tuple[Tensor, ...]:
    """Fields of a DecisionBatch, in their order, of one episode."""
    episode, rows, until = recorded.episode, recorded.rows, recorded.until
    periods = torch.from_numpy(until - rows)
    final = torch.from_numpy(until == len(episode))
    goes_on = torch.from_numpy(np.append(rows[1:] == until[:-1], False))
    rewards = torch.zeros((len(rows), int(periods.max())))
    rewards[torch.arange(len(rows)), periods - 1] = (
        final.float() if episode.outcome == "success" else 0.0
    )
    return (
        torch.from_numpy(recorded.visual),
        torch.from_numpy(recorded.proprio),
        *_windows(episode, until, n_obs),
        torch.from_numpy(recorded.latents),
        torch.from_numpy(recorded.log_probs),
        chunk_reward(rewards, periods, gamma),
        bootstrap_discount(periods, final & recorded.terminated, gamma),
        ~goes_on,
    )


def _windows(episode: Episode, rows: NDArray[np.int64], n_obs: int) -> tuple[Tensor, Tensor]:
    """What the windows that end at some rows hold; the first frame repeats."""
    frames = np.maximum(rows[:, None] + np.arange(1 - n_obs, 1), 0)
    return torch.from_numpy(episode.visual[frames]), torch.from_numpy(episode.proprio[frames])
