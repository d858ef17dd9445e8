# SPDX-License-Identifier: Apache-2.0
"""What each episode of a foreign recording must hold: rates, frames, commands, length."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rl100_policy.bags.foreign.drafts import Draft, Stamps
from rl100_policy.bags.foreign.findings import Finding, FrameCheck, Status
from rl100_policy.bags.foreign.mapping import (
    AnyAction,
    GateAction,
    MeasuredAction,
    SampledAction,
)
from rl100_policy.bags.judgement import Outcome
from rl100_policy.bags.reward import verdict
from rl100_policy.core.config import RobotConfig, TaskConfig

_LEAST_USABLE = 0.9
"""Share of an episode that must be left without a gap; of less, too much would be lost unsaid."""
_LAG = 0.5
"""How far a joint may be from where it was told to be [rad, m], as for the command gate."""
_UNSAID_M = 0.02
_UNSAID_RAD = 0.1
"""Motion of the tool in directions that the actions do not have, over which it is told."""
_LEAST_PERIODS = 2


@dataclass(frozen=True)
class EpisodeContract:
    """What episodes of one robot and task must hold."""

    action: AnyAction | None
    """Where the action comes from; None: rows hold it."""
    robot: RobotConfig
    task: TaskConfig
    has_camera: bool
    """Whether the task is seen with one."""

    def check(self, draft: Draft, frames: FrameCheck) -> list[Finding]:
        """Everything about one episode."""
        findings = [self._rate("joint rate", draft.joint_ns)]
        if self.has_camera:
            findings += [self._rate("camera rate", draft.frame_ns), self._frames(frames)]
        findings += [self._command(draft), self._bounds(draft)]
        if draft.commands.tell_joints:
            findings += [self._tracking(draft), self._unsaid(draft)]
        return [*findings, self._length(draft, frames), self._outcome(draft)]

    def _rate(self, item: str, stamps: Stamps) -> Finding:
        period = self.robot.control_period
        expected = f"at least {1.0 / period:.1f} Hz, no gap over {1.5 * period:.2f} s"
        if len(stamps) < 2:
            return Finding(
                item, expected, f"{len(stamps)} messages", Status.NOT_OK, "record for longer"
            )
        gaps = np.diff(stamps) * 1e-9
        usual, longest = float(np.median(gaps)), float(gaps.max())
        found = f"{1.0 / usual:.1f} Hz, longest gap {longest:.2f} s"
        if usual > 1.1 * period:
            advice = "raise the rate of the driver, or the control_period of the robot description"
            return Finding(item, expected, found, Status.NOT_OK, advice)
        if longest > 1.5 * period:
            return Finding(
                item, expected, found, Status.WARNING, "only the longest stretch is learned from"
            )
        return Finding(item, expected, found)

    def _frames(self, frames: FrameCheck) -> Finding:
        found = f"{len(frames.usable_ns)} of {frames.wanted}"
        expected = "every frame of the control grid can be used"
        if len(frames.usable_ns) == frames.wanted:
            return Finding("camera frames", expected, found)
        few = len(frames.usable_ns) < _LEAST_USABLE * frames.wanted
        status = Status.NOT_OK if few else Status.WARNING
        return Finding("camera frames", expected, found, status, f"the first: {frames.problem}")

    def _command(self, draft: Draft) -> Finding:
        known = int(draft.commands.known.sum())
        expected, found = (
            "known in every control period",
            f"{known} of {len(draft.commands.grid_ns)}",
        )
        action = self.action
        if isinstance(action, GateAction):
            wrong = self._wrong_space(draft)
            if wrong:
                advice = "give the task it was recorded for"
                return Finding("command", expected, wrong, Status.NOT_OK, advice)
        late_s = action.reached_after if isinstance(action, SampledAction) else 0.0
        # nothing tells of the first ones then, nor of the last, whose end is after the recording
        untold = 1 + round(late_s / self.robot.control_period)
        if known < len(draft.commands.grid_ns) - untold:
            few = known < _LEAST_USABLE * len(draft.commands.grid_ns)
            status = Status.NOT_OK if few else Status.WARNING
            advice = "commands pause: longest_gap of the action may be raised, or episodes cut"
            return Finding("command", expected, found, status, advice)
        if isinstance(action, MeasuredAction):
            advice = "the measured motion stands for the command; record the command if you can"
            return Finding("command", expected, found, Status.WARNING, advice)
        return Finding("command", expected, found)

    def _wrong_space(self, draft: Draft) -> str:
        action = self.task.action
        for command in draft.commands.recorded.values():
            if command.action_space != action.space or tuple(command.names) != action.names:
                return f"{command.action_space} {list(command.names)}"
        return ""

    def _bounds(self, draft: Draft) -> Finding:
        action = self.task.action
        low, high = np.array(action.low), np.array(action.high)
        actions = draft.commands.actions[draft.commands.known]
        expected = f"{action.space} between {list(action.low)} and {list(action.high)}"
        if len(actions) == 0:
            return Finding("actions", expected, "none", Status.NOT_OK, "see command")
        found = (
            f"{actions.min(axis=0).round(3).tolist()} to {actions.max(axis=0).round(3).tolist()}"
        )
        slack = 1e-6 + 1e-3 * (high - low)
        beyond = ((actions < low - slack) | (actions > high + slack)).any(axis=1)
        lost = ((actions < low - (high - low)) | (actions > high + (high - low))).any(axis=1)
        told = f"{100.0 * beyond.mean():.0f} % of the periods are outside"
        if beyond.mean() > 1.0 - _LEAST_USABLE or lost.any():
            advice = f"{told}: widen the bounds of the task, or demonstrate more slowly"
            return Finding("actions", expected, found, Status.NOT_OK, advice)
        if beyond.any():
            advice = f"{told}; a policy cannot learn those"
            return Finding("actions", expected, found, Status.WARNING, advice)
        return Finding("actions", expected, found)

    def _tracking(self, draft: Draft) -> Finding:
        """Whether the arm went where it was told: units and names of the command are right."""
        expected = f"every joint within {_LAG} rad of its command"
        known = np.flatnonzero(draft.commands.known)
        if len(known) == 0:
            return Finding("tracking", expected, "no command", Status.NOT_OK, "see command")
        joint = np.clip(
            np.searchsorted(draft.joint_ns, draft.commands.grid_ns[known]),
            0,
            len(draft.joint_ns) - 1,
        )
        apart = np.abs(draft.positions[joint] - draft.commands.before[known])
        worst = int(apart.max(axis=0).argmax())
        found = f"at most {apart.max():.3f} rad, {self.robot.joints[worst]}"
        if apart.max() > _LAG:
            advice = "is the command in rad, are its joints in that order, is its time right?"
            return Finding("tracking", expected, found, Status.NOT_OK, advice)
        return Finding("tracking", expected, found)

    def _unsaid(self, draft: Draft) -> Finding:
        """How far the tool went in directions that the actions cannot tell."""
        action = self.task.action
        names = () if action.space == "joint_velocity" else action.names
        expected = f"the tool moves in {', '.join(names)} only" if names else "told by the joints"
        twists = draft.commands.twists[draft.commands.known] * self.robot.control_period
        way = np.cumsum(twists, axis=0)
        axes = [axis for axis, name in enumerate("xyz") if names and f"linear.{name}" not in names]
        turns = [
            axis + 3 for axis, name in enumerate("xyz") if names and f"angular.{name}" not in names
        ]
        apart_m = float(np.ptp(way[:, axes], axis=0).max()) if axes and len(way) else 0.0
        apart_rad = float(np.ptp(way[:, turns], axis=0).max()) if turns and len(way) else 0.0
        found = f"otherwise {1000.0 * apart_m:.0f} mm and {apart_rad:.2f} rad"
        if apart_m > _UNSAID_M or apart_rad > _UNSAID_RAD:
            advice = "a policy of this task cannot repeat that; name those components in the task"
            return Finding("other motion", expected, found, Status.WARNING, advice)
        return Finding("other motion", expected, found)

    def _length(self, draft: Draft, frames: FrameCheck) -> Finding:
        period, total = self.robot.control_period, max(len(draft.commands.grid_ns) - 1, 1)
        usable = draft.usable(np.array(frames.usable_ns, dtype=np.int64))
        expected = (
            f"{_LEAST_PERIODS} control periods or more without a gap, at most "
            f"{self.task.time_limit:.0f} s"
        )
        found = f"{usable} of {total} periods, {total * period:.1f} s"
        if usable < _LEAST_PERIODS or usable < _LEAST_USABLE * total:
            advice = "too much would be left out: see the gaps above, or cut the recording"
            return Finding("length", expected, found, Status.NOT_OK, advice)
        if total * period > self.task.time_limit + period:
            advice = "longer than the task's time_limit: counts as one that ran out of time"
            return Finding("length", expected, found, Status.WARNING, advice)
        return Finding("length", expected, found)

    def _outcome(self, draft: Draft) -> Finding:
        outcome = verdict(draft.span.judgements).outcome
        if outcome is Outcome.UNLABELLED:
            advice = "imitation passes over it unless episodes=all; say the outcome if you know it"
            return Finding("outcome", "success or failure", "unlabelled", Status.WARNING, advice)
        return Finding("outcome", "success or failure", outcome.value)
