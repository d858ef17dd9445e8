# SPDX-License-Identifier: Apache-2.0
"""Roll-outs from bags: which count, how many are asked for, and that nothing stale is learned."""

from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch
from test_decisions import FACTORY, ROBOT, TASK, episode

from rl100_learner.training.bag_collector import BagCollector, Wanted
from rl100_policy.bags.judgement import JudgementKind
from rl100_policy.core.errors import ConfigError
from rl100_policy.core.policy import DiffusionPolicy
from rl100_policy.core.policy_config import ActionSize, ObservationSize
from rl100_policy.core.policy_version import read_manifest, write_version
from rl100_policy.core.presets import preset

SEEDS = range(100, 103)


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
            self.record(wanted.version.name, stochastic=wanted.stochastic)

    def record(
        self, version: str, *, stochastic: bool = True, sampler: str = "ddim", **changes
    ) -> None:
        """One episode; those with an odd number succeed."""
        number = next(self._ids)
        kind = JudgementKind.SUCCESS if number % 2 else JudgementKind.FAILURE
        made = episode(version=version, kind=kind, likelihood=stochastic, sampler=sampler)
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
    robot.record("v0")
    robot.record("v1", stochastic=False)
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
    robot.record("v1", missing={"depth": frozenset(range(11))})
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
    with pytest.raises(ConfigError, match="watch=0"):
        Robot(tmp_path).collector.success(policy, SEEDS)


def test_episodes_of_the_student_are_no_trials_of_its_teacher(tmp_path, version):
    robot = Robot(tmp_path, at_once=3)
    for _ in range(3):
        robot.record("v1", stochastic=False, sampler="one_step")
    found = robot.collector.episodes(version, SEEDS, tmp_path, stochastic=False)
    assert [each.id for each in found] == ["0003", "0004", "0005"]
