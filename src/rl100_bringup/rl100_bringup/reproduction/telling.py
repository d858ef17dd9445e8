# SPDX-License-Identifier: Apache-2.0
"""What the runs of a claim found: tables for the terminal and for documents, and pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console

from rl100_bringup.learning_pictures import (
    claim_figure,
    curves_figure,
    save_figures,
    tell_pictures,
    watched_figure,
)
from rl100_bringup.report import Report
from rl100_bringup.reproduction.jobs import Job
from rl100_bringup.reproduction.summaries import (
    by_variant,
    candidates_table,
    differences_table,
    gate_table,
    missing_table,
    origins_table,
    pooled,
    summarise,
    summary_table,
    variant_tables,
    watched_table,
    write_markdown,
)

TABLES = "tables.md"


def tell(
    folder: Path,
    report: Report,
    jobs: Sequence[Job],
    reports: Sequence[Report],
    missing: Sequence[tuple[str, int, str]],
    console: Console,
) -> Report:
    """Print the tables of a claim and write them in full, its report and its pictures.

    Args:
        folder: Where they go.
        report: Of the claim, without what its runs found.
        jobs: That are finished.
        reports: Of them, in their order.
        missing: Variant, seed and reason of what is missing.
        console: Where the tables go.

    Returns:
        The report with the success of all stages, over the seeds.
    """
    names = [job.variant.name for job in jobs]
    seeds = [job.seed for job in jobs]
    groups = [f"{job.variant.task} {job.variant.n_points}" for job in jobs]
    settings = [job.settings for job in jobs]
    summaries = summarise(names, reports)
    shown = watched_table(names, reports, max(each.watch for each in settings))
    others = (
        differences_table(groups, names, seeds, reports),
        candidates_table(names, reports),
        gate_table(names, reports, settings[0].offline.gate),
        shown,
        missing_table(missing),
        origins_table(reports),
    )
    rest = [each for each in others if each is not None]
    for table in (*variant_tables(summaries), *rest):
        console.print(table)
    report = report.model_copy(update={"stages": [pooled(each) for each in summaries]})
    report.write(folder)
    write_markdown(folder / TABLES, [summary_table(summaries), *rest])
    figures: dict[str, Callable[[], Figure]] = {
        "success.png": lambda: claim_figure(by_variant(summaries))
    }
    if any(each.curve for each in reports):
        figures["curves.png"] = lambda: curves_figure(names, reports, seeds)
    if shown is not None:
        figures["gate.png"] = lambda: watched_figure(names, reports)
    console.print(f"tables: {folder / TABLES}")
    tell_pictures(console, *save_figures(folder, figures))
    return report
