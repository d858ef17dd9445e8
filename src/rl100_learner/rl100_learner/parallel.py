# SPDX-License-Identifier: Apache-2.0
"""Imitation and the one-step student by several processes: the first stage of a run.

    torchrun --nproc-per-node 2 -m rl100_learner.parallel --task TASK.yaml --robot ROBOT.yaml \
        --bags BAGS --output RUN --set device=cuda

It leaves in RUN the version and the records that the stage ``imitation`` of ``./rl100 train``
leaves, and ``./rl100 train`` with the same bags, folder and settings goes on from there, in one
process. Killed, the same command with the same number of processes goes on from its last
checkpoint.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from rl100_learner.accelerator import choose_device
from rl100_learner.data.reader import load_demonstrations
from rl100_learner.training.algorithm_run import imitation_stage
from rl100_learner.training.algorithm_settings import settings_for
from rl100_learner.training.identity import alone_in
from rl100_learner.training.imitation_run import train_imitation
from rl100_learner.training.processes import connected, local_rank
from rl100_learner.training.progress import Progress
from rl100_policy.core.config import load_robot, load_task
from rl100_policy.core.errors import Rl100Error

_LOG = logging.getLogger(__name__)


def train_in_processes(
    task: Path, robot: Path, bags: Path, output: Path, overrides: Sequence[str]
) -> Path:
    """Train as one of the processes that torchrun started; alone without it.

    Args:
        task: Task description.
        robot: Robot description.
        bags: Folder of episode bags; every process reads them.
        output: Folder of the run; the first process writes.
        overrides: Settings of all stages as ``key=value``.

    Returns:
        Folder of the policy version.

    Raises:
        Rl100Error: If a description, a setting or the bags cannot be used, or others are learning
            in the folder.
    """
    described = load_task(task), load_robot(robot)
    settings = settings_for(described[0], overrides)
    with connected(choose_device(settings.device, local_rank())) as processes:
        episodes = load_demonstrations(
            bags, *described, accept_other_setup=settings.accept_other_setup
        )
        folder, name = imitation_stage(output, described[0])
        with alone_in(output) if processes.leads else nullcontext():
            return train_imitation(
                episodes, *described, folder, settings.imitation_settings, _tell, name, processes
            )


def _tell(progress: Progress) -> None:
    _LOG.info(
        "%s: step %d of %d, loss %.4f, %.0f s",
        progress.stage, progress.step, progress.steps, progress.loss, progress.seconds,
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and train; exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name, text in (
        ("task", "task description (YAML)"),
        ("robot", "robot description (YAML)"),
        ("bags", "folder of episode bags"),
        ("output", "folder of the run; give it again to resume"),
    ):
        parser.add_argument(f"--{name}", type=Path, required=True, help=text)
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="setting; may be repeated"
    )
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        version = train_in_processes(given.task, given.robot, given.bags, given.output, given.set)
    except Rl100Error as error:
        _LOG.error("%s", error)
        return 1
    _LOG.info("policy version: %s", version)
    return 0


if __name__ == "__main__":
    sys.exit(main())
