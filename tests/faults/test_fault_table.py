# SPDX-License-Identifier: Apache-2.0
"""The table of faults in the documentation is that of the trials that are kept beside it.

And when the arm is taken to have come to rest.
"""

import numpy as np
import pytest
from fault_graph import PERIOD_S, moves
from faults import known, table

from environment import REPOSITORY


def test_the_table_follows_from_the_trials():
    results = list(known(REPOSITORY / "docs" / "faults").values())
    assert results
    assert table(results) in (REPOSITORY / "docs" / "faults.md").read_text(encoding="utf-8")


def test_an_arm_has_gone_on_at_its_pace_until_it_came_to_rest():
    way = np.array([0.0, 0.0, 0.03, 0.06, 0.07, 0.07, 0.07])
    places = [
        (at * PERIOD_S, round(at * PERIOD_S * 1e9), np.array([q])) for at, q in enumerate(way)
    ]
    found = moves(places)
    assert [begin for begin, _ in found] == pytest.approx([0.1, 0.2, 0.3])
    assert found[-1][1] == pytest.approx(0.3 + PERIOD_S / 3)
    assert moves(places[:5])[-1][1] == pytest.approx(0.4), "it may go on"


def test_an_arm_that_rests_has_not_moved():
    assert moves([(0.1 * at, at * 10**8, np.zeros(2)) for at in range(5)]) == []
