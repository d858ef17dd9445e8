# SPDX-License-Identifier: Apache-2.0
"""How a process speaks to others: on this machine alone, and so that no death holds it up."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

RECEIVE_BUFFER = 4 * 2**20
"""What the loopback needs to carry images of 640x480 without loss [bytes]: several of them."""
RECEIVE_LIMIT_FILE = Path("/proc/sys/net/core/rmem_max")
"""Where Linux tells how large a socket's buffer may be [bytes]."""
_PROFILE, _RANGE = "FASTRTPS_DEFAULT_PROFILES_FILE", "ROS_AUTOMATIC_DISCOVERY_RANGE"
_MIDDLEWARE, _FAST_DDS = "RMW_IMPLEMENTATION", ("", "rmw_fastrtps_cpp", "rmw_fastrtps_dynamic_cpp")
_MARK = "RL100_LOOPBACK"
"""Set where the range is ours and not the person's: it holds for our profile alone."""
_SHARED_MEMORY, _LOOPBACK = "fastdds_loopback_shm.xml", "fastdds_loopback_udp.xml"
"""Fast DDS profiles of one machine, side by side in dds/."""


def keep_on_this_machine(*, images: bool = True) -> None:
    """Restrict this process and its children to this machine unless the person asked for more.

    Call it before rclpy begins. See :func:`settings`.
    """
    os.environ.update(settings(os.environ, images=images, receive_limit=receive_limit()))


def receive_limit(file: Path = RECEIVE_LIMIT_FILE) -> int:
    """Largest buffer of a socket that may be had [bytes]; 0 if the system does not tell."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return 0


def settings(
    environment: Mapping[str, str], *, images: bool, receive_limit: int
) -> dict[str, str]:
    """Environment variables of the middleware that are to be set.

    ROS's own default is the subnet. On one machine, rmw_fastrtps adds shared memory to whatever
    profile is given, and through it the death of a process that reads can hold up for ever who
    publishes to it (ADR 36). A process with our profile takes the loopback instead, which rmw
    leaves alone if it is told nothing of the range: the profile keeps to this machine by itself.
    Where the system's socket buffers are too small for images, processes that handle some keep to
    shared memory. A profile or a range of the person's own is left as it is.

    Args:
        environment: Variables as they are.
        images: Whether the process publishes or reads what is larger than a datagram.
        receive_limit: Largest buffer of a socket that may be had [bytes].
    """
    profile, asked = Path(environment.get(_PROFILE, "")).absolute(), environment.get(_RANGE, "")
    if environment.get(_MARK):
        asked = "LOCALHOST"  # what it was before a process like this one chose the loopback
    loopback, shared_memory = profile.parent / _LOOPBACK, profile.parent / _SHARED_MEMORY
    ours = profile in (loopback, shared_memory) and loopback.is_file() and shared_memory.is_file()
    fast = environment.get(_MIDDLEWARE, "") in _FAST_DDS
    if not (ours and fast) or asked not in ("", "LOCALHOST", "SYSTEM_DEFAULT"):
        return {_RANGE: asked or "LOCALHOST", _MARK: ""}
    if images and receive_limit < RECEIVE_BUFFER:
        return {_PROFILE: str(shared_memory), _RANGE: "LOCALHOST", _MARK: ""}
    return {_PROFILE: str(loopback), _RANGE: "SYSTEM_DEFAULT", _MARK: "1"}
