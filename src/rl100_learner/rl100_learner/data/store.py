# SPDX-License-Identifier: Apache-2.0
"""Episodes that never were in a bag, such as those of a vectorised simulation, in one file.

Arrays of all episodes one after the other, and where each begins; NumPy's own format, no pickle.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rl100_learner.data.episode import Episode
from rl100_learner.files import replacing
from rl100_policy.core.errors import BagError

_ARRAYS = {
    "clouds": "visual",
    "proprio": "proprio",
    "actions": "actions",
    "stamps_ns": "stamps_ns",
}
"""Array of the file by its name, and the field that it is of an episode."""


def save_episodes(path: Path, episodes: Sequence[Episode]) -> None:
    """Write episodes of one task; the file appears complete or not at all.

    Raises:
        BagError: If there are no episodes.
    """
    if not episodes:
        raise BagError(f"no episodes to write to {path}; collect at least one")
    with replacing(path) as file:
        np.savez(
            file,
            allow_pickle=False,
            id=np.array([episode.id for episode in episodes]),
            outcome=np.array([episode.outcome for episode in episodes]),
            source_sha256=np.array([episode.source_sha256 for episode in episodes]),
            lasted=np.array([episode.lasted for episode in episodes]),
            taken_over=np.array([episode.taken_over for episode in episodes]),
            periods=np.array([len(episode) for episode in episodes]),
            **{
                name: np.concatenate([getattr(episode, of_episode) for episode in episodes])
                for name, of_episode in _ARRAYS.items()
            },
        )


def load_stored_episodes(path: Path) -> list[Episode]:
    """Episodes that :func:`save_episodes` wrote, in their order.

    Raises:
        BagError: If the file is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            held = {name: file[name] for name in file.files}
        until = np.cumsum(held["periods"])[:-1]
        # frames: one more than actions in every episode
        frames = until + np.arange(1, len(held["periods"]))
        parts = {
            name: np.split(held[name], until if name == "actions" else frames) for name in _ARRAYS
        }
        return [
            Episode(
                id=str(held["id"][index]),
                outcome=str(held["outcome"][index]),  # type: ignore[arg-type]
                source_sha256=str(held["source_sha256"][index]),
                lasted=int(held["lasted"][index]),
                taken_over=bool(held["taken_over"][index]),
                **{of_episode: parts[name][index] for name, of_episode in _ARRAYS.items()},
            )
            for index in range(len(held["periods"]))
        ]
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise BagError(
            f"episodes in {path} cannot be read ({error}); delete the file to collect them again"
        ) from error
