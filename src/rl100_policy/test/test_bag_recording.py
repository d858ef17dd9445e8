# SPDX-License-Identifier: Apache-2.0
"""Life of an episode in the recorder, without ROS."""

import errno
import os
import resource
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rl100_policy.bags import late_changes, recording, trash
from rl100_policy.bags.identity import bag_file
from rl100_policy.bags.journal import BagJournal, RawMessage, free_bytes
from rl100_policy.bags.judgement import Judgement, JudgementKind, Outcome
from rl100_policy.bags.metadata import EpisodeMetadata
from rl100_policy.bags.reading import read_messages, read_metadata
from rl100_policy.bags.recording import Ended, EpisodeRecorder, Phase
from rl100_policy.bags.recovery import check_episode, recover_all
from rl100_policy.bags.relabel import relabel_episode
from rl100_policy.bags.session import Stream
from rl100_policy.bags.storage import RecordedTopic
from rl100_policy.bags.testing import MessageFactory
from rl100_policy.core.errors import BagError

FACTORY = MessageFactory()
PERIOD_NS = 100_000_000
JOINTS = Stream("joint_states", "sensor_msgs/msg/JointState", period_ns=PERIOD_NS)
TOPIC = RecordedTopic("/joint_states", FACTORY.definitions.find(JOINTS.type_name))
META = EpisodeMetadata(episode_id="episode", task="push_t")
NEVER_S = float("inf")


def eventually(condition: Callable[[], object], limit_s: float = 20.0) -> object:
    """The first true value of a condition; fails the test if there is none in time."""
    deadline = time.monotonic() + limit_s
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)
    return value


class Bench:
    """A recorder and its surroundings."""

    def __init__(self, bags: Path, **options: int) -> None:
        defaults = {"capacity_bytes": 10**7, "min_free_bytes": 0, "sync": False}
        self.journal = BagJournal(bags, **(defaults | options))
        self.recorder = EpisodeRecorder(bags, [JOINTS], self.journal, "none")

    def record(self, *steps: int) -> None:
        for step in steps:
            stamp_ns = step * PERIOD_NS
            data = FACTORY.joint_state(stamp_ns, ["a"], [float(step)])
            self.recorder.record(JOINTS, RawMessage(TOPIC, data, stamp_ns, step), stamp_ns)

    def end(self, end_step: int = 0) -> Ended:
        self.recorder.request_end(end_step * PERIOD_NS, NEVER_S, discard=False)
        return self.ended()

    def ended(self, now_s: float = 0.0) -> Ended:
        ended = eventually(lambda: self.recorder.poll(now_s))
        assert isinstance(ended, Ended)
        return ended


@pytest.fixture
def bench(tmp_path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.recorder.shutdown(10.0)


def judgement(kind: JudgementKind) -> Judgement:
    return Judgement(stamp_ns=1, kind=kind)


def test_an_episode_goes_through_its_phases(bench, tmp_path):
    assert bench.recorder.phase is Phase.IDLE
    bench.recorder.begin(META)
    assert bench.recorder.phase is Phase.RECORDING
    bench.record(1, 2)
    bench.recorder.request_end(3 * PERIOD_NS, NEVER_S, discard=False)
    assert bench.recorder.phase is Phase.CLOSING
    assert bench.recorder.poll(0.0) is None
    assert bench.recorder.takes_messages
    bench.record(3)
    ended = bench.ended()
    assert bench.recorder.phase is Phase.IDLE
    assert ended.folder == tmp_path / "episode"
    read = read_messages(ended.folder, ["joint_states"])["joint_states"]
    assert [message.value.position[0] for message in read] == [1.0, 2.0, 3.0]
    assert bench.recorder.saved == 1


def test_the_wait_for_the_end_is_bounded_and_what_is_missing_is_stated(bench):
    bench.recorder.begin(META)
    bench.record(1)
    bench.recorder.request_end(3 * PERIOD_NS, 7.0, discard=False)
    assert bench.recorder.poll(6.9) is None
    ended = bench.ended(7.0)
    assert ended.metadata.lost["joint_states"].gaps == 2
    assert read_metadata(ended.folder).degraded


def test_the_longest_wait_for_the_disk_is_told(bench):
    assert bench.recorder.longest_wait_s == 0.0
    begun_s = time.monotonic()
    bench.recorder.begin(META)
    bench.record(*range(1, 100))
    bench.end()
    assert 0.0 < bench.recorder.longest_wait_s < time.monotonic() - begun_s


def test_one_recorder_writes_one_episode_at_a_time(bench):
    bench.recorder.begin(META)
    with pytest.raises(BagError, match="episode is still being recorded"):
        bench.recorder.begin(META)


def test_judgements_reach_the_running_and_the_last_episode_only(bench):
    with pytest.raises(BagError):
        bench.recorder.judge("", judgement(JudgementKind.SUCCESS))
    bench.recorder.begin(META)
    bench.record(1)
    bench.recorder.judge("", judgement(JudgementKind.SUCCESS))
    folder = bench.end(1).folder
    assert read_metadata(folder).outcome is Outcome.SUCCESS
    with pytest.raises(BagError, match="running"):
        bench.recorder.judge("", judgement(JudgementKind.FAILURE))
    with pytest.raises(BagError, match="other"):
        bench.recorder.judge("other", judgement(JudgementKind.FAILURE))
    bench.recorder.judge("episode", judgement(JudgementKind.UNDO))
    eventually(lambda: bench.recorder.poll(0.0) or bench.recorder.reason.endswith("unlabelled"))
    assert read_metadata(folder).outcome is Outcome.UNLABELLED


def closing(bench: Bench) -> None:
    """Begin an episode and stop it, up to the moment in which its bag is being closed."""
    bench.recorder.begin(META)
    bench.record(1)
    bench.recorder.request_end(0, NEVER_S, discard=False)
    bench.recorder.poll(0.0)
    assert not bench.recorder.takes_messages
    assert bench.recorder.phase is Phase.CLOSING


@pytest.mark.parametrize("named", ["", "episode"])
def test_a_judgement_that_comes_while_the_bag_is_closed_is_in_it_when_the_episode_ends(
    bench, named
):
    """Regression: it was refused, and the episode stayed unlabelled."""
    closing(bench)
    bench.recorder.judge(named, judgement(JudgementKind.FAILURE))
    bench.recorder.judge(named, judgement(JudgementKind.UNDO))
    bench.recorder.judge(named, judgement(JudgementKind.SUCCESS))
    ended = bench.ended()
    assert ended.metadata.outcome is Outcome.SUCCESS
    assert len(read_metadata(ended.folder).judgements) == 3
    assert read_metadata(ended.folder).outcome is Outcome.SUCCESS
    assert check_episode(ended.folder) == []


def test_a_judgement_that_comes_while_a_stopped_recorder_closes_its_bag_is_kept(tmp_path):
    bench = Bench(tmp_path)
    closing(bench)
    bench.recorder.judge("", judgement(JudgementKind.SUCCESS))
    bench.recorder.shutdown(10.0)
    assert read_metadata(tmp_path / "episode").outcome is Outcome.SUCCESS


def test_an_earlier_episode_can_be_judged_while_the_next_one_runs(bench, tmp_path):
    """Regression: only the newest episode could be named."""
    for _ in range(2):
        bench.recorder.begin(META)
        bench.record(1)
        bench.end(1)
    bench.recorder.begin(META)
    bench.recorder.judge("episode", judgement(JudgementKind.SUCCESS))
    eventually(lambda: bench.recorder.poll(0.0) or "is now success" in bench.recorder.reason)
    bench.record(1)
    assert bench.end(1).metadata.outcome is Outcome.UNLABELLED
    outcomes = [read_metadata(tmp_path / name).outcome for name in ("episode", "episode_2")]
    assert outcomes == [Outcome.SUCCESS, Outcome.UNLABELLED]


def test_episodes_closed_long_ago_are_forgotten(bench, monkeypatch):
    monkeypatch.setattr(recording, "REMEMBERED", 2)
    for _ in range(3):
        bench.recorder.begin(META)
        bench.end()
    bench.recorder.judge("episode_2", judgement(JudgementKind.SUCCESS))
    with pytest.raises(BagError, match="episode came"):
        bench.recorder.judge("episode", judgement(JudgementKind.SUCCESS))


def test_an_episode_on_its_way_to_the_trash_is_not_sent_there_again(bench, monkeypatch):
    """Regression: of two requests only one was answered."""
    go = threading.Event()
    discard = trash.discard
    monkeypatch.setattr(trash, "discard", lambda *told: go.wait() and discard(*told))
    bench.recorder.begin(META)
    bench.end()
    bench.recorder.discard("episode")
    with pytest.raises(BagError, match="being moved already"):
        bench.recorder.discard("episode")
    go.set()
    eventually(lambda: bench.recorder.poll(0.0) or bench.recorder.saved == 0)
    assert bench.recorder.moved() == [("episode", "")]
    bench.recorder.discard("episode", restore=True)
    eventually(lambda: bench.recorder.poll(0.0) or bench.recorder.saved == 1)


def test_whatever_goes_wrong_with_a_move_is_told_and_the_next_one_works(bench, monkeypatch):
    """Regression: an error that nobody had thought of ended the thread."""
    with monkeypatch.context() as patch:
        patch.setattr(trash, "discard", lambda *_: 1 / 0)
        bench.recorder.begin(META)
        bench.end()
        bench.recorder.discard("episode")
        told = eventually(lambda: bench.recorder.poll(0.0) or bench.recorder.moved())
    assert told == [("episode", "ZeroDivisionError: division by zero")]
    bench.recorder.discard("episode")
    told = eventually(lambda: bench.recorder.poll(0.0) or bench.recorder.moved())
    assert told == [("episode", "")]


def test_a_judgement_that_cannot_be_kept_is_told_and_the_episode_ends(bench, tmp_path):
    closing(bench)
    eventually((tmp_path / "episode").is_dir)
    bag_file(tmp_path / "episode").write_bytes(b"torn")
    bench.recorder.judge("", judgement(JudgementKind.SUCCESS))
    ended = bench.ended()
    assert ended.folder == tmp_path / "episode"
    assert "judgement not kept" in ended.message
    assert "damaged" in ended.message


def test_a_relabelling_does_not_keep_the_running_episode_from_the_disk(
    bench, tmp_path, monkeypatch
):
    """Regression: a large bag was copied by the thread that flushes."""
    may_go_on, begun = threading.Event(), threading.Event()

    def slow(folder: Path, *judgements: Judgement) -> EpisodeMetadata:
        begun.set()
        assert may_go_on.wait(30.0)
        return relabel_episode(folder, *judgements)

    monkeypatch.setattr(late_changes, "relabel_episode", slow)
    bench.recorder.begin(META)
    bench.end()
    bench.recorder.judge("episode", judgement(JudgementKind.SUCCESS))
    assert begun.wait(20.0)
    bench.recorder.begin(META)
    bench.record(7)
    data = FACTORY.joint_state(7 * PERIOD_NS, ["a"], [7.0])
    eventually(lambda: data in bag_file(tmp_path / "episode_2.partial").read_bytes())
    assert bench.end(7).folder == tmp_path / "episode_2"
    assert read_metadata(tmp_path / "episode").outcome is Outcome.UNLABELLED
    may_go_on.set()
    eventually(lambda: bench.recorder.poll(0.0) or "is now success" in bench.recorder.reason)
    assert read_metadata(tmp_path / "episode").outcome is Outcome.SUCCESS


def test_a_slow_disk_does_not_keep_what_came_from_surviving_a_crash(tmp_path, monkeypatch):
    """Regression: whoever waited for the disk could not hand over what came meanwhile."""
    may_go_on = threading.Event()
    monkeypatch.setattr(os, "fdatasync", lambda _: may_go_on.wait(30.0))
    bench = Bench(tmp_path, sync=True)
    bench.recorder.begin(META)
    path = bag_file(tmp_path / "episode.partial")
    try:
        for step in (1, 2, 3):
            bench.record(step)
            data = FACTORY.joint_state(step * PERIOD_NS, ["a"], [float(step)])
            eventually(lambda data=data: data in path.read_bytes())
    finally:
        may_go_on.set()
    assert bench.end(3).folder == tmp_path / "episode"
    bench.recorder.shutdown(10.0)


def test_a_disk_that_fails_later_ends_the_episode(tmp_path, monkeypatch):
    def broken(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fdatasync", broken)
        bench = Bench(tmp_path, sync=True)
        bench.recorder.begin(META)
        bench.record(1)
        ended = bench.ended()
    assert ended.folder is None
    assert "Input/output error" in ended.message
    bench.recorder.begin(META.with_changes(episode_id="next"))
    bench.record(2)
    assert bench.end(2).folder == tmp_path / "next"
    bench.recorder.shutdown(10.0)


def test_any_error_of_the_writer_ends_the_episode_and_the_next_one_works(tmp_path):
    """Regression: the thread ended silently, and the stop of the episode never came back."""
    bench = Bench(tmp_path)
    bench.recorder.begin(META)
    bench.record(1)
    data = FACTORY.joint_state(PERIOD_NS, ["a"], [1.0])
    eventually(lambda: data in bag_file(tmp_path / "episode.partial").read_bytes())
    bench.recorder.record(JOINTS, RawMessage(TOPIC, data, -1, 0), 0)  # not a time in MCAP
    failed = bench.ended()
    assert failed.folder is None
    assert "recording ended" in failed.message
    bench.recorder.begin(META.with_changes(episode_id="next"))
    bench.record(5)
    assert bench.end(5).folder == tmp_path / "next"
    bench.recorder.shutdown(10.0)
    assert recover_all(tmp_path)[0].messages == 1


def test_a_full_queue_counts_as_loss_by_the_recorder(tmp_path):
    bench = Bench(tmp_path, capacity_bytes=1)  # no message fits
    bench.recorder.begin(META)
    bench.record(1, 2)
    ended = bench.end()
    assert ended.metadata.lost["joint_states"].recorder == 2
    bench.recorder.shutdown(10.0)


def test_a_disk_that_refuses_ends_the_episode_recoverably_and_the_next_one_works(tmp_path):
    bench = Bench(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    bench.recorder.begin(META)
    size = bag_file(tmp_path / "episode.partial").stat().st_size
    bench.record(1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, hard))
    try:
        failed = bench.ended()  # the periodic flush meets the limit
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert failed.folder is None
    assert f"./rl100 bags recover {tmp_path}" in failed.message
    assert bench.recorder.phase is Phase.IDLE
    bench.recorder.begin(META.with_changes(episode_id="next"))
    bench.record(5)
    assert bench.end(5).folder == tmp_path / "next"
    bench.recorder.shutdown(10.0)
    assert [result.episode_id for result in recover_all(tmp_path)] == ["episode"]


def test_an_episode_ends_when_the_disk_is_nearly_full(tmp_path):
    bench = Bench(tmp_path, min_free_bytes=free_bytes(tmp_path) * 2)
    bench.recorder.begin(META)
    bench.record(1)
    ended = bench.ended()
    assert ended.folder is None
    assert "free" in ended.message
    bench.recorder.shutdown(10.0)
    assert recover_all(tmp_path)[0].messages == 1


def test_shutdown_closes_a_running_episode(tmp_path):
    bench = Bench(tmp_path)
    bench.recorder.begin(META)
    bench.record(1, 2)
    bench.recorder.shutdown(10.0)
    assert read_metadata(tmp_path / "episode").end_reason == "the recorder was stopped"
