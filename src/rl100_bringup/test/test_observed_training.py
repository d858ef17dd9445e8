# SPDX-License-Identifier: Apache-2.0
"""Every stage of learning from images, from proprioception alone, and in joint velocities."""

from pathlib import Path

import pytest
import torch

from rl100_bringup.collecting import simulated_collector
from rl100_bringup.reproduction.demonstrations import scripted_episodes
from rl100_learner.algorithms.critics import CriticConfig
from rl100_learner.algorithms.distillation import DistillationConfig, FramesDistillationConfig
from rl100_learner.algorithms.imitation import ImitationConfig
from rl100_learner.algorithms.offline import GateConfig, OfflineConfig
from rl100_learner.algorithms.online import OnlineConfig, ReplayConfig
from rl100_learner.algorithms.transition import TransitionConfig
from rl100_learner.training.algorithm_run import run_algorithm
from rl100_learner.training.algorithm_settings import AlgorithmSettings
from rl100_policy.core.config import TaskConfig, load_robot, load_task
from rl100_policy.core.policy_version import load_version

pytestmark = pytest.mark.sim

CONFIG = Path(__file__).parents[1] / "config"
ROBOT = load_robot(CONFIG / "robots" / "panda_rgb.yaml")
BRIEF = DistillationConfig(steps=2, windows=8)
SETTINGS = AlgorithmSettings(
    imitation=ImitationConfig(steps=3, windows=8),
    distillation=FramesDistillationConfig(steps=2, windows=8),
    rounds=1,
    rollouts=8,
    trials=2,
    retrain="none",
    critics=CriticConfig(steps=4, width=16),
    transition=TransitionConfig(steps=4, widths=(16,)),
    offline=OfflineConfig(iterations=1, states=8, gate=GateConfig(enabled=False)),
    candidate_distillation=BRIEF,
    online=OnlineConfig(
        iterations=1, episodes=4, replay=ReplayConfig(states=8, first_steps=4, steps=2, width=8)
    ),
    online_distillation=BRIEF,
)


def easy(name: str) -> TaskConfig:
    """About half of the start states are a success already: both outcomes, untrained."""
    task = load_task(CONFIG / "tasks" / f"{name}.yaml")
    sim = {**task.sim, "position_tolerance": 0.2, "yaw_tolerance": 0.5}
    return task.model_copy(update={"sim": sim, "time_limit": 1.6})


@pytest.mark.parametrize("name", ["push_t_rgb", "push_t_state", "push_t_joint"])
def test_every_stage_runs_on_what_the_task_describes(tmp_path, name):
    task = easy(name)
    episodes = list(scripted_episodes(task, ROBOT, range(6)))
    told = []
    with simulated_collector(
        task, ROBOT, SETTINGS.n_chunk, 1, 0.99, lambda *_: None, environments=4
    ) as acting:
        records = run_algorithm(
            episodes, task, ROBOT, tmp_path / "run", SETTINGS, acting, lambda *at: told.append(at)
        )
    assert [record.name for record in records] == ["imitation", "round 1", "online"]
    (learned,) = (tmp_path / "run" / "online").glob("push_t_*")
    first, last = (
        load_version(each)[0] for each in (tmp_path / "run" / records[0].version, learned)
    )
    assert last.config.encoder.kind == task.observation.kind
    assert last.config.action.dim == len(task.action.names)
    pairs = zip(first.parameters(), last.parameters(), strict=True)
    assert not all(torch.equal(*pair) for pair in pairs)
