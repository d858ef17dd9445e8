# SPDX-License-Identifier: Apache-2.0
"""Another outcome for a closed episode: what was said before stays, and no longer counts."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl100_policy.bags.correction import (
    correct_outcome,
    correcting_judgements,
    relabel_source,
)
from rl100_policy.bags.judgement import (
    Judgement,
    JudgementKind,
    Outcome,
    standing_judgements,
)
from rl100_policy.bags.metadata import EpisodeMetadata
from rl100_policy.bags.reading import read_metadata
from rl100_policy.bags.recovery import check_episode
from rl100_policy.bags.reward import verdict
from rl100_policy.bags.testing import MessageFactory
from rl100_policy.bags.writer import EpisodeWriter
from rl100_policy.core.errors import BagError

FACTORY = MessageFactory()
SECOND = 10**9
BEGIN, LAST = 100 * SECOND, 110 * SECOND
GIVEN = st.lists(
    st.builds(
        Judgement,
        stamp_ns=st.integers(90, 120).map(lambda second: second * SECOND),
        kind=st.sampled_from(JudgementKind),
    ),
    max_size=6,
)


def judged(second: int, kind: JudgementKind) -> Judgement:
    return Judgement(stamp_ns=second * SECOND, kind=kind, source="keyboard")


@pytest.fixture
def episode(tmp_path) -> Path:
    """Lasts from 100 to 110 s and was judged a failure at its end."""
    failure = judged(110, JudgementKind.FAILURE)
    meta = EpisodeMetadata(episode_id="e", task="push_t", start_ns=BEGIN, judgements=(failure,))
    writer = EpisodeWriter(tmp_path, meta)
    topic = FACTORY.topic("/joint_states", "sensor_msgs/msg/JointState")
    for second in range(100, 111):
        data = FACTORY.joint_state(second * SECOND, ["a"], [0.0])
        writer.write(topic, data, log_ns=second * SECOND)
    return writer.close(meta)


@given(before=GIVEN, outcome=st.sampled_from(Outcome), at=st.integers(BEGIN, LAST))
def test_whatever_was_said_before_the_outcome_wanted_is_the_one_got(before, outcome, at):
    added = correcting_judgements(before, outcome, stamp_ns=at, last_ns=LAST, source="relabel")
    judgements = (*before, *added)
    assert verdict(judgements).outcome is outcome
    if outcome is not Outcome.UNLABELLED:
        assert verdict(judgements, start_ns=1).moment_ns == at


def test_an_earlier_success_takes_back_the_failure_that_came_after_it(episode):
    metadata = correct_outcome(episode, Outcome.SUCCESS, at_s=4.5, source="relabel by ann")
    kinds = [(each.kind, each.stamp_ns / SECOND) for each in metadata.judgements]
    assert kinds == [
        (JudgementKind.FAILURE, 110.0),
        (JudgementKind.SUCCESS, 104.5),
        (JudgementKind.UNDO, 110.0),
    ]
    (decides,) = standing_judgements(metadata.judgements)
    assert (decides.reward, decides.source) == (1.0, "relabel by ann")


def test_without_a_time_the_judgement_is_of_the_end_of_the_episode(episode):
    metadata = correct_outcome(episode, Outcome.SUCCESS, at_s=None, source="relabel")
    assert metadata.judgements[-1].stamp_ns == LAST
    assert read_metadata(episode) == metadata
    assert read_metadata(episode).outcome is Outcome.SUCCESS
    assert check_episode(episode) == []


def test_unlabelled_takes_back_all_that_stands_and_nothing_twice(episode):
    correct_outcome(episode, Outcome.SUCCESS, at_s=None, source="relabel")
    metadata = correct_outcome(episode, Outcome.UNLABELLED, at_s=None, source="relabel")
    assert metadata.outcome is Outcome.UNLABELLED
    assert len(metadata.judgements) == 4  # failure, success, and an undo for each
    before = (episode / "e_0.mcap").stat().st_mtime_ns
    again = correct_outcome(episode, Outcome.UNLABELLED, at_s=None, source="relabel")
    assert again == metadata
    assert (episode / "e_0.mcap").stat().st_mtime_ns == before


@pytest.mark.parametrize("at_s", [10.1, 99.0])
def test_a_time_that_is_not_in_the_episode_is_refused(episode, at_s):
    with pytest.raises(BagError, match=r"lasts from 0 to 10\.0 s"):
        correct_outcome(episode, Outcome.SUCCESS, at_s=at_s, source="relabel")
    assert read_metadata(episode).outcome is Outcome.FAILURE


@pytest.mark.parametrize("at_s", [0.0, float("nan"), float("inf")])
def test_a_time_that_is_none_in_an_episode_is_refused(episode, at_s):
    with pytest.raises(BagError, match="seconds after the start"):
        correct_outcome(episode, Outcome.SUCCESS, at_s=at_s, source="relabel")


def test_an_episode_that_is_being_recorded_is_refused(tmp_path):
    meta = EpisodeMetadata(episode_id="e", task="push_t")
    writer = EpisodeWriter(tmp_path, meta)
    for path in (tmp_path / "e", tmp_path / "e.partial"):
        with pytest.raises(BagError, match="is being recorded"):
            correct_outcome(path, Outcome.SUCCESS, at_s=None, source="relabel")
    writer.close(meta)


def test_the_source_says_who_and_what_they_say_to_it():
    assert relabel_source("ann") == "relabel by ann"
    assert relabel_source("ann", "it fell") == "relabel by ann: it fell"
