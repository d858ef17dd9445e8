# SPDX-License-Identifier: Apache-2.0
"""What the policy node saw live is, bit for bit, what the learner reads from the bag."""

import copy
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from geometry_msgs.msg import TwistStamped
from rclpy.node import Node
from std_srvs.srv import SetBool

from rl100_learner.algorithms import proximal
from rl100_learner.algorithms.proximal import ProximalConfig
from rl100_learner.data.decisions import DecisionReader, decision_batch
from rl100_learner.data.reader import read_episode
from rl100_learner.training.windows import build_windows
from rl100_msgs.msg import DecisionRecord, EpisodeState, HumanFeedback, SimGroundTruth
from rl100_msgs.srv import ResetSim, SetCommandSource, StartEpisode, StopEpisode
from rl100_policy.bags.foreign.examining import Examiner
from rl100_policy.bags.foreign.mapping import ImportMapping
from rl100_policy.bags.foreign.testing import ForeignNames, ForeignRecorder
from rl100_policy.bags.foreign.writing import EpisodeImporter
from rl100_policy.bags.reading import read_messages
from rl100_policy.core import messages
from rl100_policy.core.config import RobotConfig, TaskConfig, load_robot, load_task
from rl100_policy.core.gate_result import CommandSource
from rl100_policy.core.policy import DiffusionPolicy
from rl100_policy.core.policy_config import ActionSize
from rl100_policy.core.policy_version import write_version
from rl100_policy.core.presets import preset
from rl100_policy.core.runner import decision_seed
from rl100_policy.core.sight import observation_size, sight_camera
from rl100_policy.nodes.cloud import CloudNode
from rl100_policy.nodes.command_gate import CommandGateNode
from rl100_policy.nodes.policy import PolicyNode
from rl100_policy.nodes.recorder import RecorderNode
from rl100_policy.ros.conversions import twist_message
from rl100_policy.ros.qos import COMMAND, EVENT, LATCHED
from rl100_policy.ros.testing import isolated_ros, spinning
from rl100_sim.nodes.sim_robot import SimRobotNode

pytestmark = pytest.mark.ros

CONFIG = Path(__file__).parents[1] / "src" / "rl100_bringup" / "config"
OBSERVED = {
    "points": ("panda", "push_t"),
    "image": ("panda_rgb", "push_t_rgb"),
    "state": ("panda", "push_t_state"),
}
"""Robot and task by what is observed; all else about them is the same."""
ROBOT, TASK = (
    load_robot(CONFIG / "robots" / "panda.yaml"), load_task(CONFIG / "tasks" / "push_t.yaml")
)  # fmt: skip
PERIOD_NS = round(ROBOT.control_period * 1e9)
SIGHTS = ("policy/cloud", "policy/image")
STEPS = 30
ENOUGH = 3
"""Decisions that must be there to compare: in shadow nothing waits for the policy, so on a busy
machine it leaves many out."""


class Person(Node):
    """Steers the arm on a circle, which the policy watches in shadow."""

    def __init__(self) -> None:
        super().__init__("person")
        self.sent: dict[int, np.ndarray] = {}
        self.decided: list[DecisionRecord] = []
        self.state: list[EpisodeState] = []
        self.twists = self.create_publisher(TwistStamped, "teleop/delta_twist_cmds", COMMAND)
        self.feedback = self.create_publisher(HumanFeedback, "feedback", EVENT)
        self.create_subscription(SimGroundTruth, "sim/ground_truth", self.steer, EVENT)
        self.create_subscription(DecisionRecord, "policy/decision", self.decided.append, EVENT)
        self.create_subscription(EpisodeState, "episode/state", self.state.append, LATCHED)
        self.controls = {
            "reset": self.create_client(ResetSim, "sim/reset"),
            "run": self.create_client(SetBool, "sim/run"),
            "source": self.create_client(SetCommandSource, "gate/set_command_source"),
            "start": self.create_client(StartEpisode, "episode/start"),
            "stop": self.create_client(StopEpisode, "episode/stop"),
        }

    def steer(self, truth: SimGroundTruth) -> None:
        if truth.step >= STEPS:
            return
        action = 0.1 * np.array([np.cos(truth.step / 8), np.sin(truth.step / 8)])
        stamp = messages.stamp_ns(truth.header.stamp)
        self.sent[stamp] = action
        self.twists.publish(twist_message(np.pad(action, (0, 4)), stamp, ROBOT.base_frame))


@dataclass(frozen=True)
class Observed:
    """A robot and a task, and a policy of random weights: what is decided does not matter here."""

    robot: RobotConfig
    task: TaskConfig
    network: DiffusionPolicy
    version: Path
    paths: dict[str, Path]


@pytest.fixture(scope="module", params=OBSERVED)
def observed(request, tmp_path_factory):
    robot, task = OBSERVED[request.param]
    paths = {
        "robot_config": CONFIG / "robots" / f"{robot}.yaml",
        "task_config": CONFIG / "tasks" / f"{task}.yaml",
    }
    robot, task = load_robot(paths["robot_config"]), load_task(paths["task_config"])
    torch.manual_seed(0)
    size = observation_size(task, robot)
    network = DiffusionPolicy(preset("small", size, ActionSize(n_chunk=8, dim=2))).eval()
    version = tmp_path_factory.mktemp("versions") / "random_1"
    write_version(
        version, network, task=task, robot=robot, parents=(), bags=(), metrics={}, training={}
    )
    return Observed(robot, task, network, version, paths)


def record_an_episode(
    observed: Observed, bags: Path, source: CommandSource = CommandSource.TELEOP, **told: object
) -> tuple[Path, Person]:
    """The person drives and the policy only decides, or the policy drives."""
    shadow = source is not CommandSource.POLICY
    given = {"policy": observed.version, "shadow": shadow, "execute": 1, **observed.paths, **told}
    sees = sight_camera(observed.task, observed.robot) is not None
    with isolated_ros(lockstep=True, use_sim_time=True, require_data=False, bags=bags, **given):
        person = Person()
        clouds = (CloudNode(),) if sees else ()
        nodes = (SimRobotNode(), *clouds, CommandGateNode(), RecorderNode(), PolicyNode())
        with spinning(*nodes, person, events=False) as spin_until:

            def ask(name, request):
                client = person.controls[name]
                assert spin_until(client.service_is_ready)
                future = client.call_async(request)
                assert spin_until(future.done)
                return future.result()

            def call(name, request, patience_s=0.0):
                deadline = time.monotonic() + patience_s
                while not (answer := ask(name, request)).success and time.monotonic() < deadline:
                    spin_until(lambda: False, 0.1)
                assert answer.success, answer.message
                return answer

            assert spin_until(
                lambda: (
                    person.twists.get_subscription_count() >= 2
                    and (not sees or any(map(person.count_publishers, SIGHTS)))
                    and person.count_publishers("policy/decision")
                )
            )
            call("reset", ResetSim.Request(seed=11))
            start = StartEpisode.Request(task="push_t", operator_name="test")
            call("start", start, patience_s=20.0)  # gate and recorder may not know each other yet
            call("source", SetCommandSource.Request(source=int(source)))
            call("run", SetBool.Request(data=True))
            last = STEPS * PERIOD_NS

            def is_over():
                stamps = [messages.stamp_ns(d.header.stamp) for d in person.decided]
                return bool(stamps) and stamps[-1] >= min(person.sent) + last

            assert spin_until(is_over)
            call("run", SetBool.Request(data=False))
            judgement = HumanFeedback(kind=HumanFeedback.FAILURE, source="test")
            person.feedback.publish(judgement)
            spin_until(lambda: False, 0.3)
            return Path(call("stop", StopEpisode.Request()).path), person


def test_the_learner_rebuilds_what_the_policy_saw(tmp_path, observed):
    network = observed.network
    folder, person = record_an_episode(observed, tmp_path / "bags")
    episode = read_episode(folder, observed.task, observed.robot)
    assert episode.outcome == "failure"
    assert len(episode.actions) == len(episode.visual) - 1 == STEPS
    for index in range(STEPS):
        sent = person.sent[int(episode.stamps_ns[index])]
        np.testing.assert_allclose(episode.actions[index], sent, atol=2e-4)

    windows = build_windows([episode], network.config)
    topic = "policy/decision"
    decisions = {
        messages.stamp_ns(found.value.header.stamp): found.value
        for found in read_messages(folder, [topic])[topic]
    }
    compared = 0
    for stamp, rows in zip(episode.stamps_ns[:-1].tolist(), windows.frame_rows, strict=True):
        if stamp not in decisions:
            continue  # the worker takes the newest window: it may leave one out
        live = decisions[stamp]
        visual, proprio = windows.visual[rows], windows.proprio[rows]
        seen = [messages.stamp_ns(each) for each in live.observation_stamps]
        assert seen == episode.stamps_ns[rows.numpy()].tolist()
        assert live.noise_seed == decision_seed(0, visual.numpy(), proprio.numpy())
        again = network.decide(
            visual[None], proprio[None], sampler="one_step", noise_seed=live.noise_seed,
            deterministic=live.deterministic,
        )  # fmt: skip
        np.testing.assert_allclose(live.latents, again.latents.flatten(), atol=1e-5)
        compared += 1
    assert compared >= ENOUGH


def test_the_likelihoods_in_a_bag_are_those_the_learner_computes(tmp_path, observed):
    """Online learning from bags begins with ratios of one."""
    stochastic = {"sampler": "ddim", "deterministic": False}
    bags = tmp_path / "bags"
    folder, _ = record_an_episode(observed, bags, CommandSource.POLICY, **stochastic)
    recorded = DecisionReader(observed.task, observed.robot).read(folder)
    assert recorded.policy_version.startswith("random_1@")
    batch = decision_batch([recorded], recorded.policy_version, TASK.observation.n_obs, gamma=0.99)
    assert len(batch) >= ENOUGH
    config = ProximalConfig(epochs=1, minibatch=len(batch))
    state = proximal.init(copy.deepcopy(observed.network), config)
    advantages = torch.linspace(-1.0, 1.0, len(batch))
    generator = torch.Generator().manual_seed(0)
    metrics = proximal.improve(state, batch, advantages, generator, config)
    assert metrics["ratio_error"] < 1e-3


def test_what_others_recorded_of_an_episode_is_read_as_our_own(tmp_path, observed):
    folder, _ = record_an_episode(observed, tmp_path / "bags")
    ours = read_episode(folder, observed.task, observed.robot)
    names = ForeignNames({name: f"their_{name}" for name in observed.robot.joints})
    theirs = ForeignRecorder(names)
    theirs.add_bag(folder, observed.robot)
    source = theirs.write(tmp_path / "theirs", "sqlite3", compression="file", splits=3)
    renamed = {theirs: ours for ours, theirs in names.joints.items()}
    mapping = ImportMapping.model_validate(
        {
            "joint_states": {"topic": "/theirs/joint_states", "names": renamed},
            "cameras": {
                each.name: {"topic": f"/theirs/{each.topic}"} for each in observed.robot.cameras
            },
            "extrinsics": {"source": "topic", "topic": "/theirs/camera/extrinsics"},
            "action": {
                "source": "trajectory", "topic": f"/theirs{names.command}", "names": renamed
            },
            "outcome": {"source": "topic", "topic": "/theirs/feedback"},
        }
    )  # fmt: skip
    examiner = Examiner(mapping, observed.robot, observed.task)
    examination = examiner.examine(source)
    assert examination.fits, (examination.findings, examination.episodes)
    (folder,) = EpisodeImporter(tmp_path / "imported", examiner).write(examination)
    episode = read_episode(folder, observed.task, observed.robot)
    # ours begins where the person took command; nothing tells others of that
    rows = np.searchsorted(episode.stamps_ns, ours.stamps_ns)
    np.testing.assert_array_equal(episode.stamps_ns[rows], ours.stamps_ns)
    np.testing.assert_array_equal(episode.visual[rows], ours.visual)
    np.testing.assert_array_equal(episode.proprio[rows], ours.proprio)
    np.testing.assert_allclose(episode.actions[rows[:-1]], ours.actions, atol=1e-5)
    assert episode.outcome == ours.outcome
