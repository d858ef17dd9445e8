# SPDX-License-Identifier: Apache-2.0
"""Recordings of others into a folder of bags, with a report of what fits and what does not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rl100_bringup.graph import config_path
from rl100_policy.bags.foreign.examining import Examination, Examiner
from rl100_policy.bags.foreign.findings import Finding, Status, is_met
from rl100_policy.bags.foreign.mapping import load_mapping
from rl100_policy.bags.foreign.origin import imported_before
from rl100_policy.bags.foreign.writing import EpisodeImporter, mapping_hash
from rl100_policy.bags.judgement import Outcome
from rl100_policy.core.config import load_robot, load_task

_COLOUR = {Status.OK: "green", Status.WARNING: "yellow", Status.NOT_OK: "red"}


@dataclass(frozen=True)
class ImportRequest:
    """What is to be imported, and how."""

    sources: tuple[Path, ...]
    """Recordings."""
    mapping: Path
    robot: str
    task: str
    into: Path
    outcome: Outcome | None = None
    """Of every episode; None: as the mapping says."""
    partly: bool = False
    """Take the episodes that fit where others do not."""


def import_recordings(request: ImportRequest, console: Console) -> bool:
    """Examine all recordings, report, and write their episodes if the contract is met.

    Args:
        request: What and how.
        console: Where the report goes.

    Returns:
        Whether everything fits; nothing is written otherwise, unless ``partly``.

    Raises:
        ConfigError: If a description or the mapping is not usable.
        BagError: If a recording cannot be read, or the folder cannot be written.
    """
    examiner = Examiner(
        load_mapping(request.mapping),
        load_robot(config_path("robots", request.robot)),
        load_task(config_path("tasks", request.task)),
        request.outcome,
    )
    examined = []
    for source in request.sources:
        examination = examiner.examine(source)
        tell_examination(examination, console)
        examined.append(examination)
    fits = all(each.fits for each in examined)
    if not fits and not request.partly:
        console.print(
            "[red]nothing is written:[/red] the contract is not met; --partly takes the episodes "
            "that fit",
            highlight=False,
        )
        return False
    _write(examined, EpisodeImporter(request.into, examiner), examiner, request.into, console)
    return fits


def _write(
    examined: Sequence[Examination],
    importer: EpisodeImporter,
    examiner: Examiner,
    into: Path,
    console: Console,
) -> None:
    wanted = mapping_hash(examiner)
    before = {
        each.source: imported_before(into, each.source, each.sha256, wanted) for each in examined
    }
    for examination in examined:
        if there := before[examination.source]:
            console.print(
                f"{examination.source}: imported before as {', '.join(there)}; left as it is",
                highlight=False,
            )
            continue
        folders = importer.write(examination)
        console.print(
            f"{examination.source}: {len(folders)} of {len(examination.episodes)} episodes are "
            f"now in {into}",
            highlight=False,
        )


def tell_examination(examination: Examination, console: Console) -> None:
    """Print what was found in one recording; of several whole episodes only a line each."""
    findings = list(examination.findings)
    episodes = examination.episodes
    if len(episodes) == 1:
        findings += episodes[0].findings
    console.print(findings_table(str(examination.source), findings))
    for number, episode in enumerate(episodes if len(episodes) > 1 else (), start=1):
        title = f"episode {number} of {len(episodes)}"
        warned = [each for each in episode.findings if each.status is not Status.OK]
        if not is_met(episode.findings):
            console.print(findings_table(title, episode.findings))
            continue
        length = next(each.found for each in episode.findings if each.item == "length")
        told = "; ".join(f"{each.item}: {each.found}" for each in warned)
        console.print(f"{title}: ok, {length}{'; ' if told else ''}{told}", highlight=False)


def findings_table(title: str, findings: Iterable[Finding]) -> Table:
    """One row per item of the contract."""
    table = Table(title=escape(title), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("item", "expected", "found", "", "what to do"):
        table.add_column(name, overflow="fold")
    for each in findings:
        colour = _COLOUR[each.status]
        table.add_row(
            each.item, escape(each.expected), escape(each.found),
            f"[{colour}]{each.status.value}[/{colour}]", escape(each.advice),
        )  # fmt: skip
    return table
