# SPDX-License-Identifier: Apache-2.0
"""Simulated robot node: publishes and subscribes what a real arm with cameras would.

Out: ``/clock``; ``joint_states`` JointState; of every depth or colour camera of the robot
description Image (16UC1 or rgb8) and CameraInfo (SENSOR); ``camera/extrinsics`` TransformStamped
of the first depth camera (LATCHED); ``sim/ground_truth`` SimGroundTruth (EVENT); ``sim/goal``
Marker, the outline of the goal for people (LATCHED); ``latency/stages`` StageTimes (EVENT). In:
the robot's command topic, JointTrajectory, followed straight from point to point at their times
until the next one (COMMAND).
Services: ``sim/reset`` ResetSim, ``sim/run`` SetBool. One callback group, single-threaded: a
control period of physics (a few milliseconds) runs inside a callback.

Two clocks. Real time: a wall timer steps the world every control period along the newest command.
Lockstep: the world steps when the command that carries the stamp of the last observation arrives,
as fast as the graph goes; if none arrives within ``lockstep_timeout`` of wall time the arm holds
for that period, which is counted and warned about. Every reset moves the clock on to the next
multiple of ``EPOCH_S``, so that stamps never repeat and the same sequence of resets gives the same
stamps.

After a reset the world is paused; ``sim/run`` publishes the first observation and lets time pass;
it is refused before the first reset. A pause loses nothing: every observation is published once,
and in lockstep a command for it that came during the pause is carried out when time goes on. When
the task ends the episode (success or time limit) the last observation is published and the world
pauses by itself.

``free_running``, in real time only: time never stops, as on a real robot. The world starts by
itself; a reset lays out the scene and puts the arm home while time goes on; nothing ends but what
the person ends.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from geometry_msgs.msg import TransformStamped
from rclpy.clock import Clock, ClockType
from rosgraph_msgs.msg import Clock as ClockMessage
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_srvs.srv import SetBool
from trajectory_msgs.msg import JointTrajectory
from visualization_msgs.msg import Marker

from rl100_msgs.msg import SimGroundTruth
from rl100_msgs.srv import ResetSim
from rl100_policy.core import messages
from rl100_policy.core.config import CameraConfig, load_robot, load_task
from rl100_policy.core.errors import ConfigError
from rl100_policy.core.latency import Mark
from rl100_policy.core.sight import sight_camera
from rl100_policy.ros.conversions import (
    camera_info_message,
    colour_message,
    depth_message,
    extrinsics_message,
    header,
    joint_state_message,
    outline_marker,
    time_message,
)
from rl100_policy.ros.managed import ManagedNode
from rl100_policy.ros.parameters import parameter
from rl100_policy.ros.process import run_node
from rl100_policy.ros.qos import COMMAND, EVENT, LATCHED, SENSOR
from rl100_policy.ros.scheduling import DRIVER
from rl100_policy.ros.stages import StageTeller
from rl100_sim.episode import SimulatedEpisode
from rl100_sim.trajectory import Trajectory

EPOCH_S = 100
"""Simulated time at which an episode begins is a multiple of this [s]; longer than any episode."""
_WATCH_PERIOD_S = 0.1
"""How often the lockstep time-out is looked at, wall time [s]."""


@dataclass(frozen=True)
class SimParameters:
    """Parameters of the simulated robot."""

    robot_config: str = parameter("", "path of the robot description (YAML)")
    task_config: str = parameter("", "path of the task description (YAML)")
    lockstep: bool = parameter(
        False, "time passes when the command for the last observation arrives"
    )
    free_running: bool = parameter(False, "time never stops, as on a real robot; not in lockstep")
    lockstep_timeout: float = parameter(
        5.0, "longest wait for that command, wall time [s]", low=0.05, high=600.0
    )
    real_time_factor: float = parameter(
        1.0, "simulated seconds per wall second in real time", low=0.01, high=100.0
    )
    camera_rate: float = parameter(
        0.0,
        "images of each camera in a simulated second at most, in real time; 0: one a control "
        "period, as in lockstep, where decisions wait for them",
        low=0.0,
        high=1000.0,
    )


class SimRobotNode(ManagedNode[SimParameters]):
    """Shell around :class:`rl100_sim.episode.SimulatedEpisode`."""

    usual_priority = DRIVER

    def __init__(self) -> None:
        """Read the parameters."""
        super().__init__("sim_robot", SimParameters)

    def set_up(self) -> None:
        """Build the world, advertise, offer the services."""
        self._robot, self._task = (
            load_robot(self.parameters.robot_config),
            load_task(self.parameters.task_config),
        )
        if self._task.time_limit >= EPOCH_S:
            raise ConfigError(
                f"time_limit of task {self._task.name!r} must be below {EPOCH_S} s, "
                f"got {self._task.time_limit}"
            )
        if self.parameters.free_running and self.parameters.lockstep:
            raise ConfigError("free_running is of real time: in lockstep time waits for commands")
        self._period_ns = round(self._robot.control_period * 1e9)
        self._episode = SimulatedEpisode(self._robot, self._task)
        self._now_ns, self._seed, self._missed = 0, 0, 0
        self._has_episode, self._running = False, False
        self._published_ns, self._waiting_since = -1, 0.0
        self._image_ns = -1
        """Time of the newest images."""
        self._trajectory, self._command_ns = Trajectory(np.array(self._robot.home)), -1
        self._begun_ns = 0
        """Commands about a time before are not followed."""
        self._wall = Clock(clock_type=ClockType.STEADY_TIME)
        self._clock_topic = self.create_publisher(ClockMessage, "/clock", 10)
        self._joints = self.create_publisher(JointState, "joint_states", SENSOR)
        self._cameras = [
            (
                camera,
                self.create_publisher(CameraInfo, camera.info_topic, SENSOR),
                self.create_publisher(Image, camera.topic, SENSOR),
            )
            for camera in self._robot.cameras
            if camera.kind != "points"
        ]
        self._stages = StageTeller(self)
        self._seen_with = sight_camera(self._task, self._robot)
        self._truth = self.create_publisher(SimGroundTruth, "sim/ground_truth", EVENT)
        self._extrinsics = self.create_publisher(TransformStamped, "camera/extrinsics", LATCHED)
        for camera in [each for each in self._robot.cameras if each.kind == "depth"][:1]:
            self._extrinsics.publish(extrinsics_message(camera, self._robot.base_frame, 0))
        self._goal = self.create_publisher(Marker, "sim/goal", LATCHED)
        outline = self._episode.task.item.corners(self._episode.task.goal)
        self._goal.publish(outline_marker(outline, self._robot.base_frame))
        self.create_subscription(
            JointTrajectory, self._robot.command_topic, self._on_command, COMMAND
        )
        self.create_service(ResetSim, "sim/reset", self._on_reset)
        self.create_service(SetBool, "sim/run", self._on_run)
        if self.parameters.lockstep:
            self.create_timer(_WATCH_PERIOD_S, self._watch, clock=self._wall)
        else:
            period = self._robot.control_period / self.parameters.real_time_factor
            self.create_timer(period, self._tick, clock=self._wall)
        if self.parameters.free_running:
            self._lay_out(0)

    def begin(self) -> None:
        """Where time never stops, it goes on."""
        self._running |= self.parameters.free_running

    def pause(self) -> None:
        """Time stands still."""
        self._running = False

    # Commands

    def _on_command(self, message: JointTrajectory) -> None:
        if not self._accept(message):
            return
        self._command_ns = messages.stamp_ns(message.header.stamp)
        if self._running and self._is_answered():
            self._step()

    def _is_answered(self) -> bool:
        """Lockstep: whether the command for the present observation has come."""
        return self.parameters.lockstep and self._command_ns == self._now_ns

    def _accept(self, message: JointTrajectory) -> bool:
        """Take over the commanded positions.

        What a real controller would reject is refused with a warning.
        """
        if list(message.joint_names) != list(self._robot.joints) or not message.points:
            self._warn(
                f"expected one or more points for joints {list(self._robot.joints)}, "
                f"got {len(message.points)} for {message.joint_names}"
            )
            return False
        n_joints = len(self._robot.joints)
        for point in message.points:
            if len(point.positions) != n_joints or not np.isfinite(point.positions).all():
                self._warn(f"expected {n_joints} finite positions, got {list(point.positions)}")
                return False
        now_ns = self._present_ns()
        start_ns = messages.stamp_ns(message.header.stamp) or now_ns
        if start_ns < self._begun_ns:
            self._warn(f"expected one of this episode, got one stamped {start_ns} ns")
            return False
        times = [start_ns + messages.stamp_ns(each.time_from_start) for each in message.points]
        places = np.array([each.positions for each in message.points])
        if times[-1] <= now_ns:  # as where time is fast: it is to get there all the same
            times, places = [self._now_ns + self._period_ns], places[-1:]
        try:
            self._trajectory.replace(now_ns, times, places)
        except ValueError as error:
            self._warn(f"expected {error}")
            return False
        return True

    def _present_ns(self) -> int:
        """Simulated time, between two steps, too."""
        if self.parameters.lockstep or not self._running:
            return self._now_ns
        since_s = (self._wall_s() - self._waiting_since) * self.parameters.real_time_factor
        return self._now_ns + min(round(since_s * 1e9), self._period_ns - 1)

    def _warn(self, text: str) -> None:
        self.get_logger().warning(f"command refused: {text}", throttle_duration_sec=2.0)

    # Time

    def _step(self) -> None:
        """One control period of the world, then its observation."""
        self._now_ns += self._period_ns
        self._episode.advance(self._trajectory.at(self._now_ns))
        self._publish()
        if self._is_over() and not self.parameters.free_running:
            self._running = False

    def _is_over(self) -> bool:
        return self._episode.outcome.terminated or self._episode.outcome.truncated

    def _tick(self) -> None:
        if self._running:
            self._step()

    def _watch(self) -> None:
        """Lockstep: do not wait for ever."""
        waited = self._wall_s() - self._waiting_since
        if self._running and waited > self.parameters.lockstep_timeout:
            self._missed += 1
            self.get_logger().warning(
                f"no command for {self._now_ns} ns within {waited:.1f} s; "
                f"the arm holds ({self._missed} so far)"
            )
            self._step()

    def _wall_s(self) -> float:
        return self._wall.now().nanoseconds * 1e-9

    def _resume(self) -> None:
        """Go on where the pause began."""
        if self._published_ns != self._now_ns:
            self._publish()
        elif self._is_answered():
            self._step()
        else:
            self._waiting_since = self._wall_s()

    # Services

    def _on_reset(
        self, request: ResetSim.Request, response: ResetSim.Response
    ) -> ResetSim.Response:
        self._running, self._has_episode = self.parameters.free_running, False
        try:
            self._lay_out(request.seed)
        except ConfigError as error:
            response.success, response.message = False, str(error)
            return response
        self._clock_topic.publish(ClockMessage(clock=time_message(self._now_ns)))
        response.success, response.stamp = True, time_message(self._now_ns)
        response.message = (
            f"episode with seed {request.seed} begins at {self._now_ns // 1_000_000_000} s"
        )
        return response

    def _lay_out(self, seed: int) -> None:
        """Put everything at its start; raises ConfigError if no start pose fits the task."""
        self._episode.reset(np.random.default_rng(seed))
        self._seed, self._has_episode = seed, True
        self._trajectory = Trajectory(np.array(self._robot.home))
        epoch_ns = EPOCH_S * 1_000_000_000
        if not self._running:
            self._now_ns = self._begun_ns = (self._now_ns // epoch_ns + 1) * epoch_ns

    def _on_run(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        if self.parameters.free_running:
            response.success, response.message = request.data, "time never stops (free_running)"
            return response
        if request.data and (not self._has_episode or self._is_over()):
            what = "the episode is over" if self._has_episode else "there is no episode yet"
            response.success, response.message = False, f"{what}: call sim/reset first"
            return response
        resumes = request.data and not self._running
        self._running = request.data
        if resumes:
            self._resume()
        response.success, response.message = True, "running" if self._running else "paused"
        return response

    # Observations

    def _publish(self) -> None:
        """Publish everything a robot would at this time.

        Ground truth comes last, for the person who watches.
        """
        stamp, episode = self._now_ns, self._episode
        self._clock_topic.publish(ClockMessage(clock=time_message(stamp)))
        self._published_ns, self._waiting_since = stamp, self._wall_s()
        takes_images = self._takes_images(stamp)
        if takes_images:
            self._image_ns = stamp
        for camera, info, image in self._cameras if takes_images else ():
            made = self._image(camera, stamp)
            if camera == self._seen_with:
                self._stages.tell(stamp, {Mark.SENSOR: time.time_ns()})
            info.publish(camera_info_message(camera, stamp))
            image.publish(made)
        world = episode.world
        if self._seen_with is None:
            self._stages.tell(stamp, {Mark.SENSOR: time.time_ns()})
        self._joints.publish(
            joint_state_message(
                self._robot.joints, world.joint_positions, world.joint_velocities, stamp
            )
        )
        self._truth.publish(self._ground_truth(stamp))

    def _takes_images(self, stamp: int) -> bool:
        """Whether images are due: the first in each of the intervals between them."""
        rate = self.parameters.camera_rate
        if self.parameters.lockstep or not rate:
            return True
        return stamp * rate // 1e9 > self._image_ns * rate // 1e9

    def _image(self, camera: CameraConfig, stamp: int) -> Image:
        if camera.kind == "color":
            return colour_message(self._episode.colour(camera), stamp, camera.optical_frame)
        return depth_message(self._episode.depth_mm(camera), stamp, camera.optical_frame)

    def _ground_truth(self, stamp: int) -> SimGroundTruth:
        world, outcome = self._episode.world, self._episode.outcome
        truth = SimGroundTruth(
            header=header(stamp, self._robot.base_frame),
            seed=self._seed,
            step=self._episode.periods,
        )
        poses = (
            (truth.object_pose, world.object_pose),
            (truth.goal_pose, self._episode.task.goal),
        )
        for pose, (x, y, yaw) in poses:
            pose.position.x, pose.position.y = float(x), float(y)
            pose.orientation.z, pose.orientation.w = float(np.sin(yaw / 2)), float(np.cos(yaw / 2))
        tool = truth.tool_position
        tool.x, tool.y, tool.z = map(float, world.tool_position)
        truth.reward, truth.success = outcome.reward, outcome.success
        truth.terminated, truth.truncated = outcome.terminated, outcome.truncated
        return truth


def main(args: Sequence[str] | None = None) -> int:
    """Run the node."""
    return run_node(SimRobotNode, args)


if __name__ == "__main__":
    sys.exit(main())
