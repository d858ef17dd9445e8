# SPDX-License-Identifier: Apache-2.0
"""Runs of several seeds in one table."""

import pytest

from rl100_bringup.learning_pictures import claim_figure
from rl100_bringup.report import Report, StageResult
from rl100_bringup.summaries import (
    by_variant,
    over_seeds,
    summarise,
    summary_table,
    watched_table,
    write_markdown,
)
from rl100_learner.training.algorithm_run import StageRecord
from rl100_learner.training.records import Records


def stage(name: str, policy: str, successes: int) -> StageResult:
    return StageResult(
        name=name, policy=policy, successes=successes, trials=10, wilson_low=0.0, wilson_high=1.0,
        seconds=1.0, success_seconds=2.0 if successes else None,
    )  # fmt: skip


def test_seeds_are_pooled_by_stage_and_episodes_add_up_over_the_stages():
    records = [
        StageRecord(name="imitation", version="a", episodes=5, periods=1, seconds=60.0),
        StageRecord(name="round 1", version="b", episodes=40, periods=1, seconds=30.0),
        StageRecord(name="online", version="c", episodes=100, periods=1, seconds=90.0),
    ]
    reports = [
        Report(
            command="x",
            run=records,
            stages=[
                stage("demonstrations", "operator", 9),
                stage("imitation", "ddim", won),
                stage("round 1", "ddim", won + 2),
                stage("online", "ddim", 10),
            ],
        )
        for won in (4, 6)
    ]
    found = {each.stage: each for each in summarise(["a", "a"], reports)}
    assert found["imitation"].successes == 10
    assert found["imitation"].shares == [0.4, 0.6]
    assert [found[name].episodes for name in ("imitation", "round 1", "online")] == [
        [0, 0], [40, 40], [140, 140]
    ]  # fmt: skip
    assert [found[name].minutes for name in ("imitation", "round 1", "online")] == [
        [1.0, 1.0], [1.5, 1.5], [3.0, 3.0]
    ]  # fmt: skip
    figure = claim_figure(by_variant([*found.values()]))
    (axes,) = figure.axes
    assert axes.get_title() == "a"
    names = [label.get_text() for label in axes.get_xticklabels()]
    assert names == ["imitation", "round 1", "online"]
    heights = axes.containers[0].lines[0].get_ydata().tolist()
    assert heights == [50.0, 70.0, 100.0]


def test_few_seeds_that_differ_leave_a_wide_interval():
    assert over_seeds([0.5]) == (0.0, 1.0), "one seed tells nothing of others"
    low, high = over_seeds([0.5, 0.6, 0.7])
    assert (low, high) == pytest.approx(
        (0.6 - 4.303 * 0.1 / 3**0.5, 0.6 + 4.303 * 0.1 / 3**0.5), abs=1e-4
    )
    assert over_seeds([1.0, 0.9])[1] == 1.0
    assert over_seeds([0.8, 0.8]) == pytest.approx((0.8, 0.8))


def test_tables_become_markdown_with_a_line_per_row(tmp_path):
    report = Report(
        command="x",
        stages=[stage("imitation", "ddim", 4)],
        run=[StageRecord(name="imitation", version="a", episodes=5, periods=1, seconds=60.0)],
    )
    write_markdown(tmp_path / "tables.md", [summary_table(summarise(["a"], [report]))])
    lines = (tmp_path / "tables.md").read_text(encoding="utf-8").strip().splitlines()
    assert [line.count("|") for line in lines] == [11, 11, 11]
    assert "4/10 = 40.0 %" in lines[2]
    assert "17 - 69 %" in lines[2]


def test_watched_iterates_are_pooled_over_seeds(tmp_path):
    folders = []
    for seed, shares in enumerate(([0.5, 0.7], [0.6, 0.4])):
        folders.append(("gate", tmp_path / str(seed)))
        folders[-1][1].mkdir()
        with Records(tmp_path / str(seed), 0) as records:
            for step, share in enumerate(shares, start=1):
                told = {"j": 0.1 * step + seed, "accepted": float(seed), "success": share}
                records.write("offline", step, step, 1.0, told)
    table = watched_table(folders, 10)
    assert table is not None
    told = [list(column.cells) for column in table.columns]
    assert told[1:5] == [
        ["1", "2"], ["0.6000", "0.7000"], ["1", "1"], ["11/20 = 55.0 %", "11/20 = 55.0 %"]
    ]  # fmt: skip


def test_there_is_no_such_table_where_nothing_was_watched(tmp_path):
    with Records(tmp_path, 0) as records:
        records.write("offline", 1, 1, 1.0, {"j": 0.1, "accepted": 0.0})
    assert watched_table([("gate", tmp_path)], 10) is None
