# SPDX-License-Identifier: Apache-2.0
"""The policy node: decides when it is in command, and records what it decided.

It refuses what is malformed, and swaps versions.
"""

import os
import re
import threading
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import torch
from rclpy.node import Node
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState, PointCloud2, PointField
from std_msgs.msg import Header
from std_srvs.srv import Trigger

from rl100_msgs.msg import ActionChunk, DecisionRecord, EpisodeState, GateStatus, PolicyStatus
from rl100_msgs.srv import LoadPolicy
from rl100_policy.core import messages
from rl100_policy.core.config import load_robot, load_task
from rl100_policy.core.gate_result import CommandSource
from rl100_policy.core.policy import DiffusionPolicy
from rl100_policy.core.policy_config import ActionSize, ObservationSize
from rl100_policy.core.policy_version import load_version, write_version
from rl100_policy.core.presets import preset
from rl100_policy.core.runner import PolicyRunner
from rl100_policy.nodes.policy import PolicyNode
from rl100_policy.ros.conversions import cloud_message, joint_state_message, time_message
from rl100_policy.ros.qos import COMMAND, EVENT, LATCHED, SENSOR
from rl100_policy.ros.testing import isolated_ros, spinning

pytestmark = pytest.mark.ros

CONFIG = Path(__file__).parents[2] / "rl100_bringup" / "config"
PATHS = {
    "robot_config": CONFIG / "robots" / "panda.yaml",
    "task_config": CONFIG / "tasks" / "push_t.yaml",
}
ROBOT, TASK = load_robot(PATHS["robot_config"]), load_task(PATHS["task_config"])
PERIOD_NS = round(ROBOT.control_period * 1e9)
HOLD, TELEOP, POLICY = (
    int(each) for each in (CommandSource.HOLD, CommandSource.TELEOP, CommandSource.POLICY)
)
N_POINTS = TASK.observation.n_points


@pytest.fixture(scope="module")
def version(tmp_path_factory) -> Path:
    """A version with random weights: what it decides does not matter here."""
    return random_version(tmp_path_factory.mktemp("versions") / "random_1", seed=0)


def random_version(folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    size = ObservationSize(n_obs=TASK.observation.n_obs, n_points=N_POINTS, proprio_dim=3)
    policy = DiffusionPolicy(preset("small", size, ActionSize(n_chunk=8, dim=2)))
    write_version(
        folder, policy, task=TASK, robot=ROBOT, parents=(), bags=(), metrics={}, training={}
    )
    return folder


class Robot(Node):
    """Sensors, gate and clock of a test."""

    def __init__(self) -> None:
        super().__init__("test_robot")
        self.clock = self.create_publisher(Clock, "/clock", 10)
        self.clouds = self.create_publisher(PointCloud2, "policy/cloud", SENSOR)
        self.joints = self.create_publisher(JointState, "joint_states", SENSOR)
        self.gate = self.create_publisher(GateStatus, "gate/status", LATCHED)
        self.chunks: list[ActionChunk] = []
        self.records: list[DecisionRecord] = []
        self.status: list[PolicyStatus] = []
        self.create_subscription(ActionChunk, "policy/action_chunk", self.chunks.append, COMMAND)
        self.create_subscription(DecisionRecord, "policy/decision", self.records.append, EVENT)
        self.create_subscription(PolicyStatus, "policy/status", self.status.append, LATCHED)
        self.alive: list[int] = []
        """Stamps of its signs of life [ns]."""
        self.create_subscription(
            Header,
            "policy/alive",
            lambda sign: self.alive.append(messages.stamp_ns(sign.stamp)),
            COMMAND,
        )
        self.load = self.create_client(LoadPolicy, "policy/load")
        self.rng = np.random.default_rng(0)

    def observe(self, step: int, cloud: np.ndarray | None = None, *, late: int = 0) -> None:
        """Of a period, so many periods after it."""
        stamp = step * PERIOD_NS
        self.clock.publish(Clock(clock=time_message(stamp + late * PERIOD_NS)))
        points = (
            self.rng.uniform([0.3, -0.2, 0.01], [0.7, 0.2, 0.05], (N_POINTS, 3))
            if cloud is None
            else cloud
        )
        self.joints.publish(
            joint_state_message(ROBOT.joints, np.array(ROBOT.home), np.zeros(7), stamp)
        )
        self.clouds.publish(cloud_message(points, stamp, ROBOT.base_frame))

    def command(self, source: int, **others: float) -> None:
        self.gate.publish(GateStatus(source=source, **others))


@pytest.fixture
def rig(request, version):
    given = {"lockstep": True} | getattr(request, "param", {})
    with isolated_ros(**PATHS, use_sim_time=True, **({"policy": version} | given)):
        robot = Robot()
        with spinning(PolicyNode(), robot) as spin_until:
            topics = (robot.clock, robot.clouds, robot.joints, robot.gate)

            def matched():
                return (
                    all(topic.get_subscription_count() for topic in topics)
                    and robot.count_publishers("policy/decision")
                    and robot.load.service_is_ready()
                )

            assert spin_until(matched)
            yield robot, spin_until


def drive(rig, steps, first=1, late=0):
    robot, spin_until = rig
    for step in range(first, first + steps):
        robot.observe(step, late=late)
        spin_until(lambda: False, 0.03)


def take_command(rig):
    robot, spin_until = rig
    robot.command(POLICY)
    spin_until(lambda: False, 0.2)


CHUNKS_IN_REAL_TIME = pytest.mark.parametrize("rig", [{"lockstep": False}], indirect=True)


def test_nothing_is_decided_until_the_policy_is_in_command(rig):
    drive(rig, 4)
    assert not rig[0].chunks
    rig[0].command(TELEOP)
    drive(rig, 2, first=5)
    assert not rig[0].chunks


def test_its_status_names_whom_its_decisions_reach(rig):
    robot, spin_until = rig
    assert spin_until(lambda: ["/test_robot"] in [s.decision_readers for s in robot.status])


def test_a_decision_every_chunk_with_its_record(rig):
    robot, spin_until = rig
    robot.command(POLICY)
    spin_until(lambda: False, 0.2)
    drive(rig, 17)
    assert spin_until(lambda: len(robot.records) == 3 and len(robot.chunks) == 3)
    assert [messages.stamp_ns(c.header.stamp) for c in robot.chunks] == [
        s * PERIOD_NS for s in (1, 9, 17)
    ]
    record, chunk = robot.records[1], robot.chunks[1]
    assert [messages.stamp_ns(s) for s in record.observation_stamps] == [
        8 * PERIOD_NS,
        9 * PERIOD_NS,
    ]
    name, _, digest = record.policy_version.partition("@")
    assert len(digest) == 8
    assert (name, record.sampler, record.n_chunk, record.d_a) == (
        "random_1",
        "one_step",
        8,
        2,
    )
    assert len(record.latents) == 2 * 8 * 2
    assert np.isfinite(np.array(chunk.actions).reshape(8, 2)).all()
    assert np.abs(record.actions).max() <= 1.0
    assert chunk.names == list(TASK.action.names)
    assert record.inference_s > 0.0


def test_frames_that_no_decision_is_due_for_are_encoded_ahead(rig, monkeypatch):
    robot, spin_until = rig
    prepare, ahead = PolicyRunner.prepare, []
    monkeypatch.setattr(
        PolicyRunner,
        "prepare",
        lambda self, frame: ahead.append(frame.stamp_ns) or prepare(self, frame),
    )
    robot.command(POLICY)
    spin_until(lambda: False, 0.2)
    for step in range(1, 5):
        drive(rig, 1, first=step)
        assert spin_until(lambda step=step: len(ahead) == step - 1)
    assert ahead == [PERIOD_NS * step for step in (2, 3, 4)], "the first frame is decided about"


@CHUNKS_IN_REAL_TIME
def test_in_real_time_it_tells_with_signs_of_life_what_it_has_seen(rig):
    robot, spin_until = rig
    drive(rig, 2)
    assert not robot.alive, "it is not in command"
    robot.command(POLICY)
    assert spin_until(lambda: len(robot.alive) >= 3), "also while nothing new comes"
    assert set(robot.alive) == {2 * PERIOD_NS}
    drive(rig, 2, first=3)
    assert spin_until(lambda: robot.alive[-1] == 4 * PERIOD_NS)
    assert robot.alive == sorted(robot.alive)
    robot.command(TELEOP)
    spin_until(lambda: False, 0.2)
    robot.alive.clear()
    spin_until(lambda: False, 1.2)
    assert 2 <= len(robot.alive) <= 4, "twice a second: it could be in command"


@CHUNKS_IN_REAL_TIME
def test_a_policy_that_could_be_in_command_says_so(rig):
    robot, spin_until = rig
    drive(rig, 2)
    assert not spin_until(lambda: bool(robot.alive), 0.7), "it hears no gate"
    robot.command(HOLD)
    assert spin_until(lambda: robot.alive[-1:] == [2 * PERIOD_NS])
    robot.clock.publish(Clock(clock=time_message(9 * PERIOD_NS)))
    spin_until(lambda: False, 0.4)
    robot.alive.clear()
    robot.command(HOLD)
    assert not spin_until(lambda: bool(robot.alive), 0.7), "what it sees is old"
    assert spin_until(lambda: "not ready: what it sees is not of now" in robot.status[-1].detail)
    drive(rig, 1, first=9)
    robot.command(HOLD)
    assert spin_until(lambda: bool(robot.alive))
    assert spin_until(lambda: "not ready" not in robot.status[-1].detail)


@CHUNKS_IN_REAL_TIME
def test_a_policy_is_ready_whose_frames_are_of_now_when_they_come(rig):
    """Regression: with a camera near the limit it was judged in between, and seldom ready."""
    robot = rig[0]
    robot.command(HOLD)
    for step in range(1, 40):
        drive(rig, 1, first=step, late=2)
        robot.clock.publish(Clock(clock=time_message((step + 3) * PERIOD_NS - 1)))
        if step % 10 == 0:
            robot.command(HOLD)
    assert robot.alive


@CHUNKS_IN_REAL_TIME
def test_a_policy_that_plans_farther_than_the_gate_follows_is_not_ready(rig):
    robot, spin_until = rig
    drive(rig, 2)
    robot.command(HOLD, longest_chunk_s=0.1)
    assert spin_until(lambda: "not ready: 8 actions last" in robot.status[-1].detail)
    robot.alive.clear()
    assert not spin_until(lambda: bool(robot.alive), 0.7)


@pytest.mark.parametrize("rig", [{"lockstep": False, "policy": "''"}], indirect=True)
def test_a_policy_without_a_version_does_not_say_that_it_could_be_in_command(rig, version):
    robot, spin_until = rig
    drive(rig, 2)
    robot.command(HOLD)
    assert not spin_until(lambda: bool(robot.alive), 0.7)
    assert spin_until(lambda: "not ready: no version is loaded" in robot.status[-1].detail)
    robot.command(POLICY)
    assert not spin_until(lambda: bool(robot.alive), 0.3)
    robot.command(HOLD)
    loaded = robot.load.call_async(LoadPolicy.Request(path=str(version)))
    assert spin_until(loaded.done)
    robot.command(HOLD)
    assert spin_until(lambda: bool(robot.alive))


def test_a_version_is_made_ready_without_the_priority_of_the_node(rig, version, monkeypatch):
    robot, spin_until = rig
    asked, ask = [], os.sched_getscheduler
    monkeypatch.setattr(
        os, "sched_getscheduler", lambda who: asked.append(threading.current_thread()) or ask(who)
    )
    loaded = robot.load.call_async(LoadPolicy.Request(path=str(version)))
    assert spin_until(loaded.done)
    assert [each.name for each in asked] == ["staging"]


@CHUNKS_IN_REAL_TIME
def test_it_has_not_seen_what_it_does_not_decide_about(rig):
    """Regression: an old plan was gone on with, by frames that are all refused as too old."""
    robot, spin_until = rig
    take_command(rig)
    drive(rig, 2)
    assert spin_until(lambda: bool(robot.chunks) and bool(robot.alive))
    drive(rig, 4, first=3, late=5)
    assert spin_until(lambda: "frame is 0.500 s old" in robot.status[-1].detail)
    robot.alive.clear()
    assert spin_until(lambda: len(robot.alive) >= 3), "it lives"
    assert set(robot.alive) == {2 * PERIOD_NS}
    drive(rig, 1, first=20)
    assert spin_until(lambda: robot.alive[-1] == 20 * PERIOD_NS)


def test_a_policy_that_is_put_in_command_again_decides_anew(rig):
    """Regression: the gate had forgotten its plan, and in lockstep time stood still."""
    robot, spin_until = rig
    robot.command(POLICY, taken=1)
    spin_until(lambda: False, 0.2)
    drive(rig, 1)
    assert spin_until(lambda: len(robot.chunks) == 1)
    robot.command(POLICY, taken=1)
    assert not spin_until(lambda: len(robot.chunks) > 1, 0.3)
    robot.command(POLICY, taken=2)
    assert spin_until(lambda: len(robot.chunks) == 2)
    assert robot.chunks[0].header.stamp == robot.chunks[1].header.stamp


def test_in_lockstep_there_are_no_signs_of_life(rig):
    robot, spin_until = rig
    take_command(rig)
    drive(rig, 9)
    assert spin_until(lambda: len(robot.chunks) == 2)
    assert not robot.alive


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@CHUNKS_IN_REAL_TIME
def test_a_policy_that_cannot_decide_any_more_gives_no_sign_of_life(rig, monkeypatch):
    def end(*_) -> None:
        raise SystemExit  # which only ends a thread

    robot, spin_until = rig
    monkeypatch.setattr(PolicyRunner, "prepare", end)
    monkeypatch.setattr(PolicyRunner, "decide", end)
    take_command(rig)
    drive(rig, 2)
    spin_until(lambda: False, 0.3)
    robot.alive.clear()
    assert not spin_until(lambda: bool(robot.alive), 0.3)


@CHUNKS_IN_REAL_TIME
@pytest.mark.parametrize("which", ["decide", "prepare"])
def test_a_decision_that_hangs_gives_no_sign_of_life_until_it_ends(rig, monkeypatch, which):
    robot, spin_until = rig
    take_command(rig)
    drive(rig, 1)
    assert spin_until(lambda: bool(robot.chunks) and bool(robot.alive))
    goes_on, as_it_was = threading.Event(), getattr(PolicyRunner, which)

    def hang(*given):
        goes_on.wait(20.0)
        return as_it_was(*given)

    monkeypatch.setattr(PolicyRunner, which, hang)
    drive(rig, 8, first=2)
    spin_until(lambda: False, 0.5)
    robot.alive.clear()
    assert not spin_until(lambda: bool(robot.alive), 0.3)
    goes_on.set()
    assert spin_until(lambda: bool(robot.alive))


@CHUNKS_IN_REAL_TIME
def test_after_a_decision_that_failed_the_next_frame_is_decided_about(rig, monkeypatch):
    robot, spin_until = rig
    as_it_was = PolicyRunner.decide

    def fail(*_):
        raise RuntimeError("not finite")

    monkeypatch.setattr(PolicyRunner, "decide", fail)
    take_command(rig)
    drive(rig, 1)
    spin_until(lambda: False, 0.2)
    robot.alive.clear()
    assert not spin_until(lambda: bool(robot.alive), 0.7)
    robot.command(HOLD)
    assert spin_until(lambda: bool(robot.alive)), "it may be put in command again"
    take_command(rig)
    monkeypatch.setattr(PolicyRunner, "decide", as_it_was)
    drive(rig, 1, first=2)
    assert spin_until(lambda: bool(robot.chunks) and bool(robot.alive))


def test_a_decision_that_took_longer_than_a_period_counts_as_a_miss(rig, monkeypatch):
    robot, spin_until = rig
    in_time = PolicyRunner.decide
    seconds = iter([0.9 * ROBOT.control_period, 1.1 * ROBOT.control_period])
    monkeypatch.setattr(
        PolicyRunner,
        "decide",
        lambda self, frames: replace(in_time(self, frames), inference_s=next(seconds)),
    )
    robot.command(POLICY)
    spin_until(lambda: False, 0.2)
    drive(rig, 9)
    assert spin_until(lambda: len(robot.records) == 2)
    assert [record.deadline_missed for record in robot.records] == [False, True]
    assert spin_until(lambda: robot.status[-1].deadline_misses == 1)


def test_a_frame_from_before_is_not_decided_on(rig):
    robot, spin_until = rig
    drive(rig, 2)
    robot.clock.publish(Clock(clock=time_message(10 * PERIOD_NS)))
    spin_until(lambda: False, 0.2)
    robot.command(POLICY)
    assert not spin_until(lambda: bool(robot.chunks), 0.5)
    drive(rig, 1, first=10)
    assert spin_until(lambda: len(robot.chunks) == 1)


@pytest.mark.parametrize("rig", [{"sampler": "ddim", "deterministic": False}], indirect=True)
def test_the_teachers_record_holds_the_whole_chain_and_its_likelihood(rig):
    robot, spin_until = rig
    robot.command(POLICY)
    spin_until(lambda: False, 0.2)
    drive(rig, 1)
    assert spin_until(lambda: bool(robot.records))
    record = robot.records[0]
    steps = len(record.timesteps)
    latents = np.array(record.latents).reshape(steps + 1, 8, 2)
    assert len(record.sigmas) == len(record.log_probs) == steps > 1
    np.testing.assert_allclose(np.clip(latents[-1], -1, 1).ravel(), record.actions, atol=1e-6)


def test_the_same_observations_give_the_same_decision(version):
    def actions(first):
        with isolated_ros(**PATHS, lockstep=True, use_sim_time=True, policy=version):
            robot = Robot()
            with spinning(PolicyNode(), robot) as spin_until:
                assert spin_until(
                    lambda: (
                        robot.clouds.get_subscription_count()
                        and robot.count_publishers("policy/decision")
                    )
                )
                robot.command(POLICY)
                spin_until(lambda: False, 0.3)
                drive((robot, spin_until), 1, first=first)
                assert spin_until(lambda: bool(robot.chunks))
                return list(robot.chunks[0].actions)

    assert actions(7) == actions(900)


@pytest.mark.parametrize("kind", ["nan", "count", "frame", "fields", "offset"])
def test_a_malformed_cloud_is_refused_counted_and_the_next_good_one_is_used(rig, kind):
    robot, spin_until = rig
    robot.command(POLICY)
    spin_until(lambda: False, 0.2)
    message = cloud_message(np.full((N_POINTS, 3), 0.4, np.float32), PERIOD_NS, ROBOT.base_frame)
    if kind == "nan":
        message = cloud_message(
            np.full((N_POINTS, 3), np.nan, np.float32), PERIOD_NS, ROBOT.base_frame
        )
    elif kind == "count":
        message = cloud_message(np.full((5, 3), 0.4, np.float32), PERIOD_NS, ROBOT.base_frame)
    elif kind == "frame":
        message.header.frame_id = "elsewhere"
    elif kind == "offset":
        outside = PointField(name="z", offset=message.point_step, datatype=7, count=1)
        message.fields = [*message.fields[:2], outside]
    else:
        message.fields = message.fields[:2]
    robot.clock.publish(Clock(clock=time_message(PERIOD_NS)))
    robot.joints.publish(
        joint_state_message(ROBOT.joints, np.array(ROBOT.home), np.zeros(7), PERIOD_NS)
    )
    robot.clouds.publish(message)
    assert spin_until(lambda: bool(robot.status) and robot.status[-1].refused >= 1)
    assert not robot.chunks
    drive(rig, 1, first=2)
    assert spin_until(lambda: len(robot.chunks) == 1)


def test_a_version_that_is_refused_leaves_the_one_in_use(rig, tmp_path):
    robot, spin_until = rig
    future = robot.load.call_async(LoadPolicy.Request(path=str(tmp_path / "nothing")))
    assert spin_until(future.done)
    answer = future.result()
    assert not answer.success
    assert answer.policy_version.startswith("random_1@")
    assert "nothing" in answer.message
    robot.command(POLICY)
    spin_until(lambda: False, 0.2)
    drive(rig, 1)
    assert spin_until(lambda: bool(robot.chunks))


def test_a_version_whose_chunks_the_gate_does_not_execute_is_refused(rig, version):
    robot, spin_until = rig
    robot.command(POLICY, longest_chunk_s=0.7)
    spin_until(lambda: False, 0.2)
    drive(rig, 2)
    told = "8 actions last 0.8 s; at most 0.7 s of one decision are executed"
    assert spin_until(lambda: told in robot.status[-1].detail), "the one it began with"
    assert not robot.chunks
    future = robot.load.call_async(LoadPolicy.Request(path=str(version)))
    assert spin_until(future.done)
    assert not future.result().success
    assert told in future.result().message
    robot.command(POLICY, longest_chunk_s=0.8)
    spin_until(lambda: False, 0.2)
    drive(rig, 1, first=3)
    assert spin_until(lambda: len(robot.chunks) == 1)


def test_a_version_for_another_task_is_refused_naming_both(rig, version, tmp_path):
    policy, _ = load_version(version)
    other = TASK.model_copy(update={"name": "pour"})
    write_version(
        tmp_path / "pour_1",
        policy,
        task=other,
        robot=ROBOT,
        parents=(),
        bags=(),
        metrics={},
        training={},
    )
    robot, spin_until = rig
    future = robot.load.call_async(LoadPolicy.Request(path=str(tmp_path / "pour_1")))
    assert spin_until(future.done)
    assert not future.result().success
    assert "pour" in future.result().message
    assert "push_t" in future.result().message


def test_a_version_that_decides_nonsense_is_refused(rig, version, tmp_path):
    """Regression: finite weights whose output is not finite ended the node."""
    policy, _ = load_version(version)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.fill_(1e30)
    write_version(
        tmp_path / "wild_1", policy, task=TASK, robot=ROBOT, parents=(), bags=(), metrics={},
        training={},
    )  # fmt: skip
    robot, spin_until = rig
    future = robot.load.call_async(LoadPolicy.Request(path=str(tmp_path / "wild_1")))
    assert spin_until(future.done)
    assert not future.result().success
    assert future.result().policy_version.startswith("random_1@")
    robot.command(POLICY)
    spin_until(lambda: False, 0.2)
    drive(rig, 1)
    assert spin_until(lambda: bool(robot.chunks))


def test_a_loaded_version_and_sampler_replace_the_ones_in_use(rig, version):
    robot, spin_until = rig
    future = robot.load.call_async(LoadPolicy.Request(path=str(version), sampler="ddim"))
    assert spin_until(future.done)
    assert future.result().success
    assert spin_until(lambda: bool(robot.status) and robot.status[-1].sampler == "ddim")


# Versions that follow each other while the arm is driven


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    return random_version(tmp_path_factory.mktemp("second") / "random_2", seed=2)


def answered(rig, steps, first=1):
    """Observations, each of which waits for the decision about the one before."""
    robot, spin_until = rig
    for step in range(first, first + steps):
        count = len(robot.chunks)
        robot.observe(step)
        assert spin_until(lambda count=count: len(robot.chunks) > count), step


def begin(rig):
    take_command(rig)
    answered(rig, 2)


def answered_until(rig, done, first):
    """Observations one after the other; returns the number of the next one."""
    for step in range(first, first + 500):
        if done():
            return step
        answered(rig, 1, first=step)
    raise AssertionError("never")


def loaded(rig, path, first=3, **fields):
    robot, _ = rig
    future = robot.load.call_async(LoadPolicy.Request(path=str(path), **fields))
    following = answered_until(rig, future.done, first)
    return future.result(), following


EVERY_FRAME = pytest.mark.parametrize("rig", [{"execute": 1}], indirect=True)
IN_REAL_TIME = pytest.mark.parametrize("rig", [{"execute": 1, "lockstep": False}], indirect=True)


@EVERY_FRAME
def test_a_version_takes_over_between_two_decisions_and_the_one_before_comes_back(rig, second):
    robot, spin_until = rig
    begin(rig)
    answer, following = loaded(rig, second)
    assert answer.success
    assert answer.policy_version.startswith("random_2@")
    assert "of an action's bounds away from random_1@" in answer.message
    answered(rig, 3, first=following)
    call = robot.create_client(Trigger, "policy/revert").call_async(Trigger.Request())
    end = answered_until(rig, call.done, following + 3)
    assert call.result().success
    assert "back to random_1@" in call.result().message
    answered(rig, 3, first=end)
    spin_until(lambda: len(robot.records) == len(robot.chunks))
    stamps = [messages.stamp_ns(chunk.header.stamp) for chunk in robot.chunks]
    assert stamps == [PERIOD_NS * step for step in range(1, end + 3)], "no frame is left out"
    names = [chunk.policy_version.partition("@")[0] for chunk in robot.chunks]
    assert [name for name, _ in groupby(names)] == ["random_1", "random_2", "random_1"]
    assert [record.policy_version for record in robot.records] == [
        chunk.policy_version for chunk in robot.chunks
    ]


@EVERY_FRAME
def test_there_is_nobody_to_go_back_to_at_first(rig):
    robot, spin_until = rig
    begin(rig)
    call = robot.create_client(Trigger, "policy/revert").call_async(Trigger.Request())
    assert spin_until(call.done)
    assert not call.result().success
    assert "no version drove well before" in call.result().message


@IN_REAL_TIME
def test_a_version_that_cannot_decide_gives_way_to_the_one_before(rig, second, monkeypatch):
    robot, _ = rig
    begin(rig)
    _, following = loaded(rig, second)
    decide = PolicyRunner.decide

    def fails(runner, frames):
        if runner.version.startswith("random_2"):
            raise RuntimeError("no memory")
        return decide(runner, frames)

    monkeypatch.setattr(PolicyRunner, "decide", fails)
    robot.status.clear()
    end = following
    back: list[str] = []
    while not back:
        assert end < following + 100
        drive(rig, 1, first=end)
        end += 1
        back = [each.detail for each in robot.status if "back to random_1@" in each.detail]
    assert re.search("[34] decisions in a row failed", back[0]), "one may be under way"
    robot.chunks.clear()
    answered(rig, 2, first=end)
    assert {chunk.policy_version.partition("@")[0] for chunk in robot.chunks} == {"random_1"}


@pytest.mark.parametrize("rig", [{"execute": 2, "lockstep": False}], indirect=True)
@pytest.mark.parametrize(("periods", "goes_back"), [(1.5, False), (4.5, True)])
def test_a_decision_is_late_where_its_chunk_comes_too_late_to_be_of_use(
    rig, second, monkeypatch, periods, goes_back
):
    """Regression: with two actions executed at a time, one that took 1.5 periods was late."""
    robot, spin_until = rig
    take_command(rig)
    drive(rig, 4)
    assert spin_until(lambda: len(robot.chunks) >= 2)
    future = robot.load.call_async(LoadPolicy.Request(path=str(second)))
    assert spin_until(future.done)
    assert future.result().success
    decide, took_s = PolicyRunner.decide, periods * ROBOT.control_period
    monkeypatch.setattr(
        PolicyRunner,
        "decide",
        lambda self, frames: replace(decide(self, frames), inference_s=took_s),
    )
    robot.status.clear()
    drive(rig, 12, first=5)
    spin_until(lambda: False, 0.6)
    assert any("back to random_1@" in each.detail for each in robot.status) == goes_back


@EVERY_FRAME
def test_in_lockstep_where_versions_are_measured_none_comes_back_by_itself(
    rig, second, monkeypatch
):
    robot, spin_until = rig
    begin(rig)
    _, following = loaded(rig, second)

    def fails(*_):
        raise RuntimeError("no memory")

    monkeypatch.setattr(PolicyRunner, "decide", fails)
    for step in range(following, following + 6):
        drive(rig, 1, first=step)
        spin_until(lambda: False, 0.1)
    assert robot.status[-1].policy_version.startswith("random_2@")


@EVERY_FRAME
def test_while_one_is_made_ready_another_is_refused_and_the_same_is_answered_once_more(
    rig, second, version, monkeypatch
):
    robot, spin_until = rig
    go = threading.Event()
    load = PolicyRunner.load
    monkeypatch.setattr(
        PolicyRunner, "load", lambda *args, **told: go.wait(20.0) and load(*args, **told)
    )
    begin(rig)
    first, again, other = (
        robot.load.call_async(LoadPolicy.Request(path=str(path)))
        for path in (second, second, version)
    )
    assert spin_until(other.done)
    assert not other.result().success
    assert "random_2 is being loaded; ask again" in other.result().message
    answered(rig, 3, first=3)  # the one in use goes on meanwhile
    go.set()
    assert spin_until(lambda: first.done() and again.done())
    assert first.result().success
    assert again.result().success


@pytest.mark.parametrize("rig", [{"execute": 1, "largest_change": 0.01}], indirect=True)
def test_a_version_that_decides_otherwise_than_allowed_is_refused(rig, second):
    begin(rig)
    answer, _ = loaded(rig, second)
    assert not answer.success
    assert "at most 1% are allowed (largest_change)" in answer.message
    assert answer.policy_version.startswith("random_1@")


@pytest.mark.parametrize(
    "rig", [{"execute": 1, "lockstep": False, "drop": 0.3, "drop_episodes": 2}], indirect=True
)
def test_a_drop_of_success_brings_the_version_before_back(rig, second):
    robot, spin_until = rig
    episodes = robot.create_publisher(EpisodeState, "episode/state", LATCHED)
    begin(rig)

    def judge(name, outcome):
        episodes.publish(EpisodeState(state=EpisodeState.RECORDING, episode_id=name))
        spin_until(lambda: False, 0.1)
        told = EpisodeState(state=EpisodeState.IDLE, episode_id=name, outcome=outcome)
        for _ in range(2):  # the recorder repeats itself
            episodes.publish(told)
            spin_until(lambda: False, 0.1)

    judge("e1", EpisodeState.SUCCESS)
    judge("e2", EpisodeState.SUCCESS)
    _, following = loaded(rig, second)
    answered(rig, 2, first=following)
    judge("e3", EpisodeState.FAILURE)
    assert not any("back to" in status.detail for status in robot.status)
    judge("e4", EpisodeState.FAILURE)
    assert spin_until(
        lambda: any("success fell from 100% to 0%" in s.detail for s in robot.status)
    )
