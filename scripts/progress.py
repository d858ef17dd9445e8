# SPDX-License-Identifier: Apache-2.0
"""Progress of long steps: one line that counts seconds; the full output goes to a log file."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

# A terminal's line is redrawn; a log file gets a new line this often.
_REDRAW_S, _LINE_S = 0.5, 20.0
_TAIL_LINES = 25


class StepError(RuntimeError):
    """A command failed; the message carries the end of its output and what to do."""


def say(text: str) -> None:
    """Tell the user something; stdout stays free for what the verb itself prints."""
    print(f"rl100: {text}", file=sys.stderr, flush=True)


def run_logged(
    title: str,
    command: Sequence[str],
    log: Path,
    environment: Mapping[str, str],
    summarise: Callable[[str], str | None],
    *,
    directory: Path,
    advice: str,
) -> None:
    """Run a command, show one line of progress, keep all it prints in a log file.

    Args:
        title: What the step does, for the progress line.
        command: Program and arguments.
        log: File for the output; replaced.
        environment: Environment of the command.
        summarise: Turns one line of output into a few words of progress, or None for no news.
        directory: Where the command runs.
        advice: What the user can do when the command fails.

    Raises:
        StepError: If the command fails.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    line = _ProgressLine(title)
    with log.open("w") as out, line:
        process = subprocess.Popen(
            command,
            cwd=directory,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        assert process.stdout is not None  # PIPE was asked for
        try:
            for text in process.stdout:
                out.write(text)
                tail.append(text.rstrip())
                line.news = summarise(text) or line.news
        except BaseException:
            process.terminate()
            raise
        finally:
            status = process.wait()
        line.failed = status != 0
    if status != 0:
        shown = "\n".join(f"  | {text}" for text in tail)
        raise StepError(
            f"{title} failed (exit status {status}); the end of {log}:\n{shown}\n{advice}"
        )


class _ProgressLine:
    """The line itself, redrawn by a thread so that the seconds count while output is silent."""

    def __init__(self, title: str) -> None:
        self.news = ""
        self.failed = False
        self._title = title
        self._start = time.monotonic()
        self._redrawn = sys.stderr.isatty()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_drawing, daemon=True)

    def __enter__(self) -> _ProgressLine:
        self._draw("")
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        self._draw("failed" if self.failed or error[0] else "done", end="\n")

    def _keep_drawing(self) -> None:
        while not self._stop.wait(_REDRAW_S if self._redrawn else _LINE_S):
            self._draw(self.news)

    def _draw(self, text: str, end: str = "") -> None:
        elapsed = time.monotonic() - self._start
        line = f"rl100: {self._title} [{elapsed:4.0f} s] {text[:50]}"
        if self._redrawn:
            print(f"\r{line:<78}\x1b[K", end=end, file=sys.stderr, flush=True)
        else:
            print(line.rstrip(), file=sys.stderr, flush=True)
