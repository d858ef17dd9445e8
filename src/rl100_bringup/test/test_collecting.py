# SPDX-License-Identifier: Apache-2.0
"""Roll-outs in the vectorised simulation."""

import pytest
import torch

from rl100_bringup.collecting import simulated_collector
from rl100_learner.accelerator import threads
from rl100_policy.core.config import BenchmarkTask

pytestmark = pytest.mark.sim

TASK = BenchmarkTask(
    name="push-v3", suite="Meta-World", proprio_dim=9, action_dim=4, control_period=0.0125
)


def test_whoever_acts_decides_with_as_many_threads_as_told_and_no_longer():
    """Regression: it decided with one thread per processor, which waited for each other."""
    with threads(2):
        with simulated_collector(
            TASK, None, 8, 1, 0.99, lambda *_: None, environments=1, decision_threads=1
        ):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
