# SPDX-License-Identifier: Apache-2.0
"""The scripted operator among controls that lose or delay their answers."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from rclpy.node import Node
from rclpy.task import Future
from std_srvs.srv import SetBool

from rl100_msgs.msg import GateStatus, HumanFeedback, SimGroundTruth
from rl100_msgs.srv import LoadPolicy, ResetSim, SetCommandSource, StartEpisode, StopEpisode
from rl100_policy.core.gate_result import CommandSource
from rl100_policy.ros.late_answers import create_late_service
from rl100_policy.ros.qos import EVENT, LATCHED
from rl100_policy.ros.testing import isolated_ros, spinning
from rl100_sim.nodes import scripted_operator
from rl100_sim.nodes.scripted_operator import OperatorError, ScriptedOperatorNode

pytestmark = pytest.mark.ros

CONFIG = Path(__file__).parents[2] / "rl100_bringup" / "config"
PATHS = {
    "robot_config": CONFIG / "robots" / "panda.yaml",
    "task_config": CONFIG / "tasks" / "push_t.yaml",
}
CONTROLS = {
    "sim/reset": ResetSim,
    "sim/run": SetBool,
    "gate/set_command_source": SetCommandSource,
    "policy/load": LoadPolicy,
    "episode/start": StartEpisode,
    "episode/stop": StopEpisode,
}


class Controls(Node):
    """Every control of the graph.

    A request may get no answer, or a late one; the world runs through an episode of three periods
    as soon as it is told to run.
    """

    def __init__(self, *, mute: frozenset[str] = frozenset(), delay_s: float = 0.0) -> None:
        """Answer all but the first request to each of ``mute``, ``delay_s`` later."""
        super().__init__("controls")
        self.asked: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self._mute, self._delay_s = mute, delay_s
        self._episode_is_over = False
        self.started_at: list[int] = []
        self.judged: list[HumanFeedback] = []
        self.presses_estop = False
        self._gate = self.create_publisher(GateStatus, "gate/status", LATCHED)
        self.create_subscription(HumanFeedback, "feedback", self.judged.append, EVENT)
        self._truth = self.create_publisher(SimGroundTruth, "sim/ground_truth", EVENT)
        for name, kind in CONTROLS.items():
            create_late_service(self, kind, name, self._handler(name))

    def _handler(self, name: str) -> Callable:
        def handle(request, response):
            self.asked[name] += 1
            response.success = self._carry_out(name, request)
            if name == "sim/reset":
                response.stamp.sec = 100 * self.asked[name]
            if name in self._mute and self.asked[name] == 1:
                return Future()  # for ever
            if not self._delay_s:
                self.answered[name] += 1
                return response
            answer = Future()

            def release() -> None:
                timer.cancel()
                self.answered[name] += 1
                answer.set_result(response)

            timer = self.create_timer(self._delay_s, release)
            return answer

        return handle

    def _carry_out(self, name: str, request) -> bool:
        if name == "sim/reset":
            self._episode_is_over = False
        elif name == "episode/start":
            self.started_at.append(request.start_stamp.sec)
        elif name == "sim/run" and request.data:
            if self._episode_is_over:
                return False
            self._episode_is_over = True
            if self.presses_estop and self.asked["sim/reset"] == 2:
                self._gate.publish(GateStatus(estop=True))
                return True
            for step in range(3):
                self._truth.publish(SimGroundTruth(step=step, success=True, terminated=step == 2))
        return True


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(scripted_operator, "_ASK_AGAIN_S", 0.3)
    monkeypatch.setattr(scripted_operator, "_SERVICE_TIMEOUT_S", 10.0)


def let_work(controls: dict, *, world: Callable = Controls, **parameters) -> Controls:
    """Run the operator through its episodes; raises what it raises."""
    with isolated_ros(**PATHS, episodes=2, **parameters):
        world, operator = world(**controls), ScriptedOperatorNode()
        with (
            spinning(world, operator) as spin_until,
            ThreadPoolExecutor(1) as pool,
        ):
            assert spin_until(lambda: operator.count_publishers("sim/ground_truth") == 1)
            working = pool.submit(operator.run)
            assert spin_until(working.done, timeout_s=40.0)
            working.result()
    return world


@pytest.mark.parametrize("name", ["sim/reset", "sim/run", "gate/set_command_source"])
def test_a_request_whose_answer_is_lost_is_made_again(name):
    world = let_work({"mute": frozenset({name})}, record=False)
    assert world.asked[name] == world.answered[name] + 1


def test_a_policy_is_loaded_although_the_first_answer_is_lost():
    world = let_work(
        {"mute": frozenset({"policy/load"})}, record=False, mode="supervise", policy="/a/version"
    )
    assert world.asked["policy/load"] == 2


@pytest.mark.parametrize("name", ["episode/start", "episode/stop"])
def test_an_episode_is_started_and_stopped_once(name, monkeypatch):
    monkeypatch.setattr(scripted_operator, "_SERVICE_TIMEOUT_S", 1.0)
    monkeypatch.setattr(scripted_operator, "_PATIENCE_S", 0.0)
    with pytest.raises(OperatorError, match=f"{name} did not answer"):
        let_work({"mute": frozenset({name})}, record=True)


def test_an_emergency_stop_closes_the_episode_without_a_judgement():
    """Regression: it became a failure like any other, or was recorded for ever."""
    worlds = []

    def stopping(**controls):
        worlds.append(Controls(**controls))
        worlds[0].presses_estop = True
        return worlds[0]

    with pytest.raises(OperatorError, match="emergency stop was pressed in the episode of seed 0"):
        let_work({}, world=stopping, record=True)
    (world,) = worlds
    assert (world.asked["episode/start"], world.asked["episode/stop"]) == (1, 1)
    assert len(world.judged) <= 1, "the rehearsal's, at most"


def test_a_control_that_refuses_in_an_episode_leaves_none_that_is_recorded():
    worlds = []

    def refusing(**controls):
        worlds.append(Controls(**controls))
        carry_out = worlds[0]._carry_out

        def refuse(name, request):
            begins = name == "sim/run" and request.data and worlds[0].asked["sim/reset"] == 2
            return not begins and carry_out(name, request)

        worlds[0]._carry_out = refuse
        return worlds[0]

    with pytest.raises(OperatorError, match="sim/run refused"):
        let_work({}, world=refusing, record=True)
    assert worlds[0].asked["episode/stop"] == 1


def test_a_policy_that_is_ready_only_while_the_world_goes_on_is_put_in_command():
    """In real time it sees nothing before; the operator tries again, in a world that goes on."""
    worlds = []

    def refusing(**controls):
        worlds.append(Controls(**controls))
        carry_out = worlds[0]._carry_out

        def refuse(name, request):
            if name == "gate/set_command_source" and request.source == CommandSource.POLICY:
                return worlds[0].asked["sim/run"] > 1 and carry_out(name, request)
            return carry_out(name, request)

        worlds[0]._carry_out = refuse
        return worlds[0]

    world = let_work({}, world=refusing, record=False, mode="supervise")
    assert world.asked["gate/set_command_source"] > 4


def test_the_command_is_handed_back_once_however_long_the_gate_takes_to_answer():
    """Regression: asked in every period meanwhile, the gate forgot what the policy had decided."""
    asked = []

    class Slow(Controls):
        def _carry_out(self, name: str, request) -> bool:
            if name == "gate/set_command_source":
                asked.append(CommandSource(request.source))
            elif name == "sim/run" and request.data:
                self._passes = self.create_timer(0.05, self._pass)
                self._step = 0
                return True
            elif name == "sim/run":
                self._passes.cancel()
            return super()._carry_out(name, request)

        def _pass(self) -> None:
            self._step += 1
            is_over = self._step == 60
            self._truth.publish(SimGroundTruth(step=self._step, success=True, terminated=is_over))

    let_work(
        {"delay_s": 0.2},
        world=Slow,
        record=False,
        mode="supervise",
        takeover_after=10,
        takeover_length=10,
    )
    taken = [place for place, each in enumerate(asked) if each is CommandSource.TELEOP]
    for place in taken[-2:]:  # without the rehearsal
        assert asked[place + 1 : place + 3] == [CommandSource.POLICY, CommandSource.HOLD], asked


def test_an_episode_begins_with_the_scene():
    """The recorder's own clock may not have heard of the reset yet."""
    assert let_work({}, record=True).started_at == [200, 300]


def test_a_slow_control_leaves_no_request_behind():
    """One left behind would be carried out in the middle of what comes next."""
    world = let_work({"delay_s": 0.7}, record=False)
    assert world.asked == world.answered
    assert world.asked["sim/reset"] > 3  # a rehearsal and two episodes, some asked twice


def test_without_a_graph_the_operator_says_what_it_waits_for_and_gives_up(monkeypatch, capfd):
    monkeypatch.setattr(scripted_operator, "_SAY_AFTER_S", 0.2)
    monkeypatch.setattr(scripted_operator, "_SERVICE_TIMEOUT_S", 0.5)
    with isolated_ros(**PATHS, episodes=1):
        operator = ScriptedOperatorNode()
        with pytest.raises(OperatorError, match="sim/reset is not there"):
            operator.run()
        operator.destroy_node()
    assert "waiting for service sim/reset: does the graph run" in capfd.readouterr().err
