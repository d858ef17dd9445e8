# SPDX-License-Identifier: Apache-2.0
"""The variables that everything here runs with: computed once, used from bash and Python.

The ROS wheels would otherwise compute their library path at every interpreter start (a second
process per start) and in random order; setting it here in a fixed order, with the wheels' own
guard variable, makes that start-up hook do nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
WHEELS, ROS_INSTALL = "wheels", "ros-install"
# Fast DDS derives port numbers from the domain; up to 101 they stay below the ephemeral range.
HIGHEST_DOMAIN_ID = 101
RANGE = "ROS_AUTOMATIC_DISCOVERY_RANGE"
# With these, nodes are to be found on this machine: by ROS itself, or by the profile that we set.
_THIS_MACHINE = ("LOCALHOST", "SYSTEM_DEFAULT")
# A ROS of the system and the ROS of the wheels must not be mixed in one process.
_SYSTEM_ROS = "/opt/ros/"


@dataclass(frozen=True)
class Settings:
    """What to change in an environment."""

    fixed: dict[str, str] = field(default_factory=dict)
    """Always set."""
    defaults: dict[str, str] = field(default_factory=dict)
    """Set unless the user has set them."""
    local_defaults: dict[str, str] = field(default_factory=dict)
    """The same, and only where ROS stays on this machine."""
    prefixes: dict[str, list[str]] = field(default_factory=dict)
    """Path lists: these entries first and in this order, then what was there."""
    drop_system_ros: bool = False
    """Leave out entries of the path lists that belong to a ROS under /opt/ros."""

    def apply(self, base: Mapping[str, str]) -> dict[str, str]:
        """The environment `base` with these settings; applying twice changes nothing more."""
        result = dict(base) | self.fixed
        for name, value in self.defaults.items():
            result[name] = result.get(name) or value
        if result.get(RANGE, "") in _THIS_MACHINE:
            for name, value in self.local_defaults.items():
                result[name] = result.get(name) or value
        for name, entries in self.prefixes.items():
            kept = [
                entry
                for entry in result.get(name, "").split(os.pathsep)
                if entry
                and entry not in entries
                and not (self.drop_system_ros and entry.startswith(_SYSTEM_ROS))
            ]
            result[name] = os.pathsep.join([*entries, *kept])
        return result

    def to_bash(self) -> str:
        """A bash file that, sourced, does what `apply` does."""
        unwanted = f"''|{_SYSTEM_ROS}*" if self.drop_system_ros else "''"
        lines = [
            "# SPDX-License-Identifier: Apache-2.0",
            "# Made by scripts/bootstrap.py; source it from bash. Changes here are lost.",
            "_rl100_prepend() { # NAME ENTRY...: the entries first and once, then what was there",
            '  local name=$1 entry result="" IFS=:',
            "  shift",
            '  for entry in "$@"; do result+=":$entry"; done',
            "  for entry in ${!name-}; do",
            f'    case "$entry" in {unwanted}) continue ;; esac',
            '    case "$result:" in *":$entry:"*) ;; *) result+=":$entry" ;; esac',
            "  done",
            '  export "$name=${result#:}"',
            "}",
        ]
        lines += [f"export {name}={shlex.quote(value)}" for name, value in self.fixed.items()]
        for name, value in self.defaults.items():
            lines.append(f"export {name}=${{{name}:-{shlex.quote(value)}}}")
        for name, value in self.local_defaults.items():
            lines.append(
                f'case "${{{RANGE}-}}" in {"|".join(_THIS_MACHINE)}) '
                f"export {name}=${{{name}:-{shlex.quote(value)}}} ;; esac"
            )
        for name, entries in self.prefixes.items():
            lines.append(shlex.join(["_rl100_prepend", name, *entries]))
        return "\n".join([*lines, "unset -f _rl100_prepend", ""])

    def with_prefixes(self, more: Mapping[str, list[str]]) -> Settings:
        """These settings with `more` entries in front of the path lists."""
        names = [*self.prefixes, *(name for name in more if name not in self.prefixes)]
        merged = {name: [*more.get(name, []), *self.prefixes.get(name, [])] for name in names}
        return replace(self, prefixes=merged)


def default_domain_id(root: Path, user_id: int) -> int:
    """A ROS domain in 1..101: fixed for a user and checkout, most likely not another's."""
    digest = hashlib.sha256(f"{user_id}:{root}".encode()).digest()
    return 1 + int.from_bytes(digest[:8], "big") % HIGHEST_DOMAIN_ID


def base_settings(root: Path, venv: Path, mode: str) -> Settings:
    """What holds before the workspace is built: the virtual environment and ROS in it."""
    fixed = {"RL100_ROOT": str(root), "VIRTUAL_ENV": str(venv)}
    defaults = {
        # ROS's own default is the whole subnet. Kept local unless the user says otherwise.
        RANGE: "LOCALHOST",
        "ROS_DOMAIN_ID": str(default_domain_id(root, os.getuid())),
        "RMW_IMPLEMENTATION": "rmw_fastrtps_cpp",
    }
    profile = {"FASTRTPS_DEFAULT_PROFILES_FILE": str(root / "dds" / "fastdds_loopback_shm.xml")}
    prefixes = {"PATH": [str(venv / "bin")]}
    if mode == ROS_INSTALL:
        return Settings(fixed, defaults, profile, prefixes)
    # The wheels hold this distribution and this middleware only, whatever the shell says.
    fixed |= {
        "ROS_DISTRO": "jazzy",
        "ROS_VERSION": "2",
        "ROS_PYTHON_VERSION": "3",
        "RMW_IMPLEMENTATION": defaults.pop("RMW_IMPLEMENTATION"),
        "_ROS_WHEELS_BOOTSTRAP_COMPLETE": "1",
    }
    bundled = sorted(site_packages(venv).glob("ros_*.libs"))
    prefixes |= {
        "LD_LIBRARY_PATH": [str(venv / "lib"), *map(str, bundled)],
        "AMENT_PREFIX_PATH": [str(venv)],
        "CMAKE_PREFIX_PATH": [str(venv)],
        "PYTHONPATH": [],
    }
    return Settings(fixed, defaults, profile, prefixes, drop_system_ros=True)


def workspace_prefixes(root: Path, base: Settings) -> dict[str, list[str]]:
    """What the built workspace adds to the path lists, read from its own set-up file."""
    setup = root / "install" / "local_setup.bash"
    if not setup.is_file():
        return {}
    before = base.apply({"PATH": os.defpath, "HOME": str(Path.home())})
    printed = subprocess.run(
        ["bash", "-c", '. "$1" >/dev/null && env -0', "bash", str(setup)],
        env=before,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    after = dict(line.split("=", 1) for line in printed.split("\0") if "=" in line)
    added = {}
    for name in sorted(after.keys() - {"_", "SHLVL", "PWD", "OLDPWD"}):
        old = before.get(name, "").split(os.pathsep)
        new = [entry for entry in after[name].split(os.pathsep) if entry and entry not in old]
        if new:
            added[name] = new
    return added


def site_packages(venv: Path) -> Path:
    """Where the virtual environment keeps its Python packages."""
    (found,) = venv.glob("lib/python3.*/site-packages")
    return found


def save(settings: Settings, venv: Path) -> None:
    """Write them for both readers: `rl100_env.sh` for bash, `rl100_env.json` for Python."""
    (venv / "rl100_env.json").write_text(json.dumps(asdict(settings), indent=1) + "\n")
    (venv / "rl100_env.sh").write_text(settings.to_bash())


def environment(root: Path = REPOSITORY, base: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The complete environment of a set-up checkout, as bash has it after sourcing the file.

    Raises:
        FileNotFoundError: If `./rl100 setup` has not run in this checkout.
    """
    stored = root / ".venv" / "rl100_env.json"
    if not stored.is_file():
        raise FileNotFoundError(f"no environment in {root}: run ./rl100 setup first")
    return Settings(**json.loads(stored.read_text())).apply(base)
