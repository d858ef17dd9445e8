# SPDX-License-Identifier: Apache-2.0
"""Repair of the CMake files in the ROS wheels.

The message packages' wheels export, besides their own relative paths, two absolute include
directories of the machine that built them: that machine's Python headers and its NumPy headers.
CMake refuses targets with directories that do not exist, so no message package can be built
against the wheels until both point here. This file can go when the wheels export relative paths
or the imported targets `Python3::Python` and `Python3::NumPy`: delete it, and when the message
package still builds in a fresh environment it was no longer needed.
"""

from __future__ import annotations

import re
from pathlib import Path

# The builder is the manylinux image: /opt/python/cp311-cp311, /opt/python/cp312-cp312, ...
_BUILDER = r"/opt/python/cp3\d+-cp3\d+"
_PYTHON_INCLUDE = re.compile(_BUILDER + r"/include/python3\.\d+")
_SITE_PACKAGES = re.compile(_BUILDER + r"/lib/python3\.\d+/site-packages")
_STALE = re.compile(_BUILDER)


class RepairError(RuntimeError):
    """Paths of the build machine are left, or what should replace them does not exist."""


def stale_files(prefix: Path) -> list[Path]:
    """CMake files below `prefix`/share that still name directories of the build machine."""
    return [
        path
        for path in sorted((prefix / "share").rglob("*.cmake"))
        if _STALE.search(path.read_text(encoding="utf-8", errors="surrogateescape"))
    ]


def repair(prefix: Path, python_include: Path, site_packages: Path) -> list[Path]:
    """Point the CMake files below `prefix` to this machine's headers.

    Running it again changes nothing.

    Args:
        prefix: The virtual environment.
        python_include: Directory of Python.h.
        site_packages: Directory that holds `numpy`.

    Returns:
        The files that were changed.

    Raises:
        RepairError: If a needed header is missing or a path of the build machine remains.
    """
    changed = stale_files(prefix)
    if not changed:
        return []
    for header in (
        python_include / "Python.h",
        site_packages / "numpy/_core/include/numpy/arrayobject.h",
    ):
        if not header.is_file():
            raise RepairError(f"{header} does not exist; generated messages cannot compile")
    for path in changed:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
        # A function as the replacement: a path may hold what a pattern would interpret.
        text = _PYTHON_INCLUDE.sub(lambda _: str(python_include), text)
        text = _SITE_PACKAGES.sub(lambda _: str(site_packages), text)
        path.write_text(text, encoding="utf-8", errors="surrogateescape")
    left = stale_files(prefix)
    if left:
        names = ", ".join(str(path.relative_to(prefix)) for path in left)
        raise RepairError(
            f"unknown build-machine paths remain in {names}; "
            "the wheels have changed: extend scripts/repair_wheels.py"
        )
    return changed
