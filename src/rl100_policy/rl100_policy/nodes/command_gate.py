# SPDX-License-Identifier: Apache-2.0
"""Command gate node: the only node that commands the arm.

In: ``joint_states`` JointState (SENSOR); of a person ``teleop/delta_twist_cmds`` TwistStamped or,
joint by joint, ``teleop/joint_cmds`` JointState with velocities and, where control_msgs is
installed, ``teleop/delta_joint_cmds`` JointJog (COMMAND); where the arm has a gripper
``teleop/gripper_cmds`` Float64 from 0, closed, to 1, open (COMMAND), passed on while the person is
in command; ``policy/action_chunk`` ActionChunk and ``policy/alive`` Header (COMMAND);
``operator/event`` OperatorEvent (EVENT, but none is dropped), of which the emergency stop. Out:
the robot's command topic, JointTrajectory (COMMAND), and the gripper's, Float64MultiArray;
``gate/command`` GateCommand (EVENT); ``gate/status`` GateStatus (LATCHED, on change and at 2 Hz);
``latency/stages`` StageTimes (EVENT); how often each limit bound, in ``/diagnostics``. Services:
``gate/set_command_source`` SetCommandSource, ``gate/estop`` and ``gate/release`` Trigger. One
callback group, single-threaded; no callback blocks.

Every control period is begun by a joint state; of a faster stream the nearest one is taken. In
real time it is answered at once with the action due at that time. Where the policy is in command
and its next decision is meant to be there but is not, the answer waits for it, and after
``patience`` goes on with the chunk before if that plans so far, or holds. In lockstep the answer
waits for the decision or twist however long; the simulated robot bounds the wait. Whatever is
malformed, stale, from the future or not finite is refused, counted, and holds the arm. Without a
believable joint state nothing is commanded, and the controller holds its last position. An arm
that is not where it was told to be holds while a source is in command, and is left alone while
none is. Whoever takes command from another source goes on from the last command and its velocity,
so a takeover is no jump; after a pause, a release or a push it begins where the arm is measured.
What the policy proposes is recorded whoever is in command.

What of this is decided without ROS is in :class:`rl100_policy.core.arbiter.Arbiter`; what the arm
is told keeps its limits by :class:`rl100_policy.core.command.CommandGate`.

Every command ends at rest: where one period is too short to stop in, it has further points in
which the arm brakes within its limits. So whatever ends this process, the last command it gave is
a hold. Where the controller is still on its way to commands before, they come first.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import TwistStamped
from numpy.typing import NDArray
from rclpy.clock import Clock, ClockType
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64, Float64MultiArray, Header
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from rl100_msgs.msg import ActionChunk, GateCommand, GateStatus, OperatorEvent
from rl100_msgs.srv import SetCommandSource
from rl100_policy.core import messages
from rl100_policy.core.arbiter import Answer, Arbiter, LeftAlone, Steering, Timeouts, Wait
from rl100_policy.core.command import CommandGate
from rl100_policy.core.config import load_robot, load_task
from rl100_policy.core.errors import ActionError, ObservationError
from rl100_policy.core.gate_result import CLIPPED, HELD, CommandSource, GateFlag
from rl100_policy.core.latency import Mark
from rl100_policy.core.relaxed import relaxed_limits
from rl100_policy.ros.conversions import (
    chunk_from_message,
    gate_command_message,
    trajectory_message,
    twist_components,
)
from rl100_policy.ros.diagnostics import diagnostic_status
from rl100_policy.ros.joint_jogs import subscribe_joint_jogs
from rl100_policy.ros.latch import StopLatch
from rl100_policy.ros.managed import ManagedNode
from rl100_policy.ros.parameters import parameter
from rl100_policy.ros.planning_scene import subscribe_planning_scene
from rl100_policy.ros.process import run_node
from rl100_policy.ros.qos import COMMAND, EVENT, EVERY_EVENT, LATCHED, due_every, sensor_input
from rl100_policy.ros.readers import readers_of
from rl100_policy.ros.scheduling import GATE
from rl100_policy.ros.stages import StageTeller
from rl100_policy.ros.teleop import GRIPPER_TOPIC

Floats = NDArray[np.float64]

_DEADLINE = 2.5
"""Control periods between two commands beyond which the diagnostics count a miss, real time only:
no joint states, or a gate that is late."""


@dataclass(frozen=True)
class GateParameters:
    """Parameters of the command gate node."""

    robot_config: str = parameter("", "path of the robot description (YAML)")
    task_config: str = parameter("", "path of the task description (YAML)")
    lockstep: bool = parameter(False, "wait for the action that carries the joint state's stamp")
    teleop_timeout: float = parameter(
        0.0,
        "a teleop command older than this, or this far in the future, is not used [s], real time "
        "only; 0: 1.2 control periods, .05 s at the least, so that a device as slow as the arm "
        "may be a little late, and one that falls silent stops it in about two",
        low=0.0,
        high=2.0,
    )
    joint_state_timeout: float = parameter(
        0.0,
        "a joint state older than this by the node's clock, or this far in the future, is not "
        "answered [s], real time only; 0: two control periods, .05 s at the least",
        low=0.0,
        high=1e10,
    )
    policy_timeout: float = parameter(
        0.0,
        "what the policy planned is not followed after so long without a sign of its life [s], "
        "real time only; 0: three quarters of a control period, .05 s at the least",
        low=0.0,
        high=10.0,
    )
    planning_scene: str = parameter(
        "",
        "topic of MoveIt's planning scene (moveit_msgs/PlanningScene, for example "
        "monitored_planning_scene), whose boxes, cylinders and spheres are kept clear of, too; "
        "empty: none",
    )
    longest_chunk: float = parameter(
        4.0,
        "a chunk that plans farther ahead than this is refused [s]: the longest the arm may act "
        "on one observation",
        low=0.01,
        high=60.0,
    )
    patience: float = parameter(
        0.5,
        "a period in which the policy's action is not there yet is answered this much later at "
        "most [control periods], real time only; then by the chunk before, or by a hold",
        low=0.0,
        high=0.9,
    )
    missing_frames: int = parameter(
        0,
        "observations in a row that may be missing while what the policy planned is followed, "
        "real time only; with 0 the arm rests as soon after the camera is lost as with a policy "
        "of single actions, and a lost frame costs a period",
        low=0,
        high=100,
    )
    blend: int = parameter(
        0,
        "control periods over which a newer chunk takes over from the one before, as far as both "
        "cover the time; 0: at once, as in training",
        low=0,
        high=64,
    )


class CommandGateNode(ManagedNode[GateParameters]):
    """Shell around an :class:`~rl100_policy.core.arbiter.Arbiter` and its gate."""

    usual_priority = GATE

    def __init__(self) -> None:
        """Read the parameters; from now on the emergency stop is listened to."""
        super().__init__("command_gate", GateParameters)
        self._latch = StopLatch(self)
        self._is_set_up = False
        self.keep(
            self.create_subscription(
                OperatorEvent, "operator/event", self._on_event, EVERY_EVENT, even_inactive=True
            ),
            self.create_service(Trigger, "gate/estop", self._on_estop, even_inactive=True),
            self.create_service(Trigger, "gate/release", self._on_release, even_inactive=True),
        )

    def set_up(self) -> None:
        """Read descriptions, subscribe, offer the services."""
        p = self.parameters
        self._robot, self._task = load_robot(p.robot_config), load_task(p.task_config)
        self._gate = CommandGate(self._robot, self._task)
        self._arbiter = Arbiter(
            self._gate,
            self._task.action,
            self._robot.control_period,
            Timeouts(
                lockstep=p.lockstep,
                teleop_s=p.teleop_timeout,
                joint_state_s=p.joint_state_timeout,
                policy_s=p.policy_timeout,
                longest_chunk_s=p.longest_chunk,
                patience=p.patience,
                missing_frames=p.missing_frames,
                blend=p.blend,
            ),
            estop=self._latch.is_set(),
        )
        relaxed = relaxed_limits(
            self._robot, self._task, self._gate.collision, self._gate.kinematics
        )
        for told in (*relaxed, *self._arbiter.relaxed_timeouts()):
            self.get_logger().warning(f"limit relaxed: {told}")
        self._told: tuple[object, ...] = ()
        """Of the arbiter, as published."""
        self._received: dict[int, int] = {}
        """Wall time [ns] at which decisions came that nothing was commanded of yet, by stamp."""
        self._counts = {"periods": 0, "clipped": 0, "held": 0, "malformed": 0}
        self._by_flag: Counter[str] = Counter()
        """Periods in which each limit bound, or each reason to hold was there."""
        self._reason, self._lag_s = "", 0.0
        if self._arbiter.estop:
            self._reason = "the emergency stop was latched when this node ended: it still is"
            self.get_logger().warning(self._reason)
        self._advertise()
        self._listen()
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(0.5, self._watch, clock=steady)
        self._patience = self.create_timer(
            max(self._arbiter.patience_s, 1e-3), self._lose_patience, clock=steady, autostart=False
        )
        self._is_set_up = True
        self.at_end(self._forget_set_up)
        self._publish_status()

    def _forget_set_up(self) -> None:
        self._is_set_up = False

    def _advertise(self) -> None:
        """Offer commands, records and services."""
        in_time = due_every(COMMAND, _DEADLINE * self._robot.control_period)
        self._commands = self.create_publisher(
            JointTrajectory,
            self._robot.command_topic,
            COMMAND if self.parameters.lockstep else in_time,
        )
        if self._robot.gripper is not None:
            self._gripper = self.create_publisher(
                Float64MultiArray, self._robot.gripper.command_topic, COMMAND
            )
        self._records = self.create_publisher(GateCommand, "gate/command", EVENT)
        self._stages = StageTeller(self)
        self._status = self.create_publisher(GateStatus, "gate/status", LATCHED)
        self.create_service(SetCommandSource, "gate/set_command_source", self._on_set_source)

    def _listen(self) -> None:
        """Subscribe to the arm, the person, the policy, and what is around."""
        inputs = sensor_input(lockstep=self.parameters.lockstep)
        self.create_subscription(JointState, "joint_states", self._on_joint_state, inputs)
        self.create_subscription(TwistStamped, "teleop/delta_twist_cmds", self._on_twist, COMMAND)
        subscribe_joint_jogs(self, self._robot.joints, self._on_jog, self._refuse)
        if self._robot.gripper is not None:
            self.create_subscription(Float64, GRIPPER_TOPIC, self._on_gripper, COMMAND)
        self.create_subscription(ActionChunk, "policy/action_chunk", self._on_chunk, COMMAND)
        self.create_subscription(Header, "policy/alive", self._on_alive, COMMAND)
        if self.parameters.planning_scene:
            subscribe_planning_scene(
                self,
                self.parameters.planning_scene,
                self._robot.base_frame,
                self._gate.surround,
            )

    def pause(self) -> None:
        """Nobody is in command; the emergency stop is still listened to, and stays latched."""
        self._patience.cancel()
        self._arbiter.pause()
        self._publish_status()

    # Inputs

    def _on_joint_state(self, message: JointState) -> None:
        received_s = time.perf_counter()
        try:
            q = messages.joint_positions(message, self._robot.joints)
            if q is None:
                return
            stamp = messages.stamp_ns(message.header.stamp)
            now_ns = self.get_clock().now().nanoseconds
            begins = self._arbiter.begins_period(stamp, q, now_ns, received_s)
        except ObservationError as error:
            self._refuse(str(error))
            return
        finally:
            self._tell_notices()
        if begins:
            self._answer(at_last=True)  # the period before, if it waits still
            self._arbiter.await_answer(stamp, q, received_s)
            self._answer()
        elif self._arbiter.is_out_of_patience(time.perf_counter()):
            self._answer(at_last=True)

    def _on_twist(self, message: TwistStamped) -> None:
        twist = twist_components(message)
        if message.header.frame_id not in ("", self._robot.base_frame):
            self._refuse(
                f"teleop command in frame {message.header.frame_id!r}, "
                f"expected {self._robot.base_frame!r}"
            )
            return
        self._ask(messages.stamp_ns(message.header.stamp), twist, self._gate.steer)

    def _on_jog(self, stamp_ns: int, velocities: Floats) -> None:
        self._ask(stamp_ns, velocities, self._gate.jog)

    def _ask(self, stamp_ns: int, asked: Floats, how: Steering) -> None:
        try:
            self._arbiter.ask(stamp_ns, asked, how, self.get_clock().now().nanoseconds)
        except ActionError as error:
            self._refuse(str(error))
            return
        self._answer()

    def _on_gripper(self, message: Float64) -> None:
        assert self._robot.gripper is not None, "only subscribed to if there is one"
        if not 0.0 <= message.data <= 1.0:
            self._refuse(f"gripper opening {message.data}, expected 0 (closed) to 1 (open)")
        elif self._arbiter.source is not CommandSource.TELEOP or self._arbiter.estop:
            self._refuse("gripper command while the person is not in command")
        else:
            fingers = self._robot.gripper.at(message.data)
            self._gripper.publish(Float64MultiArray(data=fingers))

    def _on_event(self, event: OperatorEvent) -> None:
        """Whichever node is alive or dead besides, a pressed emergency stop stops the arm."""
        if event.kind == OperatorEvent.ESTOP:
            self._stop(event.source or "operator/event")

    def _on_chunk(self, message: ActionChunk) -> None:
        try:
            if message.header.frame_id != self._robot.base_frame:
                raise ActionError(
                    f"chunk in frame {message.header.frame_id!r}, "
                    f"expected {self._robot.base_frame!r}"
                )
            chunk = chunk_from_message(message)
            self._arbiter.decide(chunk, self.get_clock().now().nanoseconds, time.perf_counter())
            newest = list(self._received.items())[-1:]  # as many as the schedule keeps
            self._received = {**dict(newest), chunk.stamp_ns: time.time_ns()}
        except ActionError as error:
            self._refuse(str(error))
            return
        self._answer()

    def _on_alive(self, message: Header) -> None:
        saw_ns, now_ns = messages.stamp_ns(message.stamp), self.get_clock().now().nanoseconds
        try:
            self._arbiter.hear_policy(saw_ns, now_ns, time.perf_counter())
        except ActionError as error:
            self._refuse(str(error))
            return
        self._answer()

    # The control period

    def _lose_patience(self) -> None:
        """The action of this period comes too late."""
        self._patience.cancel()
        if not self.parameters.lockstep:
            self._answer(at_last=True)

    def _answer(self, *, at_last: bool = False) -> None:
        """Command what the arbiter answers."""
        try:
            answer = self._arbiter.answer(time.perf_counter(), at_last=at_last)
        except ObservationError as error:
            self._refuse(str(error))
            answer = None
        if isinstance(answer, Wait):
            if answer.patience_begins:
                self._patience.reset()
            return
        self._patience.cancel()
        if isinstance(answer, LeftAlone):
            self._reason = answer.reason
        elif answer is not None:
            self._publish(answer)
        self._tell_notices()
        if self._told != self._state:
            self._publish_status()

    @property
    def _state(self) -> tuple[object, ...]:
        return (self._arbiter.source, self._arbiter.estop, self._arbiter.at_home)

    def _tell_notices(self) -> None:
        while self._arbiter.notices:
            self._reason = self._arbiter.notices.pop(0)
            self.get_logger().warning(self._reason)

    def _publish(self, answer: Answer) -> None:
        stamp, proposal, result = answer.stamp_ns, answer.proposal, answer.result
        command = trajectory_message(
            self._robot.joints, answer.way.places, answer.way.times_ns, stamp
        )
        commanded_ns = time.time_ns()  # before: it may arrive before publishing returns
        self._commands.publish(command)
        if proposal is not None and answer.source is CommandSource.POLICY:
            self._tell_of_first_use(proposal.chunk.stamp_ns, stamp, commanded_ns)
        record = gate_command_message(
            result,
            proposal,
            answer.source,
            self._task.action,
            self._robot,
            stamp_ns=stamp,
            latency_s=time.perf_counter() - answer.arrived_s,
        )
        self._records.publish(record)
        self._lag_s = (answer.way.end_ns - stamp) * 1e-9 - self._robot.control_period
        self._counts["periods"] += 1
        self._by_flag.update(flag.name or "" for flag in GateFlag if flag and flag & result.flags)
        self._counts["clipped"] += bool(result.flags & CLIPPED)
        still_hand = answer.source is CommandSource.TELEOP and result.flags == GateFlag.HELD_STALE
        if result.flags & HELD and not still_hand:
            self._counts["held"] += answer.source is not CommandSource.HOLD
            why = str(result.flags.name)
            if answer.why_held and GateFlag.HELD_STALE in result.flags:
                why += f", {answer.why_held}"
            self._reason = f"held: {why}"
            self.get_logger().warning(f"arm holds: {why}", throttle_duration_sec=2.0)

    def _tell_of_first_use(self, decision_ns: int, command_ns: int, commanded_ns: int) -> None:
        """Tell when the first command that comes of a decision was given."""
        received_ns = self._received.pop(decision_ns, None)
        if received_ns is not None:
            marks = {Mark.GATE_IN: received_ns, Mark.COMMANDED: commanded_ns}
            self._stages.tell(decision_ns, marks, command_ns=command_ns)

    def _refuse(self, reason: str) -> None:
        self._counts["malformed"] += 1
        self._reason = f"refused: {reason}"
        self.get_logger().warning(self._reason, throttle_duration_sec=2.0)

    # Services and status

    def _on_set_source(
        self, request: SetCommandSource.Request, response: SetCommandSource.Response
    ) -> SetCommandSource.Response:
        try:
            source = CommandSource(request.source)
        except ValueError:
            response.success, response.message = (
                False,
                f"no command source {request.source}; 0 hold, 1 teleop, 2 policy, 3 home",
            )
            return response
        problem = self._other_commanders()
        try:
            if source is not CommandSource.HOLD and problem and not self._arbiter.estop:
                raise ActionError(problem)
            self._arbiter.take(source, time.perf_counter())
        except ActionError as error:
            response.success, response.message = False, str(error)
            return response
        self._publish_status()
        response.success, response.message = True, f"{source.name.lower()} is in command"
        self._answer()
        return response

    def _other_commanders(self) -> str:
        """Who else commands the arm, for people; empty if nobody does."""
        others = self.count_publishers(self._robot.command_topic) - 1
        if others <= 0:
            return ""
        return (
            f"{others} other publishers command {self._robot.command_topic!r}; stop them first, "
            "or give this graph a ROS_DOMAIN_ID of its own"
        )

    def _watch(self) -> None:
        """Twice a second: give up the command if somebody else commands the arm too."""
        if self._arbiter.estop:
            self._latch.set()  # whoever started another graph may have taken the mark away
        problem = self._other_commanders()
        if problem and self._arbiter.source is not CommandSource.HOLD:
            self._arbiter.give_up(problem)
        self._tell_notices()
        self._publish_status()
        self._report()

    def _report(self) -> None:
        """Tell ``/diagnostics`` how often each limit bound and each reason to hold was there."""
        message = f"{self._arbiter.source.name.lower()} is in command"
        if self._arbiter.estop:
            message = "the emergency stop is latched"
        values = {flag.name: self._by_flag[flag.name or ""] for flag in GateFlag if flag}
        lag = f"{self._lag_s * 1e3:.0f}"
        counts = {"refused": self._counts["malformed"], **values}
        figures = {"last reason": self._reason, "lag of the newest command [ms]": lag, **counts}
        status = diagnostic_status(
            "rl100: command_gate: limits", self._robot.name, message,
            {str(key): value for key, value in figures.items()},
            level=DiagnosticStatus.WARN if self._arbiter.estop else DiagnosticStatus.OK,
        )  # fmt: skip
        self.diagnose([status])

    def _on_estop(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._stop("gate/estop")
        response.success, response.message = (
            True,
            "emergency stop latched: call gate/release to go on",
        )
        return response

    def _stop(self, by: str) -> None:
        """Latch the stop, in whatever state this node is; what is set up later finds the mark."""
        self.get_logger().warning(f"emergency stop, by {by}")
        if self._is_set_up:
            self._arbiter.stop()
            self._answer()
        self._latch.set()
        if self._is_set_up:
            self._publish_status()

    def _on_release(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self.get_logger().warning("the emergency stop is released: nobody is in command")
        self._latch.clear()
        if self._is_set_up:
            self._arbiter.release()
            self._publish_status()
        response.success, response.message = True, "released: nobody is in command"
        return response

    def _publish_status(self) -> None:
        self._told = self._state
        status = GateStatus(
            source=int(self._arbiter.source),
            taken=self._arbiter.taken,
            estop=self._arbiter.estop,
            at_home=self._arbiter.at_home,
            patience_s=self._arbiter.patience_s,
            longest_chunk_s=self.parameters.longest_chunk,
            command_readers=readers_of(self, self._records),
            last_reason=self._reason,
            **self._counts,
        )
        status.header.stamp = self.get_clock().now().to_msg()
        self._status.publish(status)


def main(args: Sequence[str] | None = None) -> int:
    """Run the node."""
    return run_node(CommandGateNode, args, images=False)


if __name__ == "__main__":
    sys.exit(main())
