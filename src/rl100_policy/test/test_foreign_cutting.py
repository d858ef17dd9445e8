# SPDX-License-Identifier: Apache-2.0
"""Where episodes of a recording begin and end, and which judgement is about which."""

import numpy as np
import pytest

from rl100_policy.bags.foreign.cutting import cut
from rl100_policy.bags.foreign.mapping import ImportMapping
from rl100_policy.bags.foreign.recorded import Recorded
from rl100_policy.bags.judgement import Judgement, JudgementKind

SUCCESS, FAILURE, UNDO = JudgementKind.SUCCESS, JudgementKind.FAILURE, JudgementKind.UNDO


def mapping(**episodes) -> ImportMapping:
    return ImportMapping.model_validate(
        {
            "joint_states": {"topic": "/joint_states"},
            "action": {"source": "measured"},
            "outcome": {"source": "topic", "topic": "/outcome"},
            "episodes": episodes,
        }
    )


def recorded(markers=(), judgements=()) -> Recorded:
    return Recorded(
        positions={time: np.zeros(7) for time in range(101)},
        markers=list(markers),
        judgements=[Judgement(stamp_ns=time, kind=kind) for time, kind in judgements],
    )


def spans(found) -> list[tuple[int, int]]:
    return [(each.start_ns, each.end_ns) for each in found]


def said(found) -> list[list[JudgementKind]]:
    return [[each.kind for each in span.judgements] for span in found]


def test_a_whole_recording_is_one_episode_with_all_that_was_said():
    found = cut(recorded(judgements=[(50, FAILURE), (120, SUCCESS)]), mapping(cut="whole"))
    assert (spans(found), said(found)) == ([(0, 100)], [[FAILURE, SUCCESS]])


@pytest.mark.parametrize(
    ("markers", "expected"),
    [
        ([(10, True), (20, False), (30, True), (40, False)], [(10, 20), (30, 40)]),
        ([(10, True), (20, False), (30, True)], [(10, 20), (30, 100)]),
        ([(10, True), (15, True), (20, False), (25, False)], [(15, 20)]),
        ([(10, None), (40, None)], [(10, 40), (40, 100)]),
        ([], []),
    ],
)
def test_markers_begin_and_end_episodes(markers, expected):
    assert spans(cut(recorded(markers), mapping(cut="marker", topic="/m"))) == expected


def test_what_is_said_before_the_next_episode_is_about_the_last():
    markers = [(10, True), (20, False), (30, True), (40, False)]
    judgements = [(5, SUCCESS), (25, FAILURE), (40, SUCCESS)]
    found = cut(recorded(markers, judgements), mapping(cut="marker", topic="/m"))
    assert said(found) == [[FAILURE], [SUCCESS]]


def test_an_outcome_ends_an_episode_and_an_undo_is_about_the_last():
    judgements = [(30, SUCCESS), (35, UNDO), (60, FAILURE)]
    found = cut(recorded(judgements=judgements), mapping(cut="outcomes"))
    assert spans(found) == [(0, 30), (31, 60)]
    assert said(found) == [[SUCCESS, UNDO], [FAILURE]]


def test_without_joint_states_there_is_no_episode():
    assert cut(Recorded(), mapping(cut="whole")) == []
