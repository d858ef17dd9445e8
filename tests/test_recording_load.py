# SPDX-License-Identifier: Apache-2.0
"""The benchmarks of bags: a recorder under a light load, and what they call missing."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bag_contents import Span, compare
from recorder_load import Samples
from recording import memory_of

BENCH = Path(__file__).parents[1] / "bench"
SENT = np.stack([np.arange(10) * 100, np.arange(10) * 100 + 5], axis=1)
"""Ten messages, stamped every 100 ns and sent 5 ns later."""
SPAN = Span(asked_ns=200, answered_ns=300, end_ns=700)
"""Messages 3 to 7 belong to it, 2 was sent after the question and may."""


def recorded(*numbers):
    """Rows of a bag: stamps of these messages, each received 7 ns after it was sent."""
    return SENT[list(numbers)] + np.array([0, 7])


@pytest.mark.parametrize(
    ("numbers", "sent", "missing", "disordered"),
    [
        ([3, 4, 5, 6, 7], 5, 0, 0),
        ([2, 3, 4, 5, 6, 7, 8], 7, 0, 0),  # one before and one after, as it may be
        ([0, 3, 4, 5, 6, 7], 5, 0, 0),  # the first is latched, of long before
        ([3, 4, 6, 7], 5, 1, 0),
        ([4, 5, 6], 5, 2, 0),
        ([3, 4, 5, 5, 6, 7], 5, 0, 1),
        ([3, 5, 4, 6, 7], 5, 0, 1),
        ([], 5, 5, 0),
    ],
)
def test_what_is_missing_or_out_of_order_in_a_bag_is_counted(numbers, sent, missing, disordered):
    found = compare(SENT, recorded(*numbers), SPAN)
    assert (found.sent, found.missing, found.disordered) == (sent, missing, disordered)
    assert found.unknown == 0


def test_a_message_that_was_never_sent_is_counted():
    found = compare(SENT, np.array([[301, 320], *recorded(3, 4, 5, 6, 7)]), SPAN)
    assert (found.unknown, found.missing) == (1, 0)


def test_gap_and_delay_are_those_of_reception():
    found = compare(SENT, recorded(3, 4, 6, 7), SPAN)
    assert found.worst_gap_s == pytest.approx(200e-9)
    assert found.worst_delay_s == pytest.approx(7e-9)


@pytest.mark.parametrize(("mb_per_min", "unbounded"), [(0.0, False), (1.0, False), (15.0, True)])
def test_memory_that_keeps_growing_is_found(mb_per_min, unbounded):
    seconds = [float(each) for each in range(180)]
    memory = [200.0 + mb_per_min * each / 60.0 for each in seconds]
    found = memory_of(Samples(seconds=seconds, memory_mb=memory))
    assert found.slope_mb_per_min == pytest.approx(mb_per_min, abs=1e-6)
    assert found.is_unbounded == unbounded


@pytest.mark.ros
@pytest.mark.slow
def test_nothing_is_lost_under_a_light_load(tmp_path):
    command = [sys.executable, str(BENCH / "recording.py"), "--output", str(tmp_path)]
    load = ["--minutes", "0.1", "--episode", "3", "--joints", "100", "--images", "5"]
    done = subprocess.run([*command, *load], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["problems"] == []
    joints = [each["contents"]["joint_states"] for each in report["episodes"]]
    assert sum(each["recorded"] for each in joints) >= 0.9 * 6.0 * 100.0  # six seconds of 100 Hz
    assert not list((tmp_path / "bags").glob("*_load"))


@pytest.mark.slow
def test_reading_reads_only_what_is_new(tmp_path):
    """The benchmark itself fails if a start reads another number of bags than it should."""
    report = tmp_path / "report.json"
    command = [sys.executable, str(BENCH / "bag_reading.py"), "--output", str(report)]
    load = ["--bags", "2", "--repeats", "1", "--length", "0.1"]
    done = subprocess.run(
        [*command, *load], capture_output=True, text=True, timeout=200, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for measured in json.loads(report.read_text()).values():
        (cold,), (parts,) = measured["seconds"]["cold"], measured["parts"]
        assert 0.0 < sum(parts.values()) < cold
