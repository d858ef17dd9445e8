# SPDX-License-Identifier: Apache-2.0
"""Bags as written are bags as read, by this suite and by the libraries others use."""

import json
import resource
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from rl100_policy.bags import relabel
from rl100_policy.bags.definitions import MessageDefinitions, register_recorded
from rl100_policy.bags.identity import METADATA_FILE, TRASH, bag_file
from rl100_policy.bags.judgement import Judgement, JudgementKind
from rl100_policy.bags.metadata import MCAP_RECORD, EpisodeMetadata, metadata_from_table
from rl100_policy.bags.qos import OfferedQos
from rl100_policy.bags.reading import read_messages, read_metadata
from rl100_policy.bags.recovery import check_episode
from rl100_policy.bags.relabel import relabel_episode
from rl100_policy.bags.reservation import FolderLock
from rl100_policy.bags.storage import RecordedTopic
from rl100_policy.bags.testing import MessageFactory
from rl100_policy.bags.writer import EpisodeWriter
from rl100_policy.core.errors import BagError
from rl100_policy.core.shares import share_folders

FACTORY = MessageFactory()
LATCHED = OfferedQos("keep_last", 1, "reliable", "transient_local")
JOINTS = RecordedTopic(
    "/joint_states",
    FACTORY.definitions.find("sensor_msgs/msg/JointState"),
    (OfferedQos("keep_last", 5, "best_effort"),),
)
FEEDBACK = RecordedTopic(
    "/feedback", FACTORY.definitions.find("rl100_msgs/msg/HumanFeedback"), (LATCHED,)
)
META = EpisodeMetadata(episode_id="episode", task="push_t", tags={"seed": "7"})


def joint(step: int) -> bytes:
    return FACTORY.joint_state(step * 10**8, ["a", "b"], [float(step), -float(step)])


def feedback(step: int) -> bytes:
    return FACTORY.serialise(
        "rl100_msgs/msg/HumanFeedback",
        header=FACTORY.header(step * 10**8),
        episode_id="episode",
        kind=1,
        reward=1.0,
        source="test",
    )


SENT = [(FEEDBACK, 0, feedback(0))] + [(JOINTS, step * 10**8, joint(step)) for step in range(1, 9)]


def begun(bags: Path, **options: str) -> EpisodeWriter:
    writer = EpisodeWriter(bags, META, **options)
    for topic, log_ns, data in SENT:
        writer.write(topic, data, log_ns=log_ns)
    return writer


@pytest.fixture(params=["none", "lz4", "zstd"])
def episode(tmp_path, request) -> Path:
    return begun(tmp_path, compression=request.param).close(META.with_changes(end_reason="done"))


def test_rosbags_reads_the_bytes_that_were_written(episode):
    with Reader(episode) as reader:
        read = [
            (connection.topic, stamp, bytes(data)) for connection, stamp, data in reader.messages()
        ]
    assert read == [(topic.name, log_ns, data) for topic, log_ns, data in SENT]


def test_rosbags_decodes_with_the_embedded_definitions_alone(episode):
    types = get_typestore(Stores.EMPTY)
    with Reader(episode) as reader:
        for connection in reader.connections:
            found = get_types_from_msg(connection.msgdef.data, connection.msgtype)
            types.register({key: each for key, each in found.items() if key not in types.types})
        decoded = [types.deserialize_cdr(data, c.msgtype) for c, _, data in reader.messages()]
    assert decoded[0].source == "test"
    assert [message.position[0] for message in decoded[1:]] == list(range(1, 9))


def test_mcap_ros2_decodes_every_message(episode):
    with bag_file(episode).open("rb") as stream:
        reader = make_reader(stream, decoder_factories=[DecoderFactory()])
        decoded = [message for *_, message in reader.iter_decoded_messages()]
    assert decoded[0].kind == 1
    assert [list(message.position) for message in decoded[1:]] == [[s, -s] for s in range(1, 9)]


def test_this_suite_reads_what_others_read(episode):
    read = read_messages(episode, ["joint_states", "feedback", "absent"])
    assert [each.log_ns for each in read["joint_states"]] == [s * 10**8 for s in range(1, 9)]
    assert read["feedback"][0].value.episode_id == "episode"
    assert read["absent"] == []


def test_the_metadata_are_in_the_yaml_and_in_the_mcap_file_alike(episode):
    wanted = META.with_changes(end_reason="done")
    information = yaml.safe_load((episode / METADATA_FILE).read_text())
    custom = information["rosbag2_bagfile_information"]["custom_data"]
    with bag_file(episode).open("rb") as stream:
        records = [
            each for each in make_reader(stream).iter_metadata() if each.name == MCAP_RECORD
        ]
    assert metadata_from_table(custom, "yaml") == wanted
    assert metadata_from_table(records[-1].metadata, "mcap") == wanted


@pytest.mark.parametrize("damage", ["delete", "garbage"])
def test_either_copy_of_the_metadata_suffices(episode, damage):
    path = episode / METADATA_FILE
    path.unlink() if damage == "delete" else path.write_text("\x00{")
    assert read_metadata(episode) == META.with_changes(end_reason="done")


def test_the_file_carries_the_rosbag2_record_and_the_type_hashes(episode):
    with bag_file(episode).open("rb") as stream:
        reader = make_reader(stream)
        channels = {c.topic: c.metadata for c in reader.get_summary().channels.values()}
        rosbag2 = next(each for each in reader.iter_metadata() if each.name == "rosbag2")
    stored = yaml.safe_load((episode / METADATA_FILE).read_text())["rosbag2_bagfile_information"]
    assert yaml.safe_load(rosbag2.metadata["serialized_metadata"]) == stored
    assert channels["/joint_states"]["topic_type_hash"] == JOINTS.definition.type_hash
    assert "&" not in (episode / METADATA_FILE).read_text()  # no YAML aliases for plain readers


def test_the_offered_qos_is_recorded_where_a_player_looks(episode):
    with Reader(episode) as reader:
        offered = {c.topic: c.ext.offered_qos_profiles[0] for c in reader.connections}
    assert offered["/feedback"].durability.name == "TRANSIENT_LOCAL"
    assert offered["/joint_states"].reliability.name == "BEST_EFFORT"
    assert offered["/joint_states"].depth == 5


def test_type_hashes_are_those_of_the_ros_installation():
    compared = 0
    definitions = MessageDefinitions()
    for name in ("sensor_msgs/JointState", "sensor_msgs/Image", "rl100_msgs/DecisionRecord"):
        package, kind = name.split("/")
        for share in share_folders():
            path = share / package / "msg" / f"{kind}.json"
            if path.is_file():
                listed = json.loads(path.read_text())["type_hashes"]
                expected = {each["type_name"]: each["hash_string"] for each in listed}
                full = f"{package}/msg/{kind}"
                assert definitions.find(full).type_hash == expected[full]
                compared += 1
    if not compared:
        pytest.skip("no ROS installation beside this Python")


def test_an_unknown_type_is_refused_by_name():
    with pytest.raises(BagError, match="rl100_msgs/msg/Nothing"):
        MessageDefinitions().find("rl100_msgs/msg/Nothing")


@pytest.mark.parametrize(
    "text",
    [
        "float64 X=1e999",
        "string[300000] a",
        "float64 x\n" * 30_000,
        "float64[18446744073709551616] x",
    ],
    ids=["no literal", "a long array", "a long text", "an absurd array"],
)
def test_a_recorded_definition_that_is_none_is_refused(text):
    types = get_typestore(Stores.EMPTY)
    with pytest.raises(BagError, match="definition of test_msgs/msg/Bad"):
        register_recorded(types, "test_msgs/msg/Bad", text)
    register_recorded(types, "test_msgs/msg/Good", "float64 x\nfloat64[36] y\nstring<=5000 z")
    assert "test_msgs/msg/Good" in types.types


def test_definitions_are_found_in_the_source_tree_without_an_installation():
    source = Path(__file__).parents[2]
    assert "latents" in MessageDefinitions([source]).find("rl100_msgs/DecisionRecord").text


def test_an_episode_is_partial_until_it_is_closed(tmp_path):
    writer = begun(tmp_path)
    partial = tmp_path / "episode.partial"
    assert [path.name for path in tmp_path.iterdir()] == ["episode.partial"]
    with pytest.raises(BlockingIOError):
        FolderLock(partial)
    folder = writer.close(META)
    assert [path.name for path in tmp_path.iterdir()] == ["episode"]
    assert sorted(path.name for path in folder.iterdir()) == ["episode_0.mcap", METADATA_FILE]
    assert check_episode(folder) == []


def test_a_taken_id_gets_a_number(tmp_path):
    first, second = EpisodeWriter(tmp_path, META), EpisodeWriter(tmp_path, META)
    assert (first.episode_id, second.episode_id) == ("episode", "episode_2")
    assert read_metadata(second.close(META)).episode_id == "episode_2"
    first.close(META)
    assert EpisodeWriter(tmp_path, META).episode_id == "episode_3"


def test_many_processes_that_want_one_id_get_one_each(tmp_path):
    """Regression: an episode closed between two steps of the other's start took its name."""

    def close_many() -> None:
        for _ in range(30):
            episode = EpisodeWriter(tmp_path, META)
            episode.close(META)

    threads = [threading.Thread(target=close_many) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(tmp_path.iterdir())) == 90
    assert all(read_metadata(each).episode_id == each.name for each in tmp_path.iterdir())


def test_an_id_is_not_taken_from_a_discarded_episode(tmp_path):
    begun(tmp_path).close(META, discard=True)
    assert EpisodeWriter(tmp_path, META).episode_id == "episode_2"


def test_a_discarded_episode_is_whole_and_in_the_trash(tmp_path):
    folder = begun(tmp_path).close(META, discard=True)
    assert folder == tmp_path / TRASH / "episode"
    assert check_episode(folder) == []


def test_flushed_messages_are_in_the_file_before_it_is_closed(tmp_path):
    """The crash safety rests on ``mcap.writer.Writer.flush`` ending the chunk."""
    writer = begun(tmp_path)
    path = bag_file(tmp_path / "episode.partial")
    assert joint(8) not in path.read_bytes()
    writer.flush()
    assert joint(8) in path.read_bytes()
    writer.abort()


@contextmanager
def file_size_limit(size: int):
    """The system refuses to let files grow beyond the size, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("call", ["flush", "close"])
def test_a_full_disk_is_a_named_error_and_leaves_a_partial_episode(tmp_path, call):
    writer = begun(tmp_path)
    size = bag_file(tmp_path / "episode.partial").stat().st_size
    with file_size_limit(size + 100), pytest.raises(BagError, match=r"bags recover "):
        writer.flush() if call == "flush" else writer.close(META)
    writer.abort()
    assert (tmp_path / "episode.partial").is_dir()
    FolderLock(tmp_path / "episode.partial").abandon()  # nobody holds it any more


def test_a_damaged_file_is_a_named_error(episode):
    path = bag_file(episode)
    content = bytearray(path.read_bytes())
    with path.open("rb") as stream:
        chunk = make_reader(stream).get_summary().chunk_indexes[0]
    content[chunk.chunk_start_offset + chunk.chunk_length // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(BagError, match="damaged"):
        read_messages(episode, ["joint_states"])
    assert check_episode(episode) != []


def test_a_malformed_message_is_written_raw_and_refused_by_topic_when_read(tmp_path):
    writer = EpisodeWriter(tmp_path, META)
    writer.write(JOINTS, b"\x00\x01\x00\x00\x01", log_ns=5)
    folder = writer.close(META)
    assert check_episode(folder) == []
    with pytest.raises(BagError, match="joint_states"):
        read_messages(folder, ["joint_states"])


def test_a_malformed_message_is_left_out_if_somebody_is_told(tmp_path):
    writer = EpisodeWriter(tmp_path, META)
    writer.write(JOINTS, joint(1), log_ns=1)
    writer.write(JOINTS, b"\x00\x01\x00\x00\x01", log_ns=2)
    writer.write(JOINTS, joint(3), log_ns=3)
    told: list[tuple[str, str]] = []
    read = read_messages(
        writer.close(META),
        ["joint_states", "feedback"],
        on_malformed=lambda topic, error: told.append((topic, str(error))),
    )
    assert [message.log_ns for message in read["joint_states"]] == [1, 3]
    assert read["feedback"] == []
    ((topic, error),) = told
    assert topic == "joint_states"
    assert "received at 2 ns" in error


def test_surplus_bytes_after_a_message_are_forgiven(tmp_path):
    """Regression: serialize_message of rclpy appends bytes, which rosbags refuses."""
    writer = EpisodeWriter(tmp_path, META)
    for surplus in (4, 8, 24):
        writer.write(JOINTS, joint(3) + b"\xa7" * surplus, log_ns=surplus)
    read = read_messages(writer.close(META), ["joint_states"])["joint_states"]
    assert [list(each.value.position) for each in read] == [[3.0, -3.0]] * 3


def test_a_judgement_is_on_disk_before_the_bag_is_copied(tmp_path, monkeypatch):
    """Regression: a crash during the copy, seconds of a large bag, took it."""
    folder, seen = begun(tmp_path).close(META), []

    def watched(source: Path, target: Path):
        seen.append(read_metadata(source.parent).outcome.value)
        return copied(source, target)

    copied = relabel._copied
    monkeypatch.setattr(relabel, "_copied", watched)
    relabel_episode(folder, Judgement(stamp_ns=9, kind=JudgementKind.SUCCESS))
    assert seen == ["success"]


def test_a_relabelling_that_fails_leaves_the_episode_as_it_was(tmp_path):
    folder = begun(tmp_path).close(META)
    content = {path.name: path.read_bytes() for path in folder.iterdir()}
    size = bag_file(folder).stat().st_size
    with file_size_limit(size // 2), pytest.raises(BagError, match="check rights and space"):
        relabel_episode(folder, Judgement(stamp_ns=9, kind=JudgementKind.SUCCESS))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == content


def test_relabelling_keeps_every_message_and_changes_both_copies_of_the_metadata(episode):
    before = read_messages(episode, ["joint_states", "feedback"])
    relabel_episode(episode, Judgement(stamp_ns=9, kind=JudgementKind.FAILURE))
    after = read_messages(episode, ["joint_states", "feedback"])
    assert {name: [m.log_ns for m in read] for name, read in after.items()} == {
        name: [m.log_ns for m in read] for name, read in before.items()
    }
    assert check_episode(episode) == []
    assert read_metadata(episode).outcome.value == "failure"
    (episode / METADATA_FILE).unlink()
    assert read_metadata(episode).outcome.value == "failure"
    assert [path.suffix for path in episode.iterdir()] == [".mcap"]  # no draft is left
