# SPDX-License-Identifier: Apache-2.0
"""The trash: nothing is erased, and everything comes back as it was."""

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from rl100_policy.bags.identity import TRASH
from rl100_policy.bags.index import read_index
from rl100_policy.bags.metadata import EpisodeMetadata
from rl100_policy.bags.testing import MessageFactory
from rl100_policy.bags.trash import TrashNote, discard, read_trash, restore
from rl100_policy.bags.writer import EpisodeWriter
from rl100_policy.core.errors import BagError

FACTORY = MessageFactory()
NOTE = TrashNote(when=datetime(2026, 11, 21, tzinfo=UTC), who="ann", why="camera was covered")


def add_episode(bags: Path, name: str, *, discarded: bool = False) -> Path:
    meta = EpisodeMetadata(episode_id=name, task="push_t")
    writer = EpisodeWriter(bags, meta)
    topic = FACTORY.topic("/joint_states", "sensor_msgs/msg/JointState")
    writer.write(topic, FACTORY.joint_state(1, ["a"], [0.0]), log_ns=1)
    return writer.close(meta, discard=discarded)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_episode_goes_to_the_trash_with_a_note_and_comes_back_byte_for_byte(tmp_path):
    folder = add_episode(tmp_path, "e")
    before = contents(folder)
    trashed = discard(folder, NOTE)
    assert not folder.exists()
    assert contents(trashed.folder) == before
    assert read_trash(tmp_path) == (trashed,)
    assert read_trash(tmp_path)[0].note == NOTE
    assert read_index(tmp_path).entries == ()
    assert restore(tmp_path, "e") == folder
    assert contents(folder) == before
    assert list((tmp_path / TRASH).iterdir()) == []


def test_a_second_episode_of_a_name_does_not_displace_the_first_in_the_trash(tmp_path):
    discard(add_episode(tmp_path, "e"), NOTE)
    discard(add_episode(tmp_path, "e"), NOTE)
    assert [each.folder.name for each in read_trash(tmp_path)] == ["e", "e_2"]


def test_what_a_recorder_discarded_is_listed_without_a_note_and_comes_back(tmp_path):
    add_episode(tmp_path, "e", discarded=True)
    (trashed,) = read_trash(tmp_path)
    assert trashed.note == TrashNote()
    assert restore(tmp_path, "e").is_dir()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"who": 3}'])
def test_a_damaged_note_does_not_keep_an_episode_in_the_trash(tmp_path, content):
    discard(add_episode(tmp_path, "e"), NOTE)
    (tmp_path / TRASH / "e.note.json").write_bytes(content)
    assert [each.note for each in read_trash(tmp_path)] == [TrashNote()]
    assert restore(tmp_path, "e").is_dir()


def test_restoring_never_writes_over_an_episode(tmp_path):
    discard(add_episode(tmp_path, "e"), NOTE)
    shutil.copytree(tmp_path / TRASH / "e", tmp_path / "e")  # no recorder gives an id twice
    newer = contents(tmp_path / "e")
    with pytest.raises(BagError, match="exists"):
        restore(tmp_path, "e")
    assert contents(tmp_path / "e") == newer
    assert [each.note for each in read_trash(tmp_path)] == [NOTE]


@pytest.mark.parametrize("name", ["f", "../e", "", "."])
def test_a_name_that_is_not_in_the_trash_is_refused_with_those_that_are(tmp_path, name):
    discard(add_episode(tmp_path, "e"), NOTE)
    with pytest.raises(BagError, match="there is e"):
        restore(tmp_path, name)


def test_an_episode_that_is_being_recorded_is_refused(tmp_path):
    writer = EpisodeWriter(tmp_path, EpisodeMetadata(episode_id="e", task=""))
    for path in (tmp_path / "e", tmp_path / "e.partial"):
        with pytest.raises(BagError, match="is being recorded"):
            discard(path, NOTE)
    writer.abort()
    with pytest.raises(BagError, match=r"a crash left it; run `\./rl100 bags recover"):
        discard(tmp_path / "e", NOTE)
    assert (tmp_path / "e.partial").is_dir()


@pytest.mark.parametrize("name", ["nothing", "empty"])
def test_what_is_no_episode_is_refused(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(BagError, match="episode"):
        discard(tmp_path / name, NOTE)
    assert not (tmp_path / TRASH).exists()


def test_what_lies_in_the_trash_cannot_be_thrown_away_again(tmp_path):
    trashed = discard(add_episode(tmp_path, "e"), NOTE)
    with pytest.raises(BagError, match="trash already"):
        discard(trashed.folder, NOTE)
