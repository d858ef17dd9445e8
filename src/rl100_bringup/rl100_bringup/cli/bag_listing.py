# SPDX-License-Identifier: Apache-2.0
"""Showing folders of bags, checking them, repairing what a crash left."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rl100_policy.bags.closed import closed_episode
from rl100_policy.bags.episode_filter import EpisodeFilter, driver_of
from rl100_policy.bags.identity import is_episode_folder
from rl100_policy.bags.index import BagIndex, BagSummary, IndexEntry, hint_of_bags, read_index
from rl100_policy.bags.metadata import EpisodeMetadata
from rl100_policy.bags.recovery import check_episode, recover_all
from rl100_policy.core.errors import BagError


def chosen_of(folder: Path, chosen: EpisodeFilter) -> BagIndex:
    """Episodes of a folder that a filter accepts, and all that is damaged or unfinished.

    Raises:
        BagError: If there is nothing in the folder at all; says where episodes are.
    """
    index = read_index(folder)
    if not (index.entries or index.damaged or index.unfinished):
        hint = hint_of_bags(folder)
        raise BagError(f"{folder} holds no episodes{hint and '; '}{hint}")
    return BagIndex(chosen.chosen(index.entries), index.damaged, index.unfinished)


def list_bags(folder: Path, chosen: EpisodeFilter, console: Console) -> None:
    """Print one row per closed episode, then what is damaged or unfinished, then totals.

    Driver is the policy version that was in command, or the person.
    """
    index = chosen_of(folder, chosen)
    if index.entries:
        console.print(_table(index.entries))
    _tell_rest(folder, index, console)
    total = index.summary()
    every = len(read_index(folder).entries)
    of = "" if total.episodes == every else f" of {every}"
    outcomes = ", ".join(f"{count} {outcome.value}" for outcome, count in total.outcomes.items())
    console.print(
        f"{total.episodes}{of} episodes, {total.seconds:.0f} s, {total.bytes / 1e6:.0f} MB: "
        f"{outcomes}"
    )


def _table(entries: Sequence[IndexEntry]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("episode", no_wrap=True)
    table.add_column("outcome", no_wrap=True)
    table.add_column("driver", overflow="fold")
    for title in ("seconds", "MB"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("state", overflow="fold")
    for entry in entries:
        meta = entry.metadata
        table.add_row(
            escape(entry.folder), meta.outcome.value, escape(meta.policy_version or meta.operator),
            f"{entry.seconds:.1f}", f"{entry.bytes / 1e6:.2f}", ", ".join(states_of(meta)),
        )  # fmt: skip
    return table


def states_of(metadata: EpisodeMetadata) -> list[str]:
    """What is not as it should be with an episode, or had to be done for it, in a word each."""
    named = {"degraded": metadata.degraded, "recovered": metadata.recovered}
    taken = metadata.interventions
    takeovers = [f"{taken} takeover{'s' if taken > 1 else ''}"] if taken else []
    return [*takeovers, *(name for name, holds in named.items() if holds)]


def _tell_rest(folder: Path, index: BagIndex, console: Console) -> None:
    for name, reason in index.damaged.items():
        console.print(
            f"damaged: {name}: {escape(reason)} (training leaves it out)",
            highlight=False,
            soft_wrap=True,
        )
    for name in index.unfinished:
        console.print(
            f"unfinished: {name} (being written, or left by a crash: "
            f"./rl100 bags recover {folder})",
            highlight=False,
            soft_wrap=True,
        )


def listing_as_json(folder: Path, chosen: EpisodeFilter) -> dict[str, Any]:
    """What :func:`list_bags` prints, and all that is known of each episode, for scripts."""
    index = chosen_of(folder, chosen)
    return {
        "folder": str(folder.absolute()),
        "episodes": [_entry_as_json(entry) for entry in index.entries],
        "damaged": index.damaged,
        "unfinished": list(index.unfinished),
        "totals": _totals_as_json(index.summary()),
    }


def _entry_as_json(entry: IndexEntry) -> dict[str, Any]:
    meta = entry.metadata
    told = {
        "folder": entry.folder,
        "outcome": meta.outcome.value,
        "driver": driver_of(meta),
        "degraded": meta.degraded,
        "seconds": entry.seconds,
        "bytes": entry.bytes,
        "messages": entry.messages,
    }
    return told | meta.model_dump(mode="json")


def _totals_as_json(total: BagSummary) -> dict[str, Any]:
    return {
        "episodes": total.episodes,
        "seconds": total.seconds,
        "bytes": total.bytes,
        "messages": total.messages,
        "outcomes": {outcome.value: count for outcome, count in total.outcomes.items()},
        "degraded": total.degraded,
        "recovered": total.recovered,
    }


def recover_bags(folder: Path, console: Console) -> None:
    """Repair what a crash left and say what was done."""
    recovered = recover_all(folder)
    if not recovered:
        console.print("nothing to recover; what is damaged stays as it is")
    for result in recovered:
        console.print(
            f"{result.episode_id}: {result.status.value}, {result.messages} messages, "
            f"{result.path}: {result.detail}",
            highlight=False,
            soft_wrap=True,
        )


def check_bags(paths: Sequence[Path], chosen: EpisodeFilter, console: Console) -> bool:
    """Read closed episodes whole; print what is wrong and whether everything is right.

    Args:
        paths: Episodes, or folders of episodes.
        chosen: Which episodes of the folders.
        console: Where it is told.
    """
    folders: list[Path] = []
    problems: dict[Path, list[str]] = {}
    for path in paths:
        if is_episode_folder(path):
            folders.append(closed_episode(path))
            continue
        index = chosen_of(path, chosen)
        folders += [path / entry.folder for entry in index.entries]
        problems |= {path / name: [reason] for name, reason in index.damaged.items()}
    problems |= {folder: check_episode(folder) for folder in folders}
    for folder, found in problems.items():
        for problem in found:
            console.print(
                f"{folder.name}: {problem}", highlight=False, markup=False, soft_wrap=True
            )
    right = not any(problems.values())
    console.print(f"checked {len(problems)} episodes: {'all right' if right else 'see above'}")
    return right
