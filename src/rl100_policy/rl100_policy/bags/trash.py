# SPDX-License-Identifier: Apache-2.0
"""Episodes that a person does not want any more: moved to ``<bags>/trash/``, never erased.

Why and when is in ``<name>.note.json`` beside the folder, so that the episode itself stays as it
was, byte for byte. What a recorder discarded has no note.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from rl100_policy.bags.closed import closed_episode
from rl100_policy.bags.identity import QUARANTINE, TRASH, free_name
from rl100_policy.bags.storage import sync_folder
from rl100_policy.core.config import FrozenModel
from rl100_policy.core.errors import BagError

_NOTE = ".note.json"


class TrashNote(FrozenModel):
    """Why an episode is in the trash."""

    when: datetime | None = None
    """UTC; None: not known."""
    who: str = ""
    why: str = ""


@dataclass(frozen=True)
class TrashedEpisode:
    """One episode in the trash."""

    folder: Path
    note: TrashNote


def discard(episode: Path, note: TrashNote) -> TrashedEpisode:
    """Move a closed episode to the trash of its folder.

    Args:
        episode: Its folder.
        note: Why.

    Raises:
        BagError: If it is no closed episode, lies in the trash already, or cannot be moved; it is
            where it was then.
    """
    folder = closed_episode(episode)
    if folder.parent.name in (TRASH, QUARANTINE):
        raise BagError(f"{episode} lies in the {folder.parent.name} already")
    trash = folder.parent / TRASH
    try:
        trash.mkdir(exist_ok=True)
        target = free_name(trash / folder.name)
        note_file = _note_file(target)
        note_file.write_text(note.model_dump_json() + "\n", encoding="utf-8")
        try:
            folder.rename(target)
        except OSError:
            note_file.unlink()
            raise
        sync_folder(trash)
        sync_folder(folder.parent)
    except OSError as error:
        raise BagError(f"cannot move {episode} to the trash: {error}; check rights") from error
    return TrashedEpisode(target, note)


def read_trash(bags: Path) -> tuple[TrashedEpisode, ...]:
    """What lies in the trash of a folder, in the order of names; nothing if there is no trash."""
    trash = bags / TRASH
    if not trash.is_dir():
        return ()
    folders = sorted(folder for folder in trash.iterdir() if folder.is_dir())
    return tuple(TrashedEpisode(folder, _read_note(_note_file(folder))) for folder in folders)


def restore(bags: Path, name: str) -> Path:
    """Bring an episode back from the trash.

    Args:
        bags: Folder of all episodes.
        name: Its name in the trash.

    Returns:
        Its folder.

    Raises:
        BagError: If there is none of this name in the trash, or one of this name beside it.
    """
    source, target = bags / TRASH / name, bags / name
    names = [each.folder.name for each in read_trash(bags)]
    if name not in names:
        there = ", ".join(names) or "nothing"
        raise BagError(f"there is no {name!r} in {bags / TRASH}; there is {there}")
    if target.exists():
        raise BagError(f"{target} exists; restoring would write over it; rename it, or {source}")
    try:
        source.rename(target)
        sync_folder(bags)
        _note_file(source).unlink(missing_ok=True)
    except OSError as error:
        raise BagError(f"cannot restore {source}: {error}; check rights") from error
    return target


def _note_file(folder: Path) -> Path:
    return folder.with_name(folder.name + _NOTE)


def _read_note(path: Path) -> TrashNote:
    """The note; an empty one if there is none, or none that can be read."""
    with contextlib.suppress(OSError, ValueError, ValidationError):
        return TrashNote.model_validate(json.loads(path.read_text(encoding="utf-8")))
    return TrashNote()
