# SPDX-License-Identifier: Apache-2.0
"""Meta-World environments: equal seeds give equal bits, success ends, and the camera sees."""

import sys
from dataclasses import replace
from functools import cache, partial

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import rl100_sim  # noqa: F401 - registers the environment
from rl100_policy.core.errors import ActionError, ConfigError
from rl100_sim.meta_world import TASKS, MetaWorldEnv, MetaWorldTask
from rl100_sim.meta_world.library import GOAL
from rl100_sim.rollouts import Windows, rollout_pool

PROPRIO = {
    "push-v3": (13, 6),
    "pick-place-v3": (14, 7),
    "plate-slide-v3": (9, 4),
    "sweep-into-v3": (11, 4),
    "button-press-topdown-v3": (9, 4),
    "drawer-open-v3": (8, 4),
    "door-open-v3": (13, 4),
    "hammer-v3": (14, 4),
    "peg-insert-side-v3": (13, 4),
}
"""Numbers in proprio with state and with clouds: hand 3, gap 1, object 7 or 3, goal 0 to 3."""


@cache
def used(name: str) -> MetaWorldEnv:
    """One environment per task, used by many tests: an episode does not depend on the others."""
    return MetaWorldEnv(name)


@cache
def seeing_push() -> MetaWorldEnv:
    return MetaWorldEnv("push-v3", observation="cloud", n_points=128)


def chunk_of(seed: int, decision: int) -> np.ndarray:
    return np.random.default_rng([seed, decision]).uniform(-1.2, 1.2, (8, 4))


def decide(windows: Windows):
    pairs = list(zip(windows.seeds, windows.decisions, strict=True))
    return np.stack([chunk_of(*pair) for pair in pairs]), pairs


def play(env, n_steps, seed, actions=5):
    """Observations of an episode with fixed random actions."""
    rng = np.random.default_rng(actions)
    frames = [env.reset(seed=seed)[0]]
    frames += [env.step(rng.uniform(-1.0, 1.0, 4))[0] for _ in range(n_steps)]
    return frames


def same_bits(frames, others):
    return [
        frame["proprio"].tobytes() == other["proprio"].tobytes()
        and frame["cloud"].tobytes() == other["cloud"].tobytes()
        for frame, other in zip(frames, others, strict=True)
    ]


@pytest.mark.filterwarnings("ignore:.*Box observation space.*infinity:UserWarning")
@pytest.mark.filterwarnings("ignore:.*minimum value of observation space is equal to the max")
@pytest.mark.filterwarnings("ignore:.*maximum value of observation space is equal to the min")
def test_gymnasiums_own_checks_pass():
    env = gymnasium.make("rl100_sim:rl100/MetaWorld-v0", task="drawer-open-v3")
    check_env(env.unwrapped, skip_render_check=True)


@pytest.mark.parametrize("name", TASKS)
def test_an_episode_is_its_seed_whatever_ran_before(name):
    fresh = play(MetaWorldEnv(name), 6, seed=9)
    play(used(name), 30, seed=2, actions=7)
    np.random.seed(3)  # the library must not draw from this one
    assert all(same_bits(fresh, play(used(name), 6, seed=9)))
    assert not any(same_bits(fresh, play(used(name), 6, seed=8)))


@pytest.mark.parametrize("name", TASKS)
def test_the_state_is_finite_and_holds_no_zeros_that_stay(name):
    env = used(name)
    env.reset(seed=2)
    frames = []
    while not frames or not (env.scene.success or len(frames) == env.task.max_periods):
        frames.append(env.step(env.scene.expert_action())[0])
    proprio = np.stack([frame["proprio"] for frame in frames])
    assert proprio.shape[1] == PROPRIO[name][0]
    assert proprio.dtype == np.float32
    assert np.isfinite(proprio).all()
    assert (proprio != 0.0).any(axis=0).all()
    assert {frame["cloud"].shape for frame in frames} == {(0, 3)}
    assert all(env.observation_space.contains(frame) for frame in frames)


@pytest.mark.parametrize("name", TASKS)
def test_exactly_those_coordinates_of_the_goal_that_differ_are_told(name):
    env = used(name)
    goals = []
    for seed in range(4):
        env.reset(seed=seed)
        goals.append(env.scene.observation[GOAL])
    differs = np.ptp(goals, axis=0) > 0.002
    assert differs.tolist() == [axis < env.task.goal_dim for axis in range(3)]


@pytest.mark.parametrize("name", TASKS)
def test_a_cloud_is_in_the_crop_above_the_table(name):
    env = MetaWorldEnv(name, observation="cloud", n_points=128)
    observation, info = env.reset(seed=1)
    assert info["frame_is_new"]
    assert observation["proprio"].shape == (PROPRIO[name][1],)
    assert observation["cloud"].shape == (128, 3)
    assert observation["cloud"].dtype == np.float32
    assert env.observation_space.contains(observation)
    # hundreds of pixels of table would be lower than all but a few of the scene's
    above = observation["cloud"][:, 2] - TASKS[name].table_height
    assert above.min() >= 0.0099
    assert np.median(above) > 0.015


def test_the_first_observation_is_of_where_things_are():
    """Regression: the library observes the drawer's handle before it has moved the cabinet."""
    env = used("drawer-open-v3")
    before = env.reset(seed=4)[0]["proprio"][4:7]
    after = env.step(np.zeros(4))[0]["proprio"][4:7]
    np.testing.assert_allclose(after, before, atol=2e-3)


def puck_points(cloud, centre):
    """Points in and around a cylinder of 2 cm radius that stands on the table there."""
    near = np.linalg.norm(cloud[:, :2] - centre[:2], axis=1) < 0.025
    return cloud[near & (cloud[:, 2] < 0.045)]


def test_the_camera_sees_the_puck_where_it_is_and_not_where_it_was():
    env = seeing_push()
    cloud, start = env.reset(seed=0)[0]["cloud"], env.scene.observation[4:7]
    seen = puck_points(cloud, start)
    assert len(seen) >= 4
    # the top face is 4 cm above the table; 4 mm for noise and rounding of the depth
    assert seen[:, 2].max() == pytest.approx(start[2] + 0.02, abs=0.004)
    while not env.scene.success:
        observation, *_ = env.step(env.scene.expert_action())
    end = env.scene.observation[4:7]
    assert np.linalg.norm(end - start) > 0.1
    assert len(puck_points(observation["cloud"], end)) >= 2
    assert len(puck_points(observation["cloud"], start)) == 0


def test_success_ends_the_episode_with_reward_one():
    env = used("push-v3")
    env.reset(seed=0)
    ends = []
    while not ends or not (ends[-1][1] or ends[-1][2]):
        _, *outcome, info = env.step(env.scene.expert_action())
        ends.append((*outcome, info["success"]))
    assert ends[-1] == (1.0, True, False, True)
    assert set(ends[:-1]) == {(0.0, False, False, False)}
    # what the library calls success: within 5 cm
    assert np.linalg.norm(env.scene.observation[4:7] - env.scene.observation[GOAL]) <= 0.05


def test_the_time_limit_truncates_and_its_frame_is_rendered():
    task = replace(TASKS["push-v3"], max_periods=5)
    env = MetaWorldEnv(task, observation="cloud", n_points=64, render_every=100)
    env.reset(seed=0)
    steps = [env.step(np.zeros(4)) for _ in range(5)]
    assert [step[3] for step in steps] == [False] * 4 + [True]
    assert not any(step[2] for step in steps)
    assert [step[4]["frame_is_new"] for step in steps] == [False] * 4 + [True]


def test_only_frames_up_to_a_decision_are_rendered_and_are_the_same():
    some = MetaWorldEnv("push-v3", observation="cloud", n_points=128, render_every=4)
    same = same_bits(play(seeing_push(), 9, seed=1), play(some, 9, seed=1))
    # n_obs = 2: decisions at 0, 4, 8 look at themselves and the frame before; 0 has none before
    assert same == [period in (0, 3, 4, 7, 8) for period in range(10)]


def test_the_action_is_cut_to_the_box():
    env = used("push-v3")
    env.reset(seed=0)
    observation, *_, info = env.step(np.array([3.0, -0.5, 0.2, -7.0]))
    np.testing.assert_array_equal(info["executed"], [1.0, -0.5, 0.2, -1.0])
    env.reset(seed=0)
    assert same_bits([observation], [env.step(info["executed"])[0]]) == [True]


@pytest.mark.parametrize("action", [np.zeros(3), [0.0, np.nan, 0.0, 0.0]], ids=["short", "nan"])
def test_an_action_that_is_none_is_refused(action):
    env = used("push-v3")
    env.reset(seed=0)
    with pytest.raises(ActionError, match="4 finite numbers"):
        env.step(action)


@pytest.mark.sim
@pytest.mark.parametrize(("observation", "processes"), [("cloud", 2), ("state", 1)])
def test_an_episode_of_the_pool_is_that_of_one_environment(observation, processes):
    task = replace(TASKS["plate-slide-v3"], max_periods=20)
    options = {"observation": observation, "n_points": 64, "render_every": 8}
    make_env = partial(MetaWorldEnv, task, **options)
    shape = {"n_obs": 2, "n_chunk": 8}
    with rollout_pool(make_env, envs=2, processes=processes, **shape) as pool:
        rollouts = list(pool.run([3, 4, 5], decide))
    assert sorted(rollout.seed for rollout in rollouts) == [3, 4, 5]
    env = make_env()
    for rollout in rollouts:
        assert rollout.periods.tolist() == [8, 8, 4]
        assert rollout.truncated
        observed, _ = env.reset(seed=rollout.seed)
        for decision in range(3):
            np.testing.assert_array_equal(rollout.proprio[decision][-1], observed["proprio"])
            np.testing.assert_array_equal(rollout.visual[decision][-1], observed["cloud"])
            for action in chunk_of(rollout.seed, decision)[: rollout.periods[decision]]:
                observed, *_ = env.step(action)


@pytest.mark.parametrize(
    ("name", "near"), [("push", "push-v3"), ("drawer-open-v2", "drawer-open-v3"), ("?", "hammer")]
)
def test_an_unknown_task_is_refused_with_the_nearest(name, near):
    with pytest.raises(ConfigError, match=near):
        MetaWorldEnv(name)
    with pytest.raises(ConfigError, match=near):
        MetaWorldEnv(MetaWorldTask(name))


@pytest.mark.parametrize(
    "options", [{"observation": "pixels"}, {"render_every": 0}, {"n_points": 0}]
)
def test_an_option_out_of_range_is_refused(options):
    with pytest.raises(ConfigError, match="render_every >= 1"):
        MetaWorldEnv("push-v3", **options)


def test_without_the_library_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "metaworld.env_dict", None)
    with pytest.raises(ConfigError, match=r"pip install .*requirements"):
        MetaWorldEnv("push-v3")
