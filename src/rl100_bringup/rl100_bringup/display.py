# SPDX-License-Identifier: Apache-2.0
"""Progress display of the verbs: bars on a terminal, a line now and then in a log."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from rl100_learner.training.progress import Progress as TrainingProgress

_LINE_PERIOD_S = 10.0
"""Where there is no terminal, a task prints at most this often [s]."""


def progress_display(console: Console) -> Progress:
    """Bars with a count, the time and a note; each task needs a field ``note``."""
    kind = Progress if console.is_terminal else _LineProgress
    return kind(
        TextColumn("{task.description:<34}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
    )


class _LineProgress(Progress):
    """Prints lines while tasks run; without a terminal the bars show only at the end."""

    def __init__(self, *columns: Any, console: Console) -> None:
        super().__init__(*columns, console=console)
        self._printed: dict[TaskID, float] = {}

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """As in rich, and a line at a task's end and when the last one of it is old enough."""
        super().update(task_id, **changes)
        now, task = time.monotonic(), self._tasks[task_id]
        ended = task.total is not None and task.completed >= task.total
        if ended or now - self._printed.setdefault(task_id, now) >= _LINE_PERIOD_S:
            self._printed[task_id] = now
            total = "?" if task.total is None else f"{task.total:.0f}"
            self.console.print(
                f"{task.description}: {task.completed:.0f}/{total}, {task.elapsed or 0.0:.0f} s "
                f"{task.fields['note']}",
                highlight=False,
            )


class Bars:
    """Bars that appear when something is first heard of what they stand for."""

    def __init__(self, display: Progress) -> None:
        """Draw on ``display``."""
        self._display = display
        self._bars: dict[str, TaskID] = {}
        self._done: dict[str, int] = {}

    @classmethod
    @contextmanager
    def shown(cls, console: Console) -> Iterator[Self]:
        """Bars on a console for as long as the context lasts."""
        with progress_display(console) as display:
            yield cls(display)

    def update(self, what: str, done: int, total: int, note: str) -> None:
        """Move the bar called ``what``; a bar that goes back begins again, its time too."""
        if what not in self._bars:
            self._bars[what] = self._display.add_task(what, total=total, note="")
        elif self._done[what] > done:
            self._display.reset(self._bars[what], total=total)
        self._done[what] = done
        self._display.update(self._bars[what], completed=done, total=total, note=note)

    def on_episodes(self, what: str, done: int, total: int, successes: int) -> None:
        """Of a collector."""
        self.update(f"{what} episodes", done, total, f"{successes} successes")

    def on_stage(self, stage: str, progress: TrainingProgress) -> None:
        """Of one stage of a run of several."""
        name = progress.stage if stage == progress.stage else f"{stage}: {progress.stage}"
        note = f"loss {progress.loss:.3f}"
        if progress.success is not None:
            note = f"success {progress.success:.3f}"
        self.update(name, progress.step, progress.steps, note)
