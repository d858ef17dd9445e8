# SPDX-License-Identifier: Apache-2.0
"""How episodes are set apart for critics that judge."""

import pytest
import torch
from toy import make_episode

from rl100_learner.training.encoding import rows_of
from rl100_learner.training.offline_run import _drawn

OWN = [make_episode(index, steps=5 + index) for index in range(6)]
DATA = [*OWN, *(make_episode(index) for index in range(10, 20))]


@pytest.mark.parametrize(("share", "own", "others"), [(0.5, 3, 5), (0.01, 1, 0), (0.99, 5, 10)])
def test_a_share_of_own_and_other_episodes_is_drawn(share, own, others):
    drawn = _drawn(DATA, OWN, share, seed=0)
    assert len(drawn & {episode.digest for episode in OWN}) == own
    assert len(drawn) == own + others
    assert drawn == _drawn(DATA, OWN, share, seed=0)


def test_rows_are_those_of_the_chosen_episodes():
    rows = rows_of(OWN, {OWN[1].digest})
    assert rows.nonzero().flatten().tolist() == list(range(5, 11))
    assert len(rows) == sum(map(len, OWN))
    assert rows.dtype is torch.bool
