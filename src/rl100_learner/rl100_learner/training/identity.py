# SPDX-License-Identifier: Apache-2.0
"""What a folder holds: one run, told by a fingerprint of all that decides its bits."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from rl100_learner.files import replacing
from rl100_policy.core.errors import ConfigError


def fingerprint(*parts: object) -> str:
    """SHA-256 of what decides a run; parts are such as JSON can hold."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def claim(path: Path, identity: str, told: dict[str, Any]) -> None:
    """Write down what is run in the folder of ``path``, or see that it is the same.

    Args:
        path: The file that says so.
        identity: Of :func:`fingerprint`.
        told: What a person would want to read there, such as resolved settings.

    Raises:
        ConfigError: If another run is there; nothing is changed then.
    """
    if path.exists():
        try:
            known = json.loads(path.read_text(encoding="utf-8")).get("fingerprint")
        except (ValueError, AttributeError):
            known = None
        if known == identity:
            return
        raise ConfigError(
            f"{path.parent} holds another run: with other settings or episodes, or from another "
            "version; choose another output folder, or give the same again to go on with it"
        )
    with replacing(path) as file:
        file.write((json.dumps({"fingerprint": identity} | told, indent=2) + "\n").encode())
