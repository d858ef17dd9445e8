# SPDX-License-Identifier: Apache-2.0
"""Subscription to serialised messages of any type, adapting to the QoS its publishers offer."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from rclpy.event_handler import SubscriptionEventCallbacks, UnsupportedEventTypeError
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription

from rl100_policy.bags.qos import OfferedQos
from rl100_policy.core.errors import ConfigError


def message_class(type_name: str) -> type:
    """Python class of ``package/msg/Name``.

    Raises:
        ConfigError: If the package is not built or has no such message.
    """
    package, _, name = type_name.split("/")
    try:
        found: type = getattr(importlib.import_module(f"{package}.msg"), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"message type {type_name} is not available: {error}; "
            f"build or install package {package}"
        ) from error
    return found


def has_header(kind: type) -> bool:
    """Whether a message begins with a std_msgs/Header, so that its stamp can be peeked."""
    fields: dict[str, str] = kind.get_fields_and_field_types()  # type: ignore[attr-defined]
    return next(iter(fields.values()), "") == "std_msgs/Header"


def matching_profile(offered: Sequence[QoSProfile], *, latched: bool, depth: int) -> QoSProfile:
    """Strongest subscription profile that every publisher matches.

    Reliable unless a publisher is best-effort; transient-local if wanted and every publisher is.
    Without a publisher yet: reliable, and transient-local if wanted.
    """
    reliable = all(each.reliability != ReliabilityPolicy.BEST_EFFORT for each in offered)
    keeps = all(each.durability == DurabilityPolicy.TRANSIENT_LOCAL for each in offered)
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=(
            DurabilityPolicy.TRANSIENT_LOCAL if latched and keeps else DurabilityPolicy.VOLATILE
        ),
    )


class RawSubscription:
    """One subscription that hands on the bytes as received.

    Used from the executor's thread only. ``on_message`` gets (data, publisher's sequence number or
    0, wall time at which the middleware received it [ns] or 0); ``on_lost`` the number of messages
    the middleware says it lost.
    """

    def __init__(
        self,
        node: Node,
        topic: str,
        kind: type,
        *,
        latched: bool,
        depth: int,
        on_message: Callable[[bytes, int, int], None],
        on_lost: Callable[[int], None],
    ) -> None:
        """Subscribe with what the publishers known now offer."""
        self._node, self._kind = node, kind
        package, _, _ = kind.__module__.partition(".")
        self._type_name = f"{package}/msg/{kind.__name__}"
        self._latched, self._depth = latched, depth
        self._on_message, self._on_lost = on_message, on_lost
        self._incompatible = False
        self.name = node.resolve_topic_name(topic)
        self._subscription = self._subscribe()

    def offered(self) -> tuple[OfferedQos, ...]:
        """Profiles of the publishers known now; the subscription's own if there are none."""
        profiles = self._publisher_profiles() or [self._subscription.qos_profile]
        return tuple(_described(profile) for profile in profiles)

    def publishers(self) -> tuple[bool, tuple[str, ...]]:
        """Whether anybody publishes the topic with the expected type, and which others there are.

        Messages of another type under the same name cannot be received.
        """
        known = self._node.get_publishers_info_by_topic(self.name)
        types = {info.topic_type for info in known}
        return self._type_name in types, tuple(sorted(types - {self._type_name}))

    @property
    def is_incompatible(self) -> bool:
        """A publisher was found whose offer does not match; :meth:`adapt` is to follow."""
        return self._incompatible

    def adapt(self) -> None:
        """Subscribe anew if a publisher appeared that does not match.

        Not to be called from a callback of this subscription.
        """
        if not self._incompatible:
            return
        self._incompatible = False
        self._node.destroy_subscription(self._subscription)
        self._subscription = self._subscribe()
        profile = self._subscription.qos_profile
        self._node.get_logger().info(
            f"{self.name}: subscribed as its publisher offers it, "
            f"{profile.reliability.name}, {profile.durability.name}"
        )

    def _subscribe(self) -> Subscription:
        profile = matching_profile(
            self._publisher_profiles(), latched=self._latched, depth=self._depth
        )
        events = SubscriptionEventCallbacks(
            incompatible_qos=self._note_incompatible,
            message_lost=self._note_lost,
            use_default_callbacks=False,  # each event costs the executor time at every wake-up
        )
        receive = _told_of_reception(self._receive)
        try:
            return self._node.create_subscription(
                self._kind, self.name, receive, profile, event_callbacks=events, raw=True
            )
        except UnsupportedEventTypeError:  # this middleware cannot report losses; stamps still do
            return self._node.create_subscription(
                self._kind, self.name, receive, profile, raw=True
            )

    def _publisher_profiles(self) -> list[QoSProfile]:
        return [info.qos_profile for info in self._node.get_publishers_info_by_topic(self.name)]

    def _note_incompatible(self, _: object) -> None:
        self._incompatible = True

    def _note_lost(self, event: Any) -> None:
        self._on_lost(event.total_count_change)

    def _receive(self, data: bytes, information: dict[str, Any]) -> None:
        sequence = information.get("publication_sequence_number") or 0
        self._on_message(data, sequence, information.get("received_timestamp") or 0)


def _told_of_reception(receive: Callable[[bytes, dict[str, Any]], None]) -> Any:
    """A callback that rclpy gives the information about a message too, by any executor.

    rclpy looks at its signature for that. The events executor of 7.1.6 then calls it with one
    tuple, the others with two arguments.
    """

    def either(*received: Any) -> None:
        receive(*(received[0] if len(received) == 1 else received))

    either.__signature__ = inspect.signature(receive)  # type: ignore[attr-defined]
    return either


def _described(profile: QoSProfile) -> OfferedQos:
    return OfferedQos(
        history=profile.history.name.lower(),
        depth=profile.depth,
        reliability=profile.reliability.name.lower(),
        durability=profile.durability.name.lower(),
        deadline_ns=profile.deadline.nanoseconds,
        lifespan_ns=profile.lifespan.nanoseconds,
        liveliness=profile.liveliness.name.lower(),
        liveliness_lease_ns=profile.liveliness_lease_duration.nanoseconds,
        avoid_ros_namespace_conventions=profile.avoid_ros_namespace_conventions,
    )
