# SPDX-License-Identifier: Apache-2.0
"""What people said about an episode, and the outcome that follows from it."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum, StrEnum

from rl100_policy.core.config import FrozenModel


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
    """When it was given, ROS time."""
    kind: JudgementKind
    reward: float = 0.0
    """Reward given [task units]."""
    source: str = ""
    """Who or what judged."""


_OUTCOME_OF_KIND = {
    JudgementKind.SUCCESS: Outcome.SUCCESS,
    JudgementKind.FAILURE: Outcome.FAILURE,
}


def outcome_of(judgements: Iterable[Judgement]) -> Outcome:
    """Outcome that a list of judgements amounts to: the newest one that was not taken back."""
    standing = standing_judgements(judgements)
    return _OUTCOME_OF_KIND[standing[-1].kind] if standing else Outcome.UNLABELLED


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
