# SPDX-License-Identifier: Apache-2.0
"""Cloud node and policy node with tasks that observe images, and proprioception alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState

from rl100_msgs.msg import ActionChunk, GateStatus, PolicyStatus
from rl100_policy.core import messages
from rl100_policy.core.config import load_robot, load_task
from rl100_policy.core.errors import ConfigError
from rl100_policy.core.gate_result import CommandSource
from rl100_policy.core.image import fit_image
from rl100_policy.core.policy import DiffusionPolicy
from rl100_policy.core.policy_config import ActionSize
from rl100_policy.core.policy_version import write_version
from rl100_policy.core.presets import preset
from rl100_policy.core.sight import observation_size
from rl100_policy.nodes.cloud import CloudNode
from rl100_policy.nodes.policy import PolicyNode
from rl100_policy.ros.conversions import colour_message, joint_state_message, time_message
from rl100_policy.ros.qos import COMMAND, LATCHED, SENSOR
from rl100_policy.ros.testing import isolated_ros, spinning

pytestmark = pytest.mark.ros

CONFIG = Path(__file__).parents[2] / "rl100_bringup" / "config"
ROBOT_PATH = CONFIG / "robots" / "panda_rgb.yaml"
IMAGE_PATH, STATE_PATH = (
    CONFIG / "tasks" / f"{name}.yaml" for name in ("push_t_rgb", "push_t_state")
)
ROBOT = load_robot(ROBOT_PATH)
CAMERA = ROBOT.camera("color")
PERIOD_NS = round(ROBOT.control_period * 1e9)


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)


class Camera(Node):
    """Publishes colour images and keeps what comes back."""

    def __init__(self) -> None:
        super().__init__("test_camera")
        self.colour = self.create_publisher(Image, CAMERA.topic, SENSOR)
        self.images: list[Image] = []
        self.diagnostics: list[DiagnosticArray] = []
        self.create_subscription(Image, "policy/image", self.images.append, SENSOR)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)

    def _on_diagnostics(self, array: DiagnosticArray) -> None:
        if array.status[0].name == "rl100: cloud":
            self.diagnostics.append(array)

    def reasons(self) -> set[str]:
        values = self.diagnostics[-1].status[0].values if self.diagnostics else []
        return {each.key.removeprefix("dropped: ") for each in values if "dropped" in each.key}


@pytest.fixture
def cloud_rig():
    with isolated_ros(robot_config=ROBOT_PATH, task_config=IMAGE_PATH, lockstep=True):
        camera = Camera()
        with spinning(CloudNode(), camera) as spin_until:
            assert spin_until(
                lambda: (
                    camera.colour.get_subscription_count()
                    and camera.count_publishers("policy/image")
                )
            )
            yield camera, spin_until


def test_a_colour_frame_becomes_the_image_of_the_shared_function_at_once(cloud_rig, pixels):
    """It waits for no CameraInfo and no extrinsics."""
    camera, spin_until = cloud_rig
    message = colour_message(pixels, 5_000_000_007, CAMERA.optical_frame)
    assert spin_until(lambda: (camera.colour.publish(message), bool(camera.images))[1])
    image = camera.images[0]
    expected = fit_image(pixels, load_task(IMAGE_PATH).observation.region, 96, 96)
    np.testing.assert_array_equal(messages.colour_image(image), expected)
    assert messages.stamp_ns(image.header.stamp) == 5_000_000_007
    assert image.header.frame_id == CAMERA.optical_frame


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"encoding": "mono8"}, "encoding"),
        ({"width": 64}, "size"),
        ({"height": 48}, "size"),
        ({"frame": "elsewhere"}, "frame"),
        ({"repeated": True}, "repeated stamp"),
    ],
)
def test_a_bad_colour_frame_is_dropped_by_its_reason_and_the_next_one_is_taken(
    cloud_rig, pixels, change, reason
):
    camera, spin_until = cloud_rig
    cut = pixels[: change.get("height", 96), : change.get("width", 128)]
    bad = colour_message(cut, 1, change.get("frame", CAMERA.optical_frame))
    bad.encoding = change.get("encoding", "rgb8")
    camera.colour.publish(bad)
    if "repeated" in change:
        camera.colour.publish(bad)
    assert spin_until(lambda: camera.reasons() == {reason})
    good = colour_message(pixels, PERIOD_NS, CAMERA.optical_frame)
    camera.colour.publish(good)
    assert spin_until(lambda: len(camera.images) == 1 + ("repeated" in change))


def test_the_cloud_node_has_nothing_to_do_where_proprioception_is_all_there_is():
    with (
        isolated_ros(robot_config=ROBOT_PATH, task_config=STATE_PATH),
        pytest.raises(ConfigError, match="leave the cloud node out"),
    ):
        CloudNode().start()


@pytest.mark.parametrize("node", [CloudNode, PolicyNode])
def test_an_image_task_is_refused_on_a_robot_without_a_colour_camera(node):
    paths = {"robot_config": CONFIG / "robots" / "panda.yaml", "task_config": IMAGE_PATH}
    with (
        isolated_ros(**paths),
        pytest.raises(ConfigError, match="no camera 'color' of kind color"),
    ):
        node().start()


class Robot(Node):
    """Sensors, gate and clock of a test."""

    def __init__(self) -> None:
        super().__init__("test_robot")
        self.clock = self.create_publisher(Clock, "/clock", 10)
        self.images = self.create_publisher(Image, "policy/image", SENSOR)
        self.joints = self.create_publisher(JointState, "joint_states", SENSOR)
        self.gate = self.create_publisher(GateStatus, "gate/status", LATCHED)
        self.chunks: list[ActionChunk] = []
        self.status: list[PolicyStatus] = []
        self.create_subscription(ActionChunk, "policy/action_chunk", self.chunks.append, COMMAND)
        self.create_subscription(PolicyStatus, "policy/status", self.status.append, LATCHED)

    def observe(self, step: int, pixels: np.ndarray | None, clock_step: int | None = None) -> None:
        stamp = step * PERIOD_NS
        now = stamp if clock_step is None else clock_step * PERIOD_NS
        self.clock.publish(Clock(clock=time_message(now)))
        home = np.array(ROBOT.home)
        self.joints.publish(joint_state_message(ROBOT.joints, home, np.zeros(7), stamp))
        if pixels is not None:
            self.images.publish(colour_message(pixels, stamp, CAMERA.optical_frame))


@pytest.fixture(params=[IMAGE_PATH, STATE_PATH], ids=["image", "state"])
def policy_rig(request, tmp_path):
    """A policy node with random weights in command."""
    task = load_task(request.param)
    torch.manual_seed(0)
    size, action = observation_size(task, ROBOT), ActionSize(n_chunk=8, dim=2)
    write_version(
        tmp_path / "random_1", DiffusionPolicy(preset("small", size, action)), task=task,
        robot=ROBOT, parents=(), bags=(), metrics={}, training={},
    )  # fmt: skip
    given = {"robot_config": ROBOT_PATH, "task_config": request.param}
    with isolated_ros(**given, lockstep=True, use_sim_time=True, policy=tmp_path / "random_1"):
        robot = Robot()
        with spinning(PolicyNode(), robot) as spin_until:
            topics = [robot.clock, robot.joints, robot.gate]
            topics += [robot.images] if request.param == IMAGE_PATH else []
            assert spin_until(lambda: all(each.get_subscription_count() for each in topics))
            robot.gate.publish(GateStatus(source=int(CommandSource.POLICY)))
            spin_until(lambda: False, 0.2)
            yield robot, spin_until, request.param == IMAGE_PATH


def test_the_policy_decides_on_what_its_task_observes(policy_rig, pixels):
    robot, spin_until, sees = policy_rig
    for step in range(1, 10):
        robot.observe(step, pixels[:, :96] if sees else None)
        spin_until(lambda: False, 0.03)
    assert spin_until(lambda: len(robot.chunks) == 2)
    stamps = [messages.stamp_ns(chunk.header.stamp) for chunk in robot.chunks]
    assert stamps == [PERIOD_NS, 9 * PERIOD_NS]


def test_a_stale_frame_is_refused_and_counted_and_the_next_one_decided_on(policy_rig, pixels):
    robot, spin_until, sees = policy_rig
    seen = pixels[:, :96] if sees else None
    robot.clock.publish(Clock(clock=time_message(20 * PERIOD_NS)))
    spin_until(lambda: False, 0.2)
    robot.observe(10, seen, clock_step=20)
    assert spin_until(lambda: bool(robot.status) and robot.status[-1].refused == 1)
    assert "1.000 s old" in robot.status[-1].detail
    assert not robot.chunks
    robot.observe(20, seen)
    assert spin_until(lambda: len(robot.chunks) == 1)


def test_an_image_of_another_size_or_frame_is_refused(policy_rig, pixels):
    robot, spin_until, sees = policy_rig
    if not sees:
        assert robot.images.get_subscription_count() == 0
        return
    robot.observe(1, pixels)
    assert spin_until(lambda: bool(robot.status) and robot.status[-1].refused == 1)
    assert "expected image (96, 96, 3)" in robot.status[-1].detail
    assert not robot.chunks
