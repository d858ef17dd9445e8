# SPDX-License-Identifier: Apache-2.0
"""Another observation, or action space, is another description: the whole loop through real nodes.

Demonstrate, record, imitate from the bags, act through the graph, learn online from the bags of
that.
"""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from rl100_bringup.cli.app import app
from rl100_bringup.evaluating import evaluate_version
from rl100_bringup.graph import GraphArguments
from rl100_bringup.session import own_graph, run_operator
from rl100_learner.training.records import read_metrics
from rl100_policy.bags.index import read_index
from rl100_policy.bags.reading import read_messages
from rl100_policy.core.errors import PolicyVersionError
from rl100_policy.core.policy_version import load_version

pytestmark = [pytest.mark.launch, pytest.mark.slow]

CONFIG = Path(__file__).parents[1] / "src" / "rl100_bringup" / "config"
DESCRIBED = {
    "image": ("panda_rgb", "push_t_rgb"),
    "state": ("panda", "push_t_state"),
    "joint_velocity": ("panda", "push_t_joint"),
}
BRIEF = (
    "imitation.steps=12", "imitation.windows=16", "distillation.steps=8",
    "trials=1", "online.iterations=1", "online.episodes=1", "online_distillation.steps=4",
    "online.replay.first_steps=4", "online.replay.steps=4", "online.replay.states=16",
)  # fmt: skip


@pytest.fixture(scope="module", params=DESCRIBED)
def finished(request, tmp_path_factory):
    """Two demonstrations, and a run of imitation and online learning through the graph."""
    robot, task = DESCRIBED[request.param]
    robot, task = str(CONFIG / "robots" / f"{robot}.yaml"), str(CONFIG / "tasks" / f"{task}.yaml")
    output = tmp_path_factory.mktemp(request.param)
    arguments = GraphArguments(robot=robot, task=task, lockstep=True, bags=str(output / "bags"))
    with own_graph(arguments, output / "log", Console(file=io.StringIO())) as graph:
        run_operator(
            graph, arguments, lambda *_: None, mode="demonstrate", episodes=2, first_seed=0,
            skill=0.8,
        )  # fmt: skip
    changes = [word for item in BRIEF for word in ("--set", item)]
    told = ["train", task, "--robot", robot, "--bags", arguments.bags, "--collect", "graph"]
    stages = ["--stage", "imitation", "--stage", "online", "--output", str(output / "run")]
    done = CliRunner().invoke(app, [*told, *stages, *changes])
    assert done.exit_code == 0, done.output
    return request.param, robot, task, output


def test_demonstrations_are_whole_bags_with_what_the_task_is_seen_with(finished):
    kind, _, _, output = finished
    index = read_index(output / "bags")
    assert len(index.entries) == 2
    topic = "camera/color/image_raw"
    for entry in index.entries:
        assert entry.metadata.lost_total == 0
        assert not entry.metadata.degraded
        found = read_messages(output / "bags" / entry.folder, [topic, "joint_states"])
        assert bool(found[topic]) == (kind == "image")
        if kind == "image":
            assert len(found[topic]) == len(found["joint_states"])
            assert {each.value.encoding for each in found[topic]} == {"rgb8"}


def test_the_version_sees_what_its_task_says(finished):
    kind, _, _, output = finished
    (first,) = (output / "run" / "imitation").glob("push_t_*")
    policy, manifest = load_version(first)
    seen = "points" if kind == "joint_velocity" else kind
    assert policy.config.encoder.kind == manifest.task.observation.kind == seen
    assert policy.config.action.dim == (7 if kind == "joint_velocity" else 2)
    assert len(manifest.bags) == 2


def test_online_learning_from_bags_begins_with_ratios_of_one(finished):
    """The bags are those of the policy node, which decided on what the learner reads."""
    _, _, _, output = finished
    (row,) = (r for r in read_metrics(output / "run" / "online") if r["stage"] == "online")
    assert row["ratio_error"] < 1e-3
    entries = read_index(output / "run" / "bags").entries
    assert len(entries) == 3  # and a trial of each version
    (entry,) = (each for each in entries if "_online_" in each.metadata.policy_version)
    topics = ["policy/decision", "gate/command"]
    found = read_messages(output / "run" / "bags" / entry.folder, topics)
    assert len(found["policy/decision"]) > 3
    by_policy = [each.value for each in found["gate/command"] if each.value.source == 2]
    assert {each.policy_version for each in by_policy} == {entry.metadata.policy_version}
    _, manifest = load_version(next((output / "run" / "imitation").glob("push_t_*")))
    assert {tuple(each.names) for each in by_policy} == {manifest.task.action.names}


def test_the_last_version_drives_through_the_graph(finished, tmp_path):
    _, robot, task, output = finished
    run = json.loads((output / "run" / "report.json").read_text())["run"]
    report = evaluate_version(
        output / "run" / run[-1]["version"], tmp_path / "trial", 1, ("one_step",), 7, robot, task,
        Console(file=io.StringIO()),
    )  # fmt: skip
    assert report.bags.degraded == 0
    assert report.lockstep_timeouts == 0
    assert report.latency_ms["one_step"].p50 > 0.0


def test_it_is_refused_by_another_description(finished, tmp_path):
    kind, robot, _, output = finished
    run = json.loads((output / "run" / "report.json").read_text())["run"]
    other = tmp_path / "other.yaml"
    text, differs = (CONFIG / "tasks" / "push_t.yaml").read_text(), "observation"
    if kind == "joint_velocity":  # seen alike, so that the action is all that differs
        text = text.replace("[tool_position]", "[tool_position, joint_positions]")
        differs = "action"
    other.write_text(text)
    with pytest.raises(PolicyVersionError, match=rf"task.{differs} = .*{kind}"):
        evaluate_version(
            output / "run" / run[-1]["version"], tmp_path / "trial", 1, ("one_step",), 7, robot,
            str(other), Console(file=io.StringIO()),
        )  # fmt: skip
