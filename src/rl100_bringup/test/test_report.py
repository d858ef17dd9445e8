# SPDX-License-Identifier: Apache-2.0
"""Reports: intervals and percentiles against known values, and the form on disk."""

import io
import json
from itertools import count

import numpy as np
import pytest
from rich.console import Console

from rl100_bringup.display import Bars, progress_display
from rl100_bringup.report import (
    BagsResult,
    Report,
    StageResult,
    hop_results,
    latency,
    tables,
    wilson,
)
from rl100_learner.training.stages import CURRENT, StageRecord
from rl100_policy.core.latency import Journey, Mark


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        # (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n) with z = 1.959964
        (0, 10, 0.0, 3.8414588 / (10 + 3.8414588)),
        (10, 10, 10 / (10 + 3.8414588), 1.0),
        (25, 50, 0.5 - 0.1336, 0.5 + 0.1336),
    ],
)
def test_the_wilson_interval_is_the_closed_form(successes, trials, low, high):
    assert wilson(successes, trials) == pytest.approx((low, high), abs=1e-4)


def test_without_trials_nothing_is_known():
    assert wilson(0, 0) == (0.0, 1.0)


def test_latency_is_in_milliseconds():
    row = latency(np.arange(101) * 1e-3)
    assert (row.p50, row.p99, row.max, row.decisions) == pytest.approx((50.0, 99.0, 100.0, 101))


def example() -> Report:
    stage = StageResult(
        name="imitation",
        policy="one_step",
        successes=3,
        trials=4,
        wilson_low=0.3,
        wilson_high=0.95,
        seconds=8.0,
        degraded=2,
    )
    bags = BagsResult(episodes=2, seconds=9.0, bytes=2_000_000, successes=1, degraded=0)
    return Report(
        command="demo",
        stages=[stage],
        bags=bags,
        latency_ms={"one_step": latency([0.001, 0.002])},
        deadline_misses=0,
        lockstep_timeouts=5,
    )


def test_the_report_on_disk_has_the_promised_form(tmp_path):
    written = json.loads(example().write(tmp_path / "run").read_text())
    assert written["stages"][0] == {
        "name": "imitation", "policy": "one_step", "successes": 3, "trials": 4,
        "wilson_low": 0.3, "wilson_high": 0.95, "seconds": 8.0, "degraded": 2,
        "success_seconds": None,
    }  # fmt: skip
    assert {"p50", "p99"} <= written["latency_ms"]["one_step"].keys()
    assert written["deadline_misses"] == 0
    assert written["lockstep_timeouts"] == 5
    nothing = json.loads(Report(command="train").write(tmp_path / "other").read_text())
    assert nothing["deadline_misses"] is nothing["lockstep_timeouts"] is None
    assert {"episodes", "seconds", "bytes", "successes"} <= written["bags"].keys()


def test_the_tables_show_every_figure():
    console = Console(file=io.StringIO(), width=120)
    for table in tables(example()):
        console.print(table)
    shown = console.file.getvalue()
    for figure in ("3/4 = 75 %", "30 - 95 %", "2 MB", "50 %", "1.50 ms", "deadline misses: 0"):
        assert figure in shown
    assert "time-outs: 5" in shown


def test_a_round_that_changed_nothing_is_told_beside_its_success():
    kept, better = (
        StageRecord(
            name=f"round {number}", version="", episodes=0, periods=0, seconds=0.0, chosen=chosen
        )
        for number, chosen in enumerate([CURRENT, "iterate 2"], start=1)
    )
    success, *_ = tables(example().model_copy(update={"run": [kept, better]}))
    assert "round 1: nothing it learned did better" in str(success.caption)
    assert "round 2" not in str(success.caption)
    assert "2 episodes are degraded" in str(success.caption)


def test_a_bar_that_begins_again_counts_its_own_time():
    now = count()
    console = Console(file=io.StringIO(), force_terminal=False)
    with progress_display(console) as display:
        display.get_time = lambda: float(next(now))
        bars = Bars(display)
        bars.on_episodes("online", 1, 2, 0)
        first = display.tasks[0].start_time
        bars.on_episodes("online", 2, 2, 0)
        assert display.tasks[0].start_time == first
        bars.on_episodes("online", 1, 2, 0)
        (task,) = display.tasks
        assert task.completed == 1
        assert task.start_time > first
    assert "online episodes: 2/2" in console.file.getvalue()  # the end is told, however early


def test_progress_is_shown_in_a_log_too(monkeypatch):
    monkeypatch.setattr("rl100_bringup.display._LINE_PERIOD_S", 0.0)
    console = Console(file=io.StringIO(), force_terminal=False)
    with progress_display(console) as display:
        task = display.add_task("demonstrations", total=9, note="")
        display.update(task, completed=4, note="3 successes")
    assert "demonstrations: 4/9" in console.file.getvalue()
    assert "3 successes" in console.file.getvalue()


def test_hops_are_told_in_milliseconds_a_column_for_each_policy():
    def hops(*took_ms):
        return hop_results(
            [
                Journey(at, "v", {Mark.POLICY_IN: 0, Mark.DECIDED: took * 10**6})
                for at, took in enumerate(took_ms)
            ]
        )

    report = Report(command="eval", hops_ms={"one_step": hops(2, 4), "ddim": hops(9)})
    (found,) = report.hops_ms["one_step"]
    assert (found.hop, found.p50, found.max, found.jitter, found.decisions) == (
        "observation to chunk", 3.0, 4.0, 2.0, 2,
    )  # fmt: skip
    (table,) = tables(report)
    cells = [[str(cell) for cell in column.cells] for column in table.columns]
    assert cells == [["observation to chunk"], ["3.00 | 3.98 | 4.00"], ["9.00 | 9.00 | 9.00"]]
