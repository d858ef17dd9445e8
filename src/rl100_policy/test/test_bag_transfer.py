# SPDX-License-Identifier: Apache-2.0
"""Episodes come into another folder whole or not at all, and nothing is written over."""

import errno
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rl100_policy.bags.identity import bag_file
from rl100_policy.bags.index import read_index
from rl100_policy.bags.judgement import Judgement, JudgementKind
from rl100_policy.bags.metadata import EpisodeMetadata
from rl100_policy.bags.recovery import check_episode
from rl100_policy.bags.relabel import relabel_episode
from rl100_policy.bags.reservation import FolderLock
from rl100_policy.bags.testing import MessageFactory
from rl100_policy.bags.transfer import TransferMode, TransferStatus, transfer_episode
from rl100_policy.bags.writer import EpisodeWriter
from rl100_policy.core.errors import BagError

FACTORY = MessageFactory()
JUDGEMENT = Judgement(stamp_ns=1, kind=JudgementKind.SUCCESS)


def add_episode(bags: Path, name: str = "e", messages: int = 3) -> Path:
    meta = EpisodeMetadata(episode_id=name, task="push_t")
    writer = EpisodeWriter(bags, meta)
    topic = FACTORY.topic("/joint_states", "sensor_msgs/msg/JointState")
    for step in range(messages):
        data = FACTORY.joint_state(step, ["a"] * 1000, [0.0] * 1000)
        writer.write(topic, data, log_ns=step)
    return writer.close(meta)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def folders(tmp_path) -> tuple[Path, Path]:
    """An episode, and a folder that is not there yet."""
    return add_episode(tmp_path / "from"), tmp_path / "deep" / "into"


@pytest.fixture
def other_disk(monkeypatch) -> None:
    """As between two file systems: neither links nor a rename from one to the other."""
    rename, link = Path.rename, os.link

    def refuse(source: Path, target: Path) -> None:
        if Path(source).parent != Path(target).parent:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(source))

    def rename_within(self: Path, target: Path) -> Path:
        refuse(self, target)
        return rename(self, target)

    def link_within(source: Path, target: Path) -> None:
        refuse(source, target)
        link(source, target)

    monkeypatch.setattr(Path, "rename", rename_within)
    monkeypatch.setattr(os, "link", link_within)


@pytest.mark.parametrize(
    ("mode", "status"),
    [
        (TransferMode.COPY, TransferStatus.COPIED),
        (TransferMode.LINK, TransferStatus.LINKED),
        (TransferMode.MOVE, TransferStatus.MOVED),
    ],
)
def test_an_episode_arrives_byte_for_byte_and_is_there_as_the_mode_says(folders, mode, status):
    source, into = folders
    before, node = contents(source), bag_file(source).stat().st_ino
    done = transfer_episode(source, into, mode)
    assert (done.status, done.target) == (status, into / "e")
    assert contents(into / "e") == before
    assert source.exists() is (mode is not TransferMode.MOVE)
    assert (bag_file(into / "e").stat().st_ino == node) is (mode is not TransferMode.COPY)
    assert [path.name for path in into.iterdir()] == ["e"]


@pytest.mark.usefixtures("other_disk")
@pytest.mark.parametrize(
    ("mode", "status"),
    [
        (TransferMode.LINK, TransferStatus.COPIED),
        (TransferMode.MOVE, TransferStatus.MOVED),
    ],
)
def test_between_file_systems_it_is_copied(folders, mode, status):
    source, into = folders
    before = contents(source)
    assert transfer_episode(source, into, mode).status is status
    assert contents(into / "e") == before
    left = [] if mode is TransferMode.MOVE else ["e"]
    assert [path.name for path in source.parent.iterdir()] == left


def test_a_linked_episode_that_is_judged_anew_leaves_the_other_as_it_was(folders):
    source, into = folders
    before = contents(source)
    transfer_episode(source, into, TransferMode.LINK)
    relabel_episode(into / "e", JUDGEMENT)
    assert contents(source) == before


@pytest.mark.parametrize("mode", TransferMode)
def test_an_equal_episode_that_is_there_is_passed_over(folders, mode):
    source, into = folders
    transfer_episode(source, into, TransferMode.COPY)
    node = bag_file(into / "e").stat().st_ino
    assert transfer_episode(source, into, mode).status is TransferStatus.ALREADY_THERE
    assert bag_file(into / "e").stat().st_ino == node
    assert source.is_dir()


@pytest.mark.parametrize("mode", TransferMode)
def test_a_different_episode_of_the_same_name_is_refused(folders, mode):
    source, into = folders
    transfer_episode(source, into, TransferMode.COPY)
    relabel_episode(into / "e", JUDGEMENT)
    here, there = contents(source), contents(into / "e")
    done = transfer_episode(source, into, mode)
    assert done.status is TransferStatus.REFUSED
    assert "other bytes in e_0.mcap" in done.detail
    assert (contents(source), contents(into / "e")) == (here, there)


def test_what_an_interrupted_copy_left_is_made_anew(folders):
    source, into = folders
    rest = into / ".copying-e"
    rest.mkdir(parents=True)
    (rest / "e_0.mcap").write_bytes(b"half")
    (rest / "old").write_bytes(b"")
    assert read_index(into).entries == ()
    transfer_episode(source, into, TransferMode.COPY)
    assert contents(into / "e") == contents(source)
    assert [path.name for path in into.iterdir()] == ["e"]


def test_an_episode_that_another_process_copies_just_now_is_refused(folders):
    source, into = folders
    (into / ".copying-e").mkdir(parents=True)
    lock = FolderLock(into / ".copying-e")
    with pytest.raises(BagError, match="by another process"):
        transfer_episode(source, into, TransferMode.COPY)
    lock.release()


def test_a_copy_that_fails_leaves_no_half_episode(folders, monkeypatch):
    source, into = folders

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copy2", full)
    with pytest.raises(BagError, match="No space left"):
        transfer_episode(source, into, TransferMode.COPY)
    assert read_index(into).entries == ()
    monkeypatch.undo()
    assert transfer_episode(source, into, TransferMode.COPY).status is TransferStatus.COPIED


COPY_FOR_EVER = """
import sys
from pathlib import Path
from rl100_policy.bags.transfer import TransferMode, transfer_episode
source, into = map(Path, sys.argv[1:])
for number in range(10**6):
    transfer_episode(source, into / str(number), TransferMode.COPY)
"""


@pytest.mark.parametrize("after_s", [0.0, 0.003, 0.01, 0.02])
def test_a_killed_copy_leaves_only_whole_episodes(tmp_path, after_s):
    source, into = add_episode(tmp_path / "from", messages=200), tmp_path / "into"
    command = [sys.executable, "-c", COPY_FOR_EVER, str(source), str(into)]
    with subprocess.Popen(command) as process:
        deadline = time.monotonic() + 30
        while not list(into.glob("*")) and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(after_s)
        process.kill()
    found = [folder / "e" for folder in into.iterdir() if (folder / "e").exists()]
    assert into.is_dir()
    assert all(check_episode(folder) == [] for folder in found)
    assert all(contents(folder).keys() >= contents(source).keys() for folder in found)


def test_the_folder_of_the_episode_itself_and_an_episode_are_no_targets(folders):
    source, _ = folders
    for into in (source.parent, source):
        with pytest.raises(BagError, match="give another folder"):
            transfer_episode(source, into, TransferMode.COPY)
