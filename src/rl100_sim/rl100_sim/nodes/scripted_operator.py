# SPDX-License-Identifier: Apache-2.0
"""Scripted operator node: plays the person beside the simulated robot.

It looks at the scene (``sim/ground_truth``, as a person would look with the eyes), publishes the
same teleop messages a device would (``teleop/delta_twist_cmds`` TwistStamped, COMMAND), and uses
the same controls as a person: ``episode/start``, ``episode/stop``, ``gate/set_command_source``,
``policy/load``, and judgements on ``feedback`` (HumanFeedback, EVENT).

``mode`` demonstrate: it steers the arm, with the imperfections of :mod:`rl100_sim.demonstrator`.
``mode`` supervise: the policy steers, it only starts, judges and ends the episodes, and takes over
for ``takeover_length`` control periods after ``takeover_after`` of them. Either way success is
what the scene shows, never what a policy thinks. When the emergency stop is latched
(``gate/status``) or a control fails, the running episode is closed without a judgement. After
``episodes`` episodes the process ends; exit status 1 if a control failed.

Right after the graph's start a server may know this node's request writer and not yet its answer
reader, and its answer is lost. So a request that may come twice (``policy/load``, ``sim/reset``,
``sim/run``, ``gate/set_command_source``) is repeated until an answer comes; ``episode/start`` and
``episode/stop`` are sent once.

Threads: the executor answers ground truth with a twist at once; the main thread walks through the
episodes and waits.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from geometry_msgs.msg import TwistStamped
from numpy.typing import NDArray
from rclpy.client import Client
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.task import Future
from std_srvs.srv import SetBool

from rl100_msgs.msg import GateStatus, HumanFeedback, PolicyStatus, SimGroundTruth
from rl100_msgs.srv import LoadPolicy, ResetSim, SetCommandSource, StartEpisode, StopEpisode
from rl100_policy.core import messages
from rl100_policy.core.config import load_robot, load_task
from rl100_policy.core.errors import ConfigError, Rl100Error
from rl100_policy.core.gate_result import CommandSource
from rl100_policy.ros.conversions import twist_message
from rl100_policy.ros.parameters import parameter, read_parameters
from rl100_policy.ros.process import executor_of
from rl100_policy.ros.qos import COMMAND, EVENT, LATCHED
from rl100_policy.ros.transport import keep_on_this_machine
from rl100_sim.demonstrator import SKILL, ScriptedPusher, planar_twist
from rl100_sim.planar_object import wrap_angle

_SERVICE_TIMEOUT_S = 60.0
_ASK_AGAIN_S = 5.0
"""Without an answer for this long a request that may come twice is sent again [s]."""
_SAY_AFTER_S = 3.0
"""A wait that takes longer than this is said, and looked into [s]."""
_PATIENCE_S = 20.0
"""How long the operator tries to begin what is refused [s]."""
_REHEARSAL_TIMEOUT_S = 60.0
"""Longest wall time until the graph moves the arm for the first time [s]."""
_REHEARSAL_PERIODS = 2
"""Control periods that a rehearsal lasts."""
_EPISODE_TIMEOUT_S = 120.0
"""Longest wall time of one episode before the operator gives up [s]."""


class OperatorError(Rl100Error):
    """A control that the operator needs did not do what was asked."""


@dataclass(frozen=True)
class OperatorParameters:
    """Parameters of the scripted operator."""

    robot_config: str = parameter("", "path of the robot description (YAML)")
    task_config: str = parameter("", "path of the task description (YAML)")
    mode: str = parameter(
        "demonstrate", "demonstrate (steers the arm) or supervise (the policy steers)"
    )
    episodes: int = parameter(10, "episodes before the process ends", low=1, high=100000)
    first_seed: int = parameter(
        0, "seed of the first episode; each next one adds one", low=0, high=2**31
    )
    skill: float = parameter(SKILL, "0: barely trained, 1: careful and steady", low=0.0, high=1.0)
    name: str = parameter("scripted_operator", "operator name in the episode metadata")
    policy: str = parameter(
        "", "supervise: folder of the policy version to load first; empty: the loaded one"
    )
    sampler: str = parameter("", "supervise: one_step or ddim; empty: the policy node's")
    stochastic: bool = parameter(
        False, "supervise: the version draws every transition, so that it can be learned from"
    )
    takeover_after: int = parameter(
        0, "supervise: take over after this many control periods; 0: never", low=0, high=100000
    )
    takeover_length: int = parameter(
        10, "supervise: control periods before the policy gets the command back", low=1, high=1000
    )
    record: bool = parameter(True, "record every episode")


class ScriptedOperatorNode(Node):
    """Eyes, hands and keys; the order of things is in :meth:`run`."""

    def __init__(self) -> None:
        """Read parameters, look at the scene, find the controls."""
        super().__init__("scripted_operator")
        self._settings = read_parameters(self, OperatorParameters)
        if self._settings.mode not in ("demonstrate", "supervise"):
            raise ConfigError(
                f"mode must be demonstrate or supervise, got {self._settings.mode!r}"
            )
        self._robot, self._task = (
            load_robot(self._settings.robot_config),
            load_task(self._settings.task_config),
        )
        self._pusher: ScriptedPusher | None = None
        """Steers; None while the policy does."""
        self._seed = self._took_over_at = 0
        self._hands_back: Future | None = None
        """Newest answer of the gate to handing back."""
        self._ended = threading.Event()
        self._is_stopped = False
        """The emergency stop is latched."""
        self._last: SimGroundTruth | None = None
        self._successes, self._version_in_use = 0, ""
        self._twists = self.create_publisher(TwistStamped, "teleop/delta_twist_cmds", COMMAND)
        self._feedback = self.create_publisher(HumanFeedback, "feedback", EVENT)
        self.create_subscription(SimGroundTruth, "sim/ground_truth", self._on_ground_truth, EVENT)
        self.create_subscription(PolicyStatus, "policy/status", self._on_policy_status, LATCHED)
        self.create_subscription(GateStatus, "gate/status", self._on_gate_status, LATCHED)
        self._reset_sim = self.create_client(ResetSim, "sim/reset")
        self._run_sim = self.create_client(SetBool, "sim/run")
        self._start_episode = self.create_client(StartEpisode, "episode/start")
        self._stop_episode = self.create_client(StopEpisode, "episode/stop")
        self._set_source = self.create_client(SetCommandSource, "gate/set_command_source")
        self._load_policy = self.create_client(LoadPolicy, "policy/load")

    # Eyes and hands (executor thread)

    def _on_ground_truth(self, truth: SimGroundTruth) -> None:
        self._last, pusher = truth, self._pusher
        if truth.terminated or truth.truncated:
            if not self._is_stopped:
                self._judge(truth)
            self._ended.set()
            return
        if pusher is not None:
            self._push(truth, pusher)
        after, length = self._settings.takeover_after, self._settings.takeover_length
        if self._settings.mode == "supervise" and after:
            if truth.step == after:
                self._ask_for_command(CommandSource.TELEOP).add_done_callback(
                    lambda _: self._steer_from_now_on()
                )
            elif pusher is not None and truth.step >= self._took_over_at + length:
                self._hand_back()

    def _push(self, truth: SimGroundTruth, pusher: ScriptedPusher) -> None:
        velocity = pusher.act(
            _planar(truth.object_pose), _planar(truth.goal_pose), _point(truth.tool_position)
        )
        stamp, frame = messages.stamp_ns(truth.header.stamp), self._robot.base_frame
        self._twists.publish(twist_message(planar_twist(velocity), stamp, frame))

    def _ask_for_command(self, source: CommandSource) -> Future:
        """Ask the gate while the episode goes on; what follows is the answer's."""
        return self._set_source.call_async(SetCommandSource.Request(source=int(source)))

    def _hand_back(self) -> None:
        """To the policy; one that was not ready is asked for again next period."""
        if self._hands_back is None or self._hands_back.done():
            self._hands_back = self._ask_for_command(CommandSource.POLICY)
            self._hands_back.add_done_callback(self._stop_steering)

    def _stop_steering(self, asked: Future) -> None:
        """Where a policy is in command."""
        answer = asked.result()
        if answer is not None and answer.success:
            self._pusher = None

    def _steer_from_now_on(self) -> None:
        """In command: the newest observation still waits for an answer, perhaps."""
        if not self._ended.is_set() and self._last is not None:
            self._pusher = pusher = self._new_pusher(self._seed)
            self._took_over_at = self._last.step
            self._push(self._last, pusher)

    def _on_gate_status(self, status: GateStatus) -> None:
        self._is_stopped = status.estop
        if status.estop:
            self._ended.set()  # whatever would come now is not what the episode was for

    def _on_policy_status(self, status: PolicyStatus) -> None:
        self._version_in_use = status.policy_version

    def _judge(self, truth: SimGroundTruth) -> None:
        """Press the key for what the scene shows."""
        kind = HumanFeedback.SUCCESS if truth.success else HumanFeedback.FAILURE
        judgement = HumanFeedback(
            kind=kind, reward=1.0 if truth.success else 0.0, source=self._settings.name
        )
        judgement.header.stamp = truth.header.stamp
        self._feedback.publish(judgement)

    # Controls (main thread)

    def run(self) -> None:
        """Walk through all episodes.

        Raises:
            OperatorError: If a control is missing, refuses, or an episode does not end.
        """
        if self._settings.mode == "supervise" and self._settings.policy:
            request = LoadPolicy.Request(
                path=self._settings.policy,
                sampler=self._settings.sampler,
                stochastic=self._settings.stochastic,
            )
            self._version_in_use = self._insist(self._load_policy, request).policy_version
        self._rehearse(self._settings.first_seed)
        for index in range(self._settings.episodes):
            self._one_episode(self._settings.first_seed + index)
            done = index + 1
            self.get_logger().info(
                f"episode {done} of {self._settings.episodes}: {self._successes} successes so far"
            )

    def _rehearse(self, seed: int) -> None:
        """Let a few periods pass unrecorded.

        A message that is sent before its reader is known is lost; afterwards every node on the
        way from the camera to the arm is known to be there and to hear its neighbours.
        """
        self._set_scene(seed)
        self._let_move()
        deadline = time.monotonic() + _REHEARSAL_TIMEOUT_S
        while self._last is None or self._last.step < _REHEARSAL_PERIODS:
            if time.monotonic() > deadline:
                raise OperatorError(
                    f"the arm did not begin to move within {_REHEARSAL_TIMEOUT_S} s; "
                    "is a node missing?"
                )
            time.sleep(0.01)
        self._halt()

    def _set_scene(self, seed: int) -> Time:
        """Put everything at its start, and think of how to push it if it is ours to push.

        Returns:
            Stamp of the first observation.
        """
        stamp: Time = self._insist(self._reset_sim, ResetSim.Request(seed=seed)).stamp
        demonstrate = self._settings.mode == "demonstrate"
        self._seed = seed
        self._pusher = self._new_pusher(seed) if demonstrate else None
        self._last = None
        self._ended.clear()
        return stamp

    def _let_move(self) -> None:
        demonstrate = self._settings.mode == "demonstrate"
        source = CommandSource.TELEOP if demonstrate else CommandSource.POLICY
        self._until_accepted(partial(self._take_command, source))
        try:
            self._insist(self._run_sim, SetBool.Request(data=True))
        except OperatorError:
            # When the answer to the first request is lost, the second may come after the end.
            if not self._ended.is_set():
                raise

    def _take_command(self, source: CommandSource) -> None:
        """Give it to whom the episode is for, before the world goes on, if that can be.

        In real time a policy is refused that sees nothing, which is so until the world goes on.
        """
        try:
            self._insist(self._set_source, SetCommandSource.Request(source=int(source)))
        except OperatorError:
            if not self._is_stopped:
                self._insist(self._run_sim, SetBool.Request(data=True))
            raise

    def _halt(self) -> None:
        self._insist(self._run_sim, SetBool.Request(data=False))
        self._insist(self._set_source, SetCommandSource.Request(source=int(CommandSource.HOLD)))
        self._pusher = None

    def _one_episode(self, seed: int) -> None:
        demonstrate = self._settings.mode == "demonstrate"
        stamp = self._set_scene(seed)
        version = "" if demonstrate else self._version_in_use
        if self._settings.record:
            start = StartEpisode.Request(
                start_stamp=stamp,
                task=self._task.name,
                operator_name=self._settings.name,
                policy_version=version,
            )
            start.tag_keys = ["mode", "seed", "sampler"]
            start.tag_values = [self._settings.mode, str(seed), self._settings.sampler]
            self._until_accepted(partial(self._call, self._start_episode, start))
        try:
            self._let_move()
            self._wait_for_the_end(seed)
            self._halt()
            if self._is_stopped:
                raise OperatorError(
                    f"the emergency stop was pressed in the episode of seed {seed}, which is kept "
                    "without a judgement; release it (gate/release) and start again"
                )
        except OperatorError:
            with suppress(OperatorError):
                self._close_recording()
            raise
        assert self._last is not None
        self._successes += bool(self._last.success)
        self._close_recording()

    def _close_recording(self) -> None:
        """End the recorded episode at the newest observation, if one is recorded."""
        if not self._settings.record:
            return
        end = StopEpisode.Request()
        if self._last is not None:
            end.end_stamp = self._last.header.stamp
        self._call(self._stop_episode, end)

    def _until_accepted(self, press: Callable[[], object]) -> None:
        """Press again until it is accepted.

        Right after the graph's start the recorder may not have found every sensor yet, and the
        policy not the gate.
        """
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                press()
                return
            except OperatorError as error:
                if self._is_stopped or time.monotonic() > deadline:
                    raise
                self.get_logger().info(f"trying again: {error}")
                time.sleep(0.5)

    def _new_pusher(self, seed: int) -> ScriptedPusher:
        pusher = ScriptedPusher(self._robot, self._task, skill=self._settings.skill)
        pusher.reset(np.random.default_rng([seed, 1]))
        return pusher

    def _insist(self, client: Client, request: Any) -> Any:
        """Call a control for which it does no harm to be called twice."""
        return self._call(client, request, patience_s=_ASK_AGAIN_S)

    def _call(self, client: Client, request: Any, *, patience_s: float | None = None) -> Any:
        """Call a control and wait for its answer (blocks the main thread only).

        Args:
            client: Of the control.
            request: What is asked.
            patience_s: Ask again when no answer has come for this long [s]; None: ask once.

        Raises:
            OperatorError: If the service is not there, does not answer, or refuses.
        """
        self._wait_for(client)
        response = self._answer_to(client, request, patience_s or _SERVICE_TIMEOUT_S)
        if response is None or not response.success:
            raise OperatorError(
                f"service {client.srv_name} refused: {getattr(response, 'message', '')}"
            )
        return response

    def _wait_for(self, client: Client) -> None:
        deadline = time.monotonic() + _SERVICE_TIMEOUT_S
        while not client.wait_for_service(timeout_sec=_SAY_AFTER_S):
            if time.monotonic() > deadline:
                raise OperatorError(f"service {client.srv_name} is not there; start its node")
            self.get_logger().warning(
                f"waiting for service {client.srv_name}: does the graph run, and in ROS domain "
                f"{self.context.get_domain_id()}?"
            )

    def _wait_for_the_end(self, seed: int) -> None:
        deadline = time.monotonic() + _EPISODE_TIMEOUT_S
        while not self._ended.wait(_SAY_AFTER_S):
            if not self._run_sim.service_is_ready():
                raise OperatorError(f"the simulated robot is gone in the episode of seed {seed}")
            if time.monotonic() > deadline:
                raise OperatorError(
                    f"episode with seed {seed} did not end within {_EPISODE_TIMEOUT_S} s; "
                    "is a node missing?"
                )

    def _answer_to(self, client: Client, request: Any, patience_s: float) -> Any:
        """Answer to the newest of the requests.

        Servers take requests in order, so none of ours is left to surprise a later episode.
        """
        deadline = time.monotonic() + _SERVICE_TIMEOUT_S
        answers: SimpleQueue[Future] = SimpleQueue()
        newest: Future | None = None
        answered: Future | None = None
        while answered is None or answered is not newest:
            wait_s = deadline - time.monotonic()
            if answered is None:
                newest = client.call_async(request)
                newest.add_done_callback(answers.put)
                wait_s = min(wait_s, patience_s)
            try:
                answered = answers.get(timeout=max(0.0, wait_s))
            except Empty as nothing:
                if time.monotonic() >= deadline:
                    raise OperatorError(
                        f"service {client.srv_name} did not answer within {_SERVICE_TIMEOUT_S} s"
                    ) from nothing
        return answered.result()


def _planar(pose: Any) -> NDArray[np.float64]:
    """(x, y, yaw) of a pose on the table, m and rad."""
    yaw = 2.0 * np.arctan2(pose.orientation.z, pose.orientation.w)
    return np.array([pose.position.x, pose.position.y, wrap_angle(yaw)])


def _point(point: Any) -> NDArray[np.float64]:
    return np.array([point.x, point.y, point.z])


def main(args: Sequence[str] | None = None) -> int:
    """Run the operator until its episodes are done."""
    keep_on_this_machine(images=False)
    rclpy.init(args=list(args) if args is not None else None)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(143))
    try:
        node = ScriptedOperatorNode()
    except Rl100Error as error:
        sys.stderr.write(f"cannot start: {error}\n")
        return 2
    executor, serve = executor_of()
    executor.add_node(node)
    spinner = threading.Thread(target=_spin, args=(serve,), name="executor", daemon=True)
    spinner.start()
    try:
        node.run()
        return 0
    except OperatorError as error:
        node.get_logger().error(str(error))
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        rclpy.try_shutdown()  # ends the spinner
        spinner.join(timeout=5.0)
        executor.shutdown()
        node.destroy_node()


def _spin(serve: Callable[[], None]) -> None:
    try:
        while rclpy.ok():
            serve()
    except ExternalShutdownException:
        return


if __name__ == "__main__":
    sys.exit(main())
