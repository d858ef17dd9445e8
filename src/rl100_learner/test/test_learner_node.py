# SPDX-License-Identifier: Apache-2.0
"""The learner node: trains from a folder of bags on request.

It reports, trains one version at a time, can be cancelled, and says what is wrong.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from action_msgs.msg import GoalStatus
from rclpy.action import ActionClient, GoalResponse
from rclpy.executors import MultiThreadedExecutor
from rclpy.node import Node

from rl100_learner import node as learner_module
from rl100_learner.node import LearnerNode
from rl100_learner.training.bag_collector import Wanted
from rl100_learner.training.progress import Progress
from rl100_msgs.action import Train
from rl100_msgs.msg import LearnerStatus
from rl100_policy.bags.testing import MessageFactory, SyntheticEpisode
from rl100_policy.core.config import load_robot, load_task
from rl100_policy.core.errors import LearningError
from rl100_policy.core.geometry import pose_from_xyz_rpy
from rl100_policy.core.policy_version import load_version
from rl100_policy.ros.qos import LATCHED
from rl100_policy.ros.testing import isolated_ros, spinning

pytestmark = pytest.mark.ros

CONFIG = Path(__file__).parents[2] / "rl100_bringup" / "config"
PATHS = {
    "robot_config": CONFIG / "robots" / "panda.yaml",
    "task_config": CONFIG / "tasks" / "push_t.yaml",
}
ROBOT, TASK = load_robot(PATHS["robot_config"]), load_task(PATHS["task_config"])
BRIEF = [
    "episodes=all",
    "imitation.steps=4",
    "distillation.steps=2",
    "log_every=1",
    "imitation.windows=8",
]
ENDLESS = [*BRIEF, "imitation.steps=1000000"]


@pytest.fixture
def recorded_bags(tmp_path) -> Path:
    """Two episodes of twelve periods that look at a plane 3 cm above the table."""
    camera, pose = ROBOT.camera(), pose_from_xyz_rpy(ROBOT.camera().xyz, ROBOT.camera().rpy)
    u, v = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
    rays = np.stack(
        [(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones(u.shape)], axis=-1
    )
    plane = (
        np.rint(1000 * (0.03 - pose[2, 3]) / (rays @ pose[:3, :3].T)[..., 2])
        .clip(0, 65535)
        .astype(np.uint16)
    )
    actions = 0.1 * np.sin(np.arange(24)).reshape(12, 2).astype(np.float32)
    depth, positions = np.repeat(plane[None], 13, axis=0), np.tile(ROBOT.home, (13, 1))
    for _ in range(2):
        SyntheticEpisode(TASK, ROBOT, depth, positions, actions).write(
            tmp_path / "bags", MessageFactory()
        )
    return tmp_path / "bags"


class Person(Node):
    """Asks for trainings."""

    def __init__(self) -> None:
        super().__init__("person")
        self.train = ActionClient(self, Train, "learner/train")
        self.status: list[LearnerStatus] = []
        self.feedback: list[LearnerStatus] = []
        self.create_subscription(LearnerStatus, "learner/status", self.status.append, LATCHED)

    def destroy_node(self) -> None:
        self.train.destroy()  # which rclpy would leave in the graph
        super().destroy_node()

    def send(self, **goal):
        return self.train.send_goal_async(
            Train.Goal(**goal), feedback_callback=lambda m: self.feedback.append(m.feedback.status)
        )

    def ask(self, spin_until, **goal):
        sent = self.send(**goal)
        assert spin_until(sent.done)
        return sent.result()


@pytest.fixture
def rig():
    with isolated_ros(**PATHS):
        person = Person()
        with spinning(LearnerNode(), person) as spin_until:
            assert spin_until(lambda: person.train.server_is_ready() and bool(person.status))
            yield person, spin_until


@contextmanager
def in_background(node: LearnerNode) -> Iterator[None]:
    """Run a node as its process does: on two threads, beside the test."""
    node.start()
    executor = MultiThreadedExecutor(2)
    executor.add_node(node)
    thread = threading.Thread(target=executor.spin, daemon=True)
    thread.start()
    try:
        yield
    finally:
        executor.shutdown()
        thread.join(20.0)
        node.destroy_node()


class HastyLearner(LearnerNode):
    """Accepts every goal, as if it had looked at all of them before the first one began."""

    def _on_goal(self, _goal: Train.Goal) -> GoalResponse:
        return GoalResponse.ACCEPT


@pytest.fixture
def busy_rig(request):
    """A learner that goes on training while the person does something else."""
    with isolated_ros(**PATHS):
        person, learner = Person(), getattr(request, "param", LearnerNode)()
        with in_background(learner), spinning(person) as spin_until:
            assert spin_until(lambda: person.train.server_is_ready() and bool(person.status))
            yield person, spin_until


def cancel(rig, handle):
    cancelled = handle.cancel_goal_async()
    assert rig[1](cancelled.done)
    return result(rig, handle)


def result(rig, handle):
    future = handle.get_result_async()
    assert rig[1](future.done, 120.0)
    return future.result().result


def test_a_goal_trains_a_version_from_bags_with_progress(rig, recorded_bags, tmp_path):
    person, spin_until = rig
    handle = person.ask(
        spin_until,
        task="push_t",
        bags=str(recorded_bags),
        output=str(tmp_path / "run"),
        overrides=BRIEF,
        stages=["imitation"],
    )
    assert handle.accepted
    done = result(rig, handle)
    assert done.success, done.message
    policy, manifest = load_version(Path(done.policy_version_path))
    assert policy.config.action.n_chunk == TASK.learning["n_chunk"]
    assert manifest.task.model_dump() == TASK.model_dump()
    assert len(manifest.bags) == 2
    assert spin_until(lambda: person.status[-1].policy_version == manifest.name)
    assert "imitation" in {status.stage for status in person.feedback}


@pytest.mark.parametrize(
    ("goal", "message"),
    [
        ({"bags": "", "output": ""}, "needs the folder"),
        ({"bags": "/nowhere", "output": "/tmp/unused"}, "no usable demonstration"),
        (
            {"bags": "/nowhere", "output": "/tmp/unused", "overrides": ["imitation.stepz=3"]},
            "imitation.stepz",
        ),
        ({"bags": "/nowhere", "output": "/tmp/unused", "stages": ["sleep"]}, "['sleep']"),
    ],
)
def test_a_goal_that_cannot_be_met_fails_with_the_reason(rig, goal, message):
    person, spin_until = rig
    done = result(rig, person.ask(spin_until, **goal))
    assert not done.success
    assert message in done.message
    assert spin_until(lambda: person.status[-1].state == LearnerStatus.FAULT)


def test_a_goal_for_another_task_is_rejected(rig):
    person, spin_until = rig
    assert not person.ask(spin_until, task="pour", bags="b", output="o").accepted


def test_a_training_ends_when_it_is_cancelled_and_the_next_one_begins(
    busy_rig, recorded_bags, tmp_path
):
    person, spin_until = busy_rig
    folders = {"bags": str(recorded_bags), "output": str(tmp_path / "run")}
    endless = person.ask(spin_until, **folders, overrides=ENDLESS)
    assert spin_until(lambda: any(each.stage == "imitation" for each in person.feedback))
    done = cancel(busy_rig, endless)
    assert not done.success
    assert "goes on from its last checkpoint" in done.message
    assert endless.status == GoalStatus.STATUS_CANCELED
    assert spin_until(lambda: person.status[-1].state == LearnerStatus.IDLE)
    folders["output"] = str(tmp_path / "another")
    brief = person.ask(spin_until, **folders, overrides=BRIEF, stages=["imitation"])
    assert result(busy_rig, brief).success


def test_a_goal_is_rejected_while_a_training_runs(busy_rig, recorded_bags, tmp_path):
    person, spin_until = busy_rig
    folders = {"bags": str(recorded_bags), "output": str(tmp_path / "run")}
    endless = person.ask(spin_until, **folders, overrides=ENDLESS)
    assert spin_until(lambda: any(each.stage == "imitation" for each in person.feedback))
    assert not person.ask(spin_until, **folders, overrides=BRIEF).accepted
    cancel(busy_rig, endless)


@pytest.mark.parametrize("busy_rig", [HastyLearner], indirect=True)
def test_of_two_goals_at_once_one_trains_and_can_be_cancelled(busy_rig, recorded_bags, tmp_path):
    """Regression: the second one waited on the thread that serves cancels."""
    person, spin_until = busy_rig
    folders = {"bags": str(recorded_bags), "output": str(tmp_path / "run")}
    sent = [person.send(**folders, overrides=ENDLESS) for _ in range(2)]
    assert spin_until(lambda: all(each.done() for each in sent))
    handles = [each.result() for each in sent]
    results = [handle.get_result_async() for handle in handles]
    assert spin_until(lambda: any(each.stage == "imitation" for each in person.feedback))
    assert spin_until(lambda: sum(each.done() for each in results) == 1)
    refused = 0 if results[0].done() else 1
    assert "a training is running" in results[refused].result().result.message
    cancel(busy_rig, handles[1 - refused])
    assert handles[1 - refused].status == GoalStatus.STATUS_CANCELED


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyError("a defect")])
def test_after_an_unexpected_error_the_next_goal_is_accepted(
    rig, recorded_bags, tmp_path, monkeypatch, error
):
    person, spin_until = rig
    goal = {"bags": str(recorded_bags), "output": str(tmp_path / "run"), "overrides": BRIEF}
    goal["stages"] = ["imitation"]

    def fails(*_):
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(learner_module, "run_algorithm", fails)
        done = result(rig, person.ask(spin_until, **goal))
    assert not done.success
    assert str(error) in done.message
    assert spin_until(lambda: person.status[-1].state == LearnerStatus.FAULT)
    assert result(rig, person.ask(spin_until, **goal)).success


def test_after_imitation_it_waits_for_episodes_of_its_version_and_says_which(
    busy_rig, recorded_bags, tmp_path
):
    person, spin_until = busy_rig
    handle = person.ask(
        spin_until,
        bags=str(recorded_bags),
        output=str(tmp_path / "run"),
        overrides=[*BRIEF, "rollouts=5"],
    )
    assert spin_until(lambda: person.status[-1].state == LearnerStatus.WAITING, 60.0)
    waiting = person.status[-1]
    assert (waiting.wanted_episodes, waiting.steps, waiting.step) == (5, 5, 0)
    assert waiting.wanted_stochastic
    assert waiting.policy_version == "push_t_run_imitation"
    assert load_version(Path(waiting.policy_version_path))[1].name == waiting.policy_version
    assert "5 of 5 episodes of push_t_run_imitation" in waiting.detail
    assert not cancel(busy_rig, handle).success


def test_its_status_names_what_a_stage_ended_with_and_only_while_waiting_who_is_to_act(
    busy_rig, recorded_bags, tmp_path, monkeypatch
):
    person, spin_until = busy_rig
    goal = {"bags": str(recorded_bags), "output": str(tmp_path / "run"), "overrides": BRIEF}
    assert result(busy_rig, person.ask(spin_until, **goal, stages=["imitation"])).success

    def asks(*arguments):
        collector, on_progress = arguments[5], arguments[6]
        pause = 0.6  # statuses are published at most twice a second, and the reader keeps one
        time.sleep(pause)
        collector._ask(Wanted(tmp_path / "candidate", range(3), False, 3))
        time.sleep(pause)
        on_progress("online", Progress("online", 2, 2, 0.5, 1.0))
        time.sleep(pause)
        raise LearningError("enough")

    with monkeypatch.context() as patched:
        patched.setattr(learner_module, "run_algorithm", asks)
        person.status.clear()
        result(busy_rig, person.ask(spin_until, **goal))
    assert spin_until(lambda: person.status[-1].state == LearnerStatus.FAULT)
    named = {each.state: each.policy_version for each in person.status}
    assert named == {
        LearnerStatus.READING: "push_t_run_imitation",
        LearnerStatus.WAITING: "candidate",
        LearnerStatus.TRAINING: "push_t_run_imitation",
        LearnerStatus.FAULT: "push_t_run_imitation",
    }
