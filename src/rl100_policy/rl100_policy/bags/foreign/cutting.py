# SPDX-License-Identifier: Apache-2.0
"""Where episodes begin and end within one recording, and what was said about each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rl100_policy.bags.foreign.mapping import ImportMapping
from rl100_policy.bags.foreign.recorded import Recorded
from rl100_policy.bags.judgement import Judgement, JudgementKind


@dataclass(frozen=True)
class Span:
    """One episode of a recording; both ends belong to it."""

    start_ns: int
    end_ns: int
    judgements: tuple[Judgement, ...] = ()


def cut(recorded: Recorded, mapping: ImportMapping) -> list[Span]:
    """Episodes of a recording, in the order of time; none if nothing marks one."""
    if not recorded.positions:
        return []
    first, last = min(recorded.positions), max(recorded.positions)
    if mapping.episodes.cut == "outcomes":
        return _at_outcomes(recorded.judgements, first)
    if mapping.episodes.cut == "whole":
        return [Span(first, last, tuple(recorded.judgements))]
    spans = _at_markers(recorded.markers, last)
    following = [*(span.start_ns for span in spans[1:]), None]
    return [
        replace(span, judgements=_between(recorded.judgements, span.start_ns, next_ns))
        for span, next_ns in zip(spans, following, strict=False)
    ]


def _at_markers(markers: Sequence[tuple[int, bool | None]], last: int) -> list[Span]:
    spans: list[Span] = []
    begun: int | None = None
    for time, begins in markers:
        if begun is not None and begins is not True:
            spans.append(Span(begun, time))
            begun = None
        if begins is not False:
            begun = time  # told twice: the later one holds
    if begun is not None and begun < last:
        spans.append(Span(begun, last))
    return spans


def _between(
    judgements: Sequence[Judgement], start_ns: int, following_ns: int | None
) -> tuple[Judgement, ...]:
    """Also those given after the end of an episode, before the next begins."""
    return tuple(
        each
        for each in judgements
        if start_ns <= each.stamp_ns and (following_ns is None or each.stamp_ns < following_ns)
    )


def _at_outcomes(judgements: Sequence[Judgement], first: int) -> list[Span]:
    """An undo is about the episode that ended last."""
    spans: list[Span] = []
    begin = first
    for each in judgements:
        if each.kind is JudgementKind.UNDO:
            if spans:
                spans[-1] = replace(spans[-1], judgements=(*spans[-1].judgements, each))
            continue
        spans.append(Span(begin, each.stamp_ns, (each,)))
        begin = each.stamp_ns + 1
    return spans
