# SPDX-License-Identifier: Apache-2.0
"""What must be on the machine before anything else: a compiler and a complete Python.

The list was made from the libraries that the installed wheels' shared objects ask for and do not
bring along. Only the C/C++ run-time libraries are left, and those come with the compiler; nothing
links to OpenMP, X11 or OpenGL. MuJoCo opens EGL or OSMesa when RGB pictures are asked for.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path


@dataclass(frozen=True)
class Need:
    """One thing the machine must (or should) have, and the package that brings it."""

    what: str
    package: str
    is_present: Callable[[], bool]
    reason: str
    required: bool = True


def _has_program(*names: str) -> Callable[[], bool]:
    return lambda: any(shutil.which(name) for name in names)


def _has_library(name: str) -> Callable[[], bool]:
    def is_present() -> bool:
        try:
            ctypes.CDLL(name)
        except OSError:
            return False
        return True

    return is_present


def needs() -> list[Need]:
    """Everything to look for, with the Debian/Ubuntu package names for the running Python."""
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    header = Path(sysconfig.get_path("include")) / "Python.h"
    return [
        Need("cmake", "cmake", _has_program("cmake"), "builds the messages"),
        Need("make", "make", _has_program("make"), "builds the messages"),
        Need("C compiler", "gcc", _has_program("cc", "gcc", "clang"), "builds the messages"),
        Need("C++ compiler", "g++", _has_program("c++", "g++", "clang++"), "builds the messages"),
        Need(
            "venv with pip",
            f"{python}-venv",
            lambda: find_spec("ensurepip") is not None and find_spec("venv") is not None,
            "makes the virtual environment",
        ),
        Need("Python.h", f"{python}-dev", header.is_file, "Python side of the messages"),
        Need(
            "EGL or OSMesa",
            "libosmesa6",
            lambda: _has_library("libEGL.so.1")() or _has_library("libOSMesa.so.8")(),
            "RGB pictures from the simulator; nothing else needs it",
            required=False,
        ),
    ]


class HostError(RuntimeError):
    """The machine lacks something and we may not install it."""


def ensure(wanted: list[Need], say: Callable[[str], None]) -> None:
    """Check the needs; as root, install what is missing and required.

    Raises:
        HostError: If something required is missing and cannot be installed from here.
    """
    missing = [need for need in wanted if not need.is_present()]
    for need in missing:
        kind = "missing" if need.required else "optional, not found"
        say(f"{need.what} {kind} ({need.reason}): apt package {need.package}")
    packages = [need.package for need in missing if need.required]
    if not packages:
        return
    install = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
    by_hand = "sudo apt-get update && sudo " + " ".join(install)
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise HostError(f"install what is missing, then run this again:\n  {by_hand}")
    say("installing " + " ".join(packages))
    quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "update"], install):
        outcome = subprocess.run(command, env=quiet, capture_output=True, text=True, check=False)
        if outcome.returncode != 0:
            tail = "\n".join((outcome.stdout + outcome.stderr).splitlines()[-15:])
            raise HostError(f"'{' '.join(command)}' failed:\n{tail}\nTry by hand: {by_hand}")
    still = [need.what for need in wanted if need.required and not need.is_present()]
    if still:
        raise HostError(f"installed {', '.join(packages)}, and still missing: {', '.join(still)}")
