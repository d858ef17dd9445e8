# SPDX-License-Identifier: Apache-2.0
"""LeRobot datasets from folders of bags and back, with progress and reports."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from rl100_bringup.display import Bars
from rl100_bringup.graph import config_path
from rl100_bringup.importing import findings_table
from rl100_learner.lerobot.examining import DatasetExaminer
from rl100_learner.lerobot.exporting import ExportRequest, export_bags
from rl100_learner.lerobot.importing import DatasetImporter
from rl100_learner.lerobot.layout import REWARD, SUCCESS
from rl100_learner.lerobot.mapping import LeRobotMapping, load_lerobot_mapping
from rl100_policy.bags.foreign.findings import Status, is_met
from rl100_policy.bags.foreign.origin import imported_before
from rl100_policy.bags.judgement import Outcome
from rl100_policy.core.config import load_robot, load_task


@dataclass(frozen=True)
class DatasetImport:
    """What is to be imported, and how."""

    root: Path
    """Folder of the dataset."""
    mapping: Path | None
    """None: it was exported by us."""
    robot: str
    task: str
    into: Path
    partly: bool = False
    """Take the episodes that fit where others do not."""


def export_dataset(
    bags: Path,
    robot: str,
    task: str,
    into: Path,
    console: Console,
    *,
    repo_id: str = "",
    outcomes: tuple[Outcome, ...] = tuple(Outcome),
) -> None:
    """Export a folder of bags and tell what is in the dataset.

    Raises:
        BagError: If no episode can be used.
        ConfigError: If a description is not usable, or its rate is no whole number of Hz.
        StorageError: If the dataset cannot be written.
    """
    request = ExportRequest(
        bags,
        load_robot(config_path("robots", robot)),
        load_task(config_path("tasks", task)),
        into,
        repo_id,
        outcomes,
    )
    with Bars.shown(console) as bars:
        exported = export_bags(
            request, lambda _, done, total, __: bars.update("episodes", done, total, "")
        )
    for name, reason in exported.left_out.items():
        console.print(f"left out: {name}: {reason}", highlight=False, markup=False)
    info = exported.info
    console.print(
        f"{into}: {info.total_episodes} episodes, {info.total_frames} frames at {info.fps:g} Hz, "
        f"LeRobot {info.codebase_version}: {', '.join(info.features)}",
        highlight=False,
    )
    if REWARD not in info.features:
        console.print(
            f"without {REWARD} and {SUCCESS}: some of the episodes are unlabelled; judge them "
            "(./rl100 relabel), or export with --outcome success --outcome failure",
            highlight=False,
            markup=False,
        )
    name = repo_id or into.name
    console.print(
        f'load it: LeRobotDataset("{name}", root="{into.resolve()}")',
        highlight=False,
        markup=False,
    )


def import_dataset(request: DatasetImport, console: Console) -> bool:
    """Examine a dataset, report, and write its episodes if the contract is met.

    Returns:
        Whether everything fits; nothing is written otherwise, unless ``partly``.

    Raises:
        BagError: If the dataset cannot be read, or the folder cannot be written.
        ConfigError: If a description or the mapping is not usable.
    """
    mapping = load_lerobot_mapping(request.mapping) if request.mapping else LeRobotMapping()
    examiner = DatasetExaminer(
        request.root,
        mapping,
        load_robot(config_path("robots", request.robot)),
        load_task(config_path("tasks", request.task)),
    )
    findings = examiner.findings()
    console.print(findings_table(str(request.root), findings))
    if not is_met(findings) or not _all_fit(examiner, console, partly=request.partly):
        console.print("[red]nothing is written:[/red] the contract is not met", highlight=False)
        return False
    importer = DatasetImporter(request.into, examiner)
    before = imported_before(request.into, request.root, importer.sha256, importer.mapping_sha256)
    if before:
        console.print(
            f"{request.root}: imported before as {len(before)} episodes", highlight=False
        )
        return True
    written, total = 0, examiner.dataset.info.total_episodes
    with Bars.shown(console) as bars:
        for done, episode in enumerate(examiner.episodes(), start=1):
            if episode.fits:
                importer.write(episode)
                written += 1
            bars.update("episodes", done, total, f"{written} written")
    console.print(
        f"{request.root}: {written} of {total} episodes are now in {request.into}",
        highlight=False,
    )
    return written == total


def _all_fit(examiner: DatasetExaminer, console: Console, *, partly: bool) -> bool:
    """Examine every episode and tell of those that do not fit, and of warnings.

    Returns:
        Whether they may be written: all fit, or some do and that is enough.
    """
    fitting, total = 0, 0
    warned: dict[str, int] = {}
    for episode in examiner.episodes():
        total += 1
        fitting += episode.fits
        if not episode.fits:
            title = f"episode {episode.rows.index}"
            console.print(findings_table(title, episode.findings))
        for each in episode.findings:
            if each.status is Status.WARNING:
                told = f"{each.item}: {each.advice or each.found}"
                warned[told] = warned.get(told, 0) + 1
    for told, count in warned.items():
        console.print(f"warning, {count} of {total} episodes: {told}", highlight=False)
    console.print(f"{fitting} of {total} episodes fit", highlight=False)
    return fitting > 0 if partly else 0 < fitting == total
