# SPDX-License-Identifier: Apache-2.0
"""The whole graph in real time with a policy of single actions in command.

How fast it is is measured in bench/; here the rate is so low that any machine keeps up.
"""

import math

import pytest
from driven_graph import running, untrained

from rl100_policy.bags.index import read_index
from rl100_policy.bags.reading import read_messages
from rl100_policy.core.gate_result import HELD
from rl100_policy.core.latency import HOPS, TOTALS

pytestmark = [pytest.mark.launch, pytest.mark.slow]

RATE_HZ = 4.0


@pytest.fixture(scope="module")
def driven():
    """Journeys and control periods of a while, with a swap of the version in the middle."""
    with running(128, RATE_HZ, record=True) as (bench, folder, robot, task):
        versions = [
            untrained(folder / f"turn_{seed}", robot, task, "small", 1, seed=seed)
            for seed in range(2)
        ]
        bench.load(versions[0])
        bench.take_command()
        bench.watch(3.0)
        with bench.recording(task.name):
            bench.watch(1.0)
            bench.forget()
            bench.watch(2.0)
            bench.load(versions[1])
            bench.watch(2.0)
        (entry,) = read_index(folder / "bags").entries
        recorded = read_messages(folder / "bags" / entry.folder, ["latency/journeys"])
        yield bench.journeys, bench.periods, recorded["latency/journeys"]


def test_single_actions_are_made(driven):
    """Regression: the gate answered before an action could be there, so none ever was."""
    _, periods, _ = driven
    made = [each for each in periods if each.policy_version and not each.flags & HELD]
    assert len(made) > len(periods) / 2


def test_a_version_takes_over_without_a_period_of_none(driven):
    _, periods, _ = driven
    names = [each.policy_version.partition("@")[0] for each in periods if each.policy_version]
    assert names == sorted(names), "turn_0, then turn_1"
    assert set(names) == {"turn_0", "turn_1"}


def test_every_hop_of_the_way_is_known_and_recorded(driven):
    journeys, _, recorded = driven
    for hop in (*HOPS, *TOTALS):
        # What the camera or the cloud node told after the command had arrived is missing.
        known = [took for each in journeys if not math.isnan(took := each.duration_s(hop))]
        assert len(known) > len(journeys) / 2, hop.name
        assert min(known) >= 0.0, hop.name
    assert len(recorded) >= len(journeys) > 0
