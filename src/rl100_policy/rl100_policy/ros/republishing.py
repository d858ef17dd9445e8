# SPDX-License-Identifier: Apache-2.0
"""Publishing again what a bag holds: the quality of service it was recorded with."""

from __future__ import annotations

from collections.abc import Sequence

from rclpy.duration import Duration
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from rl100_policy.bags.qos import INFINITE_NS, OfferedQos

_DEPTH = 50
"""Messages kept for readers that lag, where the recorded profile does not say."""


def profile_of(offered: Sequence[OfferedQos]) -> QoSProfile:
    """The profile to publish with: what the recorded publishers all offered, at least.

    Args:
        offered: As recorded; empty: unknown, which is taken for reliable and volatile.
    """
    profiles = offered or (OfferedQos(),)
    first = profiles[0]
    reliable = all(each.reliability != "best_effort" for each in profiles)
    latched = all(each.durability == "transient_local" for each in profiles)
    known = max(each.depth for each in profiles)
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=known or (1 if latched else _DEPTH),
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=(DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE),
        deadline=_duration(first.deadline_ns),
        lifespan=_duration(first.lifespan_ns),
    )


def _duration(duration_ns: int) -> Duration:
    """A duration of a profile; zero, which is none, for what rmw calls infinite."""
    return Duration(nanoseconds=0 if duration_ns >= INFINITE_NS else duration_ns)
