# SPDX-License-Identifier: Apache-2.0
"""The main job in small, through real node processes.

Demonstrate, record, train, drive, report.
"""

import io
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from rl100_bringup.cli.app import app
from rl100_bringup.demo import DemoSettings, DemoSize, run_demo
from rl100_bringup.evaluating import evaluate_version
from rl100_bringup.report import REPORT_FILE
from rl100_bringup.run_folder import read_run
from rl100_learner.training.records import read_metrics
from rl100_learner.training.seeds import Purpose, episode_seeds
from rl100_policy.bags.index import read_index
from rl100_policy.bags.reading import read_messages
from rl100_policy.core import messages
from rl100_policy.core.errors import ConfigError
from rl100_policy.core.policy_version import read_manifest

pytestmark = [pytest.mark.launch, pytest.mark.slow]

BRIEF = (
    "imitation.steps=60",
    "distillation.steps=30",
    "rounds=0",  # a policy of 60 steps never succeeds, and a round needs both outcomes
    "trials=2",
    "online.iterations=1",
    "online.episodes=4",
    "online.replay.first_steps=4",
    "online.replay.steps=4",
    "online.replay.states=16",
    "online_distillation.steps=50",
)


@pytest.fixture(scope="module")
def printed():
    return io.StringIO()


@pytest.fixture(scope="module")
def finished(tmp_path_factory, printed):
    output = tmp_path_factory.mktemp("demo") / "run"
    status = run_demo(
        DemoSettings(
            output, DemoSize.STANDARD, episodes=4, trials=2, skill=0.8, seed=0, overrides=BRIEF
        ),
        Console(file=printed, width=200),
    )
    return output, status, json.loads((output / REPORT_FILE).read_text())


@pytest.mark.parametrize("size", DemoSize)
def test_the_settings_of_every_size_are_valid_and_fit_into_a_run(size):
    demo = DemoSettings(Path("unused"), size, None, None, 0.5, 0)
    learning = demo.request().settings()
    played = learning.online.episodes_before(learning.online.iterations)
    assert played >= learning.online.iterations * learning.online.episodes
    assert learning.rounds == (2 if size is DemoSize.FULL else 1)
    assert learning.n_chunk == 2  # of the task


def test_the_report_holds_every_stage_with_its_interval(finished):
    _, _, report = finished
    assert [(s["name"], s["policy"], s["trials"]) for s in report["stages"]] == [
        ("demonstrations", "operator", 4),
        ("imitation", "ddim", 2), ("imitation", "one_step", 2),
        ("online", "ddim", 2), ("online", "one_step", 2),
    ]  # fmt: skip
    assert [(stage["name"], stage["episodes"]) for stage in report["run"]] == [
        ("imitation", 4), ("online", 4 + 2 * 2)
    ]  # fmt: skip
    for stage in report["stages"]:
        assert (
            0.0
            <= stage["wilson_low"]
            <= stage["successes"] / stage["trials"]
            <= stage["wilson_high"]
            <= 1.0
        )
        assert stage["seconds"] > 0.0
    assert set(report["latency_ms"]) == {"ddim", "one_step"}
    assert all(0.0 < row["p50"] <= row["p99"] for row in report["latency_ms"].values())
    assert report["bags"]["episodes"] == 4
    assert report["bags"]["degraded"] == 0
    assert [(row["stage"], row["steps"]) for row in report["training"]] == [
        ("imitation", 60), ("distillation", 30), ("online", 1), ("distillation", 50)
    ]  # fmt: skip
    assert all(row["seconds"] > 0.0 for row in report["training"])
    assert report["lockstep_timeouts"] == 0
    assert [stage["degraded"] for stage in report["stages"]] == [0] * 5


def test_a_failed_verdict_is_the_exit_status_and_is_explained(finished, printed):
    _, status, _ = finished
    assert status == int("failed: the last one-step student" in printed.getvalue())


@pytest.mark.usefixtures("finished")
def test_the_demo_runs_in_a_domain_of_its_own_and_names_it(printed):
    domains = re.findall(r"ROS domain (\d+)", printed.getvalue())
    assert len(domains) == 2
    assert os.environ["ROS_DOMAIN_ID"] not in domains


def test_training_leaves_a_report_in_its_folder(finished, tmp_path, monkeypatch):
    output, _, report = finished
    shutil.copytree(output / "bags", tmp_path / "bags")
    monkeypatch.chdir(tmp_path)
    settings = [word for item in BRIEF for word in ("--set", item)]
    told = ["train", "push_t", "--bags", "bags", "--output", "run", "--stage", "imitation"]
    done = CliRunner().invoke(app, [*told, "--trials", "1", *settings])
    assert done.exit_code == 0, done.output
    trained = json.loads((tmp_path / "run" / REPORT_FILE).read_text())
    assert trained["command"] == "train"
    assert trained["bags"] == report["bags"]
    assert trained["policy_version"].startswith("push_t_run_imitation@")
    assert [(row["stage"], row["steps"]) for row in trained["training"]] == [
        ("imitation", 60), ("distillation", 30)
    ]  # fmt: skip
    assert [stage["trials"] for stage in trained["stages"]] == [1, 1]
    again = CliRunner().invoke(app, [*told, *settings])
    assert again.exit_code == 0, again.output
    assert json.loads((tmp_path / "run" / REPORT_FILE).read_text())["stages"] == trained["stages"]


def test_a_run_is_shown_from_its_folder(finished, tmp_path):
    output, _, report = finished
    for folder in (output / "train", output):  # what a demo learned lies within its folder
        told = ["report", str(folder), "--pictures", str(tmp_path / folder.name)]
        done = CliRunner().invoke(app, told)
        assert done.exit_code == 0, done.output
        names = {path.name for path in (tmp_path / folder.name).iterdir()}
        assert {"loss.png", "curve.png"} <= names
    found = read_run(output / "train")
    assert found.policy_version == report["policy_version"]
    assert found.model_dump(mode="json")["run"] == report["run"]
    assert found.model_dump(mode="json")["training"] == report["training"]
    assert read_run(output).model_dump(mode="json") == report
    with pytest.raises(ConfigError, match=r"there is no stages\.json in it"):
        read_run(output / "bags")


def test_online_learning_through_the_graph_begins_with_ratios_of_one(finished, tmp_path):
    """The decisions that are learned from come out of bags that were recorded for them."""
    output, _, _ = finished
    changes = [*BRIEF, "online.episodes=1", "online_distillation.steps=4"]
    settings = [word for item in changes for word in ("--set", item)]
    run = tmp_path / "run"
    told = ["train", "--bags", str(output / "bags"), "--output", str(run), "--collect", "graph"]
    done = CliRunner().invoke(app, [*told, *settings])
    assert done.exit_code == 0, done.output
    (row,) = (row for row in read_metrics(run / "online") if row["stage"] == "online")
    assert row["ratio_error"] < 1e-3
    (version,) = (run / "versions").iterdir()
    entries, who = read_index(run / "bags").entries, read_manifest(version).reference
    (entry,) = (each for each in entries if each.metadata.policy_version == who)
    assert entry.metadata.tags["seed"] == "100000000"
    assert len(entries) == 1 + 2 * 2  # and the trials of both versions


def test_every_episode_is_a_labelled_bag_without_loss(finished):
    output, _, report = finished
    taught, tried = (read_index(output / name) for name in ("bags", "trials"))
    versions = list(
        dict.fromkeys(
            read_manifest(output / "train" / each["version"]).reference for each in report["run"]
        )
    )
    assert (len(taught.entries), len(tried.entries)) == (4, 4 * len(versions))
    assert not {**taught.damaged, **tried.damaged}
    assert not taught.unfinished + tried.unfinished
    entries = (*taught.entries, *tried.entries)
    for entry in entries:
        assert entry.metadata.outcome in ("success", "failure")
        assert entry.metadata.lost_total == 0
        assert entry.metadata.operator == "scripted_operator"
    by_tag = [(e.metadata.tags["mode"], e.metadata.policy_version) for e in entries]
    assert by_tag == (
        [("demonstrate", "")] * 4
        + [("supervise", version) for version in versions for _ in range(4)]
    )


def test_the_policys_decisions_are_in_the_bags_and_its_actions_were_executed(finished):
    output, _, report = finished
    entry = read_index(output / "trials").entries[-1]
    found = read_messages(
        output / "trials" / entry.folder, ["policy/decision", "gate/command", "sim/ground_truth"]
    )
    decisions = [message.value for message in found["policy/decision"]]
    assert {decision.policy_version for decision in decisions} == {report["policy_version"]}
    commands = [message.value for message in found["gate/command"] if message.value.source == 2]
    assert len(commands) > 8
    assert all(command.policy_version == report["policy_version"] for command in commands)
    assert not found["sim/ground_truth"]


def test_pictures_are_drawn(finished):
    output, _, _ = finished
    for name in ("scene.png", "episode_path.png", "loss.png", "success.png"):
        assert (output / "pictures" / name).stat().st_size > 10_000


def test_the_same_version_on_the_same_seeds_drives_the_same_episodes(finished, tmp_path):
    output, _, report = finished
    version = output / "train" / report["run"][-1]["version"]
    first_seed = episode_seeds(Purpose.EVALUATION, 0, 0, 2).start
    again = evaluate_version(
        version, tmp_path, 2, ("one_step",), first_seed, "panda", "push_t", Console(quiet=True)
    )
    assert again.stages[0].successes == report["stages"][-1]["successes"]
    assert again.bags.episodes == 2
    assert again.bags.successes == again.stages[0].successes

    def executed(bags, entries):
        """Joint commands by time since the episode began; a bag may hold stragglers around it."""
        found = []
        for entry in entries:
            begin, end = entry.metadata.start_ns, entry.metadata.end_ns
            recorded = read_messages(bags / entry.folder, ["gate/command"])["gate/command"]
            stamped = {messages.stamp_ns(m.value.header.stamp): m.value for m in recorded}
            found.append(
                {s - begin: c.joint_command for s, c in stamped.items() if begin <= s < end}
            )
        return found

    first = [
        e
        for e in read_index(output / "trials").entries
        if e.metadata.tags["sampler"] == "one_step"
        and e.metadata.policy_version == report["policy_version"]
    ]
    before = executed(output / "trials", first)
    after = executed(tmp_path / "trials", read_index(tmp_path / "trials").entries)
    assert [list(episode) for episode in before] == [list(episode) for episode in after]
    for one, other in zip(before, after, strict=True):
        assert len(one) > 8
        assert np.array_equal(list(one.values()), list(other.values()))


def test_an_earlier_demo_is_not_overwritten(finished):
    output, _, _ = finished
    with pytest.raises(ConfigError, match="earlier run"):
        run_demo(DemoSettings(output, DemoSize.QUICK, 1, 1, 0.5, 0), Console(quiet=True))
