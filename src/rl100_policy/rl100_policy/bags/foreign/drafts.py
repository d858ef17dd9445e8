# SPDX-License-Identifier: Apache-2.0
"""One episode of a foreign recording on the control grid, before it is judged and written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl100_policy.bags.alignment import align, nearest_index
from rl100_policy.bags.foreign.cutting import Span
from rl100_policy.bags.foreign.mapping import ImportMapping
from rl100_policy.bags.foreign.recorded import Recorded
from rl100_policy.bags.foreign.setpoints import Setpoints, executed_actions
from rl100_policy.core.cadence import Cadence
from rl100_policy.core.config import RobotConfig, TaskConfig
from rl100_policy.core.gate_result import CommandSource
from rl100_policy.core.kinematics import ArmKinematics

Floats = NDArray[np.float64]
Stamps = NDArray[np.int64]


@dataclass(frozen=True)
class Commands:
    """What was commanded in the control periods of an episode.

    Attributes:
        grid_ns: [C] beginnings of control periods.
        before: [C, n] commanded positions at the beginning of each, rad; NaN where unknown.
        after: [C, n] at its end.
        actions: [C, d_a] SI units; NaN where unknown.
        twists: [C, 6] whole velocity of the tool, m/s and rad/s; NaN where unknown.
        sources: [C] who was in command.
        recorded: GateCommand by stamp, where our gate was recorded; else empty.
    """

    grid_ns: Stamps
    before: Floats
    after: Floats
    actions: Floats
    twists: Floats
    sources: tuple[CommandSource, ...]
    recorded: dict[int, Any]

    @property
    def known(self) -> NDArray[np.bool_]:
        """[C] whether the action of each control period is known."""
        return np.asarray(np.isfinite(self.actions).all(axis=1))

    @property
    def tell_joints(self) -> bool:
        """Whether it is known where the joints were told to be."""
        return bool(np.isfinite(self.before[self.known]).any())


@dataclass(frozen=True)
class Draft:
    """One episode.

    Attributes:
        span: Its place in the recording.
        joint_ns: [J] stamps of joint states.
        positions: [J, n] measured positions, rad.
        frame_ns: [F] stamps of the frames of the camera that the task is seen with; of the joint
            states where there is none.
        commands: What was commanded.
        period_ns: The control period.
    """

    span: Span
    joint_ns: Stamps
    positions: Floats
    frame_ns: Stamps
    commands: Commands
    period_ns: int

    @property
    def wanted_ns(self) -> Stamps:
        """Stamps of the frames that an episode on this grid is made of, increasing."""
        grid = self.commands.grid_ns
        results = np.union1d(grid, grid + self.period_ns)
        index = nearest_index(self.frame_ns, results, self.period_ns // 2)
        return np.unique(self.frame_ns[index[index >= 0]])

    def usable(self, frame_ns: Stamps) -> int:
        """Control periods that a learner would use: of the longest stretch without a gap.

        Args:
            frame_ns: Stamps of the frames that can be used, increasing.
        """
        known_ns = self.commands.grid_ns[self.commands.known]
        return len(align(self.joint_ns, frame_ns, known_ns, self.period_ns).commands)


class Drafter:
    """Makes drafts of one recording. Not thread-safe (the kinematics are not)."""

    def __init__(
        self, recorded: Recorded, mapping: ImportMapping, robot: RobotConfig, task: TaskConfig
    ) -> None:
        """Find out where the arm was told to be."""
        self._recorded, self._mapping, self._robot, self._task = recorded, mapping, robot, task
        self._arm = ArmKinematics(robot)
        self._period_ns = round(robot.control_period * 1e9)
        self._setpoints = recorded.setpoints(mapping) if recorded.positions else None

    def draft(self, span: Span, camera: str | None) -> Draft:
        """One episode.

        Args:
            span: Which part of the recording.
            camera: The one that the task is seen with; None where there is none.
        """
        inside = {
            stamp: where
            for stamp, where in self._recorded.positions.items()
            if span.start_ns <= stamp <= span.end_ns
        }
        joint_ns = np.array(list(inside), dtype=np.int64)
        frames = self._recorded.frames[camera] if camera is not None else list(inside)
        frame_ns = np.unique(np.array(frames, dtype=np.int64))
        positions = np.array(list(inside.values())).reshape(-1, len(self._robot.joints))
        if self._setpoints is None:
            commands = self._commanded(span)
        else:
            cadence = Cadence(self._period_ns)
            grid = [stamp for stamp in joint_ns.tolist() if cadence.begins(stamp)]
            commands = self._followed(np.array(grid, dtype=np.int64), self._setpoints)
        return Draft(
            span=span,
            joint_ns=joint_ns,
            positions=positions,
            frame_ns=frame_ns[(frame_ns >= span.start_ns) & (frame_ns <= span.end_ns)],
            commands=commands,
            period_ns=self._period_ns,
        )

    def _followed(self, grid: Stamps, setpoints: Setpoints) -> Commands:
        """Commands by what the arm was told, on the grid."""
        before = self._shaped(setpoints.at(grid), len(grid))
        after = self._shaped(setpoints.at(grid + self._period_ns), len(grid))
        actions, twists = executed_actions(
            self._arm, self._task.action, before, after, self._robot.control_period
        )
        speeds = np.abs(after - before).max(axis=1, initial=0.0) / self._robot.control_period
        moving = np.flatnonzero(speeds > self._mapping.trim_still)
        first, last = (moving[0], moving[-1]) if len(moving) else (0, -1)
        if not self._mapping.trim_still:
            first, last = 0, len(grid) - 1
        sources = tuple(
            CommandSource.TELEOP if first <= index <= last else CommandSource.HOLD
            for index in range(len(grid))
        )
        return Commands(grid, before, after, actions, twists, sources, {})

    def _shaped(self, positions: Floats, rows: int) -> Floats:
        """[rows, n] also where nothing was told at all."""
        n_joints = len(self._robot.joints)
        return positions if positions.shape[1] else np.full((rows, n_joints), np.nan)

    def _commanded(self, span: Span) -> Commands:
        """Commands of our own gate, as they are."""
        commands = {
            stamp: command
            for stamp, command in sorted(self._recorded.commands.items())
            if span.start_ns <= stamp <= span.end_ns
        }
        dim, n_joints = self._task.action.dim, len(self._robot.joints)
        actions = np.full((len(commands), dim), np.nan)
        for row, command in enumerate(commands.values()):
            if len(command.executed) == dim:
                actions[row] = command.executed
        unknown = np.full((len(commands), n_joints), np.nan)
        sources = tuple(each.source for each in commands.values())
        twists = np.full((len(commands), 6), np.nan)
        grid = np.array(list(commands), dtype=np.int64)
        return Commands(grid, unknown, unknown, actions, twists, sources, commands)
