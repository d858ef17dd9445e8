# SPDX-License-Identifier: Apache-2.0
"""Start states of different purposes and runs never meet."""

from itertools import pairwise

import pytest

from rl100_learner.training.seeds import BLOCK, Purpose, episode_seeds
from rl100_policy.core.errors import ConfigError


def test_blocks_of_all_purposes_and_runs_are_apart_and_fit_a_message():
    blocks = sorted(
        (episode_seeds(purpose, run, 0, BLOCK) for purpose in Purpose for run in (0, 1, 100, 999)),
        key=lambda block: block.start,
    )
    assert all(one.stop <= other.start for one, other in pairwise(blocks))
    assert blocks[0].start > BLOCK, "low seeds are a person's"
    assert blocks[-1].stop <= 2**31


def test_later_episodes_of_a_run_follow_the_earlier_ones():
    first, later = (episode_seeds(Purpose.TRIALS, 3, at, 20) for at in (0, 20))
    assert first.stop == later.start
    assert len(later) == 20


def test_a_run_that_needs_more_than_its_block_is_refused():
    with pytest.raises(ConfigError, match="100000 start states for online, and episode 100001"):
        episode_seeds(Purpose.ONLINE, 0, BLOCK - 1, 2)
