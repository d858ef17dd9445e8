# SPDX-License-Identifier: Apache-2.0
"""Makes the environment: Python packages with ROS 2, the colcon build, the variables for both.

Run by ./rl100 before every verb; standard library only. Each step is stamped with a hash of what
it was made from, so that a start with nothing to do costs a fraction of a second.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import environment
import host
import repair_wheels
from progress import StepError, run_logged, say
from stamps import Stamp, fingerprint

# Disk for the packages; torch with CUDA takes about twice what the CPU build takes.
_NEEDED_DISK_GIB = 4.0
_SYSTEM_PYTHON = "/usr/bin/python3"
# Imported once after an installation, so that a missing library shows here and not in a node.
_SMOKE_IMPORTS = "import rclpy, torch, mujoco, pinocchio, fpsample, rosbags, sensor_msgs.msg"
_COLCON_OPTIONS = (
    *("--base-paths", "src"),
    "--symlink-install",
    *("--event-handlers", "console_cohesion+"),
)
_INTERFACES = {".msg", ".srv", ".action"}


@dataclass(frozen=True)
class Checkout:
    """The places of one checkout."""

    root: Path

    @property
    def venv(self) -> Path:
        """The virtual environment."""
        return self.root / ".venv"

    @property
    def python(self) -> Path:
        """The interpreter of the virtual environment."""
        return self.venv / "bin" / "python3"

    @property
    def origin(self) -> Path:
        """The note of how and for which place the virtual environment was made."""
        return self.venv / "origin"

    def log(self, name: str) -> Path:
        """The log file of a step."""
        return self.venv / "log" / f"{name}.log"

    def stamp(self, name: str) -> Stamp:
        """The stamp of a step."""
        return Stamp(self.venv / "stamps", name)


def refuse_unusable_path(root: Path) -> None:
    """Refuse folders that path lists, scripts' first lines or colcon cannot hold.

    Raises:
        StepError: If the path has white space or a colon in it.
    """
    if re.search(r"[\s:]", str(root)):
        raise StepError(
            f"move this checkout: '{root}' has a space or a colon in it, "
            "which colcon and the first lines of scripts cannot hold"
        )


def installed_ros_python(variables: Mapping[str, str]) -> str | None:
    """The system's Python if a ROS 2 Jazzy of the system is sourced in this shell, else None."""
    if variables.get("ROS_DISTRO") != "jazzy" or "_ROS_WHEELS_BOOTSTRAP_COMPLETE" in variables:
        return None
    look = "import sys, importlib.util as u; sys.exit(u.find_spec('rclpy') is None)"
    found = subprocess.run([_SYSTEM_PYTHON, "-c", look], capture_output=True, check=False)
    return _SYSTEM_PYTHON if found.returncode == 0 else None


def choose_mode(checkout: Checkout, variables: Mapping[str, str]) -> str:
    """Wheels, or on top of an installed ROS; once chosen it stays until `clean --all`.

    The ros-install branch could not be run where this was written (no machine with ROS from apt):
    it is plain code around what is tested with the wheels, and nobody has seen it work.

    Raises:
        StepError: If the environment stands on an installed ROS that is not sourced now.
    """
    if checkout.origin.is_file() and not checkout.stamp("packages").was_interrupted:
        mode = checkout.origin.read_text().split("\n")[0]
        if mode == environment.ROS_INSTALL and "ROS_DISTRO" not in variables:
            raise StepError(
                "this environment stands on the ROS 2 installed on this machine: "
                "source /opt/ros/jazzy/setup.bash first, or start over with ./rl100 clean --all"
            )
        return mode
    return environment.ROS_INSTALL if installed_ros_python(variables) else environment.WHEELS


def origin(checkout: Checkout, mode: str) -> str:
    """What a virtual environment cannot survive a change of: it holds absolute paths."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return f"{mode}\n{checkout.root}\nPython {version}\n"


def package_inputs(checkout: Checkout, mode: str) -> str:
    """Fingerprint of what the virtual environment is made from."""
    files = sorted((checkout.root / "requirements").glob("*.*"))
    repair = checkout.root / "scripts" / "repair_wheels.py"
    return fingerprint([origin(checkout, mode), *files, repair])


def why_start_over(checkout: Checkout, mode: str) -> str | None:
    """Why an existing virtual environment cannot be brought up to date, or None if it can."""
    stamp = checkout.stamp("packages")
    if stamp.was_interrupted:
        return "an interrupted installation"
    if not stamp.has_finished or not checkout.origin.is_file():
        return "not made by this script"
    if checkout.origin.read_text() != origin(checkout, mode):
        return "made for another place or Python"
    if not checkout.python.exists():
        return "its Python is gone"
    return None


def build_inputs(checkout: Checkout, packages: str) -> str:
    """Fingerprint of what a rebuild is needed for.

    Python modules and data files are linked, not copied: of these only the names count (a data
    file that is new has no link yet). Interfaces and build descriptions count with content.
    """
    source = checkout.root / "src"
    parts: list[str | Path] = [packages, checkout.root / "colcon.meta"]
    for package in sorted(path.parent for path in source.glob("*/package.xml")):
        compiled = (package / "CMakeLists.txt").is_file()
        for folder, subfolders, names in os.walk(package):
            subfolders[:] = sorted(set(subfolders) - {"__pycache__", "test"})
            for path in (Path(folder) / name for name in sorted(names)):
                is_description = path.name in {"package.xml", "setup.py", "setup.cfg"}
                if compiled or is_description or path.suffix in _INTERFACES:
                    parts += [str(path.relative_to(source)), path]
                elif path.suffix not in {".py", ".pyc"}:
                    parts.append(str(path.relative_to(source)))
    return fingerprint(parts)


def install_packages(checkout: Checkout, mode: str, inputs: str) -> None:
    """Make the virtual environment with everything that is pinned, and repair the ROS wheels."""
    if reason := why_start_over(checkout, mode):
        if checkout.venv.exists():
            say(f"removing .venv ({reason})")
            shutil.rmtree(checkout.venv)
        # What was built refers to the environment that is gone.
        for made in ("build", "install"):
            shutil.rmtree(checkout.root / made, ignore_errors=True)
    host.ensure(host.needs(), say)
    free_gib = shutil.disk_usage(checkout.root).free / 2**30
    if free_gib < _NEEDED_DISK_GIB:
        say(f"only {free_gib:.1f} GiB free; the packages need {_NEEDED_DISK_GIB:.0f} GiB or more")
    on_ros = mode == environment.ROS_INSTALL
    base_python = _SYSTEM_PYTHON if on_ros else getattr(sys, "_base_executable", sys.executable)
    clean = _without_python_paths(os.environ)
    with checkout.stamp("packages").running(inputs):
        if not checkout.python.exists():
            say(f"Python {sys.version.split()[0]}: making .venv for {mode}")
            extra = ["--system-site-packages"] if on_ros else []
            run_logged(
                "[1/4] virtual environment",
                [base_python, "-m", "venv", *extra, str(checkout.venv)],
                checkout.log("venv"),
                clean,
                lambda _: None,
                directory=checkout.root,
                advice="Remove .venv and run ./rl100 setup again.",
            )
        checkout.origin.write_text(origin(checkout, mode))
        pinned = "requirements.ros-install.in" if on_ros else "requirements.in"
        _pip_install(checkout, pinned, clean)
        if not on_ros:
            repair(checkout)


def _pip_install(checkout: Checkout, requirements: str, variables: Mapping[str, str]) -> None:
    folder = checkout.root / "requirements"
    options = ["--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
    options += ["-r", str(folder / requirements), "-c", str(folder / "lock.txt")]
    run_logged(
        "[2/4] Python packages",
        [str(checkout.python), "-m", "pip", "install", *options],
        checkout.log("pip"),
        variables,
        _PipNews(),
        directory=checkout.root,
        advice="Check the network and the disk, then run ./rl100 setup again: "
        "what is downloaded already is kept by pip.",
    )


class _PipNews:
    """Turns pip's output into a few words."""

    def __init__(self) -> None:
        self._collected = 0

    def __call__(self, line: str) -> str | None:
        if found := re.match(r"Collecting ([^\s=<>~!\[;(]+)", line):
            self._collected += 1
            return f"{self._collected} found, {found[1]}"
        if found := re.match(r"\s*Downloading (?:.*/)?([^/\s]+?)-\d\S* ?(\(.*\))?", line):
            return f"{self._collected} found, {found[1]} {found[2] or ''}"
        if line.startswith("Installing collected"):
            return f"unpacking {line.count(',') + 1}"
        return None


def repair(checkout: Checkout) -> None:
    """Repair the CMake files of the ROS wheels; why: see `repair_wheels`."""
    changed = repair_wheels.repair(
        checkout.venv,
        # This interpreter is the one the environment was made from, so its headers are the ones.
        Path(sysconfig.get_path("include")),
        environment.site_packages(checkout.venv),
    )
    say(f"repaired {len(changed)} CMake files of the ROS wheels")


def build_workspace(checkout: Checkout, base: environment.Settings, inputs: str) -> None:
    """Build src/ with colcon; Python packages are linked, so editing them needs no new build."""
    with checkout.stamp("build").running(inputs):
        if not any((checkout.root / "src").glob("*/package.xml")):
            say("src/ holds no packages: nothing to build")
            return
        run_logged(
            "[3/4] colcon build",
            [str(checkout.python), "-m", "colcon", "build", *_COLCON_OPTIONS],
            checkout.log("build"),
            base.apply(_without_python_paths(os.environ)),
            _colcon_news,
            directory=checkout.root,
            advice="Mend what the output names and run the command again; "
            "after moving files, ./rl100 clean gives a fresh build.",
        )


def _colcon_news(line: str) -> str | None:
    found = re.match(r"(Starting >>>|Finished <<<) (\S+)", line)
    return found and found[2]


def check_imports(checkout: Checkout, settings: environment.Settings) -> None:
    """Import the large packages once, in the environment they will run in."""
    run_logged(
        "[4/4] trying the imports",
        [str(checkout.python), "-c", _SMOKE_IMPORTS],
        checkout.log("imports"),
        settings.apply(os.environ),
        lambda _: None,
        directory=checkout.root,
        advice="A missing shared library is in the apt package of that name; then run it again.",
    )


def _without_python_paths(variables: Mapping[str, str]) -> dict[str, str]:
    """The user's environment less what would put foreign modules into the new one."""
    dropped = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "_ROS_WHEELS_BOOTSTRAP_COMPLETE"}
    return {name: value for name, value in variables.items() if name not in dropped}


@contextmanager
def _one_at_a_time(root: Path) -> Iterator[None]:
    """Hold the checkout's lock; a second start waits until the first has made everything."""
    folder = os.open(root, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another ./rl100 that is making the environment")
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def make(checkout: Checkout) -> bool:
    """Make what is missing or out of date; returns whether there was anything to do."""
    refuse_unusable_path(checkout.root)
    mode = choose_mode(checkout, os.environ)
    packages = package_inputs(checkout, mode)
    build = build_inputs(checkout, packages)
    variables = fingerprint([build, checkout.root / "scripts" / "environment.py"])
    wanted = {"packages": packages, "build": build, "environment": variables, "imports": packages}

    def is_current(step: str) -> bool:
        return checkout.python.exists() and checkout.stamp(step).is_current(wanted[step])

    if all(map(is_current, wanted)):
        return False
    with _one_at_a_time(checkout.root):
        if not is_current("packages"):
            install_packages(checkout, mode, packages)
        base = environment.base_settings(checkout.root, checkout.venv, mode)
        if not is_current("build"):
            host.ensure(host.needs(), lambda _: None)
            build_workspace(checkout, base, build)
        with checkout.stamp("environment").running(variables):
            settings = base.with_prefixes(environment.workspace_prefixes(checkout.root, base))
            environment.save(settings, checkout.venv)
        if not is_current("imports"):
            with checkout.stamp("imports").running(packages):
                check_imports(checkout, settings)
    return True


def main() -> int:
    """Make the environment and say what went wrong in words if it cannot be made."""
    checkout = Checkout(environment.REPOSITORY)
    try:
        worked = make(checkout)
    except (StepError, host.HostError, repair_wheels.RepairError) as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        say("interrupted; the next start makes what is missing")
        return 130
    if worked or "--report" in sys.argv[1:]:
        say("the environment is ready (.venv)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
