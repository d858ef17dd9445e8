# SPDX-License-Identifier: Apache-2.0
"""A task small enough for tests: move the tool straight towards the middle of a square of points
on the table."""

import numpy as np
import torch

from rl100_learner.algorithms.batches import DecisionBatch
from rl100_learner.algorithms.distillation import FramesDistillationConfig
from rl100_learner.algorithms.imitation import ImitationConfig
from rl100_learner.algorithms.optimizers import OptimizerConfig
from rl100_learner.data.episode import Episode
from rl100_learner.data.store import load_stored_episodes, save_episodes
from rl100_learner.objectives.returns import bootstrap_discount
from rl100_learner.training.collecting import Collected
from rl100_learner.training.settings import TrainSettings
from rl100_policy.core.config import (
    ActionConfig,
    PointObservation,
    RobotConfig,
    TaskConfig,
    ToolConfig,
    WorkspaceBox,
)
from rl100_policy.core.policy_version import load_version

GAIN, PERIOD_S = 2.0, 0.1
N_POINTS = 32
BOX = WorkspaceBox(low=(0.2, -0.3, 0.0), high=(0.8, 0.3, 0.1))
TASK = TaskConfig(
    name="reach",
    description="reach the square",
    crop=BOX,
    tool_workspace=BOX,
    observation=PointObservation(n_obs=2, n_points=N_POINTS),
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
    jerk_limits=(1e3,),
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
        visual=np.array(clouds, dtype=np.float32),
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
        distillation=FramesDistillationConfig(
            steps=distillation_steps, windows=64, copies=2, ema=0.95, optimizer=optimizer
        ),
    )


class ReachCollector:
    """Lets policies act on the toy task: reached within ``STEPS`` periods is a success."""

    STEPS = 12
    TOLERANCE_M = 0.03
    where = "toy"
    watches = True

    def __init__(self) -> None:
        self.asked: list[str] = []
        """What was collected, in its order."""

    def episodes(self, version, seeds, folder, *, stochastic):
        path = folder / "episodes.npz"
        if path.exists():
            return load_stored_episodes(path)
        self.asked.append(f"{folder.parent.name}/{folder.name}")
        policy, manifest = load_version(version)
        generator = torch.Generator().manual_seed(seeds.start)
        found = [
            self._play(policy, seed, generator, stochastic, f"{manifest.name}_{seed}")[0]
            for seed in seeds
        ]
        save_episodes(path, found)
        return found

    def decisions(self, policy, _parent, seeds, generator, *, every_frame):
        self.asked.append("online")
        played = [self._play(policy, seed, generator, True, f"online_{seed}") for seed in seeds]
        parts = [part for _, parts in played for part in parts]
        batch = DecisionBatch(
            *(torch.cat([part[index] for part in parts]) for index in range(len(parts[0])))
        )
        episodes = [episode for episode, _ in played]
        won = sum(episode.outcome == "success" for episode in episodes)
        recorded = episodes if every_frame else ()
        return Collected(batch, won, len(episodes), sum(map(len, episodes)), recorded)

    def success(self, policy, seeds):
        """Share of the seeds' episodes that reach the square."""
        generator = torch.Generator().manual_seed(seeds.start)
        played = [self._play(policy, seed, generator, False, "watched")[0] for seed in seeds]
        return sum(episode.outcome == "success" for episode in played) / len(played)

    def _play(self, policy, seed, generator, stochastic, name):
        rng = np.random.default_rng(seed)
        goal = rng.uniform([0.4, -0.15], [0.6, 0.15])
        tool = np.array([rng.uniform(0.35, 0.65), rng.uniform(-0.2, 0.2), 0.015])

        def frame():
            low, high = [-0.04, -0.04, 0.01], [0.04, 0.04, 0.03]
            cloud = np.concatenate([goal, [0.0]]) + rng.uniform(low, high, (N_POINTS, 3))
            return cloud.astype(np.float32), tool.astype(np.float32)

        frames, actions, parts = [frame()], [], []
        reached = False
        while len(actions) < self.STEPS and not reached:
            window = self._window(frames)
            made = policy.decide(
                *(part.to(policy.device) for part in window),
                sampler="ddim", noise_seed=generator, deterministic=not stochastic,
            )  # fmt: skip
            before = len(actions)
            for action in made.actions[0].cpu().numpy():
                tool[:2] += np.clip(action, -0.25, 0.25) * PERIOD_S
                actions.append(action)
                frames.append(frame())
                reached = bool(np.linalg.norm(tool[:2] - goal) < self.TOLERANCE_M)
                if reached or len(actions) == self.STEPS:
                    break
            lasted = torch.tensor([len(actions) - before])
            won = torch.tensor([reached])
            over = torch.tensor([reached or len(actions) == self.STEPS])
            parts.append(
                (*window, *self._window(frames), made.latents.cpu(), made.log_probs.cpu(),
                 won * 0.9 ** (lasted - 1.0), bootstrap_discount(lasted, won, 0.9), over)
            )  # fmt: skip
        clouds, proprio = (np.stack(each) for each in zip(*frames, strict=True))
        episode = Episode(
            id=name,
            outcome="success" if reached else "failure",
            visual=clouds,
            proprio=proprio,
            actions=np.array(actions, dtype=np.float32),
            stamps_ns=np.arange(len(frames), dtype=np.int64) * 100_000_000,
        )
        return episode, parts

    @staticmethod
    def _window(frames):
        pair = [frames[max(0, len(frames) - 2)], frames[-1]]
        return (
            torch.from_numpy(np.stack([cloud for cloud, _ in pair]))[None],
            torch.from_numpy(np.stack([proprio for _, proprio in pair]))[None],
        )
