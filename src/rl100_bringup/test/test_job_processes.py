# SPDX-License-Identifier: Apache-2.0
"""Runs of a claim as processes: what fails is told, and none outlives who wanted it."""

import os
import sys
import time

import pytest

from rl100_bringup.reproduction import job_processes
from rl100_bringup.reproduction.claims import Variant
from rl100_bringup.reproduction.job_processes import run_jobs
from rl100_bringup.reproduction.jobs import Job


def jobs_of(output, seeds):
    return [Job(Variant("push-v3", "push-v3"), seed, output, trials=2) for seed in seeds]


def pretend(monkeypatch, body: str):
    """A process that reads its job and does ``body`` instead of running it."""
    script = f"import os, pathlib, pickle, sys, time\njob = pickle.load(sys.stdin.buffer)\n{body}"
    monkeypatch.setattr(job_processes, "_COMMAND", (sys.executable, "-c", script))


def ends(pid: int) -> bool:
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def test_a_run_that_fails_is_told_with_its_reason_and_the_others_go_on(tmp_path, monkeypatch):
    pretend(monkeypatch, "sys.exit('the disk is full' if job.seed == 1 else os._exit(9) "
                         "if job.seed == 2 else 0)")  # fmt: skip
    told = []
    jobs = jobs_of(tmp_path, range(4))
    failed = run_jobs(jobs, 2, lambda job, reason: told.append((job.seed, reason)))
    assert failed == {
        jobs[1].folder: "the disk is full",
        jobs[2].folder: "its process ended with status 9",
    }
    assert sorted(told) == [
        (0, ""), (1, "the disk is full"), (2, "its process ended with status 9"), (3, ""),
    ]  # fmt: skip


def test_no_more_run_at_once_than_asked_for(tmp_path, monkeypatch):
    pretend(monkeypatch, "here = job.output / 'at'; here.mkdir(exist_ok=True)\n"
                         "mine = here / str(job.seed); mine.touch()\n"
                         "(job.output / f'n{job.seed}').write_text(str(len(os.listdir(here))))\n"
                         "time.sleep(0.3); mine.unlink()")  # fmt: skip
    assert run_jobs(jobs_of(tmp_path, range(5)), 2, lambda *_: None) == {}
    assert {(tmp_path / f"n{seed}").read_text() for seed in range(5)} <= {"1", "2"}


def test_an_interrupt_ends_what_runs(tmp_path, monkeypatch):
    pretend(monkeypatch, "pid = str(os.getpid())\n"
                         "if job.seed == 1: (job.output / 'pid').write_text(pid); time.sleep(99)\n"
                         "while not (job.output / 'pid').exists(): time.sleep(0.01)")  # fmt: skip

    def interrupted(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_jobs(jobs_of(tmp_path, range(2)), 2, interrupted)
    assert ends(int((tmp_path / "pid").read_text()))
