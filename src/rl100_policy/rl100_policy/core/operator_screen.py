# SPDX-License-Identifier: Apache-2.0
"""What a person at the robot sees in the terminal: pure functions from messages to text.

Messages are read by their fields, as in :mod:`rl100_policy.core.messages`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from rl100_policy.core.flow import OUTCOMES, State
from rl100_policy.core.gate_result import CommandSource
from rl100_policy.core.key_bindings import (
    FASTER_KEY,
    GRIPPER_KEY,
    MODE_KEY,
    PRESS_KEYS,
    SLOWER_KEY,
    Binding,
    bindings,
)
from rl100_policy.core.key_motion import SCALES, KeyMotion
from rl100_policy.core.presses import Press

_WIDE, _HIGH = 110, 36
"""Columns and lines that everything takes."""
_STYLES = {
    State.RECORDING: "bold white on red",
    State.ARMED: "bold black on yellow",
    State.REVIEW: "bold black on green",
    State.STOPPED: "bold white on magenta",
    State.RESETTING: "bold black on cyan",
}
_WHO = {
    CommandSource.HOLD: "nobody: the arm holds",
    CommandSource.TELEOP: "you",
    CommandSource.POLICY: "the policy",
    CommandSource.HOME: "the gate, on the way home",
}


@dataclass
class Seen:
    """The newest message of each kind; None until one came."""

    operator: Any = None
    """rl100_msgs/OperatorState."""
    gate: Any = None
    """rl100_msgs/GateStatus."""
    episode: Any = None
    """rl100_msgs/EpisodeState."""
    policy: Any = None
    """rl100_msgs/PolicyStatus."""


def is_small(width: int, height: int) -> bool:
    """Whether a terminal has room for the essential only."""
    return width < _WIDE or height < _HIGH


def screen(
    title: str,
    seen: Seen,
    motion: KeyMotion,
    last_key: str,
    scene: RenderableType,
    *,
    small: bool = False,
) -> RenderableType:
    """The whole screen.

    Args:
        title: Task and robot.
        seen: What the other nodes said last.
        motion: State of the motion keys.
        last_key: Newest key, for people.
        scene: Picture of the workspace.
        small: The terminal has room for the essential only: no topics but those in trouble, and
            the keys in a few lines.
    """
    if small:
        left = Group(_counts(seen), _control(seen, motion, last_key))
        beneath = Group(_troubles(seen), _short_keys())
        return Group(_headline(title, seen), _beside(left, scene), beneath)
    return Group(
        _headline(title, seen),
        _beside(Group(_counts(seen), _control(seen, motion, last_key), _topics(seen)), scene),
        _keys(bindings()),
    )


def _beside(left: RenderableType, right: RenderableType) -> RenderableType:
    table = Table.grid(padding=(0, 2), expand=True)
    table.add_column(ratio=1)
    table.add_column(no_wrap=True)
    table.add_row(left, Panel(right, title="from above", box=box.ROUNDED))
    return table


def _headline(title: str, seen: Seen) -> RenderableType:
    told = seen.operator
    if told is None:
        return Panel(
            Text("waiting for the episode flow; does the graph run, in this ROS domain?"),
            title=title,
            box=box.ROUNDED,
        )
    state = State(told.state)
    line = Text()
    line.append(f" {state.name} ", style=_STYLES.get(state, "bold"))
    if not math.isnan(told.seconds_left):
        line.append(f" {told.seconds_left:.0f} s left", style="dim")
    line.append(f"  {told.message}")
    return Panel(line, title=title, box=box.ROUNDED)


def _plain(rows: Iterable[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for name, value in rows:
        table.add_row(name, value)
    return table


def _counts(seen: Seen) -> RenderableType:
    told = seen.operator
    if told is None:
        return Text("")
    kept = told.successes + told.failures + told.unlabelled
    wanted = f" of {told.wanted}" if told.wanted else ""
    outcome = "in the trash" if told.discarded else OUTCOMES[told.outcome]
    episode = f"{told.episode_id}: {outcome}" if told.episode_id else "none yet"
    rows = [
        (
            "episodes",
            f"{kept}{wanted}: {told.successes} success, {told.failures} failure, "
            f"{told.unlabelled} unlabelled; {told.trashed} in the trash",
        ),
        ("last", episode + (", degraded" if told.degraded else "")),
    ]
    if told.driver == "policy":
        length = (
            f", {told.intervention_mean_s:.1f} s each"
            if not math.isnan(told.intervention_mean_s)
            else ""
        )
        rows.append(
            (
                "takeovers",
                f"{told.interventions}, {told.intervention_share:.0%} of this episode{length}; "
                f"{told.session_intervention_share:.0%} of the session",
            )
        )
    return _plain(rows)


def _control(seen: Seen, motion: KeyMotion, last_key: str) -> RenderableType:
    rows = []
    if seen.gate is not None:
        who = "EMERGENCY STOP" if seen.gate.estop else _WHO[CommandSource(seen.gate.source)]
        rows.append(("in command", who))
    moved = f"joint {motion.joint + 1}: {motion.joints[motion.joint]}"
    step = f"{SCALES[motion.scale]:.0%} of full speed"
    rows.append(("steering", f"{moved if motion.by_joint else 'tool'}, {step}"))
    if seen.policy is not None and seen.policy.policy_version:
        rows.append(
            (
                "policy",
                f"{seen.policy.policy_version}, {1e3 * seen.policy.inference_p50_s:.1f} ms",
            )
        )
    rows.append(("last key", last_key or "none"))
    told = seen.operator
    if told is not None and told.last_event:
        press = Press(told.last_event).name.lower().replace("_", " ")
        rows.append(("last press", f"{press} by {told.last_source}"))
    return _plain(rows)


def _topics(seen: Seen) -> RenderableType:
    if seen.episode is None:
        return Text("no recorder is heard", style="yellow")
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    for name in ("recorded topic", "Hz", "age s", "lost", "trouble"):
        table.add_column(name, justify="right" if name in ("Hz", "age s", "lost") else "left")
    for each in seen.episode.topics:
        if not (each.expected_hz or each.trouble):
            continue
        lost = max(each.lost_middleware + each.lost_recorder, each.lost_gaps)
        age = "" if math.isnan(each.age_s) else f"{each.age_s:.1f}"
        table.add_row(
            each.topic,
            f"{each.rate_hz:.0f} of {each.expected_hz:.0f}",
            age,
            str(lost),
            Text(each.trouble, style="bold red"),
        )
    free = (
        f"{seen.episode.free_bytes / 1e9:.0f} GB free, "
        f"{seen.episode.messages} messages in the episode"
    )
    return Group(table, Text(free, style="dim"))


def _troubles(seen: Seen) -> RenderableType:
    if seen.episode is None:
        return Text("no recorder is heard", style="yellow")
    return Text("; ".join(seen.episode.troubles), style="bold red")


def _short_keys() -> RenderableType:
    """Every key with a word."""
    line = Text()
    for key, press in PRESS_KEYS.items():
        line.append(f"{key} ", style="bold cyan")
        line.append(f"{press.name.lower().replace('_', ' ')}   ")
    for key, what in (
        ("arrows pgup pgdn", "steer"), (MODE_KEY, "joints"), ("1-9", "which"),
        (f"{FASTER_KEY} {SLOWER_KEY}", "step size"), (GRIPPER_KEY, "gripper"),
    ):  # fmt: skip
        line.append(f"{key} ", style="bold cyan")
        line.append(f"{what}   ")
    return line


def _keys(table: Iterable[Binding]) -> RenderableType:
    grid = Table.grid(padding=(0, 1))
    for _ in range(2):
        grid.add_column(style="bold cyan", no_wrap=True)
        grid.add_column(no_wrap=True, overflow="ellipsis")
    cells = [(each.keys.replace("page_", "pg"), each.what) for each in table]
    half = (len(cells) + 1) // 2
    for place in range(half):
        right = cells[half + place] if half + place < len(cells) else ("", "")
        grid.add_row(*cells[place], *right)
    return Panel(grid, title="keys", box=box.ROUNDED)
