# SPDX-License-Identifier: Apache-2.0
"""One recorded episode through the bag path and through the live path gives equal tensors."""

from pathlib import Path

import numpy as np
import pytest
from geometry_msgs.msg import TwistStamped
from rclpy.node import Node
from sensor_msgs.msg import JointState, PointCloud2
from std_srvs.srv import SetBool

from rl100_learner.data.reader import read_episode
from rl100_msgs.msg import EpisodeState, HumanFeedback, SimGroundTruth
from rl100_msgs.srv import ResetSim, SetCommandSource, StartEpisode, StopEpisode
from rl100_policy.core import messages
from rl100_policy.core.command import CommandSource
from rl100_policy.core.config import load_robot, load_task
from rl100_policy.core.kinematics import ArmKinematics
from rl100_policy.core.observation import Frame, FrameAssembler
from rl100_policy.nodes.cloud import CloudNode
from rl100_policy.nodes.command_gate import CommandGateNode
from rl100_policy.nodes.recorder import RecorderNode
from rl100_policy.ros.conversions import twist_message
from rl100_policy.ros.qos import COMMAND, EVENT, LATCHED, SENSOR
from rl100_policy.ros.testing import isolated_ros, spinning
from rl100_sim.nodes.sim_robot import SimRobotNode

pytestmark = pytest.mark.ros

CONFIG = Path(__file__).parents[1] / "src" / "rl100_bringup" / "config"
PATHS = {
    "robot_config": CONFIG / "robots" / "panda.yaml",
    "task_config": CONFIG / "tasks" / "push_t.yaml",
}
ROBOT, TASK = load_robot(PATHS["robot_config"]), load_task(PATHS["task_config"])
PERIOD_NS = round(ROBOT.control_period * 1e9)
STEPS = 30


class LivePolicy(Node):
    """What the policy node does with its inputs, keeping every frame.

    Steers on a circle meanwhile.
    """

    def __init__(self) -> None:
        super().__init__("live_policy")
        arm = ArmKinematics(ROBOT)
        self.assembler = FrameAssembler(
            TASK.observation, arm.tool_position, period_ns=PERIOD_NS, tolerance_ns=0
        )
        self.frames: list[Frame] = []
        self.sent: dict[int, np.ndarray] = {}
        self.state: list[EpisodeState] = []
        self.twists = self.create_publisher(TwistStamped, "teleop/delta_twist_cmds", COMMAND)
        self.feedback = self.create_publisher(HumanFeedback, "feedback", EVENT)
        self.create_subscription(JointState, "joint_states", self.on_joints, SENSOR)
        self.create_subscription(PointCloud2, "policy/cloud", self.on_cloud, SENSOR)
        self.create_subscription(SimGroundTruth, "sim/ground_truth", self.steer, EVENT)
        self.create_subscription(EpisodeState, "episode/state", self.state.append, LATCHED)
        self.controls = {
            "reset": self.create_client(ResetSim, "sim/reset"),
            "run": self.create_client(SetBool, "sim/run"),
            "source": self.create_client(SetCommandSource, "gate/set_command_source"),
            "start": self.create_client(StartEpisode, "episode/start"),
            "stop": self.create_client(StopEpisode, "episode/stop"),
        }

    def on_joints(self, message: JointState) -> None:
        q = messages.joint_positions(message, ROBOT.joints)
        self.frames += self.assembler.add_joint_state(messages.stamp_ns(message.header.stamp), q)

    def on_cloud(self, message: PointCloud2) -> None:
        self.frames += self.assembler.add_cloud(
            messages.stamp_ns(message.header.stamp), messages.cloud_points(message)
        )

    def steer(self, truth: SimGroundTruth) -> None:
        if truth.step >= STEPS:
            return
        action = 0.1 * np.array([np.cos(truth.step / 8), np.sin(truth.step / 8)])
        stamp = messages.stamp_ns(truth.header.stamp)
        self.sent[stamp] = action
        self.twists.publish(twist_message(action, TASK.action.names, stamp, ROBOT.base_frame))


def test_bag_and_live_path_give_equal_tensors(tmp_path):
    with isolated_ros(**PATHS, lockstep=True, bags=tmp_path):
        live = LivePolicy()
        with spinning(
            SimRobotNode(), CloudNode(), CommandGateNode(), RecorderNode(), live
        ) as spin_until:

            def call(name, request):
                client = live.controls[name]
                assert spin_until(client.service_is_ready)
                future = client.call_async(request)
                assert spin_until(future.done)
                assert future.result().success, future.result().message
                return future.result()

            assert spin_until(
                lambda: (
                    live.twists.get_subscription_count() >= 2
                    and live.count_publishers("policy/cloud")
                )
            )
            call("reset", ResetSim.Request(seed=11))
            call("start", StartEpisode.Request(task="push_t", operator_name="test"))
            call("source", SetCommandSource.Request(source=int(CommandSource.TELEOP)))
            call("run", SetBool.Request(data=True))
            assert spin_until(lambda: len(live.frames) > STEPS)
            call("run", SetBool.Request(data=False))
            judgement = HumanFeedback(kind=HumanFeedback.FAILURE, source="test")
            live.feedback.publish(judgement)
            spin_until(lambda: False, 0.3)
            stopped = call("stop", StopEpisode.Request())
        frames, sent = live.frames, live.sent
    episode = read_episode(Path(stopped.path), TASK, ROBOT)
    assert episode.outcome == "failure"
    np.testing.assert_array_equal(
        episode.stamps_ns, [frame.stamp_ns for frame in frames[: len(episode.stamps_ns)]]
    )
    assert len(episode.actions) == len(episode.clouds) - 1 == STEPS
    for index, frame in enumerate(frames[: STEPS + 1]):
        np.testing.assert_array_equal(episode.clouds[index], frame.cloud)
        np.testing.assert_array_equal(episode.proprio[index], frame.proprio)
    for index in range(STEPS):
        np.testing.assert_allclose(episode.actions[index], sent[frames[index].stamp_ns], atol=2e-4)
