# SPDX-License-Identifier: Apache-2.0
"""A session of a person at the robot at one moment, and what it is like."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum

from rl100_policy.core.flow_events import Request
from rl100_policy.core.gate_result import CommandSource
from rl100_policy.core.presses import Press


class State(IntEnum):
    """Where a session is; values are those of rl100_msgs/OperatorState."""

    IDLE = 0
    RESETTING = 1
    SCENE = 2
    ARMED = 3
    STARTING = 4
    RECORDING = 5
    ENDING = 6
    REVIEW = 7
    STOPPED = 8
    OVER = 9


OUTCOMES = ("unlabelled", "success", "failure")
"""Names of the constants of rl100_msgs/EpisodeState."""
_ASK_AGAIN_S = 1.0


@dataclass(frozen=True)
class FlowSettings:
    """What a session is like. Times in seconds; 0 means no limit."""

    policy_drives: bool = False
    """The policy acts and a person may take over; otherwise a person demonstrates."""
    goes_home: bool = True
    """The gate takes the arm home before an episode; otherwise the person does."""
    sets_scene: bool = False
    """Something other than the person lays out the scene (a simulator)."""
    confirms: bool = True
    """The person confirms the scene; otherwise a scene that is set is enough."""
    goes_on: bool = False
    """After a judgement the arm goes home by itself when ``review_s`` have passed."""
    wanted: int = 0
    """Episodes to be collected; 0: no end."""
    episode_s: float = 0.0
    """Longest episode."""
    reset_s: float = 60.0
    """Longest way home."""
    armed_s: float = 120.0
    """Longest time between confirming and starting."""
    review_s: float = 3.0
    """Time in which a judgement is easily changed before the flow goes on by itself."""
    answer_s: float = 20.0
    """Longest wait for an answer of the recorder."""


@dataclass(frozen=True)
class Kept:
    """One episode of the session."""

    outcome: int = 0
    """Constants of rl100_msgs/EpisodeState."""
    closed: bool = False
    """There is a whole bag of it."""
    discarded: bool = False
    degraded: bool = False


@dataclass(frozen=True)
class Flow:
    """A session at one moment."""

    state: State = State.IDLE
    since_s: float = 0.0
    """Monotonic time at which the state was entered, or the recorder last asked [s]."""
    driving: CommandSource = CommandSource.HOLD
    """Whom the flow has put in command."""
    taken_over: bool = False
    """A person has taken command from the policy."""
    episode_id: str = ""
    """Running or last episode."""
    episodes: Mapping[str, Kept] = field(default_factory=dict)
    """Those of this session, oldest first."""
    then: Press | None = None
    """What was pressed that has to wait until the running episode is closed."""
    checking: bool = False
    """The recorder was asked what is missing."""
    scene_set: bool = False
    latched: bool = False
    """The emergency stop is."""
    message: str = "space begins an episode; wait until the topics come at their rates"
    """What happened and what to do next, for people."""

    @property
    def last(self) -> Kept:
        """The running or last episode."""
        return self.episodes.get(self.episode_id, Kept())

    def count(self, outcome: int) -> int:
        """Episodes that are kept, of one outcome."""
        return sum(
            each.outcome == outcome and each.closed and not each.discarded
            for each in self.episodes.values()
        )

    @property
    def trashed(self) -> int:
        """Episodes in the trash."""
        return sum(each.discarded for each in self.episodes.values())

    @property
    def collected(self) -> int:
        """Episodes that are kept."""
        return sum(each.closed and not each.discarded for each in self.episodes.values())

    def seconds_left(self, settings: FlowSettings, now_s: float) -> float:
        """Until something happens by itself [s]; NaN if nothing will."""
        limit = self.limit_s(settings)
        return max(0.0, self.since_s + limit - now_s) if limit else math.nan

    def limit_s(self, settings: FlowSettings) -> float:
        """Seconds in this state after which something happens by itself; 0: nothing does."""
        goes_on = settings.goes_on and self.last.outcome and not self.last.discarded
        return {
            State.RESETTING: settings.reset_s,
            State.SCENE: self._asks_again_s(settings),
            State.ARMED: settings.armed_s,
            State.STARTING: settings.answer_s,
            State.RECORDING: settings.episode_s,
            State.ENDING: settings.answer_s,
            State.REVIEW: settings.review_s if goes_on and not self.is_complete(settings) else 0.0,
        }.get(self.state, 0.0)

    def _asks_again_s(self, settings: FlowSettings) -> float:
        """Where nobody confirms the scene, the recorder is asked until nothing is missing."""
        waits = not settings.confirms and self.scene_set and not self.checking
        return _ASK_AGAIN_S if waits else 0.0

    def is_complete(self, settings: FlowSettings) -> bool:
        """Whether as many episodes as wanted are kept."""
        return bool(settings.wanted) and self.collected >= settings.wanted


Step = tuple[Flow, tuple[Request, ...]]
"""The next flow, and what is to be asked of others."""


def say(flow: Flow, message: str) -> Step:
    """Nothing but a message."""
    return replace(flow, message=message), ()
