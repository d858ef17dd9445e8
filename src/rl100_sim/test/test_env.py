# SPDX-License-Identifier: Apache-2.0
"""Gymnasium contract, reproducibility, and the saving of frames nobody looks at."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import rl100_sim  # noqa: F401 - registers the environment
from rl100_policy.core.errors import ConfigError
from rl100_policy.core.sight import sight_maker
from rl100_sim.demonstrator import ScriptedPusher, planar_twist
from rl100_sim.env import PushTEnv


def make(robot, task, **options):
    return PushTEnv(robot, task, **options)


def play(env, n_steps, seed=0):
    """Observations, rewards and infos of fixed random actions."""
    rng = np.random.default_rng(5)
    observation, info = env.reset(seed=seed)
    trace = [(observation, 0.0, info)]
    for _ in range(n_steps):
        observation, reward, _, _, info = env.step(rng.uniform(-0.2, 0.2, 2))
        trace.append((observation, reward, info))
    return trace


@pytest.mark.filterwarnings("ignore:.*Box observation space.*infinity:UserWarning")
@pytest.mark.parametrize("observation", ["task", "state"])
def test_gymnasiums_own_checks_pass(robot, task, observation):
    check_env(make(robot, task, observation=observation), skip_render_check=True)


def test_equal_seeds_and_actions_give_equal_bits(robot, task):
    first, second = (play(make(robot, task), 12, seed=4) for _ in range(2))
    for (observation, reward, info), (other, other_reward, other_info) in zip(
        first, second, strict=True
    ):
        assert observation["cloud"].tobytes() == other["cloud"].tobytes()
        assert observation["proprio"].tobytes() == other["proprio"].tobytes()
        assert info["object_pose"].tobytes() == other_info["object_pose"].tobytes()
        assert reward == other_reward


def test_an_episode_does_not_depend_on_the_one_before(robot, task):
    env = make(robot, task)
    fresh = play(env, 6, seed=9)
    play(env, 11, seed=2)
    again = play(env, 6, seed=9)
    assert fresh[-1][0]["cloud"].tobytes() == again[-1][0]["cloud"].tobytes()


def test_what_a_person_did_in_joint_velocities_leads_to_the_same_states(robot, task, joint_task):
    by_tool, by_joints = (make(robot, each, observation="state") for each in (task, joint_task))
    person, again = ScriptedPusher(robot, task), make(robot, joint_task, observation="state")
    person.reset(np.random.default_rng(3))
    (_, info), _, _ = (env.reset(seed=3) for env in (by_tool, by_joints, again))
    for _ in range(40):
        wish = person.act(info["object_pose"], info["goal_pose"], info["tool_position"])
        *_, info = by_tool.step(wish)
        *_, steered = by_joints.steer(planar_twist(wish))
        *_, repeated = again.step(steered["executed"])
        for each in (steered, repeated):
            np.testing.assert_allclose(each["object_pose"], info["object_pose"], atol=1e-6)
            np.testing.assert_allclose(each["tool_position"], info["tool_position"], atol=1e-6)
    assert by_joints.action_space.shape == (7,)


def test_the_start_is_the_first_thing_drawn_from_the_seed(robot, task):
    env = make(robot, task, observation="state")
    _, info = env.reset(seed=31)
    expected = env.episode.task.reset(np.random.default_rng(31))
    np.testing.assert_array_equal(info["object_pose"], expected)


def test_only_frames_up_to_a_decision_are_rendered_and_are_the_same(robot, task):
    every, some = play(make(robot, task), 9), play(make(robot, task, render_every=4), 9)
    new = [info["frame_is_new"] for _, _, info in some]
    # n_obs = 2: decisions at 0, 4, 8 look at themselves and the frame before; 0 has none before.
    assert new == [period in (0, 3, 4, 7, 8) for period in range(10)]
    for is_new, (full, _, _), (sparse, _, _) in zip(new, every, some, strict=True):
        assert (full["cloud"].tobytes() == sparse["cloud"].tobytes()) == is_new


def test_the_frame_cut_by_the_time_limit_is_rendered(robot, task):
    env = make(robot, task.model_copy(update={"time_limit": 0.5}), render_every=100)
    env.reset(seed=0)
    steps = [env.step(np.zeros(2)) for _ in range(5)]
    assert [step[3] for step in steps] == [False] * 4 + [True]
    assert not any(step[2] for step in steps)
    assert [step[4]["frame_is_new"] for step in steps] == [False] * 4 + [True]


def test_pushing_the_block_onto_the_goal_terminates_with_reward_one(robot, task):
    """The outer face of the bar looks at the tool.

    The goal lies 5 cm straight behind the block.
    """
    turned = task.model_copy(update={"sim": {**task.sim, "goal_yaw": np.pi / 2}})
    env = make(robot, turned, observation="state")
    env.reset(seed=0, options={"object_pose": np.array([0.45, 0.0, np.pi / 2])})
    ends = []
    while not ends or not (ends[-1][1] or ends[-1][2]):
        _, reward, terminated, truncated, info = env.step(np.array([0.1, 0.0]))
        ends.append((reward, terminated, truncated, info["success"]))
    assert ends[-1] == (1.0, True, False, True)
    assert set(ends[:-1]) == {(0.0, False, False, False)}


def test_a_cloud_lies_in_the_crop_and_on_block_and_tool(robot, task):
    env = make(robot, task)
    observation, info = env.reset(seed=3)
    cloud = observation["cloud"].astype(float)
    assert env.observation_space.contains(observation)
    gap = np.minimum(
        env.episode.task.item.distance(info["object_pose"], cloud[:, :2]),
        np.linalg.norm(cloud[:, :2] - info["tool_position"][:2], axis=1) - robot.tool.radius,
    )
    assert gap.max() < 0.006  # Six standard deviations of the depth noise.
    assert cloud[:, 2].max() > 0.025


def test_info_tells_what_the_gate_made_of_the_action(robot, task):
    """The first periods are slower, as far as the arm's acceleration limits ask."""
    env = make(robot, task, observation="state")
    _, before = env.reset(seed=0)
    for _ in range(3):
        *_, after = env.step(np.array([5.0, 0.1]))
        moved = after["tool_position"][:2] - before["tool_position"][:2]
        np.testing.assert_allclose(moved, 0.1 * after["executed"], atol=2e-3)
        before = after
    np.testing.assert_allclose(after["executed"], [0.25, 0.1], atol=2e-3)


def test_the_state_is_the_pose_of_the_block(robot, task):
    env = make(robot, task, observation="state")
    observation, info = env.reset(seed=2)
    x, y, yaw = info["object_pose"]
    np.testing.assert_allclose(observation["object"], [x, y, np.cos(yaw), np.sin(yaw)], atol=1e-6)
    assert "cloud" not in observation


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize(("kind", "key"), [("state", "object"), ("task", "cloud")])
def test_a_vector_of_environments_equals_single_ones(robot, task, mode, kind, key):
    options = {"robot": robot, "task": task, "observation": kind}
    actions = np.array([[0.1, -0.05], [-0.2, 0.15]])
    vector = gymnasium.make_vec("rl100/PushT-v0", num_envs=2, vectorization_mode=mode, **options)
    try:
        start, _ = vector.reset(seed=[5, 6])
        for _ in range(3):
            end, rewards, terminated, truncated, infos = vector.step(actions)
    finally:
        vector.close()
    for index, seed in enumerate((5, 6)):
        single = make(robot, task, observation=kind)
        first, _ = single.reset(seed=seed)
        for _ in range(3):
            last, *outcome, info = single.step(actions[index])
        np.testing.assert_array_equal(start[key][index], first[key])
        for part in (key, "proprio"):
            np.testing.assert_array_equal(end[part][index], last[part])
        assert [rewards[index], terminated[index], truncated[index]] == outcome
        np.testing.assert_array_equal(infos["executed"][index], info["executed"])
    assert not np.array_equal(start["proprio"], end["proprio"])


@pytest.mark.parametrize("options", [{"observation": "pixels"}, {"render_every": 0}])
def test_an_option_out_of_range_is_refused(robot, task, options):
    with pytest.raises(ConfigError, match="render_every >= 1"):
        make(robot, task, **options)


@pytest.mark.filterwarnings("ignore:.*Box observation space.*infinity:UserWarning")
def test_gymnasiums_own_checks_pass_for_images_and_proprioception(
    seeing_robot, image_task, robot, state_task
):
    check_env(make(seeing_robot, image_task), skip_render_check=True)
    check_env(make(robot, state_task), skip_render_check=True)


def test_an_image_task_observes_what_its_cloud_node_would_give(seeing_robot, image_task):
    env = make(seeing_robot, image_task)
    observation, info = env.reset(seed=3)
    camera = seeing_robot.camera("color")
    expected = sight_maker(image_task, seeing_robot).of_pixels(env.episode.colour(camera))
    np.testing.assert_array_equal(observation["image"], expected)
    assert info["frame_is_new"]
    assert set(observation) == {"proprio", "image"}


def test_the_episode_is_the_same_whatever_is_observed(
    robot, task, seeing_robot, image_task, state_task
):
    traces = [
        play(make(*each), 6, seed=4)
        for each in ((robot, task), (seeing_robot, image_task), (robot, state_task))
    ]
    for step in range(7):
        poses = {trace[step][2]["object_pose"].tobytes() for trace in traces}
        assert len(poses) == 1


def test_images_repeat_for_a_seed_and_only_looked_at_frames_are_rendered(seeing_robot, image_task):
    every = play(make(seeing_robot, image_task), 5, seed=2)
    some = play(make(seeing_robot, image_task, render_every=4), 5, seed=2)
    new = [info["frame_is_new"] for _, _, info in some]
    assert new == [True, False, False, True, True, False]
    for is_new, (full, _, _), (sparse, _, _) in zip(new, every, some, strict=True):
        assert np.array_equal(full["image"], sparse["image"]) == is_new


def test_proprioception_alone_is_a_cloud_of_no_points(robot, state_task):
    observation, _ = make(robot.model_copy(update={"cameras": ()}), state_task).reset(seed=0)
    assert observation["cloud"].shape == (0, 3)
    assert observation["proprio"].shape == (3 + len(robot.joints),)


def test_an_image_task_needs_a_colour_camera(robot, image_task):
    with pytest.raises(ConfigError, match="of kind color"):
        make(robot, image_task)
