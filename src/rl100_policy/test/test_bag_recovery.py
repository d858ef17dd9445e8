# SPDX-License-Identifier: Apache-2.0
"""What a crash leaves becomes a valid episode or goes to quarantine; nothing is deleted."""

import shutil
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rosbags.rosbag2 import Reader

from rl100_policy.bags.identity import METADATA_FILE, PARTIAL, QUARANTINE, bag_file
from rl100_policy.bags.judgement import Judgement, JudgementKind, Outcome
from rl100_policy.bags.metadata import EpisodeMetadata
from rl100_policy.bags.qos import OfferedQos
from rl100_policy.bags.reading import read_messages, read_metadata
from rl100_policy.bags.recovery import (
    REASON_FILE,
    RecoveryStatus,
    check_episode,
    recover,
    recover_all,
)
from rl100_policy.bags.relabel import relabel_episode
from rl100_policy.bags.reservation import LOCK_FILE, FolderLock
from rl100_policy.bags.storage import RecordedTopic
from rl100_policy.bags.testing import MessageFactory
from rl100_policy.bags.writer import EpisodeWriter
from rl100_policy.core.errors import BagError

FACTORY = MessageFactory()
JOINTS = RecordedTopic(
    "/joint_states", FACTORY.definitions.find("sensor_msgs/msg/JointState"), (OfferedQos(),)
)
META = EpisodeMetadata(episode_id="episode", task="push_t", operator="ann", tags={"seed": "7"})
SUCCESS = META.with_changes(judgements=(Judgement(stamp_ns=1, kind=JudgementKind.SUCCESS),))
PER_CHUNK, CHUNKS = 5, 4


def joint(step: int) -> bytes:
    return FACTORY.joint_state(step * 10**8, ["a"], [float(step)])


def crashed(bags: Path, *, judged: bool = False) -> tuple[Path, list[int]]:
    """Partial folder of an episode of four flushed chunks, and the file size after each flush."""
    writer, sizes = EpisodeWriter(bags, META), []
    path = bag_file(bags / "episode.partial")
    for step in range(PER_CHUNK * CHUNKS):
        writer.write(JOINTS, joint(step), log_ns=step)
        if judged and step == PER_CHUNK:
            writer.annotate(SUCCESS)
        if step % PER_CHUNK == PER_CHUNK - 1:
            writer.flush()
            sizes.append(path.stat().st_size)
    writer.abort()
    return bags / "episode.partial", sizes


@pytest.fixture(scope="module")
def remains(tmp_path_factory) -> tuple[Path, list[int]]:
    return crashed(tmp_path_factory.mktemp("crash"))


def steps(folder: Path) -> list[int]:
    read = read_messages(folder, ["joint_states"])["joint_states"]
    return [int(message.value.position[0]) for message in read]


def test_everything_flushed_is_recovered_with_its_provenance(tmp_path):
    crashed(tmp_path)
    (result,) = recover_all(tmp_path)
    assert (result.status, result.messages) == (RecoveryStatus.RECOVERED, PER_CHUNK * CHUNKS)
    assert result.path == tmp_path / "episode"
    assert steps(result.path) == list(range(PER_CHUNK * CHUNKS))
    assert check_episode(result.path) == []
    metadata = read_metadata(result.path)
    assert (metadata.operator, metadata.tags) == ("ann", {"seed": "7"})
    assert metadata.recovered
    assert metadata.degraded
    assert metadata.outcome is Outcome.UNLABELLED


def test_a_judgement_given_before_the_crash_is_kept(tmp_path):
    crashed(tmp_path, judged=True)
    (result,) = recover_all(tmp_path)
    assert read_metadata(result.path).outcome is Outcome.SUCCESS


def test_a_recovered_episode_keeps_bytes_qos_and_type_hash(tmp_path):
    crashed(tmp_path)
    (result,) = recover_all(tmp_path)
    with Reader(result.path) as reader:
        (connection,) = reader.connections
        data = [bytes(each) for *_, each in reader.messages()]
    assert data == [joint(step) for step in range(PER_CHUNK * CHUNKS)]
    assert connection.digest == JOINTS.definition.type_hash
    assert connection.ext.offered_qos_profiles[0].reliability.name == "RELIABLE"


def test_the_remains_are_kept_with_the_reason(tmp_path):
    partial, _ = crashed(tmp_path)
    original = bag_file(partial).read_bytes()
    recover_all(tmp_path)
    kept = tmp_path / QUARANTINE / "episode.partial"
    assert bag_file(kept).read_bytes() == original
    assert "recovered as episode" in (kept / REASON_FILE).read_text()


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(share=st.floats(0.0, 1.0))
def test_a_file_torn_anywhere_gives_all_whole_chunks_or_goes_to_quarantine(
    remains, tmp_path_factory, share
):
    partial, sizes = remains
    size = round(share * sizes[-1])
    bags = tmp_path_factory.mktemp("torn")
    torn = bags / partial.name
    shutil.copytree(partial, torn)
    with bag_file(torn).open("r+b") as stream:
        stream.truncate(size)
    whole_chunks = sum(size >= end for end in sizes)
    (result,) = recover_all(bags)
    assert not torn.exists()
    # a chunk may be whole before its index is: one more than were flushed completely
    assert result.messages in (PER_CHUNK * whole_chunks, PER_CHUNK * (whole_chunks + 1))
    assert (result.status is RecoveryStatus.RECOVERED) == (result.messages > 0)
    if result.messages:
        assert steps(result.path) == list(range(result.messages))
        assert check_episode(result.path) == []
    else:
        assert result.path == bags / QUARANTINE / "episode.partial"
        assert (result.path / REASON_FILE).read_text()


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(share=st.floats(0.0, 1.0, exclude_max=True), value=st.integers(1, 255))
def test_a_flipped_byte_anywhere_never_invents_a_message(remains, tmp_path_factory, share, value):
    partial, _ = remains
    bags = tmp_path_factory.mktemp("flipped")
    shutil.copytree(partial, bags / partial.name)
    path = bag_file(bags / partial.name)
    content = bytearray(path.read_bytes())
    content[int(share * len(content))] ^= value
    path.write_bytes(content)
    (result,) = recover_all(bags)
    if result.status is RecoveryStatus.RECOVERED:
        assert set(steps(result.path)) <= set(range(PER_CHUNK * CHUNKS))
        assert check_episode(result.path) == []


@pytest.mark.parametrize("content", [None, b"", b"\x00" * 4096, b"not an mcap file"])
def test_hopeless_remains_go_to_quarantine(tmp_path, content):
    partial = tmp_path / "gone.partial"
    partial.mkdir()
    if content is not None:
        (partial / "gone_0.mcap").write_bytes(content)
    (result,) = recover_all(tmp_path)
    assert result.status is RecoveryStatus.QUARANTINED
    assert result.path == tmp_path / QUARANTINE / "gone.partial"
    if content is not None:
        assert (result.path / "gone_0.mcap").read_bytes() == content


def test_an_episode_being_written_is_left_alone(tmp_path):
    writer = EpisodeWriter(tmp_path, META)
    writer.write(JOINTS, joint(1), log_ns=1)
    (result,) = recover_all(tmp_path)
    assert result.status is RecoveryStatus.IN_USE
    assert steps(writer.close(META)) == [1]


def test_an_episode_that_was_only_not_renamed_is_renamed(tmp_path):
    writer = EpisodeWriter(tmp_path, META)
    writer.write(JOINTS, joint(1), log_ns=1)
    writer.close(META).rename(tmp_path / "episode.partial")
    (result,) = recover_all(tmp_path)
    assert (result.status, result.messages) == (RecoveryStatus.RECOVERED, 1)
    assert not read_metadata(tmp_path / "episode").recovered
    assert not (tmp_path / QUARANTINE).exists()


def test_a_recovery_that_was_itself_interrupted_is_completed(tmp_path):
    """The closed episode was in place, the remains not yet in quarantine."""
    partial, _ = crashed(tmp_path)
    copy = shutil.copytree(partial, tmp_path / "copy")
    recover_all(tmp_path)
    copy.rename(partial)
    (result,) = recover_all(tmp_path)
    assert result.status is RecoveryStatus.QUARANTINED
    assert "already exists" in result.detail
    assert steps(tmp_path / "episode") == list(range(PER_CHUNK * CHUNKS))


def test_a_bag_that_was_torn_after_its_end_was_written_lacks_nothing(tmp_path):
    """Regression: it counted as degraded, and its end stamp was forgotten."""
    writer = EpisodeWriter(tmp_path, META)
    for step in range(PER_CHUNK):
        writer.write(JOINTS, joint(step), log_ns=step)
    closed = writer.close(SUCCESS.with_changes(end_ns=4, end_reason="stopped on request"))
    path = bag_file(closed)
    with path.open("r+b") as stream:
        stream.truncate(path.stat().st_size - 40)  # in the summary, after all that was recorded
    (closed / METADATA_FILE).unlink()
    closed.rename(tmp_path / "episode.partial")
    (result,) = recover_all(tmp_path)
    assert result.messages == PER_CHUNK
    metadata = read_metadata(result.path)
    assert (metadata.end_ns, metadata.end_reason) == (4, "stopped on request")
    assert (metadata.recovered, metadata.degraded) == (True, False)
    assert metadata.outcome is Outcome.SUCCESS


def closed_episode(bags: Path) -> Path:
    writer = EpisodeWriter(bags, META)
    for step in range(PER_CHUNK):
        writer.write(JOINTS, joint(step), log_ns=step)
    return writer.close(META)


def interrupted_relabelling(bags: Path) -> Path:
    """A closed episode as a crash in the middle of its relabelling leaves it."""
    folder = closed_episode(bags)
    old, draft = bag_file(folder).read_bytes(), bag_file(folder).with_suffix(".relabel")
    relabel_episode(folder, *SUCCESS.judgements)
    draft.write_bytes(bag_file(folder).read_bytes()[:300])
    bag_file(folder).write_bytes(old)
    (folder / LOCK_FILE).touch()
    return folder


def test_an_interrupted_relabelling_is_finished_with_the_judgement(tmp_path):
    """Regression: whoever read the bag did not see the judgement, which only one copy had."""
    folder = interrupted_relabelling(tmp_path)
    assert read_metadata(folder).outcome is Outcome.SUCCESS
    (result,) = recover_all(tmp_path)
    assert (result.path, result.messages) == (folder, PER_CHUNK)
    assert "relabelling" in result.detail
    assert {path.name for path in folder.iterdir()} == {bag_file(folder).name, METADATA_FILE}
    assert check_episode(folder) == []
    (folder / METADATA_FILE).unlink()
    assert read_metadata(folder).outcome is Outcome.SUCCESS
    assert recover_all(tmp_path) == []


def test_a_relabelling_of_a_living_process_is_left_alone(tmp_path):
    folder = interrupted_relabelling(tmp_path)
    lock = FolderLock(folder)
    assert recover_all(tmp_path) == []
    with pytest.raises(BagError, match="another process is changing"):
        relabel_episode(folder, *SUCCESS.judgements)
    lock.abandon()
    assert len(recover_all(tmp_path)) == 1


def test_recorders_that_close_their_episodes_do_not_disturb_a_recovery(tmp_path):
    """Regression: an episode that was closed just then ended the recovery with an error."""
    closed, is_over = [], threading.Event()

    def record() -> None:
        while not is_over.is_set():
            writer = EpisodeWriter(tmp_path, META.with_changes(episode_id=f"e{len(closed)}"))
            writer.write(JOINTS, joint(1), log_ns=1)
            closed.append(writer.close(META))

    recorder = threading.Thread(target=record)
    recorder.start()
    results = []
    try:
        while len(closed) < 200:
            results += recover_all(tmp_path)
    finally:
        is_over.set()
        recorder.join()
    # A name that was about to be used may be taken for a crash's; the recorder takes another.
    others = [result for result in results if result.status is not RecoveryStatus.IN_USE]
    assert {result.detail for result in others} <= {"nothing to recover: there is no MCAP file"}
    assert all(check_episode(folder) == [] for folder in closed)
    assert len(set(closed)) == len(closed)


def test_one_episode_that_cannot_be_recovered_does_not_keep_the_others_from_it(tmp_path):
    crashed(tmp_path)
    hopeless = tmp_path / f"a{PARTIAL}"
    (hopeless / LOCK_FILE).mkdir(parents=True)  # cannot be locked
    with pytest.raises(BagError, match="cannot lock") as failed:
        recover_all(tmp_path)
    assert "episode is recovered" in str(failed.value)
    assert check_episode(tmp_path / "episode") == []
    assert hopeless.is_dir()


def test_two_recoveries_of_the_same_name_do_not_overwrite_each_other(tmp_path):
    for _ in range(2):
        partial = tmp_path / f"gone{PARTIAL}"
        partial.mkdir()
        recover(partial)
    kept = {path.name for path in (tmp_path / QUARANTINE).iterdir()}
    assert kept == {"gone.partial", "gone.partial_2"}


def test_a_folder_without_remains_has_nothing_to_recover(tmp_path):
    assert recover_all(tmp_path) == []
    assert recover_all(tmp_path / "missing") == []


def test_who_commanded_in_a_recovered_episode_is_told_by_its_messages(tmp_path):
    meta = EpisodeMetadata(episode_id="e", task="push_t")
    writer = EpisodeWriter(tmp_path, meta)
    topic = FACTORY.topic("/gate/command", "rl100_msgs/msg/GateCommand")
    for step, source in enumerate([2, 2, 1, 1, 1, 2]):
        data = FACTORY.serialise("rl100_msgs/msg/GateCommand", source=source)
        writer.write(topic, data, log_ns=step * 10**8)
    writer.flush()
    writer.abort()
    (recovered,) = recover_all(tmp_path)
    metadata = read_metadata(recovered.path)
    assert metadata.commanded == {"policy": 3, "teleop": 3}
    assert (metadata.interventions, metadata.intervened) == (1, 3)
