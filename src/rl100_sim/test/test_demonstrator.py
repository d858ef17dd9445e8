# SPDX-License-Identifier: Apache-2.0
"""The scripted person: usually succeeds, keeps clear while walking, and is reproducible."""

import numpy as np
import pytest

from rl100_sim.demonstrator import ScriptedPusher, draw_temper
from rl100_sim.env import PushTEnv


@pytest.fixture(scope="module")
def env(robot, task):
    return PushTEnv(robot, task, observation="state")


def demonstrate(env, pusher, seed):
    """One episode; the infos of all periods, the actions, and whether it succeeded."""
    _, info = env.reset(seed=seed)
    pusher.reset(np.random.default_rng([seed, 1]))
    infos, actions, over = [info], [], False
    while not over:
        actions.append(pusher.act(info["object_pose"], info["goal_pose"], info["tool_position"]))
        _, _, terminated, truncated, info = env.step(actions[-1])
        infos.append(info)
        over = terminated or truncated
    return infos, np.array(actions), bool(infos[-1]["success"])


def test_most_demonstrations_succeed(env, robot, task):
    pusher = ScriptedPusher(robot, task)
    successes = [demonstrate(env, pusher, seed)[2] for seed in range(20)]
    assert sum(successes) > 10


def test_a_skilled_person_is_quicker_than_a_clumsy_one(env, robot, task):
    periods = {
        skill: sum(
            len(demonstrate(env, ScriptedPusher(robot, task, skill=skill), seed)[1])
            for seed in range(8)
        )
        for skill in (0.1, 0.9)
    }
    assert periods[0.9] < periods[0.1]


def test_equal_seeds_give_equal_demonstrations(env, robot, task):
    (_, first, _), (_, second, _) = (
        demonstrate(env, ScriptedPusher(robot, task), 3) for _ in range(2)
    )
    assert first.tobytes() == second.tobytes()


def test_actions_stay_within_the_bounds(env, robot, task):
    _, actions, _ = demonstrate(env, ScriptedPusher(robot, task, skill=0.0), 1)
    assert (np.abs(actions) <= np.array(task.action.high)).all()


def test_without_imperfections_the_intention_is_a_function_of_the_state(robot, task):
    """Two people with different seeds and histories, both free of imperfections, want the same."""
    scene = (np.array([0.45, 0.1, 0.5]), np.array([0.5, 0.0, 0.0]), np.array([0.35, -0.05]))
    wishes = []
    for seed in (0, 1):
        pusher = ScriptedPusher(robot, task, skill=1.3)
        pusher.reset(np.random.default_rng(seed))
        assert pusher.temper.level == 0.0
        wishes.append(pusher.act(*scene))
    np.testing.assert_array_equal(*wishes)


def test_it_walks_around_the_block_without_moving_it(env, robot, task):
    """The block has to come straight back towards the tool at home: it is pushed from behind."""
    start, goal = np.array([0.58, 0.0, -np.pi / 2]), np.array([0.45, 0.0, -np.pi / 2])
    pusher = ScriptedPusher(robot, task, skill=1.3)
    pusher.reset(np.random.default_rng(0))
    _, info = env.reset(seed=0, options={"object_pose": start})
    for _ in range(60):
        if info["tool_position"][0] > start[0] + 0.05:
            break
        np.testing.assert_array_equal(info["object_pose"], start)
        *_, info = env.step(pusher.act(info["object_pose"], goal, info["tool_position"]))
    assert info["tool_position"][0] > start[0] + 0.05
    for _ in range(60):
        *_, info = env.step(pusher.act(info["object_pose"], goal, info["tool_position"]))
    assert np.linalg.norm(info["object_pose"][:2] - goal[:2]) < 0.02


def test_levels_surround_the_skill():
    rng = np.random.default_rng(0)
    levels = [draw_temper(0.5, rng).level for _ in range(200)]
    assert min(levels) >= 0.2
    assert max(levels) <= 0.8
    assert np.mean(levels) == pytest.approx(0.5, abs=0.05)
