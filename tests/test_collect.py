# SPDX-License-Identifier: Apache-2.0
"""A person collects episodes: ``./rl100 collect`` in a terminal, real keys, a simulated robot."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from rl100_bringup.graph import config_path
from rl100_policy.bags.index import read_index
from rl100_policy.bags.judgement import Outcome
from rl100_policy.bags.reading import read_messages
from rl100_policy.core.config import load_robot, load_task
from rl100_policy.core.gate_result import CommandSource
from rl100_policy.core.policy import DiffusionPolicy
from rl100_policy.core.policy_config import ActionSize
from rl100_policy.core.policy_version import write_version
from rl100_policy.core.presets import preset
from rl100_policy.core.sight import observation_size
from rl100_policy.ros.domain import free_domain
from rl100_policy.ros.pseudo_terminal import PseudoTerminal

pytestmark = [pytest.mark.launch, pytest.mark.slow]

RL100 = [sys.executable, "-m", "rl100_bringup.cli"]
UP, LEFT, SPACE = b"\x1b[A", b"\x1b[D", b" "


def collecting(folder: Path, domain: int, *arguments: str) -> PseudoTerminal:
    command = [*RL100, "collect", f"bags:={folder / 'bags'}", "operator:=ann", *arguments]
    variables = {"ROS_DOMAIN_ID": str(domain), "COLUMNS": "140"}
    return PseudoTerminal(command, variables)


def hold(terminal: PseudoTerminal, key: bytes, times: int) -> None:
    for _ in range(times):
        terminal.type(key)
        terminal.pause(0.04)


def start_episode(terminal: PseudoTerminal) -> None:
    """The scene lays itself out; the person only starts."""
    assert terminal.wait_for(b"ARMED", 60.0), terminal.shown[-3000:].decode(errors="replace")
    for _ in range(3):  # a policy may not be ready yet, and the screen says so
        terminal.pause(0.8)  # sooner it is taken for the repeat of a held key
        terminal.type(SPACE)
        if terminal.wait_for(b"RECORDING", 20.0):
            return
    raise AssertionError(terminal.shown[-3000:].decode(errors="replace"))


@pytest.fixture
def domain(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # logs go to runs/collect
    with free_domain() as free:
        yield free


def test_two_demonstrations_by_keyboard_end_as_two_labelled_bags(tmp_path, domain):
    with collecting(tmp_path, domain, "episodes:=2") as terminal:
        assert terminal.wait_for(b"IDLE", 60.0), terminal.shown[-3000:].decode(errors="replace")
        terminal.pause(4.0)  # until the rates of the sensors are known
        terminal.type(SPACE)
        start_episode(terminal)
        hold(terminal, UP, 40)
        hold(terminal, LEFT, 20)
        terminal.type(b"s")
        assert terminal.wait_for(b"1 success", 20.0)
        start_episode(terminal)
        hold(terminal, UP, 10)
        terminal.type(b"f")
        assert terminal.wait_for(b"1 failure", 20.0)
        terminal.type(b"q")
        assert terminal.exit_status(60.0) == 0
        assert b"2 episodes: 1 failure, 1 success" in terminal.shown
    entries = read_index(tmp_path / "bags").entries
    assert [each.metadata.outcome for each in entries] == [Outcome.SUCCESS, Outcome.FAILURE]
    first = entries[0]
    assert not first.metadata.degraded, first.metadata.degraded_reasons
    assert first.metadata.operator == "ann"
    assert first.metadata.judgements[0].source == "keyboard"
    commands = read_messages(tmp_path / "bags" / first.folder, ["gate/command"])["gate/command"]
    moved = np.array([each.value.executed for each in commands])
    assert moved[:, 0].sum() * 0.1 > 0.05, "the arm went forward"
    assert moved[:, 1].sum() * 0.1 > 0.02, "and to the left"


def test_a_person_takes_over_from_the_policy_and_hands_back(tmp_path, domain):
    robot = load_robot(config_path("robots", "panda"))
    task = load_task(config_path("tasks", "push_t"))
    torch.manual_seed(0)
    sizes = observation_size(task, robot), ActionSize(n_chunk=8, dim=2)
    network = DiffusionPolicy(preset("small", *sizes)).eval()
    version = tmp_path / "version"
    write_version(
        version, network, task=task, robot=robot, parents=(), bags=(), metrics={}, training={}
    )
    with collecting(tmp_path, domain, "driver:=policy", f"policy:={version}") as terminal:
        assert terminal.wait_for(b"IDLE", 60.0), terminal.shown[-3000:].decode(errors="replace")
        terminal.pause(4.0)
        terminal.type(SPACE)
        start_episode(terminal)
        terminal.pause(1.5)
        terminal.type(b"t")
        assert terminal.wait_for(b"you drive", 10.0)
        hold(terminal, LEFT, 30)
        terminal.type(b"t")
        assert terminal.wait_for(b"the policy drives", 10.0)
        terminal.pause(1.0)
        terminal.type(b"f")
        assert terminal.wait_for(b"1 failure", 20.0)
        terminal.type(b"q")
        assert terminal.exit_status(60.0) == 0
    (entry,) = read_index(tmp_path / "bags").entries
    assert entry.metadata.interventions == 1
    assert entry.metadata.policy_version.startswith("version@")
    recorded = read_messages(tmp_path / "bags" / entry.folder, ["gate/command"])["gate/command"]
    commands = [each.value for each in recorded if each.value.source]
    by_person = [each for each in commands if each.source == CommandSource.TELEOP]
    assert sum(len(each.proposed) == 2 for each in by_person) > 0.8 * len(by_person)
    path = np.array([each.joint_command for each in commands])
    change = np.abs(np.diff(path, n=2, axis=0))
    assert (change <= np.array(robot.acceleration_limits) * robot.control_period**2 + 1e-6).all()


def test_without_a_terminal_nothing_is_started(tmp_path):
    run = subprocess.run(
        [*RL100, "collect"], cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True,
        text=True, start_new_session=True, timeout=120, check=False,
    )  # fmt: skip
    assert run.returncode != 0
    assert "ssh -t" in run.stdout + run.stderr
    assert not (tmp_path / "runs").exists()
