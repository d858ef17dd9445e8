# SPDX-License-Identifier: Apache-2.0
"""A whole graph in real time with a policy in command, to be measured from outside."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rclpy
import torch
import yaml
from rclpy.client import Client
from rclpy.node import Node
from std_srvs.srv import SetBool

from rl100_bringup.graph import GraphArguments, config_path, describe
from rl100_bringup.processes import RunningGraph
from rl100_msgs.msg import EpisodeState, GateCommand, StageTimes
from rl100_msgs.srv import LoadPolicy, SetCommandSource, StartEpisode, StopEpisode
from rl100_policy.core.config import RobotConfig, TaskConfig, load_robot, load_task
from rl100_policy.core.latency import Journey, Mark
from rl100_policy.core.messages import journey as read_journey
from rl100_policy.core.policy import DiffusionPolicy
from rl100_policy.core.policy_config import ActionSize
from rl100_policy.core.policy_version import write_version
from rl100_policy.core.presets import preset
from rl100_policy.core.sight import observation_size
from rl100_policy.ros.domain import free_domain
from rl100_policy.ros.process import executor_of
from rl100_policy.ros.qos import EVENT, LATCHED

_READY_S, _ANSWER_S, _ASK_AGAIN_S = 60.0, 60.0, 5.0
_ONCE = (StartEpisode, StopEpisode)


class Bench(Node):
    """Loads versions, and keeps the journeys of what drives and what the gate made of it."""

    def __init__(self) -> None:
        """Subscribe."""
        super().__init__("bench")
        self._since_ns = 0
        self.journeys: list[Journey] = []
        self.periods: list[GateCommand] = []
        self.lost = 0
        """Messages that are known to be missing in the bag."""
        self.create_subscription(StageTimes, "latency/journeys", self._on_journey, EVENT)
        self.create_subscription(GateCommand, "gate/command", self._on_period, EVENT)
        self.create_subscription(EpisodeState, "episode/state", self._on_episode, LATCHED)
        self._executor, _ = executor_of()
        self._executor.add_node(self)

    def _on_journey(self, message: StageTimes) -> None:
        journey = read_journey(message)
        if journey.marks[Mark.POLICY_IN] >= self._since_ns:
            self.journeys.append(journey)

    def _on_episode(self, message: EpisodeState) -> None:
        self.lost = max(self.lost, message.lost)

    def _on_period(self, message: GateCommand) -> None:
        self.periods.append(message)

    def call(self, kind: type, name: str, **fields: Any) -> Any:
        """Call a service; raises RuntimeError if it is refused or nobody answers.

        Right after a graph's start an answer may be lost: what does no harm twice is asked again.
        """
        client = self.create_client(kind, name)
        try:
            return self._answer(client, kind, fields)
        finally:
            self.destroy_client(client)

    def _answer(self, client: Client, kind: type, fields: dict[str, Any]) -> Any:
        end = time.monotonic() + _READY_S
        while not client.service_is_ready() and time.monotonic() < end:
            self._executor.spin_once(timeout_sec=0.05)
        request = kind.Request(**fields)  # type: ignore[attr-defined]
        future, asked = client.call_async(request), time.monotonic()
        end = asked + _ANSWER_S
        while not future.done() and time.monotonic() < end:
            self._executor.spin_once(timeout_sec=0.05)
            if time.monotonic() - asked > _ASK_AGAIN_S and kind not in _ONCE:
                future, asked = client.call_async(request), time.monotonic()
        if not future.done() or not future.result().success:
            told = future.result() if future.done() else "no answer"
            raise RuntimeError(f"{client.srv_name}: {told}")
        return future.result()

    def load(self, path: Path, sampler: str = "one_step") -> None:
        """Let a version drive."""
        self.call(LoadPolicy, "policy/load", path=str(path), sampler=sampler)

    def take_command(self) -> None:
        """Put the policy in command, as soon as it is ready; RuntimeError if it never is."""
        end = time.monotonic() + _READY_S
        while True:
            try:
                source = GateCommand.POLICY
                self.call(SetCommandSource, "gate/set_command_source", source=source)
                return
            except RuntimeError:
                if time.monotonic() > end:
                    raise
                self.watch(0.1)

    @contextmanager
    def recording(self, task: str) -> Iterator[None]:
        """An episode is recorded meanwhile."""
        self.call(StartEpisode, "episode/start", task=task, operator_name="bench")
        yield
        self.call(StopEpisode, "episode/stop")

    def forget(self) -> None:
        """Keep journeys and periods from now on."""
        self.journeys, self.periods, self._since_ns = [], [], time.time_ns()

    def watch(self, seconds: float) -> None:
        """Listen for a while."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._executor.spin_once(timeout_sec=min(0.1, left))


def descriptions(folder: Path, points: int, rate: float) -> tuple[Path, Path]:
    """Robot and task of the demo, at another control rate and with other clouds.

    Without points it is the task in which the policy sees proprioception alone.
    """
    robot = yaml.safe_load(config_path("robots", "panda").read_text())
    robot["control_period"] = 1.0 / rate
    name = "push_t" if points else "push_t_state"
    task = yaml.safe_load(config_path("tasks", name).read_text())
    if points:
        task["observation"]["n_points"] = points
    paths = folder / "robot.yaml", folder / "task.yaml"
    for path, tree in zip(paths, (robot, task), strict=True):
        path.write_text(yaml.safe_dump(tree))
    return paths


def untrained(
    path: Path, robot: RobotConfig, task: TaskConfig, size: str, n_chunk: int, *, n_steps: int = 5,
    seed: int = 0, bounds: tuple[list[float], list[float]] | None = None,
) -> Path:  # fmt: skip
    """A version of a preset with random weights: what it decides does not matter.

    With ``bounds``, lowest and highest action, it is at least between these.
    """
    config = preset(
        size, observation_size(task, robot), ActionSize(n_chunk=n_chunk, dim=task.action.dim)
    )
    diffusion = config.diffusion.model_copy(update={"n_steps": n_steps})
    torch.manual_seed(seed)
    policy = DiffusionPolicy(config.model_copy(update={"diffusion": diffusion}))
    if bounds is not None:
        policy.normalizer.action.fit(torch.tensor(bounds))
    write_version(
        path, policy, task=task, robot=robot, parents=(), bags=(), metrics={}, training={}
    )
    return path


@contextmanager
def running(
    points: int,
    rate: float,
    *,
    record: bool = False,
    patience: float = 0.5,
    camera_rate: float = 0.0,
    **of_policy: object,
) -> Iterator[tuple[Bench, Path, RobotConfig, TaskConfig]]:
    """A graph around an arm that never stops, in a ROS domain of its own.

    Args:
        points: Of a cloud; 0: the policy sees proprioception alone.
        rate: Control rate [Hz].
        record: Start the recorder.
        patience: Of the command gate [control periods].
        camera_rate: Of the simulated camera [Hz]; 0: the control rate.
        of_policy: Parameters of the policy node.

    Yields:
        The bench, a folder for versions, robot and task.
    """
    with tempfile.TemporaryDirectory(prefix="rl100_bench_") as place:
        folder = Path(place)
        robot, task = descriptions(folder, points, rate)
        params = folder / "params.yaml"
        of_nodes: dict[str, dict[str, object]] = {
            "sim_robot": {"free_running": True, "camera_rate": camera_rate},
            "command_gate": {"patience": patience},
            "policy": dict(of_policy),
        }
        params.write_text(
            yaml.safe_dump({name: {"ros__parameters": each} for name, each in of_nodes.items()})
        )
        arguments = GraphArguments(
            robot=str(robot), task=str(task), record=record, bags=str(folder / "bags"),
            params_file=str(params),
        )  # fmt: skip
        with (
            free_domain() as domain,
            RunningGraph(describe(arguments), folder / "log", domain=domain) as graph,
        ):
            rclpy.init(domain_id=domain)
            try:
                bench = Bench()
                bench.call(SetBool, "sim/run", data=True)
                yield bench, folder, load_robot(robot), load_task(task)
                graph.check()
                bench.destroy_node()
            finally:
                rclpy.try_shutdown()
