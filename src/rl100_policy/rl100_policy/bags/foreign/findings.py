# SPDX-License-Identifier: Apache-2.0
"""Items of a data contract, and the verdict on each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """Verdict on one item."""

    OK = "ok"
    WARNING = "warning"
    NOT_OK = "not ok"


@dataclass(frozen=True)
class Finding:
    """One item of the contract."""

    item: str
    expected: str
    found: str
    status: Status = Status.OK
    advice: str = ""
    """What to do; empty where nothing is."""


@dataclass(frozen=True)
class FrameCheck:
    """What came of the frames that an episode is to be made of."""

    usable_ns: tuple[int, ...]
    """Stamps of those that can be used, increasing."""
    wanted: int
    problem: str = ""
    """Why the first of the others cannot."""


def is_met(findings: Iterable[Finding]) -> bool:
    """Whether no item is broken."""
    return all(each.status is not Status.NOT_OK for each in findings)
