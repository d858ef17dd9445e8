# SPDX-License-Identifier: Apache-2.0
"""Measured results as ``report.json``.

It is the one form in which every command that measures writes them.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import Field, ValidationError
from rich.markup import escape
from rich.table import Table
from scipy.stats import binomtest

from rl100_bringup.session import Trials
from rl100_learner.files import replacing
from rl100_learner.training import identity
from rl100_learner.training.stages import CURRENT, StageRecord
from rl100_policy.bags.index import IndexEntry
from rl100_policy.bags.judgement import Outcome
from rl100_policy.core.config import FrozenModel, validation_problems
from rl100_policy.core.errors import ConfigError
from rl100_policy.core.latency import Journey, hop_latencies

REPORT_FILE = identity.REPORT


class StageResult(FrozenModel):
    """Success of one policy at one stage."""

    name: str
    """What was evaluated: ``demonstrations``, ``imitation`` ..."""
    policy: str
    """``operator``, ``ddim`` or ``one_step``."""
    successes: int
    trials: int
    wilson_low: float
    wilson_high: float
    """Wilson 95 % interval of the success rate."""
    seconds: float
    """Wall time of the trials [s]."""
    degraded: int = 0
    """Trials whose bags are known to lack messages."""
    success_seconds: float | None = None
    """Mean length of the successful trials on the robot's clock [s]; None if there was none."""


class Latency(FrozenModel):
    """Wall time of one inference, from complete observation to chunk [ms]."""

    p50: float
    p99: float
    max: float
    decisions: int


class HopResult(FrozenModel):
    """Time of one part of the way from what was seen to the command [ms]."""

    hop: str
    """As in :mod:`rl100_policy.core.latency`."""
    p50: float
    p99: float
    max: float
    jitter: float
    """Mean difference between one decision and the next."""
    decisions: int


class BagsResult(FrozenModel):
    """Episodes that the command recorded, or learned from; of a demo the demonstrations."""

    episodes: int
    seconds: float
    """Recorded time on the robot's clock [s]."""
    bytes: int
    successes: int
    degraded: int
    """Episodes with messages known to be missing."""


class TrainingResult(FrozenModel):
    """What training cost and ended with."""

    stage: str
    steps: int
    seconds: float
    loss: float


class CurvePoint(FrozenModel):
    """Success of a policy while it acted with noise, to be learned from."""

    stage: str
    """``round 1``, ..., ``online``: which learns from it."""
    episodes: int
    """That policies had played in the run until then, these included; demonstrations are not."""
    success: float


class Iterate(FrozenModel):
    """What the gate said of an offline iterate."""

    round: int
    iteration: int
    """0: the policy that the phase began with, where iterates were watched."""
    j: float
    """Estimated return."""
    j_snapshot: float
    """The same of the snapshot that it was compared with."""
    accepted: bool
    distance: float
    """Symmetric KL to the policy that the phase began with [nat per transition]."""
    success: float | None = None
    """True success share, where iterates were watched."""
    j_improving: float | None = None
    """J of the critics that improve, where others judge."""


class Report(FrozenModel):
    """Everything a command measured."""

    command: str
    stages: list[StageResult] = Field(default_factory=list)
    latency_ms: dict[str, Latency] = Field(default_factory=dict)
    """By policy."""
    hops_ms: dict[str, list[HopResult]] = Field(default_factory=dict)
    """The way to the command, hop by hop, totals last; by policy."""
    deadline_misses: int | None = None
    """Decisions that took longer than one action period; None of a command that measured none."""
    lockstep_timeouts: int | None = None
    """Control periods of the trials in which the simulated world went on without a command; at
    most, where trials are ``degraded``."""
    bags: BagsResult | None = None
    training: list[TrainingResult] = Field(default_factory=list)
    run: list[StageRecord] = Field(default_factory=list)
    """What the stages of a run of several played and chose, in their order."""
    curve: list[CurvePoint] = Field(default_factory=list)
    """Of a run of several stages."""
    iterates: list[Iterate] = Field(default_factory=list)
    """Of all its offline phases."""
    failure: str = ""
    """Why the run ended before its last stage; what it has is evaluated all the same."""
    wall_seconds: float = 0.0
    """Wall time of the command, without the drawing of pictures [s]."""
    policy_version: str = ""
    machine: dict[str, Any] = Field(default_factory=dict)

    @property
    def watched(self) -> list[Iterate]:
        """Iterates of the first offline phase that played episodes to be shown."""
        return [each for each in self.iterates if each.round == 1 and each.success is not None]

    def write(self, folder: Path) -> Path:
        """Write ``report.json`` into a folder; returns its path."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / REPORT_FILE
        with replacing(path) as file:
            file.write((json.dumps(self.model_dump(mode="json"), indent=2) + "\n").encode())
        return path

    @staticmethod
    def is_in(folder: Path) -> bool:
        """Whether a folder has one."""
        return (folder / REPORT_FILE).exists()

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The report that a folder has.

        Raises:
            ConfigError: If it is damaged.
        """
        path = folder / REPORT_FILE
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except ValidationError as error:
            raise ConfigError(
                f"{path} is damaged; delete it, and the command that wrote it writes it again "
                f"({validation_problems(error)})"
            ) from error


def stage_result(name: str, policy: str, trials: Trials) -> StageResult:
    """Success with its Wilson 95 % interval."""
    won = [e.seconds for e in trials.episodes if e.metadata.outcome is Outcome.SUCCESS]
    degraded = _degraded(trials.episodes)
    return _result(name, policy, len(trials.episodes), won, trials.wall_s, degraded)


def simulated_result(
    name: str, policy: str, won: Sequence[bool], lengths_s: Sequence[float], wall_s: float
) -> StageResult:
    """As :func:`stage_result`, of episodes without a graph.

    Args:
        name: Stage.
        policy: ``ddim`` or ``one_step``.
        won: Of every episode.
        lengths_s: Of every episode, on the robot's clock [s].
        wall_s: Wall time of all of them [s].
    """
    lengths = [length for length, good in zip(lengths_s, won, strict=True) if good]
    return _result(name, policy, len(won), lengths, wall_s, 0)


def _result(
    name: str, policy: str, trials: int, won_s: Sequence[float], wall_s: float, degraded: int
) -> StageResult:
    low, high = wilson(len(won_s), trials)
    return StageResult(
        name=name,
        policy=policy,
        successes=len(won_s),
        trials=trials,
        wilson_low=low,
        wilson_high=high,
        seconds=wall_s,
        degraded=degraded,
        success_seconds=sum(won_s) / len(won_s) if won_s else None,
    )


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Wilson score interval at 95 % of a success probability; (0, 1) without trials."""
    if trials == 0:
        return 0.0, 1.0
    interval = binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def latency(inference_s: Sequence[float]) -> Latency:
    """Percentiles of inference times [s], in ms."""
    times = np.asarray(inference_s) * 1e3
    p50, p99 = np.percentile(times, [50, 99])
    return Latency(p50=float(p50), p99=float(p99), max=float(times.max()), decisions=len(times))


def hop_results(journeys: Sequence[Journey]) -> list[HopResult]:
    """What each hop of some journeys took."""
    return [
        HopResult(
            hop=each.hop,
            p50=1e3 * each.p50_s,
            p99=1e3 * each.p99_s,
            max=1e3 * each.max_s,
            jitter=1e3 * each.jitter_s,
            decisions=each.count,
        )
        for each in hop_latencies(journeys)
    ]


def bags_result(episodes: Sequence[IndexEntry]) -> BagsResult:
    """Totals over recorded episodes."""
    return BagsResult(
        episodes=len(episodes),
        seconds=sum(episode.seconds for episode in episodes),
        bytes=sum(episode.bytes for episode in episodes),
        successes=sum(episode.metadata.outcome is Outcome.SUCCESS for episode in episodes),
        degraded=_degraded(episodes),
    )


def _degraded(episodes: Sequence[IndexEntry]) -> int:
    return sum(episode.metadata.degraded for episode in episodes)


def this_machine() -> dict[str, Any]:
    """What figures depend on, besides the settings."""
    return {
        "processors": os.cpu_count(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "commit": _commit(),
    }


def _commit() -> str:
    """Of the checkout that runs, with ``-dirty`` if it was changed; empty outside of one."""
    root = os.environ.get("RL100_ROOT")
    if root is None:
        return ""
    command = ["git", "-C", root, "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10.0, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def tables(report: Report) -> list[Table]:
    """The report for a terminal."""
    out = [_success_table(report.stages, report.run)] if report.stages else []
    if report.bags:
        bags = Table(
            "bags", "recorded", "size", "success share", "degraded", title="Recorded episodes"
        )
        b = report.bags
        share = f"{100 * b.successes / max(1, b.episodes):.0f} %"
        bags.add_row(
            str(b.episodes),
            f"{b.seconds:.0f} s",
            f"{b.bytes / 1e6:.0f} MB",
            share,
            str(b.degraded),
        )
        out.append(bags)
    if report.training:
        training = Table("stage", "steps", "time", "final loss", title="Training")
        for row in report.training:
            training.add_row(row.stage, str(row.steps), f"{row.seconds:.0f} s", f"{row.loss:.4f}")
        out.append(training)
    if report.run:
        out.append(_run_table(report.run))
    if report.latency_ms:
        table = Table("policy", "p50", "p99", "max", "decisions", title="Inference latency")
        for policy, times in report.latency_ms.items():
            table.add_row(
                policy,
                f"{times.p50:.2f} ms",
                f"{times.p99:.2f} ms",
                f"{times.max:.2f} ms",
                str(times.decisions),
            )
        if not report.hops_ms:
            table.caption = _missed(report)
        out.append(table)
    if report.hops_ms:
        out.append(_hop_table(report))
    return out


def _missed(report: Report) -> str:
    return (
        f"deadline misses: {report.deadline_misses}, "
        f"lockstep time-outs: {report.lockstep_timeouts}"
    )


def _hop_table(report: Report) -> Table:
    """Median and 99th percentile of every hop, a column for each policy."""
    table = Table("hop", title=escape("Latency, p50 | p99 | max [ms]"), caption=_missed(report))
    names: dict[str, None] = {}
    for policy, hops in report.hops_ms.items():
        table.add_column(policy, justify="right")
        names |= dict.fromkeys(each.hop for each in hops)
    for name in names:
        cells = [
            next((f"{h.p50:.2f} | {h.p99:.2f} | {h.max:.2f}" for h in hops if h.hop == name), "")
            for hops in report.hops_ms.values()
        ]
        table.add_row(name, *cells)
    return table


def _success_table(stages: Sequence[StageResult], run: Sequence[StageRecord]) -> Table:
    table = Table("stage", "policy", "success", "95 % interval", "length", "time", title="Success")
    told = []
    if degraded := sum(stage.degraded for stage in stages):
        told.append(f"{degraded} episodes are degraded: messages of them are missing")
    told += [
        f"{record.name}: nothing it learned did better in trials; the policy before it went on"
        for record in run
        if record.chosen == CURRENT
    ]
    table.caption = "\n".join(told) or None
    for stage in stages:
        percent = 100 * stage.successes / max(1, stage.trials)
        share = f"{stage.successes}/{stage.trials} = {percent:.0f} %"
        interval = f"{100 * stage.wilson_low:.0f} - {100 * stage.wilson_high:.0f} %"
        length = "-" if stage.success_seconds is None else f"{stage.success_seconds:.1f} s"
        table.add_row(stage.name, stage.policy, share, interval, length, f"{stage.seconds:.0f} s")
    return table


def _run_table(records: Sequence[StageRecord]) -> Table:
    table = Table("stage", "episodes", "control periods", "time", "chosen by trials", title="Run")
    for record in records:
        tried = ", ".join(f"{name} {won}/{n}" for name, (won, n) in record.trials.items())
        chosen = f"{record.chosen}  (of {tried})" if tried else ""
        table.add_row(
            record.name,
            str(record.episodes),
            str(record.periods),
            f"{record.seconds:.0f} s",
            chosen,
        )
    return table
