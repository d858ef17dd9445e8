# SPDX-License-Identifier: Apache-2.0
"""Runs of a claim, each a process of its own that ends with the one that started it.

``python -m rl100_bringup.reproduction.job_processes`` reads one pickled :class:`Job` from its
standard input, as :func:`run_jobs` writes it and nobody else: a pickle may run code.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rl100_bringup import tether
from rl100_bringup.reproduction.jobs import Job
from rl100_policy.core.errors import Rl100Error

_POLL_S, _STOP_TIMEOUT_S = 0.2, 10.0
_COMMAND = (sys.executable, "-m", "rl100_bringup.reproduction.job_processes")
_REASON_LINES = 12
"""The end of what a failed run wrote, in its reason."""
ERRORS = "errors.log"
"""What a run's process wrote to its standard error, beside ``run.log``."""


@dataclass
class _Running:
    job: Job
    process: subprocess.Popen[bytes]


def run_jobs(
    jobs: Sequence[Job], at_once: int, on_finished: Callable[[Job, str], None]
) -> dict[Path, str]:
    """Run all, some at a time; one that fails does not stop the others.

    Whatever ends this function, or its process, ends the running ones: they go on when they are
    run again. Call it from the main thread, see ``tether``.

    Args:
        jobs: Of different folders.
        at_once: How many processes.
        on_finished: Called with each, and the reason why it failed or nothing.

    Returns:
        Reasons of those that failed, by their folder.
    """
    waiting, running, failed = deque(jobs), list[_Running](), dict[Path, str]()
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                running.append(_start(waiting.popleft()))
            time.sleep(_POLL_S)
            for each in [each for each in running if each.process.poll() is not None]:
                running.remove(each)
                reason = _reason(each)
                if reason:
                    failed[each.job.folder] = reason
                on_finished(each.job, reason)
    finally:
        for each in running:
            each.process.terminate()
        for each in running:
            try:
                each.process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                each.process.kill()
                each.process.wait()
    return failed


def _start(job: Job) -> _Running:
    job.folder.mkdir(parents=True, exist_ok=True)
    with (job.folder / ERRORS).open("wb") as errors:
        process = subprocess.Popen(
            tether.tied(list(_COMMAND)),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,  # an interrupt from the keyboard is the parent's to handle
        )
    if process.stdin is not None:
        with suppress(BrokenPipeError), process.stdin:  # its end tells why
            process.stdin.write(pickle.dumps(job))
    return _Running(job, process)


def _reason(ended: _Running) -> str:
    """Why a process failed; nothing if it did not."""
    status = ended.process.returncode
    if status == 0:
        return ""
    text = (ended.job.folder / ERRORS).read_text(encoding="utf-8", errors="replace")
    said = "\n".join(text.splitlines()[-_REASON_LINES:])
    return said or f"its process ended with status {status}"


def main() -> int:
    """Run the job of the standard input; its error message goes to the standard error."""
    from rl100_bringup.reproduction.reproducing import run_job

    with suppress(OSError):
        os.nice(5)  # the person's own work comes first
    try:
        run_job(pickle.load(sys.stdin.buffer))
    except Rl100Error as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
