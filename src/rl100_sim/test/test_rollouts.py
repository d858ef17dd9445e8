# SPDX-License-Identifier: Apache-2.0
"""Episodes in a pool are those of single environments, however they are spread."""

import multiprocessing
import os
import signal
from functools import partial

import numpy as np
import pytest

from rl100_sim.env import PushTEnv
from rl100_sim.rollouts import SimulationError, Windows, rollout_pool

N_OBS, N_CHUNK = 2, 8


def chunk_of(seed: int, decision: int) -> np.ndarray:
    return np.random.default_rng([seed, decision]).uniform(-0.25, 0.25, (N_CHUNK, 2))


def decide(windows: Windows):
    pairs = list(zip(windows.seeds, windows.decisions, strict=True))
    return np.stack([chunk_of(*pair) for pair in pairs]), pairs


@pytest.fixture(scope="module")
def make_env(short_task, robot):
    return partial(PushTEnv, robot, short_task, render_every=N_CHUNK)


@pytest.fixture(scope="module")
def short_task(task):
    return task.model_copy(update={"time_limit": 2.0})  # 20 periods: two chunks and a half


def play(make_env, seeds, *, envs, processes):
    shape = {"n_obs": N_OBS, "n_chunk": N_CHUNK}
    with rollout_pool(make_env, envs=envs, processes=processes, **shape) as pool:
        return list(pool.run(seeds, decide))


@pytest.mark.sim
def test_an_episode_of_the_pool_is_that_of_one_environment(make_env):
    (rollout,) = play(make_env, [7], envs=1, processes=1)
    env = make_env()
    observation, _ = env.reset(seed=7)
    frames, rewards, executed = [observation] * N_OBS, [], []
    for decision in range(3):
        np.testing.assert_array_equal(rollout.visual[decision][-1], frames[-1]["cloud"])
        np.testing.assert_array_equal(
            rollout.proprio[decision], np.stack([f["proprio"] for f in frames[-N_OBS:]])
        )
        for action in chunk_of(7, decision)[: 8 if decision < 2 else 4]:
            observation, reward, terminated, truncated, info = env.step(action)
            frames.append(observation)
            rewards.append(reward)
            executed.append(info["executed"])
    assert not terminated
    assert truncated
    assert rollout.truncated
    assert not rollout.terminated
    assert rollout.periods.tolist() == [8, 8, 4]
    assert rollout.steps == len(rewards) == 20
    assert rollout.extras == [(7, 0), (7, 1), (7, 2)]
    flat = rollout.executed.reshape(-1, 2)
    np.testing.assert_array_equal(flat[:20], executed)
    assert not flat[20:].any()
    np.testing.assert_array_equal(rollout.visual[-1][-1], frames[-1]["cloud"])


@pytest.mark.sim
def test_processes_and_environments_change_nothing_but_the_time(make_env):
    seeds = range(5)
    one = {r.seed: r for r in play(make_env, seeds, envs=2, processes=1)}
    two = {r.seed: r for r in play(make_env, seeds, envs=3, processes=2)}
    assert one.keys() == two.keys() == set(seeds)
    for seed in seeds:
        np.testing.assert_array_equal(one[seed].visual, two[seed].visual)
        np.testing.assert_array_equal(one[seed].executed, two[seed].executed)


@pytest.mark.sim
def test_what_an_environment_raises_is_raised_here(make_env):
    def shapeless(windows: Windows):
        return np.zeros((len(windows.seeds), N_CHUNK, 3)), [None] * len(windows.seeds)

    shape = {"n_obs": N_OBS, "n_chunk": N_CHUNK}
    with (
        rollout_pool(make_env, envs=1, processes=1, **shape) as pool,
        pytest.raises(ValueError, match="shape"),
    ):
        next(pool.run([1], shapeless))


@pytest.mark.sim
def test_a_process_that_is_gone_is_told_with_what_to_do(make_env):
    shape = {"n_obs": N_OBS, "n_chunk": N_CHUNK}

    def kill(windows: Windows):
        for child in multiprocessing.active_children():
            child.kill()
            child.join()
        return decide(windows)

    with (
        rollout_pool(make_env, envs=1, processes=1, **shape) as pool,
        pytest.raises(SimulationError, match="the same command goes on"),
    ):
        next(pool.run([1], kill))


@pytest.mark.sim
def test_processes_do_not_hear_ctrl_c_but_end_with_the_pool(make_env):
    shape = {"n_obs": N_OBS, "n_chunk": N_CHUNK}
    with rollout_pool(make_env, envs=1, processes=1, **shape) as pool:
        (child,) = multiprocessing.active_children()
        os.kill(child.pid, signal.SIGINT)  # while it is still importing
        next(pool.run([1], decide))
        os.kill(child.pid, signal.SIGINT)
        next(pool.run([1], decide))
    assert child.exitcode == 0
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


@pytest.mark.sim
def test_images_travel_from_the_processes_as_bytes(seeing_robot, image_task):
    make_env = partial(PushTEnv, seeing_robot, image_task.model_copy(update={"time_limit": 1.0}))
    shape = {"envs": 2, "processes": 2, "n_obs": N_OBS, "n_chunk": N_CHUNK}
    with rollout_pool(make_env, **shape) as pool:
        rollouts = list(pool.run(range(2), decide, every_frame=True))
    for rollout in rollouts:
        observation, _ = make_env().reset(seed=rollout.seed)
        np.testing.assert_array_equal(rollout.visual[0], [observation["image"]] * N_OBS)
        assert rollout.visual.dtype == rollout.frames.visual.dtype == np.uint8
        assert rollout.frames.visual.shape == (rollout.steps + 1, 96, 96, 3)
