# SPDX-License-Identifier: Apache-2.0
"""Bags into training tensors, against a plain loop that deserialises everything in them.

The loop is rosbags' own: every message of every topic, in order. Both read the same bags in turns,
before each of which the files are dropped from the page cache. Then a second start, where every
episode is in the cache of tensors, and one with a single new bag. Ends with status 1 if one of
these reads another number of bags than it should.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import lz4.frame
import numpy as np
import typer
import zstandard
from bag_sets import CELL, SIMULATION, BagKind, BagMaker
from mcap.data_stream import ReadDataStream
from rich.console import Console
from rich.table import Table
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from rl100_learner.data.reader import BagReport, BagStatus, load_demonstrations
from rl100_policy.bags import reading
from rl100_policy.bags.identity import CACHE
from rl100_policy.bags.writer import Compression
from rl100_policy.core.observed_cloud import CloudMaker

_PARTS: dict[str, tuple[tuple[Any, str], ...]] = {
    "file": ((ReadDataStream, "read"),),
    "decompression": ((zstandard, "decompress"), (lz4.frame, "decompress")),
    "checksums": ((zlib, "crc32"),),
    "hash": ((Future, "result"),),
    "clouds": ((CloudMaker, "make"),),
    "deserialising": ((reading, "_from_cdr"),),
}
"""Timed functions; none calls another of them. The file is hashed beside all else: what is timed
is the wait for it at the end."""
_KINDS = (SIMULATION, CELL)
_COMPRESSIONS: tuple[Compression, ...] = ("none", "lz4", "zstd")


@contextmanager
def part_times() -> Iterator[dict[str, float]]:
    """Seconds spent in the functions of ``_PARTS`` inside the context."""
    spent = dict.fromkeys(_PARTS, 0.0)
    before = [
        (owner, name, getattr(owner, name)) for each in _PARTS.values() for owner, name in each
    ]

    def timed(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            begun = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                spent[part] += time.perf_counter() - begun

        return wrapped

    for part, functions in _PARTS.items():
        for owner, name in functions:
            setattr(owner, name, timed(part, getattr(owner, name)))
    try:
        yield spent
    finally:
        for owner, name, function in before:
            setattr(owner, name, function)


def bag_files(bags: Path) -> list[Path]:
    """The MCAP files of a folder."""
    return sorted(bags.glob("[!.]*/*.mcap"))


def drop_from_memory(bags: Path) -> bool:
    """Ask the system to forget what it keeps of the files; whether it can be asked."""
    if not hasattr(os, "posix_fadvise"):
        return False
    for path in bag_files(bags):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
    return True


def plain_loop(bags: Path) -> float:
    """Seconds of rosbags' loop over everything."""
    typestore = get_typestore(Stores.EMPTY)
    begun = time.perf_counter()
    for path in bag_files(bags):
        with Reader(path.parent) as reader:
            for connection in reader.connections:
                types = get_types_from_msg(connection.msgdef.data, connection.msgtype)
                typestore.register({k: v for k, v in types.items() if k not in typestore.types})
            for connection, _, data in reader.messages():
                typestore.deserialize_cdr(data, connection.msgtype)
    return time.perf_counter() - begun


def tensors(bags: Path, kind: BagKind) -> tuple[float, Counter[BagStatus], dict[str, float]]:
    """Seconds of a start of learning, what became of the bags, and the seconds of the parts."""
    reports: list[BagReport] = []
    with part_times() as spent:
        begun = time.perf_counter()
        load_demonstrations(bags, kind.task, kind.robot, on_report=reports.append)
        seconds = time.perf_counter() - begun
    return seconds, Counter(each.status for each in reports), spent


class Measured:
    """Times of one folder of bags, in turns."""

    def __init__(self, bags: Path, kind: BagKind, spare: Path) -> None:
        """Nothing is measured yet; ``spare`` is a bag that is not in the folder."""
        self._bags, self._kind, self._spare = bags, kind, spare
        self.seconds: dict[str, list[float]] = {
            each: [] for each in ("plain loop", "cold", "second start", "one new bag")
        }
        self.parts: list[dict[str, float]] = []
        self.problems: list[str] = []
        self.dropped = True

    @property
    def count(self) -> int:
        """Bags in the folder."""
        return len(bag_files(self._bags))

    @property
    def megabytes(self) -> float:
        """Of the bags."""
        return sum(path.stat().st_size for path in bag_files(self._bags)) / 1e6

    def take(self, *, loop_first: bool) -> None:
        """Measure everything once."""
        order = [self._loop, self._cold] if loop_first else [self._cold, self._loop]
        for measure in order:
            self.dropped &= drop_from_memory(self._bags)
            measure()
        self._start("second start", Counter({BagStatus.CACHED: self.count}))
        before = self.count
        added = self._bags / self._spare.name
        self._spare.rename(added)
        os.sync()
        drop_from_memory(self._bags)
        expected = Counter({BagStatus.CACHED: before, BagStatus.READ: 1})
        self._start("one new bag", expected)
        added.rename(self._spare)

    def _loop(self) -> None:
        self.seconds["plain loop"].append(plain_loop(self._bags))

    def _cold(self) -> None:
        shutil.rmtree(self._bags / CACHE, ignore_errors=True)
        self.parts.append(self._start("cold", Counter({BagStatus.READ: self.count})))

    def _start(self, name: str, expected: Counter[BagStatus]) -> dict[str, float]:
        seconds, found, parts = tensors(self._bags, self._kind)
        self.seconds[name].append(seconds)
        if found != expected:
            self.problems.append(f"{self._bags}, {name}: expected {expected}, got {found}")
        return parts

    def median(self, name: str) -> float:
        """Seconds."""
        return float(np.median(self.seconds[name]))

    def ratio(self) -> float:
        """How much longer the plain loop takes, median of the turns."""
        pairs = zip(self.seconds["plain loop"], self.seconds["cold"], strict=True)
        return float(np.median([loop / cold for loop, cold in pairs]))

    def shares(self) -> dict[str, float]:
        """Of a cold start, by part; medians."""
        found: dict[str, float] = {}
        for part in _PARTS:
            pairs = zip(self.parts, self.seconds["cold"], strict=True)
            found[part] = float(np.median([parts[part] / whole for parts, whole in pairs]))
        return found | {"rest": 1.0 - sum(found.values())}


def speed_table(measured: dict[str, Measured]) -> Table:
    """How fast everything is."""
    table = Table(
        "bags", "MB", "loop [s]", "cold [s]", "loop / cold", "cold [MB/s]", "cold [episodes/s]",
        "second start [s]", "one new bag [s]", title="Medians",
    )  # fmt: skip
    for name, each in measured.items():
        cold = each.median("cold")
        table.add_row(
            f"{each.count} x {name}", f"{each.megabytes:.0f}",
            f"{each.median('plain loop'):.3f}", f"{cold:.3f}", f"{each.ratio():.2f}",
            f"{each.megabytes / cold:.0f}", f"{each.count / cold:.1f}",
            f"{each.median('second start'):.3f}", f"{each.median('one new bag'):.3f}",
        )  # fmt: skip
    return table


def share_table(measured: dict[str, Measured]) -> Table:
    """What a cold start is made of."""
    table = Table("bags", *_PARTS, "rest", title="Share of a cold start [%]")
    for name, each in measured.items():
        table.add_row(name, *(f"{100 * share:.0f}" for share in each.shares().values()))
    return table


def main(
    bags: Annotated[int, typer.Option(help="bags of a folder, beside the new one")] = 4,
    repeats: Annotated[int, typer.Option(help="turns")] = 5,
    length: Annotated[float, typer.Option(help="of the bags, as a share of the usual")] = 1.0,
    output: Annotated[Path | None, typer.Option(help="file of the report (JSON)")] = None,
) -> None:
    """Measure and print."""
    measured: dict[str, Measured] = {}
    with tempfile.TemporaryDirectory(dir=".", prefix="bag_reading_") as scratch:
        for usual in _KINDS:
            kind = replace(usual, seconds=length * usual.seconds)
            maker = BagMaker(kind)
            for compression in _COMPRESSIONS:
                name = f"{kind.name}, {compression}"
                folder, aside = (Path(scratch) / each / name for each in ("bags", "spare"))
                for _ in range(bags):
                    maker.write(folder, compression)
                measured[name] = Measured(folder, kind, maker.write(aside, compression))
        for turn in range(repeats):
            for each in measured.values():
                each.take(loop_first=bool(turn % 2))
        console = Console(width=160)
        console.print(speed_table(measured))
        console.print(share_table(measured))
        if not all(each.dropped for each in measured.values()):
            console.print("the page cache could not be dropped: cold starts read from memory")
        problems = [problem for each in measured.values() for problem in each.problems]
        for problem in problems:
            console.print(f"FAILED: {problem}", highlight=False)
        if output is not None:
            report = {
                name: {"seconds": each.seconds, "parts": each.parts, "megabytes": each.megabytes}
                for name, each in measured.items()
            }
            output.write_text(json.dumps(report, indent=1), encoding="utf-8")
    raise typer.Exit(bool(problems))


if __name__ == "__main__":
    typer.run(main)
