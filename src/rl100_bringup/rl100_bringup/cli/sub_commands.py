# SPDX-License-Identifier: Apache-2.0
"""A group of commands of which one need not be named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from typer.core import TyperGroup

DEFAULT = "list"
_HELP = ("--help", "-h")


class ListsByDefault(TyperGroup):
    """Takes words that begin with none of its commands for those of ``list``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the command in front where it is left out; a misspelt one is refused."""
        if args and args[0] not in self.commands and args[0] not in _HELP:
            first = args[0]
            if not first.startswith("-") and "/" not in first and not Path(first).exists():
                ctx.fail(
                    f"{first!r} is neither a command ({', '.join(self.commands)}) nor a folder "
                    "that does exist"
                )
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)
