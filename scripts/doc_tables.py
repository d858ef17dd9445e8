# SPDX-License-Identifier: Apache-2.0
"""Markdown of the generated pages."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return (
        "\n".join("| " + " | ".join(_cell(text) for text in line) + " |" for line in lines) + "\n"
    )


def _cell(text: str) -> str:
    """One line; a pipe or a placeholder in angle brackets must not be taken for markup."""
    pieces = " ".join(text.split()).replace("|", "\\|").split("`")
    pieces[::2] = [re.sub(r"<(?!br>)", "&lt;", piece) for piece in pieces[::2]]
    return "`".join(pieces)


def markdown(docstring: str) -> str:
    """A docstring as Markdown: roles and double backquotes become code."""
    return re.sub(r":\w+:`~?([^`]+)`", r"`\1`", inspect.cleandoc(docstring)).replace("``", "`")
