# SPDX-License-Identifier: Apache-2.0
"""The latency node between the nodes whose ways it measures."""

import time
from pathlib import Path

import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.node import Node
from trajectory_msgs.msg import JointTrajectory

from rl100_msgs.msg import LatencyReport, StageTimes
from rl100_policy.core.config import load_robot
from rl100_policy.core.latency import Mark
from rl100_policy.core.messages import stage_marks
from rl100_policy.nodes.latency import LatencyNode
from rl100_policy.ros.conversions import header
from rl100_policy.ros.qos import COMMAND, EVENT, LATCHED
from rl100_policy.ros.stages import StageTeller
from rl100_policy.ros.testing import isolated_ros, spinning

pytestmark = pytest.mark.ros

ROBOT_FILE = Path(__file__).parents[2] / "rl100_bringup" / "config" / "robots" / "panda.yaml"
ROBOT = load_robot(ROBOT_FILE)
MS = 10**6


class Others(Node):
    """The nodes on the way, and whoever looks."""

    def __init__(self) -> None:
        super().__init__("others")
        self.stages = StageTeller(self)
        self.commands = self.create_publisher(JointTrajectory, ROBOT.command_topic, COMMAND)
        self.journeys: list[StageTimes] = []
        self.reports: list[LatencyReport] = []
        self.statuses: list[DiagnosticStatus] = []
        self.create_subscription(StageTimes, "latency/journeys", self.journeys.append, EVENT)
        self.create_subscription(LatencyReport, "latency/report", self.reports.append, LATCHED)
        self.create_subscription(
            DiagnosticArray,
            "/diagnostics",
            lambda array: self.statuses.extend(array.status),
            10,
        )

    def decide(self, stamp_ns: int, version: str, took_ms: int) -> int:
        """One decision, from the cloud to the command; returns when it was commanded."""
        now = time.time_ns()
        self.stages.tell(stamp_ns, {Mark.SIGHT_IN: now - 9 * MS, Mark.SIGHT_OUT: now - 5 * MS})
        decided = now + took_ms * MS
        marks = {Mark.POLICY_IN: now, Mark.BEGUN: now, Mark.ENCODED: now, Mark.DECIDED: decided}
        self.stages.tell(stamp_ns, marks, version=version)
        self.commands.publish(JointTrajectory(header=header(stamp_ns + 1)))
        commanded = time.time_ns()
        gate = {Mark.GATE_IN: decided, Mark.COMMANDED: commanded}
        self.stages.tell(stamp_ns, gate, command_ns=stamp_ns + 1)
        return commanded


@pytest.fixture
def rig():
    with isolated_ros(robot_config=ROBOT_FILE):
        others = Others()
        with spinning(LatencyNode(), others) as spin_until:
            assert spin_until(
                lambda: (
                    others.stages._stages.get_subscription_count()
                    and others.commands.get_subscription_count()
                    and others.count_publishers("latency/journeys")
                )
            )
            spin_until(lambda: False, 0.3)
            yield others, spin_until


def test_a_decision_is_a_journey_that_ends_when_its_command_arrives(rig):
    others, spin_until = rig
    commanded = others.decide(100, "v@1", took_ms=3)
    assert spin_until(lambda: bool(others.journeys))
    (journey,) = others.journeys
    assert (journey.policy_version, journey.header.stamp.nanosec) == ("v@1", 100)
    marks = stage_marks(journey)
    assert set(marks) == set(Mark) - {Mark.SENSOR}
    assert commanded - MS < marks[Mark.ARRIVED] <= time.time_ns()


def test_reports_are_of_one_version_with_every_hop(rig):
    others, spin_until = rig
    for at in range(4):
        others.decide(100 + 10 * at, "v@1", took_ms=20 + at)
        spin_until(lambda: False, 0.05)
    others.decide(900, "w@2", took_ms=150)
    assert spin_until(lambda: "w@2" in [each.policy_version for each in others.reports])
    first = [each for each in others.reports if each.policy_version == "v@1"][-1]
    assert (first.decisions, first.deadline_misses) == (4, 0)
    at = first.hops.index("observation to chunk")
    assert first.counts[at] == 4
    assert first.p50_s[at] == pytest.approx(0.0215)
    assert first.max_s[at] == pytest.approx(0.023)
    assert first.jitter_s[at] == pytest.approx(0.001)
    assert first.p50_s[first.hops.index("sight")] == pytest.approx(0.004)
    assert "camera" not in first.hops


def test_late_decisions_are_a_warning(rig):
    others, spin_until = rig

    def levels():
        return [each.level for each in others.statuses if each.name == "rl100: latency"]

    others.decide(100, "v@1", took_ms=20)
    assert spin_until(lambda: DiagnosticStatus.OK in levels())
    others.statuses.clear()
    others.decide(200, "v@1", took_ms=150)
    assert spin_until(lambda: DiagnosticStatus.WARN in levels())
    status = others.statuses[-1]
    assert status.message == "1 of 2 decisions took longer than a control period"
    assert any(each.key == "denoise [ms]" for each in status.values)
