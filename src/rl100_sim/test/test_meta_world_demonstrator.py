# SPDX-License-Identifier: Apache-2.0
"""Demonstrations of Meta-World tasks: repeatable, replayable, imperfect in the hand only."""

import numpy as np
import pytest

from rl100_policy.core.errors import ConfigError
from rl100_sim.meta_world import MetaWorldEnv, MetaWorldTask, demonstrate
from rl100_sim.meta_world.demonstrator import TREMOR_MEMORY, ImperfectHand


@pytest.fixture(scope="module")
def env():
    return MetaWorldEnv("plate-slide-v3")


def test_the_exact_operator_succeeds_well_within_the_limit(env):
    demonstration = demonstrate(env, 0, level=0.0)
    assert demonstration.success
    assert len(demonstration) < 0.7 * env.task.max_periods


def test_a_trembling_operator_fails_sometimes(env):
    outcomes = [demonstrate(env, seed, level=0.7).success for seed in range(8)]
    assert 0 < sum(outcomes) < 8


def test_equal_seeds_give_equal_demonstrations(env):
    first = demonstrate(env, 3)
    demonstrate(env, 4)
    second = demonstrate(MetaWorldEnv("plate-slide-v3"), 3)
    assert first.actions.tobytes() == second.actions.tobytes()
    assert first.proprio.tobytes() == second.proprio.tobytes()
    assert (first.id, first.outcome, first.level) == (second.id, second.outcome, second.level)
    assert demonstrate(env, 4).level != first.level


def test_a_demonstration_can_be_played_back(env):
    demonstration = demonstrate(env, 5)
    observation, _ = env.reset(seed=demonstration.seed)
    for action, expected in zip(demonstration.actions, demonstration.proprio, strict=False):
        np.testing.assert_array_equal(observation["proprio"], expected)
        observation, _, terminated, truncated, info = env.step(action)
        np.testing.assert_array_equal(info["executed"], action)
    np.testing.assert_array_equal(observation["proprio"], demonstration.proprio[-1])
    assert terminated == demonstration.success
    assert terminated or truncated


def test_frames_are_one_more_than_actions_80_times_a_second(env):
    demonstration = demonstrate(env, 0, level=0.0)
    count = len(demonstration)
    assert demonstration.actions.shape == (count, 4)
    assert demonstration.proprio.shape == (count + 1, 9)
    assert demonstration.visual.shape == (count + 1, 0, 3)
    for array in (demonstration.actions, demonstration.proprio, demonstration.visual):
        assert array.dtype == np.float32
    assert demonstration.stamps_ns.dtype == np.int64
    np.testing.assert_array_equal(demonstration.stamps_ns, np.arange(count + 1) * 12_500_000)


def test_a_level_is_drawn_from_the_range_of_the_task(env):
    low, high = env.task.level
    levels = [demonstrate(env, seed).level for seed in range(4)]
    assert low <= min(levels) < max(levels) <= high


def spoiled(level, count, seed=0):
    hand = ImperfectHand(level, np.random.default_rng(seed))
    return np.stack([hand.spoil(np.array([0.0, 0.0, 0.0, 0.7])) for _ in range(count)])


def test_the_tremor_has_its_level_and_memory_and_spares_the_gripper():
    actions = spoiled(0.1, 8_000)
    assert set(actions[:, 3]) == {0.7}
    hand = actions[:, :3]
    moving = (hand != 0.0).all(axis=1)
    # standard error of a standard deviation over 8000 correlated samples: about 1.3 %
    np.testing.assert_allclose(hand[moving].std(axis=0), 0.1, rtol=0.05)
    both = moving[1:] & moving[:-1]
    correlation = [np.corrcoef(hand[1:][both, i], hand[:-1][both, i])[0, 1] for i in range(3)]
    np.testing.assert_allclose(correlation, TREMOR_MEMORY, atol=0.03)


def test_hesitations_are_as_frequent_as_the_level_says():
    still = (spoiled(0.4, 25_000)[:, :3] == 0.0).all(axis=1)
    starts = np.flatnonzero(still[1:] & ~still[:-1])
    # one starts with 0.05 * 0.4 = 2 % of the periods that are not in one: some 440 here, the
    # standard error of their number is 5 %
    assert len(starts) / (~still).sum() == pytest.approx(0.02, rel=0.15)
    assert still.sum() / len(starts) == pytest.approx(7.0, rel=0.1)  # mean of 3, ..., 11


def test_an_exact_hand_changes_nothing():
    action = np.array([0.3, -1.0, 0.2, -0.4])
    hand = ImperfectHand(0.0, np.random.default_rng(0))
    np.testing.assert_array_equal([hand.spoil(action) for _ in range(50)], [action] * 50)


def test_clouds_are_recorded_every_period():
    task = MetaWorldTask("push-v3", max_periods=4)
    env = MetaWorldEnv(task, observation="cloud", n_points=64)
    clouds = demonstrate(env, 0, level=0.2).visual
    assert clouds.shape == (5, 64, 3)
    assert len({cloud.tobytes() for cloud in clouds}) == 5


def test_a_recording_with_missing_frames_is_refused():
    env = MetaWorldEnv("push-v3", observation="cloud", render_every=2)
    with pytest.raises(ConfigError, match="every frame"):
        demonstrate(env, 0)


def test_a_level_must_be_known_and_not_negative(env):
    with pytest.raises(ConfigError, match="0 or more"):
        demonstrate(env, 0, level=-0.1)
    with pytest.raises(ConfigError, match="reach-v3"):
        demonstrate(MetaWorldEnv(MetaWorldTask("reach-v3")), 0)
