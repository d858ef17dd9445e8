# SPDX-License-Identifier: Apache-2.0
"""A session of a person at the robot: the graph in the background, the terminal in front."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from rich.console import Console

from rl100_bringup.graph import GraphArguments, describe, keyboard_description
from rl100_bringup.processes import RunningGraph, node_command
from rl100_policy.bags.index import read_index
from rl100_policy.core.errors import ConfigError

_POLL_S = 0.2
_END_S = 10.0


def collect_episodes(arguments: GraphArguments, log_folder: Path, console: Console) -> None:
    """Run the graph with the person's keyboard in this terminal until the person quits.

    Args:
        arguments: Of the graph; ``driver`` says who acts.
        log_folder: One file per node is written there.
        console: Told what was collected.

    Raises:
        ConfigError: If nobody is to drive, or this process has no terminal.
        NodeDiedError: If a node of the graph ends again and again.
    """
    if arguments.driver == "none":
        raise ConfigError("driver:=none collects nothing; give driver:=person or driver:=policy")
    _require_terminal()
    bags = Path(arguments.bags).resolve()
    before = {entry.folder for entry in read_index(bags).entries}
    with (
        tempfile.TemporaryDirectory(prefix="rl100_params_") as params,
        RunningGraph(describe(arguments), log_folder) as graph,
    ):
        console.print(f"the graph starts; logs are in {log_folder}", highlight=False)
        keyboard = subprocess.Popen(node_command(keyboard_description(arguments), Path(params)))
        try:
            while keyboard.poll() is None:
                graph.mend()  # what it did is in the logs: the terminal is the keyboard's
                time.sleep(_POLL_S)
        except KeyboardInterrupt:
            console.print("stopping: a running episode is closed and kept")
        finally:
            _end(keyboard)
    if keyboard.returncode not in (0, -signal.SIGINT):
        console.print(f"the keyboard ended with status {keyboard.returncode}", highlight=False)
    index = read_index(bags)
    new = [entry for entry in index.entries if entry.folder not in before]
    outcomes = [entry.metadata.outcome.value for entry in new]
    counted = ", ".join(f"{outcomes.count(each)} {each}" for each in sorted(set(outcomes)))
    console.print(
        f"{len(new)} episodes{': ' if counted else ''}{counted}, in {bags}   "
        f"(./rl100 bags {arguments.bags})",
        highlight=False,
    )


def _require_terminal() -> None:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError as error:
        raise ConfigError(
            f"no terminal to read keys from (/dev/tty: {error}): over SSH use `ssh -t`, in a "
            "container `docker run -it`; without one start `./rl100 up driver:=person` and use a "
            "joystick or the services operator/*"
        ) from error


def _end(process: subprocess.Popen[bytes]) -> None:
    """Let the keyboard leave the terminal as it was."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
