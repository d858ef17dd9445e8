# SPDX-License-Identifier: Apache-2.0
"""Message definitions as a bag embeds them: .msg text with all it refers to, and type hash."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from rl100_policy.core.errors import BagError
from rl100_policy.core.shares import share_folders

_PRIMITIVES = frozenset(
    [
        "bool",
        "byte",
        "char",
        "float32",
        "float64",
        "int8",
        "uint8",
        "int16",
        "uint16",
        "int32",
        "uint32",
        "int64",
        "uint64",
        "string",
        "wstring",
    ]
)
_SEPARATOR = "=" * 80
_LONGEST_TEXT, _LONGEST_ARRAY = 200_000, 4096
_ARRAY = re.compile(r"\[(\d+)\]")
"""Length of an array in a definition."""
_TYPE_NAME = re.compile(r"^(\w+)/(?:msg/)?(\w+)$")


@dataclass(frozen=True)
class TypeDefinition:
    """One message type as a bag describes it."""

    name: str
    """``package/msg/Name``."""
    text: str
    """Its .msg text, followed by those of all types it refers to."""
    type_hash: str
    """REP-2011 hash, ``RIHS01_...``."""


class MessageDefinitions:
    """Finds definitions among installed packages, or in the source tree around this one.

    Not thread-safe; results are kept.
    """

    def __init__(self, folders: Sequence[Path] | None = None) -> None:
        """Look in the given share folders, or in those of ROS and of this interpreter."""
        self._folders = list(folders) if folders is not None else default_folders()
        self._known: Typestore = get_typestore(Stores.EMPTY)
        self._found: dict[str, TypeDefinition] = {}

    def find(self, type_name: str) -> TypeDefinition:
        """Definition of a type.

        Args:
            type_name: ``package/msg/Name`` or ``package/Name``.

        Raises:
            BagError: If the type, or one it refers to, is defined nowhere; names the folders
                searched.
        """
        package, name = _split(type_name)
        full = f"{package}/msg/{name}"
        if full not in self._found:
            text = self._full_text(package, name)
            self._found[full] = TypeDefinition(full, text, self._hash(full, text))
        return self._found[full]

    def _full_text(self, package: str, name: str) -> str:
        """Text of the type, then of its dependencies, each once, breadth first."""
        top = self._own_text(package, name)
        parts, queue, seen = [top], _dependencies(top, package), {(package, name)}
        while queue:
            dependency = queue.pop(0)
            if dependency in seen:
                continue
            seen.add(dependency)
            text = self._own_text(*dependency)
            parts.append(f"{_SEPARATOR}\nMSG: {dependency[0]}/{dependency[1]}\n{text}")
            queue += _dependencies(text, dependency[0])
        return "\n".join(part.rstrip("\n") for part in parts) + "\n"

    def _own_text(self, package: str, name: str) -> str:
        for folder in self._folders:
            file = folder / package / "msg" / f"{name}.msg"
            if file.is_file():
                return file.read_text(encoding="utf-8")
        full = f"{package}/msg/{name}"
        standard = get_typestore(Stores.ROS2_JAZZY)
        if full in standard.types:
            generated, _ = standard.generate_msgdef(full, ros_version=2)
            return generated.split(_SEPARATOR)[0]
        raise BagError(
            f"no definition of message type {full}: no {package}/msg/{name}.msg in "
            f"{', '.join(map(str, self._folders)) or 'no folder'}; "
            f"build or install package {package}"
        )

    def _hash(self, full: str, text: str) -> str:
        types = get_types_from_msg(text, full)
        self._known.register(
            {key: value for key, value in types.items() if key not in self._known.types}
        )
        return self._known.hash_rihs01(full)


def register_recorded(types: Typestore, name: str, text: str) -> None:
    """Make known the types that a recording defines.

    rosbags makes Python code of definitions and runs it: names are those of its grammar, values
    are literals. A text that is none, or absurdly large, is refused.

    Args:
        types: Where to.
        name: ``package/msg/Name``.
        text: Its definition, with those of all it refers to.

    Raises:
        BagError: If it is no definition.
    """
    longest = max((int(each[:12]) for each in _ARRAY.findall(text)), default=0)
    if len(text) > _LONGEST_TEXT or longest > _LONGEST_ARRAY:
        raise BagError(
            f"the recorded definition of {name} has {len(text)} characters and an array of "
            f"{longest}; at most {_LONGEST_TEXT} and {_LONGEST_ARRAY} are read; leave this out"
        )
    try:
        found = get_types_from_msg(text, name)
        types.register({key: each for key, each in found.items() if key not in types.types})
    except Exception as error:  # of its grammar, and of the code that is made
        raise BagError(
            f"the recorded definition of {name} is none: {error!r}; leave this out"
        ) from error


def default_folders() -> list[Path]:
    """Share folders of ROS and of this interpreter, then the source tree, if this is one."""
    return [*share_folders(), Path(__file__).resolve().parents[3]]


def _split(type_name: str) -> tuple[str, str]:
    match = _TYPE_NAME.match(type_name)
    if match is None:
        raise BagError(f"expected a message type such as sensor_msgs/msg/Image, got {type_name!r}")
    return match[1], match[2]


def _dependencies(text: str, package: str) -> list[tuple[str, str]]:
    """Types that the fields of one .msg text refer to, as (package, name)."""
    found: list[tuple[str, str]] = []
    for line in text.splitlines():
        words = line.split("#", 1)[0].split()
        if len(words) < 2:
            continue
        base = re.split(r"[\[<]", words[0], maxsplit=1)[0]
        if base in _PRIMITIVES:
            continue
        if base == "Header":
            base = "std_msgs/Header"
        found.append(_split(base if "/" in base else f"{package}/{base}"))
    return found
