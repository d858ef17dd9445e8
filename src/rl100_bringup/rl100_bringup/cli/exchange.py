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


def export_lerobot(
    folder: Annotated[
        Path, typer.Argument(help="folder of episode bags", exists=True, file_okay=False)
    ],
    *,
    into: Annotated[
        Path, typer.Option(help="folder of the dataset; must not exist", file_okay=False)
    ],
    robot: Annotated[str, typer.Option(help="robot description")] = "panda",
    task: Annotated[str, typer.Option(help="task description")] = "push_t",
    repo_id: Annotated[
        str, typer.Option(help="name of the dataset, such as lab/push_t; default: the folder's")
    ] = "",
    outcome: Annotated[
        list[OutcomeName] | None,
        typer.Option(help="only episodes of this outcome; may be repeated; default: all"),
    ] = None,
) -> None:
    """Export episodes as a LeRobot dataset (format v3.0)."""
    from rl100_bringup.datasets import export_dataset
    from rl100_policy.bags.judgement import Outcome

    outcomes = tuple(Outcome(each.value) for each in outcome or OutcomeName)
    export_dataset(folder, robot, task, into, _console, repo_id=repo_id, outcomes=outcomes)


def import_lerobot(
    dataset: Annotated[
        Path, typer.Argument(help="folder of the dataset", exists=True, file_okay=False)
    ],
    *,
    into: Annotated[Path, typer.Option(help="folder of bags, made if missing", file_okay=False)],
    mapping: Annotated[
        Path | None,
        typer.Option(
            help="which of its features stand for ours; default: it was exported by us",
            dir_okay=False,
        ),
    ] = None,
    robot: Annotated[str, typer.Option(help="robot description")] = "panda",
    task: Annotated[str, typer.Option(help="task description")] = "push_t",
    partly: Annotated[
        bool, typer.Option("--partly", help="take the episodes that fit where others do not")
    ] = False,
) -> None:
    """Make episodes of a LeRobot dataset (format v3.0).

    Reports what the data contract expects and what was found; writes nothing where it is not met.
    """
    from rl100_bringup.datasets import DatasetImport, import_dataset

    request = DatasetImport(dataset, mapping, robot, task, into, partly)
    if not import_dataset(request, _console):
        raise typer.Exit(1)
