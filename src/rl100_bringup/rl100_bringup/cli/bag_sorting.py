# SPDX-License-Identifier: Apache-2.0
"""Bringing episodes together and dividing them, told line by line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from rich.console import Console

from rl100_bringup.cli.bag_listing import chosen_of
from rl100_policy.bags.division import Groups
from rl100_policy.bags.episode_filter import EpisodeFilter
from rl100_policy.bags.index import IndexEntry, read_index
from rl100_policy.bags.transfer import Transfer, TransferMode, TransferStatus, transfer_episode
from rl100_policy.core.errors import BagError

Divide = Callable[[Sequence[IndexEntry]], Groups]


def merge_bags(
    folders: Sequence[Path],
    into: Path,
    chosen: EpisodeFilter,
    mode: TransferMode,
    console: Console,
) -> bool:
    """Bring the episodes of several folders into one.

    Returns:
        Whether every episode is there now; what is refused or damaged stays where it is.

    Raises:
        BagError: If there is nothing to bring; nothing was changed then.
    """
    found = {folder: _entries(folder, chosen, console) for folder in folders}
    _require_some(folders, [entry for entries, _ in found.values() for entry in entries])
    right = True
    for folder, (entries, whole) in found.items():
        right &= _transfer(folder, entries, into, mode, console) and whole
    return right


def split_bags(
    folder: Path,
    into: Path,
    chosen: EpisodeFilter,
    divide: Divide,
    mode: TransferMode,
    console: Console,
) -> bool:
    """Divide the episodes of a folder into one folder per group.

    Returns:
        Whether every episode is there now.

    Raises:
        BagError: If they cannot be divided so; nothing was changed then.
    """
    entries, right = _entries(folder, chosen, console)
    _require_some([folder], entries)
    groups = divide(entries)
    for name, members in groups.items():
        right &= _transfer(folder, members, into / name, mode, console)
    _tell_of_earlier_divisions(into, groups, console)
    return right


def _tell_of_earlier_divisions(into: Path, groups: Groups, console: Console) -> None:
    """Name what lies in a group that it does not belong to now, such as the relabelled."""
    belongs = {entry.folder: name for name, members in groups.items() for entry in members}
    for group in sorted(each for each in into.iterdir() if each.is_dir()):
        for entry in sorted(read_index(group).entries, key=lambda each: each.folder):
            now = belongs.get(entry.folder, group.name)
            if now != group.name:
                console.print(
                    f"also in {group}: {entry.folder}, which belongs to {now} now; "
                    f"`./rl100 bags delete {group / entry.folder}` takes it away there",
                    highlight=False, markup=False, soft_wrap=True,
                )  # fmt: skip


def _entries(
    folder: Path, chosen: EpisodeFilter, console: Console
) -> tuple[Sequence[IndexEntry], bool]:
    """Episodes chosen, and whether none is damaged; tells what is left out."""
    index = chosen_of(folder, chosen)
    for name, reason in index.damaged.items():
        console.print(f"left out: {name}: {reason}", highlight=False, markup=False, soft_wrap=True)
    for name in index.unfinished:
        console.print(
            f"left out: {name}: unfinished", highlight=False, markup=False, soft_wrap=True
        )
    return index.entries, not index.damaged


def _require_some(folders: Sequence[Path], entries: Sequence[IndexEntry]) -> None:
    if not entries:
        names = " and ".join(map(str, folders))
        raise BagError(
            f"no episode of {names} meets the conditions; `./rl100 bags list` shows them all"
        )


def _transfer(
    folder: Path, entries: Iterable[IndexEntry], into: Path, mode: TransferMode, console: Console
) -> bool:
    done = [transfer_episode(folder / entry.folder, into, mode) for entry in entries]
    for each in done:
        if each.status in (TransferStatus.REFUSED, TransferStatus.ALREADY_THERE):
            console.print(_line(each), highlight=False, markup=False, soft_wrap=True)
    counts = Counter(each.status for each in done)
    told = ", ".join(f"{counts[status]} {status}" for status in TransferStatus if counts[status])
    console.print(
        f"{folder} -> {into}: {told or 'none'}", highlight=False, markup=False, soft_wrap=True
    )
    return not counts[TransferStatus.REFUSED]


def _line(transfer: Transfer) -> str:
    detail = f": {transfer.detail}" if transfer.detail else ""
    return f"{transfer.status}: {transfer.source.name}{detail}"
