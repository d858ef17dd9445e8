# SPDX-License-Identifier: Apache-2.0
"""What is told about a closed episode: traffic on its topics, and who was in command."""

from pathlib import Path

import numpy as np
import pytest

from rl100_policy.bags.command_record import CommandRecord, read_commands
from rl100_policy.bags.identity import bag_file
from rl100_policy.bags.metadata import EpisodeMetadata
from rl100_policy.bags.reading import read_messages
from rl100_policy.bags.testing import MessageFactory
from rl100_policy.bags.traffic import TopicTraffic, read_traffic
from rl100_policy.bags.writer import EpisodeWriter
from rl100_policy.core.config import load_task
from rl100_policy.core.errors import BagError
from rl100_policy.core.gate_result import CommandSource, GateFlag
from rl100_policy.core.interventions import Interventions

FACTORY = MessageFactory()
SECOND = 10**9
CONFIG = Path(__file__).parents[2] / "rl100_bringup" / "config"
TASK = load_task(str(CONFIG / "tasks" / "push_t.yaml"))
HOLD, TELEOP, POLICY = CommandSource.HOLD, CommandSource.TELEOP, CommandSource.POLICY
JOINTS = FACTORY.topic("/joint_states", "sensor_msgs/msg/JointState")
COMMANDS = FACTORY.topic("/gate/command", "rl100_msgs/msg/GateCommand")
TEXT = FACTORY.topic("/note", "std_msgs/msg/String")


def command(stamp_ns: int, source: int, flags: int = 0, executed: tuple[float, ...] = (0.1, 0.0)):
    version = "a@1" if source == POLICY else ""
    requested = (0.2, 0.0) if executed else ()
    given = {"requested": requested, "flags": flags}
    return FACTORY.command(stamp_ns, TASK, executed, source, version, **given)


def record(bags: Path, messages, **fields) -> tuple[Path, EpisodeMetadata]:
    """Episode of (topic, data, time of reception)."""
    meta = EpisodeMetadata(episode_id="e", task="push_t", **fields)
    writer = EpisodeWriter(bags, meta)
    for topic, data, log_ns in messages:
        writer.write(topic, data, log_ns=log_ns)
    return writer.close(meta), meta


def topic_of(folder: Path, metadata: EpisodeMetadata, name: str) -> TopicTraffic:
    return next(each for each in read_traffic(folder, metadata).topics if each.name == name)


def joints_at(*seconds: float, late_s: float = 0.0):
    for second in seconds:
        stamp = round(second * SECOND)
        yield JOINTS, FACTORY.joint_state(stamp, ["a"], [0.0]), stamp + round(late_s * SECOND)


def test_rate_and_gap_are_those_of_the_header_stamps(tmp_path):
    """Received at once, but stamped over 1.2 s with a pause of 0.4 s."""
    stamps = [10.0, 10.2, 10.4, 10.8, 11.0, 11.2]
    messages = [(topic, data, 50 * SECOND) for topic, data, _ in joints_at(*stamps)]
    topic = topic_of(*record(tmp_path, messages), "/joint_states")
    assert topic.is_stamped
    assert topic.messages == 6
    assert topic.rate_hz == pytest.approx(5 / 1.2)
    assert topic.largest_gap_s == pytest.approx(0.4)
    assert topic.bytes == 6 * len(messages[0][1])


def test_messages_without_a_header_count_by_reception(tmp_path):
    data = FACTORY.serialise("std_msgs/msg/String", data="a text long enough for a stamp")
    topic = topic_of(*record(tmp_path, [(TEXT, data, 7), (TEXT, data, 9)]), "/note")
    assert not topic.is_stamped
    assert topic.stamps_ns.tolist() == [7, 9]


def test_a_header_after_constants_is_a_header(tmp_path):
    """Regression: GateCommand begins with constants and was taken for a type without stamps."""
    messages = [(COMMANDS, command(3 * SECOND, TELEOP), 50 * SECOND)]
    topic = topic_of(*record(tmp_path, messages), "/gate/command")
    assert topic.stamps_ns.tolist() == [3 * SECOND]


def test_a_latched_message_of_before_the_episode_is_no_gap_of_it(tmp_path):
    messages = list(joints_at(1.0, 100.0, 100.5, 101.0))
    topic = topic_of(*record(tmp_path, messages, start_ns=100 * SECOND), "/joint_states")
    assert topic.messages == 4
    assert topic.largest_gap_s == pytest.approx(0.5)
    assert topic.rate_hz == pytest.approx(2.0)


def test_a_single_message_has_neither_rate_nor_gap(tmp_path):
    topic = topic_of(*record(tmp_path, joints_at(1.0)), "/joint_states")
    assert (topic.rate_hz, topic.largest_gap_s) == (None, None)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, None),
        ({"setup": {"control_period": 0.1}}, 0.1),
        ({"setup": {"control_period": 0.1}, "expected_periods_s": {"/joint_states": 0.02}}, 0.02),
    ],
)
def test_the_expected_period_is_the_recorders_or_else_the_control_period(
    tmp_path, fields, expected
):
    topic = topic_of(*record(tmp_path, joints_at(1.0), **fields), "/joint_states")
    assert topic.expected_period_s == expected


def test_times_count_from_the_start_of_the_episode_or_else_from_its_first_message(tmp_path):
    folder, meta = record(tmp_path, joints_at(3.0, 4.0, late_s=0.5))
    assert read_traffic(folder, meta).begin_ns == round(3.5 * SECOND)
    started = meta.with_changes(start_ns=2 * SECOND)
    assert read_traffic(folder, started).begin_ns == 2 * SECOND


def test_a_damaged_bag_is_refused(tmp_path):
    folder, meta = record(tmp_path, joints_at(1.0))
    path = bag_file(folder)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(BagError, match="is damaged"):
        read_traffic(folder, meta)


def commanded(bags: Path, *sources: int, **flags: int) -> CommandRecord:
    """One control period of 0.1 s per source; ``flags`` by ``at<period>``."""
    messages = [
        (COMMANDS, command(at * SECOND // 10, source, flags.get(f"at{at}", 0)), at)
        for at, source in enumerate(sources)
    ]
    found = read_commands(record(bags, messages)[0])
    assert found is not None
    return found


def test_shares_are_of_control_periods(tmp_path):
    commands = commanded(tmp_path, HOLD, POLICY, POLICY, TELEOP, POLICY)
    assert commands.shares() == {"policy": 0.6, "hold": 0.2, "teleop": 0.2}


def test_an_intervention_is_a_person_in_command_after_a_policy(tmp_path):
    commands = commanded(
        tmp_path, TELEOP, TELEOP, POLICY, TELEOP, TELEOP, TELEOP, HOLD, POLICY, TELEOP
    )
    lengths = [(each.begin_ns, each.end_ns - each.begin_ns) for each in commands.interventions()]
    assert lengths == [(3 * SECOND // 10, 3 * SECOND // 10), (8 * SECOND // 10, SECOND // 10)]


def test_a_demonstration_has_no_interventions(tmp_path):
    assert commanded(tmp_path, HOLD, TELEOP, HOLD, TELEOP).interventions() == ()


def test_flags_are_counted_by_name(tmp_path):
    both = GateFlag.CLIPPED_ACTION | GateFlag.HELD_STALE
    commands = commanded(tmp_path, POLICY, POLICY, POLICY, at0=both, at2=GateFlag.CLIPPED_ACTION)
    assert commands.flag_counts() == {"clipped_action": 2, "held_stale": 1}


def test_sources_and_flags_of_a_later_version_are_counted_too(tmp_path):
    commands = commanded(tmp_path, 77, 77, at1=1 << 30)
    assert commands.shares() == {"source 77": 1.0}
    assert commands.flag_counts() == {f"flag {1 << 30}": 1}


def test_a_period_without_an_action_has_no_number(tmp_path):
    messages = [(COMMANDS, command(1, POLICY), 1), (COMMANDS, command(2, HOLD, executed=()), 2)]
    commands = read_commands(record(tmp_path, messages)[0])
    assert commands.executed[0].tolist() == [0.1, 0.0]
    assert commands.requested[0].tolist() == [0.2, 0.0]
    assert np.isnan(commands.executed[1]).all()
    assert np.isnan(commands.requested[1]).all()


def test_a_command_that_cannot_be_read_is_counted(tmp_path):
    messages = [(COMMANDS, command(1, POLICY), 1), (COMMANDS, b"\0\1\0\0broken", 2)]
    commands = read_commands(record(tmp_path, messages)[0])
    assert (len(commands.stamps_ns), commands.malformed) == (1, 1)


def test_a_bag_without_commands_says_so(tmp_path):
    assert read_commands(record(tmp_path, joints_at(1.0))[0]) is None


def test_messages_can_be_read_by_their_stamps_alone(tmp_path):
    folder, _ = record(tmp_path, joints_at(1.0, 2.0, 3.0))
    read = read_messages(folder, ["joint_states"], stamps_ns={2 * SECOND})["joint_states"]
    assert [message.log_ns for message in read] == [2 * SECOND]


@pytest.mark.parametrize("who", ["pptthttp", "tptp", "pphttt", "tthp", "phthtpt"])
def test_interventions_are_counted_as_the_recorder_counts_them(tmp_path, who):
    sources = [{"p": POLICY, "t": TELEOP, "h": HOLD}[letter] for letter in who]
    counted = Interventions()
    for source in sources:
        counted.observe(source)
    found = commanded(tmp_path, *sources).interventions()
    assert (len(found), sum(each.periods for each in found)) == (
        counted.count,
        counted.intervened,
    )
