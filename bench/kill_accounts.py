# SPDX-License-Identifier: Apache-2.0
"""What must be found of every episode after its recorder was killed; see ``kill_recorder``."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import numpy as np
from rich.table import Table

from rl100_policy.bags.identity import PARTIAL, QUARANTINE, TRASH, is_episode_folder
from rl100_policy.bags.index import read_index
from rl100_policy.bags.judgement import JudgementKind
from rl100_policy.bags.reading import read_messages, read_metadata
from rl100_policy.bags.recovery import REASON_FILE, check_episode
from rl100_policy.core.errors import BagError
from rl100_policy.core.messages import stamp_ns

LIMIT_S = 0.5
"""What a crash may cost [s]."""
SENSORS = ("/joint_states", "/depth")


class Phase(StrEnum):
    """What a recorder had been asked to do when it was killed."""

    IDLE = "idle"
    STARTING = "starting"
    RECORDING = "recording"
    CLOSING = "closing"
    RELABELLING = "relabelling"


@dataclass
class Episode:
    """One episode as the person at the robot knows it; wall times, 0: not yet [ns]."""

    episode_id: str
    begun_ns: int
    """The recorder had answered that it records."""
    end_ns: int = 0
    """Stamp of the stop request."""
    closed_ns: int = 0
    """The recorder had answered that the bag is closed."""
    judgements: list[tuple[int, int]] = field(default_factory=list)
    """Stamp and kind, in order."""


@dataclass
class Account:
    """One killed recorder."""

    phase: Phase
    killed_ns: int
    episodes: list[Episode]
    intact: int = 0
    """Episodes that were closed before, and are whole."""
    recovered: int = 0
    complete: int = 0
    """Open ones that lacked nothing but their new name, or not even that."""
    quarantined: int = 0
    loss_s: float = 0.0
    """Longest stretch that a sensor had published before the kill, and no bag holds [s]."""
    judged: int = 0
    """Judgements found again."""
    unkept: int = 0
    """Judgements given in the last half second, and not found again."""

    @property
    def closed(self) -> int:
        """Episodes that the recorder had said to be closed."""
        return sum(bool(episode.closed_ns) for episode in self.episodes)


class Published:
    """Stamps that were published, by topic, in files that another process can read."""

    def __init__(self, folder: Path) -> None:
        """Keep them in a folder."""
        self._files = {topic: folder / f"{topic.strip('/')}.stamps" for topic in SENSORS}
        self._open: dict[str, int] = {}

    def note(self, topic: str, stamp: int) -> None:
        """Add a stamp [ns]."""
        if topic not in self._open:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            self._open[topic] = os.open(self._files[topic], flags, 0o644)
        os.write(self._open[topic], stamp.to_bytes(8, "little"))

    def between(self, topic: str, first_ns: int, last_ns: int) -> np.ndarray:
        """Stamps in a closed interval, in order [n] int64 [ns]."""
        stamps = np.fromfile(self._files[topic], dtype="<i8")
        return stamps[(stamps >= first_ns) & (stamps <= last_ns)]


def settle(lives: list[Account], bags: Path, published: Published) -> list[str]:
    """Fill in what became of every episode; what is lost, for people."""
    lost: list[str] = []
    for life in lives:
        for episode in life.episodes:
            lost += _settled(life, episode, bags, published)
    known = {episode.episode_id for life in lives for episode in life.episodes}
    return lost + _folder_problems(bags, known)


def _folder_problems(bags: Path, known: set[str]) -> list[str]:
    """What is wrong with the folder as a whole, among it what nobody had been told of."""
    problems = [f"{name}: {why}" for name, why in read_index(bags).damaged.items()]
    for folder in bags.iterdir():
        if not folder.is_dir() or folder.name in (QUARANTINE, TRASH):
            continue
        if not is_episode_folder(folder):
            problems.append(f"{folder.name} was left")
        elif folder.name not in known:  # begun, but the answer had not come
            problems += check_episode(folder)
    remains = bags / QUARANTINE
    for folder in remains.iterdir() if remains.is_dir() else ():
        if not (folder / REASON_FILE).is_file() or not (folder / REASON_FILE).read_text():
            problems.append(f"{folder.name} is in quarantine without a reason")
    return problems


def _settled(life: Account, episode: Episode, bags: Path, published: Published) -> list[str]:
    """Account for one episode; what is lost of it."""
    folder, name = bags / episode.episode_id, episode.episode_id
    last_ns = min(life.killed_ns, episode.end_ns or life.killed_ns)
    if not folder.is_dir():
        life.quarantined += 1
        life.loss_s = max(life.loss_s, (last_ns - episode.begun_ns) / 1e9)
        if not (bags / QUARANTINE / (name + PARTIAL) / REASON_FILE).is_file():
            return [f"{name} is nowhere"]
        young = not episode.closed_ns and last_ns - episode.begun_ns < LIMIT_S * 1e9
        return [] if young else [f"{name} of {last_ns - episode.begun_ns} ns is in quarantine"]
    problems = check_episode(folder)
    if problems:
        return problems
    allowed_s = 0.0 if episode.closed_ns else LIMIT_S
    for topic in SENSORS:
        sent = published.between(topic, episode.begun_ns, last_ns)
        loss_s, problem = _missing(folder, topic, sent, last_ns)
        life.loss_s = max(life.loss_s, loss_s)
        problems += [f"{name}: {problem}"] if problem else []
        if loss_s > allowed_s:
            problems.append(f"{name}: {loss_s:.3f} s of {topic}, killed while {life.phase}")
    problems += _judgement_problems(life, episode, folder)
    if episode.closed_ns:
        life.intact += not problems
    elif read_metadata(folder).recovered:
        life.recovered += 1
    else:
        life.complete += 1
    return problems


def _missing(folder: Path, topic: str, sent: np.ndarray, last_ns: int) -> tuple[float, str]:
    """Time between the newest message kept and the last one sent [s]; a hole before it."""
    try:
        found = read_messages(folder, [topic])[topic]
    except BagError as error:
        return 0.0, str(error)
    kept = {stamp_ns(message.value.header.stamp) for message in found}
    newest_ns = max((stamp for stamp in kept if stamp <= last_ns), default=0)
    holes = [stamp for stamp in sent.tolist() if stamp < newest_ns and stamp not in kept]
    problem = f"{len(holes)} messages of {topic} are missing before the newest" if holes else ""
    if not len(sent) or newest_ns >= sent[-1]:
        return 0.0, problem
    return (int(sent[-1]) - max(newest_ns, int(sent[0]))) / 1e9, problem


def _judgement_problems(life: Account, episode: Episode, folder: Path) -> list[str]:
    """Judgements that are older than what a crash may cost, and are not in the bag."""
    kept = {(each.stamp_ns, each.kind) for each in read_metadata(folder).judgements}
    problems = []
    for given_ns, kind in episode.judgements:
        if (given_ns, JudgementKind(kind)) in kept:
            life.judged += 1
        elif life.killed_ns - given_ns < LIMIT_S * 1e9:
            life.unkept += 1
        else:
            problems.append(f"{folder.name}: judgement {kind} is missing")
    return problems


def table_of(lives: list[Account]) -> Table:
    """One row per phase, and a total."""
    table = Table(title="recorder killed while")
    table.add_column("phase")
    for title in (
        "kills", "closed", "intact", "open", "recovered", "complete", "quarantined",
        "worst loss [s]", "judgements kept", "not kept",
    ):  # fmt: skip
        table.add_column(title, justify="right")
    for phase in Phase:
        table.add_row(phase.value, *_cells([life for life in lives if life.phase is phase]))
    table.add_section()
    table.add_row("all", *_cells(lives))
    return table


def _cells(lives: list[Account]) -> list[str]:
    closed = sum(life.closed for life in lives)
    open_ones = sum(len(life.episodes) for life in lives) - closed
    counts = (
        len(lives), closed, sum(life.intact for life in lives), open_ones,
        sum(life.recovered for life in lives), sum(life.complete for life in lives),
        sum(life.quarantined for life in lives),
    )  # fmt: skip
    worst = max((life.loss_s for life in lives), default=0.0)
    judged = (sum(life.judged for life in lives), sum(life.unkept for life in lives))
    return [*map(str, counts), f"{worst:.3f}", *map(str, judged)]
