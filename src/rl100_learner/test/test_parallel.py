# SPDX-License-Identifier: Apache-2.0
"""Two processes that learn together: equal weights, the gradient of the whole minibatch, one
writer."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from toy import ROBOT, TASK, ReachCollector, make_episode, quick_settings

from rl100_learner import parallel
from rl100_learner.algorithms import imitation
from rl100_learner.training.algorithm_run import run_algorithm
from rl100_learner.training.algorithm_settings import AlgorithmSettings
from rl100_learner.training.checkpoint import CHECKPOINT
from rl100_learner.training.identity import alone_in
from rl100_learner.training.imitation_run import policy_config_for, train_imitation
from rl100_learner.training.processes import Processes, connected
from rl100_learner.training.records import read_metrics
from rl100_learner.training.settings import with_overrides
from rl100_learner.training.windows import build_windows
from rl100_policy.core.errors import ConfigError
from rl100_policy.core.policy import DiffusionPolicy
from rl100_policy.core.policy_version import WEIGHTS

SETTINGS = quick_settings(12, 10)
EPISODES = [make_episode(index) for index in range(4)]
CPU = torch.device("cpu")


def learner():
    """A policy with its windows, and settings of imitation, the same in every process."""
    config = policy_config_for(TASK, ROBOT, SETTINGS)
    torch.manual_seed(0)
    policy = DiffusionPolicy(config)
    windows = build_windows(EPISODES, config)
    policy.normalizer.fit(actions=windows.actions, proprio=windows.proprio)
    return policy, windows, SETTINGS.imitation


def objective_of_share(objective, windows, config, rank):
    """Loss of the share that the process ``rank`` of two draws."""
    generator = torch.Generator().manual_seed(Processes(rank, 2).seed(0))
    batch = windows.sample(config.windows // 2, config.points, generator)
    return objective(batch, generator, 0).total


def in_process(folder: Path) -> None:
    """What each of the two processes of a test does; see the tests."""
    torch.set_num_threads(1)
    with connected(CPU) as processes:
        policy, windows, config = learner()
        state = imitation.init(policy, config, processes.parallel)
        objective_of_share(state.objective, windows, config, processes.rank).backward()
        gradients = {key: p.grad for key, p in policy.named_parameters() if p.grad is not None}
        torch.save(gradients, folder / f"gradient_{processes.rank}.pt")
        told = []
        version = train_imitation(
            EPISODES, TASK, ROBOT, folder / "run", SETTINGS, told.append, processes=processes
        )
        assert bool(told) == processes.leads
        generator = torch.Generator().manual_seed(processes.rank)
        for step in range(3):
            batch = windows.sample(config.windows // 2, config.points, generator)
            state.step = step
            imitation.update(state, batch, generator, config)
        torch.save(policy.state_dict(), folder / f"weights_{processes.rank}.pt")
        assert version.exists()


def in_process_until_killed(folder: Path) -> None:
    """A run that ends in step 5 of the student, unless it was there already."""
    torch.set_num_threads(1)
    again = (folder / "run" / CHECKPOINT).exists()
    settings = SETTINGS.model_copy(update={"checkpoint_seconds": 0.0})

    def kill(progress):
        if not again and (progress.stage, progress.step) == ("distillation", 5):
            sys.exit(3)

    with connected(CPU) as processes:
        run = TASK, ROBOT, folder / "run", settings, kill
        train_imitation(EPISODES, *run, processes=processes)


def launch(folder: Path, function: str) -> subprocess.CompletedProcess:
    script = folder / "member.py"
    script.write_text(
        f"import sys, pathlib\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        f"import test_parallel\ntest_parallel.{function}(pathlib.Path({str(folder)!r}))\n"
    )
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [*run, str(script)], capture_output=True, text=True, timeout=200, check=False
    )


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    done = launch(folder, "in_process")
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


def both(folder: Path, name: str):
    return [torch.load(folder / f"{name}_{rank}.pt", weights_only=True) for rank in (0, 1)]


def test_the_averaged_gradient_is_that_of_the_whole_minibatch(two):
    policy, windows, config = learner()
    objective = imitation.Objective(policy, config)
    halves = [objective_of_share(objective, windows, config, rank) for rank in (0, 1)]
    ((halves[0] + halves[1]) / 2).backward()  # halves of equal size: the mean over all rows
    whole = {key: p.grad for key, p in policy.named_parameters() if p.grad is not None}
    assert float((halves[0] - halves[1]).abs().detach()) > 1e-3  # not twice the same share
    for found in both(two, "gradient"):
        assert found.keys() == whole.keys()
        for key, expected in whole.items():
            torch.testing.assert_close(found[key], expected, rtol=1e-4, atol=1e-6)


def test_both_processes_hold_equal_weights_after_some_steps(two):
    before = learner()[0].state_dict()
    one, other = both(two, "weights")
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert any(not torch.equal(one[key], before[key]) for key in one)


def test_one_process_writes_and_another_run_of_one_process_differs(two, tmp_path):
    (version,) = (two / "run").glob(f"*/{WEIGHTS}")
    rows = [(row["stage"], row["step"]) for row in read_metrics(two / "run")]
    assert rows == [("imitation", 5), ("imitation", 10), ("imitation", 12),
                    ("distillation", 5), ("distillation", 10)]  # fmt: skip
    assert not (two / "run" / CHECKPOINT).exists()
    alone = train_imitation(EPISODES, TASK, ROBOT, tmp_path / "run", SETTINGS, lambda _: None)
    learned, other = load_file(version), load_file(alone / WEIGHTS)
    assert any(not torch.equal(learned[key], other[key]) for key in learned)


def test_a_run_of_one_process_goes_on_from_the_version_of_two(two):
    (version,) = (two / "run").glob(f"*/{WEIGHTS}")
    found = train_imitation(EPISODES, TASK, ROBOT, two / "run", SETTINGS, lambda _: None)
    assert found == version.parent


@pytest.mark.slow
def test_a_killed_run_of_two_processes_goes_on_to_the_same_bits(two, tmp_path):
    assert launch(tmp_path, "in_process_until_killed").returncode != 0
    assert (tmp_path / "run" / CHECKPOINT).exists()
    done = launch(tmp_path, "in_process_until_killed")
    assert done.returncode == 0, done.stderr[-4000:]
    (version,) = (tmp_path / "run").glob(f"*/{WEIGHTS}")
    (whole,) = (two / "run").glob(f"*/{WEIGHTS}")
    assert version.read_bytes() == whole.read_bytes()


def test_the_command_leaves_what_the_whole_run_goes_on_from(tmp_path, monkeypatch):
    """Here with one process, which needs no torchrun."""
    monkeypatch.setattr(parallel, "load_task", lambda _: TASK)
    monkeypatch.setattr(parallel, "load_robot", lambda _: ROBOT)
    monkeypatch.setattr(parallel, "load_demonstrations", lambda *_, **__: EPISODES)
    quick = ["imitation.steps=2", "distillation.steps=2", "n_chunk=4", "imitation.windows=8"]
    given = [part for setting in quick for part in ("--set", setting)]
    paths = ["--task", "t", "--robot", "r", "--bags", "b", "--output", str(tmp_path / "run")]
    with alone_in(tmp_path / "run"):
        assert parallel.main([*paths, *given]) == 1  # another process is learning there
    assert parallel.main([*paths, *given]) == 0
    assert parallel.main([*paths, *given, "--set", "seed=1"]) == 1  # another run
    told = []
    (record,) = run_algorithm(
        EPISODES, TASK, ROBOT, tmp_path / "run", with_overrides(AlgorithmSettings(), quick),
        ReachCollector(), lambda *each: told.append(each), stages=("imitation",),
    )  # fmt: skip
    assert (tmp_path / "run" / record.version / WEIGHTS).exists()
    assert told == []


def test_a_minibatch_that_cannot_be_shared_equally_is_refused():
    with pytest.raises(ConfigError, match=r"imitation\.windows=32 equally"):
        Processes(0, 3).share(32, "imitation.windows")


def test_a_run_that_torchrun_started_several_times_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"rl100_learner\.parallel"):
        train_imitation(EPISODES, TASK, ROBOT, tmp_path / "run", SETTINGS, lambda _: None)
