# SPDX-License-Identifier: Apache-2.0
"""Whether a bag holds what was sent while it was recorded, for ``bench/recording.py``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mcap.records import Message
from numpy.typing import NDArray

from rl100_policy.bags.identity import bag_file
from rl100_policy.bags.scan import McapScan, TopicTable
from rl100_policy.core.errors import BagError
from rl100_policy.core.messages import peek_stamp_ns

Stamps = NDArray[np.int64]


@dataclass(frozen=True)
class Span:
    """When an episode was recorded, wall time [ns]."""

    asked_ns: int
    """Just before its start was asked for."""
    answered_ns: int
    """When the answer was there: what is sent from now on belongs to it."""
    end_ns: int
    """Stamp that it was to end with."""


@dataclass(frozen=True)
class TopicContents:
    """What a bag holds of a topic, compared with what was sent on it."""

    sent: int
    """Messages that belong to the episode."""
    recorded: int
    missing: int
    """Of those that were sent."""
    disordered: int
    """Recorded twice, or before one that was sent earlier."""
    unknown: int
    """Recorded and never sent."""
    worst_gap_s: float
    """Longest time between the receptions of two messages [s]."""
    worst_delay_s: float
    """Longest time from sending to reception [s]."""

    @property
    def faults(self) -> int:
        """Messages with which something is wrong."""
        return self.missing + self.disordered + self.unknown


def read_stamps(folder: Path) -> dict[str, Stamps]:
    """Header stamps and times of reception [ns] of everything in a bag, by topic, [M, 2].

    Raises:
        BagError: If the bag is damaged, or a message of it has no header.
    """
    scan, table = McapScan(bag_file(folder)), TopicTable()
    rows: dict[int, list[tuple[int, int]]] = {}
    for record in scan:
        if not isinstance(record, Message):
            table.take(record)
            continue
        stamp_ns = peek_stamp_ns(record.data)
        if stamp_ns is None:
            raise BagError(f"a message of channel {record.channel_id} in {folder} has no stamp")
        rows.setdefault(record.channel_id, []).append((stamp_ns, record.log_time))
    if scan.problem or not scan.complete:
        raise BagError(f"{folder} is damaged: {scan.problem or 'it has no end record'}")
    return {
        table.described(channel)[0].topic: np.array(found, dtype=np.int64)
        for channel, found in rows.items()
    }


def compare(sent: Stamps, recorded: Stamps, span: Span) -> TopicContents:
    """Compare what was sent on a topic with what was recorded of it.

    What was sent between the question for a start and its answer may be in the bag or not, but
    from the first of it that is there, nothing may be missing. A message of before the question is
    the newest of a latched topic, and does not count.

    Args:
        sent: Header stamps and times of sending, [N, 2], in order.
        recorded: Header stamps and times of reception, [M, 2], in the order of the file.
        span: Of the episode.
    """
    numbers = np.searchsorted(sent[:, 0], recorded[:, 0])
    numbers = np.minimum(numbers, len(sent) - 1)
    known = sent[numbers, 0] == recorded[:, 0]
    during = known & (sent[numbers, 1] >= span.asked_ns)
    numbers, received_ns = numbers[during], recorded[during, 1]
    belongs = (sent[:, 1] >= span.answered_ns) & (sent[:, 0] <= span.end_ns)
    there = np.zeros(len(sent), dtype=bool)
    there[numbers] = True
    if len(numbers):
        belongs[numbers.min() : numbers.max() + 1] = True
    return TopicContents(
        sent=int(belongs.sum()),
        recorded=len(numbers),
        missing=int((belongs & ~there).sum()),
        disordered=int((np.diff(numbers) <= 0).sum()),
        unknown=int((~known).sum()),
        worst_gap_s=float(np.diff(received_ns).max(initial=0)) * 1e-9,
        worst_delay_s=float((received_ns - sent[numbers, 1]).max(initial=0)) * 1e-9,
    )


def compare_bag(folder: Path, sent: Mapping[str, Stamps], span: Span) -> dict[str, TopicContents]:
    """Compare every topic of a bag; raises BagError as :func:`read_stamps`."""
    recorded = read_stamps(folder)
    nothing = np.zeros((0, 2), dtype=np.int64)
    return {
        topic: compare(counted, recorded.get(f"/{topic}", nothing), span)
        for topic, counted in sent.items()
    }
