# SPDX-License-Identifier: Apache-2.0
"""Quality of service offered by the publishers of a recorded topic, in the words of rosbag2.

``ros2 bag play`` republishes with these, so that a latched topic is latched again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from rl100_policy.core.errors import BagError

INFINITE_NS = 2**63 - 1
"""Duration that rmw calls infinite [ns]."""


@dataclass(frozen=True)
class OfferedQos:
    """One publisher's profile; names as in metadata.yaml of version 9, durations in ns."""

    history: str = "unknown"
    depth: int = 0
    reliability: str = "reliable"
    durability: str = "volatile"
    deadline_ns: int = INFINITE_NS
    lifespan_ns: int = INFINITE_NS
    liveliness: str = "automatic"
    liveliness_lease_ns: int = INFINITE_NS
    avoid_ros_namespace_conventions: bool = False

    def to_entry(self) -> dict[str, Any]:
        """Entry of ``offered_qos_profiles``."""
        return {
            "history": self.history,
            "depth": self.depth,
            "reliability": self.reliability,
            "durability": self.durability,
            "deadline": _split(self.deadline_ns),
            "lifespan": _split(self.lifespan_ns),
            "liveliness": self.liveliness,
            "liveliness_lease_duration": _split(self.liveliness_lease_ns),
            "avoid_ros_namespace_conventions": self.avoid_ros_namespace_conventions,
        }


def qos_to_yaml(profiles: Iterable[OfferedQos]) -> str:
    """YAML list for the channel metadata of an MCAP file; empty text for no profiles."""
    entries = [profile.to_entry() for profile in profiles]
    return yaml.safe_dump(entries, sort_keys=False).strip() if entries else ""


def qos_from_yaml(text: str) -> tuple[OfferedQos, ...]:
    """Profiles from the channel metadata of an MCAP file.

    Raises:
        BagError: If the text is not such a list.
    """
    try:
        return tuple(_from_entry(entry) for entry in yaml.safe_load(text) or [])
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise BagError(
            f"offered_qos_profiles is not a list of profiles: {error!r}; found {text!r}"
        ) from error


def _from_entry(entry: Mapping[str, Any]) -> OfferedQos:
    return OfferedQos(
        history=str(entry["history"]),
        depth=int(entry["depth"]),
        reliability=str(entry["reliability"]),
        durability=str(entry["durability"]),
        deadline_ns=_join(entry["deadline"]),
        lifespan_ns=_join(entry["lifespan"]),
        liveliness=str(entry["liveliness"]),
        liveliness_lease_ns=_join(entry["liveliness_lease_duration"]),
        avoid_ros_namespace_conventions=bool(entry["avoid_ros_namespace_conventions"]),
    )


def _split(duration_ns: int) -> dict[str, int]:
    return {"sec": duration_ns // 1_000_000_000, "nsec": duration_ns % 1_000_000_000}


def _join(duration: Mapping[str, int]) -> int:
    return int(duration["sec"]) * 1_000_000_000 + int(duration["nsec"])
