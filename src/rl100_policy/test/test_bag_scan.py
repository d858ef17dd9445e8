# SPDX-License-Identifier: Apache-2.0
"""One pass over an MCAP file: what is wanted of it, and a structure that is not one."""

import pytest
from mcap.records import Channel, Message
from mcap.writer import CompressionType, Writer

from rl100_policy.bags.scan import McapScan

COMPRESSIONS = [CompressionType.NONE, CompressionType.LZ4, CompressionType.ZSTD]


def written(path, compression=CompressionType.NONE, crcs=True):
    """Five messages each of two topics, in turns; the second topic's are long."""
    with path.open("wb") as stream:
        writer = Writer(stream, compression=compression, chunk_size=200, enable_crcs=crcs)
        writer.start()
        schema = writer.register_schema("a/msg/B", "ros2msg", b"int32 b")
        short, long = (writer.register_channel(name, "cdr", schema) for name in ("/a", "/b"))
        for index in range(5):
            writer.add_message(short, index, b"short %d" % index, index + 100, 10 + index)
            writer.add_message(long, index, b"long" * 20, index, 0)
        writer.finish()
    return path


@pytest.mark.parametrize("compression", COMPRESSIONS, ids=lambda each: each.name)
def test_only_messages_of_wanted_topics_come_and_all_of_them_as_they_are(tmp_path, compression):
    scan = McapScan(written(tmp_path / "a.mcap", compression), lambda topic: topic == "/a")
    messages = [each for each in scan if isinstance(each, Message)]
    assert messages == [
        Message(1, index, b"short %d" % index, index + 100, 10 + index) for index in range(5)
    ]
    assert scan.complete
    assert scan.problem == ""


def test_topics_that_are_not_wanted_are_described_all_the_same(tmp_path):
    records = list(McapScan(written(tmp_path / "a.mcap"), lambda _: False))
    assert {each.topic for each in records if isinstance(each, Channel)} == {"/a", "/b"}
    assert not any(isinstance(each, Message) for each in records)


def test_a_message_that_runs_past_its_chunk_is_damage(tmp_path):
    path = written(tmp_path / "a.mcap", crcs=False)
    content = bytearray(path.read_bytes())
    length_at = content.index(b"long" * 20) - 22 - 8  # before the head of the message
    assert content[length_at] == 22 + 80
    content[length_at + 1] = 1  # 256 bytes more
    path.write_bytes(content)
    scan = McapScan(path)
    messages = [each for each in scan if isinstance(each, Message)]
    assert scan.damaged_chunks == 1
    assert "chunk left out" in scan.problem
    assert 0 < len(messages) < 10
