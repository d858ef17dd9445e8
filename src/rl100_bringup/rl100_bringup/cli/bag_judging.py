# SPDX-License-Identifier: Apache-2.0
"""A person's second thoughts about closed episodes: another outcome, or the trash."""

from __future__ import annotations

import getpass
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rl100_policy.bags.correction import correct_outcome, relabel_source
from rl100_policy.bags.judgement import Outcome
from rl100_policy.bags.trash import TrashNote, discard, read_trash
from rl100_policy.core.errors import BagError


def relabel_episodes(
    episodes: Sequence[Path], outcome: Outcome, at_s: float | None, note: str, console: Console
) -> bool:
    """Give closed episodes another outcome; returns whether all have it now.

    Raises:
        BagError: If a time is given to say that nothing is known.
    """
    if at_s is not None and outcome is Outcome.UNLABELLED:
        raise BagError("to take a judgement back has no time in the episode; leave --at out")
    source = relabel_source(_person(), note)

    def relabel(episode: Path) -> str:
        metadata = correct_outcome(episode, outcome, at_s=at_s, source=source)
        return f"{episode}: {metadata.outcome.value} ({len(metadata.judgements)} judgements)"

    return _each(episodes, relabel, console)


def discard_episodes(episodes: Sequence[Path], why: str, console: Console) -> bool:
    """Move closed episodes to the trash; returns whether all are there now."""
    note = TrashNote(when=datetime.now(UTC).replace(microsecond=0), who=_person(), why=why)

    def throw_away(episode: Path) -> str:
        name = discard(episode, note).folder.name
        how = f"./rl100 bags restore {name} --folder {episode.parent}"
        return f"{episode}: in the trash ({how})"

    return _each(episodes, throw_away, console)


def list_trash(bags: Path, console: Console) -> None:
    """Print what lies in the trash of a folder."""
    trashed = read_trash(bags)
    if not trashed:
        console.print(f"the trash of {bags} is empty", highlight=False, soft_wrap=True)
        return
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for title in ("episode", "since", "by"):
        table.add_column(title, no_wrap=True)
    table.add_column("why", overflow="fold")
    for each in trashed:
        since = f"{each.note.when:%Y-%m-%d %H:%M:%S} UTC" if each.note.when else ""
        why = each.note.why if each.note.when else "discarded when it was recorded"
        table.add_row(*map(escape, (each.folder.name, since, each.note.who, why)))
    console.print(table)


def _each(episodes: Sequence[Path], do: Callable[[Path], str], console: Console) -> bool:
    """Do something to each episode and tell it; one that fails does not stop the others."""
    right = True
    for episode in episodes:
        try:
            told = do(episode)
        except BagError as error:
            right, told = False, f"refused: {error}"
        console.print(told, highlight=False, markup=False, soft_wrap=True)
    return right


def _person() -> str:
    """Name of whoever is logged in."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container without an entry for its user
        return "unknown"
