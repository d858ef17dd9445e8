# SPDX-License-Identifier: Apache-2.0
"""The account of killed recorders: a few kills here, hundreds by bench/kill_recorder.py."""

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from environment import REPOSITORY
from rl100_policy.bags.judgement import Judgement, JudgementKind
from rl100_policy.bags.metadata import EpisodeMetadata
from rl100_policy.bags.storage import RecordedTopic
from rl100_policy.bags.testing import MessageFactory
from rl100_policy.bags.writer import EpisodeWriter

FACTORY = MessageFactory()
MS = 1_000_000
SENT = [step * 5 * MS for step in range(1, 401)]  # two seconds at 200 Hz
JUDGED = (Judgement(stamp_ns=500 * MS, kind=JudgementKind.SUCCESS),)


@pytest.mark.launch
@pytest.mark.slow
def test_a_few_killed_recorders_lose_nothing(tmp_path):
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "bench" / "kill_recorder.py"),
         "--kills", "4", "--seed", "1", "--output", str(tmp_path / "out")],
        check=False, capture_output=True, text=True, env=os.environ | {"NO_COLOR": "1"},
        timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 of 4 kills" in done.stdout
    assert "lost:" not in done.stdout
    assert list((tmp_path / "out" / "bags").iterdir())


@pytest.fixture
def accounts(monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "bench")
    return importlib.import_module("kill_accounts")


def recorded(bags: Path, kept: list[int], judgements: tuple[Judgement, ...] = JUDGED) -> Path:
    """Bag `episode` of both sensors with some of the stamps."""
    meta = EpisodeMetadata(episode_id="episode", task="t", judgements=judgements)
    writer = EpisodeWriter(bags, meta)
    joints = RecordedTopic("/joint_states", FACTORY.definitions.find("sensor_msgs/msg/JointState"))
    depth = RecordedTopic("/depth", FACTORY.definitions.find("sensor_msgs/msg/JointState"))
    for stamp in kept:
        for topic in (joints, depth):
            writer.write(topic, FACTORY.joint_state(stamp, ["a"], [0.0]), log_ns=stamp)
    return writer.close(meta)


def settled(accounts, folder: Path, *, closed: bool, killed_ns: int = SENT[-1]) -> list[str]:
    """What is lost of `episode` when its recorder was killed after everything was sent."""
    published = accounts.Published(folder)
    for topic in accounts.SENSORS:
        for stamp in SENT:
            published.note(topic, stamp)
    closed_ns = killed_ns if closed else 0
    episode = accounts.Episode("episode", SENT[0], closed_ns, closed_ns, [(500 * MS, 1)])
    life = accounts.Account(accounts.Phase.RECORDING, killed_ns, [episode])
    (folder / "bags").mkdir(exist_ok=True)
    return accounts.settle([life], folder / "bags", published)


@pytest.mark.parametrize("closed", [True, False])
def test_a_whole_bag_is_no_loss(accounts, tmp_path, closed):
    recorded(tmp_path / "bags", SENT)
    assert settled(accounts, tmp_path, closed=closed) == []


def test_an_open_episode_may_lack_half_a_second_and_no_more(accounts, tmp_path):
    recorded(tmp_path / "bags", SENT[:300])  # exactly that
    assert settled(accounts, tmp_path, closed=False) == []
    shutil.rmtree(tmp_path / "bags")
    recorded(tmp_path / "bags", SENT[:299])
    assert "0.505 s of /joint_states" in settled(accounts, tmp_path, closed=False)[0]


def test_a_closed_episode_may_lack_nothing(accounts, tmp_path):
    recorded(tmp_path / "bags", SENT[:-1])
    assert "0.005 s of /joint_states" in settled(accounts, tmp_path, closed=True)[0]


def test_a_hole_is_a_loss(accounts, tmp_path):
    recorded(tmp_path / "bags", SENT[:50] + SENT[51:])
    assert "1 messages of /joint_states" in settled(accounts, tmp_path, closed=False)[0]


def test_a_missing_judgement_is_a_loss(accounts, tmp_path):
    recorded(tmp_path / "bags", SENT, ())
    assert settled(accounts, tmp_path, closed=False) == ["episode: judgement 1 is missing"]


def test_a_missing_or_damaged_episode_is_a_loss(accounts, tmp_path):
    assert settled(accounts, tmp_path, closed=False) == ["episode is nowhere"]
    recorded(tmp_path / "bags", SENT)
    path = tmp_path / "bags" / "episode" / "episode_0.mcap"
    path.write_bytes(path.read_bytes()[:-5000])
    assert settled(accounts, tmp_path, closed=True)


def test_what_is_left_unfinished_or_without_a_reason_is_told(accounts, tmp_path):
    recorded(tmp_path / "bags", SENT)
    (tmp_path / "bags" / "other.partial").mkdir()
    (tmp_path / "bags" / "quarantine" / "third.partial").mkdir(parents=True)
    told = settled(accounts, tmp_path, closed=True)
    assert told == ["other.partial was left", "third.partial is in quarantine without a reason"]
