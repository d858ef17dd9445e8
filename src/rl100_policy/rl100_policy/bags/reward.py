# SPDX-License-Identifier: Apache-2.0
"""The rule that turns what a person pressed into the reward of an episode (docs/reward-timing.md).

One pure function; the recorder's outcome, the learner and everything that shows an episode use it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rl100_policy.bags.judgement import (
    Judgement,
    JudgementKind,
    Outcome,
    standing_judgements,
)

_REWARD = {Outcome.SUCCESS: 1.0, Outcome.FAILURE: 0.0, Outcome.UNLABELLED: 0.0}
_OUTCOME = {JudgementKind.SUCCESS: Outcome.SUCCESS, JudgementKind.FAILURE: Outcome.FAILURE}


@dataclass(frozen=True)
class Verdict:
    """What an episode was worth, and when that was seen."""

    outcome: Outcome
    moment_ns: int
    """ROS time at which the person saw it, and so at which the task was over; what came after is
    not part of the task. 0: at the end of the episode, wherever that is."""
    reward: float
    """Of the control period in which the moment lies, and of the decision that it belongs to;
    every other one has 0 [task units]."""


def verdict(judgements: Iterable[Judgement], start_ns: int = 0, end_ns: int = 0) -> Verdict:
    """What the judgements of an episode amount to.

    1. In the order of their stamps, an undo takes back the newest press that still stands.
    2. The newest press that stands says the outcome; if none does the episode is unlabelled, which
       is neither a success nor a failure.
    3. Pressed twice is pressed once: of the last presses of one kind, with none of the other kind
       in between, the first one tells the moment.
    4. The moment is the stamp of that press less its reaction delay.
    5. A moment that is not within the episode, because the key was pressed when it was over or
       had not begun, is that of its end.

    Args:
        judgements: In any order; equal stamps in the order given.
        start_ns: ROS time at which the episode began; 0: not known, so that no moment is known
            to be within it.
        end_ns: ROS time at which it ended; 0: not known.
    """
    standing = standing_judgements(judgements)
    if not standing:
        return Verdict(Outcome.UNLABELLED, 0, 0.0)
    first = standing[-1]
    for judgement in reversed(standing):
        if judgement.kind is not first.kind:
            break
        first = judgement
    moment_ns = first.seen_ns
    within = 0 < start_ns < moment_ns and (not end_ns or moment_ns < end_ns)
    outcome = _OUTCOME[first.kind]
    return Verdict(outcome, moment_ns if within else 0, _REWARD[outcome])
