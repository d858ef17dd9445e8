# SPDX-License-Identifier: Apache-2.0
"""The index lists what the bags say, remembers it, and is never needed."""

import shutil
from pathlib import Path

import pytest

from rl100_policy.bags import index as index_module
from rl100_policy.bags.identity import INDEX, METADATA_FILE, QUARANTINE, bag_file
from rl100_policy.bags.index import hint_of_bags, read_index
from rl100_policy.bags.judgement import Judgement, JudgementKind, Outcome
from rl100_policy.bags.metadata import EpisodeMetadata
from rl100_policy.bags.relabel import relabel_episode
from rl100_policy.bags.storage import RecordedTopic
from rl100_policy.bags.testing import MessageFactory
from rl100_policy.bags.writer import EpisodeWriter

FACTORY = MessageFactory()
JOINTS = RecordedTopic("/joint_states", FACTORY.definitions.find("sensor_msgs/msg/JointState"))
KINDS = (JudgementKind.SUCCESS, JudgementKind.SUCCESS, JudgementKind.FAILURE)


def add_episode(bags: Path, name: str, *kinds: JudgementKind, **fields: object) -> Path:
    judgements = tuple(Judgement(stamp_ns=1, kind=kind) for kind in kinds)
    meta = EpisodeMetadata(episode_id=name, task="push_t", judgements=judgements, **fields)
    writer = EpisodeWriter(bags, meta)
    for step in range(3):
        writer.write(JOINTS, FACTORY.joint_state(step, ["a"], [0.0]), log_ns=step * 10**9)
    return writer.close(meta)


@pytest.fixture
def bags(tmp_path) -> Path:
    for number, kind in enumerate(KINDS):
        add_episode(tmp_path, f"e{number}", kind)
    return tmp_path


@pytest.fixture
def reads(monkeypatch) -> list[str]:
    """Names of the bags that were read, not remembered."""
    seen: list[str] = []
    read = index_module.read_metadata

    def counted(folder: Path) -> EpisodeMetadata:
        seen.append(folder.name)
        return read(folder)

    monkeypatch.setattr(index_module, "read_metadata", counted)
    return seen


@pytest.mark.parametrize("content", ["cut", "empty", "noise"])
def test_a_bag_that_is_not_whole_is_damaged_not_an_episode(bags, content):
    """Regression: metadata.yaml was believed without a look at the file beside it."""
    path = bag_file(bags / "e1")
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[:-40], "empty": b"", "noise": bytes(range(256)) * 8}[content])
    index = read_index(bags)
    assert [entry.folder for entry in index.entries] == ["e0", "e2"]
    assert list(index.damaged) == ["e1"]


def test_the_summary_adds_up(bags):
    add_episode(bags, "e3", degraded_reasons=("gap",))
    summary = read_index(bags).summary()
    assert (summary.episodes, summary.messages, summary.degraded) == (4, 12, 1)
    assert summary.seconds == pytest.approx(4 * 2.0)
    assert summary.bytes == sum(path.stat().st_size for path in bags.glob("*/*.mcap"))
    assert summary.outcomes == {
        Outcome.SUCCESS: 2, Outcome.FAILURE: 1, Outcome.UNLABELLED: 1,
    }  # fmt: skip


def test_only_new_and_changed_bags_are_read_again(bags, reads):
    first = read_index(bags)
    assert reads == ["e0", "e1", "e2"]
    add_episode(bags, "e3")
    relabel_episode(bags / "e1", Judgement(stamp_ns=2, kind=JudgementKind.UNDO))
    reads.clear()
    second = read_index(bags)
    assert reads == ["e1", "e3"]
    assert second.entries[0] == first.entries[0]
    assert second.entries[1].metadata.outcome is Outcome.UNLABELLED


def test_a_second_look_reads_what_is_new_and_leaves_the_cache_file_alone(bags, reads):
    first = read_index(bags)
    before = (bags / INDEX).read_bytes()
    add_episode(bags, "e3")
    reads.clear()
    second = read_index(bags, first)
    assert reads == ["e3"]
    assert [entry.folder for entry in second.entries] == ["e0", "e1", "e2", "e3"]
    assert (bags / INDEX).read_bytes() == before
    assert read_index(bags).entries == second.entries


def test_a_removed_bag_leaves_the_index(bags):
    read_index(bags)
    shutil.rmtree(bags / "e1")
    assert [entry.folder for entry in read_index(bags).entries] == ["e0", "e2"]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[]", b'{"format": 99, "entries": []}',
                b'{"format": 1, "entries": [{"folder": "e0"}]}', b"null", b"[" * 100_000],
)  # fmt: skip
def test_a_damaged_index_is_rebuilt_from_the_bags(bags, content):
    expected = read_index(bags)
    (bags / INDEX).write_bytes(content)
    assert read_index(bags) == expected
    assert (bags / INDEX).read_bytes() != content


def test_a_deleted_index_is_rebuilt_from_the_bags(bags):
    expected = read_index(bags)
    content = (bags / INDEX).read_bytes()
    (bags / INDEX).unlink()
    assert read_index(bags) == expected
    assert (bags / INDEX).read_bytes() == content


def test_the_index_works_from_the_mcap_files_alone(bags):
    expected = read_index(bags).summary()
    for path in bags.glob(f"*/{METADATA_FILE}"):
        path.unlink()
    assert read_index(bags).summary() == expected


def test_a_damaged_bag_is_named_and_the_others_are_listed(bags):
    (bags / "e1" / METADATA_FILE).unlink()
    bag_file(bags / "e1").write_bytes(b"torn")
    listed = read_index(bags)
    assert [entry.folder for entry in listed.entries] == ["e0", "e2"]
    assert list(listed.damaged) == ["e1"]


def test_unfinished_and_quarantined_episodes_are_not_episodes(bags):
    (bags / "e9.partial").mkdir()
    (bags / QUARANTINE).mkdir()
    shutil.copytree(bags / "e0", bags / QUARANTINE / "e0")
    listed = read_index(bags)
    assert len(listed.entries) == len(KINDS)
    assert listed.unfinished == ("e9.partial",)


def test_whoever_looks_beside_the_bags_is_told_where_they_are(bags, tmp_path_factory):
    outer = tmp_path_factory.mktemp("outer")
    shutil.copytree(bags, outer / "bags")
    assert hint_of_bags(outer) == f"there are {len(KINDS)} in {outer / 'bags'}"
    assert hint_of_bags(bags / "e1").startswith("this is one episode; give the folder")
    assert hint_of_bags(bags / "none") == f"there is no folder {bags / 'none'}"
    assert hint_of_bags(tmp_path_factory.mktemp("empty")) == ""


def test_a_missing_folder_is_an_empty_index(tmp_path):
    assert read_index(tmp_path / "nothing").summary().episodes == 0
