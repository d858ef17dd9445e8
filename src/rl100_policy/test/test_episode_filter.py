# SPDX-License-Identifier: Apache-2.0
"""Which episodes a filter accepts."""

from datetime import UTC, datetime, timedelta

import pytest

from rl100_policy.bags.episode_filter import (
    EpisodeFilter,
    parse_moment,
    parse_tags,
    time_of_episode,
)
from rl100_policy.bags.index import IndexEntry
from rl100_policy.bags.judgement import Judgement, JudgementKind, Outcome
from rl100_policy.bags.metadata import EpisodeMetadata
from rl100_policy.core.errors import BagError

SUCCESS = (Judgement(stamp_ns=1, kind=JudgementKind.SUCCESS),)


def entry(name: str = "20261121T020813_042Z_push_t", seconds: float = 5.0, **fields) -> IndexEntry:
    metadata = EpisodeMetadata(episode_id=name, **{"task": "push_t"} | fields)
    return IndexEntry(folder=name, key="", bytes=1, seconds=seconds, messages=1, metadata=metadata)


def test_without_conditions_every_episode_is_accepted():
    assert EpisodeFilter().accepts(entry("no time in this name", task=""))


@pytest.mark.parametrize(
    ("conditions", "accepted", "refused"),
    [
        ({"outcomes": frozenset({Outcome.SUCCESS})}, {"judgements": SUCCESS}, {}),
        ({"outcomes": frozenset({Outcome.UNLABELLED})}, {}, {"judgements": SUCCESS}),
        ({"driver": "person"}, {"operator": "ann"}, {"policy_version": "a@1"}),
        ({"driver": "policy"}, {"policy_version": "a@1"}, {"operator": "ann"}),
        ({"driver": "push_t_b"}, {"policy_version": "push_t_b@12"}, {"policy_version": "b@12"}),
        ({"driver": "a"}, {"policy_version": "a@1"}, {"operator": "ann"}),
        ({"task": "push_t"}, {}, {"task": "push_t_rgb"}),
        ({"operator": "ann"}, {"operator": "ann"}, {"operator": "anna"}),
        ({"degraded": True}, {"degraded_reasons": ("gap",)}, {}),
        ({"degraded": False}, {}, {"degraded_reasons": ("gap",)}),
        ({"tags": {"a": "1"}}, {"tags": {"a": "1", "b": "2"}}, {"tags": {"a": "2"}}),
        ({"tags": {"a": "1"}}, {"tags": {"a": "1"}}, {}),
        ({"longer_s": 5.0}, {"seconds": 5.0}, {"seconds": 4.9}),
        ({"shorter_s": 5.0}, {"seconds": 5.0}, {"seconds": 5.1}),
    ],
)  # fmt: skip
def test_each_condition_accepts_and_refuses(conditions, accepted, refused):
    chosen = EpisodeFilter(**conditions)
    assert chosen.accepts(entry(**accepted))
    assert not chosen.accepts(entry(**refused))


def test_several_outcomes_are_alternatives_and_other_conditions_add_up():
    chosen = EpisodeFilter(
        outcomes=frozenset({Outcome.SUCCESS, Outcome.UNLABELLED}), operator="ann"
    )
    assert chosen.accepts(entry(operator="ann"))
    assert chosen.accepts(entry(operator="ann", judgements=SUCCESS))
    assert not chosen.accepts(entry(operator="bob", judgements=SUCCESS))


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("2026-11-21", timedelta(days=1)),
        ("20261121", timedelta(days=1)),
        ("2026-11-21T02:08", timedelta(minutes=1)),
        ("2026-11-21 02:08:13", timedelta(seconds=1)),
        ("20261121T020813_042Z", timedelta(milliseconds=1)),
        ("20261121T020813_042Z_push_t", timedelta(milliseconds=1)),
        ("20261121T020813_042Z_push_t_2", timedelta(milliseconds=1)),
    ],
)
def test_a_moment_is_as_long_as_its_last_unit(text, length):
    moment = parse_moment(text)
    assert moment.begin <= datetime(2026, 11, 21, 2, 8, 13, 42000, UTC) < moment.end
    assert moment.end - moment.begin == length


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01", "2026-11", "20261121T25"])
def test_what_is_no_time_is_refused_with_the_form_expected(text):
    with pytest.raises(BagError, match="expected a UTC date such as"):
        parse_moment(text)


@pytest.mark.parametrize(
    ("since", "until", "accepted"),
    [
        ("2026-11-21", "", True),
        ("", "2026-11-21", True),  # the day is over only at its end
        ("2026-11-21", "2026-11-21", True),
        ("2026-11-22", "", False),
        ("", "2026-11-20", False),
        ("2026-11-21T02:08:13", "", True),
        ("2026-11-21T02:08:14", "", False),
        ("", "2026-11-21T02:08:12", False),
        ("20261121T020813_042Z_push_t", "20261121T020813_042Z_push_t", True),
        ("20261121T020813_043Z_push_t", "", False),
    ],
)
def test_times_bound_when_an_episode_began_both_ends_included(since, until, accepted):
    chosen = EpisodeFilter(
        since=parse_moment(since) if since else None, until=parse_moment(until) if until else None
    )
    assert chosen.accepts(entry()) is accepted


def test_an_episode_whose_name_has_no_time_is_in_no_stretch_of_time():
    assert time_of_episode(entry("episode").metadata) is None
    assert not EpisodeFilter(since=parse_moment("1999-01-01")).accepts(entry("episode"))


def test_the_order_of_episodes_is_kept():
    entries = [entry("b"), entry("a", task="other"), entry("c")]
    chosen = EpisodeFilter(task="push_t").chosen(entries)
    assert [each.folder for each in chosen] == ["b", "c"]


def test_a_tag_may_have_an_empty_value_but_not_an_empty_key():
    assert parse_tags(["a=1", "b=", "c=x=y"]) == {"a": "1", "b": "", "c": "x=y"}
    for wrong in ("a", "=1"):
        with pytest.raises(BagError, match="key=value"):
            parse_tags([wrong])
