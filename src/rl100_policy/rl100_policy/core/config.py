# SPDX-License-Identifier: Apache-2.0
"""Robot and task descriptions: what a site writes down once.

They are read from YAML into frozen, validated objects.

Units are SI (m, rad, s); poses follow REP-103; frame names follow the URDF.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from rl100_policy.core.errors import ConfigError

Vector3 = tuple[float, float, float]
PositiveFloat = Annotated[float, Field(gt=0.0)]
PositiveInt = Annotated[int, Field(ge=1)]
CameraKind = Literal["depth", "points", "color"]


class FrozenModel(BaseModel):
    """Immutable; a misspelt key, or a number that is not finite, is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _unless_unset(told: dict[str, Any], key: str) -> dict[str, Any]:
    """Without a key that is None: hashes of descriptions and versions stay what they were."""
    return {each: value for each, value in told.items() if each != key or value is not None}


class ToolConfig(FrozenModel):
    """A cylinder held by the arm; its tip is the tool frame, z pointing out of the tip."""

    parent: str
    """URDF link the tool is fixed to."""
    xyz: Vector3
    """Tip of the tool in the parent frame [m]."""
    rpy: Vector3 = (0.0, 0.0, 0.0)
    """Orientation of the tool frame in the parent frame, fixed-axis roll, pitch, yaw [rad]."""
    radius: PositiveFloat
    """Radius of the cylinder [m]."""
    length: PositiveFloat
    """Length of the cylinder from the tip backwards [m]."""


class CameraConfig(FrozenModel):
    """A camera with a fixed pose.

    The optical frame has z forward, x right, y down (REP-103).
    """

    name: str
    kind: CameraKind = "depth"
    """What it delivers: ``depth`` or ``color`` images with CameraInfo, or ``points``, a
    PointCloud2."""
    topic: str
    """Topic of the images, with CameraInfo on ``camera_info`` beside it, or of the points."""
    optical_frame: str
    width: Annotated[int, Field(gt=0)]
    height: Annotated[int, Field(gt=0)]
    """Size of the image [pixel]. A colour image of another size is refused, since nothing else
    would tell that the camera was set up anew."""
    fx: PositiveFloat
    fy: PositiveFloat
    cx: float
    cy: float
    xyz: Vector3
    """Origin of the optical frame in the robot base frame [m]."""
    rpy: Vector3
    """Orientation of the optical frame in the base frame, fixed-axis roll, pitch, yaw [rad]."""
    depth_min: PositiveFloat = 0.15
    """Nearer readings are invalid [m]; of depth images."""
    depth_max: PositiveFloat = 3.0
    """Farther readings are invalid [m]; of depth images."""

    @property
    def info_topic(self) -> str:
        """CameraInfo topic, named as image_transport does."""
        namespace, slash, _ = self.topic.rpartition("/")
        return f"{namespace}{slash}camera_info"


class GripperConfig(FrozenModel):
    """A gripper that a person opens and closes; actions of a policy have no part in it yet."""

    command_topic: str
    """ros2_control command topic (std_msgs/Float64MultiArray), one value per finger joint."""
    open: tuple[float, ...]
    closed: tuple[float, ...]
    """What is commanded at either end [m or rad]."""

    @model_validator(mode="after")
    def _ends_agree(self) -> Self:
        if not self.open or len(self.open) != len(self.closed):
            raise ValueError(
                f"open and closed need one value per finger joint each, got {self.open}, "
                f"{self.closed}"
            )
        return self

    def at(self, opening: float) -> list[float]:
        """What is commanded for an opening from 0, closed, to 1, open."""
        ends = zip(self.closed, self.open, strict=True)
        return [low + opening * (high - low) for low, high in ends]


class CollisionConfig(FrozenModel):
    """Which links of the arm may be how near to each other and to the obstacles."""

    margin: PositiveFloat = 0.01
    """Links keep this distance from each other and from obstacles [m]."""
    srdf: str | None = None
    """SRDF of the arm, a path or ``package://`` as of the URDF: pairs of links that it disables
    are not looked at. null: none."""
    ignore: tuple[tuple[str, str], ...] = ()
    """Further pairs of links, ``tool`` or names of obstacles that are not looked at. The gate says
    so when it starts."""


class Obstacle(FrozenModel):
    """Something the arm must not touch, at a fixed place: a table, a wall, a camera's stand."""

    name: str
    kind: Literal["box", "cylinder", "sphere"] = "box"
    size: tuple[PositiveFloat, ...]
    """Of a box its edges along x, y, z; of a cylinder, whose axis is z, radius and length; of a
    sphere its radius [m]."""
    xyz: Vector3
    """Its centre in the robot base frame [m]."""
    rpy: Vector3 = (0.0, 0.0, 0.0)
    """Its orientation in the base frame, fixed-axis roll, pitch, yaw [rad]."""
    touch: tuple[str, ...] = ()
    """Links, or ``tool``, that may touch it."""

    @model_validator(mode="after")
    def _size_agrees(self) -> Self:
        if not all(map(math.isfinite, (*self.size, *self.xyz, *self.rpy))):
            raise ValueError(f"{self.name!r} is not finite: {self.size}, {self.xyz}, {self.rpy}")
        needed = {"box": 3, "cylinder": 2, "sphere": 1}[self.kind]
        if len(self.size) != needed:
            raise ValueError(f"size of a {self.kind} needs {needed} values, got {self.size}")
        return self


_SETUP = {"base_frame", "joints", "locked_joints", "tool", "control_period"}


class RobotConfig(FrozenModel):
    """An arm: its URDF and the joints that are commanded.

    Also how they are commanded, and what must never be exceeded.
    """

    name: str
    urdf: str
    """Path, or ``package://<share>/<path>`` searched in the ROS and Python share folders."""
    base_frame: str
    joints: tuple[str, ...]
    """Commanded joints in the order of every joint vector in this suite."""
    locked_joints: dict[str, float] = {}
    """Joints that are not commanded, and where they stay [rad or m]."""
    home: tuple[float, ...]
    """Joint positions at the start of an episode [rad]."""
    tool: ToolConfig
    command_topic: str = "arm_controller/joint_trajectory"
    """ros2_control joint_trajectory_controller topic (trajectory_msgs/JointTrajectory)."""
    control_period: PositiveFloat = 0.1
    """Time between two commands [s]; also the duration of one action."""
    velocity_scale: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Share of the URDF joint velocity limits that may be used."""
    acceleration_limits: tuple[PositiveFloat, ...]
    """Per joint [rad/s^2]; a URDF has none."""
    jerk_limits: tuple[PositiveFloat, ...]
    """Per joint [rad/s^3]; a URDF has none."""
    position_margin: Annotated[float, Field(ge=0.0)] = 0.02
    """Distance kept from the URDF joint position limits [rad]."""
    collision: CollisionConfig = CollisionConfig()
    """What the arm's links keep clear of."""
    obstacles: tuple[Obstacle, ...] = ()
    """What stands around the arm."""
    gripper: GripperConfig | None = None
    """null: none that is commanded."""
    cameras: tuple[CameraConfig, ...]

    @model_validator(mode="after")
    def _lengths_agree(self) -> Self:
        for key in ("home", "acceleration_limits", "jerk_limits"):
            found = len(getattr(self, key))
            if found != len(self.joints):
                raise ValueError(
                    f"{key} needs {len(self.joints)} values, one per entry of joints, "
                    f"but has {found}"
                )
        names = [each.name for each in self.obstacles]
        if len(set(names)) < len(names):
            raise ValueError(f"obstacles need a name each, got {names}")
        return self

    @model_serializer(mode="wrap")
    def _as_before_there_was_a_gripper(self, handler: SerializerFunctionWrapHandler) -> Any:
        return _unless_unset(handler(self), "gripper")

    @property
    def setup(self) -> dict[str, Any]:
        """What the numbers in a bag and of a policy depend on and do not tell by themselves.

        The keys base_frame, joints, locked_joints, tool and control_period as JSON values. Limits,
        home and cameras are not among them: what the limits let through and what the cameras saw
        is recorded itself.
        """
        return self.model_dump(mode="json", include=_SETUP)

    def camera(
        self, name: str | None = None, kinds: Sequence[CameraKind] | None = None
    ) -> CameraConfig:
        """The named camera, or the first one, of some kinds or of any.

        Raises:
            ConfigError: If there is none; says which there are.
        """
        for camera in self.cameras:
            if (name is None or camera.name == name) and (kinds is None or camera.kind in kinds):
                return camera
        wanted = "" if name is None else f" {name!r}"
        wanted += "" if kinds is None else f" of kind {' or '.join(kinds)}"
        has = ", ".join(f"{each.name!r} ({each.kind})" for each in self.cameras)
        raise ConfigError(f"robot {self.name!r} has no camera{wanted}; it has {has or 'none'}")


class WorkspaceBox(FrozenModel):
    """Axis-aligned box in the robot base frame [m]."""

    low: Vector3
    high: Vector3

    @model_validator(mode="after")
    def _has_volume(self) -> Self:
        if any(low >= high for low, high in zip(self.low, self.high, strict=True)):
            raise ValueError(f"low {self.low} must be below high {self.high} on every axis")
        return self


TWIST_COMPONENTS = ("linear.x", "linear.y", "linear.z", "angular.x", "angular.y", "angular.z")
"""Components of a tool velocity in the base frame, in the order of a 6-D twist."""


class BoundedComponents(FrozenModel):
    """Named components, each once, and their bounds."""

    names: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    """Bounds per component [m/s or rad/s]."""

    @model_validator(mode="after")
    def _bounds_agree(self) -> Self:
        if not self.names or len(set(self.names)) < len(self.names):
            raise ValueError(f"names needs one or more components, each once, got {self.names}")
        if not len(self.names) == len(self.low) == len(self.high):
            raise ValueError(
                "names, low and high need equal lengths, "
                f"got {self.names}, {self.low}, {self.high}"
            )
        if any(low >= high for low, high in zip(self.low, self.high, strict=True)):
            raise ValueError(f"low {self.low} must be below high {self.high}")
        return self

    def _require_twist(self) -> None:
        unknown = [name for name in self.names if name not in TWIST_COMPONENTS]
        if unknown:
            raise ValueError(f"components of a twist are {TWIST_COMPONENTS}, got {unknown}")


class TeleopConfig(BoundedComponents):
    """What a person moves of the tool's velocity: components of a twist in the base frame."""

    names: tuple[str, ...]
    """Of ``linear.x`` ... ``angular.z``; the others are held where they were when the person took
    command."""

    @model_validator(mode="after")
    def _is_a_twist(self) -> Self:
        self._require_twist()
        return self


class ActionConfig(BoundedComponents):
    """Which quantity one action commands, and its bounds."""

    space: Literal["ee_twist", "joint_velocity"] = "ee_twist"
    """``ee_twist``: velocity of the tool in the base frame over one control period.
    ``joint_velocity``: velocity of every commanded joint over one control period."""
    names: tuple[str, ...]
    """Commanded components. ``ee_twist``: of ``linear.x`` ... ``angular.z``, the others are held
    where they were when a source took command; ``joint_velocity``: the joints of the robot
    description, in its order."""
    low: tuple[float, ...]
    high: tuple[float, ...]
    """Bounds per component [m/s or rad/s]."""
    teleop: TeleopConfig | None = None
    """What a person moves where actions are joint velocities; of an ``ee_twist`` it is the action
    itself."""

    @model_validator(mode="after")
    def _space_agrees(self) -> Self:
        if self.space == "ee_twist":
            self._require_twist()
            if self.teleop is not None:
                raise ValueError("teleop is of joint velocities; a person moves the twist itself")
            return self
        if self.teleop is None:
            raise ValueError("teleop is missing: what a person moves where actions are of joints")
        if not all(low < 0.0 < high for low, high in zip(self.low, self.high, strict=True)):
            raise ValueError(
                f"every joint must be able to rest: low < 0 < high, got {self.low}, {self.high}"
            )
        return self

    @model_serializer(mode="wrap")
    def _as_before_there_was_teleop(self, handler: SerializerFunctionWrapHandler) -> Any:
        return _unless_unset(handler(self), "teleop")

    @property
    def dim(self) -> int:
        """Number of components d_a."""
        return len(self.names)

    @property
    def steered(self) -> BoundedComponents:
        """Components of a twist that a person moves, with their bounds."""
        return self.teleop or self


class ObservationConfig(FrozenModel):
    """What every kind of observation has: n_obs frames with proprioception."""

    camera_kinds: ClassVar[tuple[CameraKind, ...]] = ()
    """Cameras that the rest of a frame can be made from; none: proprioception is all there is."""

    n_obs: PositiveInt = 2
    """Frames in the observation window, one control period apart."""
    proprio: tuple[Literal["tool_position", "joint_positions"], ...] = ("tool_position",)
    """What is appended as proprioception; the tool position [m] always comes first."""

    @model_validator(mode="after")
    def _tool_first(self) -> Self:
        if not self.proprio or self.proprio[0] != "tool_position":
            raise ValueError(f"proprio must start with 'tool_position', got {self.proprio}")
        return self

    def proprio_dim(self, n_joints: int) -> int:
        """Length of the proprioception vector."""
        return sum(3 if item == "tool_position" else n_joints for item in self.proprio)


class PointObservation(ObservationConfig):
    """``kind: points``, also if no kind is named: a point cloud of the crop."""

    camera_kinds = ("depth", "points")

    kind: Literal["points"] = "points"
    n_points: Annotated[int, Field(ge=8)] = 128
    """Points per cloud after farthest-point sampling."""
    min_points: PositiveInt = 24
    """Fewer points than this after the crop is an error; between this and n_points the cloud is
    tiled."""

    @model_serializer(mode="wrap")
    def _as_before_there_were_kinds(self, handler: SerializerFunctionWrapHandler) -> Any:
        """Without the kind: hashes of descriptions and versions stay what they were."""
        return {key: value for key, value in handler(self).items() if key != "kind"}


class ImageObservation(ObservationConfig):
    """``kind: image``: a colour image of one camera."""

    camera_kinds = ("color",)

    kind: Literal["image"] = "image"
    camera: str | None = None
    """Which colour camera of the robot description; null: the first."""
    region: tuple[int, int, int, int] | None = None
    """Part of the camera's image that is seen: its first column u, first row v, width and height
    [pixel]; null: all of it."""
    height: PositiveInt = 96
    width: PositiveInt = 96
    """What the region is resized to [pixel]; its proportions are not kept."""


class StateObservation(ObservationConfig):
    """``kind: state``: proprioception alone. The policy is blind to everything but the arm."""

    kind: Literal["state"] = "state"


AnyObservation = PointObservation | ImageObservation | StateObservation


class TaskConfig(FrozenModel):
    """A task: what the policy sees and does, where it may move, and when an episode ends."""

    name: str
    description: str
    crop: WorkspaceBox | None = None
    """Points outside are not part of the observation; needed where points are observed."""
    tool_workspace: WorkspaceBox
    """The command gate keeps the tool tip inside."""
    tool_tilt: Annotated[float, Field(gt=0.0, le=math.pi)] | None = None
    """How far the gate lets the axis of the tool turn away from where it points at home [rad];
    null: as far as the joints do. The box is about the tip alone: with the tip inside, the hand
    may be anywhere around it."""
    observation: Annotated[AnyObservation, Field(discriminator="kind")] = PointObservation()
    """What the policy sees: the keys of ObservationConfig, and of PointObservation,
    ImageObservation or StateObservation by its kind; without a kind of PointObservation."""
    action: ActionConfig
    time_limit: PositiveFloat
    """Longest episode [s]."""
    sim: dict[str, float] = {}
    """Parameters of the simulated task, see its class."""
    learning: Annotated[dict[str, Any], Field(exclude=True)] = {}
    """Training settings that suit the task, by their dotted keys; what a person sets overrides
    them. Advice, not part of what the task is: left out where a description is stored or
    compared by its hash."""

    @field_validator("observation", mode="before")
    @classmethod
    def _points_unless_said(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and "kind" not in value:
            return {"kind": "points", **value}
        return value

    @model_serializer(mode="wrap")
    def _as_before_there_was_a_tilt(self, handler: SerializerFunctionWrapHandler) -> Any:
        return _unless_unset(handler(self), "tool_tilt")

    @model_validator(mode="after")
    def _points_are_cropped(self) -> Self:
        if self.crop is None and isinstance(self.observation, PointObservation):
            raise ValueError("crop is missing: an observation of points needs one")
        return self


class BenchmarkTask(FrozenModel):
    """A task of a benchmark suite: its sizes are all that learning needs of it.

    No robot runs what is learned on it.
    """

    name: str
    suite: str
    """Whose task it is, with the version of the suite."""
    n_obs: Annotated[int, Field(ge=1)] = 2
    """Frames in the observation window, one control period apart."""
    n_points: Annotated[int, Field(ge=0)] = 0
    """Points per cloud; 0: proprioception is all there is."""
    proprio_dim: Annotated[int, Field(ge=1)]
    """Length of the proprioception vector."""
    action_dim: Annotated[int, Field(ge=1)]
    """Components of an action, in the suite's own units."""
    control_period: PositiveFloat
    """Duration of one action [s]."""


AnyTask = TaskConfig | BenchmarkTask


def check_action(task: TaskConfig, robot: RobotConfig) -> None:
    """Raises ConfigError if the actions of a task are of other joints than the arm has."""
    if task.action.space == "joint_velocity" and task.action.names != robot.joints:
        raise ConfigError(
            f"actions of task {task.name!r} are velocities of {list(task.action.names)}; expected "
            f"the joints of robot {robot.name!r} in their order, {list(robot.joints)}"
        )


def longest_episode(task: AnyTask, robot: RobotConfig | None) -> int | None:
    """Control periods until the time limit of a robot's task; None of a benchmark's.

    Nothing but its own time limit ends an episode of a benchmark without success.
    """
    if isinstance(task, BenchmarkTask) or robot is None:
        return None
    return max(1, round(task.time_limit / robot.control_period))


_SHORT = reprlib.Repr()
"""Of what came: aliases in a small file can make it larger than any memory."""
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 3, 200, 200


def validation_problems(error: ValidationError) -> str:
    """What is wrong with some values, by key: one clause each, without pydantic's own advice."""
    problems = []
    for each in error.errors(include_url=False):
        key = ".".join(map(str, each["loc"]))
        came = "" if each["type"] == "missing" else f", got {_SHORT.repr(each['input'])}"
        problems.append(f"{key}: {each['msg']}{came}" if key else each["msg"])
    return "; ".join(problems)


_Config = TypeVar("_Config", bound=FrozenModel)


def load_description(kind: type[_Config], path: Path) -> _Config:
    """Read a description of some kind from a YAML file.

    Raises:
        ConfigError: If the file is missing or a key is unknown, missing or out of range; names the
            key.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cannot read {kind.__name__} from {path}: {error}; give an existing YAML file"
        ) from error
    try:
        told = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:  # a date may be none
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    try:
        return kind.model_validate(told)
    except ValidationError as error:
        raise ConfigError(
            f"{path} is not a valid {kind.__name__}: {validation_problems(error)}"
        ) from error


def load_robot(path: str | Path) -> RobotConfig:
    """Read a robot description.

    Raises:
        ConfigError: If the file is missing or a key is unknown, missing or out of range; names the
            key.
    """
    return load_description(RobotConfig, Path(path))


def load_task(path: str | Path) -> TaskConfig:
    """Read a task description.

    Raises:
        ConfigError: If the file is missing or a key is unknown, missing or out of range; names the
            key.
    """
    return load_description(TaskConfig, Path(path))
