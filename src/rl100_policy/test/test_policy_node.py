# SPDX-License-Identifier: Apache-2.0
"""The policy node: decides when it is in command, and records what it decided.

It refuses what is malformed, and swaps versions.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rclpy.node import Node
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState, PointCloud2, PointField

from rl100_msgs.msg import ActionChunk, DecisionRecord, GateStatus, PolicyStatus
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
TELEOP, POLICY = int(CommandSource.TELEOP), int(CommandSource.POLICY)
N_POINTS = TASK.observation.n_points


@pytest.fixture(scope="module")
def version(tmp_path_factory) -> Path:
    """A version with random weights: what it decides does not matter here."""
    torch.manual_seed(0)
    size = ObservationSize(n_obs=TASK.observation.n_obs, n_points=N_POINTS, proprio_dim=3)
    policy = DiffusionPolicy(preset("small", size, ActionSize(n_chunk=8, dim=2)))
    folder = tmp_path_factory.mktemp("versions") / "random_1"
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
        self.load = self.create_client(LoadPolicy, "policy/load")
        self.rng = np.random.default_rng(0)

    def observe(self, step: int, cloud: np.ndarray | None = None) -> None:
        stamp = step * PERIOD_NS
        self.clock.publish(Clock(clock=time_message(stamp)))
        points = (
            self.rng.uniform([0.3, -0.2, 0.01], [0.7, 0.2, 0.05], (N_POINTS, 3))
            if cloud is None
            else cloud
        )
        self.joints.publish(
            joint_state_message(ROBOT.joints, np.array(ROBOT.home), np.zeros(7), stamp)
        )
        self.clouds.publish(cloud_message(points, stamp, ROBOT.base_frame))

    def command(self, source: int) -> None:
        self.gate.publish(GateStatus(source=source))


@pytest.fixture
def rig(request, version):
    given = getattr(request, "param", {})
    with isolated_ros(**PATHS, lockstep=True, use_sim_time=True, policy=version, **given):
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


def drive(rig, steps, first=1):
    robot, spin_until = rig
    for step in range(first, first + steps):
        robot.observe(step)
        spin_until(lambda: False, 0.03)


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
