# SPDX-License-Identifier: Apache-2.0
"""The simulated robot in a graph with the command gate.

Lockstep is deterministic, and it never waits for ever.
"""

from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import yaml
from geometry_msgs.msg import Pose, TransformStamped, TwistStamped
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_srvs.srv import SetBool
from trajectory_msgs.msg import JointTrajectory

from rl100_msgs.msg import GateCommand, SimGroundTruth
from rl100_msgs.srv import ResetSim, SetCommandSource
from rl100_policy.core import messages
from rl100_policy.core.config import load_robot, load_task
from rl100_policy.nodes.command_gate import CommandGateNode
from rl100_policy.ros.conversions import trajectory_message, twist_message
from rl100_policy.ros.qos import COMMAND, EVENT, LATCHED, SENSOR
from rl100_policy.ros.testing import isolated_ros, spinning
from rl100_sim.demonstrator import ScriptedPusher, planar_twist
from rl100_sim.nodes.sim_robot import SimRobotNode

pytestmark = pytest.mark.ros

CONFIG = Path(__file__).parents[2] / "rl100_bringup" / "config"
PATHS = {
    "robot_config": CONFIG / "robots" / "panda.yaml",
    "task_config": CONFIG / "tasks" / "push_t.yaml",
}
ROBOT, TASK = load_robot(PATHS["robot_config"]), load_task(PATHS["task_config"])


def planar_pose(pose: Pose) -> np.ndarray:
    """x [m], y [m] and yaw [rad]."""
    yaw = 2 * np.arctan2(pose.orientation.z, pose.orientation.w)
    return np.array([pose.position.x, pose.position.y, yaw])


class Person(Node):
    """Steers by the scripted pusher until ``limit`` periods.

    Keeps what the robot publishes.
    """

    def __init__(self, limit: int) -> None:
        super().__init__("person")
        self.limit = limit
        self.pusher = ScriptedPusher(ROBOT, TASK)
        self.twists = self.create_publisher(TwistStamped, "teleop/delta_twist_cmds", COMMAND)
        self.truth: list[SimGroundTruth] = []
        self.images: list[Image] = []
        self.infos: list[CameraInfo] = []
        self.joints: list[JointState] = []
        self.records: list[GateCommand] = []
        for kind, topic, kept in (
            (Image, ROBOT.camera().topic, self.images),
            (CameraInfo, "camera/depth/camera_info", self.infos),
            (JointState, "joint_states", self.joints),
        ):
            self.create_subscription(kind, topic, kept.append, SENSOR)
        self.create_subscription(GateCommand, "gate/command", self.records.append, EVENT)
        self.create_subscription(SimGroundTruth, "sim/ground_truth", self.steer, EVENT)
        self.reset = self.create_client(ResetSim, "sim/reset")
        self.run = self.create_client(SetBool, "sim/run")
        self.source = self.create_client(SetCommandSource, "gate/set_command_source")

    def steer(self, truth: SimGroundTruth) -> None:
        self.truth.append(truth)
        if truth.terminated or truth.truncated or truth.step >= self.limit:
            return
        planar = [planar_pose(pose) for pose in (truth.object_pose, truth.goal_pose)]
        tool = np.array([truth.tool_position.x, truth.tool_position.y])
        stamp = messages.stamp_ns(truth.header.stamp)
        twist = planar_twist(self.pusher.act(*planar, tool))
        self.twists.publish(twist_message(twist, stamp, ROBOT.base_frame))


def call(spin_until, client, request):
    assert spin_until(client.service_is_ready)
    future = client.call_async(request)
    assert spin_until(future.done)
    assert future.result().success, future.result().message
    return future.result()


def drive(seed: int, limit: int) -> Person:
    """One episode of a fresh graph, cut after ``limit`` periods."""
    with isolated_ros(**PATHS, lockstep=True):
        person = Person(limit)
        with spinning(SimRobotNode(), CommandGateNode(), person) as spin_until:

            def connected():
                commands = person.count_publishers("gate/command")
                return person.twists.get_subscription_count() and commands

            assert spin_until(connected)
            call(spin_until, person.reset, ResetSim.Request(seed=seed))
            person.pusher.reset(np.random.default_rng(seed))
            call(spin_until, person.source, SetCommandSource.Request(source=GateCommand.TELEOP))
            call(spin_until, person.run, SetBool.Request(data=True))
            assert spin_until(
                lambda: (
                    len(person.truth) > limit
                    and len(person.images) > limit
                    and len(person.joints) > limit
                )
            )
        return person


def content(person: Person, count: int) -> list[tuple]:
    return [
        (
            messages.stamp_ns(image.header.stamp),
            bytes(image.data),
            tuple(joints.position),
            tuple(joints.velocity),
            truth.object_pose.position.x,
            truth.object_pose.orientation.z,
            tuple(record.joint_command),
        )
        for image, joints, truth, record in zip(
            person.images[:count],
            person.joints[:count],
            person.truth[:count],
            person.records[:count],
            strict=True,
        )
    ]


def test_the_same_seed_gives_the_same_episode_bit_for_bit():
    first, second, other = (drive(seed, 25) for seed in (3, 3, 4))
    assert content(first, 25) == content(second, 25)
    assert content(first, 25) != content(other, 25)


def test_every_observation_of_lockstep_is_published_once_and_answered_once():
    person = drive(5, 20)
    stamps = [messages.stamp_ns(truth.header.stamp) for truth in person.truth]
    period = round(ROBOT.control_period * 1e9)
    assert stamps == [100_000_000_000 + period * step for step in range(21)]
    assert [messages.stamp_ns(record.header.stamp) for record in person.records[:20]] == stamps[
        :20
    ]
    for published in (person.images, person.joints):
        assert [messages.stamp_ns(m.header.stamp) for m in published] == stamps


def steps_of(person: Person) -> list[int]:
    return [truth.step for truth in person.truth]


@contextmanager
def waiting_robot(**parameters):
    """A reset robot in lockstep whose commander is the test."""
    with isolated_ros(**PATHS, lockstep=True, **parameters):
        person = Person(limit=0)
        commands = person.create_publisher(JointTrajectory, ROBOT.command_topic, COMMAND)
        with spinning(SimRobotNode(), person) as spin_until:
            assert spin_until(lambda: commands.get_subscription_count() == 1)
            assert spin_until(lambda: person.count_publishers("sim/ground_truth") == 1)
            call(spin_until, person.reset, ResetSim.Request(seed=1))

            def command(step: int, *turns: float) -> None:
                """Home, or a way of some points with the first joint turned so far [rad]."""
                stamp = 100_000_000_000 + step * round(ROBOT.control_period * 1e9)
                way = np.array([ROBOT.home] * max(1, len(turns)))
                way[:, 0] += turns or 0.0
                period_ns = round(ROBOT.control_period * 1e9)
                times = [stamp + after * period_ns for after in range(1, len(way) + 1)]
                commands.publish(trajectory_message(ROBOT.joints, way, times, stamp))

            yield person, spin_until, command


def test_a_command_that_comes_during_a_pause_is_carried_out_on_resuming():
    with waiting_robot(lockstep_timeout=600.0) as (person, spin_until, command):
        call(spin_until, person.run, SetBool.Request(data=True))
        assert spin_until(lambda: steps_of(person) == [0])
        call(spin_until, person.run, SetBool.Request(data=False))
        command(0)
        assert not spin_until(lambda: len(person.truth) > 1, timeout_s=0.5)
        call(spin_until, person.run, SetBool.Request(data=True))
        assert spin_until(lambda: steps_of(person) == [0, 1])


def test_the_points_of_a_command_are_followed_until_another_comes():
    with waiting_robot(lockstep_timeout=0.3) as (person, spin_until, command):
        call(spin_until, person.run, SetBool.Request(data=True))
        assert spin_until(lambda: steps_of(person) == [0])
        command(0, 0.02, 0.04)
        assert spin_until(lambda: len(person.joints) == 5, timeout_s=20.0)
        turned = [each.position[0] - person.joints[0].position[0] for each in person.joints]
        assert turned[1] == pytest.approx(0.02, abs=4e-3)
        assert turned[3] == pytest.approx(0.04, abs=4e-3)
        assert turned[4] == pytest.approx(0.04, abs=4e-3)


def test_a_command_that_is_over_is_gone_to_its_last_place_and_one_of_another_episode_is_not():
    with waiting_robot(lockstep_timeout=0.3) as (person, spin_until, command):
        call(spin_until, person.run, SetBool.Request(data=True))
        command(-1, 0.05)
        assert spin_until(lambda: len(person.joints) == 3, timeout_s=20.0)
        command(0, 0.09, 0.02)
        assert spin_until(lambda: len(person.joints) == 5, timeout_s=20.0)
        turned = [each.position[0] - person.joints[0].position[0] for each in person.joints]
        assert turned[:3] == pytest.approx([0.0] * 3, abs=4e-3)
        assert max(turned) == pytest.approx(0.02, abs=4e-3)


def test_resuming_waits_for_the_command_without_a_second_observation_of_the_same_time():
    with waiting_robot(lockstep_timeout=600.0) as (person, spin_until, command):
        for wanted in (True, False, True):
            call(spin_until, person.run, SetBool.Request(data=wanted))
        assert not spin_until(lambda: len(person.truth) > 1, timeout_s=0.5)
        command(0)
        assert spin_until(lambda: steps_of(person) == [0, 1])
        assert [len(person.images), len(person.joints)] == [2, 2]


def test_time_does_not_run_before_the_first_reset():
    with isolated_ros(**PATHS, lockstep=True):
        person = Person(limit=0)
        with spinning(SimRobotNode(), person) as spin_until:
            assert spin_until(person.run.service_is_ready)
            future = person.run.call_async(SetBool.Request(data=True))
            assert spin_until(future.done)
            assert not spin_until(lambda: bool(person.truth), timeout_s=0.3)
    assert not future.result().success
    assert "sim/reset" in future.result().message


def test_a_reset_without_any_possible_start_is_refused_and_the_node_lives_on(tmp_path):
    impossible = yaml.safe_load(PATHS["task_config"].read_text())
    impossible["sim"] |= {"start_distance_min": 5.0, "start_distance_max": 5.0}
    path = tmp_path / "far_away.yaml"
    path.write_text(yaml.safe_dump(impossible))
    with isolated_ros(**PATHS | {"task_config": path}, lockstep=True):
        person = Person(limit=0)
        with spinning(SimRobotNode(), person) as spin_until:
            assert spin_until(person.reset.service_is_ready)
            for client, request in (
                (person.reset, ResetSim.Request(seed=1)),
                (person.run, SetBool.Request(data=True)),
            ):
                future = client.call_async(request)
                assert spin_until(future.done)
                assert not future.result().success
                assert future.result().message


def test_lockstep_goes_on_with_a_hold_when_no_command_comes():
    with isolated_ros(**PATHS, lockstep=True, lockstep_timeout=0.2):
        person = Person(limit=0)
        with spinning(SimRobotNode(), person) as spin_until:
            call(spin_until, person.reset, ResetSim.Request(seed=1))
            call(spin_until, person.run, SetBool.Request(data=True))
            assert spin_until(lambda: len(person.joints) >= 3)
        np.testing.assert_allclose(person.joints[-1].position, ROBOT.home, atol=1e-3)


def test_real_time_goes_on_by_itself_and_a_reset_moves_the_clock_forward():
    with isolated_ros(**PATHS, lockstep=False, real_time_factor=5.0):
        person = Person(limit=0)
        with spinning(SimRobotNode(), person) as spin_until:
            first = call(spin_until, person.reset, ResetSim.Request(seed=1)).stamp
            call(spin_until, person.run, SetBool.Request(data=True))
            assert spin_until(lambda: len(person.joints) >= 4)
            second = call(spin_until, person.reset, ResetSim.Request(seed=1)).stamp
        assert messages.stamp_ns(second) > messages.stamp_ns(first)
        assert (person.infos[0].width, person.infos[0].k[0]) == (
            ROBOT.camera().width,
            ROBOT.camera().fx,
        )
        assert person.images[0].encoding == "16UC1"


@pytest.mark.parametrize("lockstep", [False, True], ids=["real time", "lockstep"])
def test_a_camera_may_be_slower_than_the_arm_in_real_time(lockstep):
    slow = {"real_time_factor": 5.0, "camera_rate": 3.0, "lockstep_timeout": 0.1}
    with isolated_ros(**PATHS, lockstep=lockstep, **slow):
        person = Person(limit=0)
        with spinning(SimRobotNode(), person) as spin_until:
            call(spin_until, person.reset, ResetSim.Request(seed=1))
            call(spin_until, person.run, SetBool.Request(data=True))
            assert spin_until(lambda: len(person.joints) >= 21)
    of_joints, of_images = (
        [messages.stamp_ns(each.header.stamp) for each in kept[:n]]
        for kept, n in ((person.joints, 21), (person.images, 7))
    )
    if lockstep:
        assert of_images == of_joints[:7]
    else:
        periods = [round((stamp - of_joints[0]) / 1e8) for stamp in of_images]
        assert periods == [0, 4, 7, 10, 14, 17, 20]


def test_every_camera_of_the_description_is_published_with_the_stamp_of_the_joint_state():
    paths = {**PATHS, "robot_config": CONFIG / "robots" / "panda_rgb.yaml"}
    colour = load_robot(paths["robot_config"]).camera("color")
    with isolated_ros(**paths, lockstep=False, real_time_factor=5.0):
        person = Person(limit=0)
        images, infos, poses = [], [], []
        for kind, topic, kept in (
            (Image, colour.topic, images),
            (CameraInfo, colour.info_topic, infos),
        ):
            person.create_subscription(kind, topic, kept.append, SENSOR)
        person.create_subscription(TransformStamped, "camera/extrinsics", poses.append, LATCHED)
        with spinning(SimRobotNode(), person) as spin_until:
            call(spin_until, person.reset, ResetSim.Request(seed=1))
            call(spin_until, person.run, SetBool.Request(data=True))
            assert spin_until(lambda: len(images) >= 3 and len(person.images) >= 3 and poses)
    assert (images[0].encoding, images[0].height, images[0].width) == ("rgb8", 96, 128)
    assert images[0].header.frame_id == infos[0].header.frame_id == colour.optical_frame
    of_joints, of_images = (
        [messages.stamp_ns(each.header.stamp) for each in kept] for kept in (person.joints, images)
    )
    assert set(of_joints[:2]) <= set(of_images)
    assert [each.child_frame_id for each in poses] == [ROBOT.camera().optical_frame]
