# SPDX-License-Identifier: Apache-2.0
"""Learner node: learns a task from a folder of bags on request.

Action: ``learner/train`` Train, with progress as feedback, at which it can be cancelled: every few
seconds in most stages; an online iteration reports when it is done, half a minute with the small
preset.
Out: ``learner/status`` LearnerStatus (LATCHED, on change and at most at 2 Hz). It shares nothing
with the robot but the folders of bags and versions, so it may run on another machine.

After imitation it needs episodes in which its versions act. Then its status is WAITING and says
which version, how, and how many; it watches the bag folder and goes on when they are there.
The folder of the run is that of ``./rl100 train``; ``./rl100 report`` draws it.

| entity | callback group | may block |
|---|---|---|
| learner/train (execute) | reentrant, on one of two executor threads | for the whole training |
| learner/train (goal, cancel) | reentrant | no |

One training at a time: a goal that comes meanwhile is rejected, or ended at once if it came before
the first one began. So a training leaves the second thread free, and a cancel is always served.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import ReentrantCallbackGroup

from rl100_learner.data.reader import load_demonstrations
from rl100_learner.training.algorithm_run import run_algorithm
from rl100_learner.training.algorithm_settings import settings_for
from rl100_learner.training.bag_collector import BagCollector, Wanted
from rl100_learner.training.progress import Progress
from rl100_learner.training.stages import ALL_STAGES, Stage, read_stages
from rl100_msgs.action import Train
from rl100_msgs.msg import LearnerStatus
from rl100_policy.core.config import load_robot, load_task
from rl100_policy.core.errors import ConfigError, Rl100Error
from rl100_policy.ros.managed import ManagedNode
from rl100_policy.ros.parameters import parameter
from rl100_policy.ros.process import run_node
from rl100_policy.ros.qos import LATCHED

_STATUS_PERIOD_S = 0.5
_POLL_S = 0.5
"""Between two looks into the bag folder."""
_BUSY = "a training is running; cancel it first"


def _stages(names: Sequence[str]) -> tuple[Stage, ...]:
    """All of them if none is named.

    Raises:
        ConfigError: If there is no stage of such a name.
    """
    unknown = [name for name in names if name not in ALL_STAGES]
    if unknown:
        raise ConfigError(f"expected stages among {', '.join(ALL_STAGES)}, got {unknown}")
    return tuple(stage for stage in ALL_STAGES if stage in names) or ALL_STAGES


class _CancelledError(Rl100Error):
    """The person cancelled the training."""


@dataclass(frozen=True)
class LearnerParameters:
    """Parameters of the learner node."""

    robot_config: str = parameter("", "path of the robot description (YAML)")
    task_config: str = parameter("", "path of the task description (YAML)")


class LearnerNode(ManagedNode[LearnerParameters]):
    """Shell around :func:`rl100_learner.training.algorithm_run.run_algorithm`."""

    def __init__(self) -> None:
        """Read the parameters."""
        super().__init__("learner", LearnerParameters)

    def set_up(self) -> None:
        """Offer the action."""
        self._robot, self._task = (
            load_robot(self.parameters.robot_config),
            load_task(self.parameters.task_config),
        )
        self._busy = threading.Lock()
        self._version: Path | None = None
        """What the last finished stage of the latest run ended with."""
        self._published = 0.0
        self._status = self.create_publisher(LearnerStatus, "learner/status", LATCHED)
        self._server = ActionServer(
            self,
            Train,
            "learner/train",
            execute_callback=self._execute,
            goal_callback=self._on_goal,
            cancel_callback=lambda _: CancelResponse.ACCEPT,
            callback_group=ReentrantCallbackGroup(),
        )
        self.at_end(self._server.destroy)  # rclpy would leave it in the graph under our name
        self._publish(_nothing_measured(LearnerStatus.IDLE))

    def pause(self) -> None:
        """Refused while it learns."""
        if self._busy.locked():
            raise Rl100Error("a run goes on: cancel it first (learner/train)")

    def _on_goal(self, goal: Train.Goal) -> GoalResponse:
        if goal.task not in ("", self._task.name):
            self.get_logger().error(
                f"goal is for task {goal.task!r}, this learner was started for {self._task.name!r}"
            )
            return GoalResponse.REJECT
        if not self.is_active:
            self.get_logger().warning(f"goal refused: the node is {self.state}, not active")
            return GoalResponse.REJECT
        if self._busy.locked():
            self.get_logger().warning(_BUSY)
            return GoalResponse.REJECT
        return GoalResponse.ACCEPT

    def _execute(self, handle: ServerGoalHandle) -> Train.Result:
        # Taken here and not with the goal: rclpy drops an accepted goal without executing it when
        # its client is gone, and nobody would ever give the lock back. Never waited for, because
        # the thread that waits could not serve a cancel.
        if not self._busy.acquire(blocking=False):
            self.get_logger().warning(_BUSY)
            handle.abort()
            return Train.Result(success=False, message=_BUSY)
        try:
            return self._execute_alone(handle)
        finally:
            self._busy.release()

    def _execute_alone(self, handle: ServerGoalHandle) -> Train.Result:
        try:
            version = self._train(handle)
        except _CancelledError as error:
            handle.canceled()
            return self._finish(LearnerStatus.IDLE, str(error), None)
        except (Rl100Error, OSError) as error:
            return self._fail(handle, str(error))
        except Exception as error:  # of torch, or a defect: the person should see that it ended
            self.get_logger().error(traceback.format_exc())
            return self._fail(handle, f"{type(error).__name__}: {error}")
        handle.succeed()
        return self._finish(LearnerStatus.IDLE, f"wrote {version}", version)

    def _fail(self, handle: ServerGoalHandle, message: str) -> Train.Result:
        self.get_logger().error(message)
        handle.abort()
        return self._finish(LearnerStatus.FAULT, message, None)

    def _train(self, handle: ServerGoalHandle) -> Path:
        goal = handle.request
        if not goal.bags or not goal.output:
            raise ConfigError("a goal needs the folder of bags and the output folder")
        settings = settings_for(self._task, goal.overrides)
        stages, output, told = _stages(goal.stages), Path(goal.output), ""
        self._version = _newest(output)
        self._report(handle, _nothing_measured(LearnerStatus.READING), force=True)
        episodes = load_demonstrations(
            Path(goal.bags),
            self._task,
            self._robot,
            lambda *_: self._stop_if_cancelled(handle),
            accept_other_setup=settings.accept_other_setup,
        )

        def on_progress(stage: str, progress: Progress) -> None:
            nonlocal told
            self._stop_if_cancelled(handle)
            if stage != told:
                told, self._version = stage, _newest(output)
            name = stage if stage == progress.stage else f"{stage}: {progress.stage}"
            status = _nothing_measured(LearnerStatus.TRAINING)
            status.stage, status.step, status.steps = name, progress.step, progress.steps
            status.loss, status.episodes = progress.loss, len(episodes)
            if progress.success is not None:
                status.success = progress.success
            self._report(handle, status, force=progress.step == progress.steps)

        def ask(wanted: Wanted) -> None:
            self._stop_if_cancelled(handle)
            done = wanted.total - len(wanted.seeds)
            status = _nothing_measured(LearnerStatus.WAITING)
            _name(status, wanted.version)
            status.step, status.steps = done, wanted.total
            status.wanted_episodes = len(wanted.seeds)
            status.wanted_first_seed = wanted.seeds.start
            status.wanted_stochastic = wanted.stochastic
            status.detail = (
                f"waiting for {len(wanted.seeds)} of {wanted.total} episodes of "
                f"{wanted.version.name} in {goal.bags}"
            )
            self._report(handle, status, force=False)
            time.sleep(_POLL_S)

        collector = BagCollector(
            Path(goal.bags),
            output / "versions",
            self._task,
            self._robot,
            settings.gamma,
            ask,
        )
        records = run_algorithm(
            episodes, self._task, self._robot, output, settings, collector, on_progress, stages
        )
        return output / records[-1].version

    def _stop_if_cancelled(self, handle: ServerGoalHandle) -> None:
        if handle.is_cancel_requested:
            raise _CancelledError(
                "cancelled; the run goes on from its last checkpoint when the same goal is sent "
                "again"
            )

    def _report(self, handle: ServerGoalHandle, status: LearnerStatus, *, force: bool) -> None:
        if force or time.monotonic() - self._published > _STATUS_PERIOD_S:
            self._publish(status)
            handle.publish_feedback(Train.Feedback(status=status))

    def _publish(self, status: LearnerStatus) -> None:
        self._published = time.monotonic()
        status.header.stamp = self.get_clock().now().to_msg()
        if self._version is not None and not status.policy_version:
            _name(status, self._version)
        self._status.publish(status)

    def _finish(self, state: int, message: str, version: Path | None) -> Train.Result:
        if version is not None:
            self._version = version
        status = _nothing_measured(state)
        status.detail = message
        self._publish(status)
        return Train.Result(
            success=version is not None, policy_version_path=str(version or ""), message=message
        )


def _name(status: LearnerStatus, version: Path) -> None:
    status.policy_version, status.policy_version_path = version.name, str(version.resolve())


def _newest(output: Path) -> Path | None:
    """What the last finished stage of a run ended with."""
    records = read_stages(output)
    return output / records[-1].version if records else None


def _nothing_measured(state: int) -> LearnerStatus:
    """A status whose figures say that there are none."""
    return LearnerStatus(state=state, loss=float("nan"), success=float("nan"))


def main(args: Sequence[str] | None = None) -> int:
    """Run the node."""
    return run_node(LearnerNode, args, threads=2, images=False)


if __name__ == "__main__":
    sys.exit(main())
