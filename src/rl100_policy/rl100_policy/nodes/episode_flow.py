# SPDX-License-Identifier: Apache-2.0
"""Episode flow node: turns presses of a person into episodes, whatever is pressed.

In: ``operator/event`` OperatorEvent (EVENT) of keyboards, joysticks and this node's services;
``gate/status`` GateStatus, ``episode/state`` EpisodeState, ``policy/status`` PolicyStatus
(LATCHED); ``gate/command`` GateCommand (EVENT), for who commanded. Out: ``operator/state``
OperatorState (LATCHED, on change and at 2 Hz), ``feedback`` HumanFeedback (EVENT). Services:
``operator/<press>`` Trigger, one for every press, which only publish an OperatorEvent. Asks
``gate/set_command_source``, ``gate/estop``, ``gate/release``, ``episode/check``,
``episode/start``, ``episode/stop``, ``episode/discard`` and, where something other than the person
lays out the scene, ``scene_service``. One callback group, single-threaded; no callback blocks.

What to do is decided by :mod:`rl100_policy.core.episode_flow`. A judgement carries the time of the
press and the reaction delay that the learner takes off.

Failure policy: a control that is not there or refuses is said, and nobody is put in command. A
recorder or command gate that is not heard of for two seconds ends the episode; the arm holds.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from rclpy.clock import Clock, ClockType
from std_srvs.srv import Trigger

from rl100_msgs.msg import (
    EpisodeState,
    GateCommand,
    GateStatus,
    HumanFeedback,
    OperatorEvent,
    OperatorState,
    PolicyStatus,
)
from rl100_msgs.srv import (
    CheckRecording,
    DiscardEpisode,
    ResetSim,
    SetCommandSource,
    StartEpisode,
    StopEpisode,
)
from rl100_policy.core import flow_events as told
from rl100_policy.core import messages
from rl100_policy.core.config import load_robot, load_task
from rl100_policy.core.episode_flow import step
from rl100_policy.core.errors import ConfigError, Rl100Error
from rl100_policy.core.flow import Flow, FlowSettings, State
from rl100_policy.core.gate_result import CommandSource
from rl100_policy.core.interventions import Interventions
from rl100_policy.core.presses import MEANING, Press
from rl100_policy.ros.control import Control
from rl100_policy.ros.conversions import header, time_message
from rl100_policy.ros.managed import ManagedNode
from rl100_policy.ros.parameters import parameter
from rl100_policy.ros.process import run_node
from rl100_policy.ros.qos import EVENT, LATCHED

_TICK_S = 0.1
_STATE_PERIOD_S = 0.5
_APART_NS = 1_000_000_000
"""A press that is stamped farther from the clock than this has another clock."""
_HEARTBEAT_S = 2.0
"""Gate and recorder tell their state twice a second; longer silence is the end of them [s]."""


@dataclass(frozen=True)
class FlowParameters:
    """Parameters of the episode flow node."""

    robot_config: str = parameter("", "path of the robot description (YAML)")
    task_config: str = parameter("", "path of the task description (YAML)")
    driver: str = parameter("person", "person (demonstrates) or policy (acts, may be taken over)")
    operator: str = parameter("", "name of the person, for the metadata of the episodes")
    episodes: int = parameter(0, "episodes to collect; 0: no end", low=0, high=100000)
    reaction_delay: float = parameter(
        0.3,
        "how long before a press the person saw what they judge [s]; the learner takes it off",
        low=0.0,
        high=5.0,
    )
    reset: str = parameter("home", "home (the gate takes the arm home) or person")
    scene_service: str = parameter(
        "", "service that lays out the scene (rl100_msgs/ResetSim); empty: the person does"
    )
    first_seed: int = parameter(0, "seed of the first scene", low=0, high=2**31)
    confirm: bool = parameter(True, "the person confirms every scene before the recorder is armed")
    go_on: bool = parameter(False, "the arm goes home by itself some seconds after a judgement")
    episode_limit: float = parameter(
        0.0, "longest episode [s]; 0: the time limit of the task", low=0.0, high=86400.0
    )
    reset_limit: float = parameter(60.0, "longest way home [s]", low=1.0, high=600.0)
    armed_limit: float = parameter(
        120.0, "longest time between confirming and starting [s]", low=1.0, high=3600.0
    )
    review: float = parameter(
        3.0,
        "time to change a judgement before the arm goes home by itself [s]",
        low=0.0,
        high=60.0,
    )


_PAUSES = (State.IDLE, State.SCENE, State.REVIEW, State.STOPPED, State.OVER)
"""States in which nobody waits for this node and nobody is in command."""


class EpisodeFlowNode(ManagedNode[FlowParameters]):
    """Shell around :func:`rl100_policy.core.episode_flow.step`."""

    def __init__(self) -> None:
        """Read the parameters."""
        super().__init__("episode_flow", FlowParameters)

    def set_up(self) -> None:
        """Find the controls, offer the services."""
        p = self.parameters
        robot, self._task = load_robot(p.robot_config), load_task(p.task_config)
        self._settings = _settings(p, self._task.time_limit)
        self._period_s = robot.control_period
        self._flow = Flow()
        self._counts, self._before = Interventions(), Interventions()
        """Of the running or last episode, and of all before it together."""
        self._gate: GateStatus | None = None
        self._policy, self._episode = PolicyStatus(), EpisodeState()
        self._heard = {"command gate": 0.0, "recorder": 0.0}
        self._last = OperatorEvent()
        self._next_state_s = 0.0
        self._changed = self.get_clock().now()
        self._events = self.create_publisher(OperatorEvent, "operator/event", EVENT)
        self._feedback = self.create_publisher(HumanFeedback, "feedback", EVENT)
        self._state = self.create_publisher(OperatorState, "operator/state", LATCHED)
        self._source = Control(self, SetCommandSource, "gate/set_command_source")
        self._estop = Control(self, Trigger, "gate/estop")
        self._release = Control(self, Trigger, "gate/release")
        self._check = Control(self, CheckRecording, "episode/check")
        self._start = Control(self, StartEpisode, "episode/start")
        self._stop = Control(self, StopEpisode, "episode/stop")
        self._discard = Control(self, DiscardEpisode, "episode/discard")
        if p.scene_service:
            self._scene = Control(self, ResetSim, p.scene_service)
        self.create_subscription(OperatorEvent, "operator/event", self._on_event, EVENT)
        self.create_subscription(GateStatus, "gate/status", self._on_gate, LATCHED)
        self.create_subscription(GateCommand, "gate/command", self._on_command, EVENT)
        self.create_subscription(EpisodeState, "episode/state", self._on_episode, LATCHED)
        self.create_subscription(PolicyStatus, "policy/status", self._on_policy, LATCHED)
        for press in Press:
            name = f"operator/{press.name.lower()}"
            self.create_service(Trigger, name, partial(self._on_service, press))
        self.create_timer(_TICK_S, self._tick, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._publish()

    def pause(self) -> None:
        """Refused in the middle of an episode, or while the arm goes home."""
        if self._flow.state not in _PAUSES:
            raise Rl100Error(
                f"an episode is {self._flow.state.name.lower()}: end the session first "
                "(operator/quit), or wait until it is in review"
            )

    # What happens

    def _tell(self, event: told.Event) -> None:
        """Take one step and carry out what it asks for."""
        if not self.is_active:
            return  # what others say meanwhile is looked at again when it goes on
        before = self._flow
        self._flow, requests = step(before, event, time.monotonic(), self._settings)
        if self._flow.episode_id != before.episode_id:
            self._begin_counting()
        for request in requests:
            self._carry_out(request)
        if self._flow != before:
            self._publish()

    def _on_service(
        self, press: Press, _: Trigger.Request, response: Trigger.Response
    ) -> Trigger.Response:
        event = OperatorEvent(kind=int(press), source="service")
        event.header.stamp = self.get_clock().now().to_msg()
        self._events.publish(event)
        response.success, response.message = True, f"pressed: {MEANING[press]}"
        return response

    def _on_event(self, event: OperatorEvent) -> None:
        try:
            press = Press(event.kind)
        except ValueError:
            self.get_logger().warning(
                f"operator/event of kind {event.kind}, expected 1 to {max(Press)}; ignored"
            )
            return
        stamp_ns = self._believable(event)
        event.header.stamp = time_message(stamp_ns)
        self._last = event
        self._tell(told.Pressed(press, stamp_ns))
        self._publish()

    def _believable(self, event: OperatorEvent) -> int:
        """Time of a press [ns]: its stamp, unless that is of another clock; never before the last.

        What is judged, undone and judged anew counts in the order of stamps, so presses of two
        devices have to be on one clock and in the order in which they came.
        """
        now_ns, stamp_ns = (
            self.get_clock().now().nanoseconds,
            messages.stamp_ns(event.header.stamp),
        )
        if stamp_ns and abs(stamp_ns - now_ns) > _APART_NS:
            self.get_logger().warning(
                f"a press by {event.source} is stamped {(stamp_ns - now_ns) / 1e9:+.1f} s from "
                "this node's clock; the time of its arrival is used. Give the device's node the "
                "same clock (use_sim_time), or synchronise the machines",
                throttle_duration_sec=10.0,
            )
            stamp_ns = 0
        last_ns = messages.stamp_ns(self._last.header.stamp)
        stamp_ns = min(stamp_ns or now_ns, now_ns)
        return max(stamp_ns, last_ns + 1) if last_ns <= now_ns else stamp_ns

    def _on_gate(self, status: GateStatus) -> None:
        self._heard["command gate"] = time.monotonic()
        was, self._gate = self._gate, status
        if status.estop != (was is not None and was.estop):
            self._tell(told.Stopped(status.estop))
        driving = int(self._flow.driving)
        if status.at_home and status.source == CommandSource.HOME and not status.estop:
            self._tell(told.AtHome())
        elif was is not None and was.source == driving != status.source == CommandSource.HOLD:
            self._tell(told.NotInCommand(status.last_reason))  # the gate took it away

    def _on_command(self, command: GateCommand) -> None:
        if self._flow.state is State.RECORDING:
            self._counts.observe(CommandSource(command.source))

    def _on_episode(self, state: EpisodeState) -> None:
        self._heard["recorder"] = time.monotonic()
        was, self._episode = self._episode, state
        flow = self._flow
        ours = state.episode_id == flow.episode_id
        if ours:
            self._tell(told.Judged(state.episode_id, state.outcome))
        idle = state.state == EpisodeState.IDLE
        if flow.state is State.RECORDING and idle and (ours or was.episode_id == flow.episode_id):
            reason = state.reason if ours else "the recorder was started anew"
            self._tell(told.Ended(flow.episode_id, kept=False, degraded=True, message=reason))

    def _on_policy(self, status: PolicyStatus) -> None:
        self._policy = status

    def _tick(self) -> None:
        now_s = time.monotonic()
        self._tell(told.Tick())
        if self._flow.state is State.RECORDING:
            self._notice_silence(now_s)
        if now_s >= self._next_state_s:
            self._publish()

    def _notice_silence(self, now_s: float) -> None:
        for who, heard_s in self._heard.items():
            if now_s - heard_s > _HEARTBEAT_S:
                self._tell(told.NotInCommand(f"the {who} is gone"))
                return

    # What is asked of others

    def _carry_out(self, request: told.Request) -> None:
        match request:
            case told.GiveCommand(source):
                self._give(source)
            case told.CheckRecording():
                self._ask_what_is_missing()
            case told.StartRecording():
                self._start_recording()
            case told.StopRecording(end_ns):
                self._stop_recording(end_ns)
            case told.Judge(press, stamp_ns, episode_id):
                self._judge(press, stamp_ns, episode_id)
            case told.Discard(episode_id, restore):
                self._move(episode_id, restore=restore)
            case told.SetScene():
                self._set_scene()
            case told.LatchStop():
                self._estop.ask(Trigger.Request(), _ignore, self._refused)
            case told.ReleaseStop():
                self._release.ask(Trigger.Request(), _ignore, self._refused)

    def _refused(self, reason: str) -> None:
        self._tell(told.Refused(reason))

    def _give(self, source: CommandSource) -> None:
        def on_absent(reason: str) -> None:
            if source is not CommandSource.HOLD:
                self._tell(told.NotInCommand(reason))

        def on_answer(response: Any) -> None:
            if not response.success:
                on_absent(response.message)

        self._source.ask(SetCommandSource.Request(source=int(source)), on_answer, on_absent)

    @property
    def _version(self) -> str:
        return self._policy.policy_version if self._settings.policy_drives else ""

    def _ask_what_is_missing(self) -> None:
        ours = [] if self._version or not self._settings.policy_drives else [_NO_POLICY]
        if self._gate is None:
            ours.append("the command gate is not there; start it")
        self._check.ask(
            CheckRecording.Request(policy_version=self._version),
            lambda answer: self._tell(told.Checked((*ours, *answer.problems))),
            lambda reason: self._tell(told.Checked((*ours, reason))),
        )

    def _start_recording(self) -> None:
        request = StartEpisode.Request(
            task=self._task.name,
            operator_name=self.parameters.operator,
            policy_version=self._version,
            tag_keys=["driver"],
            tag_values=[self.parameters.driver],
        )

        def on_answer(answer: Any) -> None:
            self._tell(
                told.Started(answer.episode_id)
                if answer.success
                else told.NotStarted(answer.message)
            )

        self._start.ask(request, on_answer, lambda reason: self._tell(told.NotStarted(reason)))

    def _stop_recording(self, end_ns: int) -> None:
        episode_id = self._flow.episode_id

        def on_answer(answer: Any) -> None:
            if not answer.success:
                on_absent(answer.message)
                return
            self._tell(told.Judged(answer.episode_id, answer.outcome))
            self._tell(told.Ended(answer.episode_id, True, answer.degraded, answer.message))

        def on_absent(reason: str) -> None:
            self._tell(told.Ended(episode_id, kept=False, degraded=True, message=reason))

        self._stop.ask(StopEpisode.Request(end_stamp=time_message(end_ns)), on_answer, on_absent)

    def _judge(self, press: Press, stamp_ns: int, episode_id: str) -> None:
        kinds = {Press.SUCCESS: HumanFeedback.SUCCESS, Press.FAILURE: HumanFeedback.FAILURE}
        self._feedback.publish(
            HumanFeedback(
                header=header(stamp_ns),
                episode_id=episode_id,
                kind=kinds.get(press, HumanFeedback.UNDO),
                reward=1.0 if press is Press.SUCCESS else 0.0,
                reaction_delay=self.parameters.reaction_delay,
                source=self._last.source,
            )
        )

    def _move(self, episode_id: str, *, restore: bool) -> None:
        def on_answer(answer: Any) -> None:
            if answer.success:
                self._tell(told.Moved(answer.episode_id, discarded=not restore))
            else:
                self._refused(answer.message)

        request = DiscardEpisode.Request(episode_id=episode_id, restore=restore)
        self._discard.ask(request, on_answer, self._refused)

    def _set_scene(self) -> None:
        seed = self.parameters.first_seed + len(self._flow.episodes)
        self._scene.ask(
            ResetSim.Request(seed=seed),
            lambda answer: self._tell(told.SceneSet("" if answer.success else answer.message)),
            lambda reason: self._tell(told.SceneSet(reason)),
        )

    # What is told

    def _begin_counting(self) -> None:
        self._before, self._counts = self._before + self._counts, Interventions()

    def _publish(self) -> None:
        flow, now_s = self._flow, time.monotonic()
        self._next_state_s = now_s + _STATE_PERIOD_S
        counts = self._counts
        state = OperatorState(
            state=int(flow.state),
            driver=self.parameters.driver,
            taken_over=flow.taken_over,
            episode_id=flow.episode_id,
            outcome=flow.last.outcome,
            discarded=flow.last.discarded,
            degraded=flow.last.degraded,
            successes=flow.count(EpisodeState.SUCCESS),
            failures=flow.count(EpisodeState.FAILURE),
            unlabelled=flow.count(EpisodeState.UNLABELLED),
            trashed=flow.trashed,
            wanted=self._settings.wanted,
            interventions=counts.count,
            intervention_share=counts.share,
            intervention_mean_s=counts.mean_s(self._period_s),
            session_intervention_share=(self._before + counts).share,
            last_event=self._last.kind,
            last_source=self._last.source,
            last_stamp=self._last.header.stamp,
            seconds_left=flow.seconds_left(self._settings, now_s),
            message=flow.message,
        )
        state.header.stamp = self.get_clock().now().to_msg()
        self._state.publish(state)


_NO_POLICY = (
    "no policy version is loaded (yet); wait, call policy/load, or start the graph with policy:="
)


def _ignore(_: Any) -> None:
    """An answer that says nothing new: what came of it is in the gate's status."""


def _settings(p: FlowParameters, time_limit_s: float) -> FlowSettings:
    for name, value, choices in (
        ("driver", p.driver, ("person", "policy")),
        ("reset", p.reset, ("home", "person")),
    ):
        if value not in choices:
            raise ConfigError(f"parameter {name!r} must be one of {list(choices)}, got {value!r}")
    return FlowSettings(
        policy_drives=p.driver == "policy",
        goes_home=p.reset == "home",
        sets_scene=bool(p.scene_service),
        confirms=p.confirm,
        goes_on=p.go_on,
        wanted=p.episodes,
        episode_s=p.episode_limit or time_limit_s,
        reset_s=p.reset_limit,
        armed_s=p.armed_limit,
        review_s=p.review,
    )


def main(args: Sequence[str] | None = None) -> int:
    """Run the node."""
    return run_node(EpisodeFlowNode, args, images=False)


if __name__ == "__main__":
    sys.exit(main())
