# SPDX-License-Identifier: Apache-2.0
"""What a foreign recording holds of what an episode needs, in our joints and our time.

Of camera frames only the stamps are kept: a recording may be larger than the memory.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl100_policy.bags.foreign.mapping import (
    CameraMapping,
    ImportMapping,
    LeaderAction,
    MeasuredAction,
    PositionsAction,
    TrajectoryAction,
    absolute,
)
from rl100_policy.bags.foreign.setpoints import Setpoints, followed, sampled, trajectory_points
from rl100_policy.bags.foreign.source import ForeignBag, ForeignMessage
from rl100_policy.bags.judgement import Judgement, JudgementKind
from rl100_policy.core import messages
from rl100_policy.core.config import RobotConfig
from rl100_policy.core.errors import ActionError, BagError, ObservationError
from rl100_policy.core.gate_result import CommandSource

Floats = NDArray[np.float64]

JOINT_STATE = "sensor_msgs/msg/JointState"
IMAGE = "sensor_msgs/msg/Image"
POINTS = "sensor_msgs/msg/PointCloud2"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
TRANSFORM = "geometry_msgs/msg/TransformStamped"
TRANSFORMS = "tf2_msgs/msg/TFMessage"
TRAJECTORY = "trajectory_msgs/msg/JointTrajectory"
ARRAY = "std_msgs/msg/Float64MultiArray"
BOOL = "std_msgs/msg/Bool"
COMMAND = "rl100_msgs/msg/GateCommand"
FEEDBACK = "rl100_msgs/msg/HumanFeedback"

_STAMPED = frozenset(
    {JOINT_STATE, IMAGE, POINTS, CAMERA_INFO, TRANSFORM, TRAJECTORY, COMMAND, FEEDBACK}
)
"""Types that begin with a header."""
_MAY_MEAN_NOW = _STAMPED - {JOINT_STATE, IMAGE, POINTS, COMMAND}
"""Types of which a stamp of zero stands for now, or for always."""


@dataclass
class Recorded:
    """Streams of one recording by time [ns], see ``ImportMapping.stamps``."""

    positions: dict[int, Floats] = field(default_factory=dict)
    """Measured, [n], rad."""
    told: dict[int, Floats] = field(default_factory=dict)
    """Positions of a leader arm or an array, [n], rad."""
    trajectories: dict[int, list[tuple[int, Floats]]] = field(default_factory=dict)
    commands: dict[int, Any] = field(default_factory=dict)
    """rl100_msgs/GateCommand."""
    frames: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    """Stamps by camera."""
    infos: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))
    """sensor_msgs/CameraInfo by camera."""
    transforms: list[Any] = field(default_factory=list)
    """geometry_msgs/TransformStamped."""
    judgements: list[Judgement] = field(default_factory=list)
    markers: list[tuple[int, bool | None]] = field(default_factory=list)
    """When, and whether an episode begins or ends there; None: one ends and the next begins."""
    offsets: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    """By topic: stamp of the header less time of reception [ns]."""
    bad: Counter[str] = field(default_factory=Counter)
    """Messages that cannot be used, by topic."""
    reasons: dict[str, str] = field(default_factory=dict)
    """Why the first of them cannot, by topic."""
    joint_names: tuple[str, ...] = ()
    """Of the first joint state, as recorded."""

    def setpoints(self, mapping: ImportMapping) -> Setpoints | None:
        """Where the arm was told to be; None where commands of our gate say it."""
        match mapping.action:
            case TrajectoryAction():
                return followed(self.trajectories, self._measured_at)
            case PositionsAction() | LeaderAction() as action:
                return sampled(
                    self.told,
                    reached_after_s=action.reached_after,
                    longest_gap_s=action.longest_gap,
                )
            case MeasuredAction() as action:
                return sampled(self.positions, longest_gap_s=action.longest_gap)
            case _:
                return None

    def _measured_at(self, time_ns: int) -> Floats:
        times = np.fromiter(self.positions, dtype=np.int64)
        nearest = int(times[np.abs(times - time_ns).argmin()])
        return self.positions[nearest]


def stamp_of(message: ForeignMessage, mapping: ImportMapping) -> int:
    """Time of a message [ns]: of its header, or of its reception.

    Messages without a header, and those of all but sensors and our gate that have no stamp, have
    that of reception.

    Raises:
        ObservationError: If the header has no stamp.
    """
    if mapping.stamps == "received" or message.type_name not in _STAMPED:
        return message.log_ns
    stamp = messages.peek_stamp_ns(message.data)
    if stamp:
        return stamp
    if message.type_name in _MAY_MEAN_NOW:
        return message.log_ns
    raise ObservationError("its header has no stamp; `stamps: received` takes that of reception")


class RecordingReader:
    """Reads everything but camera frames from a recording, once."""

    def __init__(self, bag: ForeignBag, mapping: ImportMapping, robot: RobotConfig) -> None:
        """Begin with nothing read."""
        self._bag, self._mapping, self._robot = bag, mapping, robot
        self.found = Recorded()
        self._takers: dict[str, list[Callable[[ForeignMessage, int], None]]] = defaultdict(list)
        self._assign()

    def read(self) -> Recorded:
        """Read the recording; a message that cannot be used is counted and left out.

        Raises:
            BagError: If the recording is damaged.
        """
        for message in self._bag.messages(self._takers):
            try:
                stamp = stamp_of(message, self._mapping)
                self._compare_clocks(message)
                for take in self._takers[message.topic]:
                    take(message, stamp)
            except (BagError, ObservationError, ActionError, ValueError) as error:
                self.found.bad[message.topic] += 1
                self.found.reasons.setdefault(message.topic, str(error))
        self.found.positions = dict(sorted(self.found.positions.items()))
        self.found.judgements.sort(key=lambda each: each.stamp_ns)
        self.found.markers.sort(key=lambda each: each[0])
        return self.found

    def _assign(self) -> None:
        mapping = self._mapping
        self._take(mapping.joint_states.topic, self._joint_state)
        for name, camera in mapping.cameras.items():
            self._take_camera(name, camera)
        if mapping.extrinsics.source == "topic":
            self._take(mapping.extrinsics.topic, self._transform)
        takers = {
            "gate": self._command,
            "trajectory": self._trajectory,
            "positions": self._array,
            "leader": self._leader,
        }
        if not isinstance(mapping.action, MeasuredAction):
            self._take(mapping.action.topic, takers[mapping.action.source])
        if mapping.outcome.topic:
            self._take(mapping.outcome.topic, self._judgement)
        if mapping.episodes.topic:
            self._take(mapping.episodes.topic, self._marker)

    def _take_camera(self, name: str, camera: CameraMapping) -> None:
        self._take(camera.topic, lambda _, stamp: self.found.frames[name].append(stamp))
        self._take(
            camera.information,
            lambda message, _: self.found.infos[name].append(self._bag.parse(message)),
        )

    def _take(self, topic: str, taker: Callable[[ForeignMessage, int], None]) -> None:
        self._takers[absolute(topic)].append(taker)

    def _compare_clocks(self, message: ForeignMessage) -> None:
        if message.type_name in _STAMPED and (stamp := messages.peek_stamp_ns(message.data)):
            self.found.offsets[message.topic].append(stamp - message.log_ns)

    def _joint_state(self, message: ForeignMessage, stamp: int) -> None:
        value = self._bag.parse(message)
        names = self._mapping.joint_states.names
        self.found.joint_names = self.found.joint_names or tuple(value.name)
        value.name = [names.get(name, name) for name in value.name]
        positions = messages.joint_positions(value, self._robot.joints)
        if positions is not None:
            self.found.positions.setdefault(stamp, positions)

    def _leader(self, message: ForeignMessage, stamp: int) -> None:
        assert isinstance(self._mapping.action, LeaderAction)
        value = self._bag.parse(message)
        names = self._mapping.action.names
        value.name = [names.get(name, name) for name in value.name]
        positions = messages.joint_positions(value, self._robot.joints)
        if positions is not None:
            self.found.told.setdefault(stamp, positions)

    def _array(self, message: ForeignMessage, stamp: int) -> None:
        assert isinstance(self._mapping.action, PositionsAction)
        joints = self._mapping.action.joints
        values = np.asarray(self._bag.parse(message).data, dtype=np.float64)
        if len(values) != len(joints) or not np.isfinite(values).all():
            raise ActionError(
                f"expected {len(joints)} finite positions, one per entry of action.joints, "
                f"got {values.tolist()}"
            )
        told = dict(zip(joints, values.tolist(), strict=True))
        if missing := [name for name in self._robot.joints if name not in told]:
            raise ActionError(f"action.joints lacks {missing} of the robot description")
        self.found.told[stamp] = np.array([told[name] for name in self._robot.joints])

    def _trajectory(self, message: ForeignMessage, stamp: int) -> None:
        assert isinstance(self._mapping.action, TrajectoryAction)
        names = self._mapping.action.names
        points = trajectory_points(self._bag.parse(message), self._robot.joints, names, stamp)
        self.found.trajectories[stamp] = points

    def _command(self, message: ForeignMessage, stamp: int) -> None:
        value = self._bag.parse(message)
        value.source = CommandSource(value.source)
        self.found.commands.setdefault(stamp, value)

    def _transform(self, message: ForeignMessage, _: int) -> None:
        value = self._bag.parse(message)
        transforms = value.transforms if message.type_name == TRANSFORMS else [value]
        self.found.transforms += list(transforms)

    def _judgement(self, message: ForeignMessage, stamp: int) -> None:
        value = self._bag.parse(message)
        source = f"import: {message.topic}"
        if message.type_name == FEEDBACK:
            kind, reward = JudgementKind(value.kind), float(value.reward)
            judgement = Judgement(stamp_ns=stamp, kind=kind, reward=reward, source=source)
        else:
            success = bool(value.data)
            judgement = Judgement.final(success=success, stamp_ns=stamp, source=source)
        self.found.judgements.append(judgement)

    def _marker(self, message: ForeignMessage, stamp: int) -> None:
        begins = bool(self._bag.parse(message).data) if message.type_name == BOOL else None
        self.found.markers.append((stamp, begins))
