# SPDX-License-Identifier: Apache-2.0
"""Base of all nodes: a life cycle, parameters that are read once, and what went wrong, told."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial, wraps
from typing import Any, ClassVar, Generic, TypeVar

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy._rclpy_pybind11 import RCLError
from rclpy.clock import Clock, ClockType
from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_policy_name_from_kind
from rclpy.service import Service
from rclpy.subscription import Subscription
from rclpy.timer import Timer

from rl100_policy.core.errors import Rl100Error
from rl100_policy.ros.diagnostics import DIAGNOSTICS_TOPIC, diagnostic_array, diagnostic_status
from rl100_policy.ros.parameters import (
    declare,
    parameter,
    read_parameters,
    unknown_parameters,
)

_Parameters = TypeVar("_Parameters")

_REPORT_PERIOD_S = 1.0
_RECENT_S = 10.0
"""A callback that failed is an error in ``/diagnostics`` for this long [s]."""
_ENTITIES = ("timers", "subscriptions", "services", "clients", "publishers")

_AUTOSTART = parameter(
    True,
    "configure and activate by itself when the process starts; false: a life cycle manager, or "
    "`ros2 lifecycle set`, does it",
)


_PRIORITY = (
    "real-time priority (SCHED_FIFO) of the process, where the system allows it and not in "
    "lockstep; 0: an ordinary one"
)


class ManagedNode(LifecycleNode, Generic[_Parameters]):
    """A node with the ROS 2 life cycle.

    The constructor declares and reads the parameters. ``configure`` calls :meth:`set_up`, which
    makes everything else; ``activate`` calls :meth:`begin`, ``deactivate`` :meth:`pause`.
    ``cleanup`` undoes what :meth:`set_up` did: in reverse order what it gave to :meth:`at_end`,
    then its publishers, subscriptions, services and timers. After that the node may be configured
    anew, with its files read again. A :meth:`set_up` that fails half way is undone alike.

    While it is not active, callbacks of timers, services and of topics that are not latched do
    nothing; a service says so. State (latched topics) is always listened to, and whatever is made
    with ``even_inactive``. What the constructor makes is undone alike, but for what is given to
    :meth:`keep`.

    What raises in a transition is logged, with where if it is not an ``Rl100Error``, and leaves
    the node unconfigured (``configure``) or as it was (``activate``, ``deactivate``).
    """

    usual_priority: ClassVar[int] = 0
    """Of the parameter ``priority``: see :mod:`rl100_policy.ros.scheduling`."""

    def __init__(self, name: str, parameters: type[_Parameters]) -> None:
        """Read the parameters.

        Raises:
            ConfigError: If one has the wrong type or is out of range.
        """
        self._is_made = self.is_active = self._is_destroyed = False
        self._undo = ExitStack()
        self._problem: BaseException | None = None
        self._trouble: dict[str, str] = {}
        """What is wrong with connections, by topic."""
        self._late: dict[str, int] = {}
        """Deadlines missed, by topic."""
        self._failures, self._failed_s = 0, -_RECENT_S
        self._kept: set[int] = set()
        super().__init__(name)
        self.parameters: _Parameters = read_parameters(self, parameters)
        self.autostart = bool(declare(self, "autostart", _AUTOSTART))
        priority = parameter(self.usual_priority, _PRIORITY, low=0, high=99)
        self.priority = int(declare(self, "priority", priority))
        if unknown := unknown_parameters(self):
            self._trouble["parameters"] = unknown
            self.get_logger().warning(unknown)
        self._health_out = super().create_publisher(DiagnosticArray, DIAGNOSTICS_TOPIC, 10)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        super().create_timer(_REPORT_PERIOD_S, self._report_health, clock=steady)
        self._kept |= {id(each) for kind in _ENTITIES for each in getattr(self, kind)}
        self._is_made = True

    # What a node is

    def set_up(self) -> None:
        """Make everything; raises ``Rl100Error`` for what people can mend."""
        raise NotImplementedError

    def begin(self) -> None:
        """Act from now on."""

    def pause(self) -> None:
        """Act no more; raises ``Rl100Error`` if that must not be now."""

    def at_end(self, undo: Callable[[], object]) -> None:
        """Have something undone that :meth:`set_up` did: a thread ended, a file closed."""
        self._undo.callback(undo)

    def keep(self, *made: Subscription | Service | Publisher | Timer) -> None:
        """Have something made in the constructor outlive ``cleanup``."""
        self._kept |= {id(each) for each in made}

    # Start and stop

    def start(self) -> None:
        """Configure and activate.

        Raises:
            Rl100Error: Whatever :meth:`set_up` or :meth:`begin` raised.
        """
        for trigger in (self.trigger_configure, self.trigger_activate):
            if trigger() is not TransitionCallbackReturn.SUCCESS:
                raise self._problem or Rl100Error("see the log")

    @property
    def state(self) -> str:
        """Where in its life cycle it is: unconfigured, inactive, active, finalized."""
        return str(self._state_machine.current_state[1])

    def on_configure(self, _: LifecycleState) -> TransitionCallbackReturn:
        """Make everything."""
        done = self._do("configure", self.set_up)
        if done is not TransitionCallbackReturn.SUCCESS:
            problem = self._problem
            self._take_down()
            self._problem = problem
        return done

    def on_activate(self, _: LifecycleState) -> TransitionCallbackReturn:
        """Let callbacks act."""
        done = self._do("activate", self.begin)
        self.is_active = done is TransitionCallbackReturn.SUCCESS
        return done

    def on_deactivate(self, _: LifecycleState) -> TransitionCallbackReturn:
        """Let callbacks act no more."""
        done = self._do("deactivate", self.pause)
        self.is_active = done is not TransitionCallbackReturn.SUCCESS
        return done

    def on_cleanup(self, _: LifecycleState) -> TransitionCallbackReturn:
        """Undo :meth:`on_configure`; what fails of it is logged."""
        self._take_down()
        return _DONE

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """From any state to the end."""
        self.is_active = False
        return self.on_cleanup(state) if state.label != "unconfigured" else _DONE

    def on_error(self, _: LifecycleState) -> TransitionCallbackReturn:
        """After a transition that raised something unexpected: begin anew."""
        self.is_active, problem = False, self._problem
        self._take_down()
        self._problem = problem
        return _DONE

    def destroy_node(self) -> None:
        """Undo everything, whatever state the node is in; a second time nothing happens."""
        if self._is_destroyed:
            return
        self._is_destroyed, self.is_active = True, False
        self._do("clean up", self._undo.close)
        super().destroy_node()
        # rclpy 7.1.6 leaves it, and with it the node in the graph, to the garbage collector
        self._state_machine.destroy_when_not_in_use()

    def _do(self, what: str, how: Callable[[], None]) -> TransitionCallbackReturn:
        self._problem = None
        try:
            how()
        except Rl100Error as error:
            self._problem = error
            self.get_logger().error(f"cannot {what}: {error}")
            return TransitionCallbackReturn.FAILURE
        except Exception as error:  # whatever it is: said, with where
            self._problem = error
            self.get_logger().error(f"cannot {what}\n{traceback.format_exc()}")
            return TransitionCallbackReturn.ERROR
        return _DONE

    def _take_down(self) -> None:
        """Undo what was done and destroy what was made since the constructor."""
        self._do("clean up", self._undo.close)
        for kind in _ENTITIES:
            for each in list(getattr(self, kind)):
                if id(each) not in self._kept:
                    getattr(self, f"destroy_{kind.removesuffix('s')}")(each)

    def _LifecycleNodeMixin__change_state(  # noqa: N802
        self, transition_id: int
    ) -> TransitionCallbackReturn:
        """As of rclpy, whose own (7.1.6) raises for what is not possible now: no answer is sent.

        The name is the one under which it calls it.
        """
        changed = super()._LifecycleNodeMixin__change_state  # type: ignore[misc]
        try:
            return changed(transition_id)
        except RCLError as error:
            self._problem = Rl100Error(f"a node that is {self.state} cannot do that: {error}")
            self.get_logger().warning(str(self._problem))
            return TransitionCallbackReturn.FAILURE

    # What it makes

    def create_timer(self, *args: Any, even_inactive: bool = False, **options: Any) -> Timer:
        """As of rclpy; its callback does nothing while the node is not active."""
        period, callback, *rest = args
        if self._is_made and not even_inactive:
            callback = self._while_active(callback)
        return super().create_timer(period, callback, *rest, **options)

    def create_service(
        self,
        srv_type: Any,
        srv_name: str,
        callback: Any,
        *,
        even_inactive: bool = False,
        **options: Any,
    ) -> Service:
        """As of rclpy; it answers that the node is not active as long as it is not."""
        if self._is_made and not even_inactive:
            refuse = partial(self._refuse_request, srv_name)
            callback = self._while_active(callback, otherwise=refuse)
        return super().create_service(srv_type, srv_name, callback, **options)

    def create_subscription(
        self,
        msg_type: Any,
        topic: str,
        callback: Any,
        qos_profile: QoSProfile | int,
        *,
        even_inactive: bool = False,
        **options: Any,
    ) -> Subscription:
        """As of rclpy; unless it is latched its callback does nothing while not active."""
        qos = qos_profile
        latched = isinstance(qos, QoSProfile) and qos.durability is _TRANSIENT
        is_clock = topic.strip("/") == "clock"  # made by rclpy when use_sim_time is set later
        if self._is_made and not (even_inactive or latched or is_clock):
            callback = self._while_active(callback)
        if self._is_made:
            told = partial(self._note_incompatible, topic, "publisher")
            options.setdefault(
                "event_callbacks", SubscriptionEventCallbacks(incompatible_qos=told)
            )
        made = super().create_subscription(msg_type, topic, callback, qos, **options)
        if is_clock:
            self._kept.add(id(made))
        return made

    def create_publisher(
        self, msg_type: Any, topic: str, qos_profile: QoSProfile | int, **options: Any
    ) -> Publisher:
        """As of rclpy; readers it does not reach, and its deadline, are in the diagnostics."""
        if self._is_made:
            told = partial(self._note_incompatible, topic, "subscription")
            events = PublisherEventCallbacks(incompatible_qos=told)
            if isinstance(qos_profile, QoSProfile) and qos_profile.deadline.nanoseconds > 0:
                events.deadline = partial(self._note_late, topic)
            options.setdefault("event_callbacks", events)
        return super().create_publisher(msg_type, topic, qos_profile, **options)

    def _while_active(self, callback: Any, otherwise: Callable[..., Any] | None = None) -> Any:
        @wraps(callback)
        def checked(*given: Any) -> Any:
            if self.is_active:
                return callback(*given)
            return otherwise(*given) if otherwise is not None else None

        return checked

    def _refuse_request(self, name: str, _: Any, response: Any) -> Any:
        told = f"node {self.get_name()!r} is {self.state}, not active"
        self.get_logger().warning(f"{name}: {told}", throttle_duration_sec=2.0)
        if hasattr(response, "success"):
            response.success = False
        if hasattr(response, "message"):
            response.message = f"{told}; activate it first"
        return response

    # What went wrong

    def _note_incompatible(self, topic: str, other: str, event: Any) -> None:
        policy = qos_policy_name_from_kind(event.last_policy_kind)
        self._trouble[topic] = f"a {other} asks for other QoS, {policy}: it is not connected"
        self.get_logger().warning(f"{topic}: {self._trouble[topic]}")

    def _note_late(self, topic: str, event: Any) -> None:
        self._late[topic] = event.total_count

    def note_failure(self) -> None:
        """Tell that a callback raised something unexpected, which whoever serves it logs."""
        self._failures, self._failed_s = self._failures + 1, time.monotonic()

    def diagnose(self, status: Iterable[DiagnosticStatus]) -> None:
        """Tell more of this node in ``/diagnostics``."""
        self._health_out.publish(diagnostic_array(self, status))

    def _report_health(self) -> None:
        level, message = DiagnosticStatus.OK, self.state
        if time.monotonic() - self._failed_s < _RECENT_S:
            level, message = (
                DiagnosticStatus.ERROR,
                f"{self.state}; a callback failed, see its log",
            )
        elif self._trouble:
            level, message = (
                DiagnosticStatus.WARN,
                f"{self.state}; look at {', '.join(self._trouble)}",
            )
        elif not self.is_active:
            level = DiagnosticStatus.WARN
        told: dict[str, object] = {"state": self.state, "failed callbacks": self._failures}
        told |= self._trouble
        told |= {f"deadlines missed on {topic}": count for topic, count in self._late.items()}
        name = self.get_name()
        status = diagnostic_status(f"rl100: {name}: node", name, message, told, level=level)
        self.diagnose([status])


_DONE = TransitionCallbackReturn.SUCCESS
_TRANSIENT = DurabilityPolicy.TRANSIENT_LOCAL
