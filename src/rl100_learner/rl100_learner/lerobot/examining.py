# SPDX-License-Identifier: Apache-2.0
"""Examination of a LeRobot dataset: what it holds of what our episodes need, and what fits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl100_learner.lerobot.layout import Feature
from rl100_learner.lerobot.mapping import LeRobotMapping
from rl100_learner.lerobot.reading import DatasetEpisode, LeRobotDataset
from rl100_policy.bags.factory import TYPES, MessageFactory
from rl100_policy.bags.foreign.cutting import Span
from rl100_policy.bags.foreign.drafts import Commands, Draft
from rl100_policy.bags.foreign.episode_contract import EpisodeContract
from rl100_policy.bags.foreign.findings import Finding, FrameCheck, Status, is_met
from rl100_policy.bags.foreign.setpoints import executed_actions, sampled
from rl100_policy.bags.judgement import Judgement
from rl100_policy.core.config import CameraConfig, RobotConfig, TaskConfig, check_action
from rl100_policy.core.errors import ObservationError
from rl100_policy.core.gate_result import CommandSource
from rl100_policy.core.kinematics import ArmKinematics
from rl100_policy.core.sight import sight_maker

Floats = NDArray[np.float64]

START_NS = 1_000_000_000
"""Stamp of the first frame of every episode: a dataset does not tell when it was recorded."""
_RATES_APART = 0.01
"""Share by which the rates of a dataset and of a robot may differ."""
_KINDS = {"image": "color", "float32": "points", "float64": "points"}


@dataclass(frozen=True)
class ExaminedRows:
    """One episode of a dataset and what the contract says of it."""

    rows: DatasetEpisode
    draft: Draft
    findings: tuple[Finding, ...]

    @property
    def fits(self) -> bool:
        """Whether it can become an episode of ours."""
        return is_met(self.findings)


class DatasetExaminer:
    """Examines one dataset for one robot and task."""

    def __init__(
        self, root: Path, mapping: LeRobotMapping, robot: RobotConfig, task: TaskConfig
    ) -> None:
        """Read its description.

        Raises:
            BagError: If it is no LeRobot dataset of the version we know.
            ConfigError: If the robot has no camera that the task can be seen with.
        """
        check_action(task, robot)
        self.dataset = LeRobotDataset(root)
        self.mapping, self.robot, self.task = mapping, robot, task
        self._maker = sight_maker(task, robot)
        self.camera = self._maker.camera if self._maker else None
        self._arm, self.factory = ArmKinematics(robot), MessageFactory()
        self._period_ns = round(robot.control_period * 1e9)
        self._contract = EpisodeContract(None, robot, task, self.camera is not None)
        self.state_places = self._places(
            mapping.state.feature, mapping.state.components, mapping.state.names, robot.joints
        )
        joints = mapping.action.kind != "task"
        self.action_places = self._places(
            mapping.action.feature,
            mapping.action.components,
            mapping.action.names,
            robot.joints if joints else task.action.names,
        )

    def _feature(self, name: str) -> Feature | None:
        return self.dataset.info.features.get(name)

    def _places(
        self,
        feature: str,
        components: Sequence[str] | None,
        names: Mapping[str, str],
        wanted: Sequence[str],
    ) -> list[int] | str:
        """Places of components in a feature, or why there are none."""
        found = self._feature(feature)
        if found is None:
            return f"no feature {feature}; there are {', '.join(self.dataset.info.features)}"
        told = [names.get(name, name) for name in components or found.components]
        if len(found.shape) != 1 or len(told) != found.shape[0]:
            return f"{len(told)} names of a feature of shape {list(found.shape)}"
        if missing := [name for name in wanted if name not in told]:
            return f"no {', '.join(missing)} among {', '.join(told)}"
        return [told.index(name) for name in wanted]

    def findings(self) -> list[Finding]:
        """About the whole dataset."""
        info, rate = self.dataset.info, 1.0 / self.robot.control_period
        apart = abs(info.fps - rate) / rate
        found = [
            Finding("format", "LeRobot v3.0", f"{info.codebase_version}, robot {info.robot_type}"),
            Finding(
                "rate", f"{rate:g} Hz, 1 / control_period", f"{info.fps:g} frames per second",
                Status.NOT_OK if apart > _RATES_APART else Status.OK,
                "set control_period of the robot description, or export the dataset at that rate"
                if apart > _RATES_APART else "",
            ),
            self._placed("state", self.mapping.state.feature, self.robot.joints,
                         self.state_places),
            self._placed("action", self.mapping.action.feature, self._action_names(),
                         self.action_places),
        ]  # fmt: skip
        return found + ([self._seen(self.camera)] if self.camera is not None else [])

    def _action_names(self) -> Sequence[str]:
        if self.mapping.action.kind == "task":
            return self.task.action.names
        return self.robot.joints

    def _placed(
        self, item: str, feature: str, wanted: Sequence[str], places: list[int] | str
    ) -> Finding:
        expected = f"{feature}: {', '.join(wanted)}"
        if isinstance(places, str):
            advice = f"set {item}.names or {item}.components in the mapping file"
            return Finding(item, expected, places, Status.NOT_OK, advice)
        return Finding(item, expected, "all of them")

    def _seen(self, camera: CameraConfig) -> Finding:
        """The feature that stands for the camera of the task."""
        expected = f"a feature for camera {camera.name!r} of kind {camera.kind}"
        name = self.mapping.cameras.get(camera.name, "")
        feature = self._feature(name)
        if feature is None:
            has = ", ".join(self.dataset.info.features)
            advice = f"set cameras.{camera.name} in the mapping file; there are {has}"
            if camera.kind == "depth":
                advice = (
                    "no feature stands for depth images: give a task of images or of "
                    "proprioception, or a robot whose camera delivers points"
                )
            return Finding("camera", expected, name or "none", Status.NOT_OK, advice)
        found = f"{name}: {feature.dtype} {list(feature.shape)}"
        if _KINDS.get(feature.dtype) != camera.kind:
            advice = {
                "video": "give a dataset whose images are not videos (use_videos=False)",
                "image": "give a task that observes images, or a robot with a colour camera",
            }.get(feature.dtype, "points serve a camera of kind points, a depth image none")
            return Finding("camera", expected, found, Status.NOT_OK, advice)
        return Finding("camera", expected, found)

    def episodes(self) -> Iterator[ExaminedRows]:
        """Every episode with its findings; call it if the dataset as a whole fits.

        Raises:
            BagError: If the dataset cannot be read.
        """
        optional = (self.mapping.success, self.mapping.intervention)
        wanted = [self.mapping.state.feature, self.mapping.action.feature]
        wanted += [name for name in self.mapping.cameras.values() if self._feature(name)]
        wanted += [name for name in optional if self._feature(name)]
        for rows in self.dataset.episodes(wanted):
            draft = self._draft(rows)
            check = self._check_frames(rows, draft)
            yield ExaminedRows(rows, draft, tuple(self._contract.check(draft, check)))

    def positions(self, rows: DatasetEpisode) -> Floats:
        """Measured joint positions, [T, n], rad."""
        assert not isinstance(self.state_places, str)
        state = rows.columns[self.mapping.state.feature].astype(np.float64)
        return _in_rad(state[:, self.state_places], self.mapping.state.unit)

    def _draft(self, rows: DatasetEpisode) -> Draft:
        positions = self.positions(rows)
        grid = START_NS + self._period_ns * np.arange(len(positions), dtype=np.int64)
        before, after, actions, twists = self._commanded(rows, positions, grid)
        sources = tuple(
            CommandSource.TELEOP if by_person else CommandSource.POLICY
            for by_person in self._by_person(rows)
        )
        commands = Commands(grid, before, after, actions, twists, sources, {})
        span = Span(START_NS, int(grid[-1]), self._judgements(rows, int(grid[-1])))
        return Draft(span, grid, positions, grid, commands, self._period_ns)

    def _commanded(
        self, rows: DatasetEpisode, positions: Floats, grid: NDArray[np.int64]
    ) -> tuple[Floats, Floats, Floats, Floats]:
        """Joint commands before and after each period, [T, n], actions and twists."""
        assert not isinstance(self.action_places, str)
        mapped, period = self.mapping.action, self.robot.control_period
        told = rows.columns[mapped.feature].astype(np.float64)[:, self.action_places]
        unknown = np.full_like(positions, np.nan)
        if mapped.kind == "task":
            return unknown, unknown, told, np.full((len(told), 6), np.nan)
        told = _in_rad(told, mapped.unit)
        if mapped.kind == "joint_velocities":
            before, after = positions, positions + period * told
        else:
            late = period if mapped.reached_after is None else mapped.reached_after
            commands = dict(zip(grid.tolist(), told, strict=True))
            points = sampled(commands, reached_after_s=late, longest_gap_s=1.5 * period)
            before, after = points.at(grid), points.at(grid + self._period_ns)
            before[0] = positions[0] if np.isnan(before[0]).any() else before[0]
        actions, twists = executed_actions(self._arm, self.task.action, before, after, period)
        return before, after, actions, twists

    def _by_person(self, rows: DatasetEpisode) -> list[bool]:
        told = rows.columns.get(self.mapping.intervention)
        length = len(rows.columns[self.mapping.state.feature])
        return [True] * length if told is None else np.ravel(told).astype(bool).tolist()

    def _judgements(self, rows: DatasetEpisode, end_ns: int) -> tuple[Judgement, ...]:
        told = rows.columns.get(self.mapping.success)
        match self.mapping.outcome:
            case "success" | "failure" as given:
                success = given == "success"
            case "feature" if told is not None:
                success = bool(np.ravel(told)[-1])
            case _:
                return ()
        source = f"import: {self.mapping.outcome}"
        return (Judgement.final(success=success, stamp_ns=end_ns, source=source),)

    def _check_frames(self, rows: DatasetEpisode, draft: Draft) -> FrameCheck:
        """Makes what a policy would see of every frame."""
        stamps = draft.frame_ns.tolist()
        if self.camera is None:
            return FrameCheck(tuple(stamps), len(stamps))
        usable, problem = [], ""
        for row, stamp in enumerate(stamps):
            type_name, data = self.frame(rows, self.camera, row, stamp)
            try:
                assert self._maker is not None
                self._maker.make(self.factory.parse(type_name, data), None, np.eye(4))
                usable.append(stamp)
            except ObservationError as error:
                problem = problem or str(error)
        return FrameCheck(tuple(usable), len(stamps), problem)

    def frame(
        self, rows: DatasetEpisode, camera: CameraConfig, row: int, stamp_ns: int
    ) -> tuple[str, bytes]:
        """Type and bytes of a camera's message: an image, or points in the base frame."""
        value: Any = rows.columns[self.mapping.cameras[camera.name]][row]
        if camera.kind == "color":
            return TYPES["color"], self.factory.colour(stamp_ns, value, camera.optical_frame)
        points = np.asarray(value, dtype=np.float32)
        return TYPES["points"], self.factory.points(stamp_ns, points, self.robot.base_frame)


def _in_rad(values: Floats, unit: str) -> Floats:
    return np.radians(values) if unit == "deg" else values
