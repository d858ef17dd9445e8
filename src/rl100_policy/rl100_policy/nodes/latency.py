# SPDX-License-Identifier: Apache-2.0
"""Latency node: from what a sensor saw to the command at the controller, hop by hop.

In: ``latency/stages`` StageTimes (EVENT) of the nodes on the way; the robot's command topic,
JointTrajectory (COMMAND), as the controller gets it. Out: ``latency/journeys`` StageTimes (EVENT),
every mark of a decision whose command has arrived, for the bag; ``latency/report`` LatencyReport
(LATCHED) at 1 Hz, and when another version drives that of the one before; ``/diagnostics`` at
1 Hz. One callback group, single-threaded; no callback blocks.

A command arrives when the middleware of this process receives it: it is another subscriber beside
the controller, on the controller's machine if this node runs there.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.clock import Clock, ClockType
from trajectory_msgs.msg import JointTrajectory

from rl100_msgs.msg import LatencyReport, StageTimes
from rl100_policy.bags.topics import JOURNEYS_TOPIC
from rl100_policy.core.config import load_robot
from rl100_policy.core.latency import (
    Journey,
    JourneyLog,
    LatencySummary,
    LatencyWindow,
)
from rl100_policy.core.messages import stage_marks, stamp_ns
from rl100_policy.ros.diagnostics import diagnostic_status
from rl100_policy.ros.managed import ManagedNode
from rl100_policy.ros.parameters import parameter
from rl100_policy.ros.process import run_node
from rl100_policy.ros.qos import COMMAND, EVENT, LATCHED
from rl100_policy.ros.stages import STAGES_TOPIC, stages_message

_REPORT_PERIOD_S = 1.0


@dataclass(frozen=True)
class LatencyParameters:
    """Parameters of the latency node."""

    robot_config: str = parameter("", "path of the robot description (YAML)")
    miss_share: float = parameter(
        0.01,
        "share of decisions that may take longer than a control period before /diagnostics warns",
        low=0.0,
        high=1.0,
    )


class LatencyNode(ManagedNode[LatencyParameters]):
    """Shell around :class:`rl100_policy.core.latency.JourneyLog`."""

    def __init__(self) -> None:
        """Read the parameters."""
        super().__init__("latency", LatencyParameters)

    def set_up(self) -> None:
        """Subscribe."""
        robot = load_robot(self.parameters.robot_config)
        self._log = JourneyLog()
        self._window = LatencyWindow(round(robot.control_period * 1e9))
        self._version = ""
        self._journeys = self.create_publisher(StageTimes, JOURNEYS_TOPIC, EVENT)
        self._reports = self.create_publisher(LatencyReport, "latency/report", LATCHED)
        self.create_subscription(StageTimes, STAGES_TOPIC, self._on_stages, EVENT)
        self.create_subscription(JointTrajectory, robot.command_topic, self._on_command, COMMAND)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(_REPORT_PERIOD_S, self._report, clock=steady)

    def _on_stages(self, message: StageTimes) -> None:
        self._take(
            self._log.tell(
                stamp_ns(message.header.stamp),
                stage_marks(message),
                version=message.policy_version,
                command_ns=stamp_ns(message.command_stamp),
            )
        )

    def _on_command(self, message: JointTrajectory) -> None:
        self._take(self._log.arrive(stamp_ns(message.header.stamp), time.time_ns()))

    def _take(self, journeys: Sequence[Journey]) -> None:
        for each in journeys:
            self._count(each)

    def _count(self, journey: Journey) -> None:
        if journey.version != self._version:
            if self._version:
                self._tell(self._window.summary(self._version))
            self._version = journey.version
        self._window.add(journey)
        self._journeys.publish(
            stages_message(journey.stamp_ns, journey.marks, version=journey.version)
        )

    def _report(self) -> None:
        summary = self._window.summary(self._version)
        if self._version:
            self._tell(summary)
        figures = {
            f"{each.hop} [ms]": (
                f"p50 {1e3 * each.p50_s:.2f}, p99 {1e3 * each.p99_s:.2f}, "
                f"max {1e3 * each.max_s:.2f}, jitter {1e3 * each.jitter_s:.2f}"
            )
            for each in summary.hops
        }
        late = summary.misses > self.parameters.miss_share * summary.journeys
        status = diagnostic_status(
            "rl100: latency",
            self._version,
            f"{summary.misses} of {summary.journeys} decisions took longer than a control period",
            figures,
            level=DiagnosticStatus.WARN if late else DiagnosticStatus.OK,
        )
        self.diagnose([status])

    def _tell(self, summary: LatencySummary) -> None:
        report = LatencyReport(
            policy_version=summary.version,
            decisions=summary.journeys,
            deadline_misses=summary.misses,
            hops=[each.hop for each in summary.hops],
            counts=[each.count for each in summary.hops],
            p50_s=[each.p50_s for each in summary.hops],
            p99_s=[each.p99_s for each in summary.hops],
            max_s=[each.max_s for each in summary.hops],
            jitter_s=[each.jitter_s for each in summary.hops],
        )
        report.header.stamp = self.get_clock().now().to_msg()
        self._reports.publish(report)


def main(args: Sequence[str] | None = None) -> int:
    """Run the node."""
    return run_node(LatencyNode, args, images=False)


if __name__ == "__main__":
    sys.exit(main())
