# SPDX-License-Identifier: Apache-2.0
"""How a policy drove the arm, read from the bags of the episodes it drove."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from rl100_policy.bags.index import IndexEntry
from rl100_policy.bags.metadata import EpisodeMetadata
from rl100_policy.bags.reading import read_messages
from rl100_policy.bags.topics import DECISION_TOPIC, EXECUTED_TOPIC, JOURNEYS_TOPIC
from rl100_policy.core import messages
from rl100_policy.core.latency import Journey


@dataclass(frozen=True)
class Driving:
    """Timing of some episodes."""

    journeys: tuple[Journey, ...]
    """From what was seen to the command, of the decisions whose command was seen to arrive."""

    inference_s: tuple[float, ...]
    """Wall time of every decision [s]."""
    deadline_misses: int
    """Decisions that took longer than one action period."""
    unanswered_periods: int
    """Control periods without a command for their joint state. In lockstep the simulated world
    went on without one there, after ``lockstep_timeout``; where messages are missing from a bag,
    the command may only be missing from the bag."""

    @classmethod
    def read(cls, bags: Path, episodes: Iterable[IndexEntry]) -> Self:
        """Read each bag once.

        Raises:
            BagError: If one is damaged.
        """
        topics = (DECISION_TOPIC, EXECUTED_TOPIC, "joint_states", JOURNEYS_TOPIC)
        journeys: list[Journey] = []
        inference_s: list[float] = []
        misses, unanswered = 0, 0
        for entry in episodes:
            found = read_messages(bags / entry.folder, topics)
            decisions, commands, joints, told = (
                [message.value for message in found[topic]] for topic in topics
            )
            # A decision on the last observation may or may not be in the bag, and steers nothing.
            end_ns = entry.metadata.end_ns or math.inf
            decisions = [
                each for each in decisions if messages.stamp_ns(each.header.stamp) < end_ns
            ]
            inference_s += [float(decision.inference_s) for decision in decisions]
            misses += sum(bool(decision.deadline_missed) for decision in decisions)
            journeys += [messages.journey(each) for each in told]
            unanswered += len(_periods(entry.metadata, _stamps(joints)) - _stamps(commands))
        return cls(tuple(journeys), tuple(inference_s), misses, unanswered)


def _stamps(values: Iterable[Any]) -> set[int]:
    return {messages.stamp_ns(value.header.stamp) for value in values}


def _periods(metadata: EpisodeMetadata, stamps: set[int]) -> set[int]:
    """Stamps at which control periods of the episode begin; none does at its last observation."""
    end_ns = metadata.end_ns or max(stamps, default=0)
    return {stamp for stamp in stamps if metadata.start_ns <= stamp < end_ns}
