# SPDX-License-Identifier: Apache-2.0
"""Examination of a foreign recording: its episodes, and what the contract says of each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl100_policy.bags.foreign.contract import Contract
from rl100_policy.bags.foreign.cutting import Span, cut
from rl100_policy.bags.foreign.drafts import Draft, Drafter
from rl100_policy.bags.foreign.episode_contract import EpisodeContract
from rl100_policy.bags.foreign.findings import Finding, FrameCheck, Status, is_met
from rl100_policy.bags.foreign.mapping import ImportMapping
from rl100_policy.bags.foreign.recorded import Recorded, RecordingReader, stamp_of
from rl100_policy.bags.foreign.source import ForeignBag
from rl100_policy.bags.foreign.view import camera_pose, camera_view, with_our_frame
from rl100_policy.bags.judgement import Judgement, Outcome
from rl100_policy.core.config import RobotConfig, TaskConfig, check_action
from rl100_policy.core.errors import BagError, ObservationError
from rl100_policy.core.point_cloud import Intrinsics
from rl100_policy.core.sight import sight_maker


@dataclass(frozen=True)
class ExaminedEpisode:
    """One episode of a recording and what the contract says of it."""

    draft: Draft
    findings: tuple[Finding, ...]

    @property
    def fits(self) -> bool:
        """Whether it can become an episode of ours."""
        return is_met(self.findings)


@dataclass(frozen=True)
class Examination:
    """What was found in one recording."""

    source: Path
    sha256: str
    findings: tuple[Finding, ...]
    """About the whole of it."""
    episodes: tuple[ExaminedEpisode, ...]
    poses: dict[str, NDArray[np.float64]]
    """By camera: its optical frame in the base frame, [4, 4]."""
    ahead_ns: tuple[int, int] = (0, 0)
    """Least and most that a stamp is ahead of its reception."""

    @property
    def fits(self) -> bool:
        """Whether all of it can become episodes of ours."""
        whole = is_met(self.findings) and bool(self.episodes)
        return whole and all(each.fits for each in self.episodes)


class Examiner:
    """Examines recordings of one robot and task by one mapping."""

    def __init__(
        self,
        mapping: ImportMapping,
        robot: RobotConfig,
        task: TaskConfig,
        outcome: Outcome | None = None,
    ) -> None:
        """Choose the camera that the task is seen with.

        Args:
            mapping: What stands for what.
            robot: The arm that was recorded.
            task: What it did.
            outcome: Of every episode; None: as the mapping says.

        Raises:
            ConfigError: If the robot has no such camera, or the actions are of other joints.
        """
        check_action(task, robot)
        self.mapping, self.robot, self.task = mapping, robot, task
        self.outcome = outcome
        self._maker = sight_maker(task, robot)
        self.camera = self._maker.camera if self._maker else None
        self._contract = Contract(mapping, robot, task, self.camera)
        self._of_episode = EpisodeContract(mapping.action, robot, task, self.camera is not None)

    def examine(self, source: Path) -> Examination:
        """Examine one recording; nothing is written.

        Raises:
            BagError: If it cannot be read at all.
        """
        with ForeignBag(source) as bag:
            findings = self._contract.topics(bag.topics)
            if not is_met(findings):
                return Examination(source, bag.sha256, tuple(findings), (), {})
            recorded = RecordingReader(bag, self.mapping, self.robot).read()
            findings += self._contract.joints(recorded)
            view, poses = self._view(recorded)
            findings += view
            spans = [self._judged(span) for span in cut(recorded, self.mapping)]
            if recorded.positions and not spans:
                findings.append(
                    Finding(
                        "episodes", f"one or more, by {self.mapping.episodes.cut}", "none",
                        Status.NOT_OK, "see episodes in the mapping file",
                    )
                )  # fmt: skip
            if not is_met(findings):
                return Examination(source, bag.sha256, tuple(findings), (), poses)
            episodes = self._episodes(bag, recorded, spans, poses)
            return Examination(
                source, bag.sha256, tuple(findings), episodes, poses, self._ahead(recorded)
            )

    def _ahead(self, recorded: Recorded) -> tuple[int, int]:
        if self.mapping.stamps == "received":
            return 0, 0
        offsets = [offset for each in recorded.offsets.values() for offset in each]
        return min(offsets), max(offsets)

    def _view(self, recorded: Recorded) -> tuple[list[Finding], dict[str, NDArray[np.float64]]]:
        """Findings about the cameras, and their poses."""
        findings: list[Finding] = []
        poses = {}
        for camera in self.robot.cameras:
            if camera.name not in self.mapping.cameras:
                continue
            pose, finding = camera_pose(recorded.transforms, self.mapping, self.robot, camera)
            if pose is not None:
                poses[camera.name] = pose
            if camera == self.camera:
                findings += [finding] if camera.kind != "color" else []
                if camera.kind == "depth":
                    findings.append(camera_view(recorded, self.mapping, camera)[1])
        return findings, poses

    def _judged(self, span: Span) -> Span:
        """With the outcome that was given for all, if one was."""
        given = self.outcome
        if given is None and self.mapping.outcome.source in ("success", "failure"):
            given = Outcome(self.mapping.outcome.source)
        if given is None:
            return span
        if given is Outcome.UNLABELLED:
            return replace(span, judgements=())
        success = given is Outcome.SUCCESS
        judgement = Judgement.final(success=success, stamp_ns=span.end_ns, source="import")
        return replace(span, judgements=(judgement,))

    def _episodes(
        self,
        bag: ForeignBag,
        recorded: Recorded,
        spans: Sequence[Span],
        poses: dict[str, NDArray[np.float64]],
    ) -> tuple[ExaminedEpisode, ...]:
        name = self.camera.name if self.camera else None
        drafter = Drafter(recorded, self.mapping, self.robot, self.task)
        drafts = [drafter.draft(span, name) for span in spans]
        checks = self._check_frames(bag, recorded, drafts, poses)
        return tuple(
            ExaminedEpisode(draft, tuple(self._of_episode.check(draft, check)))
            for draft, check in zip(drafts, checks, strict=True)
        )

    def _check_frames(
        self,
        bag: ForeignBag,
        recorded: Recorded,
        drafts: Sequence[Draft],
        poses: dict[str, NDArray[np.float64]],
    ) -> list[FrameCheck]:
        """Makes what a policy would see of every frame that an episode is to be made of."""
        if self.camera is None:
            return [FrameCheck(tuple(d.frame_ns.tolist()), len(d.wanted_ns)) for d in drafts]
        owners: dict[int, list[int]] = defaultdict(list)
        for index, draft in enumerate(drafts):
            for stamp in draft.wanted_ns.tolist():
                owners[stamp].append(index)
        usable: dict[int, list[int]] = defaultdict(list)
        problems: dict[int, str] = {}
        for stamp, problem in self._looked_at(bag, recorded, owners, poses.get(self.camera.name)):
            for index in owners[stamp]:
                if problem:
                    problems.setdefault(index, problem)
                else:
                    usable[index].append(stamp)
        return [
            FrameCheck(tuple(sorted(usable[index])), len(draft.wanted_ns), problems.get(index, ""))
            for index, draft in enumerate(drafts)
        ]

    def _looked_at(
        self,
        bag: ForeignBag,
        recorded: Recorded,
        wanted: Collection[int],
        pose: NDArray[np.float64] | None,
    ) -> Iterator[tuple[int, str]]:
        """Stamps of frames, each once, and why a policy could not see them; empty if it could."""
        assert self.camera is not None
        intrinsics = None
        if self.camera.kind == "depth":
            intrinsics = camera_view(recorded, self.mapping, self.camera)[0]
        left = set(wanted)
        for message in bag.messages([self.mapping.cameras[self.camera.name].topic]):
            try:
                stamp = stamp_of(message, self.mapping)
            except ObservationError:
                continue  # counted when the stamps were read
            if stamp not in left:
                continue
            left.remove(stamp)
            try:
                self._see(bag.parse(message), intrinsics, pose)
                yield stamp, ""
            except (ObservationError, BagError) as error:
                yield stamp, str(error)

    def _see(
        self, frame: Any, intrinsics: Intrinsics | None, pose: NDArray[np.float64] | None
    ) -> None:
        assert self._maker is not None
        assert self.camera is not None
        mapped = self.mapping.cameras[self.camera.name]
        self._maker.make(with_our_frame(frame, mapped, self.robot, self.camera), intrinsics, pose)
