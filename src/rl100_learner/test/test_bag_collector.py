# SPDX-License-Identifier: Apache-2.0
"""Roll-outs from bags: which count, how many are asked for, and that nothing stale is learned."""

import shutil
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch
from test_decisions import FACTORY, ROBOT, TASK, episode

from rl100_learner.training.bag_collector import BagCollector, Wanted
from rl100_learner.training.collecting import successes
from rl100_policy.bags.judgement import Judgement, JudgementKind
from rl100_policy.bags.relabel import relabel_episode
from rl100_policy.core.errors import ConfigError
from rl100_policy.core.policy import DiffusionPolicy
from rl100_policy.core.policy_config import ActionSize, ObservationSize
from rl100_policy.core.policy_version import read_manifest, write_version
from rl100_policy.core.presets import preset

SEEDS = range(100, 103)


def judge(bag: Path, kind: JudgementKind) -> None:
    relabel_episode(bag, Judgement(stamp_ns=2, kind=kind))


@pytest.fixture
def policy() -> DiffusionPolicy:
    torch.manual_seed(0)
    size = ObservationSize(n_obs=2, n_points=TASK.observation.n_points, proprio_dim=3)
    return DiffusionPolicy(preset("small", size, ActionSize(n_chunk=4, dim=2)))


@pytest.fixture
def version(tmp_path, policy) -> Path:
    folder = tmp_path / "versions" / "v1"
    folder.parent.mkdir()
    write_version(
        folder, policy, task=TASK, robot=ROBOT, parents=(), bags=(), metrics={}, training={}
    )
    return folder


class Robot:
    """Records what is asked for, a few episodes at a time."""

    def __init__(self, tmp_path: Path, at_once: int = 2) -> None:
        self.bags, self.at_once = tmp_path / "bags", at_once
        self.asked: list[Wanted] = []
        self._ids = count()
        self.collector = BagCollector(
            self.bags, tmp_path / "online", TASK, ROBOT, gamma=0.9, ask=self.act
        )

    def act(self, wanted: Wanted) -> None:
        self.asked.append(wanted)
        for _ in wanted.seeds[: self.at_once]:
            self.record(read_manifest(wanted.version).reference, stochastic=wanted.stochastic)

    def record(
        self,
        version: str,
        *,
        stochastic: bool = True,
        sampler: str = "ddim",
        judged: bool = True,
        taken_over: bool = False,
        **changes,
    ) -> None:
        """One episode; those with an odd number succeed."""
        number = next(self._ids)
        kind = JudgementKind.SUCCESS if number % 2 else JudgementKind.FAILURE
        made = episode(version=version, kind=kind, likelihood=stochastic, sampler=sampler)
        if taken_over:
            changes["policy"] = dict.fromkeys(range(6), version)
        if not judged:
            changes["judgements"] = ()
        named = {"policy_version": version, "episode_id": f"{number:04}"}
        replace(made, metadata=named, **changes).write(self.bags, FACTORY)


def test_episodes_are_asked_for_until_there_are_enough(tmp_path, version):
    robot = Robot(tmp_path)
    found = robot.collector.episodes(version, SEEDS, tmp_path, stochastic=True)
    assert [each.outcome for each in found] == ["failure", "success", "failure"]
    assert [(each.seeds, each.total) for each in robot.asked] == [
        (range(100, 103), 3), (range(102, 103), 3)
    ]  # fmt: skip
    again = robot.collector.episodes(version, SEEDS, tmp_path, stochastic=True)
    assert [each.id for each in again] == [each.id for each in found]
    assert len(robot.asked) == 2


def test_no_episode_answers_two_requests_also_after_a_restart(tmp_path, version):
    robot = Robot(tmp_path, at_once=3)
    folders = [tmp_path / name for name in ("trials", "again")]

    def ids(collector):
        return [
            [each.id for each in collector.episodes(version, SEEDS, folder, stochastic=True)]
            for folder in folders
        ]

    found = ids(robot.collector)
    assert not set(found[0]) & set(found[1])
    assert len(robot.asked) == 2
    later = BagCollector(robot.bags, tmp_path / "online", TASK, ROBOT, gamma=0.9, ask=robot.act)
    assert ids(later) == found
    more = later.episodes(version, range(1), tmp_path / "more", stochastic=True)
    assert len(robot.asked) == 3
    assert more[0].id not in {*found[0], *found[1]}


def test_only_episodes_of_the_version_and_of_the_kind_that_is_wanted_count(tmp_path, version):
    robot = Robot(tmp_path, at_once=3)
    who = read_manifest(version).reference
    robot.record("v0")
    robot.record("v1@0badc0de")  # another version of that name
    robot.record(who, stochastic=False)
    robot.record("")
    found = robot.collector.episodes(version, SEEDS, tmp_path, stochastic=True)
    assert [each.seeds for each in robot.asked] == [SEEDS]
    assert len(found) == 3
    calm = robot.collector.episodes(version, range(1), tmp_path / "calm", stochastic=False)
    assert len(calm) == 1
    assert len(robot.asked) == 1


def test_another_episode_is_asked_for_in_the_place_of_one_that_cannot_be_used(
    tmp_path, version, caplog
):
    robot = Robot(tmp_path, at_once=3)
    robot.record(read_manifest(version).reference, missing={"depth": frozenset(range(11))})
    found = robot.collector.episodes(version, SEEDS, tmp_path, stochastic=True)
    assert len(found) == 3
    assert [each.seeds for each in robot.asked] == [range(101, 104)]
    assert "is not used" in caplog.text


def test_online_decisions_are_of_a_version_that_is_written_for_them(tmp_path, policy):
    robot = Robot(tmp_path, at_once=3)
    generator = torch.Generator().manual_seed(0)
    found = robot.collector.decisions(policy, "v1", SEEDS, generator, every_frame=True)
    (wanted,) = robot.asked
    assert wanted.stochastic
    assert wanted.version == tmp_path / "online" / "v1_online_100"
    assert read_manifest(wanted.version).parents == ("v1",)
    assert (found.episodes, found.successes, found.periods) == (3, 1, 30)
    assert len(found.batch) == 9
    assert float(found.batch.rewards.sum()) == pytest.approx(0.9)
    again = robot.collector.decisions(policy, "v1", SEEDS, generator, every_frame=True)
    assert torch.equal(again.batch.latents, found.batch.latents)
    assert len(robot.asked) == 1


def test_bags_of_another_policy_under_the_same_name_are_refused(tmp_path, policy):
    robot = Robot(tmp_path, at_once=3)
    generator = torch.Generator().manual_seed(0)
    robot.collector.decisions(policy, "v1", SEEDS, generator, every_frame=True)
    with torch.no_grad():
        policy.denoiser.output.bias += 1.0
    with pytest.raises(ConfigError, match="another policy"):
        robot.collector.decisions(policy, "v1", SEEDS, generator, every_frame=True)


def test_what_the_asking_raises_ends_the_waiting(tmp_path, version):
    class CancelledError(Exception):
        pass

    def cancel(_):
        raise CancelledError

    collector = BagCollector(tmp_path / "none", tmp_path, TASK, ROBOT, gamma=0.9, ask=cancel)
    with pytest.raises(CancelledError):
        collector.episodes(version, SEEDS, tmp_path, stochastic=False)


def test_watched_episodes_are_not_asked_of_a_robot(tmp_path, policy):
    collector = Robot(tmp_path).collector
    assert not collector.watches
    with pytest.raises(ConfigError, match="only watched need the vectorised simulation"):
        collector.success(policy, SEEDS)


def test_episodes_of_the_student_are_no_trials_of_its_teacher(tmp_path, version, caplog):
    robot = Robot(tmp_path, at_once=3)
    for _ in range(3):
        robot.record(read_manifest(version).reference, stochastic=False, sampler="one_step")
    found = robot.collector.episodes(version, SEEDS, tmp_path, stochastic=False)
    assert [each.id for each in found] == ["0003", "0004", "0005"]
    assert caplog.text.count("0001 does not count: not all of its decisions were made") == 1


def test_an_episode_counts_when_it_is_judged_and_as_it_was_judged_last(tmp_path, version):
    robot = Robot(tmp_path, at_once=3)
    who = read_manifest(version).reference
    robot.record(who, judged=False)
    robot.record(who)
    first, second = sorted(each.name for each in robot.bags.iterdir() if each.is_dir())

    def judged_late(wanted):
        assert (len(wanted.seeds), wanted.total) == (1, 2)
        judge(robot.bags / first, JudgementKind.SUCCESS)
        judge(robot.bags / second, JudgementKind.FAILURE)

    collector = BagCollector(robot.bags, tmp_path, TASK, ROBOT, gamma=0.9, ask=judged_late)
    found = collector.episodes(version, range(2), tmp_path / "kept", stochastic=True)
    assert [each.outcome for each in found] == ["success", "failure"]


def test_bags_that_are_judged_anew_after_they_were_used_are_named(tmp_path, version):
    robot = Robot(tmp_path, at_once=3)
    kept = tmp_path / "round_1" / "rollouts"
    robot.collector.episodes(version, SEEDS, kept, stochastic=True)
    bag = min(each for each in robot.bags.iterdir() if each.is_dir())
    judge(bag, JudgementKind.SUCCESS)
    with pytest.raises(ConfigError, match=f"{bag.name}.*delete .*round_1 and the stages after"):
        robot.collector.episodes(version, SEEDS, kept, stochastic=True)
    shutil.rmtree(bag)
    with pytest.raises(ConfigError, match=f"{bag.name}.*are not in .*put them back"):
        robot.collector.episodes(version, SEEDS, kept, stochastic=True)


def test_an_episode_that_a_person_saved_is_no_success_of_the_policy(tmp_path, version):
    robot = Robot(tmp_path, at_once=3)
    who = read_manifest(version).reference
    robot.record(who)
    robot.record(who, taken_over=True)
    robot.record(who)
    found = robot.collector.episodes(version, SEEDS, tmp_path, stochastic=True)
    assert [each.outcome for each in found] == ["failure", "success", "failure"]
    assert [each.taken_over for each in found] == [False, True, False]
    assert successes(found) == 0


def test_a_takeover_counts_where_a_lost_frame_leaves_out_what_was_before_it(tmp_path, version):
    robot = Robot(tmp_path, at_once=3)
    who = read_manifest(version).reference
    for _ in range(3):
        in_command = dict.fromkeys(range(3), who)
        robot.record(who, policy=in_command, missing={"depth": frozenset({3})})
    found = robot.collector.episodes(version, SEEDS, tmp_path, stochastic=True)
    assert [len(each) for each in found] == [6] * 3, "only the person's part can be used"
    assert [each.taken_over for each in found] == [True] * 3
    assert successes(found) == 0


@pytest.mark.parametrize(
    "in_command",
    [{}, dict.fromkeys(range(10), "v0@0badc0de"), {0: "v0@0badc0de"}],
    ids=["a person throughout", "another version", "another version for one period"],
)
def test_an_episode_that_others_commanded_is_not_the_versions(
    tmp_path, version, in_command, caplog
):
    robot = Robot(tmp_path, at_once=3)
    who = read_manifest(version).reference
    for_one_period = len(in_command) == 1
    robot.record(
        who, policy=dict.fromkeys(range(10), who) | in_command if for_one_period else in_command
    )
    found = robot.collector.episodes(version, SEEDS, tmp_path, stochastic=True)
    assert len(found) == 3
    assert "0000 is not used" in caplog.text
    assert who in caplog.text


def test_online_learning_goes_on_without_an_episode_of_another_versions_decisions(
    tmp_path, policy, caplog
):
    robot = Robot(tmp_path, at_once=3)
    act = robot.act

    def wrongly_named(wanted):
        if not robot.asked:
            who = read_manifest(wanted.version).reference
            made = episode(version="v0@0badc0de")
            named = {"policy_version": who, "episode_id": "foreign"}
            replace(made, metadata=named).write(robot.bags, FACTORY)
        act(wanted)

    collector = BagCollector(
        robot.bags, tmp_path / "online", TASK, ROBOT, gamma=0.9, ask=wrongly_named
    )
    found = collector.decisions(policy, "v1", SEEDS, torch.Generator(), every_frame=True)
    assert found.episodes == 3
    assert "foreign is not used: its decisions are of v0@0badc0de" in caplog.text


def test_a_period_without_an_action_of_the_policy_is_no_takeover(tmp_path, version):
    """Before its first decision, or after a late one, the gate holds for the policy."""
    robot = Robot(tmp_path, at_once=3)
    who = read_manifest(version).reference
    in_command = dict.fromkeys(range(10), who) | {0: "", 7: ""}
    for _ in range(3):
        robot.record(who, policy=in_command)
    found = robot.collector.episodes(version, SEEDS, tmp_path, stochastic=True)
    assert [each.taken_over for each in found] == [False] * 3
    assert successes(found) == 1


def test_an_episode_whose_judgement_is_taken_back_does_not_count_as_it_did(tmp_path, version):
    robot = Robot(tmp_path, at_once=3)
    who = read_manifest(version).reference
    robot.record(who)
    robot.record(who)
    first, _ = sorted(each for each in robot.bags.iterdir() if each.is_dir())

    def undone(wanted):
        if len(wanted.seeds) == 1:
            judge(first, JudgementKind.UNDO)
        robot.record(who)

    collector = BagCollector(robot.bags, tmp_path, TASK, ROBOT, gamma=0.9, ask=undone)
    found = collector.episodes(version, SEEDS, tmp_path / "kept", stochastic=True)
    assert [each.id for each in found] == ["0001", "0002", "0003"]
