# SPDX-License-Identifier: Apache-2.0
"""Runs of several seeds in one table."""

import io

import pytest
from rich.console import Console

from rl100_bringup.learning_pictures import claim_figure, curves_figure, watched_figure
from rl100_bringup.report import CurvePoint, Iterate, Report, StageResult
from rl100_bringup.reproduction.claims import CONTROL
from rl100_bringup.reproduction.summaries import (
    by_variant,
    candidates_table,
    differences_table,
    gate_table,
    over_seeds,
    summarise,
    summary_table,
    variant_tables,
    watched_table,
    write_markdown,
)
from rl100_bringup.run_folder import learning_curve, offline_iterates
from rl100_learner.algorithms.offline import GateConfig
from rl100_learner.training.records import Records
from rl100_learner.training.stages import StageRecord


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
    assert over_seeds([0.5]) is None, "one seed tells nothing of others"
    assert over_seeds([0.8, 0.8]) is None, "nor do equal ones of their spread"
    low, high = over_seeds([0.5, 0.6, 0.7])
    assert (low, high) == pytest.approx(
        (0.6 - 4.303 * 0.1 / 3**0.5, 0.6 + 4.303 * 0.1 / 3**0.5), abs=1e-4
    )
    assert over_seeds([1.0, 0.9])[1] == 1.0


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


def test_on_a_terminal_every_variant_is_a_table_of_eighty_columns():
    def reports(won):
        ran = [StageRecord(name="imitation", version="a", episodes=5, periods=1, seconds=60.0)]
        stages = [stage("imitation", "one_step", won), stage(CONTROL, "one_step", 10)]
        return Report(command="x", stages=stages, run=ran)

    found = summarise(["peg-insert-side-v3", "b", "b"], [reports(4), reports(6), reports(8)])
    tables = variant_tables(found)
    assert [table.title for table in tables] == ["peg-insert-side-v3", "b"]
    console = Console(width=80, record=True, file=io.StringIO())
    for table in tables:
        console.print(table)
    said = console.export_text()
    assert max(map(len, said.splitlines())) <= 80
    assert "40.0 % of 10" in said
    assert "17 - 69 %" in said  # of one seed, Wilson's
    assert "0 - 100 %" in said  # of two that differ, Student's
    assert said.count("successes only") == 2


def iterate(
    round: int, iteration: int, j: float, accepted: bool, success: float | None
) -> Iterate:
    return Iterate(
        round=round, iteration=iteration, j=j, j_snapshot=0.1, accepted=accepted, distance=0.0,
        success=success,
    )  # fmt: skip


def test_watched_iterates_of_the_first_round_are_pooled_over_seeds():
    reports = [
        Report(
            command="x",
            iterates=[
                iterate(1, 1, 0.1 + seed, bool(seed), first),
                iterate(1, 2, 0.2 + seed, bool(seed), second),
                iterate(2, 1, 9.0, True, 1.0),
            ],
        )
        for seed, (first, second) in enumerate(([0.5, 0.7], [0.6, 0.4]))
    ]
    table = watched_table(["gate", "gate"], reports, 10)
    assert table is not None
    told = [list(column.cells) for column in table.columns]
    assert told[1:5] == [
        ["1", "2"], ["0.6000", "0.7000"], ["1", "1"], ["11/20 = 55.0 %", "11/20 = 55.0 %"]
    ]  # fmt: skip
    unwatched = Report(command="x", iterates=[iterate(1, 1, 0.1, True, None)])
    figure = watched_figure(["unwatched", "gate", "gate"], [unwatched, *reports])
    success, estimate = figure.axes  # one panel, and its other axis
    assert [line.get_ydata().tolist() for line in success.lines] == [[50.0, 70.0], [60.0, 40.0]]
    assert [line.get_ydata().tolist() for line in estimate.lines] == [
        [0.1, 0.2], [], [1.1, 1.2], [1.1, 1.2]
    ]  # fmt: skip


def test_there_is_no_such_table_where_nothing_was_watched():
    report = Report(command="x", iterates=[iterate(1, 1, 0.1, False, None)])
    assert watched_table(["gate"], [report], 10) is None


def ran(online_noise=(), **trials) -> Report:
    """A run of one round and online learning; every argument ``(won, of)`` of a candidate."""
    tried = {name.replace("_", " "): each for name, each in trials.items()}
    chosen = max(tried, key=lambda name: tried[name][0]) if tried else ""
    records = [
        StageRecord(
            name="round 1", version="b", episodes=1, periods=1, seconds=1.0, trials=tried,
            chosen=chosen,
        ),
        StageRecord(name="online", version="c", episodes=1, periods=1, seconds=1.0),
    ]  # fmt: skip
    curve = [
        CurvePoint(stage="online", episodes=index, success=share)
        for index, share in enumerate(online_noise)
    ]
    return Report(command="x", run=records, curve=curve)


def cells(table):
    return list(zip(*(column.cells for column in table.columns), strict=True))


def test_candidates_are_told_with_how_often_they_were_chosen():
    reports = [
        ran(current=(5, 10), iterate_2=(6, 10), iterate_4=(7, 10), imitation=(9, 10)),
        ran(current=(5, 10), iterate_1=(8, 10), imitation=(7, 10)),
    ]
    told = cells(candidates_table(["a", "a"], reports))
    assert [(row[2], row[3], row[5]) for row in told] == [
        ("as it was", "10/20 = 50.0 %", "0 of 2"),
        ("iterate before", "6/10 = 60.0 %", "0 of 1"),
        ("last iterate", "15/20 = 75.0 %", "1 of 2"),
        ("re-trained", "16/20 = 80.0 %", "1 of 2"),
    ]
    assert candidates_table(["a"], [ran()]) is None


def test_differences_are_taken_at_equal_seeds_of_the_same_group():
    def learned(ddim, noise):
        stages = [stage("online", "ddim", ddim), stage("online", "one_step", 5)]
        return ran(noise).model_copy(update={"stages": stages})

    runs = [
        ("t", "first", 0, learned(5, [0.0, 0.5, 0.5, 0.5, 0.5, 0.5])),
        ("t", "other", 0, learned(7, [1.0, 0.7, 0.7, 0.7, 0.7, 0.7])),
        ("t", "first", 1, learned(9, [0.9] * 5)),
        ("t", "other", 1, learned(9, [0.9] * 5)),
        ("t", "other", 2, learned(0, [])),
        ("u", "alone", 0, learned(3, [])),
    ]
    told = cells(differences_table(*zip(*runs, strict=True)))
    assert [row[:6] for row in told] == [
        ("other", "first", "online", "ddim", "+20, +0", "+10.0"),
        ("other", "first", "online", "one_step", "+0, +0", "+0.0"),
        ("other", "first", "online", "noise", "+20, +0", "+10.0"),
    ]
    low, high = (float(each) for each in told[0][6].split(" to "))
    assert (low, high) == pytest.approx((10 - 127.06, 10 + 127.06), abs=0.1)
    assert differences_table(*zip(*runs[-1:], strict=True)) is None


def test_differences_are_of_the_last_stage_also_where_the_first_seed_ended_early():
    whole, early = ran([0.5]), ran()
    early = early.model_copy(
        update={"run": early.run[:1], "stages": [stage("round 1", "ddim", 1)]}
    )
    whole = whole.model_copy(update={"stages": [stage("online", "ddim", 7)]})
    runs = [("t", name, seed, whole) for name in ("first", "other") for seed in (0, 1)]
    runs[2] = ("t", "other", 0, early)
    told = cells(differences_table(*zip(*runs, strict=True)))
    assert [row[2:5] for row in told] == [("online", "ddim", "+0"), ("online", "noise", "+0")]


def test_what_the_gate_would_have_kept_is_told_with_what_its_estimate_promised():
    """J: the gate takes the first and the third; J goes on rising, and success falls."""
    j = [1.0, 1.1, 1.12, 1.2, 1.3, 1.5]
    success = [0.5, 0.6, 0.9, 0.7, 0.4, 0.2]
    improving = [1.9, 2.0, 2.05, 1.9, 1.8, 1.7]
    iterates = [
        iterate(1, index, each, True, success[index]).model_copy(
            update={"j_improving": improving[index]}
        )
        for index, each in enumerate(j)
    ]
    plain = [each.model_copy(update={"j_improving": None}) for each in iterates]
    config = GateConfig(accepts=2, patience=3, enabled=False)  # asked all the same

    def told(found):
        table = gate_table(["a"], [Report(command="x", iterates=found)], config)
        return {row[1:3]: row[3:5] for row in cells(table)}

    assert told(plain) == {
        ("", "start"): ("0", "50.0 %"), ("", "last"): ("5", "20.0 %"),
        ("", "best of all, chosen by these episodes"): ("2", "90.0 %"),
        ("", "kept by 2 accepts"): ("3", "70.0 %"), ("", "kept by 4 accepts"): ("5", "20.0 %"),
        ("", "kept by 6 accepts"): ("5", "20.0 %"), ("", "kept by 8 accepts"): ("5", "20.0 %"),
        ("", "highest J"): ("5", "20.0 %"),
    }  # fmt: skip
    both = told(iterates)
    assert both["of the others", "kept by 2 accepts"] == ("3", "70.0 %")
    assert both["of those that improve", "kept by 2 accepts"] == ("1", "60.0 %")
    assert both["of those that improve", "kept by 8 accepts"] == ("1", "60.0 %")
    assert both["of those that improve", "highest J"] == ("2", "90.0 %")
    unwatched = Report(command="x", iterates=[iterate(1, 1, 0.1, True, None)])
    assert gate_table(["a"], [unwatched], config) is None


def test_the_learning_curve_counts_episodes_over_all_stages(tmp_path):
    (tmp_path / "online").mkdir()
    with Records(tmp_path / "online", 0) as rows:
        rows.write("online", 1, 1, 1.0, {"episodes": 50.0, "success": 0.8})
        rows.write("online", 2, 2, 1.0, {"episodes": 100.0, "success": 0.9})
        rows.write("distillation", 5, 7, 1.0, {"loss": 0.1})
    stages = [("imitation", 20, None), ("round 1", 40, (15, 30)), ("online", 130, None)]
    records = [
        StageRecord(name=name, version="v", episodes=n, periods=1, seconds=1.0, rollouts=rollouts)
        for name, n, rollouts in stages
    ]
    curve = learning_curve(tmp_path, records)
    told = [(point.stage, point.episodes, point.success) for point in curve]
    assert told == [("round 1", 30, 0.5), ("online", 90, 0.8), ("online", 140, 0.9)]
    played = Report(command="x", curve=curve)
    figure = curves_figure(["none", "a", "a"], [Report(command="x"), played, played], [3, 3, 5])
    (panel,) = figure.axes
    lines, rollouts, others, _ = panel.lines
    assert lines.get_xdata().tolist() == [30, 90, 140]
    assert rollouts.get_ydata().tolist() == [50.0]
    (legend,) = figure.legends
    assert [each.get_text() for each in legend.get_texts()] == [
        "seed 3", "roll-outs of a round", "seed 5"
    ]  # fmt: skip
    assert lines.get_color() == rollouts.get_color() != others.get_color()
    (legend,) = curves_figure(["a"], [played]).legends
    assert [each.get_text() for each in legend.get_texts()] == ["online", "roll-outs of a round"]


def test_iterates_are_read_in_the_order_of_the_rounds(tmp_path):
    for number in (2, 10):
        folder = tmp_path / f"round_{number}" / "offline"
        folder.mkdir(parents=True)
        with Records(folder, 0) as rows:
            rows.write("critics", 1, 1, 1.0, {"q_loss": 0.1})
            told = {"j": 0.2, "j_snapshot": 0.1, "accepted": 1.0, "distance": 0.3}
            rows.write("offline", 3, 4, 1.0, told | ({"success": 0.5} if number == 2 else {}))
    first, second = offline_iterates(tmp_path)
    assert (first.round, first.iteration, first.accepted, first.success) == (2, 3, True, 0.5)
    assert (second.round, second.success) == (10, None)
