# SPDX-License-Identifier: Apache-2.0
"""Whether the running graph is one to replay an episode into."""

from __future__ import annotations

from collections.abc import Sequence

from rclpy.node import Node

from rl100_policy.bags.playback import TRAJECTORY
from rl100_policy.core.errors import Rl100Error

_LOOK_PERIOD_S = 1.0
_UNKNOWN = "_NODE_NAME_UNKNOWN_"
"""Name that the middleware gives a node of which it has heard of a publisher only."""


class ReplayError(Rl100Error):
    """An episode is not replayed, or no further, because of what else runs."""


class ReplayGuard:
    """Looks who else is there, before the first message and every second after it."""

    def __init__(self, node: Node, sensors: Sequence[str], *, tells_time: bool) -> None:
        """Guard a replay.

        Args:
            node: That publishes the replay.
            sensors: Topics of sensors that it publishes.
            tells_time: Whether it publishes ``/clock``.
        """
        self._node, self._sensors, self._tells_time = node, sensors, tells_time
        self._me = (node.get_name(), node.get_namespace())
        self._next_look_s = 0.0

    def look_around(self, now_s: float) -> None:
        """Look if it is time to; raises as :meth:`refuse_others`.

        Args:
            now_s: Monotonic time.
        """
        if now_s >= self._next_look_s:
            self._next_look_s = now_s + _LOOK_PERIOD_S
            self.refuse_others()

    def others(self, topic: str) -> list[str]:
        """Other nodes that publish a topic, sorted."""
        found = self._node.get_publishers_info_by_topic(topic)
        names = {(each.node_name, each.node_namespace) for each in found} - {self._me}
        return sorted(
            "a node of unknown name" if name == _UNKNOWN else f"{namespace.rstrip('/')}/{name}"
            for name, namespace in names
        )

    def refuse_others(self) -> None:
        """Look now.

        Raises:
            ReplayError: If the replay would be mixed with what a driver or a simulated robot
                publishes, there would be two clocks, or an arm could be moved by a gate that takes
                recorded joint states for those of the arm.
        """
        for topic in self._sensors:
            if others := self.others(topic):
                raise ReplayError(
                    f"{', '.join(others)} publishes {topic}: a driver or simulated robot runs. "
                    "Two robots on one topic would be taken for one; stop it, or use another "
                    "ROS_DOMAIN_ID"
                )
        if self._tells_time and (others := self.others("/clock")):
            raise ReplayError(
                f"{', '.join(others)} publishes /clock, and the replay has a time of its own; "
                "stop it, or replay with --now"
            )
        if self._sensors:
            self._refuse_a_listening_arm()

    def _refuse_a_listening_arm(self) -> None:
        for topic, types in self._node.get_topic_names_and_types():
            commanders = self.others(topic) if TRAJECTORY in types else []
            if commanders and self._node.count_subscribers(topic):
                raise ReplayError(
                    f"an arm listens on {topic} to {', '.join(commanders)}, which could answer "
                    "the recorded sensors with commands; stop one of the two"
                )
