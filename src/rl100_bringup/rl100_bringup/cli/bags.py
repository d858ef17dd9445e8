# SPDX-License-Identifier: Apache-2.0
"""Showing and repairing folders of bags."""

from __future__ import annotations

from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rl100_policy.bags.index import hint_of_bags, read_index
from rl100_policy.bags.recovery import check_episode, recover_all
from rl100_policy.core.errors import BagError


def list_bags(folder: Path, console: Console) -> None:
    """Print one row per closed episode, then what is damaged or unfinished, then totals.

    Driver is the policy version that was in command, or the person.
    """
    index = read_index(folder)
    if not (index.entries or index.damaged or index.unfinished):
        hint = hint_of_bags(folder)
        raise BagError(f"{folder} holds no episodes{hint and '; '}{hint}")
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("episode", no_wrap=True)
    table.add_column("outcome", no_wrap=True)
    table.add_column("driver", overflow="fold")
    for title in ("seconds", "MB"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("state", overflow="fold")
    for entry in index.entries:
        meta = entry.metadata
        state = ", ".join(
            [*(["degraded"] if meta.degraded else []), *(["recovered"] if meta.recovered else [])]
        )
        table.add_row(
            meta.episode_id, meta.outcome.value, meta.policy_version or meta.operator,
            f"{entry.seconds:.1f}", f"{entry.bytes / 1e6:.2f}", state,
        )  # fmt: skip
    console.print(table)
    for name, reason in index.damaged.items():
        console.print(
            f"damaged: {name}: {escape(reason)} (training leaves it out)", highlight=False
        )
    for name in index.unfinished:
        console.print(
            f"unfinished: {name} (being written, or left by a crash: "
            f"./rl100 bags {folder} --recover)",
            highlight=False,
        )
    total = index.summary()
    outcomes = ", ".join(f"{count} {outcome.value}" for outcome, count in total.outcomes.items())
    console.print(
        f"{total.episodes} episodes, {total.seconds:.0f} s, {total.bytes / 1e6:.0f} MB: {outcomes}"
    )


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
        )


def check_bags(folder: Path, console: Console) -> bool:
    """Read every closed episode whole; print what is wrong and whether everything is right."""
    index = read_index(folder)
    problems = {entry.folder: check_episode(folder / entry.folder) for entry in index.entries}
    for name, found in problems.items():
        for problem in found:
            console.print(f"{name}: {problem}", highlight=False)
    right = not index.damaged and not any(problems.values())
    console.print(f"checked {len(problems)} episodes: {'all right' if right else 'see above'}")
    return right
