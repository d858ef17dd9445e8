# SPDX-License-Identifier: Apache-2.0
"""Ten simulated minutes of episodes with takeovers, through real node processes in lockstep.

Nothing is lost, every step says who was in command, and no process grows.
"""

from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from rich.console import Console

from rl100_bringup.graph import GraphArguments, config_path
from rl100_bringup.session import own_graph, run_operator
from rl100_policy.bags.index import read_index
from rl100_policy.bags.judgement import Outcome
from rl100_policy.bags.reading import read_messages
from rl100_policy.bags.recovery import check_episode
from rl100_policy.core.config import load_robot, load_task
from rl100_policy.core.gate_result import CommandSource
from rl100_policy.core.policy import DiffusionPolicy
from rl100_policy.core.policy_config import ActionSize
from rl100_policy.core.policy_version import write_version
from rl100_policy.core.presets import preset
from rl100_policy.core.sight import observation_size

pytestmark = [pytest.mark.launch, pytest.mark.slow]

EPISODES, PERIODS = 64, 100
"""A policy that has learned nothing hardly succeeds: nearly every episode lasts its ten seconds,
unless the person brings it about meanwhile."""
AFTER, LENGTH = 30, 20
GROWTH_MB = 30.0
"""From the tenth episode to the last one; caches that fill first are none of it."""


def random_version(folder: Path) -> Path:
    robot = load_robot(config_path("robots", "panda"))
    task = load_task(config_path("tasks", "push_t"))
    torch.manual_seed(0)
    sizes = observation_size(task, robot), ActionSize(n_chunk=4, dim=2)
    network = DiffusionPolicy(preset("small", *sizes)).eval()
    write_version(
        folder, network, task=task, robot=robot, parents=(), bags=(), metrics={}, training={}
    )
    return folder


@pytest.fixture(scope="module")
def soaked(tmp_path_factory):
    """Bags, and the memory of every node process [MB] by episodes done."""
    output = tmp_path_factory.mktemp("soak")
    version = random_version(output / "version")
    arguments = GraphArguments(lockstep=True, bags=str(output / "bags"))
    memory: dict[str, dict[int, float]] = {}
    with own_graph(arguments, output / "log", Console(quiet=True)) as graph:

        def look(done: int, _: int) -> None:
            for process in graph.processes:
                resident = psutil.Process(process.pid).memory_info().rss / 1e6
                memory.setdefault(process.node.name, {})[done] = resident

        run_operator(
            graph,
            arguments,
            look,
            mode="supervise",
            episodes=EPISODES,
            policy=str(version),
            sampler="one_step",
            takeover_after=AFTER,
            takeover_length=LENGTH,
        )
    return output / "bags", memory


def test_every_episode_is_whole_and_labelled(soaked):
    index = read_index(soaked[0])
    assert (len(index.entries), index.damaged, index.unfinished) == (EPISODES, {}, ())
    for entry in index.entries:
        assert not entry.metadata.degraded, entry.metadata.degraded_reasons
        assert entry.metadata.outcome is not Outcome.UNLABELLED
    assert sum(entry.seconds for entry in index.entries) >= 600.0
    assert check_episode(soaked[0] / index.entries[-1].folder) == []


def test_every_step_says_who_was_in_command_and_keeps_the_proposal(soaked):
    entries = read_index(soaked[0]).entries
    for entry in [each for each in entries if each.metadata.outcome is Outcome.FAILURE][::10]:
        messages = read_messages(soaked[0] / entry.folder, ["gate/command"])["gate/command"]
        commands = [message.value for message in messages]
        sources = [CommandSource(each.source) for each in commands]
        assert PERIODS <= len(commands) <= PERIODS + 1  # the last observation may be answered
        taken = [place for place, each in enumerate(sources) if each is CommandSource.TELEOP]
        assert AFTER <= taken[0] < AFTER + 30  # the simulation goes on until the gate has heard
        assert LENGTH <= len(taken) < LENGTH + 30
        assert taken == list(range(taken[0], taken[-1] + 1))
        assert (entry.metadata.interventions, entry.metadata.intervened) == (1, len(taken))
        path = np.array([each.joint_command for each in commands])
        bound = np.array(load_robot(config_path("robots", "panda")).acceleration_limits) * 0.01
        assert (np.abs(np.diff(path, n=2, axis=0)) <= bound + 1e-6).all()


def test_no_process_grows(soaked):
    for node, by_episodes in soaked[1].items():
        settled = [resident for done, resident in by_episodes.items() if done >= 10]
        assert settled[-1] - settled[0] < GROWTH_MB, (node, settled[:: len(settled) // 5 or 1])
