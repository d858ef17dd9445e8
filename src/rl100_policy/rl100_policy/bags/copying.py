# SPDX-License-Identifier: Apache-2.0
"""Copying of what is readable in one MCAP file into a new one."""

from __future__ import annotations

from pathlib import Path

from mcap.records import McapRecord, Message, Metadata

from rl100_policy.bags.metadata import MCAP_RECORD, EpisodeMetadata, metadata_from_table
from rl100_policy.bags.scan import McapScan, TopicTable, recorded_topic
from rl100_policy.bags.storage import RecordedTopic
from rl100_policy.bags.topics import EXECUTED_TOPIC
from rl100_policy.bags.writer import McapFile
from rl100_policy.core.errors import BagError
from rl100_policy.core.interventions import Interventions


class BagCopy:
    """A new file with every readable message of another, byte for byte.

    Attributes:
        file: The new file, still open.
        metadata: Last readable metadata of the episode, None if there are none.
        commanders: Who commanded, of the messages that were copied.
        undescribed: Messages left out because a damaged part held the description of their topic.
    """

    def __init__(self, scan: McapScan, target: Path) -> None:
        """Copy; raises OSError."""
        self.file = McapFile(target, "none")
        self.metadata: EpisodeMetadata | None = None
        self.undescribed = 0
        self.commanders = Interventions()
        self._table = TopicTable()
        self._topics: dict[int, RecordedTopic] = {}
        try:
            for record in scan:
                self._take(record)
        except OSError:
            self.file.abort()
            raise

    def _take(self, record: McapRecord) -> None:
        if isinstance(record, Message):
            self._write(record)
        elif isinstance(record, Metadata):
            self._remember(record)
        else:
            self._table.take(record)

    def _write(self, record: Message) -> None:
        if record.channel_id not in self._topics:
            try:
                described = self._table.described(record.channel_id)
                self._topics[record.channel_id] = recorded_topic(*described)
            except BagError:
                self.undescribed += 1
                return
        topic = self._topics[record.channel_id]
        if topic.name.endswith(f"/{EXECUTED_TOPIC}"):
            self.commanders.observe_message(record.data)
        self.file.write(topic, record.data, record.log_time, record.publish_time, record.sequence)

    def _remember(self, record: Metadata) -> None:
        if record.name != MCAP_RECORD:
            return
        try:
            self.metadata = metadata_from_table(record.metadata, str(self.file.path))
        except BagError:
            return  # an older record, or none, is what is left
