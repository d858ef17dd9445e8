# SPDX-License-Identifier: Apache-2.0
"""The life cycle that all nodes have."""

from dataclasses import dataclass

import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.node import Node
from rclpy.qos import QoSProfile
from std_msgs.msg import Int32, String
from std_srvs.srv import Trigger

from rl100_policy.core.errors import ConfigError
from rl100_policy.ros.managed import ManagedNode
from rl100_policy.ros.parameters import parameter
from rl100_policy.ros.qos import EVENT, LATCHED, SENSOR_LATEST
from rl100_policy.ros.testing import isolated_ros, spinning

pytestmark = pytest.mark.ros

BY_HAND = {"autostart": False}


@dataclass(frozen=True)
class EchoParameters:
    """Parameters of the node under test."""

    fails: str = parameter("", "at what, and with which kind of error")
    factor: int = parameter(2, "of what is heard", low=1, high=9)


class Echo(ManagedNode[EchoParameters]):
    """Answers every number with its multiple."""

    def __init__(self) -> None:
        super().__init__("echo", EchoParameters)
        self.torn_down = 0

    def set_up(self) -> None:
        self.answers = self.create_publisher(Int32, "answer", EVENT)
        self.create_subscription(Int32, "number", self._on_number, EVENT)
        self.create_subscription(String, "state", self._on_state, LATCHED)
        self.create_subscription(String, "stop", self._on_state, EVENT, even_inactive=True)
        self.create_service(Trigger, "ask", self._on_ask)
        self.create_timer(0.01, self._tick)
        self.ticks, self.states = 0, []
        self.at_end(self._count)
        self._may("set_up")

    def begin(self) -> None:
        self._may("begin")

    def pause(self) -> None:
        self._may("pause")

    def _count(self) -> None:
        self.torn_down += 1

    def _may(self, what: str) -> None:
        if self.parameters.fails == f"{what} ours":
            raise ConfigError(f"no {what} today")
        if self.parameters.fails == f"{what} other":
            raise KeyError(what)

    def _on_number(self, number: Int32) -> None:
        self.answers.publish(Int32(data=self.parameters.factor * number.data))

    def _on_state(self, state: String) -> None:
        self.states.append(state.data)

    def _on_ask(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success, response.message = True, "here"
        return response

    def _tick(self) -> None:
        self.ticks += 1


class Manager(Node):
    """A life cycle manager, and somebody who speaks with the node."""

    def __init__(self) -> None:
        super().__init__("manager")
        self.change = self.create_client(ChangeState, "echo/change_state")
        self.look = self.create_client(GetState, "echo/get_state")
        self.ask = self.create_client(Trigger, "ask")
        self.numbers = self.create_publisher(Int32, "number", EVENT)
        self.stops = self.create_publisher(String, "stop", EVENT)
        self.state = self.create_publisher(String, "state", LATCHED)
        self.answers: list[int] = []
        self.health: list[DiagnosticStatus] = []
        self.create_subscription(Int32, "answer", lambda m: self.answers.append(m.data), EVENT)
        self.create_subscription(
            DiagnosticArray, "/diagnostics", lambda m: self.health.extend(m.status), 10
        )


@pytest.fixture
def by_hand():
    with isolated_ros(**BY_HAND):
        echo, manager = Echo(), Manager()
        with spinning(echo, manager, start=False) as spin_until:
            yield echo, manager, spin_until


def call(rig, client, request):
    spin_until = rig[2]
    assert spin_until(client.service_is_ready)
    future = client.call_async(request)
    assert spin_until(future.done)
    return future.result()


def change(rig, transition):
    request = ChangeState.Request(transition=Transition(id=transition))
    return call(rig, rig[1].change, request).success


def state(rig):
    return call(rig, rig[1].look, GetState.Request()).current_state.label


def test_a_manager_leads_it_through_its_life_and_it_acts_while_it_is_active_only(by_hand):
    echo, manager, spin_until = by_hand
    assert state(by_hand) == "unconfigured"
    assert not manager.count_subscribers("number")
    for _ in range(3):
        assert change(by_hand, Transition.TRANSITION_CONFIGURE)
        assert state(by_hand) == "inactive"
        assert not change(by_hand, Transition.TRANSITION_CONFIGURE), "answered, not possible"
        assert spin_until(lambda: manager.numbers.get_subscription_count() == 1)
        manager.numbers.publish(Int32(data=1))
        refused = call(by_hand, manager.ask, Trigger.Request())
        assert not refused.success
        assert refused.message == "node 'echo' is inactive, not active; activate it first"
        manager.state.publish(String(data="told while inactive"))
        assert spin_until(lambda: manager.stops.get_subscription_count() == 1)
        manager.stops.publish(String(data="stop"))
        assert spin_until(lambda: len(echo.states) >= 2)
        assert not spin_until(lambda: bool(echo.ticks or manager.answers), timeout_s=0.2)
        assert change(by_hand, Transition.TRANSITION_ACTIVATE)
        manager.numbers.publish(Int32(data=21))
        assert spin_until(lambda: manager.answers == [42])
        assert spin_until(lambda: echo.ticks > 0)
        assert call(by_hand, manager.ask, Trigger.Request()).success
        assert change(by_hand, Transition.TRANSITION_DEACTIVATE)
        manager.numbers.publish(Int32(data=5))
        assert not spin_until(lambda: len(manager.answers) > 1, timeout_s=0.2)
        torn_down = echo.torn_down
        assert change(by_hand, Transition.TRANSITION_CLEANUP)
        assert echo.torn_down == torn_down + 1
        assert spin_until(lambda: not manager.numbers.get_subscription_count())
        assert not manager.ask.service_is_ready()
        manager.answers.clear()
    assert change(by_hand, Transition.TRANSITION_UNCONFIGURED_SHUTDOWN)
    assert state(by_hand) == "finalized"


@pytest.mark.parametrize(
    ("fails", "done", "left"),
    [
        ("set_up ours", [], "unconfigured"),
        ("set_up other", [], "unconfigured"),
        ("begin ours", [Transition.TRANSITION_CONFIGURE], "inactive"),
        ("begin other", [Transition.TRANSITION_CONFIGURE], "unconfigured"),
        (
            "pause ours",
            [Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE],
            "active",
        ),
    ],
)
def test_what_raises_in_a_transition_is_said_with_where_and_the_node_stays_usable(
    fails, done, left, capfd
):
    order = [
        Transition.TRANSITION_CONFIGURE,
        Transition.TRANSITION_ACTIVATE,
        Transition.TRANSITION_DEACTIVATE,
    ]
    with isolated_ros(**BY_HAND, fails=fails):
        echo, manager = Echo(), Manager()
        with spinning(echo, manager, start=False) as spin_until:
            rig = echo, manager, spin_until
            for each in done:
                assert change(rig, each)
            assert not change(rig, order[len(done)])
            assert state(rig) == left
            assert echo.is_active == (left == "active")
            assert echo.torn_down == (left == "unconfigured"), "what was done is undone"
    said = capfd.readouterr().err
    assert ("Traceback" in said and "KeyError" in said) == ("other" in fails)
    assert "today" in said or "other" in fails


def test_by_itself_it_starts_active_or_raises_what_is_wrong():
    with isolated_ros():
        echo = Echo()
        assert echo.autostart
        with spinning(echo):
            assert echo.is_active
    with isolated_ros(fails="set_up ours"):
        echo = Echo()
        with pytest.raises(ConfigError, match="no set_up today"):
            echo.start()
        assert echo.torn_down == 1
        echo.destroy_node()
        assert echo.torn_down == 1


def test_a_node_may_be_destroyed_twice():
    """Regression: the second time the process was gone."""
    with isolated_ros():
        echo = Echo()
        echo.start()
        for _ in range(2):
            echo.destroy_node()
        assert echo.torn_down == 1


def test_a_bad_parameter_is_refused_before_anything_is_made():
    with isolated_ros(factor=12), pytest.raises(ConfigError, match=r"'factor' .* in \[1, 9\]"):
        Echo()


def test_health_tells_state_failed_callbacks_and_who_is_not_reached(by_hand):
    echo, manager, spin_until = by_hand

    def health():
        told = [each for each in manager.health if each.name == "rl100: echo: node"]
        return told[-1] if told else DiagnosticStatus()

    assert spin_until(lambda: health().message == "unconfigured")
    assert health().level == DiagnosticStatus.WARN
    echo.start()
    assert spin_until(lambda: health().level == DiagnosticStatus.OK)
    assert health().message == "active"
    unreliable = manager.create_publisher(Int32, "number", SENSOR_LATEST)
    assert unreliable is not None
    assert spin_until(lambda: "look at number" in health().message)
    assert any(each.key == "number" and "RELIABILITY" in each.value for each in health().values)
    manager.health.clear()
    echo.note_failure()
    assert spin_until(lambda: health().level == DiagnosticStatus.ERROR)
    assert any(each.key == "failed callbacks" and each.value == "1" for each in health().values)


def test_a_deadline_that_is_not_kept_is_counted():
    from rclpy.duration import Duration

    with isolated_ros():
        echo, manager = Echo(), Manager()
        with spinning(echo, manager) as spin_until:
            profile = QoSProfile(depth=1, deadline=Duration(seconds=0.05))
            late = echo.create_publisher(Int32, "every_50_ms", profile)
            late.publish(Int32())
            assert spin_until(
                lambda: any(
                    each.key == "deadlines missed on every_50_ms" and int(each.value) > 2
                    for status in manager.health
                    for each in status.values
                )
            )


def test_a_parameter_that_the_node_does_not_have_is_told(capfd):
    """Regression: a misspelt limit was left at its default without a word."""
    with isolated_ros(fcator=3), spinning(Echo(), start=False):
        pass
    told = capfd.readouterr().err
    assert "no parameter 'fcator' of node 'echo': misspelt? It has autostart, factor" in told
