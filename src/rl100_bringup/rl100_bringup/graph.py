# SPDX-License-Identifier: Apache-2.0
"""The running graph as data.

It is the one description that the launch files and the ``rl100`` command both start.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ament_index_python.packages import get_package_share_directory

from rl100_policy.core.config import (
    CameraConfig,
    RobotConfig,
    TaskConfig,
    check_action,
    load_robot,
    load_task,
)
from rl100_policy.core.errors import ConfigError
from rl100_policy.core.kinematics import ArmKinematics
from rl100_policy.core.sight import sight_camera
from rl100_sim.episode import simulated_task


def _argument(
    default: Any, description: str, choices: tuple[str, ...] = (), *, follows: str = ""
) -> Any:
    """A field with what a launch argument needs.

    ``follows`` names the argument whose value is the default.
    """
    told = {"description": description, "choices": choices, "follows": follows}
    return field(default=default, metadata=told)


_SWITCH = ("true", "false")


@dataclass(frozen=True)
class GraphArguments:
    """Arguments of robot.launch.py and of ``rl100 up``; every field is one launch argument."""

    robot: str = _argument(
        "panda", "robot description: a name in config/robots, or the path of a YAML file"
    )
    task: str = _argument(
        "push_t", "task description: a name in config/tasks, or the path of a YAML file"
    )
    sim: bool = _argument(
        True,
        "start the simulated robot; false: the driver of a real arm is started elsewhere",
        _SWITCH,
    )
    lockstep: bool = _argument(
        False,
        "the simulated clock waits for every command: deterministic, as fast as it goes",
        _SWITCH,
    )
    use_sim_time: bool | None = _argument(
        None,
        "nodes follow /clock; follows sim unless given: "
        "true with sim:=false is for a simulator of your own that publishes /clock",
        _SWITCH,
        follows="sim",
    )
    latency: bool = _argument(
        True, "start the node that measures how long a decision takes, hop by hop", _SWITCH
    )
    record: bool = _argument(True, "start the episode recorder", _SWITCH)
    bags: str = _argument("bags", "folder of the episode bags")
    policy: str = _argument("", "folder of the policy version to load at start; empty: none yet")
    sampler: str = _argument("one_step", "how the policy decides", ("one_step", "ddim"))
    driver: str = _argument(
        "none",
        "who acts in the episodes that a person at the robot walks through (the episode flow): "
        "the person, or the policy from which the person takes over; none: no such episodes",
        ("none", "person", "policy"),
    )
    operator: str = _argument("", "name of the person, for the metadata of the episodes")
    episodes: int = _argument(0, "episodes that the person is to collect; 0: no end")
    joystick: str = _argument(
        "none",
        "start the node for a joystick whose driver publishes on joy",
        ("none", "gamepad", "spacemouse"),
    )
    learner: bool = _argument(False, "start the learner node", _SWITCH)
    rviz: bool = _argument(False, "start RViz (where rviz2 is installed)", _SWITCH)
    enclaves: str = _argument(
        "",
        "start of the name of every node's security enclave, for example /rl100; used where "
        "ROS_SECURITY_ENABLE is true (docs/how-to/secure-a-network.md); empty: none",
    )
    params_file: str = _argument("", "YAML file with parameters that override those of any node")

    @property
    def follows_clock(self) -> bool:
        """Whether nodes follow /clock."""
        return self.sim if self.use_sim_time is None else self.use_sim_time

    @property
    def has_person(self) -> bool:
        """Whether a person walks through episodes."""
        return self.driver != "none"

    @classmethod
    def from_strings(cls, values: Mapping[str, str]) -> GraphArguments:
        """Arguments as a launch file or command line gives them.

        Raises:
            ConfigError: If a name is unknown or a value is not one of the choices.
        """
        known = {item.name: item for item in fields(cls)}
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ConfigError(f"unknown arguments {unknown}; there are {sorted(known)}")
        return cls(**{name: _parse(known[name], value) for name, value in values.items()})


def _parse(item: Any, value: str) -> Any:
    choices = item.metadata["choices"]
    text = value.lower() if choices == _SWITCH else value
    if choices and text not in choices:
        raise ConfigError(f"argument {item.name!r} must be one of {list(choices)}, got {value!r}")
    if isinstance(item.default, int) and choices != _SWITCH:
        if not value.isdigit():
            raise ConfigError(f"argument {item.name!r} must be a number, got {value!r}")
        return int(value)
    return text == "true" if choices == _SWITCH else value


@dataclass(frozen=True)
class NodeDescription:
    """One node process: what ``ros2 run`` would be told."""

    package: str
    executable: str
    name: str
    parameters: dict[str, Any]
    params_files: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()


def config_path(kind: str, name: str) -> Path:
    """File of a robot or task description.

    Args:
        kind: ``robots`` or ``tasks``.
        name: Name of a shipped description, or a path.

    Raises:
        ConfigError: If there is none; lists those that are shipped.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name).expanduser().resolve()
        if path.is_file():
            return path
        raise ConfigError(f"no file {path}")
    folder = Path(get_package_share_directory("rl100_bringup")) / "config" / kind
    path = folder / f"{name}.yaml"
    if not path.is_file():
        shipped = sorted(file.stem for file in folder.glob("*.yaml"))
        raise ConfigError(
            f"no description {name!r} in {kind}; shipped are {shipped}, "
            "or give the path of a YAML file"
        )
    return path


def describe(arguments: GraphArguments) -> list[NodeDescription]:
    """Nodes of the graph.

    Raises:
        ConfigError: If a description or file is missing or invalid, or the arguments contradict
            each other.
        PolicyVersionError: If ``policy`` is given and is no version for this robot and task.
    """
    _check(arguments)
    robot_path, task_path = (
        config_path("robots", arguments.robot),
        config_path("tasks", arguments.task),
    )
    robot, task = load_robot(robot_path), load_task(task_path)
    camera = _usable_camera(robot, task, sim=arguments.sim)
    policy, params_file = _absolute(arguments.policy), _absolute(arguments.params_file)
    if policy:
        from rl100_policy.core.policy_version import check_fits, read_manifest  # torch: seconds

        check_fits(read_manifest(Path(policy)), task, robot)
    if params_file and not Path(params_file).is_file():
        raise ConfigError(f"params_file: there is no file {params_file}")
    common = {"robot_config": str(robot_path), "task_config": str(task_path)}
    clocked = {**common, "use_sim_time": arguments.follows_clock}
    stepped = {**clocked, "lockstep": arguments.lockstep}
    of_policy = {
        "policy": policy,
        "sampler": arguments.sampler,
        "shadow": arguments.driver == "policy",
    }
    nodes: list[tuple[str, str, dict[str, Any]]] = []
    if arguments.sim:
        time = {"lockstep": arguments.lockstep, "free_running": arguments.has_person}
        nodes.append(("rl100_sim", "sim_robot", {**common, **time}))
    if camera is not None:
        nodes.append(("rl100_policy", "cloud", stepped))
    nodes.append(("rl100_policy", "command_gate", stepped))
    nodes.append(("rl100_policy", "policy", {**stepped, **of_policy}))
    if arguments.latency:
        of_clock = {"use_sim_time": arguments.follows_clock}
        nodes.append(("rl100_policy", "latency", {"robot_config": str(robot_path), **of_clock}))
    if arguments.record:
        stands_still = arguments.sim and not arguments.has_person
        bags = {"bags": _absolute(arguments.bags), "require_data": not stands_still}
        nodes.append(("rl100_policy", "recorder", {**clocked, **bags}))
    nodes += _for_a_person(arguments, clocked)
    if arguments.learner:
        nodes.append(("rl100_learner", "learner", clocked))
    params = (params_file,) if params_file else ()
    described = [
        NodeDescription(package, name, name, values, params, _enclave(arguments.enclaves, name))
        for package, name, values in nodes
    ]
    return [*described, *_viewers(arguments)]


def _enclave(prefix: str, name: str) -> tuple[str, ...]:
    """Arguments of a node's process that name its security enclave."""
    return ("--ros-args", "--enclave", f"{prefix.rstrip('/')}/{name}", "--") if prefix else ()


def _check(arguments: GraphArguments) -> None:
    """Refuse arguments that contradict each other; raises ConfigError."""
    if arguments.lockstep and not arguments.sim:
        raise ConfigError(
            "lockstep needs the simulated robot: a real arm does not wait "
            "(set sim:=true or lockstep:=false)"
        )
    if arguments.sim and not arguments.follows_clock:
        raise ConfigError(
            "the simulated robot is the clock: leave out use_sim_time:=false, or set sim:=false"
        )
    if arguments.has_person and (arguments.lockstep or not arguments.record):
        raise ConfigError(
            f"driver:={arguments.driver} is for episodes in real time that are recorded: leave "
            "out lockstep:=true and record:=false"
        )
    if arguments.driver == "policy" and not arguments.policy:
        raise ConfigError("driver:=policy needs a version that drives: give policy:=FOLDER")


def _for_a_person(
    arguments: GraphArguments, clocked: dict[str, Any]
) -> list[tuple[str, str, dict[str, Any]]]:
    """Nodes with which a person walks through episodes, but for the terminal."""
    nodes: list[tuple[str, str, dict[str, Any]]] = []
    if arguments.has_person:
        told: dict[str, Any] = {
            "driver": arguments.driver,
            "operator": arguments.operator,
            "episodes": arguments.episodes,
        }
        if arguments.sim:  # nobody has to arrange a simulated scene, or to look whether it is
            told |= {"scene_service": "sim/reset", "confirm": False, "go_on": True}
        nodes.append(("rl100_policy", "episode_flow", {**clocked, **told}))
    if arguments.joystick != "none":
        nodes.append(("rl100_policy", "joystick", {**clocked, "profile": arguments.joystick}))
    return nodes


def _viewers(arguments: GraphArguments) -> list[NodeDescription]:
    if not arguments.rviz:
        return []
    layout = Path(get_package_share_directory("rl100_bringup")) / "rviz" / "rl100.rviz"
    time = {"use_sim_time": arguments.follows_clock}
    return [NodeDescription("rviz2", "rviz2", "rviz2", time, arguments=("-d", str(layout)))]


def _usable_camera(robot: RobotConfig, task: TaskConfig, *, sim: bool) -> CameraConfig | None:
    """The camera that the task is seen with, of descriptions that fit each other; None: none."""
    if sim:
        simulated_task(robot, task)
    else:
        ArmKinematics(robot)
    check_action(task, robot)
    return sight_camera(task, robot)


def keyboard_description(arguments: GraphArguments) -> NodeDescription:
    """The person's terminal for a graph; it needs one, so it is not part of the graph."""
    paths = {
        "robot_config": str(config_path("robots", arguments.robot)),
        "task_config": str(config_path("tasks", arguments.task)),
        "use_sim_time": arguments.follows_clock,
        "outline": "sim/goal" if arguments.sim else "",
    }
    return NodeDescription("rl100_policy", "keyboard", "keyboard", paths)


def operator_description(arguments: GraphArguments, **parameters: Any) -> NodeDescription:
    """The scripted operator for a graph; it ends by itself, so it is not part of the graph."""
    paths = {
        "robot_config": str(config_path("robots", arguments.robot)),
        "task_config": str(config_path("tasks", arguments.task)),
        "use_sim_time": True,
    }
    return NodeDescription(
        "rl100_sim", "scripted_operator", "scripted_operator", {**paths, **parameters}
    )


def _absolute(path: str) -> str:
    """Absolute path, since node processes may run elsewhere; empty stays empty."""
    return str(Path(path).expanduser().resolve()) if path else ""
