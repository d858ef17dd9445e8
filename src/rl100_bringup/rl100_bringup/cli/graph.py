# SPDX-License-Identifier: Apache-2.0
"""Showing the node graph and what it can be told."""

from __future__ import annotations

from dataclasses import fields

from rich.table import Table

from rl100_bringup.graph import GraphArguments


def arguments_table() -> Table:
    """One row per launch argument, as ``ros2 launch --show-args`` tells them."""
    table = Table("argument", "default", "choices", "what it is", show_lines=True)
    for item in fields(GraphArguments):
        told = item.metadata
        default = f"value of {told['follows']}" if told["follows"] else _text(item.default)
        table.add_row(item.name, default, ", ".join(told["choices"]), told["description"])
    return table


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
