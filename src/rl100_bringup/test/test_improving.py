# SPDX-License-Identifier: Apache-2.0
"""Online learning through the vectorised simulation: decisions as the learner takes them."""

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from rl100_bringup.cli.app import app
from rl100_bringup.collecting import rollout_batch
from rl100_bringup.graph import config_path
from rl100_policy.core.config import load_robot, load_task
from rl100_policy.core.policy import DiffusionPolicy
from rl100_policy.core.policy_config import ActionSize, ObservationSize
from rl100_policy.core.policy_version import read_manifest, write_version
from rl100_policy.core.presets import preset
from rl100_sim.rollouts import Rollout

ROBOT = load_robot(config_path("robots", "panda"))
TASK = load_task(config_path("tasks", "push_t"))
GAMMA = 0.9


def rollout(seed: int, periods: list[int], *, terminated: bool) -> Rollout:
    count = len(periods)
    rewards = np.zeros((count, 8), np.float32)
    rewards[-1, periods[-1] - 1] = float(terminated)
    step = np.arange(count + 1, dtype=np.float32)
    return Rollout(
        seed=seed,
        visual=np.broadcast_to(step[:, None, None, None], (count + 1, 2, 16, 3)).copy(),
        proprio=np.zeros((count + 1, 2, 3), np.float32),
        actions=np.zeros((count, 8, 2)),
        executed=np.zeros((count, 8, 2)),
        rewards=rewards,
        periods=np.array(periods),
        extras=[(np.zeros((6, 8, 2), np.float32), np.zeros(5, np.float32))] * count,
        success=terminated,
        terminated=terminated,
        truncated=not terminated,
    )


def test_episodes_are_decisions_in_a_row_with_true_ends_and_time_limits_told_apart():
    batch = rollout_batch(
        [rollout(0, [8, 3], terminated=True), rollout(1, [8, 8], terminated=False)], GAMMA
    )
    assert len(batch) == 4
    assert batch.ends.tolist() == [False, True, False, True]
    torch.testing.assert_close(batch.rewards, torch.tensor([0.0, GAMMA**2, 0.0, 0.0]))
    torch.testing.assert_close(batch.discounts, torch.tensor([GAMMA**8, 0.0, GAMMA**8, GAMMA**8]))
    assert batch.visual[:, 0, 0, 0].tolist() == [0, 1, 0, 1]
    assert batch.next_visual[:, 0, 0, 0].tolist() == [1, 2, 1, 2]
    assert batch.latents.shape == (4, 6, 8, 2)


@pytest.mark.sim
def test_the_verb_improves_a_version_and_reports_before_and_after(tmp_path, monkeypatch):
    torch.manual_seed(0)
    size = ObservationSize(
        n_obs=2, n_points=TASK.observation.n_points, proprio_dim=TASK.observation.proprio_dim(7)
    )
    policy = DiffusionPolicy(preset("small", size, ActionSize(n_chunk=8, dim=2)))
    write_version(
        tmp_path / "random_1", policy, task=TASK, robot=ROBOT, parents=(), bags=(), metrics={},
        training={},
    )  # fmt: skip
    monkeypatch.chdir(tmp_path)
    brief = [
        "online.iterations=1", "online.episodes=4", "distillation.steps=3",
        "online.replay.first_steps=4", "online.replay.steps=4", "online.replay.states=16",
    ]  # fmt: skip
    settings = [word for item in brief for word in ("--set", item)]
    told = ["improve", "random_1", "--output", "run", "--trials", "2", "--processes", "1"]
    done = CliRunner().invoke(app, [*told, *settings])
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["command"] == "improve"
    assert [(stage["name"], stage["policy"]) for stage in report["stages"]] == [
        ("before", "ddim"), ("before", "one_step"), ("online", "ddim"), ("online", "one_step")
    ]  # fmt: skip
    assert all(stage["trials"] == 2 for stage in report["stages"])
    manifest = read_manifest(tmp_path / "run" / "push_t_run")
    assert [each.partition("@")[0] for each in manifest.parents] == ["random_1"]
    assert manifest.metrics["online_episodes"] == 4
    (tmp_path / "trained").mkdir()
    for name in ("run.json", "report.json"):
        (tmp_path / "trained" / name).write_text("{}")
    elsewhere = ["improve", "random_1", "--output", "trained", "--trials", "2"]
    refused = CliRunner().invoke(app, [*elsewhere, *settings])
    assert "trained holds something else: run.json, report.json" in str(refused.exception)
    assert {each.name for each in (tmp_path / "trained").iterdir()} <= {
        "run.json", "report.json", ".lock"
    }  # fmt: skip
    shown = CliRunner().invoke(app, ["report", "run"])
    assert shown.exit_code == 0, shown.output
    assert "before" in shown.output
