# SPDX-License-Identifier: Apache-2.0
"""Which tasks of Meta-World are used, what is observed of them, and how badly they are shown."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from rl100_policy.core.errors import ConfigError

Part = Literal["pose", "position"]


@dataclass(frozen=True)
class MetaWorldTask:
    """A task of the library and how it is used here.

    The defaults suit any of the library's tasks; what is said of a task saves constant inputs.
    """

    name: str
    """The library's, such as ``push-v3``."""
    max_periods: int = 200
    """Time limit [control periods]: about twice what the exact scripted policy needs, so that
    hesitant episodes fail and quick ones do not wait; a multiple of 8."""
    objects: tuple[Part, ...] = ("pose", "pose")
    """Of each object the library tells: its pose, or its position where it never turns or its
    quaternion is a placeholder. What the task does not have is left out."""
    goal_dim: int = 3
    """Coordinates of the goal that are told, from x on; those left out are the same in every
    episode, within 1 mm."""
    goal_is_seen: bool = False
    """Whether the goal is a thing that a camera sees, or at a fixed offset from one; if it is a
    mere point, it is in proprio beside a cloud too."""
    table_height: float = 0.0
    """Of the table's upper surface [m]."""
    level: tuple[float, float] | None = None
    """Imperfection of a demonstration is drawn from this range; see
    :class:`rl100_sim.meta_world.demonstrator.Temper`."""


_POSITION: tuple[Part, ...] = ("position",)
_POSE: tuple[Part, ...] = ("pose",)

TASKS = {
    task.name: task
    for task in (
        MetaWorldTask("push-v3", 128, _POSE, 2, level=(0.05, 0.3)),
        MetaWorldTask("pick-place-v3", 120, _POSE, 3, level=(0.1, 0.35)),
        MetaWorldTask("plate-slide-v3", 120, _POSITION, 2, True, level=(0.1, 0.6)),
        MetaWorldTask("sweep-into-v3", 120, _POSE, 0, True, 0.05, level=(0.1, 0.35)),
        MetaWorldTask("button-press-topdown-v3", 128, _POSITION, 2, True, level=(0.3, 0.8)),
        MetaWorldTask("drawer-open-v3", 176, _POSITION, 1, True, level=(0.1, 0.5)),
        MetaWorldTask("door-open-v3", 168, _POSE, 2, True, level=(0.1, 0.55)),
        MetaWorldTask("hammer-v3", 144, ("pose", "position"), 0, True, level=(0.1, 0.35)),
        MetaWorldTask("peg-insert-side-v3", 200, _POSE, 2, True, level=(0.05, 0.2)),
    )
}
"""Tasks whose figures are in docs/benchmarks.md, by name."""


def find_task(task: str | MetaWorldTask) -> MetaWorldTask:
    """The task of this name, or the one given.

    Raises:
        ConfigError: If no task has this name; names the nearest.
    """
    if isinstance(task, MetaWorldTask):
        return task
    if task in TASKS:
        return TASKS[task]
    near = get_close_matches(task, TASKS) or sorted(TASKS)
    raise ConfigError(
        f"expected the name of a Meta-World task in {__name__}.TASKS, got {task!r}; near it: "
        f"{', '.join(near)}. Another task of the library is given as MetaWorldTask(name)"
    )
