# SPDX-License-Identifier: Apache-2.0
"""What `./rl100 doctor` looks at: this machine, this checkout, and what to do about each finding.

Every check is a function of a `Machine` and returns one `Finding`; nothing here needs ROS, so the
doctor also works when ROS is what is broken.
"""

from __future__ import annotations

import enum
import importlib.metadata
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from rl100_policy.ros.scheduling import GATE, why_not
from rl100_policy.ros.transport import RECEIVE_BUFFER, RECEIVE_LIMIT_FILE, receive_limit

# Fast DDS uses ports 7400 + 250 * domain + ...; above 101 they reach the ephemeral range.
_HIGHEST_DOMAIN_ID = 101
# One 32 MiB segment (dds/*.xml) for each of about ten nodes, and as much again for luck.
_ENOUGH_SHM_MIB = 512
_SHM_SEGMENT = 4 * 2**20
"""Smallest shared-memory segment that takes some images of 640x480 [bytes]."""
_ENOUGH_DISK_GB = 5
_KEY_PACKAGES = ("numpy", "torch", "mujoco", "pin", "fpsample", "rosbags", "mcap", "colcon-core")
_GL_BACKENDS = ("egl", "osmesa")
_DRAW = "import mujoco as m; m.Renderer(m.MjModel.from_xml_string('<mujoco/>'), 8, 8).render()"
_DRAW_LIMIT_S = 30
_BUILD_PROGRAMS = {"C++ compiler": ("c++", "g++", "clang++"), "cmake": ("cmake",)}
_INTERFACES = {".msg", ".srv", ".action"}
_STALE_CMAKE_PATH = "/opt/python/cp3"


class Status(enum.Enum):
    """How bad it is; the value is the colour it is shown in."""

    OK = "green"
    WARN = "yellow"
    FAIL = "red"


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    name: str
    status: Status
    found: str
    advice: str = ""


@dataclass(frozen=True)
class Machine:
    """What the checks look at; tests make their own."""

    root: Path
    """The checkout."""
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    python: Path = Path(sys.executable)
    """The interpreter that nodes should run in."""
    shm: Path = Path("/dev/shm")
    receive_limit: Path = RECEIVE_LIMIT_FILE


Check = Callable[[Machine], Finding]


def node_interpreters(machine: Machine) -> Finding:
    """Whether the installed nodes start in the interpreter that this runs in."""
    name = "node interpreters"
    scripts = [
        path
        for path in sorted((machine.root / "install").glob("*/lib/*/*"))
        if path.parent.name == path.parents[2].name and path.is_file()
    ]
    elsewhere = []
    for script in scripts:
        interpreter = _interpreter(script, machine.environment.get("PATH", ""))
        if interpreter is None or interpreter.parent != machine.python.parent:
            elsewhere.append(f"{script.name}: {interpreter or 'no interpreter'}")
    if elsewhere:
        advice = "start nodes in ./rl100 shell; if it stays: ./rl100 clean, ./rl100 setup"
        return Finding(name, Status.FAIL, "; ".join(elsewhere), advice)
    if not scripts:
        return Finding(name, Status.WARN, "no node is installed", "run ./rl100 setup")
    return Finding(name, Status.OK, f"{len(scripts)} nodes, all in {machine.python.parent}")


def _interpreter(script: Path, search_path: str) -> Path | None:
    with script.open("rb") as file:
        first = file.readline().decode(errors="replace").strip()
    words = first.removeprefix("#!").split()
    if not first.startswith("#!") or not words:
        return None
    if Path(words[0]).name != "env":
        return Path(words[0])
    located = shutil.which(words[-1], path=search_path)
    return Path(located) if located else None


def discovery(machine: Machine) -> Finding:
    """Whether ROS stays on this machine, and whether the domain id is usable."""
    name = "ROS discovery"
    reach = machine.environment.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "")
    domain = machine.environment.get("ROS_DOMAIN_ID", "0")
    found = f"range {reach or 'unset (ROS then uses the subnet)'}, domain {domain}"
    if not domain.isdecimal() or int(domain) > _HIGHEST_DOMAIN_ID:
        advice = f"set ROS_DOMAIN_ID to a number from 0 to {_HIGHEST_DOMAIN_ID}"
        return Finding(name, Status.FAIL, found, advice)
    if reach != "LOCALHOST":
        advice = "for this machine alone: ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST"
        return Finding(name, Status.WARN, found, advice)
    return Finding(name, Status.OK, found)


def dds_profile(machine: Machine) -> Finding:
    """Whether Fast DDS is given a profile that it can read."""
    name = "DDS profile"
    value = machine.environment.get("FASTRTPS_DEFAULT_PROFILES_FILE", "")
    if not value:
        advice = "use ./rl100 shell; without it images above 512 KiB take the slow path"
        return Finding(name, Status.WARN, "FASTRTPS_DEFAULT_PROFILES_FILE is not set", advice)
    try:
        # The file is the user's own configuration, so the standard parser's limits do not matter.
        profile = ElementTree.parse(value)
    except (OSError, ElementTree.ParseError) as error:
        advice = "point FASTRTPS_DEFAULT_PROFILES_FILE to dds/fastdds_loopback_shm.xml"
        return Finding(name, Status.FAIL, f"{value}: {error}", advice)
    tag = profile.getroot().tag
    if tag.rpartition("}")[2] not in {"profiles", "dds"}:
        return Finding(name, Status.FAIL, f"{value} holds <{tag}>, not <profiles>", "correct it")
    segments = [
        int(size.text or 0)
        for transport in profile.iterfind(".//{*}transport_descriptor")
        if transport.findtext("{*}type", "").strip() == "SHM"
        for size in transport.iterfind("{*}segment_size")
    ]
    if max(segments, default=0) < _SHM_SEGMENT:
        found = f"{value} gives no shared memory for an image"
        advice = f"an SHM transport with a segment_size of {_SHM_SEGMENT}, as in dds/"
        return Finding(name, Status.WARN, found, advice)
    return Finding(name, Status.OK, value)


def shared_memory(machine: Machine) -> Finding:
    """Whether the nodes' shared-memory segments fit."""
    name = "shared memory"
    try:
        usage = shutil.disk_usage(machine.shm)
    except OSError as error:
        return Finding(name, Status.WARN, str(error), "DDS falls back to UDP, which is slower")
    free_mib = usage.free / 2**20
    found = f"{machine.shm}: {free_mib:.0f} of {usage.total / 2**20:.0f} MiB free"
    if free_mib < _ENOUGH_SHM_MIB:
        advice = "remove old fastrtps_* files there; in a container: --shm-size=512m"
        return Finding(name, Status.WARN, found, advice)
    return Finding(name, Status.OK, found)


def socket_buffers(machine: Machine) -> Finding:
    """Whether images fit into the loopback's buffers, or nodes that handle them share memory."""
    name = "socket buffers"
    limit = receive_limit(machine.receive_limit)
    found = f"net.core.rmem_max is {limit or 'not told'}"
    if limit < RECEIVE_BUFFER:
        advice = (
            "nodes that handle images share memory, and one that is killed can hold others up: "
            f"sudo sysctl -w net.core.rmem_max={RECEIVE_BUFFER}"
        )
        return Finding(name, Status.WARN, found, advice)
    return Finding(name, Status.OK, found)


def priority(_: Machine) -> Finding:
    """Whether what moves the arm may run before everything else."""
    name = "real-time priority"
    if problem := why_not(GATE):
        found, advice = problem.split(": ", maxsplit=1)
        return Finding(name, Status.WARN, f"{found}; the arm may wait for other work", advice)
    return Finding(name, Status.OK, "allowed to the nodes between sensors and arm")


def offscreen_gl(machine: Machine) -> Finding:
    """Whether the simulator can draw without a screen: it draws, in a process of its own."""
    name = "offscreen OpenGL"
    chosen = machine.environment.get("MUJOCO_GL", "")
    failed = []
    for backend in (chosen,) if chosen else _GL_BACKENDS:
        problem = _drawing_problem(machine, backend)
        if not problem:
            advice = "" if chosen else f"for RGB pictures: export MUJOCO_GL={backend}"
            return Finding(name, Status.OK, f"MUJOCO_GL={backend} draws", advice)
        failed.append(f"{backend}: {problem}")
    advice = "needed only for RGB pictures: apt-get install libosmesa6, export MUJOCO_GL=osmesa"
    return Finding(name, Status.WARN, "; ".join(failed), advice)


def _drawing_problem(machine: Machine, backend: str) -> str:
    """Why an empty scene cannot be drawn with a backend of MuJoCo; empty if it can."""
    try:
        drawn = subprocess.run(
            [machine.python, "-c", _DRAW],
            env=dict(machine.environment) | {"MUJOCO_GL": backend},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_DRAW_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no picture within {_DRAW_LIMIT_S} s"
    if drawn.returncode == 0:
        return ""
    return (drawn.stderr.strip().splitlines() or ["it crashed"])[-1]


def disk(machine: Machine) -> Finding:
    """Whether there is room for bags and policy versions."""
    free_gb = shutil.disk_usage(machine.root).free / 1e9
    status = Status.OK if free_gb >= _ENOUGH_DISK_GB else Status.WARN
    advice = "" if status is Status.OK else "a minute of depth at 30 Hz is about 1 GB: make room"
    return Finding("disk", status, f"{free_gb:.0f} GB free", advice)


def versions(machine: Machine) -> Finding:
    """Whether the key libraries are the pinned ones."""
    name = "versions"
    pins = _pins(machine.root / "requirements" / "lock.txt")
    found, wrong = [f"Python {sys.version.split()[0]}"], []
    for package in _KEY_PACKAGES:
        version = _installed(package)
        found.append(f"{package} {version or 'missing'}")
        # The local part (+cpu, +cu130) says which build of the same version it is.
        if package in pins and (version or "").split("+")[0] != pins[package]:
            wrong.append(f"{package} should be {pins[package]}")
    if wrong:
        advice = "; ".join(wrong) + ": run ./rl100 setup"
        return Finding(name, Status.FAIL, ", ".join(found), advice)
    return Finding(name, Status.OK, ", ".join(found))


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _pins(lock: Path) -> dict[str, str]:
    lines = lock.read_text().splitlines() if lock.is_file() else []
    pairs = (line.split("==", 1) for line in lines if "==" in line and not line.startswith("#"))
    return {name: version.strip() for name, version in pairs}


def compiler(machine: Machine) -> Finding:
    """Whether messages can be built."""
    search_path = machine.environment.get("PATH")
    missing = [
        label
        for label, programs in _BUILD_PROGRAMS.items()
        if not any(shutil.which(program, path=search_path) for program in programs)
    ]
    if missing:
        advice = "apt-get install g++ cmake make"
        return Finding("compiler", Status.FAIL, "no " + ", no ".join(missing), advice)
    return Finding("compiler", Status.OK, "C++ compiler and cmake found")


def repaired_wheels(machine: Machine) -> Finding:
    """Whether the ROS wheels' CMake files are free of the build machine's paths."""
    name = "ROS wheels"
    share = machine.python.parent.parent / "share"
    stale = [
        path.name
        for path in sorted(share.glob("*/cmake/*.cmake"))
        if _STALE_CMAKE_PATH in path.read_text(errors="replace")
    ]
    if stale:
        advice = "./rl100 clean --all, then ./rl100 setup (scripts/repair_wheels.py says why)"
        return Finding(name, Status.FAIL, f"{len(stale)} CMake files with stale paths", advice)
    return Finding(name, Status.OK, "no stale CMake paths")


def workspace(machine: Machine) -> Finding:
    """Whether the workspace is built, and after the last change of a message."""
    name = "workspace"
    built = machine.root / "build" / "rl100_msgs" / "colcon_build.rc"
    if not built.is_file() or not (machine.root / "install" / "rl100_msgs").is_dir():
        return Finding(name, Status.FAIL, "rl100_msgs is not built", "run ./rl100 setup")
    if built.read_text().strip() != "0":
        return Finding(name, Status.FAIL, "the last build failed", "see .venv/log/build.log")
    sources = [path for path in (machine.root / "src").rglob("*.*") if path.suffix in _INTERFACES]
    newer = [path.name for path in sources if path.stat().st_mtime > built.stat().st_mtime]
    if newer:
        found = "changed since the build: " + ", ".join(sorted(newer))
        return Finding(name, Status.WARN, found, "run ./rl100 setup")
    return Finding(name, Status.OK, f"built after the last of {len(sources)} interfaces")


CHECKS: tuple[Check, ...] = (
    node_interpreters,
    discovery,
    dds_profile,
    shared_memory,
    socket_buffers,
    priority,
    offscreen_gl,
    disk,
    versions,
    compiler,
    repaired_wheels,
    workspace,
)


def examine(machine: Machine, extra_checks: Sequence[Check] = ()) -> list[Finding]:
    """Run all checks.

    Args:
        machine: What to look at.
        extra_checks: More of them, from code this module may not know (unfinished bags, ...).

    Returns:
        One finding per check, in order. A check that raises counts as failed.
    """
    return [_guarded(check, machine) for check in (*CHECKS, *extra_checks)]


def _guarded(check: Check, machine: Machine) -> Finding:
    try:
        return check(machine)
    except Exception as error:  # one broken check must not hide what the others find
        name = getattr(check, "__name__", repr(check)).replace("_", " ")
        found = f"the check itself failed: {type(error).__name__}: {error}"
        return Finding(name, Status.FAIL, found, "report this")


def worst(findings: Iterable[Finding]) -> Status:
    """The worst status among the findings; OK if there are none."""
    order = list(Status)
    return max((finding.status for finding in findings), key=order.index, default=Status.OK)


def as_table(findings: Iterable[Finding]) -> Table:
    """The findings as a table for the terminal."""
    table = Table(title="rl100 doctor")
    for heading in ("check", "", "found", "what to do"):
        table.add_column(heading, overflow="fold")
    for finding in findings:
        status = f"[{finding.status.value}]{finding.status.name.lower()}[/]"
        table.add_row(finding.name, status, escape(finding.found), escape(finding.advice))
    return table
