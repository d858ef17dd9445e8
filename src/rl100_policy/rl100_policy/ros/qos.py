# SPDX-License-Identifier: Apache-2.0
"""Named quality-of-service profiles, one reason each."""

from __future__ import annotations

from rclpy.duration import Duration
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

SENSOR = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=5,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
)
"""Published sensor streams. Reliable, so that a recorder or a lockstep graph may ask for every
message; a best-effort subscription still matches."""

SENSOR_LATEST = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=2,
    reliability=ReliabilityPolicy.BEST_EFFORT,
    durability=DurabilityPolicy.VOLATILE,
)
"""Reading a real sensor in real time: a stale frame is worse than none, and best effort matches
every driver."""

COMMAND = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
)
"""Commands to the arm and actions: only the newest counts, but it must arrive."""

EVENT = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=50,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
)
"""Records and judgements: none may be lost while a subscriber catches up."""

EVERY_EVENT = QoSProfile(
    history=HistoryPolicy.KEEP_ALL,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
)
"""Reading events of which none may be displaced by others, however many: the emergency stop."""

LATCHED = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
"""State and status: a late subscriber gets the newest at once."""


def due_every(profile: QoSProfile, seconds: float) -> QoSProfile:
    """The same with a deadline that its publisher offers: misses are in its diagnostics.

    Only offered, never asked for: a subscription that asks for one gets nothing from publishers
    that offer none, as drivers of arms and cameras do.
    """
    return QoSProfile(
        history=profile.history,
        depth=profile.depth,
        reliability=profile.reliability,
        durability=profile.durability,
        deadline=Duration(seconds=seconds),
    )


def sensor_input(*, lockstep: bool) -> QoSProfile:
    """Subscription profile of a sensor.

    Every message in lockstep, the newest only in real time.
    """
    return SENSOR if lockstep else SENSOR_LATEST
