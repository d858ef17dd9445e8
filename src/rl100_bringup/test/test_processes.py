# SPDX-License-Identifier: Apache-2.0
"""Node processes: their environment, and that none outlives the command that started it."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest

from rl100_bringup.graph import NodeDescription
from rl100_bringup.processes import NodeDiedError, RunningGraph, node_command
from rl100_policy.core.errors import ConfigError
from rl100_policy.ros.domain import free_domain

SHOW = NodeDescription("fake_package", "show", "show", {})
LIMIT_S = 30.0


@pytest.fixture(autouse=True)
def fake_package(tmp_path, monkeypatch):
    """A package whose node says where it is and waits to be ended; claims of its own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    prefix = tmp_path / "prefix"
    index = prefix / "share/ament_index/resource_index/packages/fake_package"
    index.parent.mkdir(parents=True)
    index.touch()
    script = prefix / "lib/fake_package/show"
    script.parent.mkdir(parents=True)
    script.write_text(
        "#!/usr/bin/env bash\n"
        "trap 'echo ended; exit 0' INT TERM\n"
        "echo domain=$ROS_DOMAIN_ID range=$ROS_AUTOMATIC_DISCOVERY_RANGE pid=$$\n"
        # Waits in the shell itself: a shell may miss an interrupt while it starts a child.
        "exec 3<> <(:)\n"
        "while true; do read -rt 0.05 -u 3; done\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(prefix), prepend=os.pathsep)


def test_a_node_is_told_its_arguments_before_those_of_ros(tmp_path):
    node = replace(SHOW, arguments=("-d", "layout.rviz"))
    command = node_command(node, tmp_path)
    assert command[1:3] == ["-d", "layout.rviz"]
    assert command.index("--ros-args") == 3


def eventually(condition) -> bool:
    deadline = time.monotonic() + LIMIT_S
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return bool(condition())


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended may wait for its new parent to notice."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def is_in_the_graph(pid: int) -> bool:
    """Whether a process has joined the middleware, seen by the middleware's threads."""
    threads = Path(f"/proc/{pid}/task").glob("*/comm")
    return any(each.read_text().startswith("dds.") for each in threads)


def shown(tmp_path, **options) -> str:
    with RunningGraph([SHOW], tmp_path / "log", **options) as graph:
        (process,) = graph.processes
        assert eventually(process.log_tail)
        return process.log_tail()


def test_a_graph_runs_in_the_domain_it_is_given(tmp_path, monkeypatch):
    monkeypatch.setenv("ROS_DOMAIN_ID", "3")
    monkeypatch.delenv("ROS_AUTOMATIC_DISCOVERY_RANGE", raising=False)
    assert "domain=77 range=LOCALHOST " in shown(tmp_path, domain=77)
    assert "domain=3 range= " in shown(tmp_path)


def test_two_graphs_of_one_domain_are_refused(tmp_path, monkeypatch):
    """Regression: a key in the terminal of one was taken by both."""
    monkeypatch.setenv("ROS_DOMAIN_ID", "3")
    with RunningGraph([SHOW], tmp_path / "log"):
        with (
            pytest.raises(ConfigError, match="a graph runs in ROS domain 3 on this machine"),
            RunningGraph([SHOW], tmp_path / "other"),
        ):
            pass
        monkeypatch.setenv("ROS_DOMAIN_ID", "4")
        shown(tmp_path)
    monkeypatch.setenv("ROS_DOMAIN_ID", "3")
    shown(tmp_path)


def test_a_discovery_range_that_the_person_has_set_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET")
    assert "domain=77 range=SUBNET " in shown(tmp_path, domain=77)


def test_a_node_that_ends_is_noticed_with_its_output(tmp_path):
    with RunningGraph([SHOW], tmp_path / "log") as graph:
        (process,) = graph.processes
        assert eventually(process.log_tail)
        graph.check()
        os.kill(process.pid, signal.SIGTERM)
        assert eventually(lambda: process.returncode is not None)
        with pytest.raises(NodeDiedError, match=r"'show' ended with status 0(.|\n)*ended"):
            graph.check()


def test_a_node_that_died_is_started_anew_and_its_output_is_kept(tmp_path):
    with RunningGraph([SHOW], tmp_path / "log") as graph:
        (first,) = graph.processes
        assert eventually(first.log_tail)
        assert graph.mend() == []
        os.kill(first.pid, signal.SIGKILL)
        assert eventually(lambda: first.returncode is not None)
        (told,) = graph.mend()
        assert told.startswith("node 'show' ended with status -9 and was started anew; see ")
        (second,) = graph.processes
        assert second.pid != first.pid
        assert eventually(lambda: second.log_tail().count("pid=") == 2)
        graph.check()


def test_a_node_that_dies_again_and_again_soon_after_its_start_is_given_up(tmp_path):
    with RunningGraph([SHOW], tmp_path / "log") as graph:
        for turn in range(3):
            (process,) = graph.processes
            os.kill(process.pid, signal.SIGKILL)
            assert eventually(lambda died=process: died.returncode is not None)
            if turn < 2:
                graph.mend()
        with pytest.raises(NodeDiedError, match="status -9"):
            graph.mend()


def test_a_node_that_refuses_its_configuration_is_not_started_anew(tmp_path):
    script = tmp_path / "prefix/lib/fake_package/show"
    script.write_text("#!/usr/bin/env bash\necho cannot start: no such arm\nexit 2\n")
    with RunningGraph([SHOW], tmp_path / "log") as graph:
        (process,) = graph.processes
        assert eventually(lambda: process.returncode is not None)
        with pytest.raises(NodeDiedError, match=r"status 2(.|\n)*no such arm"):
            graph.mend()


def test_the_end_of_the_graph_is_the_end_of_its_nodes(tmp_path):
    with RunningGraph([SHOW], tmp_path / "log") as graph:
        (process,) = graph.processes
        assert eventually(process.log_tail)
    assert not is_alive(process.pid)
    assert process.log_tail().endswith("ended")


def test_a_node_ends_when_the_process_that_started_it_is_killed(tmp_path):
    program = (
        "import sys, time; from pathlib import Path;"
        "from rl100_bringup.graph import NodeDescription;"
        "from rl100_bringup.processes import RunningGraph;"
        "show = NodeDescription('fake_package', 'show', 'show', {});"
        "graph = RunningGraph([show], Path(sys.argv[1])).__enter__();"
        "time.sleep(1000)"
    )
    log = tmp_path / "log" / "show.log"
    parent = subprocess.Popen([sys.executable, "-c", program, log.parent])
    try:
        assert eventually(lambda: log.exists() and log.read_text())
    finally:
        parent.kill()
        parent.wait()
    node = int(log.read_text().partition("pid=")[2].split()[0])
    assert eventually(lambda: not is_alive(node))
    assert log.read_text().endswith("ended\n")


@pytest.mark.launch
@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGHUP, signal.SIGTERM])
def test_no_node_of_up_outlives_the_command(tmp_path, ending):
    """SIGHUP is what closing the terminal sends."""
    arguments = ["sim:=false", f"bags:={tmp_path / 'bags'}"]
    with free_domain() as domain:
        command = subprocess.Popen(
            [sys.executable, "-m", "rl100_bringup.cli", "up", *arguments],
            env=os.environ | {"ROS_DOMAIN_ID": str(domain)},
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert command.stdout is not None
            assert any("Ctrl-C stops" in line for line in command.stdout)
            children = Path(f"/proc/{command.pid}/task/{command.pid}/children").read_text()
            nodes = [int(pid) for pid in children.split()]
            assert eventually(lambda: all(map(is_in_the_graph, nodes)))
            command.send_signal(ending)
            status = command.wait(LIMIT_S)
        finally:
            command.kill()
            command.stdout.close()
        assert len(nodes) == 5  # cloud, command_gate, policy, latency, recorder
        assert eventually(lambda: not any(map(is_alive, nodes)))
    assert status == (-ending if ending is signal.SIGKILL else 128 + ending)
