# SPDX-License-Identifier: Apache-2.0
"""Robot and task descriptions: what is shipped loads, what is wrong is refused naming the key."""

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from rl100_policy.bags.metadata import config_hash
from rl100_policy.core.config import ActionConfig, TaskConfig, load_robot, load_task
from rl100_policy.core.errors import ConfigError
from rl100_policy.core.kinematics import ArmKinematics

CONFIG = Path(__file__).parents[2] / "rl100_bringup" / "config"
ROBOT, TASK = CONFIG / "robots" / "panda.yaml", CONFIG / "tasks" / "push_t.yaml"


def changed(source, target, path, value):
    tree = yaml.safe_load(source.read_text())
    node = tree
    for key in path[:-1]:
        node = node[key]
    if value is None:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    target.write_text(yaml.safe_dump(tree))
    return target


@pytest.mark.parametrize("file", sorted((CONFIG / "robots").glob("*.yaml")), ids=lambda f: f.stem)
def test_every_shipped_robot_loads_and_its_urdf_has_its_joints(file):
    robot = load_robot(file)
    assert ArmKinematics(robot).tool_pose(robot.home).shape == (4, 4)


@pytest.mark.parametrize("file", sorted((CONFIG / "tasks").glob("*.yaml")), ids=lambda f: f.stem)
def test_every_shipped_task_loads(file):
    assert load_task(file).action.dim > 0


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("home",), [0.0, 0.0], "home needs 7 values"),
        (("velocity_scale",), 1.5, "velocity_scale"),
        (("jonts",), ["a"], "jonts"),
        (("base_frame",), None, "base_frame"),
    ],
)
def test_a_wrong_robot_description_is_refused_naming_the_key(tmp_path, path, value, message):
    with pytest.raises(ConfigError, match=message):
        load_robot(changed(ROBOT, tmp_path / "robot.yaml", path, value))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("crop", "high"), [0.0, 0.0, 0.0], "must be below high"),
        (("action", "names"), ["linear.x"], "equal lengths"),
        (("action", "names"), ["linear.x", "linear.w"], "linear.w"),
        (("observation", "proprio"), ["joint_positions"], "tool_position"),
        (("observation", "kind"), "sound", r"sound.*'points', 'image', 'state'"),
        (("observation", "height"), 64, "observation.points.height"),
        (("observation",), {"kind": "image", "n_points": 128}, "observation.image.n_points"),
        (("observation",), {"kind": "image", "width": 0}, "observation.image.width"),
        (("crop",), None, "crop is missing"),
        (("time_limit",), 0.0, "time_limit"),
    ],
)
def test_a_wrong_task_description_is_refused_naming_the_key(tmp_path, path, value, message):
    with pytest.raises(ConfigError, match=message):
        load_task(changed(TASK, tmp_path / "task.yaml", path, value))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("joints", 0), "panda_jointX", "panda_jointX"),
        (("tool", "parent"), "nowhere", "nowhere"),
        (("locked_joints",), {"panda_finger_joint1": 0.0}, "panda_finger_joint2"),
    ],
)
def test_a_description_that_its_urdf_contradicts_is_refused(tmp_path, path, value, message):
    robot = load_robot(changed(ROBOT, tmp_path / "robot.yaml", path, value))
    with pytest.raises(ConfigError, match=message):
        ArmKinematics(robot)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nothing\.yaml"):
        load_robot(tmp_path / "nothing.yaml")


@pytest.mark.parametrize(
    "data", [b"name: \xff\xfe", b"name: 2024-99-99", b"[" * 5000, b"name: [a"], ids=range(4)
)
def test_what_is_no_yaml_text_is_refused(tmp_path, data):
    path = tmp_path / "robot.yaml"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=r"robot\.yaml"):
        load_robot(path)


@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf"])
def test_a_limit_that_is_no_number_is_refused(tmp_path, value):
    """Regression: a box of NaN was no box, and nobody said so."""
    low = [yaml.safe_load(value), -0.25, 0.005]
    with pytest.raises(ConfigError, match="tool_workspace"):
        load_task(changed(TASK, tmp_path / "task.yaml", ["tool_workspace", "low"], low))


def test_text_that_is_not_yaml_is_refused(tmp_path):
    (tmp_path / "bad.yaml").write_text("a: [1")
    with pytest.raises(ConfigError, match=r"bad\.yaml"):
        load_task(tmp_path / "bad.yaml")


@pytest.mark.parametrize(
    ("topic", "info"),
    [
        ("camera/depth/image_rect_raw", "camera/depth/camera_info"),
        ("/front/image", "/front/camera_info"),
        ("/image", "/camera_info"),
        ("image", "camera_info"),
    ],
)
def test_camera_info_is_beside_the_image(topic, info):
    camera = load_robot(ROBOT).camera().model_copy(update={"topic": topic})
    assert camera.info_topic == info


def test_an_observation_that_names_no_kind_is_of_points_as_before_there_were_kinds(tmp_path):
    named = load_task(changed(TASK, tmp_path / "task.yaml", ("observation", "kind"), "points"))
    assert named == load_task(TASK)
    assert named.observation.kind == "points"


def test_hashes_of_descriptions_are_what_they_were_before_there_were_kinds():
    """Regression: versions, runs and bags of before are known by these; found with that code."""
    task = load_task(TASK).model_copy(update={"time_limit": 12.0})  # as it was then
    assert config_hash(task) == (
        "ccb9c18c6409cef467b5a439832e5654a594108bc964e07701275ed462caa028"
    )


@pytest.mark.parametrize("name", ["push_t", "push_t_joint", "push_t_rgb", "push_t_state"])
def test_a_task_survives_being_written_as_json_without_what_suits_it_for_learning(name):
    task = load_task(CONFIG / "tasks" / f"{name}.yaml")
    again = TaskConfig.model_validate_json(task.model_dump_json())
    assert again == task.model_copy(update={"learning": {}})


def test_the_shipped_push_t_tasks_differ_in_what_is_seen_and_in_nothing_else():
    tasks = [
        load_task(CONFIG / "tasks" / f"{name}.yaml")
        for name in ("push_t", "push_t_rgb", "push_t_state")
    ]
    assert [task.observation.kind for task in tasks] == ["points", "image", "state"]
    told = [task.model_dump(exclude={"observation", "crop"}) for task in tasks]
    assert told[0] == told[1] == told[2]
    assert tasks[0].learning == tasks[1].learning == tasks[2].learning


def test_actions_may_be_joint_velocities():
    joint, tool = (
        load_task(CONFIG / "tasks" / f"{name}.yaml") for name in ("push_t_joint", "push_t")
    )
    assert (joint.name, joint.sim, joint.crop) == (tool.name, tool.sim, tool.crop)
    assert joint.learning == tool.learning
    assert joint.action.space == "joint_velocity"
    assert joint.action.names == load_robot(ROBOT).joints


TWIST = {"names": ["linear.x"], "low": [-0.1], "high": [0.1]}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"names": ["linear.x", "sideways"]}, "components of a twist are"),
        ({"names": ["linear.x", "linear.x"]}, "each once"),
        ({"names": [], "low": [], "high": []}, "one or more components"),
        ({"space": "joint_position"}, "'ee_twist' or 'joint_velocity'"),
        ({"teleop": TWIST}, "a person moves the twist itself"),
        ({"space": "joint_velocity"}, "teleop is missing"),
        ({"space": "joint_velocity", "teleop": TWIST, "low": [0.0, -1.0]}, "low < 0 < high"),
        (
            {"space": "joint_velocity", "teleop": {**TWIST, "names": ["x"]}},
            "components of a twist",
        ),
    ],
)
def test_an_action_that_nothing_can_carry_out_is_refused(changes, reason):
    told = {"names": ["linear.x", "linear.y"], "low": [-1.0, -1.0], "high": [1.0, 1.0]}
    with pytest.raises(ValidationError, match=reason):
        ActionConfig.model_validate(told | changes)


def test_the_two_pandas_are_one_arm():
    one, other = (
        load_robot(CONFIG / "robots" / f"{name}.yaml") for name in ("panda", "panda_rgb")
    )
    assert (one.name, one.setup, one.camera()) == (other.name, other.setup, other.camera())


def test_aliases_within_aliases_are_refused_at_once(tmp_path):
    """Regression: what came was told whole, which no memory holds."""
    lines = ["a0: &a0 [1, 1]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    path = tmp_path / "robot.yaml"
    path.write_text("\n".join([*lines, "name: *a29"]))
    with pytest.raises(ConfigError, match="name"):
        load_robot(path)
