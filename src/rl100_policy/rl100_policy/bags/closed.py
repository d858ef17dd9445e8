# SPDX-License-Identifier: Apache-2.0
"""Finding the closed episode that a person names by a path."""

from __future__ import annotations

from pathlib import Path

from rl100_policy.bags.identity import PARTIAL, is_episode_folder
from rl100_policy.bags.reservation import is_locked
from rl100_policy.core.errors import BagError


def closed_episode(path: Path) -> Path:
    """Folder of a closed episode, by its path.

    Args:
        path: As given: the folder, with or without an end ``/``.

    Raises:
        BagError: If it is none; says whether it is being recorded, was left by a crash, is another
            folder or is not there.
    """
    folder = path.absolute()
    if folder.is_dir() and is_episode_folder(folder):
        return folder
    partial = folder if folder.name.endswith(PARTIAL) else folder.with_name(folder.name + PARTIAL)
    if partial.is_dir():
        if is_locked(partial):
            raise BagError(
                f"{path} is being recorded; stop the episode first, then give {path.parent}/"
                f"{partial.name.removesuffix(PARTIAL)}"
            )
        raise BagError(
            f"{path} is unfinished: a crash left it; "
            f"run `./rl100 bags recover {path.parent}` first"
        )
    if not folder.exists():
        raise BagError(
            f"there is no episode {path}; `./rl100 bags list FOLDER` names those of one"
        )
    raise BagError(
        f"{path} is not an episode: expected a folder with an MCAP file and metadata.yaml; "
        "`./rl100 bags list FOLDER` names the episodes of a folder"
    )
