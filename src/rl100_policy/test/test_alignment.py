# SPDX-License-Identifier: Apache-2.0
"""Joining of streams by header stamps: which observation belongs to which action."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl100_policy.bags.alignment import align, nearest_index
from rl100_policy.core.observation import Frame, ObservationWindow

P = 100  # period; stamps below are in units of ns, only their ratios matter


def grid(steps: int, start: int = 0) -> np.ndarray:
    return (start + np.arange(steps)) * P


def without(stamps: np.ndarray, *steps: int) -> np.ndarray:
    return np.array([stamp for stamp in stamps if stamp // P not in steps], dtype=np.int64)


def test_lockstep_pairs_everything_with_its_own_stamp():
    joined = align(grid(6), grid(6), grid(5), P)
    np.testing.assert_array_equal(joined.frames, np.arange(6))
    np.testing.assert_array_equal(joined.joints, np.arange(6))
    np.testing.assert_array_equal(joined.commands, np.arange(5))
    assert joined.reaches_end
    assert joined.left_out == 0


def test_a_last_command_whose_result_was_not_seen_is_left_out_silently():
    joined = align(grid(5), grid(5), grid(5), P)
    np.testing.assert_array_equal(joined.commands, np.arange(4))
    assert joined.reaches_end
    assert joined.left_out == 0


@pytest.mark.parametrize("stream", ["joints", "frames"])
def test_a_missing_observation_ends_the_stretch_and_the_longest_is_taken(stream):
    joints, frames = grid(11), grid(11)
    if stream == "joints":
        joints = without(joints, 3)
    else:
        frames = without(frames, 3)
    joined = align(joints, frames, grid(10), P)
    # actions 0 and 1 have both observations, then 4..9: the second stretch is longer
    np.testing.assert_array_equal(joined.commands, np.arange(4, 10))
    np.testing.assert_array_equal(frames[joined.frames], np.arange(4, 11) * P)
    np.testing.assert_array_equal(joints[joined.joints], np.arange(4, 11) * P)
    assert joined.reaches_end
    assert joined.left_out == 4


def test_a_missing_command_ends_the_stretch():
    commands = without(grid(10), 6)
    joined = align(grid(11), grid(11), commands, P)
    np.testing.assert_array_equal(commands[joined.commands], np.arange(6) * P)
    assert not joined.reaches_end  # steps 7..9 were acted on and are not in it
    assert joined.left_out == 3


def test_of_equally_long_stretches_the_last_is_taken():
    commands = without(grid(7), 3)
    joined = align(grid(8), grid(8), commands, P)
    np.testing.assert_array_equal(commands[joined.commands], np.array([4, 5, 6]) * P)


def test_a_faster_camera_and_faster_joints_give_the_nearest_of_each():
    frames = np.arange(0, 1200, 33)  # 30 Hz beside 10 Hz commands
    joints = np.arange(0, 1200, 7)
    joined = align(joints, frames, grid(11), P)
    assert len(joined.commands) == 11
    assert np.abs(frames[joined.frames] - np.arange(12) * P).max() <= 16
    assert np.abs(joints[joined.joints] - frames[joined.frames]).max() <= 3


@pytest.mark.parametrize(("off", "actions"), [(50, 1), (51, 0)])
def test_nothing_beyond_half_a_period_is_joined(off, actions):
    joints = np.array([-off, P + off])
    assert len(align(joints, grid(2), grid(1), P).commands) == actions
    frames = np.array([-off, P + off])
    assert len(align(frames, frames, grid(1), P).commands) == actions


def test_one_frame_never_serves_two_observations():
    frames = np.array([0, 100, 300])
    joined = align(grid(5), frames, grid(4), P)
    assert (np.diff(joined.frames) > 0).all()


@pytest.mark.parametrize("empty", ["joints", "frames", "commands"])
def test_an_empty_stream_gives_no_action(empty):
    streams = {"joints": grid(4), "frames": grid(4), "commands": grid(3)} | {empty: grid(0)}
    joined = align(streams["joints"], streams["frames"], streams["commands"], P)
    assert len(joined.commands) == len(joined.frames) == len(joined.joints) == 0
    assert not joined.reaches_end


@given(
    st.lists(st.integers(0, 1000), unique=True).map(sorted),
    st.lists(st.integers(-50, 1050), max_size=10),
    st.integers(0, 60),
)
def test_nearest_is_the_nearest_within_tolerance(stamps, times, tolerance):
    found = nearest_index(
        np.array(stamps, dtype=np.int64), np.array(times, dtype=np.int64), tolerance
    )
    for time, index in zip(times, found, strict=True):
        distances = [abs(stamp - time) for stamp in stamps]
        best = min(distances, default=None)
        if best is None or best > tolerance:
            assert index == -1
        else:
            assert index == distances.index(best)  # the earlier of two equally near


@given(st.sets(st.integers(0, 19)), st.sets(st.integers(0, 19)), st.sets(st.integers(0, 18)))
def test_a_stretch_is_always_on_the_grid_and_in_step(no_joint, no_frame, no_command):
    joints, frames = without(grid(20), *no_joint), without(grid(20), *no_frame)
    commands = without(grid(19), *no_command)
    joined = align(joints, frames, commands, P)
    if len(joined.commands) == 0:
        return
    observed = frames[joined.frames]
    np.testing.assert_array_equal(np.diff(observed), P)
    np.testing.assert_array_equal(joints[joined.joints], observed)
    np.testing.assert_array_equal(commands[joined.commands], observed[:-1])


def test_frames_of_a_faster_camera_are_paired_as_the_window_of_the_policy_pairs_them():
    camera = np.array([round(n * 1000 / 30) for n in range(60)])
    cloud = np.zeros((4, 3), np.float32)
    window = ObservationWindow(2, P)
    for newest in camera[4:]:
        window.clear()
        for stamp in camera[camera <= newest]:
            window.push(Frame(int(stamp), cloud, np.zeros(3, np.float32)))
        (row,) = nearest_index(camera, np.array([newest - P]), P // 2)
        assert [frame.stamp_ns for frame in window.frames()] == [camera[row], newest]
