# SPDX-License-Identifier: Apache-2.0
"""How what the policy sees travels from the cloud node to the policy node."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sensor_msgs.msg import Image, PointCloud2

from rl100_policy.core import messages
from rl100_policy.ros.conversions import cloud_message, colour_message


@dataclass(frozen=True)
class SightTopic:
    """One kind of sight as a topic."""

    topic: str
    type: type
    """Of its messages."""
    write: Callable[[Any, int, str], Any]
    """Message from what is seen, stamp [ns] and frame."""
    read: Callable[[Any], Any]
    """What is seen from a message; raises ObservationError if it is malformed."""


SIGHT_TOPICS = {
    "points": SightTopic("policy/cloud", PointCloud2, cloud_message, messages.cloud_points),
    "image": SightTopic("policy/image", Image, colour_message, messages.colour_image),
}
"""By the kind of a task's observation; of proprioception alone there is none."""
