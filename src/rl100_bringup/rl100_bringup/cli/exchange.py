# SPDX-License-Identifier: Apache-2.0
"""Verbs that take data from others and give data to others."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

_console = Console()


class OutcomeName(StrEnum):
    """What a person may say of an episode."""

    SUCCESS = "success"
    FAILURE = "failure"
    UNLABELLED = "unlabelled"


def import_bag(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="SOURCE...",
            help="folders of `ros2 bag record`, or single .mcap or .db3 files",
            exists=True,
        ),
    ],
    *,
    mapping: Annotated[
        Path, typer.Option(help="which of their topics stand for ours", dir_okay=False)
    ],
    into: Annotated[Path, typer.Option(help="folder of bags, made if missing", file_okay=False)],
    robot: Annotated[str, typer.Option(help="robot description")] = "panda",
    task: Annotated[str, typer.Option(help="task description")] = "push_t",
    outcome: Annotated[
        OutcomeName | None, typer.Option(help="of every episode; default: as the mapping says")
    ] = None,
    partly: Annotated[
        bool, typer.Option("--partly", help="take the episodes that fit where others do not")
    ] = False,
) -> None:
    """Make episodes of recordings that were made without our recorder.

    Reports what the data contract expects and what was found; writes nothing where it is not met.
    """
    from rl100_bringup.importing import ImportRequest, import_recordings
    from rl100_policy.bags.judgement import Outcome

    request = ImportRequest(
        tuple(sources), mapping, robot, task, into,
        Outcome(outcome.value) if outcome else None, partly,
    )  # fmt: skip
    if not import_recordings(request, _console):
        raise typer.Exit(1)
