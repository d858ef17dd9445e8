# SPDX-License-Identifier: Apache-2.0
"""What is known about an episode besides its messages, as it is kept inside the bag.

The same flat table of strings, each key beginning with ``rl100.``, is written twice: as rosbag2
``custom_data`` in metadata.yaml, where ``ros2 bag info`` shows it, and as an MCAP metadata record,
where it survives without metadata.yaml.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from rl100_policy.bags.judgement import Judgement, Outcome
from rl100_policy.bags.reward import Verdict, verdict
from rl100_policy.core.config import FrozenModel
from rl100_policy.core.errors import BagError

MCAP_RECORD = "rl100_episode"
"""Name of the MCAP metadata record; the last one in a file holds."""

_PREFIX = "rl100."
_FORMAT = 1
_JSON_FIELDS = (
    "judgements", "commanded", "lost", "degraded_reasons", "setup", "expected_periods_s", "tags",
)  # fmt: skip

Count = Annotated[int, Field(ge=0)]


class TopicLoss(FrozenModel):
    """Messages of one topic known to be missing from the bag, by who lost them."""

    middleware: Count = 0
    """Reported by DDS: never reached the recorder."""
    gaps: Count = 0
    """Missing by their header stamps at the expected period, whoever lost them."""
    recorder: Count = 0
    """Reached the recorder but were not written: its queue was full."""

    @property
    def total(self) -> int:
        """Messages missing; a loss seen by DDS also leaves a gap, so the two are not added."""
        return max(self.middleware + self.recorder, self.gaps)


class EpisodeMetadata(FrozenModel):
    """Provenance, outcome and quality of one episode."""

    episode_id: str
    task: str
    robot: str = ""
    operator: str = ""
    policy_version: str = ""
    """Version in command, empty for a pure demonstration."""
    judgements: tuple[Judgement, ...] = ()
    commanded: dict[str, Count] = Field(default_factory=dict)
    """Control periods by who was in command: hold, teleop, policy, home; empty: not known."""
    interventions: Count = 0
    """How often a person took over from the policy."""
    intervened: Count = 0
    """Control periods in which a person had taken over."""
    start_ns: int = 0
    """ROS time when recording started."""
    end_ns: int = 0
    """ROS time of the last wanted observation; 0: everything in the bag."""
    end_reason: str = ""
    """Why recording ended, for people; empty while it runs and after a crash."""
    lost: dict[str, TopicLoss] = Field(default_factory=dict)
    """By topic; topics without loss are left out."""
    degraded_reasons: tuple[str, ...] = ()
    """Why the data are known to be incomplete, for people; empty: nothing known."""
    recovered: bool = False
    """The bag was rebuilt from what a crash left."""
    setup: dict[str, Any] = Field(default_factory=dict)
    """What the numbers depend on and do not tell by themselves, see ``RobotConfig.setup``; empty:
    not known. A learner refuses a bag whose setup differs from that of its robot description."""
    config_hash: str = ""
    """SHA-256 of the robot and task descriptions in force, of every key: where a bag comes from.
    Descriptions that differ only in what does not matter have different ones, so nothing is
    refused for it."""
    software_version: str = ""
    expected_periods_s: dict[str, float] = Field(default_factory=dict)
    """Expected time between the header stamps of each periodic sensor, by topic [s]; empty: not
    known."""
    tags: dict[str, str] = Field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        """What the judgements amount to."""
        return verdict(self.judgements, self.start_ns, self.end_ns)

    @property
    def outcome(self) -> Outcome:
        """Outcome by the judgements."""
        return self.verdict.outcome

    @property
    def degraded(self) -> bool:
        """Messages are known to be missing."""
        return bool(self.degraded_reasons)

    @property
    def lost_total(self) -> int:
        """Messages known to be missing over all topics."""
        return sum(loss.total for loss in self.lost.values())

    def with_changes(self, **changes: Any) -> EpisodeMetadata:
        """Copy with some fields replaced, validated."""
        return EpisodeMetadata.model_validate(self.model_dump() | changes)

    def to_table(self) -> dict[str, str]:
        """Flat table of strings, as both places of a bag keep it.

        Outcome and totals, which follow from the rest, are included for people.
        """
        table = {f"{_PREFIX}format": str(_FORMAT)}
        for key, value in self.model_dump(mode="json").items():
            table[_PREFIX + key] = _as_text(value)
        table[f"{_PREFIX}outcome"] = self.outcome.value
        table[f"{_PREFIX}degraded"] = _as_text(self.degraded)
        table[f"{_PREFIX}lost_total"] = str(self.lost_total)
        return table


def metadata_from_table(table: Mapping[str, str], where: str) -> EpisodeMetadata:
    """Episode metadata from the table in a bag; keys this version does not know are ignored.

    Args:
        table: rosbag2 ``custom_data`` or MCAP metadata record.
        where: The file, for the error message.

    Raises:
        BagError: If the table is not that of an episode, or a value is malformed.
    """
    if f"{_PREFIX}episode_id" not in table:
        raise BagError(
            f"{where} is not an episode of this suite: expected {_PREFIX}episode_id in its custom "
            f"data, found {sorted(table) or 'none'}; give a folder written by the recorder"
        )
    values: dict[str, Any] = {}
    try:
        for key in EpisodeMetadata.model_fields:
            text = table.get(_PREFIX + key)
            if text is not None:
                values[key] = json.loads(text) if key in _JSON_FIELDS else text
        return EpisodeMetadata.model_validate(values)
    except (json.JSONDecodeError, ValidationError) as error:
        raise BagError(
            f"episode metadata in {where} is malformed: {error}; "
            "`./rl100 bags check FOLDER` says what else is wrong with it"
        ) from error


def config_hash(*configs: BaseModel) -> str:
    """SHA-256 of validated descriptions: equal for equal values, however the YAML was written."""
    text = json.dumps([config.model_dump(mode="json") for config in configs], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def software_version() -> str:
    """Version of the installed package, "source" when it runs from an uninstalled tree."""
    try:
        return version("rl100_policy")
    except PackageNotFoundError:
        return "source"


def _as_text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value, sort_keys=True) if isinstance(value, list | dict) else str(value)
