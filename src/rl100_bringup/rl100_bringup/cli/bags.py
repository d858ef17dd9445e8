# SPDX-License-Identifier: Apache-2.0
"""Showing and repairing folders of bags."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from rl100_policy.bags.index import read_index
from rl100_policy.bags.recovery import recover_all


def list_bags(folder: Path, console: Console) -> None:
    """Print one row per closed episode, then what is damaged or unfinished, then totals."""
    index = read_index(folder)
    table = Table("episode", "outcome", "operator", "policy", "seconds", "messages", "MB", "state")
    for entry in index.entries:
        meta = entry.metadata
        state = ", ".join([*(["degraded"] if meta.degraded else []), *(["recovered"] if meta.recovered else [])])
        table.add_row(
            meta.episode_id, meta.outcome.value, meta.operator, meta.policy_version,
            f"{entry.seconds:.1f}", str(entry.messages), f"{entry.bytes / 1e6:.2f}", state,
        )  # fmt: skip
    console.print(table)
    for name, reason in index.damaged.items():
        console.print(f"damaged: {name}: {reason}", highlight=False)
    for name in index.unfinished:
        console.print(f"unfinished: {name} (being written, or left by a crash: rl100 bags --recover {folder})", highlight=False)
    total = index.summary()
    outcomes = ", ".join(f"{count} {outcome.value}" for outcome, count in total.outcomes.items())
    console.print(f"{total.episodes} episodes, {total.seconds:.0f} s, {total.bytes / 1e6:.0f} MB: {outcomes}")


def recover_bags(folder: Path, console: Console) -> None:
    """Repair what a crash left and say what was done."""
    for result in recover_all(folder):
        console.print(f"{result.episode_id}: {result.status.value}, {result.messages} messages, {result.path}: {result.detail}", highlight=False)
