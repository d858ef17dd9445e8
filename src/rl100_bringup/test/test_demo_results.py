# SPDX-License-Identifier: Apache-2.0
"""What the demo makes of its bags: timing, verdict, pictures, results of training."""

import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from rl100_bringup import demo, driving, evaluating, learning_pictures, pictures
from rl100_bringup.demo import _verdict
from rl100_bringup.driving import Driving
from rl100_bringup.graph import GraphArguments, config_path
from rl100_bringup.report import CurvePoint, Report, simulated_result, stage_result
from rl100_bringup.run_folder import training_results
from rl100_bringup.session import Trials
from rl100_policy.bags.index import IndexEntry, read_index
from rl100_policy.bags.judgement import Judgement, JudgementKind
from rl100_policy.bags.metadata import EpisodeMetadata
from rl100_policy.bags.testing import SyntheticEpisode
from rl100_policy.core.config import load_robot, load_task
from rl100_policy.core.point_cloud import depth_to_cloud
from rl100_sim.episode import SimulatedEpisode
from rl100_sim.tasks.push_t import T_BLOCK, goal_pose

ROBOT = load_robot(config_path("robots", "panda"))
TASK = load_task(config_path("tasks", "push_t"))


@pytest.fixture(scope="module")
def depth_mm():
    world = SimulatedEpisode(ROBOT, TASK)
    world.reset(np.random.default_rng(0))
    return world.depth_mm(ROBOT.camera())


@pytest.fixture
def record(tmp_path, depth_mm):
    """Writes a bag of three periods and the last observation; returns the index entries."""

    def write(**options) -> tuple[IndexEntry, ...]:
        SyntheticEpisode(
            TASK,
            ROBOT,
            depth_mm=np.stack([depth_mm] * 4),
            positions=np.tile(ROBOT.home, (4, 1)),
            actions=np.zeros((3, 2), np.float32),
            **options,
        ).write(tmp_path / "bags")
        return read_index(tmp_path / "bags").entries

    return write


def test_a_period_without_a_command_is_a_lockstep_timeout(record, tmp_path):
    assert Driving.read(tmp_path / "bags", record()).unanswered_periods == 0
    entries = record(missing={"command": frozenset({0, 2})})
    assert Driving.read(tmp_path / "bags", entries).unanswered_periods == 2


def decided(stamp_ns: int, *, missed: bool) -> SimpleNamespace:
    stamp = SimpleNamespace(sec=0, nanosec=stamp_ns)
    value = SimpleNamespace(
        header=SimpleNamespace(stamp=stamp), inference_s=0.01, deadline_missed=missed
    )
    return SimpleNamespace(value=value)


def test_decisions_of_the_episode_are_counted_with_those_that_were_late(
    record, tmp_path, monkeypatch
):
    """One on the last observation steers nothing, and may or may not be in the bag."""
    entries = record(metadata={"end_ns": 300})
    found = {
        "policy/decision": [decided(100, missed=True), decided(200, missed=False),
                            decided(300, missed=True)],
        "gate/command": [],
        "joint_states": [],
        "latency/journeys": [],
    }  # fmt: skip
    monkeypatch.setattr(driving, "read_messages", lambda *_: found)
    driven = Driving.read(tmp_path / "bags", entries)
    assert len(driven.inference_s) == 2
    assert driven.deadline_misses == 1


def test_every_bag_is_parsed_once(record, tmp_path, monkeypatch):
    record()
    entries, read = record(), []

    def counted(folder, topics):
        read.append(folder.name)
        return {topic: [] for topic in topics}

    monkeypatch.setattr(driving, "read_messages", counted)
    evaluating.driving_results(tmp_path / "bags", {"one_step": Trials(entries, 1.0)})
    assert read == [entry.folder for entry in entries]


def trials(successes: int, count: int) -> Trials:
    won = Judgement(stamp_ns=1, kind=JudgementKind.SUCCESS)
    return Trials(
        tuple(
            IndexEntry(
                folder=f"{index}",
                key="",
                bytes=1,
                seconds=1.0,
                messages=1,
                metadata=EpisodeMetadata(
                    episode_id=f"{index}",
                    task="push_t",
                    judgements=(won,) if index < successes else (),
                ),
            )
            for index in range(count)
        ),
        wall_s=1.0,
    )


@pytest.mark.parametrize(
    ("operator", "imitation", "last", "status"),
    [
        (trials(9, 10), trials(4, 10), trials(4, 10), 1),  # 40 % is below half of 90 %
        (trials(9, 10), trials(5, 10), trials(5, 10), 0),
        (trials(8, 10), trials(2, 5), trials(2, 5), 0),  # exactly half
        (trials(9, 10), trials(8, 10), trials(7, 10), 0),  # chance
        (trials(9, 10), trials(10, 10), trials(6, 10), 1),  # worse than where it began
        (trials(9, 10), trials(5, 10), trials(9, 10), 0),
        (trials(0, 10), trials(0, 5), trials(0, 5), 0),
    ],
)
def test_a_last_student_that_is_too_weak_fails_the_demo(operator, imitation, last, status):
    said = io.StringIO()
    evaluated = {"imitation": {"one_step": imitation}, "online": {"one_step": last}}
    assert _verdict(operator, evaluated, Console(file=said)) == status
    assert ("failed" in said.getvalue()) == bool(status)


def test_results_of_training_are_those_on_record(tmp_path):
    rows = [
        {"stage": "imitation", "step": 50, "global_step": 50, "seconds": 2.0, "loss": 0.9},
        {"stage": "imitation", "step": 60, "global_step": 60, "seconds": 2.5, "loss": 0.5},
        {"stage": "distillation", "step": 15, "global_step": 75, "seconds": 3.0, "loss": 0.2},
        {"stage": "imitation", "step": 70, "global_step": 85, "seconds": 3.25, "loss": 0.4},
        {"stage": "distillation", "step": 30, "global_step": 90, "seconds": 4.25, "loss": 0.1},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = [(r.stage, r.steps, r.seconds, r.loss) for r in training_results(tmp_path)]
    assert found == [("imitation", 70, 2.75, 0.4), ("distillation", 30, 1.5, 0.1)]


def test_an_iteration_that_was_given_up_costs_time_and_has_no_loss(tmp_path):
    rows = [
        {"stage": "online", "step": 1, "seconds": 2.0, "loss": 0.5, "returned": 0.0},
        {"stage": "online", "step": 2, "seconds": 3.0, "returned": 1.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (found,) = training_results(tmp_path)
    assert (found.steps, found.seconds, found.loss) == (2, 3.0, 0.5)
    (axes,) = learning_pictures.loss_figure(tmp_path).axes
    assert axes.lines[0].get_xdata().tolist() == [1]


def draw(tmp_path, entries):
    """The pictures of a run that has no training."""
    return pictures.draw_all(
        tmp_path / "pictures", tmp_path / "bags", entries, tmp_path / "train", Report(command="x"),
        ROBOT, TASK,
    )  # fmt: skip


def test_what_can_be_drawn_is_drawn_and_the_rest_has_a_reason(record, tmp_path):
    drawn, problems = draw(tmp_path, record())
    assert [path.name for path in drawn] == ["scene.png", "episode_path.png"]
    assert all(path.stat().st_size > 10_000 for path in drawn)
    missing = tmp_path / "train" / "imitation"
    assert problems == {"loss.png": f"{missing} holds no records of a training"}


def test_success_by_stage_is_drawn_with_its_intervals():
    stages = [
        stage_result("demonstrations", "operator", trials(9, 10)),
        stage_result("imitation", "ddim", trials(4, 10)),
        stage_result("imitation", "one_step", trials(5, 10)),
        stage_result("online", "ddim", trials(10, 10)),
        stage_result("online", "one_step", trials(8, 10)),
    ]
    (axes,) = learning_pictures.success_figure(Report(command="x", stages=stages)).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["imitation", "online"]
    heights = [container.lines[0].get_ydata().tolist() for container in axes.containers]
    assert heights == [[40, 100], [50, 80]]
    for container, policy in zip(axes.containers, ("ddim", "one_step"), strict=True):
        bars = container.lines[2][0].get_segments()
        mine = [stage for stage in stages if stage.policy == policy]
        for (below, above), stage in zip(bars, mine, strict=True):
            assert below[1] == pytest.approx(100 * stage.wilson_low)
            assert above[1] == pytest.approx(100 * stage.wilson_high)


def test_the_gate_is_drawn_from_the_records_of_a_phase(tmp_path):
    rows = [
        {"stage": "critics", "step": 1, "loss": 0.1},
        {"stage": "offline", "step": 1, "j": 0.4, "j_snapshot": 0.4, "accepted": 0.0},
        {"stage": "offline", "step": 2, "j": 0.5, "j_snapshot": 0.4, "accepted": 1.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (axes,) = learning_pictures.gate_figure(tmp_path).axes
    estimate, _, accepted = axes.lines
    assert list(estimate.get_ydata()) == [0.4, 0.5]
    assert list(accepted.get_xdata()) == [2]
    resolved = {"settings": {"offline": {"gate": {"enabled": True, "share": 0.1}}}}
    (tmp_path / "offline.json").write_text(json.dumps(resolved))
    (axes,) = learning_pictures.gate_figure(tmp_path).axes
    asked = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
    assert asked["what the gate asks for"] == pytest.approx([0.44, 0.44])


def test_without_an_episode_the_reason_says_so(tmp_path):
    drawn, problems = draw(tmp_path, [])
    assert drawn == []
    assert "no episode" in problems["scene.png"]
    assert "no episode" in problems["episode_path.png"]


def test_a_picture_that_cannot_be_drawn_is_a_warning(tmp_path):
    said = io.StringIO()
    console = Console(file=said, width=500)
    demo._draw(tmp_path, Report(command="x"), [], GraphArguments(), console)
    assert "warning: picture scene.png not drawn: there is no episode in" in said.getvalue()


def test_the_drawn_cloud_is_the_one_the_policy_saw(record, tmp_path):
    (entry,) = record()
    near = ROBOT.camera().model_copy(update={"depth_max": 0.75})  # cuts the block in two
    robot = ROBOT.model_copy(update={"cameras": (near,)})
    folder = tmp_path / "bags" / entry.folder
    short, full = (
        pictures.RecordedEpisode.read(folder, entry.metadata, each) for each in (robot, ROBOT)
    )
    size = TASK.observation
    expected = depth_to_cloud(
        short.depth_m[0],
        short.intrinsics,
        short.t_base_camera,
        TASK.crop,
        size.n_points,
        size.min_points,
        depth_range_m=(near.depth_min, near.depth_max),
    )
    np.testing.assert_array_equal(short.policy_cloud(0, TASK), expected)
    assert not np.array_equal(short.policy_cloud(0, TASK), full.policy_cloud(0, TASK))


def test_the_outline_at_the_goal_is_that_of_the_block(record, tmp_path):
    (entry,) = record()
    turned = TASK.model_copy(update={"sim": {**TASK.sim, "goal_yaw": 0.6}})
    folder = tmp_path / "bags" / entry.folder
    episode = pictures.RecordedEpisode.read(folder, entry.metadata, ROBOT)
    (axes,) = pictures.path_figure(episode, turned).axes
    (outline,) = [item for item in axes.collections if item.get_linestyle()[0][1] is not None]
    drawn = outline.get_paths()[0].vertices[:, ::-1]  # y is drawn to the left, x upwards
    gap = T_BLOCK.distance(goal_pose(turned), drawn)
    np.testing.assert_allclose(gap, 0.001, atol=2e-4)
    assert np.ptp(drawn, axis=0).min() > 0.12


def test_a_run_of_learning_has_pictures_of_what_it_measured(tmp_path):
    (tmp_path / "round_1" / "offline").mkdir(parents=True)
    assert [*learning_pictures.learning_figures(tmp_path, Report(command="train"))] == [
        "loss.png", "round_1_gate.png"
    ]  # fmt: skip
    point = CurvePoint(stage="online", episodes=50, success=0.5)
    tried = simulated_result("imitation", "ddim", [True, False], [1.0, 2.0], 1.0)
    report = Report(command="train", curve=[point], stages=[tried])
    figures = learning_pictures.learning_figures(tmp_path, report)
    assert [*figures] == ["loss.png", "success.png", "curve.png", "round_1_gate.png"]
    drawn, problems = learning_pictures.save_figures(tmp_path, figures)
    assert [path.name for path in drawn] == ["success.png", "curve.png"]
    assert problems.keys() == {"loss.png", "round_1_gate.png"}


@pytest.mark.parametrize(
    ("processors", "busy", "threads"), [(2, 3.0, 2), (2, 50.0, 1), (1, 0.0, 1), (16, 50.0, 2)]
)
def test_the_demo_learns_on_two_threads_only_where_two_processors_are_idle(
    processors, busy, threads, monkeypatch
):
    monkeypatch.setattr(demo.os, "cpu_count", lambda: processors)
    monkeypatch.setattr(demo.psutil, "cpu_percent", lambda **_: busy)
    assert demo.learning_threads() == threads
