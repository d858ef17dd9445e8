# SPDX-License-Identifier: Apache-2.0
"""A task small enough for tests: move the tool straight towards the middle of a square of points
on the table."""

import numpy as np

from rl100_learner.algorithms.distillation import DistillationConfig
from rl100_learner.algorithms.imitation import ImitationConfig
from rl100_learner.algorithms.optimizers import OptimizerConfig
from rl100_learner.data.episode import Episode
from rl100_learner.training.settings import TrainSettings
from rl100_policy.core.config import (
    ActionConfig,
    ObservationConfig,
    RobotConfig,
    TaskConfig,
    ToolConfig,
    WorkspaceBox,
)

GAIN, PERIOD_S = 2.0, 0.1
N_POINTS = 32
BOX = WorkspaceBox(low=(0.2, -0.3, 0.0), high=(0.8, 0.3, 0.1))
TASK = TaskConfig(
    name="reach",
    description="reach the square",
    crop=BOX,
    tool_workspace=BOX,
    observation=ObservationConfig(n_obs=2, n_points=N_POINTS),
    action=ActionConfig(names=("linear.x", "linear.y"), low=(-0.25, -0.25), high=(0.25, 0.25)),
    time_limit=2.0,
)
ROBOT = RobotConfig(
    name="arm",
    urdf="arm.urdf",
    base_frame="base",
    joints=("j1",),
    home=(0.0,),
    tool=ToolConfig(parent="hand", xyz=(0, 0, 0), radius=0.01, length=0.1),
    acceleration_limits=(1.0,),
    cameras=(),
)


def make_episode(index: int, steps: int = 12, outcome: str = "success") -> Episode:
    """One straight reach; everything follows from ``index``."""
    rng = np.random.default_rng(index)
    goal = rng.uniform([0.4, -0.15], [0.6, 0.15])
    tool = np.array([rng.uniform(0.35, 0.65), rng.uniform(-0.2, 0.2), 0.015])
    clouds, proprio, actions = [], [], []
    for _ in range(steps + 1):
        flat = np.concatenate([goal, [0.0]]) + rng.uniform(
            [-0.04, -0.04, 0.01], [0.04, 0.04, 0.03], (N_POINTS, 3)
        )
        clouds.append(flat)
        proprio.append(tool.copy())
        actions.append(np.clip(GAIN * (goal - tool[:2]), -0.25, 0.25))
        tool[:2] += actions[-1] * PERIOD_S
    return Episode(
        id=f"reach_{index}",
        outcome=outcome,
        clouds=np.array(clouds, dtype=np.float32),
        proprio=np.array(proprio, dtype=np.float32),
        actions=np.array(actions[:-1], dtype=np.float32),
        stamps_ns=np.arange(steps + 1, dtype=np.int64) * 100_000_000,
    )


def quick_settings(imitation_steps: int, distillation_steps: int) -> TrainSettings:
    """Settings for seconds-long runs on one thread."""
    optimizer = OptimizerConfig(warmup_steps=10)
    return TrainSettings(
        threads=1,
        log_every=5,
        imitation=ImitationConfig(
            steps=imitation_steps,
            windows=32,
            points=16,
            chamfer_points=8,
            ema=0.95,
            optimizer=optimizer,
        ),
        distillation=DistillationConfig(
            steps=distillation_steps, windows=64, copies=2, ema=0.95, optimizer=optimizer
        ),
    )
