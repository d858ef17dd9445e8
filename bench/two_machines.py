# SPDX-License-Identifier: Apache-2.0
"""The same with the policy on a second machine: two network namespaces and the cable between.

Both are made here and hold nothing else, so nothing reaches the network this machine is in. Needs
Linux, root and iproute2.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from fault_graph import FaultyGraph, faulty_graph
from fault_list import Expected, Fault
from faults import Result, keep, known, table, trial
from rich.console import Console

_INSIDE = "RL100_INSIDE_NAMESPACE"
_NEAR, _FAR = "rl100-near", "rl100-far"
_ELSEWHERE = ("policy", "recorder", "latency")
"""Nodes of the second machine."""


def why_not() -> str:
    """Why it cannot be done here; empty if it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "network namespaces need Linux and root"
    missing = [each for each in ("ip", "unshare", "nsenter") if shutil.which(each) is None]
    if missing:
        return f"there is no {', '.join(missing)} (apt install iproute2 util-linux)"
    tried = subprocess.run(
        ["unshare", "-n", "ip", "link", "add", _NEAR, "type", "veth", "peer", "name", _FAR],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return f"no namespaces here: {tried.stderr.strip()}" if tried.returncode else ""


def _sh(command: str, *within: str) -> None:
    subprocess.run([*within, *command.split()], check=True)


@contextmanager
def second_machine() -> Iterator[tuple[str, ...]]:
    """A second namespace with a cable to this one; yields what runs a command in it."""
    far = subprocess.Popen(["unshare", "-n", "sleep", "infinity"])
    there = ("nsenter", "-t", str(far.pid), "-n")
    try:
        while Path(f"/proc/{far.pid}/ns/net").samefile("/proc/self/ns/net"):
            pass
        _sh(f"ip link add {_NEAR} type veth peer name {_FAR}")
        _sh(f"ip link set {_FAR} netns {far.pid}")
        for name, address, within in ((_NEAR, "10.77.0.1", ()), (_FAR, "10.77.0.2", there)):
            _sh("ip link set lo up", *within)
            _sh(f"ip addr add {address}/24 dev {name}", *within)
            _sh(f"ip link set {name} up", *within)
            _sh(f"ip route add 224.0.0.0/4 dev {name}", *within)
        yield there
    finally:
        far.kill()
        far.wait()


def unplugged(there: tuple[str, ...]) -> Fault:
    """The cable is pulled at the far end, and put in again."""

    @contextmanager
    def inject(_: FaultyGraph) -> Iterator[None]:
        _sh(f"ip link set {_FAR} down", *there)
        try:
            yield
        finally:
            _sh(f"ip link set {_FAR} up", *there)
            _sh(f"ip route add 224.0.0.0/4 dev {_FAR}", *there)

    return Fault(
        "the network between the arm's machine and the policy's is lost", inject, Expected.HOLDS,
        "the gate waits half a period for the decision, then brakes: HELD_STALE",
    )  # fmt: skip


def run(trials: int, console: Console, output: Path | None) -> Result:
    """In a namespace of this process; trials are added to those of the output folder."""
    results = known(output)
    with second_machine() as there:
        fault = unplugged(there)
        result = results.setdefault(
            fault.name, Result(fault.name, fault.expected.value, fault.reaction)
        )
        with faulty_graph(dict.fromkeys(_ELSEWHERE, there)) as faulty:
            for turn in range(trials):
                trial(faulty, fault, result)
                console.print(
                    f"{turn + 1} of {trials}: {result.rest_s[-1]:.3f} s, "
                    f"moves again after {result.back_s[-1]:.1f} s",
                    highlight=False,
                )
    keep(list(results.values()), output)
    return result


def main(
    trials: Annotated[int, typer.Option(help="how often")] = 100,
    output: Annotated[Path | None, typer.Option(help="folder, as of faults.py")] = None,
) -> None:
    """Inject and print; status 1 if the arm ever does other than it is to."""
    if problem := why_not():
        print(problem)
        sys.exit(2)
    if _INSIDE not in os.environ:
        os.environ[_INSIDE] = "yes"
        # Between the two only: the namespaces reach nothing else. No shared memory either.
        os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "SUBNET"
        os.environ["FASTDDS_BUILTIN_TRANSPORTS"] = "UDPv4"
        os.environ.pop("FASTRTPS_DEFAULT_PROFILES_FILE", None)
        os.execvp("unshare", ["unshare", "-n", sys.executable, *sys.argv])
    result = run(trials, Console(), output)
    print(table([result]))
    sys.exit(bool(result.problems))


if __name__ == "__main__":
    typer.run(main)
