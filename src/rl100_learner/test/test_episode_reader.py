# SPDX-License-Identifier: Apache-2.0
"""Episodes from bags with known contents: clouds, actions, proprioception, what is left out.

The camera of these tests looks straight down from 0.5 m. The depth of step t is 460 + t mm, so the
plane it sees lies at z = 0.040 - 0.001 t in the base frame: the height of a cloud tells its step.
"""

import hashlib
import json
import os
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from rl100_learner.data import bag_episode
from rl100_learner.data import reader as reader_module
from rl100_learner.data.bag_episode import EpisodeReader
from rl100_learner.data.reader import BagReport, BagStatus, load_demonstrations, read_episode
from rl100_learner.data.streams import executed_actions
from rl100_policy.bags.identity import CACHE, METADATA_FILE, bag_file
from rl100_policy.bags.judgement import Judgement, JudgementKind
from rl100_policy.bags.relabel import relabel_episode
from rl100_policy.bags.testing import FROM_ABOVE, MessageFactory, SyntheticEpisode
from rl100_policy.core.config import (
    CameraConfig,
    ImageObservation,
    StateObservation,
    load_robot,
    load_task,
)
from rl100_policy.core.errors import BagError, ConfigError
from rl100_policy.core.kinematics import ArmKinematics

CONFIG = Path(__file__).parents[2] / "rl100_bringup" / "config"
ROBOT = load_robot(CONFIG / "robots" / "panda.yaml").model_copy(update={"cameras": (FROM_ABOVE,)})
TASK = load_task(CONFIG / "tasks" / "push_t.yaml")
FACTORY = MessageFactory()
T = 8
SUCCESS = (Judgement(stamp_ns=1, kind=JudgementKind.SUCCESS),)


def known_episode(**changes) -> SyntheticEpisode:
    steps = np.arange(T + 1)
    depth = np.broadcast_to(
        460 + steps[:, None, None], (T + 1, FROM_ABOVE.height, FROM_ABOVE.width)
    )
    positions = np.tile(ROBOT.home, (T + 1, 1))
    positions[:, 0] += 0.01 * steps
    actions = np.stack([0.01 * steps[:T], -0.02 * steps[:T]], axis=1)
    episode = SyntheticEpisode(
        TASK, ROBOT, depth.astype(np.uint16), positions, actions.astype(np.float32),
        judgements=SUCCESS,
    )  # fmt: skip
    return replace(episode, **changes)


def written(bags: Path, **changes) -> Path:
    return known_episode(**changes).write(bags, FACTORY)


def steps_of(episode) -> np.ndarray:
    """Steps of the observations by the height of their clouds."""
    heights = episode.visual[:, :, 2]
    np.testing.assert_allclose(heights, heights[:, :1].repeat(heights.shape[1], 1), atol=1e-6)
    return np.round((0.040 - heights[:, 0]) / 0.001).astype(int)


def notes_of(folder: Path) -> str:
    return "; ".join(EpisodeReader(TASK, ROBOT).read(folder).notes)


def test_cloud_proprioception_action_and_stamp_of_a_step_belong_together(tmp_path):
    synthetic = known_episode()
    episode = read_episode(synthetic.write(tmp_path, FACTORY), TASK, ROBOT)
    np.testing.assert_array_equal(steps_of(episode), np.arange(T + 1))
    np.testing.assert_array_equal(episode.actions, synthetic.actions)
    arm = ArmKinematics(ROBOT)
    expected = [arm.tool_position(q) for q in synthetic.positions]
    np.testing.assert_allclose(episode.proprio, expected, atol=1e-6)
    assert episode.stamps_ns.tolist() == [synthetic.stamp_ns(step) for step in range(T + 1)]
    assert episode.outcome == "success"


def test_every_point_is_a_pixel_of_the_plane(tmp_path):
    episode = read_episode(written(tmp_path), TASK, ROBOT)
    depth_m = 0.460
    x, y = episode.visual[0, :, 0], episode.visual[0, :, 1]
    u = (x - 0.5) * FROM_ABOVE.fx / depth_m + FROM_ABOVE.cx
    v = -y * FROM_ABOVE.fy / depth_m + FROM_ABOVE.cy  # y of the camera points to -y of the base
    for pixel, size in ((u, FROM_ABOVE.width), (v, FROM_ABOVE.height)):
        np.testing.assert_allclose(pixel, np.round(pixel), atol=1e-3)
        assert pixel.min() > -0.5
        assert pixel.max() < size - 0.5
    distinct = {(round(a), round(b)) for a, b in zip(u, v, strict=True)}
    assert len(distinct) == TASK.observation.n_points  # 192 pixels: no need to tile


def test_a_bag_that_is_judged_anew_while_it_is_read_is_read_again(tmp_path, monkeypatch):
    folder = written(tmp_path)
    hash_of, seen = bag_episode._file_hash, []

    def meanwhile(path):
        if not seen:
            relabel_episode(folder, Judgement(stamp_ns=2, kind=JudgementKind.FAILURE))
        seen.append(hash_of(path))
        return seen[-1]

    monkeypatch.setattr(bag_episode, "_file_hash", meanwhile)
    episode = EpisodeReader(TASK, ROBOT).read(folder).episode
    assert (episode.outcome, len(seen)) == ("failure", 2)
    assert episode.source_sha256 == hash_of(bag_file(folder))


def test_a_bag_that_never_holds_still_is_not_read(tmp_path, monkeypatch):
    folder, times = written(tmp_path), count()
    monkeypatch.setattr(bag_episode, "_times", lambda _: next(times))
    with pytest.raises(BagError, match="changed whenever it was read"):
        EpisodeReader(TASK, ROBOT).read(folder)


def test_the_source_is_named_by_the_hash_of_its_file(tmp_path):
    folder = written(tmp_path)
    expected = hashlib.sha256(bag_file(folder).read_bytes()).hexdigest()
    assert read_episode(folder, TASK, ROBOT).source_sha256 == expected


@pytest.mark.parametrize("stream", ["depth", "joint_states"])
def test_before_a_gap_the_episode_ends_and_the_judgement_does_not_apply(tmp_path, stream):
    folder = written(tmp_path, missing={stream: frozenset({6})})
    episode = read_episode(folder, TASK, ROBOT)
    np.testing.assert_array_equal(steps_of(episode), np.arange(6))  # actions 0..4
    assert episode.outcome == "unlabelled"
    assert "3 control periods" in notes_of(folder)  # 5, 6 and 7


def test_after_a_gap_near_the_beginning_the_judgement_applies(tmp_path):
    folder = written(tmp_path, missing={"command": frozenset({1})})
    episode = read_episode(folder, TASK, ROBOT)
    np.testing.assert_array_equal(steps_of(episode), np.arange(2, T + 1))
    np.testing.assert_array_equal(episode.actions, known_episode().actions[2:])
    assert episode.outcome == "success"


def test_a_frame_without_a_view_counts_as_missing(tmp_path):
    depth = known_episode().depth_mm.copy()
    depth[2] = 0  # no reading anywhere
    folder = written(tmp_path, depth_mm=depth)
    np.testing.assert_array_equal(steps_of(read_episode(folder, TASK, ROBOT)), np.arange(3, T + 1))
    assert "1 camera frames cannot be used" in notes_of(folder)


def joint_state(step: int, names=ROBOT.joints, positions=ROBOT.home) -> bytes:
    return FACTORY.joint_state(known_episode().stamp_ns(step), names, positions)


BAD_JOINT_STATES = {
    "not finite": joint_state(6, positions=[np.nan, *ROBOT.home[1:]]),
    "lacks a joint": joint_state(6, ROBOT.joints[1:], ROBOT.home[1:]),
    "sizes disagree": joint_state(6, positions=ROBOT.home[1:]),
    "no JointState": b"\x00\x01\x00\x00\x07",
}


@pytest.mark.parametrize("what", BAD_JOINT_STATES)
def test_a_bad_joint_state_is_skipped_and_counted(tmp_path, what):
    """Regression: it made the whole bag unusable."""
    bad = ("joint_states", 6, BAD_JOINT_STATES[what])
    folder = written(tmp_path, missing={"joint_states": frozenset({6})}, extra=(bad,))
    episode = read_episode(folder, TASK, ROBOT)
    np.testing.assert_array_equal(steps_of(episode), np.arange(6))
    assert episode.outcome == "unlabelled"
    assert "joint_states: 1 bad messages skipped" in notes_of(folder)


@pytest.mark.parametrize("what", BAD_JOINT_STATES)
def test_a_bad_joint_state_does_not_hide_a_good_one_of_its_time(tmp_path, what):
    folder = written(tmp_path, extra=(("joint_states", 6, BAD_JOINT_STATES[what]),))
    episode = read_episode(folder, TASK, ROBOT)
    np.testing.assert_array_equal(steps_of(episode), np.arange(T + 1))
    expected = ArmKinematics(ROBOT).tool_position(known_episode().positions[6])
    np.testing.assert_allclose(episode.proprio[6], expected, atol=1e-6)


def test_joint_states_of_another_driver_are_no_concern_of_the_episode(tmp_path):
    """Regression: a gripper that publishes its own joints made the bag unusable."""
    gripper = [
        ("joint_states", step, joint_state(step, ["finger"], [0.01])) for step in range(T + 1)
    ]
    folder = written(tmp_path, extra=gripper)
    np.testing.assert_array_equal(steps_of(read_episode(folder, TASK, ROBOT)), np.arange(T + 1))
    assert notes_of(folder) == ""


@pytest.mark.parametrize(
    ("stream", "topic", "data"),
    [
        ("camera_info", FROM_ABOVE.info_topic, FACTORY.camera_info(0, FROM_ABOVE.model_copy(
            update={"fx": np.nan}))),
        ("camera_info", FROM_ABOVE.info_topic, b"\x00\x01\x00\x00"),
        ("extrinsics", "camera/extrinsics", FACTORY.extrinsics(0, FROM_ABOVE.model_copy(
            update={"xyz": (np.nan, 0.0, 0.0)}), ROBOT.base_frame)),
        ("command", "gate/command", b"\x00\x01\x00\x00"),
    ],
)  # fmt: skip
def test_a_bad_message_beside_good_ones_is_skipped_and_counted(tmp_path, stream, topic, data):
    folder = written(tmp_path, extra=((stream, 3, data),))
    np.testing.assert_array_equal(steps_of(read_episode(folder, TASK, ROBOT)), np.arange(T + 1))
    assert notes_of(folder) == f"{topic}: 1 bad messages skipped"


@pytest.mark.parametrize("value", [np.nan, 100.0])
def test_an_action_that_cannot_be_one_is_skipped_and_counted(tmp_path, value):
    actions = known_episode().actions.copy()
    actions[6, 0] = value
    folder = written(tmp_path, actions=actions)
    np.testing.assert_array_equal(steps_of(read_episode(folder, TASK, ROBOT)), np.arange(7))
    assert "gate/command: 1 bad messages skipped" in notes_of(folder)


def test_an_episode_without_a_possible_action_says_so(tmp_path):
    folder = written(tmp_path, actions=np.full_like(known_episode().actions, np.nan))
    with pytest.raises(BagError, match=f"0 commands; gate/command: {T} bad messages skipped"):
        read_episode(folder, TASK, ROBOT)


def test_a_depth_frame_of_another_camera_gives_no_cloud_as_in_the_live_node(tmp_path):
    data = FACTORY.depth(known_episode().stamp_ns(2), known_episode().depth_mm[2], "elsewhere")
    folder = written(tmp_path, missing={"depth": frozenset({2})}, extra=(("depth", 2, data),))
    np.testing.assert_array_equal(steps_of(read_episode(folder, TASK, ROBOT)), np.arange(3, T + 1))
    assert "1 camera frames cannot be used" in notes_of(folder)


def test_periods_in_which_nobody_is_in_command_are_cut_from_both_ends(tmp_path):
    folder = written(tmp_path, hold=frozenset({0, 1, 4, T - 1}))
    episode = read_episode(folder, TASK, ROBOT)
    # step 4 is in the middle and stays: the arm held while the episode went on
    np.testing.assert_array_equal(steps_of(episode), np.arange(2, T))
    np.testing.assert_array_equal(episode.actions, known_episode().actions[2 : T - 1])
    assert episode.outcome == "success"


def test_observations_after_the_end_stamp_are_not_part_of_the_episode(tmp_path):
    end_ns = known_episode().stamp_ns(5)
    episode = read_episode(written(tmp_path, metadata={"end_ns": end_ns}), TASK, ROBOT)
    np.testing.assert_array_equal(steps_of(episode), np.arange(6))
    assert episode.outcome == "success"


@pytest.mark.parametrize("what", ["task", "robot"])
def test_a_bag_of_another_task_or_robot_is_refused_by_name(tmp_path, what):
    folder = written(tmp_path, metadata={what: "other"})
    with pytest.raises(BagError, match="other"):
        read_episode(folder, TASK, ROBOT)


OTHER_SETUP = {
    "tool": ROBOT.tool.model_copy(update={"xyz": (0.0, 0.0, 0.3)}),
    "control_period": 0.05,
    "base_frame": "table",
    "joints": ROBOT.joints[::-1],
    "locked_joints": {**ROBOT.locked_joints, "panda_finger_joint1": 0.0},
}


@pytest.mark.parametrize("key", OTHER_SETUP)
def test_a_bag_recorded_with_another_setup_is_refused_by_key_unless_accepted(tmp_path, key):
    """Regression: the hash of the descriptions was recorded and never looked at."""
    recorded_on = ROBOT.model_copy(update={key: OTHER_SETUP[key]})
    folder = written(tmp_path, metadata={"setup": recorded_on.setup})
    with pytest.raises(BagError, match=rf"recorded with {key} "):
        read_episode(folder, TASK, ROBOT)
    read = EpisodeReader(TASK, ROBOT, accept_other_setup=True).read(folder)
    np.testing.assert_array_equal(steps_of(read.episode), np.arange(T + 1))
    assert f"in spite of {key} " in "; ".join(read.notes)


def test_what_is_recorded_itself_may_be_described_otherwise(tmp_path):
    changes = {"home": (0.1,) * 7, "velocity_scale": 0.5, "position_margin": 0.1}
    camera = FROM_ABOVE.model_copy(update={"name": "top", "xyz": (0.4, 0.0, 0.5)})
    robot = ROBOT.model_copy(update={**changes, "cameras": (camera,)})
    folder = written(tmp_path)
    task = TASK.model_copy(update={"description": "other words", "time_limit": 1.0})
    np.testing.assert_array_equal(steps_of(read_episode(folder, task, robot)), np.arange(T + 1))


def test_a_bag_that_does_not_tell_its_setup_is_read(tmp_path):
    folder = written(tmp_path, metadata={"setup": {}})
    assert len(read_episode(folder, TASK, ROBOT)) == T


def test_other_action_components_are_refused(tmp_path):
    action = TASK.action.model_copy(update={"names": ("linear.x", "linear.z")})
    folder = written(tmp_path, task=TASK.model_copy(update={"action": action}))
    with pytest.raises(BagError, match=r"linear\.z"):
        read_episode(folder, TASK, ROBOT)


def test_without_recorded_extrinsics_the_described_camera_pose_is_used_and_noted(tmp_path):
    # the latched messages carry the stamp of step 0
    folder = written(tmp_path, missing={"extrinsics": frozenset({0})})
    np.testing.assert_array_equal(steps_of(read_episode(folder, TASK, ROBOT)), np.arange(T + 1))
    assert "robot description" in notes_of(folder)


@pytest.mark.parametrize("stream", ["depth", "joint_states", "camera_info", "command"])
def test_a_bag_without_one_of_the_streams_is_refused(tmp_path, stream):
    folder = written(tmp_path, missing={stream: frozenset(range(T + 1))})
    with pytest.raises(BagError, match=folder.name):
        read_episode(folder, TASK, ROBOT)


def test_an_episode_is_read_without_metadata_yaml(tmp_path):
    folder = written(tmp_path)
    (folder / METADATA_FILE).unlink()
    assert read_episode(folder, TASK, ROBOT).outcome == "success"


# A folder of bags


@pytest.fixture
def bags(tmp_path) -> Path:
    for number in range(3):
        written(tmp_path, metadata={"episode_id": f"e{number}"})
    return tmp_path


@pytest.fixture
def reads(monkeypatch) -> list[str]:
    """Names of the bags whose messages were read."""
    seen: list[str] = []

    class CountingReader(EpisodeReader):
        def read(self, folder: Path):
            seen.append(folder.name)
            return super().read(folder)

    monkeypatch.setattr(reader_module, "EpisodeReader", CountingReader)
    return seen


def equal(a, b) -> bool:
    names = ("visual", "proprio", "actions", "stamps_ns")
    same = all(np.array_equal(getattr(a, name), getattr(b, name)) for name in names)
    return same and (a.id, a.outcome, a.source_sha256) == (b.id, b.outcome, b.source_sha256)


def test_only_new_bags_are_read_the_second_time_and_give_the_same_tensors(bags, reads):
    first = load_demonstrations(bags, TASK, ROBOT)
    written(bags, metadata={"episode_id": "e3"})
    reads.clear()
    second = load_demonstrations(bags, TASK, ROBOT)
    assert reads == ["e3"]
    assert [episode.id for episode in second] == ["e0", "e1", "e2", "e3"]
    assert all(equal(a, b) for a, b in zip(first, second[:3], strict=True))


def test_a_bag_that_was_written_to_is_read_again(bags, reads):
    load_demonstrations(bags, TASK, ROBOT)
    path = bag_file(bags / "e1")
    os.utime(path, ns=(1, 1))
    reads.clear()
    load_demonstrations(bags, TASK, ROBOT)
    assert reads == ["e1"]


def test_a_relabelled_bag_is_read_again(bags, reads):
    load_demonstrations(bags, TASK, ROBOT)
    relabel_episode(bags / "e1", Judgement(stamp_ns=2, kind=JudgementKind.UNDO))
    reads.clear()
    outcomes = [episode.outcome for episode in load_demonstrations(bags, TASK, ROBOT)]
    assert reads == ["e1"]
    assert outcomes == ["success", "unlabelled", "success"]


def test_another_description_of_the_observation_reads_again(bags, reads):
    load_demonstrations(bags, TASK, ROBOT)
    reads.clear()
    observation = TASK.observation.model_copy(update={"n_points": 64})
    smaller = TASK.model_copy(update={"observation": observation})
    assert load_demonstrations(bags, smaller, ROBOT)[0].visual.shape[1] == 64
    assert len(reads) == 3
    reads.clear()
    assert load_demonstrations(bags, TASK, ROBOT)[0].visual.shape[1] == 128
    assert reads == []  # both are kept


@pytest.mark.parametrize("damage", ["truncate", "empty", "garbage"])
def test_a_damaged_cache_entry_is_made_anew(bags, reads, damage):
    expected = load_demonstrations(bags, TASK, ROBOT)
    entry = next((bags / CACHE).glob("e1.*.safetensors"))
    content = {"truncate": entry.read_bytes()[:-100], "empty": b"", "garbage": b"\x10" + bytes(99)}
    entry.write_bytes(content[damage])
    reads.clear()
    again = load_demonstrations(bags, TASK, ROBOT)
    assert reads == ["e1"]
    assert all(equal(a, b) for a, b in zip(expected, again, strict=True))


def test_the_cache_is_no_pickle(bags):
    load_demonstrations(bags, TASK, ROBOT)
    entry = next((bags / CACHE).iterdir())
    head = entry.read_bytes()
    size = int.from_bytes(head[:8], "little")
    assert json.loads(head[8 : 8 + size])["actions"]["dtype"] == "F32"


def test_unusable_bags_are_reported_and_the_others_are_read(bags):
    written(bags, metadata={"episode_id": "foreign", "task": "pour"})
    bag_file(bags / "e1").write_bytes(b"torn")
    (bags / "e9.partial").mkdir()
    reports: list[BagReport] = []
    done: list[tuple[int, int]] = []
    episodes = load_demonstrations(
        bags, TASK, ROBOT, lambda *each: done.append(each), on_report=reports.append
    )
    assert [episode.id for episode in episodes] == ["e0", "e2"]
    left_out = {
        each.folder: each.notes[0] for each in reports if each.status is BagStatus.LEFT_OUT
    }
    assert set(left_out) == {"e1", "foreign"}
    assert "pour" in left_out["foreign"]
    assert done == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_accepting_another_setup_is_not_remembered(bags):
    recorded_on = ROBOT.model_copy(update={"control_period": 0.2})
    written(bags, metadata={"episode_id": "e3", "setup": recorded_on.setup})
    for _ in range(2):  # the second time from the cache
        assert len(load_demonstrations(bags, TASK, ROBOT, accept_other_setup=True)) == 4
    reports: list[BagReport] = []
    assert len(load_demonstrations(bags, TASK, ROBOT, on_report=reports.append)) == 3
    assert reports[-1].status is BagStatus.LEFT_OUT
    assert "control_period 0.2" in reports[-1].notes[0]


def test_a_degraded_bag_is_used_and_reported_also_from_the_cache(bags):
    written(bags, metadata={"episode_id": "e3", "degraded_reasons": ("depth: 4 lost",)})
    for status in (BagStatus.READ, BagStatus.CACHED):
        reports: list[BagReport] = []
        assert len(load_demonstrations(bags, TASK, ROBOT, on_report=reports.append)) == 4
        assert reports[-1] == BagReport("e3", status, ("depth: 4 lost",))


def test_a_folder_without_a_usable_episode_says_why(tmp_path):
    written(tmp_path, metadata={"task": "pour"})
    with pytest.raises(BagError, match="pour"):
        load_demonstrations(tmp_path, TASK, ROBOT)


def test_episodes_of_a_policy_are_no_demonstrations(bags):
    written(bags, metadata={"episode_id": "e3", "policy_version": "first@12345678"})
    assert [each.id for each in load_demonstrations(bags, TASK, ROBOT)] == ["e0", "e1", "e2"]


def test_a_folder_of_a_policys_episodes_alone_says_so(tmp_path):
    written(tmp_path, metadata={"policy_version": "first@12345678"})
    with pytest.raises(BagError, match="in 1 a policy acted, not a person"):
        load_demonstrations(tmp_path, TASK, ROBOT)


def test_what_progress_raises_ends_the_reading(bags):
    def cancel(*_: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        load_demonstrations(bags, TASK, ROBOT, cancel)


def test_the_action_learned_is_the_executed_one_not_the_one_asked_for():
    asked, executed = np.array([0.2, 0.1]), np.array([0.05, -0.02])
    commands = {
        7: SimpleNamespace(
            action_space=TASK.action.space, names=list(TASK.action.names), source=1,
            requested=asked, executed=executed, flags=0,
        )
    }  # fmt: skip
    np.testing.assert_allclose(executed_actions(commands, TASK.action).actions, [executed])


def test_the_clouds_keep_the_depth_range_of_the_camera(tmp_path):
    """Regression: the learner could use another range than the live node and no test said so."""
    near = FROM_ABOVE.model_copy(update={"depth_max": 0.4635})
    robot = ROBOT.model_copy(update={"cameras": (near,)})
    folder = known_episode(robot=robot).write(tmp_path)
    read = EpisodeReader(TASK, robot).read(folder)
    assert len(read.episode.visual) == 4  # depth 460 to 463 mm


def test_an_episode_of_a_camera_that_delivers_points_gives_the_same_clouds(tmp_path):
    of_depth = EpisodeReader(TASK, ROBOT).read(known_episode().write(tmp_path / "a")).episode
    camera = FROM_ABOVE.model_copy(update={"kind": "points", "topic": "camera/depth/points"})
    robot = ROBOT.model_copy(update={"cameras": (camera,)})
    folder = known_episode(robot=robot).write(tmp_path / "b")
    of_points = EpisodeReader(TASK, robot).read(folder).episode
    assert of_points.visual.shape == of_depth.visual.shape
    for mine, other in zip(of_points.visual, of_depth.visual, strict=True):
        np.testing.assert_allclose(np.sort(mine, axis=0), np.sort(other, axis=0), atol=1e-5)


COLOUR = CameraConfig(
    name="color", kind="color", topic="camera/color/image_raw", optical_frame="color_frame",
    width=8, height=6, fx=10.0, fy=10.0, cx=3.5, cy=2.5, xyz=(0.5, 0.0, 0.5),
    rpy=(np.pi, 0.0, 0.0),
)  # fmt: skip
BOTH = ROBOT.model_copy(update={"cameras": (FROM_ABOVE, COLOUR)})
SEEN_TASK = TASK.model_copy(update={"observation": ImageObservation(height=3, width=4)})
BLIND_TASK = TASK.model_copy(update={"observation": StateObservation()})


def seen_episode(**changes) -> SyntheticEpisode:
    """Every pixel of step t is 20 t."""
    level = (20 * np.arange(T + 1, dtype=np.uint8))[:, None, None, None]
    pixels = np.broadcast_to(level, (T + 1, COLOUR.height, COLOUR.width, 3))
    return known_episode(robot=BOTH, pixels=pixels, **changes)


def test_one_bag_serves_tasks_that_see_points_images_or_nothing(tmp_path):
    folder = seen_episode().write(tmp_path)
    points, image, state = (
        read_episode(folder, task, BOTH) for task in (TASK, SEEN_TASK, BLIND_TASK)
    )
    np.testing.assert_array_equal(points.visual, read_episode(folder, TASK, ROBOT).visual)
    assert (image.visual.shape, image.visual.dtype) == ((T + 1, 3, 4, 3), np.uint8)
    np.testing.assert_array_equal(image.visual[:, 0, 0, 0], 20 * np.arange(T + 1))
    assert state.visual.shape == (T + 1, 0, 3)
    for other in (image, state):
        np.testing.assert_array_equal(other.actions, points.actions)
        np.testing.assert_array_equal(other.proprio, points.proprio)
        np.testing.assert_array_equal(other.stamps_ns, points.stamps_ns)


def test_images_come_back_from_the_cache_as_they_were(tmp_path):
    seen_episode().write(tmp_path)
    statuses = []
    one, two = (
        load_demonstrations(tmp_path, SEEN_TASK, BOTH, on_report=statuses.append)[0]
        for _ in range(2)
    )
    assert [each.status for each in statuses] == [BagStatus.READ, BagStatus.CACHED]
    assert two.visual.dtype == np.uint8
    np.testing.assert_array_equal(one.visual, two.visual)


def test_an_image_needs_neither_the_cameras_pose_nor_its_info(tmp_path):
    folder = seen_episode(
        missing={"extrinsics": frozenset({0}), "camera_info": frozenset({0})}
    ).write(tmp_path)
    read = EpisodeReader(SEEN_TASK, BOTH).read(folder)
    assert len(read.episode) == T
    assert read.notes == ()


@pytest.mark.parametrize("frame_id", ["elsewhere", COLOUR.optical_frame])
def test_an_image_of_another_camera_or_size_counts_as_missing(tmp_path, frame_id):
    size = (COLOUR.height, COLOUR.width, 3) if frame_id == "elsewhere" else (12, 16, 3)
    data = FACTORY.colour(known_episode().stamp_ns(2), np.zeros(size, np.uint8), frame_id)
    folder = seen_episode(missing={"color": frozenset({2})}, extra=(("color", 2, data),)).write(
        tmp_path
    )
    read = EpisodeReader(SEEN_TASK, BOTH).read(folder)
    np.testing.assert_array_equal(read.episode.visual[:, 0, 0, 0], 20 * np.arange(3, T + 1))
    assert "1 camera frames cannot be used" in "; ".join(read.notes)


def test_without_a_colour_camera_images_cannot_be_read():
    with pytest.raises(ConfigError, match="of kind color"):
        EpisodeReader(SEEN_TASK, ROBOT)


def test_a_motion_that_is_more_than_its_action_says_is_not_learned_from():
    commands = {
        stamp: SimpleNamespace(
            action_space=TASK.action.space, names=list(TASK.action.names), source=source,
            executed=np.zeros(2), flags=flags, policy_version="",
        )
        for stamp, source, flags in [(1, 3, 2048), (2, 1, 0), (3, 1, 2048), (4, 1, 0), (5, 3, 0)]
    }  # fmt: skip
    read = executed_actions(commands, TASK.action)
    assert read.stamps_ns.tolist() == [2, 4]
    assert read.skipped == 1
