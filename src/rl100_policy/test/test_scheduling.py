# SPDX-License-Identifier: Apache-2.0
"""A node's process has the priority that its parameters say, where the system allows that."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from rl100_policy.ros import scheduling
from rl100_policy.ros.domain import free_domain

ALLOWED = not scheduling.why_not(1)

IMPORTS = "import os, queue, sys, threading"
NODE = """
from dataclasses import dataclass
from rl100_policy.ros.managed import ManagedNode
from rl100_policy.ros.parameters import parameter
from rl100_policy.ros.process import run_node

@dataclass(frozen=True)
class Parameters:
    lockstep: bool = parameter(False, "time waits")

class Urgent(ManagedNode[Parameters]):
    usual_priority = 3

    def __init__(self):
        super().__init__("urgent", Parameters)

    def set_up(self):
        threads = begun()
        found = {(os.sched_getscheduler(each), os.sched_getparam(each).sched_priority)
                 for each in threads}
        print(sorted(found), flush=True)

sys.exit(run_node(Urgent, sys.argv[1:]))
"""
EVERY_THREAD = """
def begun():
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    threads = [int(each) for each in os.listdir("/proc/self/task")]
    assert len(threads) > 3
    return threads
"""
STAGING = """
from rl100_policy.core.staging import Stager, Wanted
from rl100_policy.ros.scheduling import go_as_usual

def begun():
    found, ends = queue.SimpleQueue(), threading.Event()

    def make(wanted):
        found.put(threading.get_native_id())
        ends.wait()

    Stager(make, go_as_usual).begin(Wanted("a", "one_step"), None)
    return [found.get()]
"""

BEGINS = """
import os, subprocess, sys
from rl100_policy.ros.scheduling import go_first

print(repr(go_first(1, alone=True)), os.sched_getparam(0).sched_priority, flush=True)
asks = "import os; print(os.sched_getscheduler(0))"
subprocess.run([sys.executable, "-c", asks], check=True)
"""


def told_by_a_node(*arguments: str, begun: str = EVERY_THREAD, **variables: str) -> str:
    kept = {name: value for name, value in os.environ.items() if name != scheduling.ORDINARY}
    with free_domain() as domain:
        process = subprocess.Popen(
            [sys.executable, "-c", IMPORTS + begun + NODE, "--ros-args", *arguments],
            env=kept | variables | {"ROS_DOMAIN_ID": str(domain)},
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            return process.stdout.readline().strip()
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=30.0)


@pytest.mark.ros
@pytest.mark.skipif(not ALLOWED, reason="the system gives this user no real-time priority")
@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ([], (os.SCHED_FIFO, 3)),
        (["-p", "priority:=2"], (os.SCHED_FIFO, 2)),
        (["-p", "priority:=0"], (os.SCHED_OTHER, 0)),
        (["-p", "lockstep:=true"], (os.SCHED_OTHER, 0)),
    ],
    ids=["its usual", "another", "none", "lockstep"],
)
def test_every_thread_of_a_node_has_its_priority(arguments, found):
    assert told_by_a_node(*arguments) == f"[{found}]"


@pytest.mark.ros
def test_none_has_one_where_the_environment_says_so():
    assert told_by_a_node(RL100_ORDINARY="1") == f"[{(os.SCHED_OTHER, 0)}]"


@pytest.mark.ros
@pytest.mark.skipif(not ALLOWED, reason="the system gives this user no real-time priority")
def test_what_makes_a_version_ready_has_none_of_it():
    """Regression: it kept the interpreter, and a core, from the thread that decides."""
    assert told_by_a_node(begun=STAGING) == f"[{(os.SCHED_OTHER, 0)}]"


@pytest.mark.skipif(not ALLOWED, reason="the system gives this user no real-time priority")
@pytest.mark.parametrize("flag", [0, os.SCHED_RESET_ON_FORK], ids=["", "reset on fork"])
def test_a_thread_that_goes_as_usual_has_no_priority(flag):
    found = []

    def go():
        os.sched_setscheduler(0, os.SCHED_FIFO | flag, os.sched_param(1))
        scheduling.go_as_usual()
        found.append(os.sched_getscheduler(0))

    thread = threading.Thread(target=go)
    thread.start()
    thread.join(10.0)
    assert found == [os.SCHED_OTHER | flag]


@pytest.mark.skipif(not ALLOWED, reason="the system gives this user no real-time priority")
def test_what_goes_first_alone_begins_ordinary_processes():
    told = subprocess.run(
        [sys.executable, "-c", BEGINS], capture_output=True, text=True, check=True
    )
    assert told.stdout.split() == ["''", "1", str(os.SCHED_OTHER)]


def test_a_system_that_does_not_allow_it_is_told_and_the_node_goes_on(monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    for told in (scheduling.go_first(40), scheduling.why_not(40)):
        assert told.startswith("no real-time priority 40 (Operation not permitted): let")


def test_a_thread_that_ends_meanwhile_is_no_problem(monkeypatch):
    tried = []

    def gone(*given):
        tried.append(given)
        raise ProcessLookupError(3, "No such process")

    monkeypatch.setattr(os, "sched_setscheduler", gone)
    assert not scheduling.go_first(40)
    assert len(tried) >= threading.active_count()


def test_whether_it_is_allowed_is_found_out_without_a_change():
    before = os.sched_getscheduler(0)
    scheduling.why_not(1)
    assert os.sched_getscheduler(0) == before
