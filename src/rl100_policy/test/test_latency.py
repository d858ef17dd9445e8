# SPDX-License-Identifier: Apache-2.0
"""Journeys from what was seen to the command, and what their hops took."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl100_policy.core import latency
from rl100_policy.core.latency import (
    HOPS,
    TOTALS,
    Journey,
    JourneyLog,
    LatencyWindow,
    Mark,
    hop_latency,
)

MS = 10**6


def stages(stamp_ns=7, begin_ns=1000, command_ns=70):
    """What the nodes tell of one observation whose hops take 1, 2, 3 ... ms, and its arrival."""
    names = [HOPS[0].begin, *(hop.end for hop in HOPS)]
    times = begin_ns + np.concatenate([[0], np.cumsum(np.arange(1, len(names)))]) * MS
    marks = dict(zip(names, map(int, times), strict=True))
    arrived = marks.pop(Mark.ARRIVED)

    def of(*wanted):
        return {name: marks[name] for name in wanted}

    def tell(log, *wanted, **more):
        return log.tell(stamp_ns, of(*wanted), **more)

    return [
        lambda log: tell(log, "sensor"),
        lambda log: tell(log, "sight_in", "sight_out"),
        lambda log: tell(log, "policy_in", "begun", "encoded", "decided", version="v@1"),
        lambda log: tell(log, "gate_in", "commanded", command_ns=command_ns),
        lambda log: log.arrive(command_ns, arrived),
    ]


def test_hops_follow_each_other():
    assert all(before.end == after.begin for before, after in pairwise(HOPS))


@given(order=st.permutations(range(5)))
def test_in_whatever_order_it_is_told_the_journey_is_the_same(order):
    log, told = JourneyLog(), stages()
    found = [journey for at in order for journey in told[at](log)]
    # it is over once the command has arrived; what a camera or cloud tells after that is too late
    assert len(found) == 1
    last = max(order.index(at) for at in (2, 3, 4))
    assert found[0].version == "v@1"
    known = [hop for hop in HOPS if not math.isnan(found[0].duration_s(hop))]
    for hop in known:
        assert found[0].duration_s(hop) == pytest.approx((HOPS.index(hop) + 1) * 1e-3)
    if order.index(0) < last and order.index(1) < last:
        assert len(known) == len(HOPS)
        assert found[0].duration_s(TOTALS[1]) == pytest.approx(sum(range(1, 10)) * 1e-3)
    assert found[0].duration_s(TOTALS[0]) == pytest.approx((4 + 5 + 6) * 1e-3)


def test_a_command_that_no_policy_asked_for_ends_no_journey():
    log = JourneyLog()
    assert log.arrive(1, 5) == []
    assert [each(log) for each in stages()[:4]] == [[]] * 4


def test_decisions_that_come_too_late_to_be_commanded_count():
    """Regression: of 100 decisions, half of them late and superseded, no miss was counted."""
    log, window = JourneyLog(), LatencyWindow(100 * MS)
    for at in range(100):
        late, begun = at % 2, at * 100 * MS
        marks = {Mark.POLICY_IN: begun, Mark.DECIDED: begun + (350 if late else 10) * MS}
        over = log.tell(at, marks, version="v@1")
        if not late:
            over += log.tell(at, {Mark.COMMANDED: begun + 20 * MS}, command_ns=1000 + at)
            over += log.arrive(1000 + at, begun + 30 * MS)
        for journey in over:
            window.add(journey)
    summary = window.summary("v@1")
    assert (summary.journeys, summary.misses) == (100 - latency._LATER, 50 - latency._LATER)


def test_what_never_arrives_is_forgotten():
    log = JourneyLog()
    for stamp in range(1, 3000):
        log.tell(stamp, {"decided": stamp}, version="v", command_ns=0)
        log.tell(stamp, {"commanded": stamp}, command_ns=10**6 + stamp)
        log.arrive(stamp, stamp)
    assert max(map(len, (log._open, log._commands, log._arrivals))) <= latency._OPEN


def test_versions_are_told_apart_and_the_newest_is_last():
    window = LatencyWindow(100 * MS, length=3)
    for at, version in enumerate(["a", "b", "a", "a", "a", "a"]):
        window.add(Journey(at, version, {"policy_in": 0, "decided": (at + 1) * 30 * MS}))
    assert window.versions == ("b", "a")
    summary = window.summary("a")
    (total,) = summary.hops
    assert (total.hop, total.count) == ("observation to chunk", 3)
    assert (total.p50_s, total.max_s, total.jitter_s) == pytest.approx((0.15, 0.18, 0.03))
    assert (summary.journeys, summary.misses) == (3, 3)
    assert window.summary("b").misses == 0
    assert window.summary("unheard").hops == ()


def test_percentiles_leave_out_what_is_not_known():
    found = hop_latency("x", [float("nan"), 1.0, 2.0, float("nan"), 4.0])
    assert (found.count, found.p50_s, found.max_s) == (3, 2.0, 4.0)
    assert found.p99_s == pytest.approx(np.percentile([1, 2, 4], 99))
    assert found.jitter_s == pytest.approx(1.5)
    assert math.isnan(hop_latency("x", []).p99_s)


def test_journeys_of_the_newest_versions_are_kept_and_no_more():
    window = LatencyWindow(100 * MS)
    for at in range(3 * latency._VERSIONS):
        window.add(Journey(at, f"v{at}"))
    assert len(window.versions) == latency._VERSIONS
    assert window.versions[-1] == f"v{3 * latency._VERSIONS - 1}"
