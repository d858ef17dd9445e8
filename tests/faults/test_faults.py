# SPDX-License-Identifier: Apache-2.0
"""Whatever fails, the arm comes to rest within its limits, and the same graph goes on.

Every fault once; ``bench/faults.py`` has a hundred trials of each, and how fast the arm rests.
"""

import os
import subprocess
import sys

import numpy as np
import pytest
import two_machines
from fault_graph import faulty_graph
from fault_list import FAULTS, Expected
from faults import Result, trial

pytestmark = [pytest.mark.launch, pytest.mark.slow]


@pytest.fixture(scope="module")
def graph():
    with faulty_graph() as faulty:
        yield faulty


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_arm_rests_or_goes_on_within_its_limits_and_the_graph_goes_on(graph, fault):
    result = Result(fault.name, fault.expected.value, fault.reaction)
    trial(graph, fault, result)
    broken = [
        told for told in result.problems if not told.startswith(("moved for", "came to rest"))
    ]
    assert not broken
    if fault.expected is Expected.HOLDS:
        assert np.isfinite(result.rest_s).all()


@pytest.mark.skipif(bool(two_machines.why_not()), reason=two_machines.why_not())
def test_the_arm_rests_when_the_network_to_the_policys_machine_is_lost():
    done = subprocess.run(
        [sys.executable, two_machines.__file__, "--trials", "1"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert "moves again after" in done.stdout, done.stdout + done.stderr
    assert "inf" not in done.stdout
