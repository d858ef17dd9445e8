# SPDX-License-Identifier: Apache-2.0
"""Division of episodes into groups, each of which has a name that a folder can have."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from rl100_policy.bags.episode_filter import driver_of
from rl100_policy.bags.index import IndexEntry
from rl100_policy.core.errors import BagError

SHARE = "share"
TAG = "tag:"
PROPERTIES = ("outcome", "driver", "task", "operator")
TRAIN, HELD_OUT = "train", "held_out"
"""Groups of a division by share."""
NONE = "none"
"""Group of episodes in which what they are divided by is empty or missing."""

_UNSAFE = re.compile(r"[^A-Za-z0-9._@+-]+")

Groups = Mapping[str, Sequence[IndexEntry]]
"""Episodes by group."""


def divide_by_value(entries: Iterable[IndexEntry], key: str) -> Groups:
    """One group per value of a property.

    Args:
        entries: The episodes.
        key: One of ``PROPERTIES``, or ``tag:`` with the key of a tag.

    Returns:
        By the value, with ``_`` for what a folder's name should not have.

    Raises:
        BagError: If there is no such property, or two values would get the same name.
    """
    groups: dict[str, list[IndexEntry]] = {}
    values: dict[str, str] = {}
    for entry in entries:
        value = _value(entry, key)
        name = _UNSAFE.sub("_", value).strip(".") or NONE
        if values.setdefault(name, value) != value:
            raise BagError(
                f"{key} has the values {values[name]!r} and {value!r}, which would both be called "
                f"{name!r}; divide a selection that has one of them only"
            )
        groups.setdefault(name, []).append(entry)
    return dict(sorted(groups.items()))


def divide_by_share(entries: Sequence[IndexEntry], share: float, seed: int) -> Groups:
    """Two groups by lot: ``TRAIN`` with a share of the episodes, ``HELD_OUT`` with the others.

    The same episodes with the same seed are divided the same way, in whatever order they come.

    Args:
        entries: The episodes.
        share: Of the first group, more than 0 and less than 1.
        seed: Of the lot.

    Raises:
        BagError: If a group would be empty.
    """
    if not 0 < share < 1:
        raise BagError(f"expected a share between 0 and 1, got {share}; 0.8 is the usual one")
    ordered = sorted(entries, key=lambda entry: entry.folder)
    count = round(share * len(ordered))
    if not 0 < count < len(ordered):
        raise BagError(
            f"a share of {share} of {len(ordered)} episodes leaves one group empty; give another"
        )
    first = set(np.random.default_rng(seed).permutation(len(ordered))[:count].tolist())
    return {
        TRAIN: [entry for at, entry in enumerate(ordered) if at in first],
        HELD_OUT: [entry for at, entry in enumerate(ordered) if at not in first],
    }


def _value(entry: IndexEntry, key: str) -> str:
    meta = entry.metadata
    values = {
        "outcome": meta.outcome.value,
        "driver": driver_of(meta),
        "task": meta.task,
        "operator": meta.operator,
    }
    if key.startswith(TAG):
        return meta.tags.get(key.removeprefix(TAG), "")
    if key not in values:
        raise BagError(f"expected {', '.join(PROPERTIES)}, {SHARE} or {TAG}KEY, got {key!r}")
    return values[key]
