# SPDX-License-Identifier: Apache-2.0
"""What each episode of a foreign recording must hold."""

from pathlib import Path

import numpy as np
import pytest

from rl100_policy.bags.foreign.cutting import Span
from rl100_policy.bags.foreign.drafts import Commands, Draft
from rl100_policy.bags.foreign.episode_contract import EpisodeContract
from rl100_policy.bags.foreign.findings import FrameCheck, Status
from rl100_policy.bags.foreign.mapping import LeaderAction
from rl100_policy.core.config import load_robot, load_task
from rl100_policy.core.gate_result import CommandSource

CONFIG = Path(__file__).parents[2] / "rl100_bringup" / "config"
PERIOD_NS = 50_000_000
ROBOT = load_robot(CONFIG / "robots" / "panda.yaml").model_copy(update={"control_period": 0.05})
TASK = load_task(CONFIG / "tasks" / "push_t.yaml")
T = 60


def still(unknown: int) -> Draft:
    """An arm at rest at 20 Hz; nothing is known of the first commands and of the last."""
    grid = (1 + np.arange(T, dtype=np.int64)) * PERIOD_NS
    positions = np.tile(ROBOT.home, (T, 1))
    actions = np.zeros((T, TASK.action.dim))
    actions[:unknown] = actions[-1] = np.nan
    sources = (CommandSource.TELEOP,) * T
    commands = Commands(grid, positions, positions, actions, np.zeros((T, 6)), sources, {})
    return Draft(Span(int(grid[0]), int(grid[-1]), ()), grid, positions, grid, commands, PERIOD_NS)


@pytest.mark.parametrize(("reached_after", "status"), [(0.2, Status.OK), (0.1, Status.WARNING)])
def test_a_command_that_is_reached_later_is_unknown_for_that_long(reached_after, status):
    """Regression: periods were counted as if every arm were commanded ten times a second."""
    action = LeaderAction(source="leader", topic="leader", reached_after=reached_after)
    draft = still(unknown=4)
    check = FrameCheck(tuple(draft.frame_ns.tolist()), T)
    found = EpisodeContract(action, ROBOT, TASK, has_camera=False).check(draft, check)
    assert {each.item: each.status for each in found}["command"] is status


def test_only_the_longest_stretch_without_a_gap_is_used():
    draft = still(unknown=0)
    frames = np.delete(draft.frame_ns, 20)
    assert draft.usable(draft.frame_ns) == T - 1  # the last command is not known
    assert draft.usable(frames) == T - 1 - 21
