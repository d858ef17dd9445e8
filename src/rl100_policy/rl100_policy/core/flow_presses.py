# SPDX-License-Identifier: Apache-2.0
"""What each press of a person does in each state of an episode flow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from rl100_policy.core.flow import Flow, FlowSettings, State, Step, say
from rl100_policy.core.flow_events import (
    Discard,
    GiveCommand,
    Judge,
    LatchStop,
    ReleaseStop,
    SetScene,
    StartRecording,
)
from rl100_policy.core.flow_steps import HOLD, check, end, go_home, over, stopped
from rl100_policy.core.gate_result import CommandSource
from rl100_policy.core.presses import Press

_STOPPED = "emergency stop: l releases it"


@dataclass(frozen=True)
class PressedIn:
    """A press, with the flow it comes in; one method for each press."""

    flow: Flow
    stamp_ns: int
    """When it was pressed, ROS time."""
    settings: FlowSettings

    def _say(self, message: str) -> Step:
        return say(self.flow, message)

    @property
    def _wait(self) -> str:
        return f"{self.flow.state.name.lower()}: wait"

    def next(self) -> Step:
        """Go on."""
        flow = self.flow
        match flow.state:
            case State.IDLE | State.REVIEW:
                return go_home(flow, self.settings)
            case State.SCENE if self.settings.sets_scene and not flow.scene_set:
                return replace(flow, message="laying out the scene anew"), (SetScene(),)
            case State.SCENE:
                return check(flow)
            case State.ARMED:
                asked = replace(
                    flow, state=State.STARTING, driving=CommandSource.HOLD, message="starting"
                )
                return asked, (HOLD, StartRecording())
            case State.RECORDING:
                return self._say("an episode is running: s success, f failure, e end, d discard")
            case State.STOPPED:
                return self._say(_STOPPED)
        return self._say(self._wait)

    def success(self) -> Step:
        """The task is done."""
        return self._judged(Press.SUCCESS)

    def failure(self) -> Step:
        """The task has failed."""
        return self._judged(Press.FAILURE)

    def _judged(self, press: Press) -> Step:
        flow, said = self.flow, press.name.lower()
        judge = Judge(press, self.stamp_ns, flow.episode_id)
        if flow.state is State.RECORDING:
            after, requests = end(flow, self.stamp_ns, f"{said}: closing the episode")
            return after, (judge, *requests)
        if flow.state in (State.ENDING, State.REVIEW):
            return replace(flow, message=f"{said} noted"), (judge,)
        return self._say(
            f"{said} refused: no episode is running or in review; u takes the last judgement "
            "back, `./rl100 relabel` gives another"
        )

    def stop(self) -> Step:
        """End the episode without a judgement."""
        if self.flow.state is State.RECORDING:
            return end(self.flow, self.stamp_ns, "closing the episode")
        return self._say("nothing to end: no episode is running")

    def discard(self) -> Step:
        """The episode goes to the trash."""
        flow = self.flow
        if flow.state is State.RECORDING:
            after, requests = end(flow, self.stamp_ns, "closing the episode, to discard it")
            return replace(after, then=Press.DISCARD), requests
        if flow.state is State.ENDING:
            return say(replace(flow, then=Press.DISCARD), "it will be discarded")
        if flow.state is State.STARTING or not flow.episode_id:
            return self._say("nothing to discard: there is no episode yet")
        if flow.last.discarded:
            return self._say(f"{flow.episode_id} is in the trash already; u takes it back")
        return flow, (Discard(flow.episode_id, restore=False),)

    def undo(self) -> Step:
        """Take back the discarding or the newest judgement."""
        flow = self.flow
        if flow.state is State.ENDING and flow.then is Press.DISCARD:
            return say(replace(flow, then=None), "it will be kept")
        if flow.state is State.STARTING or not flow.episode_id:
            return self._say("nothing to take back: there is no episode yet")
        if flow.last.discarded:
            return flow, (Discard(flow.episode_id, restore=True),)
        taken_back = replace(flow, message="judgement taken back")
        return taken_back, (Judge(Press.UNDO, self.stamp_ns, flow.episode_id),)

    def reset(self) -> Step:
        """Take the arm home, whatever is going on."""
        flow = self.flow
        match flow.state:
            case State.RECORDING:
                after, requests = end(flow, self.stamp_ns, "closing the episode, then home")
                return replace(after, then=Press.RESET), requests
            case State.ENDING:
                waits = replace(flow, then=Press.RESET)
                return say(waits, "home as soon as the episode is closed")
            case State.STARTING:
                return self._say(self._wait)
            case State.STOPPED:
                return self._say(_STOPPED)
        return go_home(flow, self.settings)

    def take_over(self) -> Step:
        """The person has command from now on: in a policy's episode, or to drive freely."""
        flow = self.flow
        match flow.state:
            case State.STARTING | State.ENDING:
                return self._say(self._wait)
            case State.STOPPED:
                return self._say(_STOPPED)
        if flow.driving is CommandSource.TELEOP:
            return self._say("you are in command already")
        if flow.state is State.RECORDING:
            return self._give(CommandSource.TELEOP, "you drive; t hands back", taken_over=True)
        return self._give(CommandSource.TELEOP, "you drive; nothing is recorded; t ends it")

    def hand_back(self) -> Step:
        """The policy has command again in its episode, nobody has it otherwise."""
        flow = self.flow
        if flow.driving is not CommandSource.TELEOP:
            return self._say("you are not in command")
        if flow.state is not State.RECORDING:
            return self._give(CommandSource.HOLD, "the arm holds")
        if not self.settings.policy_drives:
            return self._say("you demonstrate: s success, f failure, e end, d discard")
        return self._give(CommandSource.POLICY, "the policy drives; t takes over")

    def _give(self, driver: CommandSource, message: str, *, taken_over: bool = False) -> Step:
        begun = self.flow.state in (State.RESETTING, State.SCENE, State.ARMED)
        state = State.IDLE if begun else self.flow.state  # an episode begins at home
        given = replace(
            self.flow, state=state, driving=driver, taken_over=taken_over, message=message
        )
        return given, (GiveCommand(driver),)

    def estop(self) -> Step:
        """Stop the arm."""
        after, requests = stopped(self.flow, self.stamp_ns)
        return after, (LatchStop(), *requests)

    def release(self) -> Step:
        """Release the emergency stop."""
        if self.flow.state is State.STOPPED:
            return self.flow, (ReleaseStop(),)
        return self._say("there is no emergency stop to release")

    def quit(self) -> Step:
        """End the session."""
        flow = self.flow
        if flow.state is State.RECORDING:
            after, requests = end(flow, self.stamp_ns, "closing the episode, then the end")
            return replace(after, then=Press.QUIT), requests
        if flow.state in (State.STARTING, State.ENDING):
            return say(
                replace(flow, then=Press.QUIT), "the end as soon as the recorder has answered"
            )
        return over(flow)


ON_PRESS: dict[Press, Callable[[PressedIn], Step]] = {
    Press.NEXT: PressedIn.next,
    Press.SUCCESS: PressedIn.success,
    Press.FAILURE: PressedIn.failure,
    Press.STOP: PressedIn.stop,
    Press.DISCARD: PressedIn.discard,
    Press.UNDO: PressedIn.undo,
    Press.RESET: PressedIn.reset,
    Press.TAKE_OVER: PressedIn.take_over,
    Press.ESTOP: PressedIn.estop,
    Press.RELEASE: PressedIn.release,
    Press.QUIT: PressedIn.quit,
    Press.HAND_BACK: PressedIn.hand_back,
}
