# SPDX-License-Identifier: Apache-2.0
"""Judgements, outcomes and the table of strings that carries an episode's metadata."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl100_policy.bags.identity import new_episode_id
from rl100_policy.bags.judgement import Judgement, JudgementKind, Outcome
from rl100_policy.bags.metadata import (
    EpisodeMetadata,
    TopicLoss,
    config_hash,
    metadata_from_table,
)
from rl100_policy.bags.qos import OfferedQos, qos_from_yaml, qos_to_yaml
from rl100_policy.bags.reward import verdict
from rl100_policy.core.errors import BagError

S, F, U = JudgementKind.SUCCESS, JudgementKind.FAILURE, JudgementKind.UNDO


def judged(*kinds: JudgementKind) -> list[Judgement]:
    return [Judgement(stamp_ns=index, kind=kind) for index, kind in enumerate(kinds)]


@pytest.mark.parametrize(
    ("kinds", "outcome"),
    [
        ((), Outcome.UNLABELLED),
        ((S,), Outcome.SUCCESS),
        ((F,), Outcome.FAILURE),
        ((S, F), Outcome.FAILURE),  # the newest counts
        ((S, U), Outcome.UNLABELLED),
        ((S, F, U), Outcome.SUCCESS),  # the failure is taken back, the success stands again
        ((S, F, U, U), Outcome.UNLABELLED),
        ((U, U, S), Outcome.SUCCESS),  # nothing to take back
        ((S, U, F), Outcome.FAILURE),
    ],
)
def test_the_outcome_is_the_newest_judgement_still_standing(kinds, outcome):
    assert verdict(judged(*kinds)).outcome is outcome


def test_judgements_count_in_the_order_of_their_stamps():
    early_undo = Judgement(stamp_ns=1, kind=U)
    late_success = Judgement(stamp_ns=2, kind=S)
    assert verdict([late_success, early_undo]).outcome is Outcome.SUCCESS


@given(st.lists(st.sampled_from([S, F])))
def test_as_many_undos_as_judgements_leave_nothing(kinds):
    assert verdict(judged(*kinds, *[U] * len(kinds))).outcome is Outcome.UNLABELLED


def test_outcome_codes_are_those_of_the_message_definition():
    # EpisodeState: UNLABELLED=0, SUCCESS=1, FAILURE=2
    assert [outcome.code for outcome in Outcome] == [0, 1, 2]
    assert list(Outcome) == [Outcome.UNLABELLED, Outcome.SUCCESS, Outcome.FAILURE]


FULL = EpisodeMetadata(
    episode_id="e",
    task="push_t",
    robot="panda",
    operator="Ann Ö.",
    policy_version="v3",
    judgements=tuple(judged(S, U, F)),
    start_ns=5,
    end_ns=9,
    end_reason="stopped: on\nrequest",
    lost={"joint_states": TopicLoss(middleware=1, gaps=2)},
    degraded_reasons=("joint_states: 2 lost",),
    recovered=True,
    setup={"joints": ["a", "b"], "tool": {"xyz": [0.0, 0.1, 1e-9]}},
    config_hash="ab",
    software_version="0.1.0",
    tags={"seed": "7", "note": "a: b"},
)


def test_metadata_survive_the_table():
    table = FULL.to_table()
    assert all(isinstance(value, str) for value in table.values())
    assert metadata_from_table(table, "here") == FULL


def test_the_table_tells_people_outcome_and_quality():
    table = FULL.to_table()
    assert (table["rl100.outcome"], table["rl100.degraded"]) == ("failure", "true")
    assert table["rl100.lost_total"] == "2"  # one lost by DDS is among the two gaps


def test_a_table_of_a_later_version_is_read_as_far_as_it_is_known():
    table = FULL.to_table() | {"rl100.invented_later": "x", "somebody.else": "y"}
    assert metadata_from_table(table, "here") == FULL


@pytest.mark.parametrize(
    "table",
    [{}, {"rl100.task": "t"}, FULL.to_table() | {"rl100.judgements": "[{"},
     FULL.to_table() | {"rl100.start_ns": "soon"}],
)  # fmt: skip
def test_a_foreign_or_malformed_table_is_refused_by_name(table):
    with pytest.raises(BagError, match="here"):
        metadata_from_table(table, "here")


def test_losses_of_different_witnesses_are_not_counted_twice():
    # three messages never arrived: DDS reports two of them, the stamps show all three
    assert TopicLoss(middleware=2, gaps=3).total == 3
    # two more arrived and were not written: four were lost, of which the gap shows three
    assert TopicLoss(middleware=2, gaps=3, recorder=2).total == 4


def test_equal_descriptions_have_equal_hashes_and_others_do_not():
    same = FULL.with_changes()
    assert config_hash(FULL) == config_hash(same)
    assert config_hash(FULL) != config_hash(FULL.with_changes(task="other"))


def test_episode_ids_sort_by_time_and_are_plain_file_names():
    begin = datetime(2026, 11, 21, 2, 8, 13, 42_000, UTC)
    ids = [
        new_episode_id("push t/1", begin + timedelta(milliseconds=ms))
        for ms in (0, 1, 958, 3600_000)
    ]
    assert ids[0] == "20261121T020813_042Z_push_t_1"
    assert ids == sorted(ids)


def test_offered_qos_survives_its_yaml():
    profiles = (OfferedQos(), OfferedQos("keep_last", 7, "best_effort", "transient_local", 5))
    assert qos_from_yaml(qos_to_yaml(profiles)) == profiles
    assert qos_from_yaml(qos_to_yaml(())) == ()


@pytest.mark.parametrize("text", ["- history: 3", "7", "- [", "- x"])
def test_malformed_qos_is_refused(text):
    with pytest.raises(BagError):
        qos_from_yaml(text)
