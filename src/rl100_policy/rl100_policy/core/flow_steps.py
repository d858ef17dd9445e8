# SPDX-License-Identifier: Apache-2.0
"""Steps of an episode flow that more than one event leads to."""

from __future__ import annotations

from dataclasses import replace

from rl100_policy.core.flow import Flow, FlowSettings, State, Step
from rl100_policy.core.flow_events import (
    CheckRecording,
    GiveCommand,
    SetScene,
    StopRecording,
)
from rl100_policy.core.gate_result import CommandSource

HOLD = GiveCommand(CommandSource.HOLD)


def check(flow: Flow) -> Step:
    """Ask the recorder what is missing."""
    return replace(flow, checking=True, message="asking the recorder"), (CheckRecording(),)


def go_home(flow: Flow, settings: FlowSettings) -> Step:
    """Begin the next episode: the arm first."""
    fresh = replace(flow, taken_over=False, then=None, checking=False, scene_set=False)
    if not settings.goes_home:
        return to_scene(fresh, settings)
    gone = replace(
        fresh,
        state=State.RESETTING,
        driving=CommandSource.HOME,
        message="the arm goes home; keep clear",
    )
    return gone, (GiveCommand(CommandSource.HOME),)


def to_scene(flow: Flow, settings: FlowSettings) -> Step:
    """The arm is where it should be; the scene is next."""
    message = "arrange the scene, then go on (space)"
    if settings.sets_scene:
        message = "laying out the scene"
    there = replace(flow, state=State.SCENE, driving=CommandSource.HOLD, message=message)
    return there, (HOLD, *([SetScene()] if settings.sets_scene else []))


def end(flow: Flow, end_ns: int, message: str) -> Step:
    """Stop the arm and have the episode closed.

    Args:
        flow: The present flow.
        end_ns: ROS time of the last wanted observation; 0: now.
        message: For people.
    """
    ending = replace(
        flow, state=State.ENDING, driving=CommandSource.HOLD, taken_over=False, message=message
    )
    return ending, (HOLD, StopRecording(end_ns))


def stopped(flow: Flow, end_ns: int = 0) -> Step:
    """Emergency stop, pressed here or latched elsewhere; a running episode is closed and kept."""
    if flow.state is State.STOPPED:
        return flow, ()
    running = flow.state is State.RECORDING
    kept = " the episode is kept, without a judgement;" if running else ""
    after = replace(
        flow,
        state=State.STOPPED,
        driving=CommandSource.HOLD,
        taken_over=False,
        checking=False,
        latched=True,
        message=f"emergency stop;{kept} l releases it",
    )
    return after, ((StopRecording(end_ns),) if running else ())


def over(flow: Flow) -> Step:
    """The session ends."""
    ended = replace(
        flow,
        state=State.OVER,
        driving=CommandSource.HOLD,
        message="the session is over; any key but q begins another",
    )
    return ended, (HOLD,)


def begin_anew(flow: Flow) -> Flow:
    """A session that is over goes on; its episodes still count."""
    return replace(flow, state=State.STOPPED if flow.latched else State.IDLE, then=None)
