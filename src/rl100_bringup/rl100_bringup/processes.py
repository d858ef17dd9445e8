# SPDX-License-Identifier: Apache-2.0
"""Stand-in for launch_ros where it is not installed.

Starts the same node processes from the same description. They end with the process that started
them, whichever way that ends (:mod:`rl100_bringup.tether`).
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import yaml
from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from filelock import FileLock, Timeout

from rl100_bringup import tether
from rl100_bringup.graph import NodeDescription
from rl100_policy.core.errors import ConfigError, Rl100Error
from rl100_policy.ros.latch import forget_stops

_STOP_TIMEOUT_S = 16.0
"""After an interrupt a node has this long to close its files before it is killed [s]."""

_SOON_S = 10.0
"""A node that lives shorter than this died because of how it was started [s]."""
_MOST_EARLY_DEATHS = 3
_REFUSED = 2
"""Exit status of a node that cannot use its configuration: another start would not help."""


class NodeDiedError(Rl100Error):
    """A node process ended although the graph was to go on."""


def node_command(node: NodeDescription, params_folder: Path) -> list[str]:
    """Command line of a node; its parameters go through a file, as launch_ros does it.

    Raises:
        ConfigError: If the package or executable is not installed.
    """
    try:
        prefix = Path(get_package_prefix(node.package))
    except PackageNotFoundError as error:
        raise ConfigError(
            f"package {node.package!r} is not installed; "
            + (
                "run ./rl100 setup"
                if node.package.startswith("rl100_")
                else "it comes with a ROS installation only, not with ./rl100 setup"
            )
        ) from error
    executable = prefix / "lib" / node.package / node.executable
    if not executable.exists():
        executable = prefix / "bin" / node.executable
    if not executable.exists():
        raise ConfigError(
            f"package {node.package!r} has no executable {node.executable!r} in {prefix}"
        )
    params = params_folder / f"{node.name}.yaml"
    params.write_text(
        yaml.safe_dump({"/**": {"ros__parameters": node.parameters}}), encoding="utf-8"
    )
    command = [str(executable), *node.arguments, "--ros-args", "-r", f"__node:={node.name}"]
    for file in (str(params), *node.params_files):
        command += ["--params-file", file]
    return command


class NodeProcess:
    """One running node process; its output goes to a file."""

    def __init__(
        self,
        node: NodeDescription,
        params_folder: Path,
        log: Path,
        variables: Mapping[str, str],
        *,
        again: bool = False,
        within: Sequence[str] = (),
    ) -> None:
        """Start the process with an environment; from the main thread, see ``tether``.

        ``again`` keeps what the log has already; ``within`` is a command that runs another.
        """
        self.node, self.log, self.started_s = node, log, time.monotonic()
        self._output = log.open("ab" if again else "wb")
        self._process = subprocess.Popen(
            [*within, *tether.tied(node_command(node, params_folder))],
            env=variables,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Exit status, None while running."""
        return self._process.poll()

    def log_tail(self, lines: int = 12) -> str:
        """Last lines of its output."""
        return "\n".join(
            self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
        )

    def interrupt(self) -> None:
        """Ask it to stop."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)

    def wait(self, timeout: float) -> None:
        """Wait for its end; kill it after the timeout [s]."""
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._output.close()


class RunningGraph:
    """A set of node processes that end together; a context manager.

    Whoever runs it notices a dead one (:meth:`check`) or starts it anew (:meth:`mend`).
    """

    def __init__(
        self,
        nodes: Sequence[NodeDescription],
        log_folder: Path,
        *,
        domain: int | None = None,
        within: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """Prepare; nothing runs before the context is entered.

        Args:
            nodes: What to start.
            log_folder: One file per node is written there.
            domain: ROS domain of all nodes, which the caller has reserved; None: that of this
                process's environment, which is claimed then.
            within: By node, the command that runs it where it belongs, such as
                ``nsenter -t PID -n``.
        """
        self._claim = None if domain is not None else _claim_of(_domain_here())
        self._nodes, self._log_folder = list(nodes), log_folder
        self._within = dict(within or {})
        self._variables = dict(os.environ)
        if domain is not None:
            self._variables["ROS_DOMAIN_ID"] = str(domain)
            self._variables.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        self._params = tempfile.TemporaryDirectory(prefix="rl100_params_")
        self._processes: list[NodeProcess] = []
        self._early_deaths: dict[str, int] = {}
        """How often in a row a node has died soon after its start."""

    def __enter__(self) -> Self:
        """Start all nodes.

        Raises:
            ConfigError: If another graph of this machine runs in the domain: its nodes would hear
                this one's keys and sensors.
        """
        if self._claim is not None:
            _acquire(self._claim)
        forget_stops(self._variables.get("ROS_DOMAIN_ID", "0"))
        try:
            self._log_folder.mkdir(parents=True, exist_ok=True)
            for node in self._nodes:
                self._processes.append(self._start(node))
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop all nodes."""
        self.stop()

    def _start(self, node: NodeDescription, *, again: bool = False) -> NodeProcess:
        log = self._log_folder / f"{node.name}.log"
        within = self._within.get(node.name, ())
        params = Path(self._params.name)
        return NodeProcess(node, params, log, self._variables, again=again, within=within)

    @property
    def processes(self) -> list[NodeProcess]:
        """The running nodes, in the order of the description."""
        return list(self._processes)

    def check(self) -> None:
        """Notice a node that has died.

        Raises:
            NodeDiedError: Names the node, its exit status, and the end of its output.
        """
        for process in self._processes:
            if process.returncode is not None:
                raise NodeDiedError(
                    f"node {process.node.name!r} ended with status {process.returncode}; "
                    f"the end of {process.log}:\n{process.log_tail()}"
                )

    def mend(self) -> list[str]:
        """Start anew what has died; what was done, for people.

        Raises:
            NodeDiedError: If a node has refused its configuration, or died soon after each of its
                last starts.
        """
        done = []
        for place, process in enumerate(self._processes):
            if process.returncode is None:
                continue
            name = process.node.name
            lasted_s = time.monotonic() - process.started_s
            self._early_deaths[name] = (
                self._early_deaths.get(name, 0) + 1 if lasted_s < _SOON_S else 0
            )
            refused = process.returncode == _REFUSED
            if refused or self._early_deaths[name] >= _MOST_EARLY_DEATHS:
                self.check()
            process.wait(_STOP_TIMEOUT_S)
            self._processes[place] = self._start(process.node, again=True)
            done.append(
                f"node {name!r} ended with status {process.returncode} and was started anew; "
                f"see {process.log}"
            )
        return done

    def run_to_end(
        self,
        node: NodeDescription,
        *,
        poll_s: float = 0.2,
        on_poll: Callable[[], object] | None = None,
    ) -> None:
        """Run one more node until it ends by itself, while the graph stays up.

        Args:
            node: A node that ends, such as the scripted operator.
            poll_s: Wall time between two looks [s].
            on_poll: Called at every look.

        Raises:
            NodeDiedError: If it ends with another status than 0, or a node of the graph dies
                meanwhile.
        """
        process = self._start(node)
        try:
            while process.returncode is None:
                self.check()
                if on_poll is not None:
                    on_poll()
                time.sleep(poll_s)
        finally:
            process.interrupt()
            process.wait(_STOP_TIMEOUT_S)
        if process.returncode != 0:
            raise NodeDiedError(
                f"{node.name} failed with status {process.returncode}; "
                f"the end of {process.log}:\n{process.log_tail()}"
            )

    def stop(self) -> None:
        """Interrupt all nodes and wait for their ends."""
        for process in self._processes:
            process.interrupt()
        for process in self._processes:
            process.wait(_STOP_TIMEOUT_S)
        self._processes.clear()
        self._params.cleanup()
        if self._claim is not None:
            self._claim.release()


def _domain_here() -> str:
    return os.environ.get("ROS_DOMAIN_ID", "0")


def _claim_of(domain: str) -> FileLock:
    """Lock of this user's graph in a domain; of a process that was killed the system lets go."""
    return FileLock(
        Path(tempfile.gettempdir()) / f"rl100_{os.getuid()}_domain_{domain}.lock", timeout=0
    )


def _acquire(claim: FileLock) -> None:
    try:
        claim.acquire()
    except Timeout as error:
        raise ConfigError(
            f"a graph runs in ROS domain {_domain_here()} on this machine already, and would "
            "hear this one's keys and sensors; stop it (Ctrl-C or q in its terminal), or set "
            "another ROS_DOMAIN_ID for this one"
        ) from error
