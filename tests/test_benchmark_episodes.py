# SPDX-License-Identifier: Apache-2.0
"""A demonstration of a benchmark task is an episode of the learner, field by field."""

from dataclasses import fields

import pytest

from rl100_learner.data.episode import Episode
from rl100_sim.meta_world import Demonstration, MetaWorldEnv, MetaWorldTask, demonstrate


@pytest.mark.parametrize("observation", ["state", "cloud"])
def test_a_demonstration_becomes_an_episode(observation):
    task = MetaWorldTask("plate-slide-v3", max_periods=4)
    demonstration = demonstrate(
        MetaWorldEnv(task, observation=observation, n_points=32), 0, level=0.1
    )
    shared = {field.name for field in fields(Episode)} & {f.name for f in fields(Demonstration)}
    episode = Episode(**{name: getattr(demonstration, name) for name in shared})
    assert len(episode) == len(demonstration) == 4
    assert episode.outcome == "failure"
    assert not demonstration.success
