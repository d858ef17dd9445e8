# SPDX-License-Identifier: Apache-2.0
"""Observation windows: order, gaps, and the start of an episode."""

import numpy as np
import pytest

from rl100_policy.core.config import PointObservation, StateObservation
from rl100_policy.core.errors import ObservationError
from rl100_policy.core.observation import (
    Frame,
    FrameAssembler,
    ObservationWindow,
    proprioception,
    stack,
)

PERIOD = 100


def frame(stamp, value=0.0):
    return Frame(stamp, np.full((4, 3), value, np.float32), np.full(3, value, np.float32))


def stamps(window):
    return [item.stamp_ns for item in window.frames()]


def test_the_window_holds_the_last_frames_oldest_first():
    window = ObservationWindow(3, PERIOD)
    for stamp in (100, 200, 300, 400):
        window.push(frame(stamp))
    assert stamps(window) == [200, 300, 400]


def test_the_first_frame_of_an_episode_stands_in_for_those_before_it():
    window = ObservationWindow(3, PERIOD)
    window.push(frame(100))
    window.push(frame(200))
    assert stamps(window) == [100, 100, 200]


def test_of_a_faster_camera_the_frames_one_period_apart_are_taken():
    """Regression: at 30 Hz the policy saw 33 ms where it had learned from 100 ms."""
    window = ObservationWindow(3, PERIOD)
    for stamp in (0, 33, 67, 100, 133, 167, 200, 233):
        window.push(frame(stamp))
    assert stamps(window) == [33, 133, 233]
    assert window.interval_ns == 33


@pytest.mark.parametrize(("gap", "kept"), [(150, [100, 250]), (151, [251, 251])])
def test_a_gap_of_more_than_one_and_a_half_periods_begins_anew(gap, kept):
    window = ObservationWindow(2, PERIOD)
    window.push(frame(100))
    window.push(frame(100 + gap))
    assert stamps(window) == kept


@pytest.mark.parametrize("stamp", [100, 50])
def test_a_frame_that_is_not_newer_is_refused_and_changes_nothing(stamp):
    window = ObservationWindow(2, PERIOD)
    window.push(frame(100))
    with pytest.raises(ObservationError, match="not newer"):
        window.push(frame(stamp))
    assert stamps(window) == [100, 100]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_frame_that_is_not_finite_is_refused(value):
    window = ObservationWindow(2, PERIOD)
    with pytest.raises(ObservationError, match="NaN or infinity"):
        window.push(frame(100, value))
    assert window.newest_ns is None


def test_an_empty_window_has_no_frames():
    with pytest.raises(ObservationError, match="no frame"):
        ObservationWindow(2, PERIOD).frames()


def test_stacking_keeps_the_order():
    clouds, proprio = stack([frame(100, 1.0), frame(200, 2.0)])
    assert clouds.shape == (2, 4, 3)
    np.testing.assert_array_equal(proprio[:, 0], [1.0, 2.0])


def test_proprioception_is_tool_position_then_joints():
    config = PointObservation(proprio=("tool_position", "joint_positions"))
    vector = proprioception(config, np.array([4.0, 5.0]), lambda q: np.array([q[0], 2.0, 3.0]))
    np.testing.assert_array_equal(vector, [4.0, 2.0, 3.0, 4.0, 5.0])
    assert config.proprio_dim(2) == len(vector)


def assembler(tolerance=0):
    return FrameAssembler(
        PointObservation(), lambda q: q[:3], period_ns=PERIOD, tolerance_ns=tolerance
    )


CLOUD = np.zeros((4, 3), np.float32)


def test_a_frame_is_complete_when_both_parts_are_there_in_either_order():
    first, second = assembler(), assembler()
    assert first.add_visual(100, CLOUD) == []
    (a,) = first.add_joint_state(100, np.arange(7.0))
    assert second.add_joint_state(100, np.arange(7.0)) == []
    (b,) = second.add_visual(100, CLOUD)
    assert a.stamp_ns == b.stamp_ns == 100
    np.testing.assert_array_equal(a.proprio, [0.0, 1.0, 2.0])


@pytest.mark.parametrize(("offset", "complete"), [(40, True), (50, True), (51, False)])
def test_the_nearest_joint_state_within_tolerance_is_taken(offset, complete):
    joined = assembler(tolerance=50)
    joined.add_joint_state(100 + offset, np.zeros(7))
    assert bool(joined.add_visual(100, CLOUD)) is complete


def test_a_cloud_that_can_get_no_joint_state_is_given_up_and_the_next_passes():
    joined = assembler()
    joined.add_visual(100, CLOUD)
    joined.add_visual(300, CLOUD)
    (frame_,) = joined.add_joint_state(300, np.zeros(7))
    assert frame_.stamp_ns == 300
    assert joined.given_up == 1


def test_a_clock_set_back_forgets_what_was_before():
    joined = assembler()
    joined.add_visual(1000, CLOUD)
    joined.add_joint_state(999, np.zeros(7))
    joined.add_joint_state(100, np.zeros(7))
    (frame_,) = joined.add_visual(100, CLOUD)
    assert frame_.stamp_ns == 100


def test_a_clock_set_back_begins_a_new_window():
    """Regression: after a restart of the simulator every frame was refused."""
    window = ObservationWindow(2, PERIOD)
    window.push(frame(100_000))
    window.push(frame(200))
    assert stamps(window) == [200, 200]


def test_where_there_is_nothing_to_see_every_joint_state_is_a_frame():
    joined = FrameAssembler(StateObservation(), lambda q: q[:3], period_ns=PERIOD, tolerance_ns=0)
    for stamp in (100, 200):
        (found,) = joined.add_joint_state(stamp, np.full(4, float(stamp)))
        assert (found.stamp_ns, found.visual.shape) == (stamp, (0, 3))
        np.testing.assert_array_equal(found.proprio, [stamp] * 3)
    assert joined.given_up == 0


def test_images_are_joined_and_stacked_as_bytes():
    joined = assembler()
    joined.add_joint_state(100, np.zeros(3))
    (found,) = joined.add_visual(100, np.full((4, 6, 3), 200, np.uint8))
    window = ObservationWindow(2, PERIOD)
    window.push(found)
    visual, _ = stack(window.frames())
    assert (visual.shape, visual.dtype) == ((2, 4, 6, 3), np.uint8)
