# SPDX-License-Identifier: Apache-2.0
"""What the runs of a claim found, over their seeds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from scipy import stats

from rl100_bringup.report import Iterate, Report, StageResult, wilson
from rl100_bringup.reproduction.claims import CONTROL, GRAPH


@dataclass
class Summary:
    """A stage of a variant over all seeds.

    Attributes:
        variant: Its name.
        stage: Its name.
        policy: ``ddim`` or ``one_step``.
        shares: Success share of every seed.
        successes: Of all seeds.
        trials: Of all seeds.
        lengths_s: Mean length of the successes of every seed [s].
        episodes: Played until then by every seed; demonstrations are not counted.
        minutes: Of learning and playing until then by every seed.
    """

    variant: str
    stage: str
    policy: str
    shares: list[float] = field(default_factory=list)
    successes: int = 0
    trials: int = 0
    lengths_s: list[float] = field(default_factory=list)
    episodes: list[int] = field(default_factory=list)
    minutes: list[float] = field(default_factory=list)

    def add(self, result: StageResult, episodes: int, minutes: float) -> None:
        """Count one seed."""
        self.shares.append(result.successes / result.trials)
        self.successes += result.successes
        self.trials += result.trials
        if result.success_seconds is not None:
            self.lengths_s.append(result.success_seconds)
        self.episodes.append(episodes)
        self.minutes.append(minutes)


def summarise(names: Iterable[str], reports: Iterable[Report]) -> list[Summary]:
    """Every stage of every variant over the seeds, in the order of the stages.

    Args:
        names: Of the variants that the reports are of.
        reports: One per variant and seed.
    """
    found: dict[tuple[str, str, str], Summary] = {}
    for name, report in zip(names, reports, strict=True):
        spent = {"demonstrations": (0, 0.0), CONTROL: (0, 0.0)}
        total, minutes = 0, 0.0
        for record in report.run:
            total += 0 if record.name == "imitation" else record.episodes
            minutes += record.seconds / 60.0
            spent[record.name] = total, minutes
        for result in report.stages:
            key = (name, result.name, result.policy)
            found.setdefault(key, Summary(*key)).add(
                result, *spent[result.name.removesuffix(GRAPH)]
            )
    order = list(dict.fromkeys(each.variant for each in found.values()))
    return sorted(found.values(), key=lambda each: order.index(each.variant))


def pooled(summary: Summary) -> StageResult:
    """All seeds as one result."""
    low, high = wilson(summary.successes, summary.trials)
    return StageResult(
        name=f"{summary.variant}: {summary.stage}", policy=summary.policy,
        successes=summary.successes, trials=summary.trials, wilson_low=low, wilson_high=high,
        seconds=0.0,
        success_seconds=float(np.mean(summary.lengths_s)) if summary.lengths_s else None,
    )  # fmt: skip


def by_variant(summaries: Sequence[Summary]) -> dict[str, list[StageResult]]:
    """Results of all seeds by variant, each under the name of its stage.

    For pictures: the interval is that over the seeds where there is one, since trials of one
    policy are not independent.
    """
    found: dict[str, list[StageResult]] = {}
    for each in summaries:
        result = pooled(each).model_copy(update={"name": each.stage})
        spread = over_seeds(each.shares)
        if spread is not None:
            low, high = spread
            result = result.model_copy(update={"wilson_low": low, "wilson_high": high})
        found.setdefault(each.variant, []).append(result)
    return found


def over_seeds(shares: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of the mean of the seeds' shares, by Student's t.

    It counts that trials of one policy are not independent, as the pooled Wilson interval does
    not; nothing is outside [0, 1]. None with one seed, or where all seeds are equal, which tells
    of no spread.
    """
    if len(set(shares)) < 2:
        return None
    mean, deviation = np.mean(shares), np.std(shares, ddof=1)
    half = stats.t.ppf(0.975, len(shares) - 1) * deviation / np.sqrt(len(shares))
    return max(0.0, float(mean - half)), min(1.0, float(mean + half))


def summary_table(summaries: Sequence[Summary]) -> Table:
    """Success of all seeds with both intervals, every seed, length of successes, what it took."""
    table = Table(
        "variant", "stage", "policy", "success", "Wilson 95 %", "over seeds 95 %", "seeds",
        "length", "episodes", "minutes",
    )  # fmt: skip
    for each in summaries:
        table.add_row(
            each.variant,
            each.stage,
            each.policy,
            f"{each.successes}/{each.trials} = {100 * each.successes / each.trials:.1f} %",
            _percent(wilson(each.successes, each.trials)),
            _percent(spread) if (spread := over_seeds(each.shares)) is not None else "-",
            ", ".join(f"{100 * share:.0f}" for share in each.shares),
            f"{np.mean(each.lengths_s):.2f} s" if each.lengths_s else "-",
            f"{np.mean(each.episodes):.0f}",
            f"{np.mean(each.minutes):.1f}" if any(each.minutes) else "-",
        )
    return table


def variant_tables(summaries: Sequence[Summary]) -> list[Table]:
    """As :func:`summary_table`, one per variant, with what fits a terminal of 80 columns."""
    found: dict[str, Table] = {}
    for each in summaries:
        if each.variant not in found:
            found[each.variant] = Table("stage", "policy", "success", "95 %", "length", "episodes")
            found[each.variant].title = each.variant
        interval = over_seeds(each.shares) or wilson(each.successes, each.trials)
        found[each.variant].add_row(
            each.stage.replace(CONTROL, "successes only"),
            each.policy,
            f"{100 * each.successes / each.trials:.1f} % of {each.trials}",
            _percent(interval),
            f"{np.mean(each.lengths_s):.2f} s" if each.lengths_s else "-",
            f"{np.mean(each.episodes):.0f}",
        )
    return list(found.values())


def missing_table(missing: Sequence[tuple[str, int, str]]) -> Table | None:
    """Variant, seed and reason of what is missing; None if nothing is."""
    table = Table("variant", "seed", "what is missing")
    for variant, seed, reason in missing:
        table.add_row(variant, str(seed), reason)
    return table if missing else None


def origins_table(reports: Iterable[Report]) -> Table:
    """Which state of the code the runs are of, and where they ran."""
    found = Counter(
        (str(each.machine.get("commit", "")), f"{each.machine.get('processors')} processors")
        for each in reports
    )
    table = Table("commit", "machine", "runs")
    for (commit, machine), runs in sorted(found.items()):
        table.add_row(commit, machine, str(runs))
    return table


def _percent(interval: tuple[float, float]) -> str:
    low, high = interval
    return f"{100 * low:.0f} - {100 * high:.0f} %"


def write_markdown(path: Path, tables: Iterable[Table]) -> None:
    """The tables as Markdown, for documents."""
    with path.open("w", encoding="utf-8") as file:
        console = Console(file=file, width=400)
        for table in tables:
            table.box = box.MARKDOWN
            console.print(table)


def watched_table(names: Iterable[str], reports: Iterable[Report], episodes: int) -> Table | None:
    """Estimate J, the gate and true success by iteration of the first offline phase.

    Args:
        names: Of the variants that the reports are of.
        reports: One per variant and seed.
        episodes: That every iterate played to be shown.

    Returns:
        None if no iterate was watched.
    """
    found: dict[tuple[str, int], list[Iterate]] = {}
    for name, report in zip(names, reports, strict=True):
        for each in report.iterates:
            if each.round == 1 and each.success is not None:
                found.setdefault((name, each.iteration), []).append(each)
    if not found:
        return None
    table = Table(
        "variant", "iteration", "J", "accepted", "true success", "95 % interval", "seeds"
    )
    for (name, step), iterates in sorted(found.items()):
        won = round(sum((each.success or 0.0) * episodes for each in iterates))
        of = episodes * len(iterates)
        table.add_row(
            name,
            str(step),
            f"{np.mean([each.j for each in iterates]):.4f}",
            str(sum(each.accepted for each in iterates)),
            f"{won}/{of} = {100 * won / of:.1f} %",
            _percent(wilson(won, of)),
            str(len(iterates)),
        )
    return table
