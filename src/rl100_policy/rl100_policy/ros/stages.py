# SPDX-License-Identifier: Apache-2.0
"""Telling when a node dealt with an observation (see :mod:`rl100_policy.core.latency`)."""

from __future__ import annotations

from collections.abc import Mapping

from rclpy.node import Node

from rl100_msgs.msg import StageTimes
from rl100_policy.core.latency import Mark
from rl100_policy.ros.conversions import header, time_message
from rl100_policy.ros.qos import EVENT

STAGES_TOPIC = "latency/stages"


class StageTeller:
    """Publishes marks of one node, as long as somebody listens."""

    def __init__(self, node: Node) -> None:
        """Advertise."""
        self._stages = node.create_publisher(StageTimes, STAGES_TOPIC, EVENT)

    def tell(
        self,
        observation_ns: int,
        marks_ns: Mapping[Mark, int],
        *,
        version: str = "",
        command_ns: int = 0,
    ) -> None:
        """Publish marks; arguments as of :meth:`rl100_policy.core.latency.JourneyLog.tell`."""
        if self._stages.get_subscription_count():
            self._stages.publish(
                stages_message(observation_ns, marks_ns, version=version, command_ns=command_ns)
            )


def stages_message(
    observation_ns: int, marks_ns: Mapping[Mark, int], *, version: str = "", command_ns: int = 0
) -> StageTimes:
    """Message of some marks [ns of wall time]."""
    return StageTimes(
        header=header(observation_ns),
        policy_version=version,
        command_stamp=time_message(command_ns),
        marks=list(marks_ns),
        times=[time_message(each) for each in marks_ns.values()],
    )
