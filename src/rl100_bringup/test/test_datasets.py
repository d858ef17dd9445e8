# SPDX-License-Identifier: Apache-2.0
"""LeRobot datasets: what is exported is what is learned from, and comes back as it was."""

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from rl100_bringup.cli.app import app
from rl100_bringup.datasets import DatasetImport, export_dataset, import_dataset
from rl100_learner.data.reader import read_episode
from rl100_learner.lerobot.layout import DatasetInfo, Feature, read_info
from rl100_learner.lerobot.reading import LeRobotDataset
from rl100_learner.lerobot.writing import DatasetWriter
from rl100_policy.bags.index import read_index
from rl100_policy.bags.judgement import Judgement, JudgementKind, Outcome
from rl100_policy.bags.testing import MessageFactory, SyntheticEpisode
from rl100_policy.core.config import CameraConfig, load_robot, load_task
from rl100_policy.core.errors import BagError, ConfigError, StorageError
from rl100_policy.core.kinematics import ArmKinematics

REPOSITORY = Path(__file__).parents[3]
CONFIG = Path(__file__).parents[1] / "config"
VIEW = {
    "width": 24, "height": 16, "fx": 20.0, "fy": 20.0, "cx": 11.5, "cy": 7.5,
    "xyz": (0.5, 0.0, 0.5), "rpy": (np.pi, 0.0, 0.0),
}  # fmt: skip
DEPTH = CameraConfig(
    name="camera", topic="camera/depth/image_rect_raw", optical_frame="depth_frame", **VIEW
)
COLOUR = CameraConfig(
    name="color", kind="color", topic="camera/color/image_raw", optical_frame="colour_frame",
    **VIEW,
)  # fmt: skip
POINTS = CameraConfig(
    name="cloud", kind="points", topic="camera/points", optical_frame="points_frame", **VIEW
)
ROBOT = load_robot(CONFIG / "robots" / "panda.yaml").model_copy(
    update={"cameras": (DEPTH, COLOUR)}
)
TASK = load_task(CONFIG / "tasks" / "push_t.yaml")
FACTORY = MessageFactory()
T = 12
SUCCESS = (Judgement(stamp_ns=1, kind=JudgementKind.SUCCESS),)
FAILURE = (Judgement(stamp_ns=1, kind=JudgementKind.FAILURE),)


def episode(seed: int = 0, **changes) -> SyntheticEpisode:
    random = np.random.default_rng(seed)
    positions = np.array(ROBOT.home) + np.cumsum(random.normal(0, 0.01, (T + 1, 7)), axis=0)
    shape = (T + 1, DEPTH.height, DEPTH.width)
    depth = 460 + np.arange(T + 1)[:, None, None] + np.zeros(shape)
    actions = random.uniform(-0.2, 0.2, (T, 2)).astype(np.float32)
    pixels = random.integers(0, 256, (*shape, 3), dtype=np.uint8)
    made = SyntheticEpisode(
        TASK, ROBOT, depth.astype(np.uint16), positions, actions, pixels, judgements=SUCCESS
    )
    return replace(made, **changes)


@pytest.fixture
def site(tmp_path) -> Path:
    write_robot(tmp_path, ROBOT)
    return tmp_path


def write_robot(folder: Path, robot) -> None:
    (folder / "robot.yaml").write_text(yaml.safe_dump(robot.model_dump(mode="json")))


def task_file(name: str) -> str:
    return name if name.endswith(".yaml") else str(CONFIG / "tasks" / f"{name}.yaml")


def export(site: Path, **options) -> tuple[Path, str]:
    into = site / "dataset"
    console = Console(file=io.StringIO(), width=1000)
    robot = str(site / "robot.yaml")
    export_dataset(site / "bags", robot, "push_t", into, console, **options)
    return into, console.file.getvalue()


def imported(site: Path, task: str, mapping: dict | None = None, **changes) -> tuple[bool, str]:
    console = Console(file=io.StringIO(), width=1000)
    path = site / "mapping.yaml"
    path.write_text(yaml.safe_dump(mapping or {}))
    request = DatasetImport(
        site / "dataset", path, str(site / "robot.yaml"), task_file(task), site / "imported"
    )
    fits = import_dataset(replace(request, **changes), console)
    return fits, console.file.getvalue()


def imported_episodes(site: Path, task: str, robot=ROBOT) -> list:
    return [
        read_episode(site / "imported" / entry.folder, load_task(task_file(task)), robot)
        for entry in read_index(site / "imported").entries
    ]


def test_rows_are_the_observations_and_actions_that_are_learned_from(site):
    made = episode()
    ours = read_episode(made.write(site / "bags", FACTORY), TASK, ROBOT)
    root, _ = export(site)
    (rows,) = LeRobotDataset(root).episodes(
        ["observation.state", "action", "observation.points", "observation.images.color"]
    )
    np.testing.assert_array_equal(rows.columns["action"], made.actions)
    state = rows.columns["observation.state"]
    np.testing.assert_array_equal(state[:, :7], made.positions[:T].astype(np.float32))
    np.testing.assert_array_equal(state[:, 7:], ours.proprio[:T])
    np.testing.assert_array_equal(rows.columns["observation.points"], ours.visual[:T])
    np.testing.assert_array_equal(rows.columns["observation.images.color"], made.pixels[:T])
    assert rows.task == TASK.description


def test_the_description_counts_and_names_everything(site):
    for seed in range(3):
        episode(seed).write(site / "bags", FACTORY)
    root, told = export(site, repo_id="lab/push")
    info = json.loads((root / "meta/info.json").read_text())
    assert (info["total_episodes"], info["total_frames"], info["fps"]) == (3, 3 * T, 10)
    assert (info["codebase_version"], info["splits"]) == ("v3.0", {"train": "0:3"})
    assert info["features"]["action"]["names"] == ["linear.x", "linear.y"]
    assert info["features"]["observation.state"]["names"][:7] == list(ROBOT.joints)
    assert 'LeRobotDataset("lab/push"' in told
    ranges = pq.read_table(root / "meta/episodes/chunk-000/file-000.parquet")
    assert ranges["dataset_from_index"].to_pylist() == [0, T, 2 * T]
    assert ranges["dataset_to_index"].to_pylist() == [T, 2 * T, 3 * T]
    assert pq.read_table(root / "data/chunk-000/file-000.parquet").num_rows == 3 * T


def test_reward_and_success_are_of_the_last_row_of_a_success(site):
    episode(0).write(site / "bags", FACTORY)
    episode(1, judgements=FAILURE).write(site / "bags", FACTORY)
    root, _ = export(site)
    names = ["next.reward", "next.success", "next.done"]
    first, second = [each.columns for each in LeRobotDataset(root).episodes(names)]
    last = [0.0] * (T - 1) + [1.0]
    assert np.ravel(first["next.reward"]).tolist() == last
    assert np.ravel(first["next.success"]).tolist() == last
    assert not second["next.reward"].any()
    assert np.ravel(second["next.done"]).tolist() == last


def test_what_nobody_judged_has_no_reward(site):
    episode(0).write(site / "bags", FACTORY)
    episode(1, judgements=()).write(site / "bags", FACTORY)
    root, told = export(site)
    assert not {"next.reward", "next.success"} & set(read_info(root).features)
    assert "without next.reward and next.success: some of the episodes are unlabelled" in told


def test_only_the_outcomes_asked_for_are_exported(site):
    episode(0, judgements=FAILURE).write(site / "bags", FACTORY)
    episode(1).write(site / "bags", FACTORY)
    root, _ = export(site, outcomes=(Outcome.SUCCESS,))
    assert read_info(root).total_episodes == 1


def test_who_commanded_is_told_row_by_row(site):
    acted = dict.fromkeys(range(3, 7), "random@1")
    episode(policy=acted).write(site / "bags", FACTORY)
    root, _ = export(site)
    (rows,) = LeRobotDataset(root).episodes(["intervention"])
    assert np.ravel(rows.columns["intervention"]).tolist() == [
        step not in acted for step in range(T)
    ]


def test_statistics_are_those_of_the_rows(site):
    made = [episode(seed) for seed in range(2)]
    for each in made:
        each.write(site / "bags", FACTORY)
    root, _ = export(site)
    stats = json.loads((root / "meta/stats.json").read_text())
    actions = np.concatenate([each.actions for each in made]).astype(float)
    for name in ("min", "max", "mean", "std"):
        expected = getattr(actions, name)(axis=0)
        np.testing.assert_allclose(stats["action"][name], expected, atol=1e-7)
    assert stats["action"]["count"] == [2 * T]
    pixels = np.concatenate([each.pixels[:T] for each in made]) / 255.0
    colour = stats["observation.images.color"]
    for name in ("min", "max", "mean", "std"):
        expected = getattr(pixels, name)(axis=(0, 1, 2))
        np.testing.assert_allclose(np.ravel(colour[name]), expected, atol=1e-9)
    assert np.shape(colour["mean"]) == (3, 1, 1)


def test_states_and_actions_come_back_as_they_were(site):
    made = [episode(0), episode(1, judgements=FAILURE)]
    for each in made:
        each.write(site / "bags", FACTORY)
    export(site)
    fits, report = imported(site, "push_t_state")
    assert fits, report
    found = imported_episodes(site, "push_t_state")
    assert [each.outcome for each in found] == ["success", "failure"]
    for each, back in zip(made, found, strict=True):
        # the last action's result is not in the format
        np.testing.assert_array_equal(back.actions, each.actions[:-1])
        expected = each.positions[:T].astype(np.float32)
        np.testing.assert_array_equal(back.proprio[:, 3:], expected)


def test_images_come_back_as_they_were(site):
    made = episode()
    task = load_task(task_file("push_t_rgb"))
    whole = task.observation.model_copy(update={"region": None})
    task = task.model_copy(update={"observation": whole})
    described = task.model_dump(mode="json")
    (site / "rgb.yaml").write_text(yaml.safe_dump(described))
    folder = made.write(site / "bags", FACTORY)
    export(site)
    mapping = {"cameras": {"color": "observation.images.color"}}
    fits, report = imported(site, str(site / "rgb.yaml"), mapping)
    assert fits, report
    ours = read_episode(folder, task, ROBOT)
    (entry,) = read_index(site / "imported").entries
    found = read_episode(site / "imported" / entry.folder, task, ROBOT)
    np.testing.assert_array_equal(found.visual, ours.visual[:T])


def test_points_serve_a_camera_that_delivers_points(site):
    ours = read_episode(episode().write(site / "bags", FACTORY), TASK, ROBOT)
    export(site)
    robot = ROBOT.model_copy(update={"cameras": (POINTS,)})
    write_robot(site, robot)
    fits, report = imported(site, "push_t", {"cameras": {"cloud": "observation.points"}})
    assert fits, report
    (found,) = imported_episodes(site, "push_t", robot)
    # farthest-point sampling of the same points may order them otherwise
    for theirs, own in zip(found.visual, ours.visual[:T], strict=True):
        np.testing.assert_array_equal(np.unique(theirs, axis=0), np.unique(own, axis=0))


def test_frames_of_a_policy_are_no_demonstration(site):
    episode(policy=dict.fromkeys(range(5, T), "random@1")).write(site / "bags", FACTORY)
    export(site)
    imported(site, "push_t_state")
    (entry,) = read_index(site / "imported").entries
    assert entry.metadata.policy_version.startswith("lerobot:dataset@")


def dataset_of_joints(site: Path, kind: str, unit: str, positions: np.ndarray) -> np.ndarray:
    """A dataset as others have it; returns the joint velocities that its actions amount to."""
    scale = np.degrees(1.0) if unit == "deg" else 1.0
    names = {"motors": [f"motor_{index}" for index in range(7)]}
    vector = Feature(dtype="float32", shape=(7,), names=names)
    features = {"observation.state": vector, "action": vector}
    info = DatasetInfo(fps=10, robot_type="arm", features=features)
    writer = DatasetWriter(site / "dataset", info, "")
    told = positions[1:] if kind == "joint_positions" else np.diff(positions, axis=0) / 0.1
    columns = {"observation.state": positions[:-1] * scale, "action": told * scale}
    writer.add(columns, "push")
    writer.close()
    return np.diff(positions, axis=0) / 0.1


@pytest.mark.parametrize("kind", ["joint_positions", "joint_velocities"])
@pytest.mark.parametrize("unit", ["rad", "deg"])
def test_datasets_of_others_are_read_by_their_joints(site, kind, unit):
    expected = dataset_of_joints(site, kind, unit, episode().positions)
    names = {f"motor_{index}": joint for index, joint in enumerate(ROBOT.joints)}
    mapping = {
        "state": {"names": names, "unit": unit},
        "action": {"kind": kind, "names": names, "unit": unit},
        "outcome": "success",
        "cameras": {},
    }
    joint_task = load_task(task_file("push_t_joint")).model_dump(mode="json")
    joint_task["observation"] = {"kind": "state", "proprio": ["tool_position", "joint_positions"]}
    (site / "joint.yaml").write_text(yaml.safe_dump(joint_task))
    fits, report = imported(site, str(site / "joint.yaml"), mapping)
    assert fits, report
    (entry,) = read_index(site / "imported").entries
    task = load_task(site / "joint.yaml")
    found = read_episode(site / "imported" / entry.folder, task, ROBOT)
    np.testing.assert_allclose(found.actions, expected[: len(found)], atol=2e-5)
    assert len(found) == T - 1


def test_joint_positions_become_velocities_of_the_tool(site):
    positions = np.tile(ROBOT.home, (T + 1, 1))
    positions[:, 3] += np.linspace(0.0, 0.2, T + 1)  # the elbow lifts the tool
    dataset_of_joints(site, "joint_positions", "rad", positions)
    names = {f"motor_{index}": joint for index, joint in enumerate(ROBOT.joints)}
    mapping = {
        "state": {"names": names}, "action": {"kind": "joint_positions", "names": names}
    }  # fmt: skip
    _, report = imported(site, "push_t_state", mapping)
    assert "name those components in the task" in report
    (found,) = imported_episodes(site, "push_t_state")
    arm = ArmKinematics(ROBOT)
    tool = np.array([arm.tool_position(where) for where in positions])
    np.testing.assert_allclose(found.actions, np.diff(tool, axis=0)[: T - 1, :2] / 0.1, atol=1e-5)


BREACHES = {
    "another rate": (lambda info: info.update(fps=15), "set control_period"),
    "an older format": (lambda info: info.update(codebase_version="v2.1"), "v2.1"),
    "no state": (lambda info: info["features"].pop("observation.state"), "no feature"),
    "unknown components": (
        lambda info: info["features"]["action"].update(names=["x", "y"]), "set action.names"
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BREACHES)
def test_a_dataset_that_does_not_fit_is_told_and_nothing_is_written(site, what):
    change, told = BREACHES[what]
    episode().write(site / "bags", FACTORY)
    root, _ = export(site)
    info = json.loads((root / "meta/info.json").read_text())
    change(info)
    (root / "meta/info.json").write_text(json.dumps(info))
    try:
        fits, report = imported(site, "push_t_state")
    except BagError as error:
        fits, report = False, str(error)
    assert not fits
    assert told in report
    assert not (site / "imported").exists()


def test_a_task_that_is_seen_otherwise_than_the_dataset_is_told(site):
    episode().write(site / "bags", FACTORY)
    export(site)
    fits, report = imported(site, "push_t", {"cameras": {"camera": "observation.images.color"}})
    assert not fits
    assert "give a task that observes images" in report


def test_a_dataset_is_imported_once(site):
    episode().write(site / "bags", FACTORY)
    export(site)
    imported(site, "push_t_state")
    fits, report = imported(site, "push_t_state")
    assert fits
    assert "imported before" in report
    assert len(read_index(site / "imported").entries) == 1


def test_an_export_that_fails_leaves_nothing(site):
    episode(hold=frozenset(range(T))).write(site / "bags", FACTORY)
    with pytest.raises(BagError, match="nobody was in command"):
        export(site)
    assert {each.name for each in site.iterdir()} == {"bags", "robot.yaml"}


def test_a_folder_that_is_taken_is_not_written_over(site):
    episode().write(site / "bags", FACTORY)
    export(site)
    with pytest.raises(StorageError, match="not empty"):
        export(site)


def test_a_bag_that_cannot_be_used_is_told_and_left_out(site):
    episode(0).write(site / "bags", FACTORY)
    episode(1, hold=frozenset(range(T))).write(site / "bags", FACTORY)
    root, told = export(site)
    assert read_info(root).total_episodes == 1
    assert "left out" in told
    assert "nobody was in command" in told


def test_a_rate_that_is_no_whole_number_is_refused(site):
    write_robot(site, ROBOT.model_copy(update={"control_period": 0.03}))
    episode().write(site / "bags", FACTORY)
    with pytest.raises(ConfigError, match="whole number"):
        export(site)


def test_rows_go_into_several_files_when_one_is_full(tmp_path):
    info = DatasetInfo(
        fps=10, features={"action": Feature(dtype="float32", shape=(1000,))},
        data_files_size_in_mb=1, chunks_size=2,
    )  # fmt: skip
    writer = DatasetWriter(tmp_path / "dataset", info, "")
    rows = np.random.default_rng(0).normal(size=(6, 400, 1000)).astype(np.float32)
    for each in rows:
        writer.add({"action": each}, "many numbers")
    writer.close()
    files = sorted(each.relative_to(tmp_path) for each in tmp_path.rglob("data/**/*.parquet"))
    assert files[:3] == [
        Path("dataset/data/chunk-000/file-000.parquet"),
        Path("dataset/data/chunk-000/file-001.parquet"),
        Path("dataset/data/chunk-001/file-000.parquet"),
    ]
    found = list(LeRobotDataset(tmp_path / "dataset").episodes(["action"]))
    np.testing.assert_array_equal([each.columns["action"] for each in found], rows)


def test_the_commands_work_one_after_the_other(site):
    episode().write(site / "bags", FACTORY)
    robot = ["--robot", str(site / "robot.yaml")]
    to, back = str(site / "dataset"), str(site / "imported")
    out = ["bags", "export-lerobot", str(site / "bags"), "--into", to, *robot]
    assert CliRunner().invoke(app, out).exit_code == 0
    into = [
        "bags",
        "import-lerobot",
        to,
        "--into",
        back,
        "--task",
        task_file("push_t_state"),
        *robot,
    ]
    assert CliRunner().invoke(app, into).exit_code == 0
    assert len(read_index(site / "imported").entries) == 1


def python_with_lerobot() -> str | None:
    """An interpreter that can import lerobot: the one that is named, or this one."""
    python = os.environ.get("RL100_LEROBOT_PYTHON", sys.executable)
    asked = [python, "-c", "import lerobot"]
    found = subprocess.run(asked, capture_output=True, check=False, env=without_our_paths())
    return python if found.returncode == 0 else None


def without_our_paths() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return kept | {"HF_HUB_OFFLINE": "1"}


WRITTEN_BY_THE_LIBRARY = """
import sys
import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset

root, values = sys.argv[1:]
told = np.load(values)
names = {"motors": [f"motor_{index}" for index in range(7)]}
vector = {"dtype": "float32", "shape": (7,), "names": names}
shape = told["pixels"].shape[1:]
image = {"dtype": "image", "shape": shape, "names": ["height", "width", "channels"]}
dataset = LeRobotDataset.create(
    "local/theirs", fps=10, root=root, robot_type="theirs", use_videos=False,
    features={"observation.state": vector, "action": vector, "observation.images.top": image},
)
for _ in range(2):
    for row in range(len(told["action"])):
        dataset.add_frame({
            "observation.state": told["state"][row], "action": told["action"][row],
            "observation.images.top": told["pixels"][row], "task": "push the block",
        })
    dataset.save_episode()
dataset.finalize()
"""


def image_task(site: Path) -> str:
    """push_t_rgb seen by the whole of a small image, with the joints beside it; its file."""
    task = load_task(task_file("push_t_rgb"))
    seen = {"region": None, "height": 16, "width": 24}
    seen["proprio"] = ("tool_position", "joint_positions")
    task = task.model_copy(update={"observation": task.observation.model_copy(update=seen)})
    path = site / "image.yaml"
    path.write_text(yaml.safe_dump(task.model_dump(mode="json")))
    return str(path)


@pytest.mark.slow
def test_what_the_library_itself_wrote_is_imported(site):
    python = python_with_lerobot()
    if python is None:
        pytest.skip("no lerobot here; RL100_LEROBOT_PYTHON may name a Python that has it")
    made = episode()
    where = made.positions.astype(np.float32)
    np.savez(site / "values.npz", state=where[:-1], action=where[1:], pixels=made.pixels[:-1])
    program = [python, "-c", WRITTEN_BY_THE_LIBRARY, site / "dataset", site / "values.npz"]
    done = subprocess.run(
        program, capture_output=True, text=True, check=False, env=without_our_paths()
    )
    assert done.returncode == 0, done.stderr
    names = {f"motor_{index}": joint for index, joint in enumerate(ROBOT.joints)}
    mapping = {
        "state": {"names": names},
        "action": {"kind": "joint_positions", "names": names},
        "cameras": {"color": "observation.images.top"},
    }
    task = image_task(site)
    fits, report = imported(site, task, mapping)
    assert fits, report
    episodes = imported_episodes(site, task)
    assert len(episodes) == 2
    for found in episodes:
        np.testing.assert_array_equal(found.visual, made.pixels[:T])
        np.testing.assert_array_equal(found.proprio[:, 3:], where[:T])
    (entry, _) = read_index(site / "imported").entries
    assert entry.metadata.tags["import.task"] == "push the block"


@pytest.mark.slow
def test_the_library_itself_reads_every_frame(site):
    python = python_with_lerobot()
    if python is None:
        pytest.skip("no lerobot here; RL100_LEROBOT_PYTHON may name a Python that has it")
    for seed in range(3):
        episode(seed).write(site / "bags", FACTORY)
    root, _ = export(site)
    script = REPOSITORY / "scripts" / "check_lerobot.py"
    outcome = subprocess.run(
        [python, str(script), str(root)], capture_output=True, text=True, check=False,
        env=without_our_paths(),
    )  # fmt: skip
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert f"{3 * T} frames of 3 episodes at 10 Hz were read" in outcome.stdout
