# SPDX-License-Identifier: Apache-2.0
"""Windows: alignment of frames and actions, padding at both ends, subsets of points."""

import dataclasses

import numpy as np
import pytest
import torch
from toy import N_POINTS, ROBOT, TASK, make_episode

from rl100_learner.data.store import load_stored_episodes, save_episodes
from rl100_learner.training.imitation_run import policy_config_for
from rl100_learner.training.settings import TrainSettings
from rl100_learner.training.windows import build_windows, draw_points, encode_frames
from rl100_policy.core.config import ImageObservation, StateObservation
from rl100_policy.core.errors import BagError, ConfigError
from rl100_policy.core.policy import DiffusionPolicy


@pytest.fixture
def config():
    return policy_config_for(TASK, ROBOT, TrainSettings())


def numbered_episode(index: int, steps: int):
    """Frame t has tool x = t, action t has x = t, counted from 100 * index."""
    episode = make_episode(index, steps)
    first = 100.0 * index
    proprio, actions = episode.proprio.copy(), episode.actions.copy()
    proprio[:, 0], actions[:, 0] = first + np.arange(steps + 1), first + np.arange(steps)
    return dataclasses.replace(episode, proprio=proprio, actions=actions)


def test_the_frame_at_a_stamp_goes_with_the_action_that_starts_there(config):
    windows = build_windows([numbered_episode(0, 20)], config)
    batch = windows.batch(torch.tensor([5]), N_POINTS, torch.Generator())
    assert batch.proprio[0, :, 0].tolist() == [4, 5]
    assert batch.actions[0, :, 0].tolist() == [5, 6, 7, 8, 9, 10, 11, 12]


def test_windows_repeat_the_first_frame_and_the_last_action_and_stay_inside_their_episode(config):
    windows = build_windows([numbered_episode(1, 10), numbered_episode(2, 12)], config)
    assert len(windows) == 22
    batch = windows.batch(torch.tensor([0, 9, 10, 21]), N_POINTS, torch.Generator())
    assert batch.proprio[:, :, 0].tolist() == [[100, 100], [108, 109], [200, 200], [210, 211]]
    assert batch.actions[0, :, 0].tolist() == list(range(100, 108))
    assert batch.actions[1, :, 0].tolist() == [109] * 8
    assert batch.actions[2, :, 0].tolist() == list(range(200, 208))
    assert batch.actions[3, :, 0].tolist() == [211] * 8


def test_drawn_points_are_distinct_members_of_their_own_cloud():
    clouds = torch.arange(4 * 10 * 3, dtype=torch.float32).view(4, 10, 3)
    drawn = draw_points(clouds, torch.tensor([2, 0]), 6, torch.Generator().manual_seed(0))
    for row, cloud in enumerate((2, 0)):
        members = {tuple(p) for p in clouds[cloud].tolist()}
        found = [tuple(p) for p in drawn[row].tolist()]
        assert len(set(found)) == 6
        assert set(found) <= members


def test_every_point_is_drawn_equally_often():
    clouds = torch.arange(10.0).view(1, 10, 1).expand(1, 10, 3)
    drawn = draw_points(
        clouds, torch.zeros(4000, dtype=torch.int64), 5, torch.Generator().manual_seed(1)
    )
    counts = torch.bincount(drawn[..., 0].long().flatten(), minlength=10)
    # Hypergeometric halves: 2000 +- 4 standard deviations of sqrt(4000) / 2.
    assert int(counts.min()) > 1870
    assert int(counts.max()) < 2130


def test_encoded_frames_make_the_conditions_of_their_windows(config):
    windows = build_windows([make_episode(0), make_episode(1)], config)
    torch.manual_seed(0)
    policy = DiffusionPolicy(config)
    features = encode_frames(policy, windows, N_POINTS, 1, torch.Generator().manual_seed(2))
    batch = windows.batch(torch.tensor([0, 7, 20]), N_POINTS, torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = policy.encode(batch.visual, batch.proprio)
    torch.testing.assert_close(
        features[0, windows.frame_rows[[0, 7, 20]]].flatten(1), expected, rtol=1e-4, atol=1e-5
    )


def test_no_episodes_or_foreign_ones_are_refused(config):
    with pytest.raises(ConfigError, match="no episodes"):
        build_windows([], config)
    fewer = dataclasses.replace(make_episode(0), visual=make_episode(0).visual[:, :8])
    with pytest.raises(ConfigError, match=r"reach_0.*another task"):
        build_windows([fewer], config)


@pytest.mark.parametrize(
    ("field", "value", "match"),
    [
        ("actions", np.zeros((13, 2), np.float32), "visual"),
        ("proprio", np.zeros((13, 3), np.float64), "proprio should be float32"),
        ("visual", np.full((13, 4, 3), np.nan, np.float32), "non-finite"),
        ("stamps_ns", np.zeros(13, np.int64), "increase strictly"),
    ],
)
def test_inconsistent_episodes_are_refused(field, value, match):
    with pytest.raises(BagError, match=match):
        dataclasses.replace(make_episode(0), **{field: value})


def test_digest_is_the_bag_hash_if_known_and_otherwise_follows_the_content():
    episode = make_episode(0)
    assert dataclasses.replace(episode, source_sha256="ab").digest == "ab"
    assert episode.digest == make_episode(0).digest
    assert episode.digest != dataclasses.replace(episode, outcome="failure").digest


SEEN_TASK = TASK.model_copy(update={"observation": ImageObservation(height=8, width=12)})
BLIND_TASK = TASK.model_copy(update={"observation": StateObservation()})


def seen_episode(index: int, steps: int = 12):
    """Every pixel of frame t is 10 index + t."""
    level = (10 * index + np.arange(steps + 1, dtype=np.uint8))[:, None, None, None]
    pixels = np.broadcast_to(level, (steps + 1, 8, 12, 3))
    return dataclasses.replace(make_episode(index, steps), visual=pixels)


def test_images_stay_bytes_until_a_batch_is_encoded():
    config = policy_config_for(SEEN_TASK, ROBOT, TrainSettings())
    windows = build_windows([seen_episode(0), seen_episode(1)], config)
    assert (windows.visual.dtype, windows.visual.shape) == (torch.uint8, (26, 8, 12, 3))
    batch = windows.batch(torch.tensor([5, 12]), N_POINTS, torch.Generator())
    assert (batch.visual.dtype, batch.visual.shape) == (torch.uint8, (2, 2, 8, 12, 3))
    assert batch.visual[:, :, 0, 0, 0].tolist() == [[4, 5], [10, 10]]


@pytest.mark.parametrize(
    ("task", "episode"),
    [
        (SEEN_TASK, seen_episode),
        (
            BLIND_TASK,
            lambda index: dataclasses.replace(
                make_episode(index), visual=np.zeros((13, 0, 3), np.float32)
            ),
        ),
    ],
    ids=["image", "state"],
)
def test_frames_without_points_are_encoded_once_however_many_copies_are_asked_for(task, episode):
    config = policy_config_for(task, ROBOT, TrainSettings())
    windows = build_windows([episode(0), episode(1)], config)
    torch.manual_seed(0)
    policy = DiffusionPolicy(config)
    policy.normalizer.fit(actions=windows.actions, proprio=windows.proprio, clouds=windows.visual)
    features = encode_frames(policy, windows, N_POINTS, 4, torch.Generator().manual_seed(2))
    assert features.shape == (1, 26, policy.encoder.frame_dim)
    batch = windows.batch(torch.tensor([3, 20]), N_POINTS, torch.Generator())
    with torch.no_grad():
        expected = policy.encode(batch.visual, batch.proprio)
    found = features[0, windows.frame_rows[[3, 20]]].flatten(1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_an_episode_that_was_seen_otherwise_is_refused():
    config = policy_config_for(SEEN_TASK, ROBOT, TrainSettings())
    with pytest.raises(ConfigError, match=r"reach_0.*\(8, 12, 3\).*\(32, 3\).*another task"):
        build_windows([make_episode(0)], config)


def test_episodes_of_images_come_back_from_their_file(tmp_path):
    save_episodes(tmp_path / "episodes.npz", [seen_episode(0), seen_episode(1, steps=5)])
    for mine, back in zip(
        [seen_episode(0), seen_episode(1, steps=5)],
        load_stored_episodes(tmp_path / "episodes.npz"),
        strict=True,
    ):
        assert back.visual.dtype == np.uint8
        assert back.digest == mine.digest
