# SPDX-License-Identifier: Apache-2.0
"""One episode after the other, as a person at the robot goes through them: a pure state machine.

``step`` takes the present flow, what happened and the time, and gives the next flow and what is
to be asked of the other nodes. It knows no ROS and no clock. What holds whatever happens:

- the policy is in command only of an episode that is being recorded;
- after an emergency stop nobody is put in command until it is released;
- an episode that began is stopped once, and is counted once, as what it is.
"""

from __future__ import annotations

from dataclasses import replace

from rl100_policy.core.flow import OUTCOMES, Flow, FlowSettings, Kept, State, Step, say
from rl100_policy.core.flow_events import (
    AtHome,
    Checked,
    CheckRecording,
    Discard,
    Ended,
    Event,
    GiveCommand,
    Judged,
    Moved,
    NotInCommand,
    NotStarted,
    Pressed,
    Refused,
    Request,
    SceneSet,
    Started,
    Stopped,
    Tick,
)
from rl100_policy.core.flow_presses import ON_PRESS, PressedIn
from rl100_policy.core.flow_steps import (
    HOLD,
    begin_anew,
    check,
    end,
    go_home,
    over,
    stopped,
    to_scene,
)
from rl100_policy.core.gate_result import CommandSource
from rl100_policy.core.presses import Press


def step(flow: Flow, event: Event, now_s: float, settings: FlowSettings) -> Step:
    """The next flow, and what is to be asked of others.

    Args:
        flow: The present one.
        event: What happened.
        now_s: Monotonic time [s].
        settings: Of the session.
    """
    after, requests = _reaction(flow, event, now_s, settings)
    entered = after.state is not flow.state or after.checking is not flow.checking
    return (replace(after, since_s=now_s) if entered else after), requests


def _reaction(flow: Flow, event: Event, now_s: float, settings: FlowSettings) -> Step:
    match event:
        case Pressed(press, stamp_ns):
            if flow.state is State.OVER and press is not Press.QUIT:
                flow = begin_anew(flow)
            return ON_PRESS[press](PressedIn(flow, stamp_ns, settings))
        case Tick():
            return _time_passed(flow, now_s, settings)
        case AtHome() | SceneSet() | Checked():
            return _prepared(flow, event, settings)
        case Started() | NotStarted() | Ended():
            return _recorded(flow, event, settings)
        case Stopped(latched):
            return stopped(flow) if latched else _released(flow)
        case NotInCommand(reason):
            return _without_command(flow, reason)
        case Judged() | Moved() | Refused():
            return _told(flow, event), ()


def _released(flow: Flow) -> Step:
    flow = replace(flow, latched=False)
    if flow.state is not State.STOPPED:
        return flow, ()
    state = State.REVIEW if flow.episode_id in flow.episodes else State.IDLE
    return replace(flow, state=state, message="released; r takes the arm home"), ()


def _without_command(flow: Flow, reason: str) -> Step:
    if flow.state is State.RECORDING:
        return end(flow, 0, f"closing the episode: {reason}")
    state = State.IDLE if flow.state is State.RESETTING else flow.state
    held = replace(flow, state=state, driving=CommandSource.HOLD, message=f"arm holds: {reason}")
    return held, (HOLD,)


def _prepared(flow: Flow, event: AtHome | SceneSet | Checked, settings: FlowSettings) -> Step:
    match event:
        case AtHome() if flow.state is State.RESETTING:
            return to_scene(flow, settings)
        case SceneSet(problem) if flow.state is State.SCENE and problem:
            return say(flow, f"the scene is not laid out: {problem}; space tries again")
        case SceneSet() if flow.state is State.SCENE:
            ready = replace(flow, scene_set=True, message="look at the scene, then go on (space)")
            return (ready, ()) if settings.confirms else check(ready)
        case Checked(problems) if flow.checking and flow.state is State.SCENE:
            asked = replace(flow, checking=False)
            if problems:
                return say(asked, f"not ready: {'; '.join(problems)}; space asks again")
            who = "the policy" if settings.policy_drives else "you"
            message = f"ready: space starts, then {who} will be in command"
            return replace(asked, state=State.ARMED, message=message), ()
    return flow, ()


def _recorded(flow: Flow, event: Started | NotStarted | Ended, settings: FlowSettings) -> Step:
    match event:
        case Started(episode_id):
            return _begun(flow, episode_id, settings)
        case NotStarted(reason) if flow.state is State.STARTING:
            if flow.then is Press.QUIT:
                return over(flow)
            return say(replace(flow, state=State.SCENE), f"not started: {reason}")
        case Ended() if event.episode_id == flow.episode_id:
            return _closed(flow, event, settings)
    return flow, ()


def _begun(flow: Flow, episode_id: str, settings: FlowSettings) -> Step:
    """The recorder has begun, so nothing that happens from now on is missed."""
    then = Press.QUIT if flow.state is State.OVER else flow.then
    episodes = {**flow.episodes, episode_id: Kept()}
    begun = replace(flow, episode_id=episode_id, episodes=episodes, then=then)
    if flow.state is not State.STARTING or flow.then is Press.QUIT:
        # It took too long, or was stopped meanwhile: an episode in which nothing happens.
        after, requests = end(begun, 0, "started too late: closing the episode")
        return (replace(after, state=flow.state) if _is_stopped(flow) else after), requests
    driver = CommandSource.POLICY if settings.policy_drives else CommandSource.TELEOP
    message = "the policy drives; t takes over" if settings.policy_drives else "you drive"
    running = replace(
        begun,
        state=State.RECORDING,
        driving=driver,
        message=f"{message}; s success, f failure, e end, d discard",
    )
    return running, (GiveCommand(driver),)


def _is_stopped(flow: Flow) -> bool:
    return flow.state is State.STOPPED


def _closed(flow: Flow, ended: Ended, settings: FlowSettings) -> Step:
    """The bag is closed, as was asked or because the recorder could not go on."""
    episode = replace(flow.last, closed=ended.kept, degraded=ended.degraded)
    closed = replace(flow, episodes={**flow.episodes, flow.episode_id: episode}, then=None)
    requests: tuple[Request, ...] = ()
    if flow.then is Press.DISCARD:
        requests = (Discard(flow.episode_id, restore=False),)
    if flow.state not in (State.RECORDING, State.ENDING):
        return closed, requests
    if flow.state is State.RECORDING:
        requests = (HOLD, *requests)
    wanted = f"; {closed.collected} of {settings.wanted}" if settings.wanted else ""
    closed = replace(
        closed,
        state=State.REVIEW,
        driving=CommandSource.HOLD,
        taken_over=False,
        message=f"{ended.message}{wanted}; s, f, u, d change it; {_next(closed, settings)}",
    )
    if flow.then is Press.RESET:
        after, more = go_home(closed, settings)
        return after, (*requests, *more)
    return over(closed) if flow.then is Press.QUIT else (closed, requests)


def _next(flow: Flow, settings: FlowSettings) -> str:
    return "all are collected: q ends" if flow.is_complete(settings) else "space goes on"


def _told(flow: Flow, event: Judged | Moved | Refused) -> Flow:
    if isinstance(event, Refused):
        return replace(flow, message=f"refused: {event.reason}")
    known = flow.episodes.get(event.episode_id)
    if known is None:
        return flow
    if isinstance(event, Judged):
        now, said = replace(known, outcome=event.outcome), OUTCOMES[event.outcome]
    else:
        now = replace(known, discarded=event.discarded)
        said = "in the trash; u takes it back" if event.discarded else "back from the trash"
    if now == known:
        return flow
    message = flow.message
    if flow.state is not State.RECORDING:
        message = f"{event.episode_id}: {said}"
    return replace(flow, episodes={**flow.episodes, event.episode_id: now}, message=message)


def _time_passed(flow: Flow, now_s: float, settings: FlowSettings) -> Step:
    limit = flow.limit_s(settings)
    if not limit or now_s < flow.since_s + limit:
        return flow, ()
    match flow.state:
        case State.RESETTING:
            message = f"not at home after {limit:.0f} s; is the way free? t lets you drive"
            idle = replace(flow, state=State.IDLE, driving=CommandSource.HOLD, message=message)
            return idle, (HOLD,)
        case State.SCENE:
            return replace(flow, checking=True), (CheckRecording(),)
        case State.ARMED:
            return say(replace(flow, state=State.SCENE), "not started: confirm the scene again")
        case State.RECORDING:
            return end(flow, 0, "time is up: judge it")
        case State.STARTING | State.ENDING:
            return _unanswered(flow)
    return go_home(flow, settings)


def _unanswered(flow: Flow) -> Step:
    """The recorder says nothing; what it may say later is still taken."""
    if flow.then is Press.QUIT:
        return over(flow)
    state = State.IDLE if flow.state is State.STARTING else State.REVIEW
    message = "the recorder does not answer; is it running?"
    return say(replace(flow, state=state, then=None), message)
