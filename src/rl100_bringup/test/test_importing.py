# SPDX-License-Identifier: Apache-2.0
"""Recordings of others: what becomes of them is what our recorder would have recorded.

One episode is written twice: by our writer, and under other names as somebody else records it.
The camera looks straight down; the depth of step t is 460 + t mm.
"""

import io
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from rl100_bringup.cli.app import app
from rl100_bringup.importing import ImportRequest, import_recordings
from rl100_learner.data.reader import load_demonstrations, read_episode
from rl100_policy.bags.definitions import TypeDefinition
from rl100_policy.bags.foreign.mapping import load_mapping
from rl100_policy.bags.foreign.testing import ForeignNames, ForeignRecorder
from rl100_policy.bags.identity import bag_file
from rl100_policy.bags.index import read_index
from rl100_policy.bags.judgement import Judgement, JudgementKind, Outcome
from rl100_policy.bags.recovery import check_episode
from rl100_policy.bags.testing import FROM_ABOVE, MessageFactory, SyntheticEpisode
from rl100_policy.core.command import CommandGate
from rl100_policy.core.config import load_robot, load_task
from rl100_policy.core.errors import BagError, ConfigError
from rl100_policy.core.gate_result import CommandSource

CONFIG = Path(__file__).parents[1] / "config"
ROBOT = load_robot(CONFIG / "robots" / "panda.yaml").model_copy(update={"cameras": (FROM_ABOVE,)})
TASK = load_task(CONFIG / "tasks" / "push_t.yaml")
PERIOD_NS = 100_000_000
START_NS = 1_700_000_000_000_000_000
T = 20
FACTORY = MessageFactory()
NAMES = ForeignNames({name: f"fr3_{name[-1]}" for name in ROBOT.joints})
SUCCESS = (Judgement(stamp_ns=1, kind=JudgementKind.SUCCESS),)


@dataclass(frozen=True)
class Motion:
    """An arm that does exactly what the gate commands."""

    positions: np.ndarray
    """[T + 1, n], rad."""
    commands: np.ndarray
    """[T, n], rad."""
    executed: np.ndarray
    """[T, 2], m/s."""


@pytest.fixture(scope="module")
def motion() -> Motion:
    gate = CommandGate(ROBOT, TASK)
    positions, executed = [np.array(ROBOT.home)], []
    gate.reset(positions[0])
    for step in range(T):
        twist = np.array([0.15 * np.sin(0.3 * step), 0.1 * np.cos(0.2 * step)])
        result = gate.step(twist, positions[-1])
        positions.append(result.joint_command)
        executed.append(result.executed)
    return Motion(np.array(positions), np.array(positions[1:]), np.array(executed))


@pytest.fixture
def ours(motion) -> SyntheticEpisode:
    depth = (
        460 + np.arange(T + 1)[:, None, None] + np.zeros((1, FROM_ABOVE.height, FROM_ABOVE.width))
    )
    return SyntheticEpisode(
        TASK, ROBOT, depth.astype(np.uint16), motion.positions,
        motion.executed.astype(np.float32), start_ns=START_NS, judgements=SUCCESS,
    )  # fmt: skip


@pytest.fixture
def stamps(ours) -> list[int]:
    return [ours.stamp_ns(step) for step in range(T + 1)]


@pytest.fixture
def foreign(ours, motion, stamps) -> ForeignRecorder:
    recorder = ForeignRecorder(NAMES, FACTORY)
    recorder.add_sensors(ours)
    recorder.add_trajectories(stamps[:T], motion.commands, ROBOT.joints, 0.1)
    return recorder


@pytest.fixture
def site(tmp_path) -> Path:
    """Folder with the robot and a mapping."""
    text = yaml.safe_dump(ROBOT.model_dump(mode="json"))
    (tmp_path / "robot.yaml").write_text(text)
    write_mapping(tmp_path)
    return tmp_path


def write_mapping(folder: Path, **changes) -> None:
    mapping = {
        "joint_states": {"topic": NAMES.joint_states, "names": theirs_to_ours()},
        "cameras": {"camera": {"topic": NAMES.image, "frame": NAMES.frame}},
        "action": {"source": "trajectory", "topic": NAMES.command, "names": theirs_to_ours()},
        "outcome": {"source": "success"},
    }
    (folder / "mapping.yaml").write_text(yaml.safe_dump(mapping | changes))


def theirs_to_ours() -> dict[str, str]:
    return {theirs: ours for ours, theirs in NAMES.joints.items()}


def imported(site: Path, *sources: Path, **changes) -> tuple[bool, str]:
    """Whether the contract was met, and the report."""
    console = Console(file=io.StringIO(), width=1000)  # no cell is folded
    request = ImportRequest(
        sources, site / "mapping.yaml", str(site / "robot.yaml"), "push_t", site / "bags"
    )
    fits = import_recordings(replace(request, **changes), console)
    return fits, console.file.getvalue()


def only_bag(site: Path) -> Path:
    (entry,) = read_index(site / "bags").entries
    return site / "bags" / entry.folder


def assert_same(found, expected, *, tolerance=1e-6) -> None:
    np.testing.assert_array_equal(found.visual, expected.visual)
    np.testing.assert_array_equal(found.stamps_ns, expected.stamps_ns)
    np.testing.assert_allclose(found.proprio, expected.proprio, atol=1e-7)
    np.testing.assert_allclose(found.actions, expected.actions, atol=tolerance)
    assert found.outcome == expected.outcome


@pytest.mark.parametrize(
    ("storage", "compression", "splits"),
    [
        ("mcap", "", 1), ("mcap", "", 3), ("mcap", "message", 1), ("mcap", "file", 2),
        ("sqlite3", "", 1), ("sqlite3", "", 3), ("sqlite3", "file", 1), ("sqlite3", "message", 2),
    ],
)  # fmt: skip
def test_a_foreign_recording_gives_the_tensors_of_our_own(
    site, ours, foreign, storage, compression, splits
):
    source = foreign.write(site / "theirs", storage, compression=compression, splits=splits)
    fits, report = imported(site, source)
    assert fits, report
    expected = read_episode(ours.write(site / "ours", FACTORY), TASK, ROBOT)
    assert_same(read_episode(only_bag(site), TASK, ROBOT), expected)


def test_a_single_file_without_its_metadata_is_a_recording_too(site, foreign):
    source = foreign.write(site / "theirs")
    fits, report = imported(site, next(source.glob("*.mcap")))
    assert fits, report
    assert len(read_episode(only_bag(site), TASK, ROBOT)) == T


def test_what_a_driver_defines_for_itself_need_not_be_understood(site, foreign, stamps):
    strange = "their_msgs/msg/Strange"
    text = "their_msgs/Unheard[<=what] of this ?"
    foreign.definitions[strange] = TypeDefinition(strange, text, "RIHS01_" + 64 * "0")
    foreign.add("/theirs", strange, stamps[3], b"\x00\x01\x00\x00\x07")
    fits, report = imported(site, foreign.write(site / "theirs"))
    assert fits, report


def test_an_imported_bag_is_whole_and_is_loaded_as_a_demonstration(site, foreign):
    imported(site, foreign.write(site / "theirs"))
    assert check_episode(only_bag(site)) == []
    (episode,) = load_demonstrations(site / "bags", TASK, ROBOT)
    assert episode.outcome == "success"


def test_the_bag_says_where_it_comes_from(site, foreign):
    write_mapping(site, operator="ada", tags={"lab": "north"})
    imported(site, foreign.write(site / "theirs"))
    metadata = read_index(site / "bags").entries[0].metadata
    assert (metadata.operator, metadata.tags["lab"]) == ("ada", "north")
    assert metadata.tags["import.source"] == "theirs"
    assert {len(metadata.tags[f"import.{key}_sha256"]) for key in ("source", "mapping")} == {64}
    assert metadata.setup == ROBOT.setup


@pytest.mark.parametrize("source", ["positions", "leader", "measured"])
def test_other_commands_give_the_same_actions(site, ours, foreign, motion, stamps, source):
    for stamp, where in zip(stamps, motion.positions, strict=True):
        foreign.add_array(stamp, where[::-1])
        names = [NAMES.joints[name] for name in ROBOT.joints]
        data = FACTORY.joint_state(stamp, names, where)
        foreign.add(NAMES.leader, "sensor_msgs/msg/JointState", stamp, data)
    action = {
        "positions": {"topic": NAMES.array, "joints": list(ROBOT.joints[::-1])},
        "leader": {"topic": NAMES.leader, "names": theirs_to_ours()},
        "measured": {},
    }[source]
    write_mapping(site, action={"source": source} | action)
    fits, report = imported(site, foreign.write(site / "theirs"))
    assert fits, report
    expected = read_episode(ours.write(site / "ours", FACTORY), TASK, ROBOT)
    assert_same(read_episode(only_bag(site), TASK, ROBOT), expected)
    assert ("stands for the command" in report) == (source == "measured")


def test_a_command_that_is_reached_later_is_shifted(site, ours, foreign, motion, stamps):
    for stamp, where in zip(stamps, motion.commands, strict=False):
        foreign.add_array(stamp, where)
    foreign.add_array(stamps[0] - PERIOD_NS, motion.positions[0])
    action = {
        "source": "positions", "topic": NAMES.array, "joints": list(ROBOT.joints),
        "reached_after": 0.1,
    }  # fmt: skip
    write_mapping(site, action=action)
    assert imported(site, foreign.write(site / "theirs"))[0]
    expected = read_episode(ours.write(site / "ours", FACTORY), TASK, ROBOT)
    assert_same(read_episode(only_bag(site), TASK, ROBOT), expected)


def test_streams_of_other_rates_are_joined_on_the_control_grid(site):
    """Joint states at 50 Hz, images at 30 Hz and a leader at 100 Hz, none at the same time."""
    duration_ns = 3 * 10**9

    def told(time_ns: int) -> np.ndarray:
        angle = 0.3 * np.sin(1.5 * (time_ns - START_NS) * 1e-9)
        return np.array(ROBOT.home) + np.array([angle, 0, 0, 0, 0, 0, 0.2 * angle])

    recorder, lag_ns = ForeignRecorder(NAMES, FACTORY), 30_000_000
    names = [NAMES.joints[name] for name in ROBOT.joints]
    camera = FROM_ABOVE.model_copy(update={"optical_frame": NAMES.frame})
    info = FACTORY.camera_info(START_NS, camera)
    recorder.add(NAMES.info, "sensor_msgs/msg/CameraInfo", START_NS, info)
    for first_ns, step_ns, topic in (
        (3_000_000, 20_000_000, NAMES.joint_states), (1_000_000, 10_000_000, NAMES.leader)
    ):  # fmt: skip
        for time in range(START_NS + first_ns, START_NS + duration_ns, step_ns):
            late = lag_ns if topic == NAMES.joint_states else 0  # the arm lags behind its leader
            data = FACTORY.joint_state(time, names, told(time - late))
            recorder.add(topic, "sensor_msgs/msg/JointState", time, data)
    depth = np.full((FROM_ABOVE.height, FROM_ABOVE.width), 470, np.uint16)
    for time in range(START_NS + 7_000_000, START_NS + duration_ns, 33_333_333):
        data = FACTORY.depth(time, depth, NAMES.frame)
        recorder.add(NAMES.image, "sensor_msgs/msg/Image", time, data)
    action = {"source": "leader", "topic": NAMES.leader, "names": theirs_to_ours()}
    write_mapping(site, action=action)
    joint_task = str(CONFIG / "tasks" / "push_t_joint.yaml")
    fits, report = imported(site, recorder.write(site / "theirs"), task=joint_task)
    assert fits, report
    episode = read_episode(only_bag(site), load_task(joint_task), ROBOT)
    assert len(episode) >= 27
    grid = START_NS + 3_000_000 + PERIOD_NS * np.arange(len(episode) + 1)
    expected = np.diff([told(time) for time in grid], axis=0) / 0.1
    np.testing.assert_allclose(episode.actions, expected, atol=2e-3)


def test_commands_of_our_gate_are_taken_as_they_are(site, ours, foreign, motion, stamps):
    for stamp, action in zip(stamps, motion.executed, strict=False):
        data = FACTORY.command(stamp, TASK, action)
        foreign.add("/left/gate/command", "rl100_msgs/msg/GateCommand", stamp, data)
    write_mapping(site, action={"source": "gate", "topic": "left/gate/command"})
    assert imported(site, foreign.write(site / "theirs", "sqlite3"))[0]
    expected = read_episode(ours.write(site / "ours", FACTORY), TASK, ROBOT)
    assert_same(read_episode(only_bag(site), TASK, ROBOT), expected, tolerance=0.0)


def test_what_a_policy_commanded_is_no_demonstration(site, foreign, motion, stamps):
    for stamp, action in zip(stamps, motion.executed, strict=False):
        data = FACTORY.command(stamp, TASK, action, CommandSource.POLICY, "push@1")
        foreign.add("/gate/command", "rl100_msgs/msg/GateCommand", stamp, data)
    write_mapping(site, action={"source": "gate"})
    assert imported(site, foreign.write(site / "theirs"))[0]
    assert read_index(site / "bags").entries[0].metadata.policy_version == "push@1"


def test_a_judgement_of_an_unknown_kind_is_passed_over(site, foreign, stamps):
    for step, kind in ((3, 1), (5, 77)):
        data = FACTORY.serialise(
            "rl100_msgs/msg/HumanFeedback", header=FACTORY.header(stamps[step]), episode_id="",
            kind=kind, reward=1.0, source="button",
        )  # fmt: skip
        foreign.add("/feedback", "rl100_msgs/msg/HumanFeedback", stamps[step], data)
    write_mapping(site, outcome={"source": "topic", "topic": "/feedback"})
    assert imported(site, foreign.write(site / "theirs"))[0]
    assert read_index(site / "bags").entries[0].metadata.outcome is Outcome.SUCCESS


def test_markers_of_another_clock_than_the_stamps_are_told(site, foreign, stamps):
    """A recorder that does not use the simulated time receives everything in wall time."""
    late = 10**9 * 1000
    foreign.recording = [
        (topic, kind, log_ns + late, data) for topic, kind, log_ns, data in foreign.recording
    ]
    source = foreign.write(site / "whole")
    assert imported(site, source)[0]  # every stream has stamps of its own
    foreign.add_bool(NAMES.marker, stamps[2] + late, value=True)
    write_mapping(site, episodes={"cut": "marker", "topic": NAMES.marker})
    fits, report = imported(site, foreign.write(site / "cut"))
    assert not fits
    assert "stamps: received" in report


def test_recorded_extrinsics_are_kept_in_our_frames(site, ours, foreign):
    write_mapping(
        site, extrinsics={"source": "topic", "topic": "camera_pose", "base_frame": NAMES.base}
    )
    moved = ROBOT.model_copy(
        update={"cameras": (FROM_ABOVE.model_copy(update={"xyz": (9.0, 9.0, 9.0)}),)}
    )
    (site / "robot.yaml").write_text(yaml.safe_dump(moved.model_dump(mode="json")))
    fits, report = imported(site, foreign.write(site / "theirs"))
    assert fits, report
    assert "was the camera moved" in report
    expected = read_episode(ours.write(site / "ours", FACTORY), TASK, ROBOT)
    assert_same(read_episode(only_bag(site), TASK, moved), expected)


def test_stamps_of_reception_mend_a_camera_with_another_clock(site, ours, foreign, stamps):
    foreign.recording = [each for each in foreign.recording if each[0] != NAMES.image]
    for stamp, depth in zip(stamps, ours.depth_mm, strict=True):
        data = FACTORY.depth(stamp + 7 * 10**9, depth, NAMES.frame)
        foreign.add(NAMES.image, "sensor_msgs/msg/Image", stamp, data)
    source = foreign.write(site / "theirs")
    fits, report = imported(site, source)
    assert not fits
    assert "stamps: received" in report
    write_mapping(site, stamps="received")
    assert imported(site, source)[0]
    expected = read_episode(ours.write(site / "ours", FACTORY), TASK, ROBOT)
    assert_same(read_episode(only_bag(site), TASK, ROBOT), expected)


def test_markers_cut_a_recording_and_outcomes_judge_the_parts(site, foreign, stamps):
    for step, begins in ((1, True), (7, False), (9, True), (16, False)):
        foreign.add_bool(NAMES.marker, stamps[step], value=begins)
    foreign.add_bool(NAMES.outcome, stamps[8], value=False)
    foreign.add_bool(NAMES.outcome, stamps[15], value=True)
    write_mapping(
        site,
        episodes={"cut": "marker", "topic": NAMES.marker},
        outcome={"source": "topic", "topic": NAMES.outcome},
    )
    fits, report = imported(site, foreign.write(site / "theirs"))
    assert fits, report
    folders = [site / "bags" / entry.folder for entry in read_index(site / "bags").entries]
    episodes = [read_episode(folder, TASK, ROBOT) for folder in folders]
    assert [each.outcome for each in episodes] == ["failure", "success"]
    until_seen = [stamps[1:8], stamps[9:16]]  # the success was, at 15; nothing after it counts
    assert [each.stamps_ns.tolist() for each in episodes] == until_seen


def test_an_observation_where_one_episode_ends_and_another_begins_is_of_both(
    site, foreign, stamps
):
    for step in (0, 8):
        data = FACTORY.serialise("std_msgs/msg/String", data="next")
        foreign.add(NAMES.marker, "std_msgs/msg/String", stamps[step], data)
    write_mapping(site, episodes={"cut": "marker", "topic": NAMES.marker})
    assert imported(site, foreign.write(site / "theirs"))[0]
    folders = [site / "bags" / entry.folder for entry in read_index(site / "bags").entries]
    found = [read_episode(folder, TASK, ROBOT).stamps_ns.tolist() for folder in folders]
    assert found == [stamps[:9], stamps[8:]]


def test_outcomes_cut_a_recording(site, foreign, stamps):
    for step, success in ((8, True), (17, False)):
        foreign.add_bool(NAMES.outcome, stamps[step], value=success)
    write_mapping(
        site,
        episodes={"cut": "outcomes"},
        outcome={"source": "topic", "topic": NAMES.outcome},
    )
    assert imported(site, foreign.write(site / "theirs"))[0]
    entries = read_index(site / "bags").entries
    assert [each.metadata.outcome.value for each in entries] == ["success", "failure"]
    assert [each.metadata.end_ns for each in entries] == [stamps[8], stamps[17]]


def test_what_nobody_commands_at_the_ends_is_left_out(site, foreign, ours, motion, stamps):
    still = np.repeat(motion.positions[:1], 4, axis=0)
    before = [stamps[0] - (4 - each) * PERIOD_NS for each in range(4)]
    for stamp, where in zip(before, still, strict=True):
        data = FACTORY.joint_state(stamp, [NAMES.joints[name] for name in ROBOT.joints], where)
        foreign.add(NAMES.joint_states, "sensor_msgs/msg/JointState", stamp, data)
        data = FACTORY.depth(stamp, ours.depth_mm[0], NAMES.frame)
        foreign.add(NAMES.image, "sensor_msgs/msg/Image", stamp, data)
    foreign.add_trajectories(before, still, ROBOT.joints, 0.1)
    write_mapping(site, trim_still=0.01)
    assert imported(site, foreign.write(site / "theirs"))[0]
    assert read_episode(only_bag(site), TASK, ROBOT).stamps_ns.tolist() == stamps


def test_the_same_recording_is_imported_once(site, foreign):
    source = foreign.write(site / "theirs")
    imported(site, source)
    fits, report = imported(site, source)
    assert fits
    assert "imported before" in report
    only_bag(site)


def test_the_same_recording_by_another_mapping_is_refused(site, foreign):
    source = foreign.write(site / "theirs")
    imported(site, source)
    with pytest.raises(BagError, match="imported by another mapping"):
        imported(site, source, outcome=Outcome.FAILURE)


def without(recorder, topic):
    recorder.recording = [each for each in recorder.recording if each[0] != topic]


def broken_frame(recorder, ours):
    without(recorder, NAMES.image)
    for step, depth in enumerate(ours.depth_mm):
        stamp = ours.stamp_ns(step)
        data = FACTORY.depth(stamp, depth, "elsewhere")
        recorder.add(NAMES.image, "sensor_msgs/msg/Image", stamp, data)


def colour_for_depth(recorder, ours):
    without(recorder, NAMES.image)
    for step in range(T + 1):
        stamp = ours.stamp_ns(step)
        pixels = np.zeros((FROM_ABOVE.height, FROM_ABOVE.width, 3), np.uint8)
        data = FACTORY.colour(stamp, pixels, NAMES.frame)
        recorder.add(NAMES.image, "sensor_msgs/msg/Image", stamp, data)


def in_degrees(recorder, ours):
    without(recorder, NAMES.joint_states)
    names = [NAMES.joints[name] for name in ROBOT.joints]
    for step, where in enumerate(np.degrees(ours.positions)):
        stamp = ours.stamp_ns(step)
        data = FACTORY.joint_state(stamp, names, where)
        recorder.add(NAMES.joint_states, "sensor_msgs/msg/JointState", stamp, data)


def half_the_rate(recorder, ours):
    slow = {ours.stamp_ns(step) for step in range(0, T + 1, 2)}
    recorder.recording = [
        each for each in recorder.recording if each[0] != NAMES.joint_states or each[2] in slow
    ]


def far_away(recorder, ours):
    without(recorder, NAMES.command)
    stamps = [ours.stamp_ns(step) for step in range(T)]
    recorder.add_trajectories(stamps, ours.positions[:T] + 1.0, ROBOT.joints, 0.1)


def cut_short(recorder, ours):
    gone = {ours.stamp_ns(step) for step in range(8, 14)}
    recorder.recording = [
        each for each in recorder.recording if each[0] != NAMES.image or each[2] not in gone
    ]


BREACHES = {
    "no joint states": (lambda r, _: without(r, NAMES.joint_states), "no message on it"),
    "no images": (lambda r, _: without(r, NAMES.image), "no message on it"),
    "no command": (lambda r, _: without(r, NAMES.command), "no message on it"),
    "no camera info": (lambda r, _: without(r, NAMES.info), "no message on it"),
    "another frame": (broken_frame, "expected frame 'camera_depth_optical_frame'"),
    "another encoding": (colour_for_depth, "got encoding 'rgb8'"),
    "degrees": (in_degrees, "are they rad"),
    "half the rate": (half_the_rate, "raise the rate of the driver"),
    "commands of another arm": (far_away, "is the command in rad"),
    "a long gap": (cut_short, "too much would be left out"),
}


@pytest.mark.parametrize("what", BREACHES)
def test_a_breach_is_told_and_nothing_is_written(site, foreign, ours, what):
    damage, told = BREACHES[what]
    damage(foreign, ours)
    fits, report = imported(site, foreign.write(site / "theirs"))
    assert not fits
    assert told in report
    assert "nothing is written" in report
    assert not (site / "bags").exists()


def test_joint_names_that_are_not_mapped_are_told(site, foreign):
    write_mapping(site, joint_states={"topic": NAMES.joint_states})
    fits, report = imported(site, foreign.write(site / "theirs"))
    assert not fits
    assert "set joint_states.names" in report


@pytest.mark.parametrize(
    ("action", "told"),
    [
        ({"source": "trajectory", "topic": NAMES.command}, "trajectory lacks"),
        ({"source": "leader", "topic": NAMES.joint_states}, "set action.names"),
        (
            {"source": "positions", "topic": NAMES.array, "joints": list(ROBOT.joints[:6])},
            "expected 6 finite positions",
        ),
        (
            {"source": "positions", "topic": NAMES.array, "joints": ["a", *ROBOT.joints[1:]]},
            "action.joints lacks",
        ),
    ],
)
def test_commands_whose_joints_are_not_ours_are_told(site, foreign, motion, stamps, action, told):
    for stamp, where in zip(stamps, motion.positions, strict=True):
        foreign.add_array(stamp, where)
    write_mapping(site, action=action)
    fits, report = imported(site, foreign.write(site / "theirs"))
    assert not fits
    assert told in report


def test_partly_takes_the_episodes_that_fit(site, foreign, ours, stamps):
    cut_short(foreign, ours)
    for step, begins in ((0, True), (6, False), (7, True), (20, False)):
        foreign.add_bool(NAMES.marker, stamps[step], value=begins)
    write_mapping(site, episodes={"cut": "marker", "topic": NAMES.marker})
    source = foreign.write(site / "theirs")
    assert not imported(site, source)[0]
    assert not imported(site, source, partly=True)[0]
    assert len(read_index(site / "bags").entries) == 1


def test_a_damaged_recording_is_an_error_with_advice(site, foreign):
    source = foreign.write(site / "theirs")
    file = next(source.glob("*.mcap"))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(BagError, match="ros2 bag"):
        imported(site, source)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"joint_state": {"topic": "/x"}}, "joint_state"),
        ({"action": {"source": "thought"}}, "action"),
        ({"episodes": {"cut": "marker"}}, "needs one"),
        ({"episodes": {"cut": "outcomes"}}, "outcome.source: topic"),
        ({"tags": {"import.source": "x"}}, "import."),
    ],
)
def test_a_mapping_that_cannot_be_meant_is_refused(site, foreign, changes, told):
    write_mapping(site, **changes)
    with pytest.raises(ConfigError, match=told):
        imported(site, foreign.write(site / "theirs"))


def test_the_episode_is_named_by_when_it_was_recorded(site, foreign):
    imported(site, foreign.write(site / "theirs"))
    assert bag_file(only_bag(site)).name.startswith("20231114T221320_000Z_push_t")


def test_the_mapping_that_is_shipped_is_one():
    mapping = load_mapping(CONFIG / "mappings" / "franka_realsense.yaml")
    shipped = load_robot(CONFIG / "robots" / "panda.yaml")
    assert set(mapping.joint_states.names.values()) == set(shipped.joints)
    assert set(mapping.cameras) == {camera.name for camera in shipped.cameras}


def test_the_command_tells_by_its_status_whether_everything_fits(site, foreign):
    source = foreign.write(site / "theirs")
    told = [
        "bags", "import", str(source), "--mapping", str(site / "mapping.yaml"),
        "--robot", str(site / "robot.yaml"), "--into", str(site / "bags"),
    ]  # fmt: skip
    assert CliRunner().invoke(app, told).exit_code == 0
    without(foreign, NAMES.image)
    told[2] = str(foreign.write(site / "blind"))
    assert CliRunner().invoke(app, told).exit_code == 1
    only_bag(site)
