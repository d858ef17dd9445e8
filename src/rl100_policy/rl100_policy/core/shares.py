# SPDX-License-Identifier: Apache-2.0
"""Where packages keep the files they share, and what a ``package://`` URI stands for."""

from __future__ import annotations

import sys
import sysconfig
from os import environ
from pathlib import Path

from rl100_policy.core.errors import ConfigError


def share_folders() -> list[Path]:
    """Folders that hold packages' shared files: ROS prefixes first, then this interpreter's."""
    prefixes = [Path(p) for p in environ.get("AMENT_PREFIX_PATH", "").split(":") if p]
    site = Path(sysconfig.get_paths()["purelib"])
    return [p / "share" for p in [*prefixes, site / "cmeel.prefix", Path(sys.prefix)]]


def resolve_uri(uri: str, relative_to: Path | None = None) -> Path:
    """File behind a path or a ``package://<share>/<path>`` URI.

    Raises:
        ConfigError: If no such file exists; lists the folders searched.
    """
    if uri.startswith("package://"):
        tail = uri.removeprefix("package://")
        candidates = [share / tail for share in share_folders()]
    else:
        candidates = [(relative_to or Path()) / uri]
    for candidate in candidates:
        if candidate.exists():
            return candidate
    raise ConfigError(f"{uri} not found; searched {', '.join(str(c) for c in candidates)}")
