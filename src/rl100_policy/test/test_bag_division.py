# SPDX-License-Identifier: Apache-2.0
"""Episodes are divided by a property or by lot; each is in exactly one group."""

import pytest

from rl100_policy.bags.division import HELD_OUT, TRAIN, divide_by_share, divide_by_value
from rl100_policy.bags.index import IndexEntry
from rl100_policy.bags.judgement import Judgement, JudgementKind
from rl100_policy.bags.metadata import EpisodeMetadata
from rl100_policy.core.errors import BagError


def entry(name: str, **fields) -> IndexEntry:
    metadata = EpisodeMetadata(episode_id=name, **{"task": "push_t"} | fields)
    return IndexEntry(folder=name, key="", bytes=1, seconds=1.0, messages=1, metadata=metadata)


def names(groups) -> dict[str, list[str]]:
    return {group: [each.folder for each in members] for group, members in groups.items()}


ENTRIES = [
    entry("a", operator="ann", tags={"light": "dim"}),
    entry("b", policy_version="push/t b@12", judgements=(
        Judgement(stamp_ns=1, kind=JudgementKind.SUCCESS),)),
    entry("c", operator="ann", task="pour", tags={"light": ""}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("outcome", {"success": ["b"], "unlabelled": ["a", "c"]}),
        ("driver", {"person": ["a", "c"], "push_t_b@12": ["b"]}),
        ("task", {"pour": ["c"], "push_t": ["a", "b"]}),
        ("operator", {"ann": ["a", "c"], "none": ["b"]}),
        ("tag:light", {"dim": ["a"], "none": ["b", "c"]}),
    ],
)
def test_there_is_a_group_for_every_value_with_a_name_a_folder_can_have(key, expected):
    assert names(divide_by_value(ENTRIES, key)) == expected


@pytest.mark.parametrize("key", ["colour", "tag", ""])
def test_an_unknown_property_is_refused_with_those_there_are(key):
    with pytest.raises(BagError, match="outcome, driver, task, operator, share or tag:KEY"):
        divide_by_value(ENTRIES, key)


def test_two_values_that_would_get_the_same_folder_are_refused():
    with pytest.raises(BagError, match="'a b' and 'a/b'"):
        divide_by_value([entry("1", operator="a b"), entry("2", operator="a/b")], "operator")


@pytest.mark.parametrize("value", ["..", ".", "../x"])
def test_no_value_leads_out_of_the_folder_or_hides(value):
    (group,) = divide_by_value([entry("1", operator=value)], "operator")
    assert "/" not in group
    assert not group.startswith(".")


MANY = [entry(f"e{number:02d}") for number in range(20)]


def test_a_share_is_taken_by_lot_and_every_episode_is_in_one_group():
    groups = names(divide_by_share(MANY, 0.8, seed=0))
    assert len(groups[TRAIN]) == 16
    assert sorted(groups[TRAIN] + groups[HELD_OUT]) == [each.folder for each in MANY]
    assert groups[TRAIN] != [each.folder for each in MANY[:16]]


def test_the_same_seed_divides_the_same_way_in_whatever_order_and_another_otherwise():
    first = names(divide_by_share(MANY, 0.5, seed=1))
    assert names(divide_by_share(MANY[::-1], 0.5, seed=1)) == first
    assert names(divide_by_share(MANY, 0.5, seed=2)) != first


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0, 0.01, float("nan")])
def test_a_share_that_leaves_a_group_empty_is_refused(share):
    with pytest.raises(BagError, match="share"):
        divide_by_share(MANY, share, seed=0)
