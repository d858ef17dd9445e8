# SPDX-License-Identifier: Apache-2.0
"""Faults, how they are brought about and undone, and what the arm is to do."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from fault_graph import PERIOD_S, FaultyGraph, Relay, replace_depth
from std_srvs.srv import Trigger

from rl100_msgs.msg import ActionChunk, GateCommand, GateStatus, OperatorEvent
from rl100_msgs.srv import LoadPolicy, SetCommandSource
from rl100_policy.ros.qos import COMMAND, EVENT


class Expected(Enum):
    """What the arm is to do."""

    HOLDS = "holds"
    """It rests within two control periods."""
    GOES_ON = "goes on"
    """The fault is none to it: it moves on, though a period may be held."""
    EITHER = "holds, or goes on within its limits"
    """Some of what comes is usable."""


Injection = Callable[[FaultyGraph], AbstractContextManager[None]]


@dataclass(frozen=True)
class Fault:
    """One of them."""

    name: str
    inject: Injection
    expected: Expected
    reaction: str
    """Who notices, and what follows, for people."""
    of_chunks: bool = False
    """The policy that drives decides eight actions at a time."""


def _killed(node: str) -> Injection:
    @contextmanager
    def inject(faulty: FaultyGraph) -> Iterator[None]:
        os.kill(faulty.process(node).pid, signal.SIGKILL)
        yield

    return inject


def _stopped(node: str) -> Injection:
    @contextmanager
    def inject(faulty: FaultyGraph) -> Iterator[None]:
        pid = faulty.process(node).pid
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    return inject


def _relayed(topic: str, how: Callable[[Relay], None]) -> Injection:
    @contextmanager
    def inject(faulty: FaultyGraph) -> Iterator[None]:
        relay = faulty.watcher.relays[topic]
        how(relay)
        try:
            yield
        finally:
            relay.pass_on()

    return inject


@contextmanager
def _flooded(faulty: FaultyGraph) -> Iterator[None]:
    """Some thousand chunks and presses a second, all of them useless."""
    node, ends = faulty.watcher, threading.Event()
    chunks = node.create_publisher(ActionChunk, "policy/action_chunk", COMMAND)

    def flood() -> None:
        while not ends.is_set():
            for _ in range(20):
                chunks.publish(ActionChunk(policy_version="flood"))
                node.events.publish(OperatorEvent(kind=200, source="flood"))
            time.sleep(0.005)

    thread = threading.Thread(target=flood, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ends.set()
        thread.join()
        node.destroy_publisher(chunks)


def _garbage(spoil: Callable[[Path], None]) -> Injection:
    @contextmanager
    def inject(faulty: FaultyGraph) -> Iterator[None]:
        good = next(faulty.folder.glob("towards_left_1"))
        bad = faulty.folder / f"bad_{time.monotonic_ns()}"
        bad.mkdir()
        for file in good.iterdir():
            (bad / file.name).write_bytes(file.read_bytes())
        spoil(bad)
        answer = faulty.watcher.call(LoadPolicy, "policy/load", path=str(bad), sampler="one_step")
        if answer is None or answer.success:
            raise RuntimeError(f"a version that is none was not refused: {answer}")
        yield

    return inject


def _flip(bad: Path) -> None:
    """One byte of the weights."""
    weights = max(bad.iterdir(), key=lambda file: file.stat().st_size)
    data = bytearray(weights.read_bytes())
    data[random.randrange(len(data))] ^= 0x40
    weights.write_bytes(bytes(data))


def _truncate(bad: Path) -> None:
    weights = max(bad.iterdir(), key=lambda file: file.stat().st_size)
    os.truncate(weights, weights.stat().st_size // 2)


def _noise(bad: Path) -> None:
    for file in bad.iterdir():
        file.write_bytes(random.randbytes(4096))


@contextmanager
def _estop_by_topic(faulty: FaultyGraph) -> Iterator[None]:
    faulty.watcher.events.publish(OperatorEvent(kind=OperatorEvent.ESTOP, source="fault"))
    yield
    faulty.watcher.call(Trigger, "gate/release")


@contextmanager
def _estop_in_a_flood(faulty: FaultyGraph) -> Iterator[None]:
    """The press is followed at once by a thousand others, before anybody has looked."""
    node = faulty.watcher
    others = node.create_publisher(OperatorEvent, "operator/event", replace_depth(EVENT, 1000))
    try:
        end = time.monotonic() + 5.0
        while others.get_subscription_count() < node.events.get_subscription_count():
            if time.monotonic() > end:
                raise RuntimeError("nobody hears a second source of presses")
            time.sleep(0.01)
        node.events.publish(OperatorEvent(kind=OperatorEvent.ESTOP, source="fault"))
        for _ in range(1000):
            others.publish(OperatorEvent(kind=200, source="flood"))
        yield
    finally:
        node.destroy_publisher(others)
    node.call(Trigger, "gate/release")


@contextmanager
def _estop_by_service(faulty: FaultyGraph) -> Iterator[None]:
    faulty.watcher.call(Trigger, "gate/estop")
    yield
    faulty.watcher.call(Trigger, "gate/release")


@contextmanager
def _both_dead(faulty: FaultyGraph) -> Iterator[None]:
    """The emergency stop is pressed, then the gate is killed: the stop must outlive it."""
    faulty.watcher.call(Trigger, "gate/estop")
    os.kill(faulty.process("command_gate").pid, signal.SIGKILL)
    yield
    faulty.watcher.status = GateStatus()
    end = time.monotonic() + 30.0
    while not faulty.watcher.status.header.stamp.sec and time.monotonic() < end:
        faulty.graph.mend()
        time.sleep(0.05)
    asked = (
        faulty.watcher.call(SetCommandSource, "gate/set_command_source", source=GateCommand.TELEOP)
        for _ in range(3)  # a gate that has just begun may not be heard
    )
    person = next(filter(None, asked), None)
    if not faulty.watcher.status.estop or person is None or person.success:
        raise RuntimeError(f"the emergency stop did not outlive the gate: {faulty.watcher.status}")
    faulty.watcher.call(Trigger, "gate/release")


_LATE_S = 5.0 * PERIOD_S

_ANY, _ON, _HOLD = Expected.EITHER, Expected.GOES_ON, Expected.HOLDS


def _of_a_topic(
    topic: str,
    name: str,
    expected: tuple[Expected, ...],
    reactions: tuple[str, ...],
    *,
    of_chunks: bool = False,
) -> list[Fault]:
    """Silence, freeze, delay, duplicates, order and bytes of one topic."""
    what: list[tuple[str, Callable[[Relay], None]]] = [
        ("is silent", Relay.be_silent),
        ("is frozen: one message again and again", Relay.freeze),
        (f"is {_LATE_S:.1f} s late", lambda relay: relay.delay(_LATE_S)),
        ("comes twice", Relay.duplicate),
        ("comes in pairs, the later one first", Relay.reorder),
        ("has a tenth of its bytes changed", Relay.corrupt),
    ]
    return [
        Fault(f"{name} {how}", _relayed(topic, do), each, reaction, of_chunks)
        for (how, do), each, reaction in zip(what, expected, reactions, strict=True)
    ]


_GATE_WAITS = "the gate waits half a period for the decision, then brakes: HELD_STALE"
_NO_LIFE = "what was planned is not followed without a sign of life: HELD_STALE"
_NO_SIGHT = "what was planned is not followed where nothing new is seen: HELD_STALE"
_NO_STATE = "nothing is answered without a new joint state; the last command ends at rest"
_OLDER = "what is not newer than the last is dropped"
_EVERY_SECOND = "the older one of each pair is dropped; the others are acted on"

FAULTS: list[Fault] = [
    Fault("emergency stop by topic", _estop_by_topic, _HOLD, "latched until released: HELD_ESTOP"),
    Fault(
        "emergency stop by topic, a thousand other presses at once behind it", _estop_in_a_flood,
        _HOLD, "no press displaces another",
    ),
    Fault("emergency stop by service", _estop_by_service, _HOLD, "the same"),
    Fault(
        "emergency stop, then kill -9 of command_gate", _both_dead, _HOLD,
        "the stop outlives the gate: the new one comes up latched",
    ),
    Fault("kill -9 of policy", _killed("policy"), _HOLD, _GATE_WAITS),
    Fault("kill -9 of cloud", _killed("cloud"), _HOLD, _GATE_WAITS),
    Fault(
        "kill -9 of command_gate", _killed("command_gate"), _HOLD,
        "the controller follows the last command to rest; the new gate has nobody in command",
    ),
    Fault(
        "kill -9 of sim_robot (arm, camera, clock)", _killed("sim_robot"), _HOLD,
        "no joint states: nothing is commanded",
    ),
    Fault(
        "kill -9 of recorder", _killed("recorder"), _ON,
        "an episode that runs ends; the arm does not wait for it",
    ),
    Fault("kill -9 of latency", _killed("latency"), _ON, "measures only"),
    Fault("SIGSTOP of policy", _stopped("policy"), _HOLD, _GATE_WAITS),
    *(
        Fault(f"{name}, within a chunk of 8", inject, _HOLD, reaction, of_chunks=True)
        for name, inject, reaction in (
            ("kill -9 of policy", _killed("policy"), _NO_LIFE),
            ("SIGSTOP of policy", _stopped("policy"), _NO_LIFE),
            ("kill -9 of cloud", _killed("cloud"), _NO_SIGHT),
        )
    ),
    Fault("SIGSTOP of cloud", _stopped("cloud"), _HOLD, _GATE_WAITS),
    Fault(
        "SIGSTOP of command_gate", _stopped("command_gate"), _HOLD,
        "the controller follows the last command to rest",
    ),
    Fault("SIGSTOP of recorder", _stopped("recorder"), _ON, "nobody waits for it"),
    *_of_a_topic(
        "joint_states", "joint_states", (_HOLD, _HOLD, _HOLD, _ON, _ANY, _HOLD),
        (_NO_STATE, _OLDER, "older than joint_state_timeout: not answered", _OLDER, _EVERY_SECOND,
         "not decodable, other names, not finite, a jump: not answered"),
    ),
    Fault(
        "joint_states is wrong by 1.2 rad", _relayed("joint_states", lambda relay: relay.lie(1.2)),
        _HOLD, "a jump is not answered; an arm that is elsewhere holds: HELD_STATE",
    ),
    *_of_a_topic(
        "camera/depth/image_rect_raw", "depth image", (_HOLD, _HOLD, _HOLD, _ON, _ANY, _ANY),
        (_GATE_WAITS, _OLDER, _GATE_WAITS, _OLDER, _EVERY_SECOND,
         "changed pixels are noise in the cloud; a changed head is refused"),
    ),
    *_of_a_topic(
        "camera/depth/camera_info", "camera_info", (_ON, _ON, _ON, _ON, _ON, _ANY),
        ("the camera is known already", "the same", "the same", "the same", "the same",
         "refused if it cannot be; else clouds are wrong and the gate bounds what comes of it"),
    ),
    *_of_a_topic(
        "policy/cloud", "cloud", (_HOLD, _HOLD, _HOLD, _ON, _ANY, _ANY),
        (_GATE_WAITS, _OLDER, _GATE_WAITS, _OLDER, _EVERY_SECOND,
         "refused, or the policy decides about noise and the gate bounds it"),
    ),
    *_of_a_topic(
        "policy/action_chunk", "action chunk", (_HOLD, _HOLD, _HOLD, _ON, _ANY, _ANY),
        (_GATE_WAITS, _OLDER, _GATE_WAITS, _OLDER,
         _EVERY_SECOND,
         "refused, or its actions are clipped"),
    ),
    *_of_a_topic(
        "policy/alive", "within a chunk of 8, the sign of life",
        (_ANY, _ANY, _ANY, _ON, _ANY, _ANY),
        (f"{_NO_LIFE}; only the first action of each decision is", _NO_SIGHT, _NO_SIGHT,
         "the same again", "the newest counts", "refused, or of another time"),
        of_chunks=True,
    ),
    *_of_a_topic(
        "gate/status", "gate status", (_ON, _ON, _ON, _ON, _ON, _ANY),
        ("the policy is in command as it was", "the same", "the same", "the same", "the same",
         "refused, or the policy thinks that it is not in command, and decides nothing"),
    ),
    *_of_a_topic(
        "arm_controller/joint_trajectory", "command", (_HOLD, _HOLD, _ANY, _ON, _ANY, _ANY),
        ("the controller follows the last one to rest", "the same",
         "the arm rests, then follows late; if it lags, HELD_STATE",
         "the same again", "the arm is half a period late", "refused by the simulated controller"),
    ),
    Fault(
        "clock jumps 10 s on", _relayed("/clock", lambda relay: relay.shift_clock(10.0)), _HOLD,
        "joint states are older than joint_state_timeout",
    ),
    Fault(
        "clock jumps 10 s back", _relayed("/clock", lambda relay: relay.shift_clock(-10.0)), _HOLD,
        "joint states are of the future",
    ),
    Fault(
        "clock stands still", _relayed("/clock", Relay.be_silent), _HOLD,
        "joint states are of the future once it is 1.2 periods behind",
    ),
    Fault(
        "8000 useless chunks and presses a second", _flooded, _ANY,
        "refused and counted; what is in time is answered",
    ),
    Fault("swap: a bit of the weights is flipped", _garbage(_flip), _ON, "refused by its hash"),
    Fault("swap: half a version", _garbage(_truncate), _ON, "refused by its hash"),
    Fault("swap: noise in every file", _garbage(_noise), _ON, "refused: no manifest"),
]  # fmt: skip
