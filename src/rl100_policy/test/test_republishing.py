# SPDX-License-Identifier: Apache-2.0
"""The profile that a bag is published with again."""

import pytest
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy

from rl100_policy.bags.qos import OfferedQos
from rl100_policy.ros.republishing import profile_of


@pytest.mark.parametrize(
    ("offered", "reliability", "durability"),
    [
        ([], "RELIABLE", "VOLATILE"),
        ([OfferedQos(reliability="best_effort")], "BEST_EFFORT", "VOLATILE"),
        ([OfferedQos(durability="transient_local")], "RELIABLE", "TRANSIENT_LOCAL"),
        ([OfferedQos(), OfferedQos(reliability="best_effort")], "BEST_EFFORT", "VOLATILE"),
        ([OfferedQos(durability="transient_local"), OfferedQos()], "RELIABLE", "VOLATILE"),
    ],
)
def test_the_profile_is_what_all_recorded_publishers_offered(offered, reliability, durability):
    profile = profile_of(offered)
    assert profile.reliability is ReliabilityPolicy[reliability]
    assert profile.durability is DurabilityPolicy[durability]


def test_a_latched_topic_keeps_one_message_and_another_some_for_readers_that_lag():
    assert profile_of([OfferedQos(durability="transient_local")]).depth == 1
    assert profile_of([OfferedQos()]).depth > 1
    assert profile_of([OfferedQos(depth=7)]).depth == 7
