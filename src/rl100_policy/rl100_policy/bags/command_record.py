# SPDX-License-Identifier: Apache-2.0
"""Who was in command in a closed episode, what was asked for and what was done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl100_policy.bags.reading import read_messages
from rl100_policy.bags.topics import EXECUTED_TOPIC
from rl100_policy.core.errors import BagError
from rl100_policy.core.gate_result import CommandSource, GateFlag
from rl100_policy.core.interventions import Interventions
from rl100_policy.core.messages import stamp_ns

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Stretch:
    """Control periods one after the other with the same source in command.

    Attributes:
        source: Value of ``CommandSource``; another one is of a later version of this suite.
        begin_ns: Stamp of the first period.
        end_ns: End of the last one.
        periods: How many.
    """

    source: int
    begin_ns: int
    end_ns: int
    periods: int


@dataclass(frozen=True)
class CommandRecord:
    """Control periods of an episode, in the order of their stamps.

    Attributes:
        stamps_ns: [C] stamps of the joint states that were answered.
        sources: [C] who was in command, ``CommandSource``.
        versions: [C] policy versions; empty where no policy's action was due.
        flags: [C] ``GateFlag``.
        requested: [C, d_a] action asked for, SI units; NaN where there was none.
        executed: [C, d_a] action after limits, SI units; NaN where there was none.
        names: Components of the actions.
        joint_names: Joints of the commands.
        joint_command: [C, n_joints] positions commanded for the end of the period, rad; NaN where
            there was none.
        malformed: Messages that cannot be read.
    """

    stamps_ns: NDArray[np.int64]
    sources: NDArray[np.int64]
    versions: tuple[str, ...]
    flags: NDArray[np.int64]
    requested: Floats
    executed: Floats
    names: tuple[str, ...]
    joint_names: tuple[str, ...]
    joint_command: Floats
    malformed: int = 0

    @property
    def period_ns(self) -> int:
        """Usual time between two control periods; 0 of fewer than two."""
        return int(np.median(np.diff(self.stamps_ns))) if len(self.stamps_ns) > 1 else 0

    def shares(self) -> dict[str, float]:
        """Share of the control periods by name of the source, the largest first."""
        counted = Counter(self.sources.tolist()).most_common()
        return {source_name(source): count / len(self.sources) for source, count in counted}

    def stretches(self) -> tuple[Stretch, ...]:
        """Who was in command, one after the other."""
        found, at = [], 0
        for source, group in groupby(self.sources.tolist()):
            count = len(list(group))
            first, last = self.stamps_ns[at], self.stamps_ns[at + count - 1]
            found.append(Stretch(source, int(first), int(last) + self.period_ns, count))
            at += count
        return tuple(found)

    def interventions(self) -> tuple[Stretch, ...]:
        """Stretches that :class:`rl100_policy.core.interventions.Interventions` counts.

        A source that this version does not know is passed over.
        """
        found: list[Stretch] = []
        counts = Interventions()
        for each in self.stretches():
            if each.source not in set(CommandSource):
                continue
            count, intervened = counts.count, counts.intervened
            counts.observe(CommandSource(each.source))
            if counts.count > count:
                found.append(each)
            elif counts.intervened > intervened:
                begun = found.pop()
                periods = begun.periods + each.periods
                found.append(Stretch(each.source, begun.begin_ns, each.end_ns, periods))
        return tuple(found)

    def flag_counts(self) -> dict[str, int]:
        """Control periods by flag, in the order of bits; those that never came are left out."""
        bits = (1 << at for at in range(int(self.flags.max(initial=0)).bit_length()))
        counts = {flag_name(bit): int(np.count_nonzero(self.flags & bit)) for bit in bits}
        return {name: count for name, count in counts.items() if count}


def source_name(source: int) -> str:
    """Name of a source of commands, also of one that this version does not know."""
    known = {int(each): each.name.lower() for each in CommandSource}
    return known.get(source, f"source {source}")


def flag_name(bit: int) -> str:
    """Name of a flag of the gate, also of one that this version does not know."""
    known = {int(each): str(each.name).lower() for each in GateFlag}
    return known.get(bit, f"flag {bit}")


def read_commands(folder: Path) -> CommandRecord | None:
    """What the command gate made of every control period; None if the bag does not say.

    Raises:
        BagError: If the file is damaged.
    """
    malformed: list[BagError] = []
    found = read_messages(
        folder, [EXECUTED_TOPIC], on_malformed=lambda _, error: malformed.append(error)
    )[EXECUTED_TOPIC]
    if not found:
        return None
    commands: list[Any] = sorted(
        (each.value for each in found), key=lambda each: stamp_ns(each.header.stamp)
    )
    return CommandRecord(
        stamps_ns=np.array([stamp_ns(each.header.stamp) for each in commands], dtype=np.int64),
        sources=np.array([each.source for each in commands], dtype=np.int64),
        versions=tuple(each.policy_version for each in commands),
        flags=np.array([each.flags for each in commands], dtype=np.int64),
        requested=_rows([each.requested for each in commands]),
        executed=_rows([each.executed for each in commands]),
        names=max((tuple(each.names) for each in commands), key=len),
        joint_names=max((tuple(each.joint_names) for each in commands), key=len),
        joint_command=_rows([each.joint_command for each in commands]),
        malformed=len(malformed),
    )


def _rows(values: Sequence[Floats]) -> Floats:
    """[C, longest]; rows of another length are NaN."""
    width = max(map(len, values))
    rows = np.full((len(values), width), np.nan)
    for row, value in zip(rows, values, strict=True):
        if len(value) == width:
            row[:] = value
    return rows
