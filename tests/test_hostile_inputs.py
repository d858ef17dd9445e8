# SPDX-License-Identifier: Apache-2.0
"""No hostile input makes the gate break a limit; ``bench/hostile.py`` sends a million."""

import pytest
from hostile import settings, torture

from rl100_policy.core.config import WorkspaceBox

KINDS = settings()


@pytest.mark.parametrize("kind", range(len(KINDS)))
def test_no_command_breaks_a_limit(kind):
    tally = torture(*KINDS[kind], inputs=1500, seed=kind)
    assert not tally.broken
    assert {"HELD_NON_FINITE", "HELD_MALFORMED", "HELD_STATE", "HELD_STALE"} <= set(tally.flags)


ROBOT, TASK = KINDS[1]


@pytest.mark.parametrize(
    ("limit", "tighter"),
    [
        ("position", {"position_margin": 0.9}),
        ("velocity", {"velocity_scale": 0.1}),
        ("acceleration", {"acceleration_limits": (5.0,) * 7}),
        ("jerk", {"jerk_limits": (100.0,) * 7}),
        ("distance", {"obstacles": KINDS[-1][0].obstacles}),
    ],
)
def test_the_judge_notices_each_limit(limit, tighter):
    tally = torture(ROBOT, TASK, 1500, 0, judged_as=ROBOT.model_copy(update=tighter))
    assert any(told.startswith(limit) for told in tally.broken)


def test_the_judge_notices_the_box():
    wide = WorkspaceBox(low=(0.2, -0.4, 0.0), high=(0.8, 0.4, 0.4))
    gates_task = TASK.model_copy(update={"tool_workspace": wide})
    tally = torture(ROBOT, gates_task, 1500, 0, judged_by=TASK)
    assert any(told.startswith("box") for told in tally.broken)
