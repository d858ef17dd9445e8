# SPDX-License-Identifier: Apache-2.0
"""Tasks of the claims and their demonstrations by scripts, without a graph."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from filelock import FileLock

from rl100_bringup.graph import config_path
from rl100_bringup.reproduction.claims import PUSH_T, SUITE, Variant
from rl100_learner.data.episode import Episode
from rl100_learner.data.store import load_stored_episodes, save_episodes
from rl100_learner.training.identity import content_key
from rl100_learner.training.seeds import Purpose, episode_seeds
from rl100_policy.core.config import (
    AnyTask,
    BenchmarkTask,
    RobotConfig,
    TaskConfig,
    load_robot,
    load_task,
)
from rl100_sim.demonstrator import SKILL, ScriptedPusher, planar_twist
from rl100_sim.env import PushTEnv
from rl100_sim.meta_world.demonstrator import Demonstration, demonstrate
from rl100_sim.meta_world.env import MetaWorldEnv
from rl100_sim.sight import seen


def describe_task(variant: Variant) -> tuple[AnyTask, RobotConfig | None]:
    """Task and robot of a variant, as the learner takes them."""
    if variant.task == PUSH_T:
        task = load_task(config_path("tasks", PUSH_T))
        return task, load_robot(config_path("robots", "panda"))
    env = _benchmark_env(variant)
    return BenchmarkTask(
        name=variant.task,
        suite=SUITE,
        n_points=variant.n_points,
        proprio_dim=env.observation_space["proprio"].shape[0],  # type: ignore[index]
        action_dim=env.action_space.shape[0],  # type: ignore[index]
        control_period=1.0 / env.metadata["render_fps"],
    ), None


def _benchmark_env(variant: Variant) -> MetaWorldEnv:
    observation: Literal["cloud", "state"] = "cloud" if variant.n_points else "state"
    return MetaWorldEnv(variant.task, observation=observation, n_points=max(variant.n_points, 1))


def description_key(variant: Variant) -> str:
    """Ten digits, equal for equal descriptions of the task, its robot and its operator."""
    task, robot = describe_task(variant)
    described = [each and each.model_dump(mode="json") for each in (task, robot)]
    return content_key(*described, SKILL if robot else None)


def demonstrations_of(variant: Variant, seed: int, folder: Path) -> list[Episode]:
    """Demonstrations of a variant, made once for all runs that share a folder.

    Args:
        variant: Whose task is shown, and how often.
        seed: Of the run; no two share a demonstration.
        folder: Where they are kept.
    """
    name = f"{variant.task}_{variant.demonstrations}_{description_key(variant)}_seed_{seed}.npz"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"{name}.lock"):
        if not (folder / name).exists():
            seeds = episode_seeds(Purpose.DEMONSTRATIONS, seed, 0, variant.demonstrations)
            save_episodes(folder / name, _shown(variant, seeds))
        return load_stored_episodes(folder / name)


def _shown(variant: Variant, seeds: range) -> list[Episode]:
    task, robot = describe_task(variant)
    if isinstance(task, BenchmarkTask):
        env = _benchmark_env(variant)
        return [_episode(demonstrate(env, seed)) for seed in seeds]
    assert robot is not None, "a robot's task comes with one"
    return list(scripted_episodes(task, robot, seeds))


def _episode(shown: Demonstration) -> Episode:
    return Episode(
        id=shown.id,
        outcome=shown.outcome,
        visual=shown.visual,
        proprio=shown.proprio,
        actions=shown.actions,
        stamps_ns=shown.stamps_ns,
    )


def scripted_episodes(
    task: TaskConfig, robot: RobotConfig, seeds: range, skill: float = SKILL
) -> Iterator[Episode]:
    """Push-T by the scripted person of the demo, without a graph: observed as on the robot."""
    env, person = PushTEnv(robot, task), ScriptedPusher(robot, task, skill=skill)
    for seed in seeds:
        observation, info = env.reset(seed=seed)
        person.reset(np.random.default_rng((seed, _PERSON_STREAM)))
        frames, actions, over = [observation], [], False
        while not over:
            wish = person.act(info["object_pose"], info["goal_pose"], info["tool_position"])
            observation, _, terminated, truncated, info = env.steer(planar_twist(wish))
            frames.append(observation)
            actions.append(info["executed"])
            over = terminated or truncated
        yield Episode(
            id=f"{task.name}_scripted_{seed}",
            outcome="success" if info["success"] else "failure",
            visual=np.stack([seen(frame) for frame in frames]),
            proprio=np.stack([frame["proprio"] for frame in frames]),
            actions=np.array(actions, dtype=np.float32),
            stamps_ns=np.arange(len(frames), dtype=np.int64) * round(robot.control_period * 1e9),
        )


_PERSON_STREAM = 1
"""Beside the seed, so that the person's numbers are not those of the scene."""
