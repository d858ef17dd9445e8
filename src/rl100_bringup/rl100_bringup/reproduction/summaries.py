# SPDX-License-Identifier: Apache-2.0
"""What the runs of a claim found, over their seeds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from scipy import stats

from rl100_bringup.report import Iterate, Report, StageResult, wilson
from rl100_bringup.reproduction.claims import CONTROL, GRAPH
from rl100_learner.algorithms.offline import Gate, GateConfig
from rl100_learner.training.stages import CURRENT


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
    interval = _student(shares)
    return interval and (max(0.0, interval[0]), min(1.0, interval[1]))


def _student(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of the mean by Student's t; None where no spread is told."""
    if len(set(values)) < 2:
        return None
    mean, deviation = np.mean(values), np.std(values, ddof=1)
    half = stats.t.ppf(0.975, len(values) - 1) * deviation / np.sqrt(len(values))
    return float(mean - half), float(mean + half)


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
    """Which state of the code the runs ended with, and where."""
    found = Counter(
        (str(each.machine.get("commit", "")), f"{each.machine.get('processors')} processors")
        for each in reports
    )
    table = Table("commit at the end", "machine", "runs")
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


_CANDIDATES = ("as it was", "iterate before", "last iterate", "re-trained")


def candidates_table(names: Iterable[str], reports: Iterable[Report]) -> Table | None:
    """What chose after every stage: trials of the version as it was, and of its candidates.

    Those are iterates that the gate let through, imitation re-trained, and online learning's.

    Args:
        names: Of the variants that the reports are of.
        reports: One per variant and seed.

    Returns:
        None if nothing was tried.
    """
    tried: dict[tuple[str, str, str], list[tuple[int, int, bool]]] = {}
    for name, report in zip(names, reports, strict=True):
        for record in report.run:
            iterates = [each for each in record.trials if each.startswith("iterate ")]
            as_it_was, before, last, again = _CANDIDATES
            called = {CURRENT: as_it_was, "imitation": again}
            called |= dict.fromkeys(iterates, before) | dict.fromkeys(iterates[-1:], last)
            for each, (won, of) in record.trials.items():
                row = tried.setdefault((name, record.name, called.get(each, each)), [])
                row.append((won, of, record.chosen == each))
    variants = list(dict.fromkeys(name for name, _, _ in tried))
    stages = list(dict.fromkeys(stage for _, stage, _ in tried))

    def place(row: tuple[str, str, str]) -> tuple[int, int, int]:
        """First what was there, then what came of the stage, in the order of its steps."""
        known = _CANDIDATES.index(row[2]) if row[2] in _CANDIDATES else len(_CANDIDATES)
        return variants.index(row[0]), stages.index(row[1]), known

    table = Table("variant", "stage", "candidate", "trials", "Wilson 95 %", "chosen")
    for (name, stage, what), rows in sorted(tried.items(), key=lambda each: place(each[0])):
        won, of = sum(row[0] for row in rows), sum(row[1] for row in rows)
        chosen = f"{sum(row[2] for row in rows)} of {len(rows)}"
        share = f"{won}/{of} = {100 * won / of:.1f} %"
        table.add_row(name, stage, what, share, _percent(wilson(won, of)), chosen)
    return table if tried else None


_LATEST = 5
"""Iterations whose episodes tell how well a policy acts with noise at the end."""


def differences_table(
    groups: Iterable[str],
    names: Iterable[str],
    seeds: Iterable[int],
    reports: Iterable[Report],
) -> Table | None:
    """What every variant has more than the first one of its group, at equal seeds.

    Runs of one seed have their demonstrations and start states in common, so that differences
    spread less than what they are of.

    Args:
        groups: What is compared with each other has equal ones, such as a task.
        names: Of the variants that the reports are of.
        seeds: Of the runs.
        reports: One per variant and seed.

    Returns:
        None if nothing is compared.
    """
    found: dict[str, dict[str, dict[int, Report]]] = {}
    for group, name, seed, report in zip(groups, names, seeds, reports, strict=True):
        found.setdefault(group, {}).setdefault(name, {})[seed] = report
    table = Table("variant", "against", "stage", "of", "difference by seed", "mean", "95 %")
    for variants in found.values():
        (first, reference), *others = variants.items()
        for name, runs in others:
            both = sorted(reference.keys() & runs.keys())
            for stage, of in _measured(runs.values()):
                pairs = [
                    (_measure(reference[s], stage, of), _measure(runs[s], stage, of)) for s in both
                ]
                apart = [100 * (b - a) for a, b in pairs if a is not None and b is not None]
                if apart:
                    interval = _student(apart)
                    table.add_row(
                        name, first, stage, of, ", ".join(f"{each:+.0f}" for each in apart),
                        f"{np.mean(apart):+.1f}",
                        f"{interval[0]:+.1f} to {interval[1]:+.1f}" if interval else "-",
                    )  # fmt: skip
    return table if table.row_count else None


def _measured(runs: Iterable[Report]) -> list[tuple[str, str]]:
    """Last stage of some runs, by teacher and student, and online with noise."""
    last = max(runs, key=lambda each: len(each.run)).run[-1].name  # one may have ended early
    return [(last, of) for of in ("ddim", "one_step", *(["noise"] if last == "online" else []))]


def _measure(report: Report, stage: str, of: str) -> float | None:
    """Success share of a stage; None if the run did not come to it."""
    if of == "noise":
        online = [point.success for point in report.curve if point.stage == stage]
        return float(np.mean(online[-_LATEST:])) if online else None
    for each in report.stages:
        if (each.name, each.policy) == (stage, of):
            return each.successes / each.trials
    return None


def gate_table(
    names: Iterable[str], reports: Iterable[Report], config: GateConfig
) -> Table | None:
    """True success where J would have led, of phases that nothing stopped, over the seeds.

    Args:
        names: Of the variants that the reports are of.
        reports: One per variant and seed.
        config: The gate that is asked where it would have stopped, with multiples of its accepts
            too.

    Returns:
        None if no such phase was watched from its beginning.
    """
    found: dict[tuple[str, str, str], list[Iterate]] = {}
    for name, report in zip(names, reports, strict=True):
        watched = report.watched
        if not watched or watched[0].iteration != 0:
            continue
        best = int(np.argmax([each.success or 0.0 for each in watched]))
        for where, index in (("start", 0), ("last", -1), (_BEST, best)):
            found.setdefault((name, "", where), []).append(watched[index])
        estimates = {"": [each.j for each in watched]}
        if watched[-1].j_improving is not None:
            estimates = {"of the others": estimates[""]}
            estimates["of those that improve"] = [x.j_improving or 0.0 for x in watched]
        for whose, j in estimates.items():
            for accepts in (config.accepts * times for times in _LONGER):
                kept = watched[_kept_by_gate(j, replace(config, accepts=accepts))]
                found.setdefault((name, whose, f"kept by {accepts} accepts"), []).append(kept)
            found.setdefault((name, whose, "highest J"), []).append(watched[int(np.argmax(j))])
    table = Table("variant", "J", "iterate", "at", "true success", "over seeds 95 %", "seeds")
    for (name, whose, where), iterates in sorted(found.items(), key=lambda row: row[0][0]):
        shares = [each.success or 0.0 for each in iterates]
        spread = over_seeds(shares)
        table.add_row(
            name, whose, where, ", ".join(str(each.iteration) for each in iterates),
            f"{100 * np.mean(shares):.1f} %", _percent(spread) if spread else "-",
            ", ".join(f"{100 * share:.0f}" for share in shares),
        )  # fmt: skip
    return table if found else None


_LONGER = (1, 2, 3, 4)
"""How many times as many accepts a phase is asked with too."""
_BEST = "best of all, chosen by these episodes"
"""What nobody can reach: the largest of many estimates is too large."""


def _kept_by_gate(estimates: Sequence[float], config: GateConfig) -> int:
    """Which estimate the gate would let through last; 0, that of the incumbent, if none."""
    kept, gate = 0, Gate(estimates[0], replace(config, enabled=True))
    for index, candidate in enumerate(estimates[1:], start=1):
        if gate.ask(candidate).accepted:
            kept = index
        if gate.over:
            break
    return kept


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
        for each in report.watched:
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
