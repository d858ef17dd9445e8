# SPDX-License-Identifier: Apache-2.0
"""Policy node: from observations to chunks of actions, on one worker thread.

In: ``policy/cloud`` PointCloud2 or ``policy/image`` Image, as the task says, or neither, and
``joint_states`` JointState (SENSOR); ``gate/status`` GateStatus (LATCHED): the policy decides only
while it is in command, or always in shadow mode; ``episode/state`` EpisodeState (LATCHED): what
came of it. Out: ``policy/action_chunk`` ActionChunk (COMMAND); in real time ``policy/alive``
Header (COMMAND), the stamp of the newest frame that it would decide about, as long as it could
decide, with each frame and five times a control period while it is in command, twice a second
while it is not: not without a version, while it hears no gate, while decisions fail or take much
longer than usual;
``policy/decision`` DecisionRecord (EVENT), ``policy/status`` PolicyStatus (LATCHED, on change and
at 2 Hz), ``latency/stages`` StageTimes (EVENT). Services: ``policy/load`` LoadPolicy;
``policy/revert`` Trigger.

Threads: the executor converts messages; one worker thread owns the network and takes the newest
window from a slot of one, and in between encodes the frames that the next one will hold. A third
one, without the node's priority, stages what ``policy/load`` asks for beside the version in use:
it reads and checks every byte, warms the networks up and lets them decide about the last
observation; the worker takes the new version before its next decision. A version that is refused
leaves the one in use. The version before comes back on ``policy/revert`` and, in real time, after
several decisions in a row that failed or were late and, if asked for, when success drops
(:mod:`rl100_policy.core.succession`). An observation that is malformed, not finite, out of order
or more than two control periods old is refused and counted; without a decision the gate holds the
arm.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast, get_args

import numpy as np
import torch
from rclpy.clock import Clock, ClockType
from rclpy.task import Future
from sensor_msgs.msg import Image, JointState, PointCloud2
from std_msgs.msg import Header
from std_srvs.srv import Trigger

from rl100_msgs.msg import ActionChunk, DecisionRecord, EpisodeState, GateStatus, PolicyStatus
from rl100_msgs.srv import LoadPolicy
from rl100_policy.core import messages
from rl100_policy.core.chunking import Chunk, lead
from rl100_policy.core.config import load_robot, load_task
from rl100_policy.core.errors import ConfigError, ObservationError, PolicyVersionError, Rl100Error
from rl100_policy.core.gate_result import CommandSource
from rl100_policy.core.kinematics import ArmKinematics
from rl100_policy.core.latency import Mark
from rl100_policy.core.life_signs import LifeSigns, Readiness
from rl100_policy.core.observation import Frame, FrameAssembler, ObservationWindow
from rl100_policy.core.policy import Sampler
from rl100_policy.core.runner import Decided, PolicyRunner, load_libraries
from rl100_policy.core.sight import observation_size, sight_maker
from rl100_policy.core.staging import Rehearsal, Wanted
from rl100_policy.core.succession import SuccessionRules
from rl100_policy.core.version_keeper import Change, VersionKeeper
from rl100_policy.ros.conversions import chunk_message, header, time_message
from rl100_policy.ros.late_answers import create_late_service
from rl100_policy.ros.managed import ManagedNode
from rl100_policy.ros.parameters import parameter
from rl100_policy.ros.process import run_node
from rl100_policy.ros.qos import COMMAND, EVENT, LATCHED, sensor_input
from rl100_policy.ros.readers import readers_of
from rl100_policy.ros.scheduling import POLICY, go_as_usual
from rl100_policy.ros.sights import SIGHT_TOPICS
from rl100_policy.ros.stages import StageTeller

_USUAL = 0.8
"""Share of the decisions that are to be there within the gate's patience. A late one costs a
period on the chunk before; planning ahead costs every decision one."""
_TO_GATE_S = 2e-3
"""A chunk is on its way to the gate for about this long."""
_LOOK_S = 0.05
"""How often what was staged and what went wrong is looked at, wall time."""
_SWITCH_S = 0.5e-3
"""Longest that one thread keeps the interpreter while another waits: staging must not hold up a
decision."""
_OLDEST = 2
"""Control periods that a frame may be old."""
_STATUS_WINDOW = 200
"""Decisions over which latency percentiles are reported."""


@dataclass(frozen=True)
class PolicyParameters:
    """Parameters of the policy node."""

    robot_config: str = parameter("", "path of the robot description (YAML)")
    task_config: str = parameter("", "path of the task description (YAML)")
    policy: str = parameter("", "folder of the policy version to load at start; empty: none")
    sampler: str = parameter("one_step", "one_step (consistency student) or ddim (teacher)")
    deterministic: bool = parameter(
        True, "take the mean of every denoising transition after the first noise"
    )
    noise_seed: int = parameter(
        0, "seed of the policy's noise; each decision mixes in its observation", low=0, high=2**31
    )
    lockstep: bool = parameter(False, "the simulated clock waits for this node")
    execute: int = parameter(
        0,
        "actions of a chunk executed before the next decision; "
        "0: all in lockstep; in real time all but one, which is for a decision that is late, and "
        "but as many as a slow decision takes",
        low=0,
        high=64,
    )
    shadow: bool = parameter(
        False,
        "decide also while the policy is not in command; what it decides then is recorded and "
        "never executed",
    )
    largest_change: float = parameter(
        0.0,
        "a version is refused whose decision on the last observation differs from that of the one "
        "in use by more than this share of an action's bounds; 0: the difference is only told",
        low=0.0,
        high=1.0,
    )
    trips: int = parameter(
        3,
        "the version before comes back after this many decisions in a row that failed or took "
        "longer than the actions until the next one; 0: never, nor in lockstep",
        low=0,
        high=1000,
    )
    drop: float = parameter(
        0.0,
        "it comes back, too, when the success share of the newest episodes is lower than its own "
        "by more than this, such as .3; 0: never, for versions that explore, nor in lockstep",
        low=0.0,
        high=1.0,
    )
    drop_episodes: int = parameter(
        20, "judged episodes of either version that are compared for that", low=1, high=10000
    )
    torch_threads: int = parameter(1, "threads of one inference", low=1, high=64)


@dataclass(frozen=True)
class _Due:
    """A window that is to be decided about."""

    frames: list[Frame]
    age_s: float
    """Of the newest frame when it was handed over, ROS clock [s]."""
    complete_ns: int
    """Wall time at which the newest frame was complete."""
    fresh: int
    """Actions of it before the decision after it is meant to be there."""
    shadow: bool
    """The policy is not in command."""


class PolicyNode(ManagedNode[PolicyParameters]):
    """Shell around :class:`rl100_policy.core.runner.PolicyRunner`."""

    usual_priority = POLICY

    def __init__(self) -> None:
        """Read the parameters."""
        super().__init__("policy", PolicyParameters)

    def set_up(self) -> None:
        """Load the version if one is given, subscribe, start the worker."""
        if self.parameters.sampler not in get_args(Sampler):
            raise ConfigError(
                f"parameter sampler should be one of {get_args(Sampler)}, got "
                f"{self.parameters.sampler!r}"
            )
        torch.set_num_threads(self.parameters.torch_threads)
        self._robot, self._task = (
            load_robot(self.parameters.robot_config),
            load_task(self.parameters.task_config),
        )
        self._shape = observation_size(self._task, self._robot).visual_shape
        maker = sight_maker(self._task, self._robot)
        self._sight_frame = maker.frame_id if maker else ""
        self._sight = SIGHT_TOPICS.get(self._task.observation.kind)
        self._period_ns = round(self._robot.control_period * 1e9)
        self._window = ObservationWindow(self._task.observation.n_obs, self._period_ns)
        self._assembler = FrameAssembler(
            self._task.observation,
            ArmKinematics(self._robot).tool_position,
            period_ns=self._period_ns,
            tolerance_ns=0 if self.parameters.lockstep else self._period_ns // 2,
        )
        self._in_command, self._last_decision_ns = False, -1
        self._taken = 0
        """How often somebody was put in command, as the gate counts."""
        self._complete_ns = 0
        """Wall time at which the newest frame was complete."""
        rules = SuccessionRules(
            self.parameters.trips, self.parameters.drop_episodes, self.parameters.drop
        )
        if self.parameters.lockstep:  # versions are measured there, and time waits for them
            rules = SuccessionRules(trips=0, episodes=0, drop=0.0)
        self._versions = VersionKeeper(self._made, rules, go_as_usual)
        self._asked: list[Future] = []
        """Answers to those who asked for what is being made ready."""
        self._low, self._high = np.array(self._task.action.low), np.array(self._task.action.high)
        self._slot: _Due | None = None
        self._ahead: Frame | None = None
        """Newest frame that no decision is due for yet; encoded while the worker is idle."""
        self._wake = threading.Condition()
        ends = threading.Event()
        self._inference_s: deque[float] = deque(maxlen=_STATUS_WINDOW)
        self._reaches_s: deque[float] = deque(maxlen=_STATUS_WINDOW)
        """From the stamp of an observation until its chunk was published, of the newest ones."""
        self._reach_s = self._patience_s = self._longest_chunk_s = 0.0
        """What is usual of them; how long the gate waits, and follows one chunk; 0: unknown."""
        self._decisions = self._misses = self._refused = 0
        self._detail, self._faulted = "", False
        self._life_signs = LifeSigns(self._robot.control_period)
        self._readiness = Readiness(self._robot.control_period)
        self._alive = self.create_publisher(Header, "policy/alive", COMMAND)
        self._chunks = self.create_publisher(ActionChunk, "policy/action_chunk", COMMAND)
        self._records = self.create_publisher(DecisionRecord, "policy/decision", EVENT)
        self._stages = StageTeller(self)
        self._status = self.create_publisher(PolicyStatus, "policy/status", LATCHED)
        qos = sensor_input(lockstep=self.parameters.lockstep)
        if self._sight is not None:
            self.create_subscription(self._sight.type, self._sight.topic, self._on_sight, qos)
        self.create_subscription(JointState, "joint_states", self._on_joint_state, qos)
        self.create_subscription(GateStatus, "gate/status", self._on_gate_status, LATCHED)
        self.create_subscription(EpisodeState, "episode/state", self._on_episode, LATCHED)
        create_late_service(self, LoadPolicy, "policy/load", self._on_load)
        self.create_service(Trigger, "policy/revert", self._on_revert)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(_LOOK_S, self._look, clock=steady, even_inactive=True)
        self.create_timer(0.5, self._publish_status, clock=steady)
        if not self.parameters.lockstep:
            self.create_timer(self._life_signs.every_s, self._tell_alive, clock=steady)
        self._worker = threading.Thread(
            target=self._work, args=(ends,), name="inference", daemon=True
        )
        self._worker.start()
        self.at_end(partial(self._stop_worker, ends))
        if self.parameters.policy:
            wanted = Wanted(self.parameters.policy, self.parameters.sampler)
            self._take_change(self._versions.load(wanted))
        self._publish_status()

    # Observations

    def _on_joint_state(self, message: JointState) -> None:
        try:
            q = messages.joint_positions(message, self._robot.joints)
        except ObservationError as error:
            self._refuse(error)
            return
        if q is None:
            return
        self._take(self._assembler.add_joint_state(messages.stamp_ns(message.header.stamp), q))

    def _on_sight(self, message: PointCloud2 | Image) -> None:
        assert self._sight is not None, "only subscribed to if there is one"
        try:
            visual = self._sight.read(message)
            if message.header.frame_id != self._sight_frame or visual.shape != self._shape:
                raise ObservationError(
                    f"expected {self._task.observation.kind} {self._shape} in "
                    f"{self._sight_frame!r}, got {visual.shape} in {message.header.frame_id!r}; "
                    "does the cloud node use the same task and robot?"
                )
        except ObservationError as error:
            self._refuse(error)
            return
        self._take(self._assembler.add_visual(messages.stamp_ns(message.header.stamp), visual))

    def _take(self, frames: list[Frame]) -> None:
        """Add completed frames to the window, and decide if one is due."""
        self._complete_ns = time.time_ns()
        for frame in frames:
            try:
                self._window.push(frame)
                if self._is_of_now(frame.stamp_ns):
                    self._readiness.see(time.monotonic())
                elif self._decides:
                    self._check_is_of_now(frame.stamp_ns)
            except ObservationError as error:
                self._refuse(error)
                continue
            self._life_signs.see(frame.stamp_ns)
            if self._decides and not self._decide_if_due():
                with self._wake:
                    self._ahead = frame
                    self._wake.notify()
        if frames:
            self._tell_alive()  # the gate may wait for it

    def _tell_alive(self) -> None:
        """In command, give a sign of life, with the newest frame's stamp, if one is due."""
        if self.parameters.lockstep or not self._in_command or self._why_not_ready():
            return
        if (stamp := self._life_signs.due(time.monotonic())) is not None:
            self._alive.publish(header(stamp, self._robot.base_frame))

    def _tell_ready(self) -> str:
        """In real time, not in command, say that it could be: the gate gives it to no other.

        Returns:
            What it lacks, for people; empty if nothing.
        """
        if self.parameters.lockstep or self._in_command or not self.is_active:
            return ""
        newest, now_s = self._window.newest_ns, time.monotonic()
        is_of_now = newest is not None and self._is_of_now(newest)
        lacks = self._why_not_ready() or self._readiness.why_blind(
            now_s, has_seen=newest is not None, is_of_now=is_of_now
        )
        if not lacks and newest is not None:
            self._alive.publish(header(newest, self._robot.base_frame))
        return lacks

    def _why_not_ready(self) -> str:
        """What keeps it from deciding, for people; empty if nothing does."""
        runner = self._versions.runner
        if runner is None:
            return "no version is loaded"
        lacks = self._too_long(runner)
        lacks = lacks or self._readiness.why_undecided(time.monotonic(), self._reach_s)
        return lacks or ("" if self._worker.is_alive() else "its inference thread has ended")

    def _on_gate_status(self, message: GateStatus) -> None:
        in_command = message.source == int(CommandSource.POLICY) and not message.estop
        begins = in_command and (not self._in_command or message.taken != self._taken)
        self._in_command, self._taken = in_command, message.taken
        self._patience_s = message.patience_s
        self._readiness.hear_gate(time.monotonic())
        if not in_command and not self.parameters.shadow:
            self._readiness.decide(failed=False)  # it may try again when somebody wants it to
        self._longest_chunk_s = message.longest_chunk_s
        if begins:
            self._last_decision_ns = -1
            self._decide_if_due()

    # Decisions

    def _age_ns(self, stamp_ns: int) -> int:
        return int(self.get_clock().now().nanoseconds) - stamp_ns

    def _is_of_now(self, stamp_ns: int) -> bool:
        """Whether a frame is one that it would decide about."""
        return abs(self._age_ns(stamp_ns)) <= _OLDEST * self._period_ns

    def _check_is_of_now(self, stamp_ns: int) -> int:
        """Refuse a frame that no decision is made about; else its age [ns].

        Raises:
            ObservationError: Says how old it is.
        """
        age_ns = self._age_ns(stamp_ns)
        if abs(age_ns) > _OLDEST * self._period_ns:
            raise ObservationError(
                f"frame is {age_ns * 1e-9:.3f} s old, at most two control periods are "
                "usable; is the camera slow, or its clock another one?"
            )
        return age_ns

    @property
    def _decides(self) -> bool:
        """Whether it is to decide about what it sees."""
        asked = self._in_command or self.parameters.shadow
        return asked and self._versions.runner is not None

    def _decide_if_due(self) -> bool:
        """Hand the window to the worker if a decision is due; returns whether it is.

        It is due when the last chunk is used up and the newest frame is fresh.
        """
        newest = self._window.newest_ns
        runner = self._versions.runner
        if newest is None or runner is None or not self._decides:
            return False
        try:
            age_ns = self._check_is_of_now(newest)
        except ObservationError:
            return False  # the next one decides
        if too_long := self._too_long(runner):
            self._refuse(PolicyVersionError(too_long))
            return False
        executed, ahead = self._executed(runner)
        spacing = executed * self._period_ns
        if (
            0
            <= self._last_decision_ns
            <= newest
            < self._last_decision_ns + spacing - self._window.interval_ns // 2
        ):
            return False
        self._last_decision_ns = newest
        with self._wake:
            fresh = min(executed + ahead, runner.n_chunk)
            frames, shadow = self._window.frames(), not self._in_command
            self._slot = _Due(frames, age_ns * 1e-9, self._complete_ns, fresh, shadow)
            self._ahead = None
            self._wake.notify()
        return True

    def _executed(self, runner: PolicyRunner) -> tuple[int, int]:
        """Actions of a chunk until the next decision is begun, and more until that is there.

        The latter are none as long as the gate's patience is enough.
        """
        ahead, n_chunk = 0, runner.n_chunk
        if not self.parameters.lockstep:
            ahead = lead(self._reach_s, self._patience_s, self._robot.control_period)
        if self.parameters.execute:
            return min(self.parameters.execute, n_chunk), ahead
        spare = 0 if self.parameters.lockstep else 1  # an action for when the next one is late
        return max(1, n_chunk - spare - ahead), ahead

    def _work(self, ends: threading.Event) -> None:
        """Worker thread: newest window in, chunk and record out; frames encoded in between."""
        while True:
            with self._wake:
                while self._slot is None and self._ahead is None and not ends.is_set():
                    self._wake.wait()
                if ends.is_set():
                    return
                (slot, ahead), self._slot, self._ahead = (self._slot, self._ahead), None, None
            begun_ns, runner = time.time_ns(), self._versions.runner
            if runner is None:
                continue
            self._readiness.begin(time.monotonic())
            try:
                if slot is None:
                    runner.prepare(cast(Frame, ahead))
                    continue
                decided = runner.decide(slot.frames)
                if self.is_active and not ends.is_set():
                    self._publish(slot, begun_ns, decided, runner)
            except (Rl100Error, RuntimeError, ValueError) as error:  # torch raises these
                self._refuse(error)
                self._fail(runner)
            except Exception:  # whatever it is: said, with where, and the thread goes on
                self.get_logger().error(f"a decision failed\n{traceback.format_exc()}")
                self.note_failure()
                self._fail(runner)
            finally:
                self._readiness.end()

    def _fail(self, runner: PolicyRunner) -> None:
        """Give no sign of life until something was decided, which the next frame is for."""
        self._readiness.decide(failed=True)
        self._last_decision_ns = -1
        self._versions.failed(runner)

    def _publish(self, due: _Due, begun_ns: int, decided: Decided, who: PolicyRunner) -> None:
        decided_ns = time.time_ns()
        frames = due.frames
        frame_id, stamp = self._robot.base_frame, frames[-1].stamp_ns
        missed = decided.inference_s * 1e9 > self._period_ns
        chunk = Chunk(
            stamp,
            self._period_ns,
            self._task.action.space,
            self._task.action.names,
            decided.actions,
            decided.version,
            due.fresh,
            shadow=due.shadow,
        )
        self._chunks.publish(chunk_message(chunk, frame_id))
        n_chunk, d_a = decided.actions.shape
        record = DecisionRecord(
            header=header(stamp, frame_id), policy_version=decided.version, sampler=decided.sampler
        )
        record.observation_stamps = [time_message(frame.stamp_ns) for frame in frames]
        record.deterministic, record.noise_seed = decided.deterministic, decided.noise_seed
        record.n_chunk, record.d_a = n_chunk, d_a
        record.timesteps, record.sigmas = decided.timesteps, decided.sigmas
        record.latents, record.log_probs = decided.latents, decided.log_probs
        record.actions, record.value = decided.normalised, float("nan")
        record.inference_s, record.observation_age_s, record.deadline_missed = (
            decided.inference_s,
            due.age_s,
            missed,
        )
        self._records.publish(record)
        encoded_ns = begun_ns + round(decided.encode_s * 1e9)
        self._stages.tell(
            stamp,
            {
                Mark.POLICY_IN: due.complete_ns,
                Mark.BEGUN: begun_ns,
                Mark.ENCODED: encoded_ns,
                Mark.DECIDED: decided_ns,
            },
            version=decided.version,
        )
        self._inference_s.append(decided.inference_s)
        self._reaches_s.append(due.age_s + time.time_ns() * 1e-9 - due.complete_ns * 1e-9)
        self._decisions += 1
        self._faulted = False
        self._readiness.decide(failed=False)
        self._misses += missed
        useful_ns = max(1, due.fresh) * self._period_ns
        self._versions.decided(who, in_time=decided.inference_s * 1e9 <= useful_ns)
        self._versions.rehearsal = Rehearsal(
            frames, decided, self._low, self._high, self.parameters.largest_change
        )

    # Versions and status

    def _on_load(
        self, request: LoadPolicy.Request, response: LoadPolicy.Response
    ) -> LoadPolicy.Response | Future:
        """Begin to make it ready; the answer goes out when it drives or is refused."""
        sampler = request.sampler or self.parameters.sampler
        wanted, busy_with = (
            Wanted(request.path, sampler, request.stochastic),
            self._versions.wanted,
        )
        if busy_with is None:
            self._versions.begin(wanted)
        elif busy_with != wanted:
            response.policy_version = self._version
            response.message = f"{busy_with.path} is being loaded; ask again after it"
            return response
        answer = Future()
        self._asked.append(answer)
        return answer

    @property
    def _version(self) -> str:
        runner = self._versions.runner
        return runner.version if runner else ""

    def _made(self, wanted: Wanted) -> PolicyRunner:
        """Load a version; called on the staging thread, too.

        Raises:
            PolicyVersionError: If no decision of it would be executed; and what loading raises.
        """
        runner = PolicyRunner.load(
            Path(wanted.path),
            task=self._task,
            robot=self._robot,
            sampler=wanted.sampler,
            deterministic=self.parameters.deterministic and not wanted.stochastic,
            noise_seed=self.parameters.noise_seed,
        )
        if too_long := self._too_long(runner):
            raise PolicyVersionError(too_long)
        return runner

    def _too_long(self, runner: PolicyRunner) -> str:
        """That the gate, as far as it is known, executes no chunk of a version; or empty."""
        lasts_s = runner.n_chunk * self._robot.control_period
        if not self._longest_chunk_s or lasts_s <= self._longest_chunk_s + 1e-6:
            return ""
        return (
            f"{runner.n_chunk} actions last {lasts_s:.1f} s; at most {self._longest_chunk_s:.1f} "
            "s of one decision are executed (parameter longest_chunk of the command gate)"
        )

    def _look(self) -> None:
        """See what became of the versions."""
        for change in self._versions.look():
            self._take_change(change)
            if change.staged is not None:
                self._tell_asked(drives=change.drives, message=change.told)

    def _tell_asked(self, *, drives: bool, message: str) -> None:
        """Answer everybody who waits for a version."""
        asked, self._asked = self._asked, []
        for each in asked:
            each.set_result(
                LoadPolicy.Response(success=drives, policy_version=self._version, message=message)
            )

    def _take_change(self, change: Change) -> None:
        """Tell of a change; another version begins to count anew."""
        self._detail, self._faulted = change.told, not change.drives
        log = self.get_logger()
        if not change.drives:
            log.error(change.told)
            if change.staged is not None and change.staged.traceback:
                log.error(change.staged.traceback)
        elif change.staged is None:
            log.warning(change.told)
        else:
            log.info(change.told)
        if change.drives:
            self._inference_s.clear()
            self._reaches_s.clear()
            self._decisions = self._misses = 0
        self._publish_status()

    def _on_revert(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        try:
            change = self._versions.go_back("asked for")
        except LookupError as error:
            response.success, response.message = False, str(error)
            return response
        self._take_change(change)
        response.success, response.message = True, change.told
        return response

    def _on_episode(self, state: EpisodeState) -> None:
        if state.state == EpisodeState.RECORDING and self._in_command:
            self._versions.drives(state.episode_id)
        if state.state == EpisodeState.IDLE and state.outcome != EpisodeState.UNLABELLED:
            success = state.outcome == EpisodeState.SUCCESS
            self._versions.judged(state.episode_id, success=success)

    def _refuse(self, error: Exception) -> None:
        self._refused += 1
        self._detail, self._faulted = f"refused: {error}", True
        self.get_logger().warning(self._detail, throttle_duration_sec=2.0)

    def _publish_status(self) -> None:
        runner = self._versions.runner
        status = PolicyStatus(
            decisions=self._decisions,
            deadline_misses=self._misses,
            refused=self._refused + self._assembler.given_up,
        )
        status.header.stamp = self.get_clock().now().to_msg()
        status.state = self._state()
        status.policy_version, status.sampler = (
            (runner.version, runner.sampler) if runner else ("", "")
        )
        times = np.array(self._inference_s or [np.nan])
        status.inference_p50_s, status.inference_p99_s = (
            float(value) for value in np.percentile(times, [50, 99])
        )
        usual = float(np.percentile(self._reaches_s or [0.0], 100 * _USUAL))
        self._reach_s = usual + _TO_GATE_S
        status.decision_readers = readers_of(self, self._records)
        lacks = self._tell_ready()
        status.detail = "; ".join(filter(None, (self._detail, lacks and f"not ready: {lacks}")))
        self._status.publish(status)

    def _state(self) -> int:
        if self._faulted:
            return int(PolicyStatus.FAULT)
        if self._versions.runner is None:
            return int(PolicyStatus.NO_POLICY)
        return int(PolicyStatus.RUNNING if self._in_command else PolicyStatus.READY)

    def pause(self) -> None:
        """Decide nothing more; who waits for a version is told so."""
        with self._wake:
            self._slot = self._ahead = None
        self._versions.abandon("the policy node is not active any more")
        self._look()  # which is told to who waits for it

    def _stop_worker(self, ends: threading.Event) -> None:
        with self._wake:
            ends.set()
            self._wake.notify()
        self._worker.join(timeout=5.0)


def main(args: Sequence[str] | None = None) -> int:
    """Run the node."""
    sys.setswitchinterval(_SWITCH_S)
    load_libraries()
    return run_node(PolicyNode, args)


if __name__ == "__main__":
    sys.exit(main())
