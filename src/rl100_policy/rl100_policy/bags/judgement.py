# SPDX-License-Identifier: Apache-2.0
"""What people said about an episode."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum, StrEnum
from typing import Annotated

from pydantic import Field

from rl100_policy.core.config import FrozenModel

LONGEST_REACTION_S = 5.0
"""Who takes longer to press has seen something else."""


class Outcome(StrEnum):
    """Outcome of an episode; only a person (or a scripted one) gives it."""

    UNLABELLED = "unlabelled"
    SUCCESS = "success"
    FAILURE = "failure"

    @property
    def code(self) -> int:
        """Value of the constant in rl100_msgs/EpisodeState."""
        return list(Outcome).index(self)


class JudgementKind(IntEnum):
    """Kinds of judgement; values are those of rl100_msgs/HumanFeedback."""

    UNDO = 0
    SUCCESS = 1
    FAILURE = 2


class Judgement(FrozenModel):
    """One key press, button or call of the person at the robot."""

    stamp_ns: int
    """When the key was pressed, ROS time."""
    kind: JudgementKind
    reward: float = 0.0
    """Reward given [task units]."""
    reaction_delay_s: Annotated[float, Field(ge=0.0, le=LONGEST_REACTION_S)] = 0.0
    """How long before the press the person saw what they judge [s]."""
    source: str = ""
    """Who or what judged."""

    @classmethod
    def final(cls, *, success: bool, stamp_ns: int, source: str) -> Judgement:
        """That the task is done, worth 1, or has failed, worth 0."""
        kind = JudgementKind.SUCCESS if success else JudgementKind.FAILURE
        return cls(stamp_ns=stamp_ns, kind=kind, reward=float(success), source=source)

    @property
    def seen_ns(self) -> int:
        """When the person saw what they judge, ROS time."""
        return self.stamp_ns - round(self.reaction_delay_s * 1e9)


def standing_judgements(judgements: Iterable[Judgement]) -> tuple[Judgement, ...]:
    """Those that were not taken back, in the order of their stamps; the last one decides.

    Judgements count in the order of their stamps, equal stamps in the order given. An undo takes
    back the newest judgement still standing, so two undos take back two; an undo with nothing
    before it changes nothing.
    """
    standing: list[Judgement] = []
    for judgement in sorted(judgements, key=lambda each: each.stamp_ns):
        if judgement.kind is JudgementKind.UNDO:
            del standing[-1:]
        else:
            standing.append(judgement)
    return tuple(standing)
