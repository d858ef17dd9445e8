# SPDX-License-Identifier: Apache-2.0
"""What an episode flow is told, and what it asks for."""

from __future__ import annotations

from dataclasses import dataclass

from rl100_policy.core.gate_result import CommandSource
from rl100_policy.core.presses import Press

# Told


@dataclass(frozen=True)
class Pressed:
    """The person pressed something."""

    press: Press
    stamp_ns: int
    """When, ROS time."""


@dataclass(frozen=True)
class AtHome:
    """The arm is measured at its home position."""


@dataclass(frozen=True)
class SceneSet:
    """The scene is laid out, or why not."""

    problem: str = ""


@dataclass(frozen=True)
class Checked:
    """The recorder said whether an episode could begin."""

    problems: tuple[str, ...] = ()
    """What is missing, for people; empty: nothing."""


@dataclass(frozen=True)
class Started:
    """The recorder began an episode."""

    episode_id: str


@dataclass(frozen=True)
class NotStarted:
    """The recorder began none."""

    reason: str


@dataclass(frozen=True)
class Ended:
    """The episode is over for the recorder, asked or not."""

    episode_id: str
    kept: bool
    """There is a closed bag; otherwise what there is waits for a recovery."""
    degraded: bool
    message: str


@dataclass(frozen=True)
class Judged:
    """An episode's outcome as the recorder has it now."""

    episode_id: str
    outcome: int
    """Constants of rl100_msgs/EpisodeState."""


@dataclass(frozen=True)
class Moved:
    """An episode went to the trash, or came back."""

    episode_id: str
    discarded: bool


@dataclass(frozen=True)
class Refused:
    """Something that was asked for was not done."""

    reason: str


@dataclass(frozen=True)
class NotInCommand:
    """Nobody could be put in command, or who was lost it."""

    reason: str


@dataclass(frozen=True)
class Stopped:
    """The command gate latched its emergency stop, or released it."""

    latched: bool


@dataclass(frozen=True)
class Tick:
    """Time has passed."""


Event = (
    Pressed
    | AtHome
    | SceneSet
    | Checked
    | Started
    | NotStarted
    | Ended
    | Judged
    | Moved
    | Refused
    | NotInCommand
    | Stopped
    | Tick
)

# Asked for


@dataclass(frozen=True)
class GiveCommand:
    """Put somebody in command of the arm."""

    source: CommandSource


@dataclass(frozen=True)
class SetScene:
    """Lay out the scene of the next episode, where something other than the person does."""


@dataclass(frozen=True)
class CheckRecording:
    """Ask the recorder what is missing."""


@dataclass(frozen=True)
class StartRecording:
    """Ask the recorder to begin an episode."""


@dataclass(frozen=True)
class StopRecording:
    """Ask the recorder to close the episode."""

    end_ns: int
    """ROS time of the last wanted observation."""


@dataclass(frozen=True)
class Judge:
    """Give a judgement."""

    press: Press
    """``SUCCESS``, ``FAILURE`` or ``UNDO``."""
    stamp_ns: int
    """When it was pressed, ROS time."""
    episode_id: str


@dataclass(frozen=True)
class Discard:
    """Move an episode to the trash, or back."""

    episode_id: str
    restore: bool


@dataclass(frozen=True)
class LatchStop:
    """Stop the arm."""


@dataclass(frozen=True)
class ReleaseStop:
    """Release the emergency stop."""


Request = (
    GiveCommand
    | SetScene
    | CheckRecording
    | StartRecording
    | StopRecording
    | Judge
    | Discard
    | LatchStop
    | ReleaseStop
)
